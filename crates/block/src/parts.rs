//! Requests that begin or end within a block, for devices that only handle whole ones.
//!
//! Invariant: the read-modify-write of a block that changes in part excludes all other writes to the same device.
//! Writes of whole blocks run concurrently.

use std::sync::{PoisonError, RwLock};

use crate::{Change, Geometry, IoError, Writing};

/// Reads whole blocks.
pub(crate) type ReadWhole<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), IoError>;

/// Excludes writes of parts of blocks from all others, for one device.
#[derive(Debug, Default)]
pub(crate) struct Parts(RwLock<()>);

/// Whether a range consists of whole blocks.
fn is_whole(geometry: &Geometry, offset: u64, len_bytes: u64) -> bool {
    let block = u64::from(geometry.block_bytes.max(1));
    offset.is_multiple_of(block) && len_bytes.is_multiple_of(block)
}

/// The range of whole blocks around a range: offset and length.
pub(crate) fn widened(geometry: &Geometry, offset: u64, len_bytes: u64) -> (u64, u64) {
    let block = u64::from(geometry.block_bytes.max(1));
    let from = offset - offset % block;
    // The size is a multiple of the block, so this stays within it.
    (from, (offset + len_bytes).next_multiple_of(block) - from)
}

/// Checks that a range lies within a device.
///
/// # Errors
/// [`IoError::Invalid`] when it does not.
pub(crate) fn check_range(geometry: &Geometry, offset: u64, len_bytes: u64) -> Result<(), IoError> {
    let fits = offset.checked_add(len_bytes).is_some_and(|end| end <= geometry.size_bytes);
    if fits { Ok(()) } else { Err(IoError::Invalid { offset, len_bytes }) }
}

/// Reads any range with `read`, which reads whole blocks.
pub(crate) fn read(
    geometry: &Geometry,
    offset: u64,
    buf: &mut [u8],
    read: impl FnOnce(u64, &mut [u8]) -> Result<(), IoError>,
) -> Result<(), IoError> {
    let len_bytes = buf.len() as u64;
    check_range(geometry, offset, len_bytes)?;
    if is_whole(geometry, offset, len_bytes) {
        return read(offset, buf);
    }
    let (from, len) = widened(geometry, offset, len_bytes);
    let mut blocks = vec![0; len as usize];
    read(from, &mut blocks)?;
    let skip = (offset - from) as usize;
    buf.copy_from_slice(&blocks[skip..skip + buf.len()]);
    Ok(())
}

impl Parts {
    /// Applies writings of any ranges in order, with `write`, which writes whole blocks, and `read`, which reads one.
    pub(crate) fn write(
        &self,
        geometry: &Geometry,
        writings: &[Writing<'_>],
        read: ReadWhole<'_>,
        write: &dyn Fn(&[Writing<'_>]) -> Result<(), IoError>,
    ) -> Result<(), IoError> {
        for writing in writings {
            check_range(geometry, writing.offset, writing.change.len_bytes())?;
        }
        let whole = |writing: &Writing<'_>| is_whole(geometry, writing.offset, writing.change.len_bytes());
        if writings.iter().all(whole) {
            let _shared = self.0.read().unwrap_or_else(PoisonError::into_inner);
            return write(writings);
        }
        let _alone = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for writing in writings {
            // One after the other, because several may change the same block in part.
            Pieces::of(geometry, writing, read)?.write(write)?;
        }
        Ok(())
    }
}

/// A writing split into whole blocks.
struct Pieces<'a> {
    /// The blocks that change in part, with their complete new content.
    ends: Vec<(u64, Vec<u8>)>,
    /// The whole blocks between them.
    middle: Option<Writing<'a>>,
}

impl<'a> Pieces<'a> {
    fn of(geometry: &Geometry, writing: &Writing<'a>, read: ReadWhole<'_>) -> Result<Pieces<'a>, IoError> {
        let block = u64::from(geometry.block_bytes.max(1));
        let (start, len) = (writing.offset, writing.change.len_bytes());
        let end = start + len;
        let (from, to) = (start.next_multiple_of(block), end - end % block);
        let mut ends = Vec::new();
        let mut end_block = |at: u64| -> Result<(), IoError> {
            let mut bytes = vec![0; block as usize];
            read(at, &mut bytes)?;
            let (first, last) = (start.max(at), end.min(at + block));
            let changed = &mut bytes[(first - at) as usize..(last - at) as usize];
            match writing.change {
                Change::Data(data) => {
                    changed.copy_from_slice(&data[(first - start) as usize..(last - start) as usize]);
                }
                Change::Zero { .. } | Change::Trim { .. } => changed.fill(0),
            }
            ends.push((at, bytes));
            Ok(())
        };
        if start < from {
            end_block(from - block)?;
        }
        if to < end && (start == from || to >= from) {
            end_block(to)?;
        }
        let middle = (from < to).then(|| {
            let len_bytes = to - from;
            let change = match writing.change {
                Change::Data(data) => Change::Data(&data[(from - start) as usize..(to - start) as usize]),
                Change::Zero { .. } => Change::Zero { len_bytes },
                Change::Trim { .. } => Change::Trim { len_bytes },
            };
            Writing { offset: from, change }
        });
        Ok(Pieces { ends, middle })
    }

    fn write(&self, write: &dyn Fn(&[Writing<'_>]) -> Result<(), IoError>) -> Result<(), IoError> {
        let mut writings: Vec<Writing<'_>> = self
            .ends
            .iter()
            .map(|(offset, bytes)| Writing { offset: *offset, change: Change::Data(bytes) })
            .chain(self.middle)
            .collect();
        writings.sort_by_key(|writing| writing.offset);
        if writings.is_empty() { Ok(()) } else { write(&writings) }
    }
}
