//! Rebuilds damaged parts of the index while a log is opened.

use bygone_model::{Seq, VolumeId};

use super::{super::scan, survey::Survey};
use crate::{
    error::{Damage, Error, Result},
    format::segment::{self, Entry},
    index::compaction::History,
    place::{Moved, SegmentFiles},
};

/// All versions in the segments of a log that is being opened.
pub(super) struct Segments<'a> {
    pub(super) files: &'a SegmentFiles,
    /// Those that have a file or whose records are elsewhere, in order.
    pub(super) numbers: &'a [u32],
    pub(super) moved: &'a Moved,
    pub(super) survey: &'a Survey,
}

impl Segments<'_> {
    /// The first seq of the first of these segments of which that is known. The survey knows only those behind the
    /// newest checkpoint; records of an older segment from there on do not belong to the log either.
    fn first_of(&self, numbers: &[u32]) -> Result<Seq> {
        for &number in numbers {
            if let Some(container) = self.moved.get(&number) {
                return Ok(container.index(number)?.first_seq);
            }
            let Some(file) = self.files.open(number)? else { continue };
            if let Some((first, _)) = scan::beginning(&*file, number, self.survey.log)? {
                return Ok(first);
            }
        }
        Ok(Seq::MAX)
    }
}

impl History for Segments<'_> {
    fn versions(&self, volume: VolumeId, upto: Seq, each: &mut dyn FnMut(&Entry)) -> Result<()> {
        let mut reached = Seq::ZERO;
        for (i, &number) in self.numbers.iter().enumerate() {
            if reached >= upto {
                return Ok(());
            }
            let mut index = match self.moved.get(&number) {
                Some(container) => container.index(number)?,
                None => {
                    let Some(file) = self.files.open(number)? else { continue };
                    let log = &self.survey.log;
                    let scanned = match scan::scan_sealed(&*file, number, log)? {
                        Some(sealed) => sealed,
                        None => {
                            let until = self.first_of(&self.numbers[i + 1..])?;
                            let context =
                                scan::Context { until, ..self.survey.context(number, reached.next()) };
                            let header = scan::read_header(&*file, number, log)?;
                            scan::scan_records(&*file, number, header, context)?
                        }
                    };
                    if !scanned.lost.is_empty() {
                        return Err(Error::damaged(&segment::label(number), 0, Damage::Checksum));
                    }
                    scanned.index
                }
            };
            if index.first_seq > reached.next() {
                return Err(Error::damaged(&segment::label(number), 0, Damage::Inconsistent));
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
