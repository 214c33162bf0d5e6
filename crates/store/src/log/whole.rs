//! Checks that the file of a sealed segment is whole while it is read from front to back.
//!
//! Everything is checked: the header, each record with its payload, the zeroes between them, the index and the
//! trailer. Only a file that is whole gets a hash, because from then on the manifest identifies the file by it.

use bygone_model::{Micros, Seq};

use super::{LogKey, scan};
use crate::{
    env::File,
    error::{Damage, Error, Place, Result},
    format::{
        VERSION,
        manifest::Hash,
        record::{self, Flaw, GRANULE_BYTES, HEADER_BYTES, Header},
        segment::{
            self, HeaderFlaw, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex, TRAILER_BYTES, Trailer,
        },
    },
};

/// A sealed segment, checked up to some offset.
pub(super) struct Whole {
    number: u32,
    key: LogKey,
    trailer: Trailer,
    len_bytes: u64,
    hasher: blake3::Hasher,
    /// Everything before this offset is checked.
    at: u64,
    /// The bytes read after that: a part of a record or of the index.
    rest: Vec<u8>,
    next: Next,
    times: Vec<Micros>,
}

/// What the next record has to contain.
#[derive(Default)]
struct Next {
    seq: Seq,
    previous: u32,
    incarnation: u32,
    header_crc: u32,
}

impl Whole {
    /// Begins to check `file`, of which only the trailer is read.
    ///
    /// # Errors
    /// When it cannot be read, or has no valid trailer.
    pub(super) fn begin(file: &dyn File, number: u32, key: LogKey) -> Result<Whole> {
        let name = segment::label(number);
        let len_bytes = file.len_bytes().map_err(|e| Error::io("reading", &name, e))?;
        let Some(trailer) = scan::trailer(file, number, &key)? else {
            return Err(Error::damaged(
                &name,
                len_bytes.saturating_sub(TRAILER_BYTES as u64),
                Damage::Checksum,
            ));
        };
        Ok(Whole {
            number,
            key,
            trailer,
            len_bytes,
            hasher: blake3::Hasher::new(),
            at: 0,
            rest: Vec::new(),
            next: Next::default(),
            times: Vec::new(),
        })
    }

    /// The offset of the bytes that `take` expects next.
    pub(super) fn upto(&self) -> u64 {
        self.at + self.rest.len() as u64
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Takes the next bytes, and checks every part that they complete.
    ///
    /// # Errors
    /// When something is damaged, or was written by a newer program. Nothing may be taken after that.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.rest.extend_from_slice(bytes);
        let mut rest = std::mem::take(&mut self.rest);
        let mut used = 0;
        while let Some(len) = self.check_part(&rest[used..])? {
            used += len;
            self.at += len as u64;
        }
        rest.drain(..used);
        self.rest = rest;
        Ok(())
    }

    /// The header's crc and the hash of the file, once all of it was taken.
    pub(super) fn finish(&self) -> Option<(u32, Hash)> {
        (self.at == self.len_bytes).then(|| (self.next.header_crc, *self.hasher.finalize().as_bytes()))
    }

    fn damaged(&self, offset: u64, damage: Damage) -> Error {
        Error::damaged(&segment::label(self.number), offset, damage)
    }

    /// Checks the part at the start of `rest` if it is complete; returns its length.
    fn check_part(&mut self, rest: &[u8]) -> Result<Option<usize>> {
        let index_at = self.trailer.index_offset();
        if self.at == 0 {
            return self.check_header(rest);
        }
        if self.at < index_at {
            return self.check_record(rest, index_at);
        }
        let wanted = (self.len_bytes - self.at) as usize;
        if self.at > index_at || wanted == 0 || rest.len() < wanted {
            return Ok(None);
        }
        self.check_index(&rest[..wanted])?;
        Ok(Some(wanted))
    }

    fn check_header(&mut self, rest: &[u8]) -> Result<Option<usize>> {
        let Some(bytes) = rest.get(..SEGMENT_HEADER_BYTES) else { return Ok(None) };
        match SegmentHeader::decode(bytes) {
            Ok((header, crc)) if header.number == self.number && LogKey::of(&header.log) == self.key => {
                self.next = Next {
                    seq: header.first_seq,
                    previous: crc,
                    incarnation: header.incarnation,
                    header_crc: crc,
                };
                Ok(Some(SEGMENT_HEADER_BYTES))
            }
            Ok(_) => Err(self.damaged(0, Damage::Misplaced)),
            Err(HeaderFlaw::Damaged) => Err(self.damaged(0, Damage::Checksum)),
            Err(HeaderFlaw::Newer(found)) => {
                Err(Error::NewerVersion { name: segment::label(self.number), found, known: VERSION })
            }
        }
    }

    fn check_record(&mut self, rest: &[u8], index_at: u64) -> Result<Option<usize>> {
        let at = self.at;
        let Some(front) = rest.get(..HEADER_BYTES) else { return Ok(None) };
        let proven = Header::decode(&self.key.header, front).map_err(|flaw| match flaw {
            Flaw::Newer(op) => {
                Error::UnknownRecord { place: Place { file: segment::label(self.number), offset: at }, op }
            }
            _ => self.damaged(at, Damage::Checksum),
        })?;
        let (header, next) = (&proven.header, &self.next);
        let end = header.end(at);
        let continues =
            (header.seq, header.previous, header.incarnation) == (next.seq, next.previous, next.incarnation);
        if !continues || end > index_at {
            return Err(self.damaged(at, Damage::Misplaced));
        }
        let Some(bytes) = rest.get(..(end - at) as usize) else { return Ok(None) };
        proven.payload(at, bytes).map_err(|flaw| {
            let granule = if let Flaw::Payload(granule) = flaw { granule } else { 0 };
            self.damaged(header.payload_at(at) + (granule * GRANULE_BYTES) as u64, Damage::Checksum)
        })?;
        if let Some(offset) = record::nonzero_padding(header, at, bytes) {
            return Err(self.damaged(offset, Damage::Changed));
        }
        self.next.seq = header.seq.next();
        self.next.previous = record::link(proven.hash);
        self.times.push(header.time);
        Ok(Some(bytes.len()))
    }

    fn check_index(&self, bytes: &[u8]) -> Result<()> {
        let (index, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
        let again = Trailer::decode(&self.key.header, self.number, trailer, self.len_bytes);
        if again != Some(self.trailer) {
            return Err(self.damaged(self.len_bytes - TRAILER_BYTES as u64, Damage::Checksum));
        }
        let Some(index) = SegmentIndex::decode(&self.trailer, self.number, index) else {
            return Err(self.damaged(self.at, Damage::Checksum));
        };
        if index.last_seq().next() != self.next.seq || index.times != self.times {
            return Err(self.damaged(self.at, Damage::Inconsistent));
        }
        Ok(())
    }
}
