//! Reads everything back and checks it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bygone_model::{Seq, VolumeId};

use super::{Log, hashing::Hashed, patched::Patched, recover::MISSING_MAX, scan};
use crate::{
    env::File,
    error::{Damage, Error, Place, Result},
    format::{
        checkpoint::{self, TABLE_STRIPES},
        manifest::Hash,
        page::Page,
        segment,
    },
    index::{
        checkpoint::Checkpoint,
        mended::StripeId,
        tree::{self, PageSource},
    },
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

    /// The same for all indexes only. Upkeep makes anew what is damaged in them.
    ///
    /// # Errors
    /// As [`Log::verify`].
    pub fn verify_index(&self, keep_going: &mut dyn FnMut(u64, u64) -> bool) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let total = self.bytes_in(&[checkpoint::folder()])?;
        let snapshot = self.index.snapshot();
        for &name in &snapshot.names {
            let mut keep_going = |checked| keep_going(checked, total);
            let checked = self.verify_checkpoint(name, &mut BTreeSet::new(), &mut report, &mut keep_going);
            report.note(checked.map_err(|error| self.unless_superseded(error)))?;
            if !keep_going(report.checked_bytes) {
                return Ok(report);
            }
        }
        report.complete = true;
        Ok(report)
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
        for &mut name in names {
            let checked = self.verify_checkpoint(name, &mut begun, &mut report, keep_going);
            report.note(checked)?;
            called_at.set(None);
            if !keep_going(report.checked_bytes) {
                return Ok(report);
            }
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

    fn verify_checkpoint(
        &self,
        name: crate::format::checkpoint::Name,
        begun: &mut BTreeSet<u32>,
        report: &mut VerifyReport,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let checkpoint = self.open_checkpoint(name)?;
        begun.extend(checkpoint.footer.segments.iter().map(|start| start.0));
        let damaged = RefCell::new(BTreeMap::new());
        let checked = self.verify_trees(&checkpoint, &damaged, report, keep_going);
        let damaged = damaged.into_inner().into_iter();
        report.damaged.extend(damaged.map(|(place, damage)| Damaged { place, damage }));
        checked
    }

    /// Checks the rest of a checkpoint. The damaged pages are noted in `damaged`.
    fn verify_trees(
        &self,
        checkpoint: &Checkpoint,
        damaged: &RefCell<BTreeMap<Place, Damage>>,
        report: &mut VerifyReport,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let name = checkpoint.name;
        for block in &checkpoint.footer.events {
            let events = self.index.event_block(name, block);
            if events.as_ref().is_err_and(Error::is_index_damage) {
                self.index.mended.report_file(name.number);
            }
            report.note(events.map(drop))?;
            report.checked_bytes += u64::from(block.block.len_bytes);
            if !keep_going(report.checked_bytes) {
                return Ok(());
            }
        }
        for (volume, tables) in &checkpoint.footer.volumes {
            for (table_index, at) in tables.iter().filter(|table| table.1.file == name.number) {
                let table = match self.index.read_table(*at) {
                    Err(error) if error.is_index_damage() => {
                        if !self.report_table(VolumeId(*volume), *table_index, name.end) {
                            report.note(Err(error))?;
                        }
                        continue;
                    }
                    table => table?,
                };
                let own = |tree: &&crate::format::checkpoint::TreeRef| tree.root.file == name.number;
                for row in &table.rows {
                    for tree in row.deltas.iter().chain(&row.before).chain(&row.after).filter(own) {
                        let (own, stripe) = (RefCell::default(), (VolumeId(*volume), row.stripe));
                        let checked_bytes = Cell::new(report.checked_bytes);
                        let keep_going = RefCell::new(&mut *keep_going);
                        let ended = Cell::new(false);
                        let fresh = FreshPages { log: self, checked_bytes, keep_going, ended, damaged: &own };
                        let result = tree::versions(&fresh, tree.root, &(0..u32::MAX), &mut |_| {});
                        report.checked_bytes = fresh.checked_bytes.get();
                        let (ended, mut own) = (fresh.ended.get(), own.into_inner());
                        let is_damaged = result.as_ref().is_err_and(Error::is_index_damage);
                        // What was rebuilt since is not needed any more.
                        if (is_damaged || !own.is_empty()) && self.report_stripe(stripe, name.end) {
                            own.clear();
                        } else if is_damaged {
                            report.note(result.clone())?;
                        }
                        damaged.borrow_mut().append(&mut own);
                        if ended {
                            return Ok(());
                        }
                        if !is_damaged {
                            result?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Log {
    /// Reports damage in the trees of a stripe that answer for moments up to `end`, unless a whole tree was rebuilt in
    /// their place; returns whether one was.
    fn report_stripe(&self, stripe: StripeId, end: Seq) -> bool {
        let is_whole = |tree: Option<tree::PageRef>| {
            tree.is_none_or(|tree| tree::versions(&self.index, tree, &(0..u32::MAX), &mut |_| {}).is_ok())
        };
        let rebuilt = self.index.rebuilt_tree(stripe, end).is_some_and(is_whole);
        if !rebuilt {
            self.index.mended.report(stripe);
        }
        rebuilt
    }

    /// The same for a table: reports all stripes that are known to be in it.
    fn report_table(&self, volume: VolumeId, index: u32, end: Seq) -> bool {
        let base = self.heads().base.clone();
        let tables = base.as_ref().map_or(&[][..], |base| base.tables(volume));
        let newest = tables.iter().find(|table| table.0 == index);
        let newest = newest.and_then(|table| self.index.read_table(table.1).ok());
        let Some(newest) = newest.filter(|table| !table.rows.is_empty()) else {
            // It is the newest itself. To rebuild one stripe of it is to rebuild all.
            self.index.mended.report((volume, index * TABLE_STRIPES));
            return false;
        };
        let left = newest.rows.iter().filter(|row| !self.report_stripe((volume, row.stripe), end));
        left.count() == 0
    }
}

/// Pages read from the medium and not from the cache. Counts their bytes, and returns none once `keep_going` has
/// stopped it. Notes those that are damaged, and returns empty ones for them, so that the rest of the tree is read.
struct FreshPages<'a, 'b> {
    log: &'a Log,
    checked_bytes: Cell<u64>,
    keep_going: RefCell<&'b mut dyn FnMut(u64) -> bool>,
    ended: Cell<bool>,
    damaged: &'b RefCell<BTreeMap<Place, Damage>>,
}

impl PageSource for FreshPages<'_, '_> {
    fn page(&self, at: tree::PageRef) -> Result<Arc<Page>> {
        let page = self.log.index.read_page(at);
        self.checked_bytes.set(self.checked_bytes.get() + u64::from(at.len_bytes));
        if !(self.keep_going.borrow_mut())(self.checked_bytes.get()) {
            self.ended.set(true);
            return Err(Error::WouldBlock);
        }
        match page {
            Err(Error::Damaged { place, damage }) => {
                self.damaged.borrow_mut().insert(place, damage);
                Ok(Arc::new(Page::new(0, Vec::new(), Vec::new())))
            }
            page => page,
        }
    }
    fn contradiction(&self, at: tree::PageRef) -> Error {
        self.log.index.contradiction(at)
    }
}
