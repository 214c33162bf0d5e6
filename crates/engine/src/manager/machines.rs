//! Running targets and stopping them.

use std::{sync::Arc, time::Duration};

use bygone_model::{Event, Kind, Seq, when::WholeDay};
use bygone_qemu as qemu;

use super::Manager;
use crate::{
    api::{Items, MomentInfo, Nothing, Started, call},
    calls::Handle,
    error::{Error, Result},
    history::LogHistory,
    machine::{Boot, Machine},
    restore,
    target::{Target, lock},
};

/// How long a target may take to shut down unless told otherwise.
const STOP_PATIENCE_S: u32 = 90;

impl Manager {
    /// KVM where it really works, else TCG.
    fn accel(&self) -> Result<qemu::Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let qemu_path = qemu::find_qemu()?;
        let finding = qemu::accel::probe(&qemu_path, &self.paths.root().join("run"), qemu::accel::PROBE_MAX)?;
        tracing::info!(accelerator = %finding.accel(), "{}", finding.explain());
        Ok(*self.accel.get_or_init(|| finding.accel()))
    }
}

impl Handle<call::Run> for Manager {
    fn handle(&self, call: &call::Run, _: &mut dyn Items<Nothing>) -> Result<Started> {
        let target = self.target(&call.name)?;
        if target.is_running() {
            return Err(Error::TargetRunning(call.name.clone()));
        }
        let accel = self.accel()?;
        let catalog = target.log.catalog();
        let (branch, from) = match (&call.at, call.branch.as_deref()) {
            (None, None) => (catalog.head, None),
            (None, Some(branch)) => (catalog.branch_named(branch)?.id, None),
            (Some(when), made) => {
                let found = LogHistory::new(&target.log, catalog.head).find(when, WholeDay::Refuse)?;
                let on = match &found.branch {
                    Some(name) => catalog.branch_named(name)?.id,
                    None => catalog.head,
                };
                for volume in catalog.volumes_of(on, Seq::MAX) {
                    target.check_exact(volume.id, found.seq)?;
                }
                let made = restore::new_branch(&target, on, found.seq, made, "run")?;
                (target.log.catalog().branch_named(&made)?.id, Some(found.seq))
            }
        };
        let display = call.display.clone().unwrap_or_default();
        Machine::boot(&target, &Boot { branch, from, display, accel })
    }
}

impl Handle<call::Wait> for Manager {
    fn handle(&self, call: &call::Wait, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        self.target(&call.name)?.wait_stopped(&mut || answers.wanted())
    }
}

impl Handle<call::Stop> for Manager {
    fn handle(&self, call: &call::Stop, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        let target = self.target(&call.name)?;
        let machine = lock(&target.machine).clone().ok_or_else(|| Error::TargetStopped(call.name.clone()))?;
        stop_machine(&target, &machine, call.force, call.deadline_s, &mut |text| answers.note(text))?;
        drop(machine);
        target.wait_stopped(&mut || true)
    }
}

/// Stops a machine; says each step.
pub(crate) fn stop_machine(
    target: &Arc<Target>,
    machine: &Machine,
    force: bool,
    deadline_s: Option<u32>,
    say: &mut dyn FnMut(String),
) -> Result<()> {
    if force {
        machine.ask_stop("force");
        machine.vm.end(|_| {})?;
        return Ok(());
    }
    machine.ask_stop("shutdown");
    if target.is_paused() {
        say("its writes wait for room, and it cannot shut down before there is some".to_owned());
    }
    let patience = Duration::from_secs(u64::from(deadline_s.unwrap_or(STOP_PATIENCE_S)));
    let stopped = machine.vm.stop(patience, false, |step| {
        say(match step {
            qemu::Step::Resumed => "the machine goes on, to be able to shut down".to_owned(),
            qemu::Step::PowerButtonPressed => "asked it to shut down".to_owned(),
            qemu::Step::HoldsStill => "it holds still".to_owned(),
            qemu::Step::OutOfPatience => "it did not shut down in time".to_owned(),
            qemu::Step::ToldToEnd | qemu::Step::Killed => "ending QEMU".to_owned(),
        });
    })?;
    if stopped == qemu::Stopped::StillRunning {
        let label = format!("the target did not shut down within {} s; forcing it", patience.as_secs());
        target.log.event(machine.branch, &Event::new(Kind::Manager, label))?;
        machine.ask_stop("deadline");
        machine.vm.end(|_| {})?;
    }
    Ok(())
}
