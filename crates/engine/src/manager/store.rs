//! The store as a whole: status, verification, upkeep, and shutting down the manager.

use std::time::{Duration, Instant};

use super::{Manager, targets::now};
use crate::{
    api::{
        Compacted, DamagedPlace, Items, Nothing, Problem, Progress, Status, StoreState, StoreStatus,
        TargetInfo, Trouble, Verification, Verified, call,
    },
    calls::Handle,
    error::{Error, Result},
    target::Target,
    timeline::{self, rfc3339},
};

/// With less free space than this, the status has a problem.
const LOW_BYTES: u64 = 1 << 30;

impl Handle<call::Status> for Manager {
    fn handle(&self, _: &call::Status, _: &mut dyn Items<Nothing>) -> Result<Status> {
        let mut targets = Vec::new();
        let mut problems = Vec::new();
        let (mut used_bytes, mut logical_bytes) = (0, 0);
        let (mut state, mut full) = (StoreState::Ok, false);
        // A serving manager does not wait for targets that are being opened, but reports them below.
        for target in if self.serves { self.served() } else { self.targets()? } {
            // A target's failure does not hide the others.
            let status = match target.status() {
                Ok(status) => status,
                Err(why) => {
                    let trouble = Trouble::Unavailable { why: why.failure() };
                    problems.push(Problem::of_target(&target.name, trouble));
                    continue;
                }
            };
            problems
                .extend(target.machine_trouble().map(|trouble| Problem::of_target(&target.name, trouble)));
            used_bytes += target.used_bytes();
            logical_bytes += status.disks.iter().map(|d| d.size_bytes).sum::<u64>();
            problems.extend(status.problems.iter().cloned());
            full |= target.log.is_full();
            for (place, damage) in target.log.damage() {
                let (in_index, place, damage) = (place.is_in_index(), place.to_string(), damage.to_string());
                let trouble = match in_index {
                    true => Trouble::IndexDamaged { place, damage },
                    false => Trouble::Damaged { place, damage },
                };
                problems.push(Problem::of_target(&target.name, trouble));
            }
            if let Err(Error::PresentInDoubt { branch, first, last, .. }) = target.check_present() {
                let trouble = Trouble::PresentInDoubt { branch, first_seq: first.0, last_seq: last.0 };
                problems.push(Problem::of_target(&target.name, trouble));
            }
            for lost in &target.log.catalog().lost {
                let (first_seq, last_seq) = (lost.first.0, lost.last.0);
                let (from, to) = (rfc3339(lost.from), rfc3339(lost.to));
                let trouble = Trouble::RecordsLost { first_seq, last_seq, from, to };
                problems.push(Problem::of_target(&target.name, trouble));
            }
            if let Some(known) = known_damage(&target, status.verified.as_ref()) {
                problems.push(Problem::of_target(&target.name, known));
            }
            // Lack of room is reported once, for the whole store.
            let trouble = target.log.upkeep_trouble();
            if let Some(why) = trouble.filter(|why| !matches!(why, bygone_store::Error::Full { .. })) {
                let why = why.to_string();
                problems.push(Problem::of_target(&target.name, Trouble::UpkeepFails { why }));
            }
            if target.log.is_poisoned() {
                state = StoreState::Failed;
                problems.push(Problem::of_target(&target.name, Trouble::LogPoisoned));
            }
            for disk in status.disks.iter().filter(|d| !d.complete) {
                let trouble = Trouble::NotRead { read_bytes: disk.read_bytes, size_bytes: disk.size_bytes };
                problems.push(Problem::of_disk(&target.name, &disk.id, trouble));
            }
            targets.push(status);
        }
        for name in self.registry.opening() {
            problems.push(Problem::of_target(&name, Trouble::Opening));
        }
        if let Some(why) = self.registry.folder_trouble() {
            problems.push(Problem::of_store(Trouble::NoTargets { why: why.failure() }));
        }
        if let Some(why) = self.shared.children.trouble() {
            problems.push(Problem::of_store(Trouble::NotLookedAt { why }));
        }
        for (name, why) in self.registry.unavailable() {
            problems.push(Problem::of_target(&name, Trouble::Unavailable { why: why.failure() }));
        }
        let free_bytes =
            bygone_store::env::Dir::free_bytes(&bygone_store::env::RealDir::new(self.shared.paths.root()))
                .map_err(|e| Error::file("looking at", self.shared.paths.root(), e))?;
        let options = bygone_store::LogOptions::default();
        if state == StoreState::Ok && (full || free_bytes < options.room_bytes_min()) {
            state = StoreState::Full;
            problems.push(Problem::of_store(Trouble::StoreFull));
        } else if state == StoreState::Ok && free_bytes < LOW_BYTES {
            let full_bytes = options.room_bytes_min();
            problems.push(Problem::of_store(Trouble::StoreLow { free_bytes, full_bytes }));
        }
        let removed_bytes = self.removed_bytes();
        let store = StoreStatus {
            path: self.shared.paths.root().to_owned(),
            used_bytes: used_bytes + removed_bytes,
            removed_bytes,
            logical_bytes,
            free_bytes,
            state,
        };
        Ok(Status { targets, store, problems })
    }
}

/// The damage found by verifications that the log does not report itself.
fn known_damage(target: &Target, verified: Option<&Verification>) -> Option<Trouble> {
    let named: Vec<String> = target.log.damage().iter().map(|(place, _)| place.to_string()).collect();
    let mut known = verified?.damaged.iter().filter(|at| !named.contains(&at.place));
    let first = known.next()?;
    let (place, damage) = (first.place.clone(), first.detail.clone());
    Some(Trouble::DamageKnown { places: 1 + known.count() as u64, place, damage })
}

/// # Errors
/// [`Error::Abandoned`] when the caller no longer waits.
fn wanted(answers: &mut dyn Items<Nothing>) -> Result<()> {
    if answers.wanted() { Ok(()) } else { Err(Error::Abandoned) }
}

pub(super) fn info(target: &Target) -> Result<TargetInfo> {
    Ok(TargetInfo { config: target.config(), status: target.status()? })
}

impl Handle<call::Verify> for Manager {
    fn handle(&self, call: &call::Verify, answers: &mut dyn Items<Nothing>) -> Result<Verified> {
        let targets = match &call.name {
            Some(name) => vec![self.target(name)?],
            None => self.targets()?,
        };
        // No end, if it is later than any clock can tell.
        let end = call.for_s.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        let mut verified = Verified { complete: true, ..Verified::default() };
        for target in targets {
            let doing = format!("checking {}", target.name);
            let report = target.log.verify(call.newest_first, &mut |done_bytes, total_bytes| {
                let wanted = answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes });
                wanted && end.is_none_or(|end| Instant::now() < end)
            });
            // A target that was removed meanwhile is not damaged, although its files are gone.
            if target.is_gone() {
                match call.name.is_some() {
                    true => return Err(Error::NoTarget(target.name.clone())),
                    false => continue,
                }
            }
            let report = match report {
                Ok(report) => report,
                // The others are verified all the same.
                Err(why) if call.name.is_none() && !matches!(why, bygone_store::Error::Abandoned) => {
                    verified.complete = false;
                    let detail = Error::from(why).failure().to_string();
                    verified.damaged.push(DamagedPlace { place: target.name.clone(), detail });
                    continue;
                }
                Err(why) => return Err(why.into()),
            };
            // An index is made anew, so what is damaged in it need not be remembered.
            let of_log = report.damaged.iter().filter(|at| !at.place.is_in_index());
            let found: Vec<(String, String)> =
                of_log.map(|at| (at.place.to_string(), at.damage.to_string())).collect();
            let time = timeline::rfc3339(now());
            if let Err(error) = target.note_verified(&time, report.complete, &found) {
                answers.note(format!("what was found cannot be kept: {}", error.failure()));
            }
            verified.checked_bytes += report.checked_bytes;
            verified.complete &= report.complete;
            verified.damaged.extend(report.damaged.into_iter().map(|damaged| DamagedPlace {
                place: format!("{}: {}", target.name, damaged.place),
                detail: match damaged.place.is_in_index() {
                    true => format!("{} (an index, which can be made anew: nothing is lost)", damaged.damage),
                    false => damaged.damage.to_string(),
                },
            }));
        }
        let unavailable = self.registry.unavailable();
        let chosen =
            unavailable.iter().filter(|(target, _)| call.name.as_ref().is_none_or(|name| name == target));
        verified
            .damaged
            .extend(chosen.map(|(name, why)| DamagedPlace { place: name.clone(), detail: why.to_string() }));
        Ok(verified)
    }
}

impl Handle<call::Compact> for Manager {
    fn handle(&self, call: &call::Compact, answers: &mut dyn Items<Nothing>) -> Result<Compacted> {
        let (mut all, mut failed) = (Compacted { before_bytes: 0, after_bytes: 0 }, None);
        for target in self.targets()? {
            match target.unless_gone(compact(&target, call.dry_run, answers)) {
                Ok(Compacted { before_bytes, after_bytes }) => {
                    all.before_bytes += before_bytes;
                    all.after_bytes += after_bytes;
                }
                // A target that is removed meanwhile does not count.
                Err(Error::NoTarget(_)) => {}
                Err(Error::Abandoned) => return Err(Error::Abandoned),
                // The others are compacted all the same.
                Err(why) => {
                    answers.note(format!("{} cannot be compacted: {}", target.name, why.failure()));
                    failed = failed.or(Some(why));
                }
            }
        }
        failed.map_or(Ok(all), Err)
    }
}

fn compact(target: &Target, dry_run: bool, answers: &mut dyn Items<Nothing>) -> Result<Compacted> {
    let before_bytes = target.log.used_bytes()?;
    if !dry_run {
        let doing = format!("checking the index of {}", target.name);
        let report = target.log.verify_index(&mut |done_bytes, total_bytes| {
            answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes })
        })?;
        wanted(answers)?;
        // Upkeep makes anew what was found.
        while target.log.maintain()? {
            wanted(answers)?;
        }
        wanted(answers)?;
        target.log.checkpoint()?;
        if !report.damaged.is_empty() {
            let left = target.log.verify_index(&mut |_, _| answers.wanted())?.damaged.len();
            wanted(answers)?;
            let found = report.damaged.len();
            answers.note(match left {
                0 => format!(
                    "{}: {found} damaged places of the index were made anew from the log",
                    target.name
                ),
                _ => format!(
                    "{}: {left} damaged places of the index stay, because the log cannot be read there",
                    target.name
                ),
            });
        }
    }
    Ok(Compacted { before_bytes, after_bytes: target.log.used_bytes()? })
}

impl Handle<call::Shutdown> for Manager {
    fn handle(&self, call: &call::Shutdown, _: &mut dyn Items<Nothing>) -> Result<()> {
        self.stop(call.keep_targets);
        Ok(())
    }
}
