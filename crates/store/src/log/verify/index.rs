//! Reads the index back and checks it. Whatever is damaged is reported to upkeep, which makes it anew.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use bygone_model::{Seq, VolumeId};

use super::{super::Log, Damaged, VerifyReport};
use crate::{
    error::{Damage, Error, Place, Result},
    format::{
        checkpoint::{self, FRAME_BYTES, Name, TABLE_STRIPES, TableRef},
        page::Page,
    },
    index::{
        checkpoint::Checkpoint,
        mended::StripeId,
        tree::{self, PageRef, PageSource},
    },
};

type KeepGoing<'a> = dyn FnMut(u64) -> bool + 'a;

impl Log {
    /// Like [`Log::verify`], but only for the indexes. Upkeep makes anew what is damaged in them.
    ///
    /// # Errors
    /// As [`Log::verify`].
    pub fn verify_index(&self, keep_going: &mut dyn FnMut(u64, u64) -> bool) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let total = self.bytes_in(&[checkpoint::folder()])?;
        let keep_going = &mut |checked| keep_going(checked, total);
        let (snapshot, mut check) = (self.index.snapshot(), IndexCheck::new(self));
        for &name in &snapshot.names {
            let checked = check.checkpoint(name, &mut BTreeSet::new(), &mut report, keep_going);
            report.note(checked.map_err(|error| self.unless_superseded(error)))?;
            if !keep_going(report.checked_bytes) {
                return Ok(report);
            }
        }
        report.complete = check.rest(&snapshot.names, &mut report, keep_going)?;
        Ok(report)
    }
}

/// Checks checkpoints one after the other.
///
/// Each checkpoint answers for the pages in its own file, so that all are read once. But the trees of a file that cannot
/// be opened, or was written again, are not all known to the checkpoint of that file any more, and later ones may still
/// refer to them: those are checked at the end.
pub(super) struct IndexCheck<'a> {
    log: &'a Log,
    /// The files of which the own checkpoint does not know all.
    in_part: BTreeSet<u32>,
}

/// A part of the check: the trees and tables of one checkpoint in some files.
struct Part<'a, 'b> {
    checkpoint: &'a Checkpoint,
    is_in: &'a dyn Fn(u32) -> bool,
    /// What was checked already.
    seen: &'a mut HashSet<PageRef>,
    damaged: &'a mut BTreeMap<Place, Damage>,
    report: &'a mut VerifyReport,
    keep_going: &'a mut KeepGoing<'b>,
    /// Where the first page that was read is in the checkpoint's own file.
    first: u64,
}

impl IndexCheck<'_> {
    pub(super) fn new(log: &Log) -> IndexCheck<'_> {
        IndexCheck { log, in_part: BTreeSet::new() }
    }

    /// Checks what is in the file of a checkpoint. The segments that it names are added to `begun`.
    pub(super) fn checkpoint(
        &mut self,
        name: Name,
        begun: &mut BTreeSet<u32>,
        report: &mut VerifyReport,
        keep_going: &mut KeepGoing<'_>,
    ) -> Result<()> {
        let checkpoint = self.log.open_checkpoint(name).inspect_err(|_| {
            self.in_part.insert(name.number);
        })?;
        begun.extend(checkpoint.footer.segments.iter().map(|start| start.0));
        for block in &checkpoint.footer.events {
            let events = self.log.index.event_block(name, block);
            if events.as_ref().is_err_and(Error::is_index_damage) {
                self.log.index.mended.report_file(name.number);
            }
            report.note(events.map(drop))?;
            report.checked_bytes += u64::from(block.block.len_bytes);
            if !keep_going(report.checked_bytes) {
                return Ok(());
            }
        }
        let (seen, mut damaged) = (&mut HashSet::new(), BTreeMap::new());
        let (is_in, first) = (&|file| file == name.number, u64::MAX);
        let mut part =
            Part { checkpoint: &checkpoint, is_in, seen, damaged: &mut damaged, report, keep_going, first };
        let checked = self.log.verify_trees(&mut part);
        // The first page of a file is right behind its header, unless older ones were kept in front of it.
        if part.first > FRAME_BYTES as u64 && part.first != u64::MAX {
            self.in_part.insert(name.number);
        }
        report.damaged.extend(damaged.into_iter().map(|(place, damage)| Damaged { place, damage }));
        checked.map(drop)
    }

    /// Checks what of some files only later checkpoints know; returns false if `keep_going` did.
    pub(super) fn rest(
        &self,
        names: &[Name],
        report: &mut VerifyReport,
        keep_going: &mut KeepGoing<'_>,
    ) -> Result<bool> {
        if self.in_part.is_empty() {
            return Ok(true);
        }
        let (mut seen, mut damaged, mut going) = (HashSet::new(), BTreeMap::new(), true);
        for &name in names {
            // If it cannot be opened, that was reported.
            let Ok(checkpoint) = self.log.index.open(name) else { continue };
            let is_in = |file| file != name.number && self.in_part.contains(&file);
            let (seen, damaged, report) = (&mut seen, &mut damaged, &mut *report);
            let (checkpoint, is_in, first) = (&checkpoint, &is_in, u64::MAX);
            let mut part =
                Part { checkpoint, is_in, seen, damaged, report, keep_going: &mut *keep_going, first };
            going = self.log.verify_trees(&mut part)?;
            if !going {
                break;
            }
        }
        report.damaged.extend(damaged.into_iter().map(|(place, damage)| Damaged { place, damage }));
        Ok(going)
    }
}

impl Log {
    /// Checks a part of the trees and tables of a checkpoint; returns false if `keep_going` did.
    fn verify_trees(&self, part: &mut Part<'_, '_>) -> Result<bool> {
        let (name, is_in) = (part.checkpoint.name, part.is_in);
        for (volume, tables) in &part.checkpoint.footer.volumes {
            // The trees of a table in another file are those of another checkpoint too.
            for of in tables.iter().filter(|table| table.1.file == name.number || is_in(table.1.file)) {
                let table = match self.index.read_table(of.1) {
                    Err(error) if error.is_index_damage() => {
                        let is_new = is_in(of.1.file) && part.seen.insert(of.1);
                        if is_new && !self.report_table((VolumeId(*volume), *of), name.end) {
                            part.report.note(Err(error))?;
                        }
                        continue;
                    }
                    table => table?,
                };
                for row in &table.rows {
                    for tree in row.trees().filter(|tree| is_in(tree.root.file)) {
                        let is_new = part.seen.insert(tree.root);
                        if is_new && !self.verify_tree((VolumeId(*volume), row.stripe), tree.root, part)? {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    fn verify_tree(&self, stripe: StripeId, root: PageRef, part: &mut Part<'_, '_>) -> Result<bool> {
        let name = part.checkpoint.name;
        let fresh = FreshPages {
            log: self,
            own: name.number,
            first: Cell::new(part.first),
            checked_bytes: Cell::new(part.report.checked_bytes),
            keep_going: RefCell::new(&mut *part.keep_going),
            ended: Cell::new(false),
            damaged: RefCell::default(),
        };
        let result = tree::versions(&fresh, root, &(0..u32::MAX), &mut |_| {});
        (part.report.checked_bytes, part.first) = (fresh.checked_bytes.get(), fresh.first.get());
        let (ended, damaged) = (fresh.ended.get(), fresh.damaged.into_inner());
        let is_damaged = result.as_ref().is_err_and(Error::is_index_damage);
        // What was rebuilt since is not needed any more.
        if (is_damaged || !damaged.is_empty()) && !self.report_tree(stripe, root, name.end) {
            part.damaged.extend(damaged);
            part.report.note(if is_damaged { result.clone() } else { Ok(()) })?;
        }
        if ended {
            return Ok(false);
        }
        if is_damaged { Ok(true) } else { result.map(|()| true) }
    }

    /// Reports a damaged tree of a checkpoint that ends at `end`, unless it is not needed any more; returns whether that
    /// is so.
    fn report_tree(&self, stripe: StripeId, tree: PageRef, end: Seq) -> bool {
        let replaced = self.index.is_replaced(stripe, tree, end);
        if !replaced {
            self.index.mended.report(stripe);
        }
        replaced
    }

    /// The same for a damaged table: reports all stripes that are known to be in it.
    fn report_table(&self, (volume, table): (VolumeId, TableRef), end: Seq) -> bool {
        let base = self.heads().base.clone();
        let tables = base.as_ref().map_or(&[][..], |base| base.tables(volume));
        let newest = tables.iter().find(|newest| newest.0 == table.0 && newest.1 != table.1);
        let newest = newest.and_then(|newest| self.index.read_table(newest.1).ok());
        let Some(newest) = newest.filter(|newest| !newest.rows.is_empty()) else {
            // It is the newest itself. To rebuild one stripe of it is to rebuild all.
            self.index.mended.report((volume, table.0 * TABLE_STRIPES));
            return false;
        };
        let left = newest.rows.iter().filter(|row| !self.report_tree((volume, row.stripe), table.1, end));
        left.count() == 0
    }
}

/// Pages read from the medium and not from the cache. Counts their bytes, and returns none once `keep_going` has
/// stopped it. Notes those that are damaged, and returns empty ones for them, so that the rest of the tree is read.
struct FreshPages<'a, 'b, 'c> {
    log: &'a Log,
    own: u32,
    /// The lowest offset of a page in file `own`.
    first: Cell<u64>,
    checked_bytes: Cell<u64>,
    keep_going: RefCell<&'b mut KeepGoing<'c>>,
    ended: Cell<bool>,
    damaged: RefCell<BTreeMap<Place, Damage>>,
}

impl PageSource for FreshPages<'_, '_, '_> {
    fn page(&self, at: PageRef) -> Result<Arc<Page>> {
        if at.file == self.own {
            self.first.set(self.first.get().min(at.offset));
        }
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
    fn contradiction(&self, at: PageRef) -> Error {
        self.log.index.contradiction(at)
    }
}
