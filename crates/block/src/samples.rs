//! Samples of a disk's content, by which a change is noticed where no time of change tells of it: on a block device.
//!
//! They are checksums of parts of the disk: of both ends, where partition tables and superblocks are, and of blocks
//! spread evenly. After a crash the disk may have been written to since they were taken, so each part counts for
//! itself: those that no record since then touches must be as they were.

use std::{io, ops::Range};

use bygone_model::Details;
use bygone_store::env::{File, read_exact_at};

/// What they are called in the identity of a disk.
pub(crate) const KEY: &str = "samples";
/// Before the checksums; another choice of parts gets another one.
const CHOICE: &str = "2:";
/// This much of each end is sampled without gaps.
const END_BYTES: u64 = 2 << 20;
/// How many blocks are spread over the disk.
const SPREAD: u64 = 256;
/// As small as what a target usually writes: what changed beside a record of ours, in the same part, is not noticed.
const BLOCK_BYTES: u64 = 4096;
/// Each checksum in hexadecimal.
const DIGITS: usize = 8;

/// The parts of a disk of this size, of at most 4 KiB each: both ends, then the blocks. They may overlap.
fn parts(size_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let end = END_BYTES.min(size_bytes);
    let ends = [0, size_bytes - end].into_iter().flat_map(move |start| {
        let pieces = (start..start + end).step_by(BLOCK_BYTES as usize);
        pieces.map(move |at| at..(at + BLOCK_BYTES).min(start + end))
    });
    let step = (size_bytes / SPREAD / BLOCK_BYTES).max(1) * BLOCK_BYTES;
    let blocks = (0..SPREAD).map(move |i| i * step..(i * step + BLOCK_BYTES).min(size_bytes));
    ends.chain(blocks.filter(|block| !block.is_empty()))
}

/// Takes samples of a disk: reads at most 5 MiB, returns at most 10,242 characters.
///
/// # Errors
/// The error of the medium.
pub fn samples(file: &dyn File, size_bytes: u64) -> io::Result<String> {
    let mut samples = CHOICE.to_owned();
    let mut bytes = vec![0; BLOCK_BYTES as usize];
    for part in parts(size_bytes) {
        let bytes = &mut bytes[..(part.end - part.start) as usize];
        read_exact_at(file, bytes, part.start)?;
        samples += &format!("{:08x}", bygone_store::format::crc32c(bytes));
    }
    Ok(samples)
}

/// The samples in the identity of a disk.
pub(crate) fn of(identity: &Details) -> Option<&str> {
    identity.get(KEY)?.as_str()
}

/// Whether all parts that are not touched are as they were. Samples of which nothing is known, or not which parts they
/// are of, are never.
///
/// # Errors
/// The error of `is_touched`.
pub(crate) fn are_as_before<E>(
    before: Option<&str>,
    now: Option<&str>,
    size_bytes: u64,
    is_touched: &mut dyn FnMut(Range<u64>) -> Result<bool, E>,
) -> Result<bool, E> {
    let known = |samples: Option<&str>| samples?.strip_prefix(CHOICE).map(|known| known.as_bytes().to_vec());
    let (Some(before), Some(now)) = (known(before), known(now)) else { return Ok(false) };
    if before.len() != now.len() {
        return Ok(false);
    }
    let pairs = before.chunks(DIGITS).zip(now.chunks(DIGITS));
    for (part, _) in parts(size_bytes).zip(pairs).filter(|(_, (before, now))| before != now) {
        if !is_touched(part)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_within_the_disk_few_and_at_its_ends() {
        for size in [512, 4096, 5120, 1 << 20, (2 << 20) + 512, 5 << 20, (1 << 30) + 1536, 64 << 40] {
            let parts: Vec<_> = parts(size).collect();
            assert!(parts.len() <= 1280, "{} of {size}", parts.len());
            assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= 5 << 20);
            assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
            assert!(parts.iter().all(|part| part.start % 512 == 0 && part.end % 512 == 0));
            assert!(parts.iter().any(|part| part.start == 0) && parts.iter().any(|part| part.end == size));
            let furthest = parts[parts.len() - 1].start;
            assert!(furthest >= size / 2 || size < 8192, "{furthest} of {size}");
        }
    }

    #[test]
    fn only_what_is_touched_may_differ() {
        let size = 5 << 20;
        let taken = |differs: &[usize]| -> String {
            let crcs = (0..parts(size).count())
                .map(|i| format!("{:08x}", i + usize::from(differs.contains(&i)) * 1000));
            CHOICE.to_owned() + &crcs.collect::<String>()
        };
        let touched: Vec<_> =
            parts(size).enumerate().filter(|(i, _)| i % 7 == 3).map(|(_, part)| part).collect();
        let as_before = |before: Option<&str>, now: Option<&str>| {
            are_as_before::<()>(before, now, size, &mut |part| Ok(touched.contains(&part))).unwrap()
        };
        let before = taken(&[]);
        assert!(as_before(Some(&before), Some(&before)));
        assert!(as_before(Some(&before), Some(&taken(&[3, 10, 1025]))));
        assert!(!as_before(Some(&before), Some(&taken(&[3, 11]))));
        assert!(!as_before(None, Some(&before)) && !as_before(None, None));
        assert!(!as_before(Some(&before.replacen('2', "1", 1)), Some(&before)));
        assert!(!as_before(Some(&before[..before.len() - DIGITS]), Some(&before)));
    }
}
