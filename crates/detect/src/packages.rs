//! Transactions of package managers: installs, upgrades and removals, with the moment before the first write of each.

use std::collections::BTreeMap;

use bygone_files::{Action, Change, Database, PackageManager, PackageState, changes};
use bygone_model::{At, Event, Kind, Micros, Seq};
use serde_json::json;

#[cfg(test)]
mod tests;

/// A volume: its disk, and its first byte on it.
pub type VolumePlace = (String, u64);

/// What volumes say at a glance of the software on them. One that is not there could not be read at that moment.
pub type Sight = BTreeMap<VolumePlace, u64>;

/// The past of a machine's disks.
pub trait Past {
    /// Why a moment cannot be looked at.
    type Error;

    /// What the volumes say at a glance, as of a moment.
    ///
    /// # Errors
    /// When they cannot be looked at.
    fn glance(&mut self, at: Seq) -> Result<Sight, Self::Error>;

    /// The databases of all volumes that can be read, as of a moment.
    ///
    /// # Errors
    /// When they cannot be looked at.
    fn software(&mut self, at: Seq) -> Result<BTreeMap<VolumePlace, Vec<Database>>, Self::Error>;
}

/// How long nothing may change before a transaction is over.
const QUIET_MICROS: i64 = 3_000_000;
/// The same where a package is only half installed: it may be a long script, or was given up.
const HALF_DONE_MICROS: i64 = 120_000_000;
/// Of so many packages an event names the change; it says how many there are.
const NAMED_MAX: usize = 100;
/// So many are named in its label.
const LABEL_PACKAGES_MAX: usize = 3;
const LABEL_WORD_CHARS_MAX: usize = 48;

/// A transaction that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The moment before its first write.
    pub before: Seq,
    /// The moment at which it was over, or was seen not to go on.
    pub after: Seq,
    /// The volume with the database.
    pub volume: VolumePlace,
    /// The package manager.
    pub manager: PackageManager,
    /// What changed; never empty.
    pub changes: Vec<Change>,
}

/// Watches the software of one machine.
#[derive(Debug)]
pub struct Watcher {
    settled: State,
    open: Option<Open>,
}

/// A moment at which no transaction was in progress, as far as it showed.
#[derive(Debug)]
struct State {
    at: Seq,
    sight: Sight,
    software: BTreeMap<VolumePlace, Vec<Database>>,
}

/// A transaction in progress.
#[derive(Debug)]
struct Open {
    before: Seq,
    sight: Sight,
    changed: Micros,
}

/// Whether two sights differ in a volume that both have.
fn differ(a: &Sight, b: &Sight) -> bool {
    a.iter().any(|(volume, glance)| b.get(volume).is_some_and(|other| other != glance))
}

impl Watcher {
    /// Begins at a moment.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn begin<P: Past>(past: &mut P, at: Seq) -> Result<Watcher, P::Error> {
        let settled = State { at, sight: past.glance(at)?, software: past.software(at)? };
        Ok(Watcher { settled, open: None })
    }

    /// From where on it would have to begin again.
    #[must_use]
    pub fn settled_at(&self) -> Seq {
        self.settled.at
    }

    /// Whether a transaction is in progress.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Looks at the moment `at`, which is not earlier than the one before and whose time is `time`. Returns transactions
    /// that are over. If it is the last look (`is_last`), none goes on.
    ///
    /// # Errors
    /// When a moment cannot be looked at. Another look takes up where this one began.
    pub fn look<P: Past>(
        &mut self,
        past: &mut P,
        (at, time): (Seq, Micros),
        is_last: bool,
    ) -> Result<Vec<Transaction>, P::Error> {
        let sight = past.glance(at)?;
        match &mut self.open {
            None if !differ(&self.settled.sight, &sight) => {
                // Of a volume that cannot be read now it is not known whether it still is as it was.
                if self.settled.sight.keys().all(|volume| sight.contains_key(volume)) {
                    self.settled.at = at;
                }
                // What can be read now and could not before is compared from here on.
                let fresh: Vec<_> = sight
                    .keys()
                    .filter(|volume| !self.settled.sight.contains_key(*volume))
                    .cloned()
                    .collect();
                if !fresh.is_empty() {
                    let mut software = past.software(at)?;
                    for volume in fresh {
                        if let (Some(glance), Some(databases)) =
                            (sight.get(&volume), software.remove(&volume))
                        {
                            self.settled.sight.insert(volume.clone(), *glance);
                            self.settled.software.insert(volume, databases);
                        }
                    }
                }
                return Ok(Vec::new());
            }
            None => {
                let before = self.last_same(past, at, &sight)?;
                self.open = Some(Open { before, sight, changed: time });
            }
            Some(open) if differ(&open.sight, &sight) => {
                open.sight.extend(sight);
                open.changed = time;
            }
            Some(_) => {}
        }
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        // A clock that was set back does not keep it open.
        let quiet = time.0.saturating_sub(open.changed.0);
        if !is_last && (0..QUIET_MICROS).contains(&quiet) {
            return Ok(Vec::new());
        }
        let software = past.software(at)?;
        let settled = &self.settled.sight;
        let mut changed = open
            .sight
            .iter()
            .filter(|(volume, glance)| settled.get(*volume).is_some_and(|old| old != *glance));
        if !is_last && changed.any(|(volume, _)| !software.contains_key(volume)) {
            return Ok(Vec::new());
        }
        if !is_last
            && (0..HALF_DONE_MICROS).contains(&quiet)
            && is_half_done(&software, &self.settled.software)
        {
            return Ok(Vec::new());
        }
        Ok(self.settle(at, software))
    }

    /// The last moment at which the volumes that differ at `differs`, where `sight` is seen, are known to be as they were.
    /// Where one cannot be read it is not known, so the moment may be an earlier one, but never one that has the change.
    fn last_same<P: Past>(&self, past: &mut P, differs: Seq, sight: &Sight) -> Result<Seq, P::Error> {
        let settled = &self.settled.sight;
        let watched =
            settled.iter().filter(|(volume, glance)| sight.get(*volume).is_some_and(|now| now != *glance));
        let watched: Vec<_> = watched.collect();
        let (mut same, mut differs) = (self.settled.at.0, differs.0);
        while differs - same > 1 {
            let middle = same + (differs - same) / 2;
            let then = past.glance(Seq(middle))?;
            if watched.iter().all(|(volume, glance)| then.get(*volume) == Some(*glance)) {
                same = middle;
            } else {
                differs = middle;
            }
        }
        Ok(Seq(same))
    }

    /// Ends the transaction in progress: what is there now is the new settled state.
    fn settle(&mut self, at: Seq, software: BTreeMap<VolumePlace, Vec<Database>>) -> Vec<Transaction> {
        let Some(Open { before, sight, .. }) = self.open.take() else { return Vec::new() };
        let mut transactions = Vec::new();
        for (volume, databases) in software {
            let then = self.settled.software.get(&volume);
            for database in then.is_some().then_some(&databases).into_iter().flatten() {
                let manager = database.manager;
                let empty = Database { manager, packages: Vec::new() };
                let then =
                    then.into_iter().flatten().find(|other| other.manager == manager).unwrap_or(&empty);
                let changes = changes(then, database);
                if !changes.is_empty() {
                    let volume = volume.clone();
                    transactions.push(Transaction { before, after: at, volume, manager, changes });
                }
            }
            if let Some(glance) = sight.get(&volume) {
                self.settled.sight.insert(volume.clone(), *glance);
                self.settled.software.insert(volume, databases);
            }
        }
        self.settled.at = at;
        transactions
    }
}

/// Whether a package is half installed that was not before.
fn is_half_done(
    now: &BTreeMap<VolumePlace, Vec<Database>>,
    before: &BTreeMap<VolumePlace, Vec<Database>>,
) -> bool {
    now.iter().any(|(volume, databases)| {
        databases.iter().any(|database| {
            let then =
                before.get(volume).into_iter().flatten().find(|other| other.manager == database.manager);
            let half_done = |package: &&bygone_files::Package| package.state == PackageState::Incomplete;
            let known = |package| then.is_some_and(|then| then.packages.binary_search(package).is_ok());
            database.packages.iter().filter(half_done).any(|package| !known(package))
        })
    })
}

impl Transaction {
    /// Whether all packages of it are completely installed or removed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.changes.iter().all(|change| change.state != PackageState::Incomplete)
    }

    /// What happened, in words.
    #[must_use]
    pub fn label(&self) -> String {
        // What a person did comes before what came with it, and that is not known; but upgrades are many and installs few.
        let rank = |change: &Change| match change.action {
            Action::Installed => 0,
            Action::Removed | Action::Purged => 1,
            Action::Upgraded | Action::Downgraded | Action::Changed => 2,
        };
        let mut changes: Vec<&Change> = self.changes.iter().collect();
        changes.sort_by_key(|change| rank(change));
        let named = changes.iter().take(LABEL_PACKAGES_MAX).map(|change| words(change));
        let mut label = named.collect::<Vec<_>>().join(", ");
        if let Some(more) = changes.len().checked_sub(LABEL_PACKAGES_MAX).filter(|more| *more > 0) {
            label = format!("{label} and {more} more");
        }
        if !self.is_complete() {
            label.push_str(" (not completed)");
        }
        label
    }

    /// The event of it; `time` is that of the moment before it.
    #[must_use]
    pub fn event(&self, time: Micros) -> Event {
        let named: Vec<_> = self
            .changes
            .iter()
            .take(NAMED_MAX)
            .map(|change| {
                json!({
                    "action": change.action.to_string(),
                    "name": change.name,
                    "arch": change.arch,
                    "before": change.before,
                    "after": change.after,
                })
            })
            .collect();
        Event::new(Kind::Package, self.label())
            .at(At::exactly(self.before, time))
            .with("manager", self.manager.to_string())
            .with("disk", self.volume.0.as_str())
            .with("changes", named)
            .with("packages", self.changes.len())
            .with("complete", self.is_complete())
            .with("after_seq", self.after.0)
    }
}

/// A change in words.
fn words(change: &Change) -> String {
    let short = |text: &str| text.chars().take(LABEL_WORD_CHARS_MAX).collect::<String>();
    let (name, action) = (short(&change.name), change.action);
    match (action, &change.before, &change.after) {
        (Action::Installed, _, Some(version)) => format!("{action} {name} {}", short(version)),
        (Action::Upgraded | Action::Downgraded, Some(old), Some(new)) => {
            format!("{action} {name} {} to {}", short(old), short(new))
        }
        _ => format!("{action} {name}"),
    }
}
