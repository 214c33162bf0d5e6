//! Reads a disk that may differ from its content in the store.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use bygone_model::{Lba, Sectors};
use bygone_store::{BlockWrite, Content, View, Wait};

use super::TapDevice;
use crate::{
    IoError,
    walk::{End, Piece, Took, Walk, all_data, differing},
};

/// The disk is read in pieces of this size.
const REREAD_BYTES: u64 = 1 << 20;
/// After this much, the view of the store is renewed.
const REVIEW_BYTES: u64 = 1 << 30;

/// The result of re-reading a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reread {
    /// Bytes of the disk that were compared.
    pub compared_bytes: u64,
    /// Bytes that the store did not have.
    pub changed_bytes: u64,
    /// The range of the changed sectors: first and end.
    pub changed_range: Option<(u64, u64)>,
}

impl TapDevice {
    /// Reads the whole disk and appends what the store does not have yet. The target may run meanwhile. Calls
    /// `keep_going` with the bytes read so far, and stops early when it returns false.
    ///
    /// # Errors
    /// When the disk cannot be read or the log cannot be written.
    pub fn reread(self: &Arc<Self>, keep_going: &mut dyn FnMut(u64, u64) -> bool) -> Result<Reread, IoError> {
        let size = self.geometry.size_bytes;
        let mut found = Reread::default();
        let lost_upto = self.lost_upto();
        let mut belief: Option<View> = None;
        let mut believed_until = 0;
        let mut compare = |Piece { at, len_bytes, .. }: Piece| {
            let view = match &mut belief {
                Some(view) if at < believed_until => view,
                belief => {
                    believed_until = at + REVIEW_BYTES;
                    belief.insert(self.log().view(self.writer.volume, self.log().head_seq())?)
                }
            };
            match self.compare(view, at, len_bytes, &mut found) {
                Err(IoError::Paused) => return Ok(Took::NothingYet),
                result => result?,
            }
            found.compared_bytes = at + len_bytes;
            Ok(Took::All)
        };
        // Holes cannot be determined in advance: see `compare`.
        let walk = Walk { size_bytes: size, piece_bytes: REREAD_BYTES };
        let end = walk.go::<IoError>(&mut all_data, &mut compare, &mut |at, size| {
            self.reread_bytes.store(at, Ordering::Relaxed);
            keep_going(at, size) && !self.closing.load(Ordering::Acquire)
        })?;
        if end == End::GivenUp {
            return Ok(found);
        }
        self.reread_bytes.store(size, Ordering::Relaxed);
        if let Some(upto) = lost_upto {
            self.log().note_reread(self.writer.volume, upto)?;
        }
        self.log().flush()?;
        self.complete.store(true, Ordering::Release);
        let mut destaging = self.destaging();
        self.mark(&mut destaging, false)?;
        Ok(found)
    }

    /// Compares one piece and appends what differs. Appending what the store already has (because it was written since
    /// `view`) does no harm: it is what the disk holds now.
    ///
    /// A hole of the disk counts as unchanged only where the store reads as zeroes too. Both are checked while nothing
    /// is destaged.
    fn compare(&self, view: &View, at: u64, len: u64, found: &mut Reread) -> Result<(), IoError> {
        let (lba, sectors) = (Lba::of_bytes(at), Sectors::of_bytes(len));
        let destaging = self.destaging();
        let fragments = view.resolve(lba, sectors, Wait::Yes)?;
        let believed_zero = fragments.iter().all(|f| f.found.is_none_or(|(_, place)| place.is_zero()));
        if believed_zero && self.raw.next_data(at)?.is_none_or(|data| data >= at + len) {
            return Ok(());
        }
        // From here on no write may come between the read and the append.
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut now = vec![0; len as usize];
        self.read_now(at, &mut now, Wait::Yes)?;
        let mut before = vec![0; len as usize];
        view.read(lba, &mut before, Wait::Yes)?;
        let (mut writes, mut changed) = (Vec::new(), *found);
        let block = self.geometry.block_bytes.max(4096) as usize;
        for range in differing(&now, Some(&before), block) {
            let place = at + range.start as u64;
            let data = &now[range];
            let content = if data.iter().all(|b| *b == 0) {
                Content::Zero(Sectors::of_bytes(data.len() as u64))
            } else {
                Content::Data(data)
            };
            writes.push(BlockWrite {
                volume: self.writer.volume,
                lba: Lba::of_bytes(place),
                content,
                base: true,
            });
            changed.changed_bytes += data.len() as u64;
            let first = changed.changed_range.map_or(place, |(first, _)| first.min(place));
            changed.changed_range = Some((first, place + data.len() as u64));
        }
        drop(destaging);
        if !writes.is_empty() {
            self.writer.append(&writes)?;
            *found = changed;
        }
        Ok(())
    }
}
