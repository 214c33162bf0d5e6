//! Finds out what package managers do to a running machine, from its disks alone.
//!
//! A thread for each machine looks at the newest moment now and then, through a [confined child](crate::child), and
//! writes an event for each transaction. It reads history and nothing else: no write waits for it, and it opens no disk.
//! How often it looks depends on what a look costs, so that it takes a small part of one processor whatever is on the
//! disks. Where it is later, its events still name the exact moment.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_block::AsOfDevice;
use bygone_detect::{Past, Sight, Transaction, VolumePlace, Watcher};
use bygone_files::Database;
use bygone_model::{BranchId, Seq};

use crate::{
    child::{ChildError, Surveyor},
    error::Error,
    file_systems::Device,
    machine::Machine,
    target::Target,
    timeline,
};

/// The shortest time between two looks, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A pause is so many times as long as the look before it.
const PAUSES_PER_LOOK: u32 = 40;
/// The pause while a look costs a checkpoint, because the target writes much.
const PAUSE_BUSY: Duration = Duration::from_secs(10);
/// How long a thread sleeps until it looks whether its machine still runs.
const TICK: Duration = Duration::from_millis(250);
/// How often the place is kept from which a later manager goes on.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// The name of its cursor.
const CURSOR: &str = "software";

/// The threads of a manager that watch software. None begins before [`Watching::begin`]: a command without a manager ends
/// too soon for that.
#[derive(Default)]
pub(crate) struct Watching {
    begun: AtomicBool,
    at_work: AtomicUsize,
}

/// A thread at work.
struct AtWork(Arc<Watching>);

impl Watching {
    /// Machines that start or are adopted from now on are watched.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// Waits until no thread is at work any more, for at most `max`. Returns whether that is so.
    pub(crate) fn wait_until_idle(&self, max: Duration) -> bool {
        let end = Instant::now() + max;
        while self.at_work.load(Ordering::Acquire) > 0 {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(TICK / 10);
        }
        true
    }

    fn enter(self: &Arc<Self>) -> Option<AtWork> {
        self.begun.load(Ordering::Acquire).then(|| {
            self.at_work.fetch_add(1, Ordering::AcqRel);
            AtWork(self.clone())
        })
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Watches the software on a machine's disks until the machine has ended.
pub(crate) fn watch(target: &Arc<Target>, machine: &Arc<Machine>) {
    let Some(at_work) = target.shared.watching.enter() else { return };
    let (owner, weak) = (Arc::downgrade(target), Arc::downgrade(machine));
    let (branch, adopted) = (machine.branch, machine.adopted);
    let thread = std::thread::Builder::new().name(format!("software {}", target.name));
    let from =
        if adopted { target.log.kept_cursor(CURSOR).map_or(Seq::ZERO, |kept| kept.seq) } else { Seq::ZERO };
    // An older place is none of this machine's.
    let from = Some(from).filter(|seq| *seq > Seq::ZERO).unwrap_or_else(|| target.log.head_seq());
    let follow = move || {
        let _at_work = at_work;
        Follower::new(branch, from).run(&owner, &weak);
    };
    if let Err(error) = thread.spawn(follow) {
        tracing::warn!(target = target.name, %error, "what is installed on it will not be noticed");
    }
}

/// Why a moment could not be looked at.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Log(#[from] Error),
    #[error(transparent)]
    Child(#[from] ChildError),
}

type Result<T> = std::result::Result<T, LookError>;

struct Follower {
    branch: BranchId,
    /// From where a later one would go on.
    from: Seq,
    watcher: Option<Watcher>,
    /// The newest moment that was looked at.
    seen: Seq,
    kept: Instant,
    /// Why the last look failed.
    trouble: Option<String>,
}

impl Follower {
    fn new(branch: BranchId, from: Seq) -> Follower {
        Follower { branch, from, watcher: None, seen: Seq::ZERO, kept: Instant::now(), trouble: None }
    }

    fn run(mut self, target: &Weak<Target>, machine: &Weak<Machine>) {
        let mut due = Instant::now();
        loop {
            let Some(target) = target.upgrade() else { return };
            // It ends before the target gets another one, or is removed.
            let has_ended = machine.upgrade().is_none_or(|machine| machine.has_ended());
            if has_ended || (Instant::now() >= due && !target.shared.is_closing()) {
                let began = Instant::now();
                self.step(&target, has_ended);
                let busy = target.log.view_needs_checkpoint();
                let pause = (began.elapsed() * PAUSES_PER_LOOK).clamp(PAUSE_MIN, PAUSE_MAX);
                due = Instant::now() + if busy { pause.max(PAUSE_BUSY) } else { pause };
            }
            if has_ended || target.shared.is_closing() {
                self.keep(&target);
                return;
            }
            drop(target);
            std::thread::sleep(TICK);
        }
    }

    fn step(&mut self, target: &Arc<Target>, is_last: bool) {
        let at = target.log.head_seq();
        if at == self.seen && !is_last && !self.watcher.as_ref().is_some_and(Watcher::is_open) {
            return;
        }
        match self.look(target, at, is_last) {
            Ok(()) => (self.seen, self.trouble) = (at, None),
            Err(error) => {
                let why = error.to_string();
                if self.trouble.as_ref() != Some(&why) {
                    tracing::warn!(target = target.name, why, "what is installed on it cannot be seen");
                    self.trouble = Some(why);
                }
            }
        }
        if self.kept.elapsed() >= KEEP_EVERY {
            self.keep(target);
        }
    }

    fn look(&mut self, target: &Arc<Target>, at: Seq, is_last: bool) -> Result<()> {
        let mut past =
            Disks { target, branch: self.branch, surveyor: target.shared.children.patient_surveyor() };
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(Watcher::begin(&mut past, self.from)?),
        };
        let time = target.log.time_of(at).map_err(Error::from)?;
        for transaction in watcher.look(&mut past, (at, time), is_last)? {
            self.note(target, &transaction)?;
        }
        Ok(())
    }

    fn note(&self, target: &Target, transaction: &Transaction) -> Result<()> {
        let time = target.log.time_of(transaction.before).map_err(Error::from)?;
        let event = transaction.event(time);
        tracing::info!(target = target.name, label = event.label, "software was changed");
        timeline::write(&target.log, self.branch, event)?;
        Ok(())
    }

    /// Keeps the place from which another follower would go on.
    fn keep(&mut self, target: &Target) {
        self.kept = Instant::now();
        let settled = self.watcher.as_ref().map(Watcher::settled_at);
        let Some(settled) = settled.filter(|at| *at > self.from) else { return };
        match target.log.keep_cursor(CURSOR, settled) {
            Ok(()) => self.from = settled,
            Err(error) => {
                tracing::debug!(target = target.name, %error, "it cannot be kept how far was looked");
            }
        }
    }
}

/// The disks of a branch, as of any moment.
struct Disks<'a> {
    target: &'a Target,
    branch: BranchId,
    surveyor: Surveyor<'a>,
}

impl<'a> Disks<'a> {
    /// Calls `look` with each disk whose content at a moment is known.
    fn each<T>(
        &mut self,
        at: Seq,
        mut look: impl FnMut(&mut Surveyor<'a>, &Device<'_>) -> std::result::Result<Vec<T>, ChildError>,
    ) -> Result<Vec<(String, T)>> {
        let (log, catalog) = (&self.target.log, self.target.log.catalog());
        let mut found = Vec::new();
        for volume in catalog.volumes_of(self.branch, at).filter(|volume| catalog.is_exact(volume.id, at)) {
            let disk = catalog.disk_of(volume.id).map_err(Error::from)?;
            let view = log.view(volume.id, at).map_err(Error::from)?;
            let past = AsOfDevice::new(log.clone(), view, disk.block_bytes);
            match look(&mut self.surveyor, &Device(&past)) {
                Ok(answers) => found.extend(answers.into_iter().map(|answer| (disk.name.clone(), answer))),
                Err(ChildError::Failed(why)) => {
                    tracing::debug!(disk = disk.name, why, "it cannot be looked at");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

impl Past for Disks<'_> {
    type Error = LookError;

    fn glance(&mut self, at: Seq) -> Result<Sight> {
        let found = self.each(at, |surveyor, disk| surveyor.glances(disk))?;
        Ok(found.into_iter().filter_map(|(disk, said)| Some(((disk, said.start), said.glance?))).collect())
    }

    fn software(&mut self, at: Seq) -> Result<BTreeMap<VolumePlace, Vec<Database>>> {
        let found = self.each(at, |surveyor, disk| surveyor.software(disk))?;
        Ok(found.into_iter().filter_map(|(disk, said)| Some(((disk, said.start), said.databases?))).collect())
    }
}
