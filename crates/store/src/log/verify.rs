//! Reads everything back and checks it.

mod index;

use std::{cell::Cell, collections::BTreeSet};

use bygone_model::Seq;

use self::index::IndexCheck;
use super::{Log, hashing::Hashed, patched::Patched, recover::MISSING_MAX, scan};
use crate::{
    env::File,
    error::{Damage, Error, Place, Result},
    format::{manifest::Hash, segment},
    manifest::{Flaws, Known},
};

/// `keep_going` is called each time that this much was checked.
const STEP_BYTES: u64 = 1 << 20;

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Where it is.
    pub place: Place,
    /// What is wrong there.
    pub damage: Damage,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Bytes read back and checked.
    pub checked_bytes: u64,
    /// The damage that was found.
    pub damaged: Vec<Damaged>,
    /// Everything was checked. False: `keep_going` stopped it.
    pub complete: bool,
}

impl VerifyReport {
    fn note(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(Error::Damaged { place, damage }) => {
                self.damaged.push(Damaged { place, damage });
                Ok(())
            }
            other => other,
        }
    }
}

impl Log {
    /// Reads the manifests that count, all indexes and then all segments back, and checks every byte that has a
    /// checksum. With `newest_first` indexes and segments in reverse order.
    ///
    /// Calls `keep_going` with the bytes checked so far and the bytes in total: after each file, and within a file
    /// after each MiB, or after a record or list of events that is longer; also while it waits for upkeep. Stops when
    /// it returns false.
    ///
    /// # Errors
    /// When the medium cannot be read at all, or there is damage and the log was taken over. Damage is in the report.
    pub fn verify(
        &self,
        newest_first: bool,
        keep_going: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<VerifyReport> {
        let report = self.verify_all(newest_first, keep_going)?;
        // What another holder has removed since looks like damage.
        match report.damaged.first().map(|_| self.check_holder()) {
            Some(Err(superseded @ Error::Superseded { .. })) => Err(superseded),
            _ => Ok(report),
        }
    }

    fn verify_all(
        &self,
        newest_first: bool,
        keep_going: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let total = self.used_bytes()?;
        let going = Cell::new(true);
        // Where `keep_going` was last called. `None`: it has to be called now, because a file has ended, however
        // small.
        let called_at = Cell::new(Some(0));
        let keep_going = &mut |checked: u64| {
            if called_at.get().is_none_or(|called_at| checked.saturating_sub(called_at) >= STEP_BYTES) {
                called_at.set(Some(checked));
                going.set(going.get() && keep_going(checked, total));
            }
            going.get()
        };
        let (active, newest, head, mut begun) = {
            let sequencer = self.sequencer();
            let active = sequencer.active.as_ref().map(|active| active.number);
            // The segments that are known to have records.
            let begun: BTreeSet<u32> = sequencer.segments.iter().map(|start| start.0).collect();
            (active, sequencer.newest, sequencer.head, begun)
        };
        let mut numbers = self.segments_there()?;
        numbers.retain(|number| *number <= newest);
        let mut expected = 1;
        for there in numbers.iter().copied().chain([newest + 1]) {
            let dropped = |number: &u32| self.manifest().is_dropped(*number);
            for missing in (expected..there).filter(|number| !dropped(number)).take(MISSING_MAX) {
                let place = Place { file: segment::label(missing), offset: 0 };
                report.damaged.push(Damaged { place, damage: Damage::Missing });
            }
            expected = there + 1;
        }
        if newest_first {
            numbers.reverse();
        }
        let manifests = self.verify_manifests(&mut || {
            called_at.set(None);
            keep_going(0)
        });
        match manifests {
            Err(Error::Abandoned) => return Ok(report),
            Ok(flaws) => {
                report.damaged.extend(flaws.into_iter().map(|(place, damage)| Damaged { place, damage }));
            }
            Err(error) => report.note(Err(error))?,
        }
        let mut snapshot = self.index.snapshot();
        let names = &mut snapshot.names;
        if newest_first {
            names.reverse();
        }
        let mut check = IndexCheck::new(self);
        for &name in &*names {
            let checked = check.checkpoint(name, &mut begun, &mut report, keep_going);
            report.note(checked)?;
            called_at.set(None);
            if !keep_going(report.checked_bytes) {
                return Ok(report);
            }
        }
        if !check.rest(names, &mut report, keep_going)? {
            return Ok(report);
        }
        let mut spans = Vec::with_capacity(numbers.len());
        for number in numbers {
            let found = report.damaged.len();
            let mut hash = None;
            let part = (number, Some(number) == active, head);
            let mut checked = self.verify_segment(part, &mut report, keep_going, &mut hash);
            if checked.is_ok() && report.damaged.len() == found {
                checked = self.verify_file(number, hash).and(checked);
            }
            match checked {
                // Nothing is left of it. The next segment would show that something is missing, but may be damaged
                // itself.
                Ok(Some((first, last))) if last < first && begun.contains(&number) => {
                    report.note(Err(Error::damaged(&segment::label(number), 0, Damage::Truncated)))?;
                }
                Ok(span) => spans.extend(span.map(|(first, last)| (number, first, last))),
                Err(e) => report.note(Err(e))?,
            }
            called_at.set(None);
            if !keep_going(report.checked_bytes) {
                return Ok(report);
            }
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [(number, _, last), (next, first, _)] = pair
                && *next == number + 1
                && *first > last.next()
            {
                // Its end was cut off, and the rest looks whole.
                let place = Place { file: segment::label(*number), offset: 0 };
                report.damaged.push(Damaged { place, damage: Damage::Truncated });
            }
        }
        if let Some(&(number, _, last)) = spans.last()
            && number == newest
            && last < head
        {
            let place = Place { file: segment::label(number), offset: 0 };
            report.damaged.push(Damaged { place, damage: Damage::Truncated });
        }
        report.complete = true;
        Ok(report)
    }

    /// Reads back the manifests that count.
    ///
    /// # Errors
    /// When they cannot be read, or `keep_going` returned false while upkeep was at work.
    fn verify_manifests(&self, keep_going: &mut dyn FnMut() -> bool) -> Result<Flaws> {
        // Upkeep may write one, and remove others.
        let _turn =
            self.upkeep_turn_while(&mut || if keep_going() { Ok(()) } else { Err(Error::Abandoned) })?;
        Known::flaws(&*self.dir, &self.identity)
    }

    /// Checks a segment; returns its first and last seq, or `None` if `keep_going` stopped it or nothing is known of
    /// its records. Sets `hash` to the hash of the file if the segment is sealed and whole.
    fn verify_segment(
        &self,
        part: (u32, bool, Seq),
        report: &mut VerifyReport,
        keep_going: &mut dyn FnMut(u64) -> bool,
        hash: &mut Option<Hash>,
    ) -> Result<Option<(Seq, Seq)>> {
        let number = part.0;
        if let Some(container) = self.places.elsewhere(number) {
            let checked = container.check(number)?;
            report.checked_bytes += checked.bytes;
            let damaged = checked.damaged.into_iter().map(|(place, damage)| Damaged { place, damage });
            report.damaged.extend(damaged);
            return Ok(checked.span);
        }
        let file = self.places.segments.file(number)?;
        // What follows an unreadable place is checked as well.
        let file = Patched::new(&*file);
        let checked = self.verify_segment_file(&file, part, report, keep_going, hash);
        let name = segment::label(number);
        let unreadable = file.unreadable().into_iter().map(|offset| Damaged {
            place: Place { file: name.clone(), offset },
            damage: Damage::Unreadable,
        });
        report.damaged.extend(unreadable);
        checked
    }

    fn verify_segment_file(
        &self,
        file: &dyn File,
        (number, active, head): (u32, bool, Seq),
        report: &mut VerifyReport,
        keep_going: &mut dyn FnMut(u64) -> bool,
        hash: &mut Option<Hash>,
    ) -> Result<Option<(Seq, Seq)>> {
        let name = segment::label(number);
        let header = scan::read_header(file, number, &self.key)?;
        // Read before the file, which may get its index meanwhile.
        let waiting = self.end_of_full(number);
        let index = if active { None } else { scan::sealed_index(file, number, &self.key)? };
        let expected = index.as_ref().map(|index| index.first_seq);
        let durable = if active { self.durable_seq() } else { head };
        // After its last record there may be complete records of a failed write, which do not belong to the log.
        let until = match waiting {
            Some(end) => end,
            None if active || index.is_some() => Seq::MAX,
            None => self.first_behind(number)?,
        };
        let context = scan::Context { expected, until, durable, ..scan::Context::of(self.key) };
        let (before, mut reached) = (report.checked_bytes, 0);
        let hashed = index.as_ref().map(|_| Hashed::new(file, number, self.key)).transpose()?;
        let read: &dyn File = hashed.as_ref().map_or(file, |hashed| hashed);
        let scanned = scan::scan_while(read, number, header, context, &mut |at| {
            reached = at;
            keep_going(before + at)
        })?;
        let Some(scanned) = scanned else {
            report.checked_bytes += reached;
            return Ok(None);
        };
        let len_bytes = file.len_bytes().map_err(|e| Error::io("reading", &name, e))?;
        report.checked_bytes += len_bytes;
        let whole = hashed.map(|hashed| hashed.finish(&name));
        for (offset, damage) in &scanned.damage {
            let place = Place { file: name.clone(), offset: *offset };
            report.damaged.push(Damaged { place, damage: *damage });
        }
        let first = scanned.index.first_seq;
        let damaged = |damage| Err(Error::damaged(&name, scanned.index.records_end, damage));
        let span = match index {
            // The index says how far the records reach. The scan stopped at the first invalid one.
            Some(index) if scanned.index.records_end < index.records_end => damaged(Damage::Checksum),
            Some(index) if scanned.damage.is_empty() && scanned.index.times != index.times => {
                damaged(Damage::Inconsistent)
            }
            None if active && scanned.last_seq() < head => damaged(Damage::Checksum),
            None if waiting.is_some_and(|end| scanned.last_seq().next() < end) => damaged(Damage::Truncated),
            // It may have no records because a write failed in it and the log went on elsewhere. If records are
            // missing, other segments show it.
            _ if scanned.index.times.is_empty() => {
                Ok(header.map(|_| (first, Seq(first.0.saturating_sub(1)))))
            }
            // It takes no more records and is not waiting for its index, so it should have one, unless its damage is
            // known.
            None if !active
                && waiting.is_none()
                && (scanned.damage.is_empty() || scanned.index.records_end > len_bytes) =>
            {
                damaged(Damage::Truncated)
            }
            _ => Ok(Some((first, scanned.last_seq()))),
        }?;
        match whole {
            Some(Ok(whole)) => *hash = Some(whole),
            // Damage that the records themselves do not show.
            Some(Err(flaw)) if scanned.damage.is_empty() => return Err(flaw),
            _ => {}
        }
        Ok(span)
    }

    /// Checks that a segment is the one that was sealed under its number; it may be whole and still be another.
    fn verify_file(&self, number: u32, hash: Option<Hash>) -> Result<()> {
        if self.places.elsewhere(number).is_some() {
            return Ok(());
        }
        let file = self.places.segments.file(number)?;
        let len_bytes = file.len_bytes().map_err(|e| Error::io("reading", &segment::label(number), e))?;
        let header_crc = scan::read_header(&*file, number, &self.key)?.map(|(_, crc)| crc);
        self.check_file(number, header_crc, len_bytes, hash)
    }

    /// The seq after the last record of a segment that waits for its index.
    fn end_of_full(&self, number: u32) -> Option<Seq> {
        let sequencer = self.sequencer();
        let full = sequencer.full.iter().find(|full| full.number == number)?;
        Some(Seq(full.first_seq.0 + full.times.len() as u64))
    }
}
