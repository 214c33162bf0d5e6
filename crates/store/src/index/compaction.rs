//! Writes checkpoints, and merges index entries in doing so.
//!
//! Only index entries are ever merged; data stay where they were first written. `row` writes the trees of one stripe;
//! `mend` rebuilds from the log those of a stripe whose index is damaged. Where that is not possible, because the log is
//! damaged as well or cannot be read, the damaged trees are kept and the new versions go on top of them: damage that the
//! checksums show or that the medium reports never keeps a checkpoint from being written. Any other error in reading an
//! index file does.

mod again;
mod mend;
mod row;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    sync::Arc,
};

use bygone_model::{Micros, Seq, VolumeId};

use super::{
    checkpoint::{Checkpoint, IndexFiles},
    mended::{Lost, Mended, StripeId},
    tree::{PageRef, PageSink},
};
use crate::{
    caller::Caller,
    catalog::Catalog,
    env::{Dir, File},
    error::{Error, Result},
    format::{
        checkpoint::{
            self, Block, Footer, Name, Row, SegmentStart, StoredEvent, TABLE_STRIPES, Table, Tables, Trailer,
            TreeRef,
        },
        crc32c,
        events::{self, EventBlock},
        page::{self, BLOCK_ALIGN_BYTES, PageEntry, STRIPE_SECTORS},
        segment::Entry,
    },
};

pub(crate) use again::{Again, write_again};
pub use mend::History;

/// The lower limit of [`Contents::page_entries_max`]: with fewer entries in a page, trees would grow too high.
const PAGE_ENTRIES_MIN: usize = 8;
/// The size of the write buffer.
const WRITE_BYTES: usize = 1 << 20;

/// The contents of a new checkpoint.
pub struct Contents {
    /// The term of the holder that writes it.
    pub term: u32,
    /// The end of the previous checkpoint.
    pub start: Seq,
    /// The checkpoint covers everything up to this record.
    pub end: Seq,
    /// The time of that record.
    pub end_time: Micros,
    /// All versions of the span: after `start`, up to `end`.
    pub versions: Versions,
    /// About how many versions to merge at a time, which bounds memory.
    pub at_once: usize,
    /// The most entries in a page.
    pub page_entries_max: usize,
    /// The events of the span, in order.
    pub events: Vec<StoredEvent>,
    /// The segments of the span, in order.
    pub segments: Vec<SegmentStart>,
    /// The catalog after record `end`.
    pub catalog: Arc<Catalog>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contents({}..{}, {} versions)", self.start, self.end, self.versions.0.len())
    }
}

/// A version: volume, stripe, and the entry within the stripe.
type Version = (VolumeId, u32, PageEntry);

/// Versions, cut at stripe boundaries.
#[derive(Default)]
pub struct Versions(Vec<Version>);

impl Versions {
    /// Adds one, cut at stripe boundaries.
    pub(crate) fn add(&mut self, entry: &Entry) {
        let (mut lba, end) = (entry.lba.0, entry.end().0);
        while lba < end {
            let stripe = lba / STRIPE_SECTORS;
            let base = stripe * STRIPE_SECTORS;
            let part_end = end.min(base + STRIPE_SECTORS);
            let version = PageEntry {
                lba: (lba - base) as u32,
                sectors: (part_end - lba) as u32,
                seq: entry.seq.0,
                place: (entry.at.segment, entry.at.offset),
            };
            self.0.push((entry.volume, stripe as u32, version));
            lba = part_end;
        }
    }

    /// The memory that they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.0.capacity() * size_of::<Version>()) as u64
    }

    fn sort(&mut self) {
        self.0.sort_unstable_by_key(|&(volume, stripe, version)| (volume, stripe, version.seq));
    }
}

impl<'a> FromIterator<&'a Entry> for Versions {
    fn from_iter<I: IntoIterator<Item = &'a Entry>>(entries: I) -> Versions {
        let entries = entries.into_iter();
        let mut versions = Versions(Vec::with_capacity(entries.size_hint().0));
        entries.for_each(|entry| versions.add(entry));
        versions
    }
}

/// Writes the checkpoint after `previous` and makes it durable. The log must already be durable up to the checkpoint's
/// end. With a `history`, damaged parts of the index are rebuilt. `look` fails if another holder has taken the log
/// over.
///
/// # Errors
/// If it cannot be written, the previous index cannot be read, `caller` cancelled, or `look` failed. There is no new
/// checkpoint then; a retry may succeed.
pub fn write(
    index: &IndexFiles,
    previous: Option<&Checkpoint>,
    mut contents: Contents,
    history: Option<&dyn History>,
    caller: Caller<'_>,
    look: &dyn Fn() -> Result<()>,
) -> Result<Checkpoint> {
    let dir = &*index.dir;
    look()?;
    contents.versions.sort();
    let stripes = if history.is_some() { index.mended.damaged() } else { BTreeSet::new() };
    let (known, mended, aside) = (&index.mended, BTreeMap::new(), BTreeMap::new());
    let mut damaged = Damaged { history, known, stripes, mended, aside, lost: None };
    let (number, term) = (index.next_number(), contents.term);
    let name = Name { number, end: contents.end, end_time: contents.end_time, term };
    let file_name = name.file_name();
    let file = create(dir, &file_name)?;
    let mut out = Writer {
        file,
        name: file_name.clone(),
        number: name.number,
        buffer: Vec::new(),
        written: 0,
        page_entries_max: contents.page_entries_max,
        caller,
        look,
    };
    let result = write_all(&mut out, index, previous, &contents, &mut damaged).and_then(|footer| {
        dir.sync(checkpoint::folder()).map_err(|e| Error::io("syncing", checkpoint::folder(), e))?;
        Ok(footer)
    });
    match result {
        Ok(footer) => {
            let keep = index.keep(&name, &footer);
            index.add(name);
            for (stripe, tree) in damaged.mended {
                index.mended.add(stripe, tree, contents.end);
            }
            for (stripe, lost) in damaged.aside {
                index.mended.set_aside(stripe, lost);
            }
            Ok(Checkpoint { name, _keep: keep, footer })
        }
        Err(e) => {
            // An unfinished checkpoint is useless, and its space may be needed.
            if look().is_ok() {
                let _ = dir.remove(&file_name);
            }
            Err(e)
        }
    }
}

/// Makes a file in place of what an earlier attempt left of it: no other holder makes one of this term.
fn create(dir: &dyn Dir, file_name: &str) -> Result<Arc<dyn File>> {
    let made = match dir.create(file_name) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            match dir.remove(file_name) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", file_name, e));
                }
                _ => {}
            }
            dir.create(file_name)
        }
        made => made,
    };
    made.map_err(|e| Error::io("making", file_name, e))
}

fn write_all(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    previous: Option<&Checkpoint>,
    contents: &Contents,
    damaged: &mut Damaged<'_>,
) -> Result<Footer> {
    out.append(&checkpoint::encode_header(out.number, &index.log_id, contents.term))?;
    write_body(out, index, previous, contents, damaged)
}

/// Writes everything behind the header.
fn write_body(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    previous: Option<&Checkpoint>,
    contents: &Contents,
    damaged: &mut Damaged<'_>,
) -> Result<Footer> {
    let mut volumes: Vec<(u32, Tables)> = previous.map(|p| p.footer.volumes.clone()).unwrap_or_default();
    let mut rest = contents.versions.0.as_slice();
    let table_of = |&(volume, stripe): &StripeId| (volume, stripe / TABLE_STRIPES);
    // One table at a time, with all its stripes that changed or are damaged.
    while let Some((volume, table_index)) = rest
        .first()
        .map(|version| (version.0, version.1 / TABLE_STRIPES))
        .into_iter()
        .chain(damaged.stripes.first().map(table_of))
        .min()
    {
        let same = |v: &Version| v.0 == volume && v.1 / TABLE_STRIPES == table_index;
        let (changed, later) = rest.split_at(rest.iter().position(|v| !same(v)).unwrap_or(rest.len()));
        rest = later;
        let at = match volumes.binary_search_by_key(&volume.0, |v| v.0) {
            Ok(i) => i,
            Err(i) => {
                volumes.insert(i, (volume.0, Vec::new()));
                i
            }
        };
        let tables = &mut volumes[at].1;
        let slot = tables.binary_search_by_key(&table_index, |t| t.0);
        let mut unread = None;
        let old = match slot.map(|i| (tables[i].1, index.table(tables[i].1))) {
            Ok((at, Err(error))) if damaged.history.is_some() && error.is_index_damage() => {
                unread = Some(error).filter(|error| !error.is_lasting_damage());
                Arc::new(damaged.table(volume, table_index, at, contents.start))
            }
            Ok((_, table)) => table?,
            Err(_) => Arc::new(Table::default()),
        };
        let here = damaged.take_table(volume, table_index);
        let table = update_table(out, index, &old, (changed, here), contents, damaged)?;
        // Both the table and the log may be readable again later. Until then no other table takes its place.
        if let Some(error) = unread.filter(|_| damaged.is_any_lost_for_now(volume, table_index)) {
            return Err(error);
        }
        let place = out.append(&table.encode(out.number))?;
        let entry = (table_index, place);
        match slot {
            Ok(i) => tables[i] = entry,
            Err(i) => tables.insert(i, entry),
        }
    }
    let events = write_events(out, &contents.events)?;
    let footer = Footer {
        mended: !damaged.mended.is_empty(),
        upon: previous.map(|previous| previous.footer.upon_with(previous.name.number)).unwrap_or_default(),
        start: contents.start,
        end: contents.end,
        end_time: contents.end_time,
        volumes,
        segments: contents.segments.clone(),
        events,
        catalog: Catalog::clone(&contents.catalog),
    };
    out.finish(&footer)?;
    Ok(footer)
}

fn write_events(out: &mut Writer<'_>, all: &[StoredEvent]) -> Result<Vec<EventBlock>> {
    events::blocks(all).map(|block| Ok(EventBlock::of(out.append_json(&block)?, block))).collect()
}

fn update_table(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    old: &Table,
    (mut changed, mut broken): (&[Version], BTreeSet<StripeId>),
    contents: &Contents,
    damaged: &mut Damaged<'_>,
) -> Result<Table> {
    let mut rows = Vec::with_capacity(old.rows.len() + 1);
    let mut old_rows = old.rows.iter().peekable();
    let stripe_of = |version: &Version| (version.0, version.1);
    while let Some(id @ (_, stripe)) =
        changed.first().map(stripe_of).into_iter().chain(broken.first().copied()).min()
    {
        let (now, later) =
            changed.split_at(changed.iter().position(|v| stripe_of(v) != id).unwrap_or(changed.len()));
        changed = later;
        while let Some(row) = old_rows.next_if(|row| row.stripe < stripe) {
            rows.push(row.clone());
        }
        let before = old_rows.next_if(|row| row.stripe == stripe).map(start_of_next);
        let row = before.unwrap_or(Row { stripe, ..Row::default() });
        let is_broken = broken.remove(&id);
        let updated = match damaged.history {
            Some(_) if damaged.is_aside(id) => None,
            Some(history) if is_broken => damaged.mend(out, history, id, now, contents)?,
            history => match (row::update(out, index, row.clone(), now, contents), history) {
                (Err(error), Some(history)) if error.is_index_damage() => {
                    damaged.mend(out, history, id, now, contents)?
                }
                (updated, _) => Some(updated?),
            },
        };
        rows.push(updated.map_or_else(|| row::keep(out, index, row, now, contents), Ok)?);
    }
    rows.extend(old_rows.cloned());
    Ok(Table { rows })
}

/// The damaged stripes of the previous checkpoints, and what became of them.
struct Damaged<'a> {
    history: Option<&'a dyn History>,
    known: &'a Mended,
    /// Stripes to rebuild, whether they changed or not.
    stripes: BTreeSet<StripeId>,
    /// The rebuilt stripes with their trees; `None`: nothing was ever written there.
    mended: BTreeMap<StripeId, Option<PageRef>>,
    /// Those that could not be rebuilt.
    aside: BTreeMap<StripeId, Lost>,
    /// Not all versions could be read from the log, so no stripe can be rebuilt.
    lost: Option<Lost>,
}

impl Damaged<'_> {
    fn is_aside(&self, stripe: StripeId) -> bool {
        self.aside.contains_key(&stripe) || self.known.is_aside(stripe)
    }

    /// Stands in for the table at `at`, which is damaged. Nothing is known of its rows, so all stripes that were ever
    /// written are to be rebuilt. Until then each has a row that leads to the damage, so that a stripe that cannot be
    /// rebuilt is never taken for one that was not written. If the log does not say which were written, all have one.
    fn table(&mut self, volume: VolumeId, table: u32, at: PageRef, upto: Seq) -> Table {
        let first = table * TABLE_STRIPES;
        let all = first..first.saturating_add(TABLE_STRIPES);
        let of_table = |stripe: u32| (volume, stripe);
        // What is there has the crc of no page.
        let nothing = TreeRef { root: at, entries: 0, low: upto, high: upto };
        let row = |stripe| Row { stripe, before: Some(nothing), ..Row::default() };
        let is_aside = all.clone().any(|stripe| self.is_aside(of_table(stripe)));
        if let Some(history) = self.history.filter(|_| self.lost.is_none() && !is_aside) {
            match mend::stripes_of(history, volume, table, upto) {
                Ok(written) => {
                    let rows: Vec<Row> = written.map(row).collect();
                    self.stripes.extend(rows.iter().map(|row| of_table(row.stripe)));
                    return Table { rows };
                }
                Err(error) => self.lost = Some(Lost::by(&error)),
            }
        }
        self.stripes.retain(|stripe| stripe.0 != volume || !all.contains(&stripe.1));
        // If some are aside already, those beside them are no more lost than these.
        let lost = all.clone().find_map(|stripe| self.known.why_aside(of_table(stripe))).or(self.lost);
        let lost = lost.unwrap_or(Lost::ForNow);
        self.aside.extend(all.clone().map(|stripe| (of_table(stripe), lost)));
        Table { rows: all.map(row).collect() }
    }

    /// Whether a stripe of a table could not be rebuilt because of something that may pass.
    fn is_any_lost_for_now(&self, volume: VolumeId, table: u32) -> bool {
        let (first, end) = (table * TABLE_STRIPES, table.saturating_add(1).saturating_mul(TABLE_STRIPES));
        self.aside.range((volume, first)..(volume, end)).any(|(_, lost)| *lost == Lost::ForNow)
    }

    /// Takes the stripes of a table out of those to rebuild.
    fn take_table(&mut self, volume: VolumeId, table: u32) -> BTreeSet<StripeId> {
        let (first, end) = (table * TABLE_STRIPES, table.saturating_add(1).saturating_mul(TABLE_STRIPES));
        let of_table = self.stripes.range((volume, first)..(volume, end)).copied().collect();
        self.stripes = &self.stripes - &of_table;
        of_table
    }

    /// Rebuilds a stripe; `None`: not all of its versions can be read from the log.
    fn mend(
        &mut self,
        out: &mut Writer<'_>,
        history: &dyn History,
        id: StripeId,
        new: &[Version],
        contents: &Contents,
    ) -> Result<Option<Row>> {
        // Every stripe needs all segments, so if one cannot be rebuilt the others cannot either.
        let row = match self.lost {
            Some(lost) => Err(lost),
            None => mend::row(out, history, id, new, contents)?,
        };
        match &row {
            Ok(row) => drop(self.mended.insert(id, row.deltas.first().map(|delta| delta.root))),
            Err(lost) => {
                self.lost = Some(*lost);
                self.aside.insert(id, *lost);
            }
        }
        Ok(row.ok())
    }
}

/// The row on which the next checkpoint builds.
fn start_of_next(row: &Row) -> Row {
    match row.after {
        Some(image) => Row { stripe: row.stripe, deltas: Vec::new(), before: Some(image), after: None },
        None => row.clone(),
    }
}

/// Writes a checkpoint file from front to back.
struct Writer<'a> {
    caller: Caller<'a>,
    look: &'a dyn Fn() -> Result<()>,
    file: Arc<dyn File>,
    name: String,
    number: u32,
    buffer: Vec<u8>,
    written: u64,
    page_entries_max: usize,
}

impl Writer<'_> {
    fn flush(&mut self) -> Result<()> {
        let result = self.file.write_at(&mut [IoSlice::new(&self.buffer)], self.written);
        result.map_err(|e| Error::io("writing", &self.name, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn append_json<T: serde::Serialize>(&mut self, value: &T) -> Result<Block> {
        let bytes = serde_json::to_vec(value).map_err(|e| {
            Error::io("encoding", &self.name, std::io::Error::new(std::io::ErrorKind::InvalidData, e))
        })?;
        let offset = self.written + self.buffer.len() as u64;
        self.append(&bytes)?;
        Ok(Block { offset, len_bytes: bytes.len() as u32, crc: crc32c(&bytes) })
    }

    /// Writes footer and trailer, and makes the file durable.
    fn finish(&mut self, footer: &Footer) -> Result<()> {
        let block = self.append_json(footer)?;
        let trailer = Trailer { offset: block.offset, len_bytes: block.len_bytes, crc: block.crc };
        // The trailer follows the footer without padding.
        let end = trailer.offset + u64::from(trailer.len_bytes);
        let padding = self.written + self.buffer.len() as u64 - end;
        self.buffer.truncate(self.buffer.len() - padding as usize);
        self.flush()?;
        // A trailer implies that everything before it is durable, so it is written after a sync.
        self.file.sync().map_err(|e| Error::io("syncing", &self.name, e))?;
        // The trailer makes it count. All that it covers was durable before this look: whoever takes the log over after
        // it finds every record. Before, the next holder might have given some of these seqs to other records.
        (self.look)()?;
        self.buffer.extend_from_slice(&trailer.encode());
        self.flush()?;
        self.file.sync().map_err(|e| Error::io("syncing", &self.name, e))
    }
}

impl PageSink for Writer<'_> {
    fn entries_max(&self, level: u8) -> usize {
        page::entries_max(level).min(self.page_entries_max.max(PAGE_ENTRIES_MIN))
    }

    fn file(&self) -> u32 {
        self.number
    }

    fn append(&mut self, bytes: &[u8]) -> Result<PageRef> {
        self.caller.check()?;
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        let offset = self.written + self.buffer.len() as u64;
        assert!(offset.is_multiple_of(BLOCK_ALIGN_BYTES), "{offset} is no place for a page");
        self.buffer.extend_from_slice(bytes);
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK_ALIGN_BYTES as usize), 0);
        Ok(page::place_of(bytes, self.number, offset))
    }
}
