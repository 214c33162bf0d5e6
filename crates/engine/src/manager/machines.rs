//! Running targets and stopping them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bygone_model::{BranchId, Event, Kind, Seq};
use bygone_store::{EventOrder, EventQuery};
use jiff::Zoned;

use super::{Manager, WANTED_EVERY};
use crate::{
    api::{Accelerator, Answers, Items, MomentInfo, Nothing, Started, call},
    calls::{Handle, asked_at},
    config::BadSetting,
    error::{Error, Result},
    history,
    lifecycle::{Change, Request, Verdict},
    machine::{Boot, Machine},
    restore,
    runner::{Step, Stopped},
    target::{Begun, Op, Target},
};

/// How long a target may take to shut down, unless the call says otherwise.
const STOP_PATIENCE_S: u32 = 90;
/// The longest time that a call may give it.
const STOP_DEADLINE_S_MAX: u32 = 24 * 60 * 60;
/// How long `run` waits for a manager that was started for it to adopt the machine.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// How often adopting a machine is tried again.
pub(crate) const ADOPT_EVERY: Duration = Duration::from_secs(1);

/// The branch for a machine.
struct Chosen {
    branch: BranchId,
    from: Option<MomentInfo>,
    /// The branch was made for this run.
    made: bool,
}

fn choose(target: &Arc<Target>, at: Option<&str>, branch: Option<&str>, now: &Zoned) -> Result<Chosen> {
    let catalog = target.log.catalog();
    match (at, branch) {
        (None, None) => Ok(Chosen { branch: catalog.head, from: None, made: false }),
        (None, Some(name)) => {
            let branch = catalog.live_branch(history::branch_named(&catalog, name)?)?.id;
            Ok(Chosen { branch, from: None, made: false })
        }
        (Some(when), made) => {
            let found = target.moment(when, now)?;
            restore::check_moment(target, found.place)?;
            let branch = restore::new_branch(target, found.place, made, "run")?;
            Ok(Chosen { branch, from: Some(found.info(&catalog)), made: true })
        }
    }
}

impl Handle<call::Run> for Manager {
    fn handle(&self, call: &call::Run, answers: &mut dyn Items<Nothing>) -> Result<Started> {
        let target = self.target(&call.name)?;
        // Before the turn is taken: the first probe takes seconds.
        let accelerator = self.shared.launcher.prepare(&self.shared.paths.root().join("run"));
        let elsewhere = call.at.is_some() || call.branch.is_some();
        // A manager that was started for this call adopts machines by itself.
        let end =
            Instant::now() + if answers.caller().began && !elsewhere { BEGIN_MAX } else { Duration::ZERO };
        let op = loop {
            match target.begin(Change::Starting, Request::Run) {
                Ok(Begun::Go(op)) => break op,
                Ok(Begun::Adopt(_)) if elsewhere => return Err(target.left_running()),
                Ok(Begun::Adopt(op)) => {
                    let machine = Machine::adopt(&op)?;
                    drop(op);
                    return running_already(&machine, answers);
                }
                Err(Error::TargetRunning(_) | Error::Busy { .. })
                    if Instant::now() < end && answers.wanted() =>
                {
                    if let Some(machine) = target.machine() {
                        return running_already(&machine, answers);
                    }
                    std::thread::sleep(WANTED_EVERY / 10);
                }
                Err(error) => return Err(error),
            }
        };
        // Before a branch is made for a machine that cannot start here.
        let accelerator = accelerator?;
        let chosen = choose(
            &target,
            call.at.as_deref(),
            call.branch.as_deref(),
            &asked_at(&*self.shared.clock, answers),
        )?;
        let machine = boot(&op, &chosen, call, accelerator);
        // Releases the turn: from here on the machine can be stopped.
        drop(op);
        let started = machine.and_then(|machine| machine.wait_started(&mut || answers.wanted()));
        if chosen.made && started.is_err() {
            drop_unused(&target, chosen.branch);
        } else if chosen.made {
            // The machine runs, or may run: it is not stopped because the event of its branch cannot be written.
            if let Err(error) = restore::note_branch(&target, chosen.branch) {
                answers.note(format!("the log cannot say that its branch was made: {}", error.failure()));
            }
        }
        let lost = if chosen.from.is_some() { Vec::new() } else { target.lost_now(chosen.branch) };
        started.map(|started| Started { lost, ..started })
    }
}

/// Drops the branch that was made for a machine that did not start, unless somebody has used it since: the turn was
/// released meanwhile.
fn drop_unused(target: &Arc<Target>, branch: BranchId) {
    let end = Instant::now() + BEGIN_MAX;
    let dropped = loop {
        match target.begin_change(Change::Dropping, Request::Branches) {
            Err(Error::Busy { .. }) if Instant::now() < end => std::thread::sleep(WANTED_EVERY / 10),
            Err(error) => break Err(error),
            Ok(_op) => break drop_untouched(target, branch),
        }
    };
    if let Err(error) = dropped {
        tracing::error!(target = target.name, %error, "the branch that was made for a machine that did not start stays");
    }
}

fn drop_untouched(target: &Arc<Target>, branch: BranchId) -> Result<()> {
    restore::check_unused(target, branch)?;
    if is_touched(target, branch)? {
        tracing::info!(
            target = target.name,
            "the branch of a machine that did not start stays: it was written to"
        );
        return restore::note_branch(target, branch);
    }
    target.log.drop_branch(branch)?;
    Ok(())
}

/// Whether a branch has an event or a write of its own.
fn is_touched(target: &Target, branch: BranchId) -> Result<bool> {
    let (log, catalog) = (&target.log, target.log.catalog());
    let made = catalog.live_branch(branch)?.made;
    let line = catalog.stretch_of(branch);
    let query = EventQuery { line: Some(&line), after: (made, Seq::MAX), ..EventQuery::default() };
    if !log.find_events(&query, EventOrder::Newest, 1, &mut |_| true)?.is_empty() {
        return Ok(true);
    }
    for volume in catalog.volumes_of(branch, Seq::MAX) {
        if log.is_written_since(volume.id, made)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The answer to `run` for a machine that runs already.
fn running_already(machine: &Machine, answers: &mut dyn Items<Nothing>) -> Result<Started> {
    answers.note(
        match machine.adopted {
            true => "it was running already, and is looked after again",
            false => "it was started meanwhile",
        }
        .to_owned(),
    );
    machine.wait_started(&mut || answers.wanted())
}

fn boot(op: &Op, chosen: &Chosen, call: &call::Run, accelerator: Accelerator) -> Result<Arc<Machine>> {
    let (branch, from) = (chosen.branch, chosen.from.clone());
    let display = call.display.clone().unwrap_or_else(|| op.target().config().display);
    Machine::boot(op, &Boot { branch, from, display, accelerator })
}

impl Handle<call::Wait> for Manager {
    fn handle(&self, call: &call::Wait, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        let target = self.target(&call.name)?;
        wait_until_supervised(&target, answers)?;
        target.wait_stopped(&mut || answers.wanted())
    }
}

/// Waits until a machine that was left running is supervised, or has ended. It is adopted if no other thread does that;
/// if its disks are away, that is tried again until they are back.
///
/// # Errors
/// When it cannot be adopted ever, it cannot be determined whether one runs, the manager is about to end, or the caller
/// no longer waits.
fn wait_until_supervised(target: &Arc<Target>, answers: &mut dyn Answers) -> Result<()> {
    let mut told = false;
    loop {
        match target.check(Request::Stop) {
            Ok(Verdict::Adopt) => {}
            Ok(_) | Err(Error::TargetStopped(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        match target.begin(Change::Starting, Request::Stop).and_then(adopt) {
            // It may have ended meanwhile, or another thread have adopted it: that is looked at again.
            Ok(()) | Err(Error::TargetStopped(_)) => continue,
            Err(
                error @ (Error::ForeignMachine { .. } | Error::UnknownBranch { .. } | Error::ManagerEnding),
            ) => {
                return Err(error);
            }
            Err(error) if !told => {
                told = true;
                answers.note(format!("it was left running, and cannot be adopted yet: {}", error.failure()));
            }
            Err(_) => {}
        }
        let again = Instant::now() + ADOPT_EVERY;
        while Instant::now() < again {
            if !answers.wanted() {
                return Err(Error::Abandoned);
            }
            std::thread::sleep(WANTED_EVERY);
        }
    }
}

/// Adopts a machine that was left running.
fn adopt(begun: Begun) -> Result<()> {
    match begun {
        Begun::Adopt(op) => Machine::adopt(&op).map(drop),
        Begun::Go(_) => Ok(()),
    }
}

impl Handle<call::Stop> for Manager {
    fn handle(&self, call: &call::Stop, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        if let Some(seconds) = call.deadline_s.filter(|seconds| *seconds > STOP_DEADLINE_S_MAX) {
            let (key, value) = ("deadline".to_owned(), seconds.to_string());
            return Err(BadSetting::Value { key, value }.into());
        }
        let target = self.target(&call.name)?;
        if target.check(Request::Stop)? == Verdict::Adopt
            && let Begun::Adopt(op) = target.begin(Change::Starting, Request::Stop)?
        {
            match Machine::adopt(&op) {
                // It is ended whatever is wrong with its disks.
                Err(why) if call.force => {
                    let end = Machine::end_left(&op);
                    answers.note(format!("it could not be adopted: {}", why.failure()));
                    return end;
                }
                adopted => drop(adopted?),
            }
        }
        let machine = target.machine().ok_or_else(|| Error::TargetStopped(call.name.clone()))?;
        stop_machine(&target, &machine, call.force, call.deadline_s, answers)?;
        // It has ended, or holds still until it is ended. This cannot be taken back, so the call is not given up any
        // more: its end is about to be written.
        target.wait_ended(&machine, &mut || true)
    }
}

/// Stops a machine; reports each step.
///
/// # Errors
/// When it can be neither asked nor ended. [`Error::Abandoned`] when the caller no longer waits: the machine goes on,
/// unless its guest shuts down because it was asked before.
pub(crate) fn stop_machine(
    target: &Arc<Target>,
    machine: &Machine,
    force: bool,
    deadline_s: Option<u32>,
    answers: &mut dyn Answers,
) -> Result<()> {
    if force {
        machine.force_stop("force");
        return machine.runner()?.end();
    }
    machine.ask_stop();
    if target.is_paused() {
        answers.note("its writes wait for room, and it cannot shut down before there is some".to_owned());
    }
    let patience = Duration::from_secs(u64::from(deadline_s.unwrap_or(STOP_PATIENCE_S)));
    let stopped = machine.runner()?.stop(patience, &mut |step| {
        let Some(step) = step else { return answers.wanted() };
        let said = match step {
            Step::Resumed => "the machine goes on, to be able to shut down",
            Step::PowerButtonPressed => "asked it to shut down",
            Step::HoldsStill => "it has shut down",
            Step::OutOfPatience => "it did not shut down in time",
            Step::ToldToEnd | Step::Killed => "ending QEMU",
        };
        answers.note(said.to_owned());
        answers.wanted()
    })?;
    if stopped == Stopped::GivenUp {
        machine.take_back_stop();
        return Err(Error::Abandoned);
    }
    if stopped == Stopped::StillRunning {
        let label = format!("the target did not shut down within {} s; forcing it", patience.as_secs());
        // The machine is ended even if the log fails.
        if let Err(error) = target.log.event(machine.branch, &Event::new(Kind::Manager, label)) {
            tracing::error!(target = target.name, %error, "the event could not be written");
        }
        machine.force_stop("deadline");
        machine.runner()?.end()?;
    }
    Ok(())
}
