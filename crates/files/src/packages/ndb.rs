//! rpm's own database, `Packages.db`: pages of slots, each with the place of one header.
//!
//! All numbers are little-endian. A transaction writes the new header first and then its slot, so what the slots say is
//! whole at each moment.

use super::{DatabaseError, Result, read_exact};
use crate::{
    bytes::{has, le32},
    tree::Tree,
};

const PAGE_BYTES: u64 = 4096;
const SLOT_BYTES: usize = 16;
/// Places and lengths are counted in these.
const BLOCK_BYTES: u64 = 16;
const HEAD_BYTES: usize = 16;
const TAIL_BYTES: usize = 12;
/// A page of slots has 256; that is a million packages.
const SLOT_PAGES_MAX: u32 = 4096;
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Calls `each` with all headers of a database.
pub(super) fn headers(tree: &dyn Tree, inode: u64, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut page = vec![0; PAGE_BYTES as usize];
    read_exact(tree, inode, 0, &mut page)?;
    if !has(&page, 0, b"RpmP") || le32(&page, 4) != 0 {
        return Err(DatabaseError::Damaged("no database of rpm of this kind"));
    }
    let pages = le32(&page, 12);
    if pages > SLOT_PAGES_MAX {
        return Err(DatabaseError::TooLarge("its list of slots"));
    }
    for number in 0..pages {
        if number > 0 {
            read_exact(tree, inode, u64::from(number) * PAGE_BYTES, &mut page)?;
        }
        // The file's own header takes the place of the first two slots.
        let skip = if number == 0 { 2 } else { 0 };
        for slot in page.chunks_exact(SLOT_BYTES).skip(skip) {
            let (package, place, blocks) = (le32(slot, 4), le32(slot, 8), le32(slot, 12));
            if !has(slot, 0, b"Slot") {
                return Err(DatabaseError::Damaged("a slot that makes no sense"));
            }
            if package != 0 {
                each(&header(tree, inode, package, u64::from(place), u64::from(blocks))?)?;
            }
        }
    }
    Ok(())
}

/// The header of a package, verified.
fn header(tree: &dyn Tree, inode: u64, package: u32, place: u64, blocks: u64) -> Result<Vec<u8>> {
    let damaged = DatabaseError::Damaged("a header that is not where its slot says, or not whole");
    let bytes = blocks * BLOCK_BYTES;
    if bytes > HEADER_BYTES_MAX {
        return Err(DatabaseError::TooLarge("a header"));
    }
    let len = usize::try_from(bytes).unwrap_or(0);
    let said = tree.metadata(inode)?.size_bytes;
    if len < HEAD_BYTES + TAIL_BYTES || (place * BLOCK_BYTES).checked_add(bytes).is_none_or(|end| end > said)
    {
        return Err(damaged);
    }
    let mut blob = vec![0; len];
    read_exact(tree, inode, place * BLOCK_BYTES, &mut blob)?;
    let (covered, tail) = blob.split_at(len - TAIL_BYTES);
    let header_bytes = le32(covered, 12);
    let is_whole = has(covered, 0, b"BlbS")
        && le32(covered, 4) == package
        && has(tail, 8, b"BlbE")
        && le32(tail, 4) == header_bytes
        && le32(tail, 0) == adler32(covered);
    let header = covered.get(HEAD_BYTES..).and_then(|rest| rest.get(..header_bytes as usize));
    header.filter(|_| is_whole).map(<[u8]>::to_vec).ok_or(damaged)
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    // So many bytes cannot overflow the sums.
    for part in bytes.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65521, b % 65521);
    }
    b << 16 | a
}
