//! Records in the segments in which they were written.

use std::{io::IoSliceMut, sync::Arc};

use bygone_model::{SECTOR_BYTES, Seq};

use super::{Piece, SegmentFiles, Wait};
use crate::{
    env::File,
    error::{Damage, Error, Place, Result},
    files::FileCache,
    format::{
        key::HeaderKey,
        record::{self, Flaw, GRANULE_BYTES, HEADER_BYTES, Header, Op, crcs_bytes, record_bytes},
        segment::{self, Location},
    },
};

/// One read of this size fetches a whole record of one granule. Of a larger one it fetches the header and the
/// checksums of up to 4 MiB.
const FRONT_BYTES: usize = record_bytes(GRANULE_BYTES);

/// The segment files of a log.
pub(crate) struct Segments {
    /// Which files they are in.
    pub(crate) files: Arc<SegmentFiles>,
    open: FileCache,
    key: HeaderKey,
}

impl Segments {
    pub(crate) fn new(files: Arc<SegmentFiles>, key: HeaderKey) -> Segments {
        Segments { files, open: FileCache::new(), key }
    }

    pub(crate) fn file(&self, number: u32) -> Result<Arc<dyn File>> {
        self.open.get(number, || match self.files.open(number)? {
            Some(file) => Ok(file),
            None => Err(self.files.missing(number)?),
        })
    }

    /// Closes the file of a segment, because another file has its name now.
    pub(crate) fn forget(&self, number: u32) {
        self.open.forget(number);
    }

    /// See [`super::Records::read`].
    pub(crate) fn read(&self, piece: Piece, buf: &mut [u8], wait: Wait) -> Result<()> {
        let file = self.file(piece.name.segment)?;
        if buf.len() == GRANULE_BYTES && self.read_granule(&*file, piece, buf, wait)? {
            return Ok(());
        }
        self.read_part(&*file, piece, buf, wait)
    }

    /// See [`super::Records::payload`].
    pub(crate) fn payload(&self, name: Location, seq: Seq) -> Result<Vec<u8>> {
        Ok(read_whole(&*self.file(name.segment)?, &self.key, name, seq)?.1)
    }

    /// See [`super::Records::prefetch`].
    pub(crate) fn prefetch(&self, piece: Piece, len_bytes: u64) {
        if let Ok(file) = self.file(piece.name.segment) {
            file.prefetch(u64::from(piece.name.offset), HEADER_BYTES as u64 + len_bytes);
        }
    }

    /// Reads a whole record of one granule, by far the most frequent kind, directly into `buf`. False: it is another
    /// kind of record, or damaged, and the content of `buf` is undefined.
    fn read_granule(&self, file: &dyn File, piece: Piece, buf: &mut [u8], wait: Wait) -> Result<bool> {
        let mut head = [0; HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(buf)];
        let got =
            file.read_parts_at(&mut parts, u64::from(piece.name.offset), wait == Wait::No).map_err(|e| {
                Error::unread(&segment::label(piece.name.segment), u64::from(piece.name.offset), e)
            })?;
        let Ok(proven) = Header::decode(&self.key, &head) else { return Ok(false) };
        let header = &proven.header;
        let is_it = (header.op, header.seq, header.lba) == (Op::Write, piece.seq, piece.lba)
            && header.payload_bytes as usize == GRANULE_BYTES
            && header.flags & record::FLAG_ALIGNED == 0;
        Ok(is_it && got == FRONT_BYTES && proven.vouches_for(&[], 0, buf))
    }

    /// Reads any part of a record.
    fn read_part(&self, file: &dyn File, piece: Piece, buf: &mut [u8], wait: Wait) -> Result<()> {
        let name = segment::label(piece.name.segment);
        let start = u64::from(piece.name.offset);
        let damaged = |offset: u64, damage| Error::damaged(&name, offset, damage);
        let read = |buf: &mut [u8], offset: u64| {
            let got =
                if wait == Wait::Yes { file.read_at(buf, offset) } else { file.read_cached_at(buf, offset) };
            got.map_err(|e| Error::unread(&name, offset, e))
        };
        let mut front = [0; FRONT_BYTES];
        let got = read(&mut front, start)?;
        let front = &front[..got];
        let proven = Header::decode(&self.key, front).map_err(|flaw| match flaw {
            Flaw::Newer(op) => {
                Error::UnknownRecord { place: Place { file: name.clone(), offset: start }, op }
            }
            _ if Header::looks_like_one(front) => damaged(start, Damage::Checksum),
            _ => damaged(start, Damage::Magic),
        })?;
        let header = &proven.header;
        let payload_bytes = header.payload_bytes as usize;
        let skip =
            piece.lba.0.checked_sub(header.lba.0).and_then(|sectors| sectors.checked_mul(SECTOR_BYTES));
        let inside = |skip: &u64| skip.saturating_add(buf.len() as u64) <= payload_bytes as u64;
        let is_it = header.op == Op::Write && header.seq == piece.seq;
        let Some(skip) = skip.filter(|skip| is_it && inside(skip)) else {
            return Err(damaged(start, Damage::Misplaced));
        };

        let (crcs_from, crcs_end) = (HEADER_BYTES, HEADER_BYTES + crcs_bytes(payload_bytes));
        let mut fetched_crcs = Vec::new();
        // All checksums, because the header vouches for them only as a whole.
        let crcs = match front.get(crcs_from..crcs_end) {
            Some(crcs) => crcs,
            None => {
                fetched_crcs.resize(crcs_end - crcs_from, 0);
                if read(&mut fetched_crcs, start + crcs_from as u64)? != fetched_crcs.len() {
                    return Err(damaged(start, Damage::Truncated));
                }
                &fetched_crcs
            }
        };
        if !proven.vouches_for_crcs(crcs) {
            return Err(damaged(start + crcs_from as u64, Damage::Checksum));
        }

        let (skip, payload_at) = (skip as usize, header.payload_at(start));
        let (first, end) = (skip / GRANULE_BYTES, (skip + buf.len()).div_ceil(GRANULE_BYTES));
        let (from, to) = (first * GRANULE_BYTES, (end * GRANULE_BYTES).min(payload_bytes));
        let whole_granules = from == skip && to == skip + buf.len();
        let mut fetched = Vec::new();
        let granules: &mut [u8] = if whole_granules {
            &mut *buf
        } else {
            fetched.resize(to - from, 0);
            &mut fetched
        };
        let at = payload_at + from as u64;
        match front.get((at - start) as usize..(at - start) as usize + granules.len()) {
            Some(there) => granules.copy_from_slice(there),
            None if read(granules, at)? != granules.len() => return Err(damaged(at, Damage::Truncated)),
            None => {}
        }
        for (index, granule) in (first..).zip(granules.chunks(GRANULE_BYTES)) {
            if !proven.vouches_for(crcs, index, granule) {
                return Err(damaged(payload_at + (index * GRANULE_BYTES) as u64, Damage::Checksum));
            }
        }
        if !whole_granules {
            buf.copy_from_slice(&fetched[skip - from..skip - from + buf.len()]);
        }
        Ok(())
    }
}

/// Reads the record `seq` of this name, which is not a block record, from its segment's file.
///
/// # Errors
/// When it cannot be read, is damaged, or only a newer program knows it.
pub(crate) fn read_whole(
    file: &dyn File,
    key: &HeaderKey,
    name: Location,
    seq: Seq,
) -> Result<(Header, Vec<u8>)> {
    let (file_name, start) = (segment::label(name.segment), u64::from(name.offset));
    let damaged = |damage| Error::damaged(&file_name, start, damage);
    let read = |buf: &mut Vec<u8>| {
        let got = file.read_at(buf, start).map_err(|e| Error::unread(&file_name, start, e))?;
        buf.truncate(got);
        Ok::<_, Error>(())
    };
    let mut bytes = vec![0; HEADER_BYTES];
    read(&mut bytes)?;
    let proven = match Header::decode(key, &bytes) {
        Ok(proven) => proven,
        Err(Flaw::Newer(op)) => {
            return Err(Error::UnknownRecord { place: Place { file: file_name, offset: start }, op });
        }
        Err(_) => return Err(damaged(Damage::Magic)),
    };
    let header = proven.header;
    if header.seq != seq || header.op.is_block() {
        return Err(damaged(Damage::Misplaced));
    }
    bytes.resize((header.end(start) - start) as usize, 0);
    // The padding of the last record of a log may be missing.
    read(&mut bytes)?;
    let payload = proven.payload(start, &bytes).map_err(|_| damaged(Damage::Checksum))?;
    Ok((header, payload.to_vec()))
}
