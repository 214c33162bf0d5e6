//! Rebuilds damaged parts of the index while a log is opened.

use bygone_model::{Seq, VolumeId};

use super::{super::scan, open_segment, survey::Survey};
use crate::{
    env::Dir,
    error::{Damage, Error, Result},
    format::segment::{self, Entry},
    index::compaction::History,
    place::Moved,
};

/// All versions in the segments of a log that is being opened.
pub(super) struct Segments<'a> {
    pub(super) dir: &'a dyn Dir,
    /// Those that have a file or whose records are elsewhere, in order.
    pub(super) numbers: &'a [u32],
    pub(super) moved: &'a Moved,
    pub(super) survey: &'a Survey,
}

impl History for Segments<'_> {
    fn versions(&self, volume: VolumeId, upto: Seq, each: &mut dyn FnMut(&Entry)) -> Result<()> {
        let mut reached = Seq::ZERO;
        for &number in self.numbers {
            if reached >= upto {
                return Ok(());
            }
            let mut index = match self.moved.get(&number) {
                Some(container) => container.index(number)?,
                None => {
                    let Some(file) = open_segment(self.dir, number)? else { continue };
                    let scanned = scan::scan(&file, number, self.survey.context(number, reached.next()))?;
                    if !scanned.lost.is_empty() {
                        return Err(Error::damaged(&segment::file_name(number), 0, Damage::Checksum));
                    }
                    scanned.index
                }
            };
            if index.first_seq > reached.next() {
                return Err(Error::damaged(&segment::file_name(number), 0, Damage::Inconsistent));
            }
            index.entries.sort_unstable_by_key(|entry| entry.seq);
            let wanted = |e: &&Entry| e.volume == volume && e.seq > reached && e.seq <= upto;
            index.entries.iter().filter(wanted).for_each(&mut *each);
            reached = reached.max(index.last_seq());
        }
        if reached < upto {
            return Err(Error::damaged("log", 0, Damage::Truncated));
        }
        Ok(())
    }
}
