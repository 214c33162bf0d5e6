//! Whoever holds the log looks for another holder before each file that it changes.
//!
//! Whether a takeover in between does harm is what the tests of takeovers ask. Some looks stand so close together that
//! one of them missing shows in no content; here the order of the steps itself is checked.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bygone_model::{Lba, Sectors};
use bygone_store::{
    BlockWrite, Content, Log, LogOptions, Store,
    format::{manifest, segment},
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, disk, mark, options, segment_in, write};

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Act {
    /// What is listed counts only with a look after it.
    #[default]
    Recovery,
    /// Several files that are removed one after the other are one change.
    Upkeep,
    /// Records go into the active segment without a look.
    Writing,
    /// Something that is not followed.
    Other,
}

/// What the last look covers.
#[derive(Debug, Default)]
enum Covered {
    #[default]
    Nothing,
    AnyFile,
    /// The file that was changed after it.
    File(String),
    /// Files that are removed.
    Removals,
}

#[derive(Debug, Default)]
struct Steps {
    act: Act,
    covered: Covered,
    /// The segment that takes records.
    active: String,
    changed: BTreeSet<String>,
    removed: BTreeSet<String>,
    /// The changes without a look.
    flaws: Vec<String>,
}

/// Follows the looks and the changes of files.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Steps>>);

impl Trace {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No earlier look counts for what comes now.
    fn begin(&self, act: Act) {
        let mut steps = self.steps();
        (steps.act, steps.covered) = (act, Covered::Nothing);
    }

    /// The files that were changed and those that were removed since the last call; all of them after a look.
    fn end(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut steps = self.steps();
        assert_eq!(steps.flaws, [""; 0], "{:?}", steps.act);
        (std::mem::take(&mut steps.changed), std::mem::take(&mut steps.removed))
    }
}

impl Steps {
    fn change(&mut self, name: &str, is_removal: bool) {
        // A manifest's name is the claim itself; the reserve is free space, whoever made it.
        let is_followed = name.starts_with("log/") || name.starts_with("index/");
        let is_record = self.act == Act::Writing && name == self.active;
        if !is_followed || is_record || self.act == Act::Other {
            return;
        }
        let is_covered = match &self.covered {
            Covered::Nothing => false,
            Covered::AnyFile => true,
            Covered::File(file) => file == name,
            Covered::Removals => is_removal,
        };
        if !is_covered {
            self.flaws.push(name.to_owned());
        }
        self.covered = match is_removal && self.act == Act::Upkeep {
            true => Covered::Removals,
            false => Covered::File(name.to_owned()),
        };
        if self.act == Act::Writing {
            name.clone_into(&mut self.active);
        }
        let into = if is_removal { &mut self.removed } else { &mut self.changed };
        into.insert(name.to_owned());
    }
}

impl Watch for Trace {
    fn before_list(&self, folder: &str) {
        let mut steps = self.steps();
        if folder == manifest::folder() {
            steps.covered = Covered::AnyFile;
        } else if steps.act == Act::Recovery {
            steps.covered = Covered::Nothing;
        }
    }
    fn before_change(&self, name: &str) {
        self.steps().change(name, false);
    }
    fn before_remove(&self, name: &str) {
        self.steps().change(name, true);
    }
}

fn of<'a>(names: &'a BTreeSet<String>, folder: &'a str) -> impl Iterator<Item = &'a String> {
    names.iter().filter(move |name| name.starts_with(folder))
}

#[test]
fn recovery_looks_for_another_holder_before_each_file_that_it_changes() {
    let (world, log, volume) = World::make(1 << 20);
    for i in 0..150 {
        write(&log, volume, i * 20, 20, i + 1);
        if i % 15 == 0 {
            log.checkpoint().unwrap();
        }
        while i < 60 && log.maintain().unwrap() {}
    }
    let end = log.flush().unwrap();
    drop(log);
    // Two checkpoints that were never finished, and two segments that were prepared.
    let checkpoints = world.files("index");
    for path in &checkpoints[checkpoints.len() - 2..] {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
    let newest = world.files("log").pop().unwrap();
    let newest = segment_in(&newest).number;
    let prepared = [newest + 1, newest + 2].map(|number| segment::Name { number, term: 1 }.file_name());
    for name in &prepared {
        std::fs::write(world.path(name), [0; 4096]).unwrap();
    }

    let trace = Trace::default();
    let dir = Watched::new(world.folder.path(), trace.clone());
    let log = Log::open(dir, Arc::new(Ticks::from(3_600_000_000)), options(24 << 10)).unwrap();
    let (changed, removed) = trace.end();
    // Acts of all kinds, more than one of each.
    assert!(of(&changed, "log/").count() > 2, "hardened and sealed: {changed:?}");
    assert!(of(&changed, "index/").count() > 2, "hardened and written: {changed:?}");
    assert!(of(&removed, "index/").count() > 1, "removed: {removed:?}");
    assert!(prepared.iter().all(|name| removed.contains(name)), "removed: {removed:?}");
    assert_eq!((log.head_seq(), mark(&log, volume, 149 * 20, end).unwrap()), (end, 150));
}

#[test]
fn upkeep_and_writes_look_for_another_holder_before_each_file_that_they_begin_change_or_remove() {
    let (world, trace) = (World::empty(), Trace::default());
    trace.begin(Act::Writing);
    let dir = Watched::new(world.folder.path(), trace.clone());
    let log = Log::make(dir, Arc::new(Ticks::default()), options(24 << 10), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1 << 20)).unwrap();
    let (mut begun, mut sealed, mut indexed, mut retired) = (0, 0, 0, 0);
    for i in 0..400 {
        trace.begin(Act::Writing);
        // One in many needs two segments.
        write(&log, volume, i % 50 * 20, if i % 40 == 0 { 80 } else { 20 }, i + 1);
        log.flush().unwrap();
        let (changed, _) = trace.end();
        begun += changed.len();
        // Without upkeep now and then, the writers make the segments themselves.
        let mut more = i % 100 < 60;
        if more && i % 3 == 0 {
            trace.begin(Act::Upkeep);
            log.checkpoint().unwrap();
            indexed += of(&trace.end().0, "index/").count();
        }
        while more {
            trace.begin(Act::Upkeep);
            more = log.maintain().unwrap();
            let (changed, removed) = trace.end();
            sealed += of(&changed, "log/").count();
            indexed += of(&changed, "index/").count();
            retired += of(&removed, "index/").count();
        }
    }
    let met = (begun, sealed, indexed, retired);
    assert!(begun > 20 && sealed > 20 && indexed > 10 && retired > 2, "{met:?}");
}

#[test]
fn a_segment_that_ends_early_to_free_memory_is_followed_by_one_that_begins_after_a_look() {
    let (world, trace) = (World::empty(), Trace::default());
    trace.begin(Act::Other);
    let dir = Watched::new(world.folder.path(), trace.clone());
    let store = Arc::new(Store::new(64 << 10, 512 << 10));
    let options = LogOptions { store, checkpoint_entries: 1 << 20, ..options(8 << 20) };
    let log = Log::make(dir, Arc::new(Ticks::default()), options, *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1 << 20)).unwrap();
    let zeroes = |lba| BlockWrite { volume, lba: Lba(lba), content: Content::Zero(Sectors(1)), base: false };
    let mut ended = 0;
    for i in 0..20_000 {
        trace.begin(Act::Other);
        let refused = log.append(&[zeroes(i * 7919 % (1 << 20))]).is_err();
        if refused || i % 1000 == 0 {
            let mut more = true;
            while more {
                trace.begin(Act::Upkeep);
                more = log.maintain().unwrap();
                ended += of(&trace.end().0, "log/").count();
            }
        }
    }
    // None of them was full.
    assert!(ended > 1 && world.files("log").len() > 1, "{ended}");
}
