//! Reads a table of an SQLite database, with its write-ahead log, and writes nothing.
//!
//! SQLite's own library is written in C, and its files come from a guest here; what is needed of it is a walk over one
//! table. The format is <https://www.sqlite.org/fileformat2.html>; section numbers below are its.

use std::collections::BTreeMap;

use super::{DatabaseError, Result, System, read_exact};
use crate::{
    bytes::{be16, be32, byte, has},
    tree::Tree,
};

/// Pages of a table within each other; a table of 2^32 pages has fewer.
const DEPTH_MAX: usize = 20;
const ROW_BYTES_MAX: u64 = 64 << 20;
const LOG_BYTES_MAX: u64 = 1 << 30;
const SCHEMA_PAGE: u32 = 1;

/// Calls `each` with the first blob of each row of a table. Returns false if there is no such database.
///
/// # Errors
/// When it is damaged, too large, or in the middle of a transaction of which a rollback journal tells.
pub(super) fn blobs(
    system: &System<'_>,
    path: &str,
    table: &str,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let tree = system.tree;
    let Some(file) = system.find(path)? else { return Ok(false) };
    let log = system.find(&format!("{path}-wal"))?;
    if let Some(journal) = system.find(&format!("{path}-journal"))? {
        // One that is complete has no length, or zeroes where its mark was.
        let mut mark = [0; 8];
        if tree.read(journal, 0, &mut mark)? == mark.len() && mark != [0; 8] {
            return Err(DatabaseError::Unsupported("a transaction that its journal would roll back"));
        }
    }
    let Some(database) = Database::open(tree, file, log)? else { return Ok(true) };
    let mut root = None;
    database.rows(SCHEMA_PAGE, &mut |row| {
        let columns = columns(row)?;
        let is = |at: usize, what: &str| columns.get(at).is_some_and(|value| value.bytes == what.as_bytes());
        if is(0, "table") && is(1, table) {
            root = columns.get(3).and_then(Value::integer);
        }
        Ok(())
    })?;
    let root = root.and_then(|root| u32::try_from(root).ok());
    let Some(root) = root else { return Err(DatabaseError::Damaged("it has no list of packages")) };
    database.rows(root, &mut |row| {
        let columns = columns(row)?;
        let blob = columns.iter().find(|value| value.is_blob);
        each(blob.ok_or(DatabaseError::Damaged("a row without a header"))?.bytes)
    })?;
    Ok(true)
}

struct Database<'a> {
    tree: &'a dyn Tree,
    file: u64,
    page_bytes: usize,
    /// What of a page its structures may use.
    usable: usize,
    pages: u32,
    /// The write-ahead log, and where in it the newest committed version of a page lies.
    log: Option<(u64, BTreeMap<u32, u64>)>,
}

impl<'a> Database<'a> {
    /// `None` if nothing was ever committed to it.
    fn open(tree: &'a dyn Tree, file: u64, log: Option<u64>) -> Result<Option<Database<'a>>> {
        let size = tree.metadata(file)?.size_bytes;
        let mut log = log.map(|log| Frames::read(tree, log)).transpose()?.flatten();
        if let Some(frames) = &mut log {
            frames.places.retain(|page, _| *page <= frames.pages);
        }
        let mut start = [0; 100];
        let first = log.as_ref().and_then(|log| Some((log.inode, *log.places.get(&SCHEMA_PAGE)?)));
        let (from, at) = first.unwrap_or((file, 0));
        if size == 0 && first.is_none() {
            return Ok(None);
        }
        read_exact(tree, from, at, &mut start)?;
        if !has(&start, 0, b"SQLite format 3\0") {
            return Err(DatabaseError::Damaged("no SQLite database"));
        }
        let page_bytes = page_bytes(u32::from(be16(&start, 16)))?;
        let usable = page_bytes - usize::from(start[20]);
        if usable < 480 {
            return Err(DatabaseError::Damaged("pages that have no room"));
        }
        if log.as_ref().is_some_and(|log| log.page_bytes != page_bytes) {
            return Err(DatabaseError::Damaged("a log with pages of another size"));
        }
        let in_file = u32::try_from(size / page_bytes as u64).unwrap_or(u32::MAX);
        let pages = log.as_ref().map_or(in_file, |log| log.pages);
        let log = log.map(|log| (log.inode, log.places));
        Ok(Some(Database { tree, file, page_bytes, usable, pages, log }))
    }

    fn page(&self, number: u32) -> Result<Vec<u8>> {
        if number == 0 || number > self.pages {
            return Err(DatabaseError::Damaged("a page that there is not"));
        }
        let mut page = vec![0; self.page_bytes];
        let in_log = self.log.as_ref().and_then(|(log, places)| Some((*log, *places.get(&number)?)));
        let in_file = (self.file, u64::from(number - 1) * self.page_bytes as u64);
        let (from, at) = in_log.unwrap_or(in_file);
        read_exact(self.tree, from, at, &mut page)?;
        Ok(page)
    }

    /// Calls `each` with the rows of a table (1.6). A page is met at most once in a sound one, so no more pages are read
    /// than there are.
    fn rows(&self, root: u32, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const LEAF: u8 = 0x0d;
        const INTERIOR: u8 = 0x05;
        let damaged = DatabaseError::Damaged("a page of a table that makes no sense");
        let mut left = u64::from(self.pages);
        let mut waiting = vec![(root, 1)];
        while let Some((number, depth)) = waiting.pop() {
            left = left.checked_sub(1).filter(|_| depth <= DEPTH_MAX).ok_or_else(|| damaged.clone())?;
            let page = self.page(number)?;
            let head = if number == SCHEMA_PAGE { 100 } else { 0 };
            let (kind, cells) = (byte(&page, head), usize::from(be16(&page, head + 3)));
            let pointers = head + if kind == INTERIOR { 12 } else { 8 };
            if !matches!(kind, LEAF | INTERIOR) || pointers + 2 * cells > self.usable {
                return Err(damaged);
            }
            let cell = |at: usize| page.get(usize::from(be16(&page, pointers + 2 * at))..self.usable);
            if kind == INTERIOR {
                let mut below = vec![be32(&page, head + 8)];
                for at in (0..cells).rev() {
                    below.push(be32(cell(at).ok_or_else(|| damaged.clone())?, 0));
                }
                waiting.extend(below.into_iter().map(|page| (page, depth + 1)));
                continue;
            }
            for at in 0..cells {
                let row = cell(at).and_then(|cell| {
                    let (bytes, rest) = varint(cell)?;
                    let (_, rest) = varint(rest)?;
                    Some((bytes, rest))
                });
                let (bytes, local) = row.ok_or_else(|| damaged.clone())?;
                each(&self.row(bytes, local, &mut left)?)?;
            }
        }
        Ok(())
    }

    /// A row of which `local` is the beginning, and which goes on on other pages if it is too long (1.5, 1.6).
    fn row(&self, bytes: u64, local: &[u8], left: &mut u64) -> Result<Vec<u8>> {
        let damaged = DatabaseError::Damaged("a row that makes no sense");
        if bytes > ROW_BYTES_MAX {
            return Err(DatabaseError::TooLarge("a row"));
        }
        let (bytes, usable) = (usize::try_from(bytes).unwrap_or(usize::MAX), self.usable);
        let longest = usable - 35;
        let here = if bytes <= longest {
            bytes
        } else {
            let least = (usable - 12) * 32 / 255 - 23;
            let some = least + (bytes - least) % (usable - 4);
            if some <= longest { some } else { least }
        };
        let mut row = local.get(..here).ok_or_else(|| damaged.clone())?.to_vec();
        let mut next = be32(local, here);
        while row.len() < bytes {
            *left = left.checked_sub(1).ok_or_else(|| damaged.clone())?;
            let page = self.page(next)?;
            let part = (bytes - row.len()).min(usable - 4);
            row.extend_from_slice(&page[4..4 + part]);
            next = be32(&page, 0);
        }
        Ok(row)
    }
}

fn page_bytes(said: u32) -> Result<usize> {
    match if said == 1 { 1 << 16 } else { said } {
        bytes @ 512..=65536 if bytes.is_power_of_two() => Ok(bytes as usize),
        _ => Err(DatabaseError::Damaged("pages of a size that there is not")),
    }
}

/// The committed part of a write-ahead log (4).
struct Frames {
    inode: u64,
    page_bytes: usize,
    /// The pages of the database after the last commit.
    pages: u32,
    places: BTreeMap<u32, u64>,
}

impl Frames {
    /// `None` if nothing in it counts. What follows the last commit, is torn, or is left of an earlier use of the file
    /// does not, as for SQLite.
    fn read(tree: &dyn Tree, inode: u64) -> Result<Option<Frames>> {
        const HEADER_BYTES: usize = 32;
        const FRAME_HEADER_BYTES: usize = 24;
        let size = tree.metadata(inode)?.size_bytes;
        let mut header = [0; HEADER_BYTES];
        if size < HEADER_BYTES as u64 || tree.read(inode, 0, &mut header)? < HEADER_BYTES {
            return Ok(None);
        }
        let word = match be32(&header, 0) {
            0x377f_0682 => u32::from_le_bytes,
            0x377f_0683 => u32::from_be_bytes,
            _ => return Ok(None),
        };
        let mut sum = (0, 0);
        checksum(&mut sum, &header[..24], word);
        if be32(&header, 4) != 3_007_000 || sum != (be32(&header, 24), be32(&header, 28)) {
            return Ok(None);
        }
        if size > LOG_BYTES_MAX {
            return Err(DatabaseError::TooLarge("its write-ahead log"));
        }
        let page_bytes = page_bytes(be32(&header, 8))?;
        let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
        let (mut at, mut committed, mut pages) = (HEADER_BYTES as u64, BTreeMap::new(), None);
        let mut pending = Vec::new();
        while tree.read(inode, at, &mut frame)? == frame.len() {
            checksum(&mut sum, &frame[..8], word);
            checksum(&mut sum, &frame[FRAME_HEADER_BYTES..], word);
            if frame[8..16] != header[16..24] || sum != (be32(&frame, 16), be32(&frame, 20)) {
                break;
            }
            pending.push((be32(&frame, 0), at + FRAME_HEADER_BYTES as u64));
            let commits = be32(&frame, 4);
            if commits != 0 {
                committed.extend(pending.drain(..));
                pages = Some(commits);
            }
            at += frame.len() as u64;
        }
        Ok(pages.map(|pages| Frames { inode, page_bytes, pages, places: committed }))
    }
}

/// Goes on with a checksum (4.2) over bytes, of which there are a multiple of 8.
fn checksum(sum: &mut (u32, u32), bytes: &[u8], word: fn([u8; 4]) -> u32) {
    for pair in bytes.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = *pair else { continue };
        sum.0 = sum.0.wrapping_add(word([a, b, c, d])).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(word([e, f, g, h])).wrapping_add(sum.0);
    }
}

/// A value of a row.
struct Value<'a> {
    bytes: &'a [u8],
    is_blob: bool,
    /// The value of a kind that takes no bytes.
    constant: Option<i64>,
}

impl Value<'_> {
    fn integer(&self) -> Option<i64> {
        if self.constant.is_some() {
            return self.constant;
        }
        let (first, rest) = self.bytes.split_first().filter(|_| self.bytes.len() <= 8)?;
        Some(rest.iter().fold(i64::from(first.cast_signed()), |value, byte| value << 8 | i64::from(*byte)))
    }
}

/// The values of a row (2.1).
fn columns(row: &[u8]) -> Result<Vec<Value<'_>>> {
    const COLUMNS_MAX: usize = 64;
    let damaged = || DatabaseError::Damaged("a row that makes no sense");
    let (head_bytes, _) = varint(row).ok_or_else(damaged)?;
    let head = usize::try_from(head_bytes).ok().and_then(|bytes| row.get(..bytes)).ok_or_else(damaged)?;
    let (_, mut kinds) = varint(head).ok_or_else(damaged)?;
    let (mut values, mut rest) = (Vec::new(), &row[head.len()..]);
    while !kinds.is_empty() && values.len() < COLUMNS_MAX {
        let (kind, others) = varint(kinds).ok_or_else(damaged)?;
        kinds = others;
        let bytes = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(damaged()),
            _ => (kind - 12) / 2,
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let (value, others) = rest.split_at_checked(bytes).ok_or_else(damaged)?;
        rest = others;
        let constant = matches!(kind, 8 | 9).then(|| i64::from(kind == 9));
        values.push(Value { bytes: value, is_blob: kind >= 12 && kind.is_multiple_of(2), constant });
    }
    Ok(values)
}

/// A number of one to nine bytes, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        if at == 8 {
            return Some((value << 8 | u64::from(*byte), &bytes[9..]));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}
