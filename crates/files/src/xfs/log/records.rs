//! Which records of the log are to be replayed, and what is in them.

use super::{damaged, unsupported};
use crate::{
    bytes::{be32, be64, id},
    crc::{crc32c, crc32c_without},
    tree::TreeError,
    volumes::xfs::{BLOCK, HEADER_COVERS, Log, RECORD_MAGIC, Tail, WINDOW_BLOCKS, headers},
};

/// So many records may be on their way at once, and any of them may have been written in part.
const ON_THEIR_WAY: usize = 8;
/// The longest record.
const BYTES_MAX: u32 = 256 << 10;
const HEADERS_MAX: u64 = (BYTES_MAX / HEADER_COVERS) as u64;
/// What of a header its checksum covers, which differs between 64 and 32 bits; and of each further one.
const SUMMED: [usize; 2] = [328, 324];
const SUMMED_FURTHER: usize = 260;
const CYCLES_IN_BLOCK: usize = 64;
const LITTLE_ENDIAN: u32 = 1;

/// Is given where a record is in the order of the log, how many operations it has, and these.
pub(super) type EachRecord<'a> = dyn FnMut(u64, u32, &[u8]) -> Result<(), TreeError> + 'a;

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    lsn: u64,
    tail: u64,
    headers: u64,
    len_bytes: u32,
    operations: u32,
}

impl Place {
    fn blocks(&self) -> u64 {
        self.headers + u64::from(self.len_bytes).div_ceil(BLOCK)
    }
}

/// The records to be replayed, in their order.
pub(super) struct Records<'a> {
    log: &'a Log<'a>,
    places: Vec<Place>,
    is_v5: bool,
}

impl<'a> Records<'a> {
    pub(super) fn of(log: &'a Log<'a>, is_v5: bool) -> Result<Records<'a>, TreeError> {
        let mut end = match log.end()? {
            Ok(end) => end,
            Err(Tail::Dirty(why) | Tail::Unknown(why)) => return Err(damaged(0, why)),
            Err(Tail::Unmounted) => return Ok(Records { log, places: Vec::new(), is_v5 }),
        };
        let mut records = Records { log, places: Vec::new(), is_v5 };
        end = records.without_a_part(end)?;
        if is_v5 {
            // The oldest first: whatever follows one that was written in part does not count either.
            for number in records.headers_before(end, ON_THEIR_WAY)?.into_iter().rev() {
                let is_whole = match records.at(number)? {
                    Some(place) => records.is_whole(&place)?,
                    None => false,
                };
                if !is_whole {
                    end = number;
                    break;
                }
            }
        }
        let last = records.headers_before(end, 1)?.pop();
        let last = last.map(|number| records.at(number)).transpose()?.flatten();
        records.places = records.walk(last.ok_or(damaged(0, "its log ends in no record"))?)?;
        Ok(records)
    }

    /// Whether the records reach beyond the end of the log.
    pub(super) fn go_round(&self) -> bool {
        self.places.windows(2).any(|pair| pair[1].number < pair[0].number)
    }

    /// Where the last headers before `end` are, the last one first.
    fn headers_before(&self, end: u64, count: usize) -> Result<Vec<u64>, TreeError> {
        let (mut found, blocks) = (Vec::new(), self.log.blocks);
        for back in 1..=WINDOW_BLOCKS.min(blocks - 1) {
            let number = (end + blocks - back) % blocks;
            if be32(&self.log.block(number)?, 0) == RECORD_MAGIC {
                found.push(number);
            }
            if found.len() == count {
                break;
            }
        }
        Ok(found)
    }

    /// Where the log ends without the last record, if that one does not reach up to `end`.
    fn without_a_part(&self, end: u64) -> Result<u64, TreeError> {
        let Some(number) = self.headers_before(end, 1)?.pop() else { return Ok(end) };
        let header = self.log.block(number)?;
        let len = headers(&header).saturating_add(u64::from(be32(&header, 12)).div_ceil(BLOCK));
        let is_whole = len == (end + self.log.blocks - number) % self.log.blocks;
        Ok(if is_whole { end } else { number })
    }

    /// The record that begins at a block, if one does that makes sense.
    fn at(&self, number: u64) -> Result<Option<Place>, TreeError> {
        let number = number % self.log.blocks;
        let header = self.log.block(number)?;
        let lsn = be64(&header, 16);
        let is_header = be32(&header, 0) == RECORD_MAGIC
            && lsn & 0xffff_ffff == number
            && lsn >> 32 == u64::from(be32(&header, 4));
        let len_bytes = be32(&header, 12);
        let is_sound = matches!(be32(&header, 8), 1 | 2)
            && (1..=BYTES_MAX).contains(&len_bytes)
            && headers(&header) <= HEADERS_MAX;
        if !is_header || !is_sound {
            return Ok(None);
        }
        if id(&header, 304) != self.log.filesystem {
            return Err(damaged(0, "its log belongs to another file system"));
        }
        if be32(&header, 300) != LITTLE_ENDIAN {
            return Err(unsupported("an XFS whose log was written by a machine of the other byte order"));
        }
        let (tail, operations) = (be64(&header, 24), be32(&header, 40));
        Ok(Some(Place { number, lsn, tail, headers: headers(&header), len_bytes, operations }))
    }

    /// The records from the one that the last one names as the tail up to the last one.
    fn walk(&self, last: Place) -> Result<Vec<Place>, TreeError> {
        let wrong = || damaged(0, "the records of its log do not follow one another");
        let blocks = self.log.blocks;
        let mut number = last.tail & 0xffff_ffff;
        if number >= blocks || last.tail > last.lsn {
            return Err(wrong());
        }
        let mut left = (last.number + blocks - number) % blocks;
        let mut places: Vec<Place> = Vec::new();
        loop {
            let place = self.at(number)?.ok_or(wrong())?;
            if place.lsn < last.tail || places.last().is_some_and(|before| place.lsn <= before.lsn) {
                return Err(wrong());
            }
            let len = place.blocks();
            places.push(place);
            if left == 0 {
                return if place.lsn == last.lsn { Ok(places) } else { Err(wrong()) };
            }
            left = left.checked_sub(len).ok_or(wrong())?;
            number = (number + len) % blocks;
        }
    }

    fn blocks_of(&self, place: &Place) -> Result<(Vec<Vec<u8>>, Vec<u8>), TreeError> {
        let headers: Result<Vec<_>, _> =
            (0..place.headers).map(|i| self.log.block(place.number + i)).collect();
        let mut data = Vec::new();
        for i in place.headers..place.blocks() {
            data.extend(self.log.block(place.number + i)?);
        }
        Ok((headers?, data))
    }

    /// Whether the checksum of a record holds.
    fn is_whole(&self, place: &Place) -> Result<bool, TreeError> {
        let (headers, data) = self.blocks_of(place)?;
        let found = u32::from_le_bytes([headers[0][32], headers[0][33], headers[0][34], headers[0][35]]);
        Ok(SUMMED.iter().any(|summed| {
            let mut sum = crc32c_without(!0, &headers[0][..*summed], 32..36);
            // Of the further headers only those count that cover something.
            let covering = place.len_bytes.div_ceil(HEADER_COVERS) as usize;
            for header in headers.iter().take(covering).skip(1) {
                sum = crc32c(sum, &header[..SUMMED_FURTHER]);
            }
            !crc32c(sum, &data[..place.len_bytes as usize]) == found
        }))
    }

    /// Calls `each` with the records in their order.
    pub(super) fn each(&self, each: &mut EachRecord<'_>) -> Result<(), TreeError> {
        for place in &self.places {
            if self.is_v5 && !self.is_whole(place)? {
                return Err(damaged(0, "the checksum of a record of its log does not hold"));
            }
            let (headers, mut data) = self.blocks_of(place)?;
            // The first bytes of each block were replaced by the number of the round.
            for (i, block) in data.chunks_exact_mut(BLOCK as usize).enumerate() {
                let (header, at) = match i / CYCLES_IN_BLOCK {
                    0 => (headers.first(), 44 + i * 4),
                    further => (headers.get(further), 4 + i % CYCLES_IN_BLOCK * 4),
                };
                let Some(header) = header else {
                    return Err(damaged(0, "a record of its log is longer than its headers say"));
                };
                block[..4].copy_from_slice(&header[at..at + 4]);
            }
            each(place.lsn, place.operations, &data[..place.len_bytes as usize])?;
        }
        Ok(())
    }
}

// Each block of headers names the first bytes of as many blocks as it covers.
const _: () = assert!(HEADER_COVERS as u64 / BLOCK == CYCLES_IN_BLOCK as u64);
