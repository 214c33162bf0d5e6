//! What the segments say about each other.

use bygone_model::Seq;

use super::{
    super::{LogKey, scan},
    harden::{Unsealed, sync, write_again},
    recovered::Recovered,
};
use crate::{
    error::Result,
    format::checkpoint::SegmentStart,
    manifest::Known,
    place::{Moved, SegmentFiles},
};

/// What the segments say about each other, collected before any of them is loaded.
pub(super) struct Survey {
    pub(super) log: LogKey,
    /// The first seqs of the segments that follow the newest checkpoint or are not sealed, in order of number.
    firsts: Vec<(u32, Seq)>,
    /// Where the newest checkpoint says that its last segment begins, in case the segment's header is damaged.
    start: Option<SegmentStart>,
    /// The newest segment that has an index.
    sealed: Option<u32>,
    /// Everything up to here was durable: a checkpoint or an index covers it (both are written only afterwards), or a
    /// later record says so.
    pub(super) durable: Seq,
}

impl Survey {
    pub(super) fn make(
        files: &SegmentFiles,
        log: LogKey,
        (numbers, moved, manifest): (&[u32], &Moved, &Known),
        first: u32,
        start: Option<SegmentStart>,
        covered: Seq,
    ) -> Result<Survey> {
        let mut survey = Survey { log, firsts: Vec::new(), start, sealed: None, durable: covered };
        let mut from = first;
        // What moved was sealed and durable.
        while from > 1
            && !moved.contains_key(&(from - 1))
            && let Some(file) = files.open(from - 1)?
        {
            // A power cut may have left only its trailer.
            if scan::sealed_index(&*file, from - 1, &log)?.is_some() {
                survey.sealed = Some(from - 1);
                break;
            }
            from -= 1;
        }
        let mut unsealed = 0;
        for &number in numbers.iter().filter(|number| **number >= from) {
            if moved.contains_key(&number) {
                survey.firsts.extend(manifest.segment(number).map(|entry| (number, entry.first_seq)));
                continue;
            }
            let Some(file) = files.open(number)? else { continue };
            let header = scan::read_header(&*file, number, &log)?;
            survey.firsts.extend(scan::beginning(&*file, number, log)?.map(|(first, _)| (number, first)));
            if let Some(end) = scan::sealed_end(&*file, number, &log)? {
                survey.durable = survey.durable.max(end);
                survey.sealed = Some(number);
                continue;
            }
            // What the first one's own records say is taken into account when it is loaded. But without a header it
            // is loaded only if they say that it was durable.
            if unsealed > 0 || header.is_none() {
                survey.durable = survey.durable.max(scan::claimed_durable(&*file, number, log)?);
            }
            unsealed += 1;
        }
        Ok(survey)
    }

    /// What is known about segment `number`. `next` is the seq after everything that is known of the log.
    pub(super) fn context(&self, number: u32, next: Seq) -> scan::Context {
        let start = self.start.filter(|start| start.0 == number);
        let expected = start.map_or(next, |(_, first, _)| first);
        let next = self.firsts.get(self.firsts.partition_point(|(n, _)| *n <= number));
        scan::Context {
            log: self.log,
            expected: Some(expected),
            until: next.map_or(Seq::MAX, |(_, first)| *first),
            durable: self.durable,
        }
    }

    /// Makes the newest index durable: the incarnation that wrote it may have ended before its sync.
    pub(super) fn harden_newest_index(&self, files: &SegmentFiles) -> Result<()> {
        let Some(number) = self.sealed else { return Ok(()) };
        let Some(file) = files.open(number)? else { return Ok(()) };
        if let Some((from, end)) = scan::index_place(&*file, number, &self.log)? {
            write_again(&*file, number, from, end)?;
            sync(&*file, number)?;
        }
        Ok(())
    }

    /// Takes in the segments that the newest checkpoint covers but that were not sealed.
    pub(super) fn unsealed_before(
        &self,
        files: &SegmentFiles,
        first: u32,
        state: &mut Recovered,
    ) -> Result<()> {
        for &(number, seq) in self.firsts.iter().filter(|(number, _)| *number < first) {
            if let Some(file) = files.open(number)? {
                let scanned = scan::scan(&file, number, self.context(number, seq))?;
                for &(offset, damage) in scanned.damage.iter().filter(|_| !scanned.sealed) {
                    state.damaged(number, offset, damage);
                }
                state.unsealed.extend(Unsealed::of(number, &file, scanned, self.durable));
            }
        }
        Ok(())
    }
}
