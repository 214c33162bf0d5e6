//! Machines: `run`, `console`, `stop`.

use bygone_api::{call, config::Display};
use clap::Args;

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    error::{Result, check_whole},
    manager,
    session::Session,
    show, values,
};

/// `run`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Boot a target in QEMU, now or from a past moment. Nothing is copied first: it runs from the store at once.

From a past moment it runs on a branch of its own; the present stays as it is, and `bygone branch promote` makes the \
branch the present. What it writes there is kept as well.

Without a running manager, one is started in the background for as long as it is needed.",
    after_long_help = "\
Examples:
  bygone run web
  bygone run web --console                          and attach to its serial console
  bygone run web --at 'last shutdown'               as it was then, on a new branch
  bygone run web --at 'point:before the migration' --branch try-1
  bygone run web --branch try-1                     go on with that branch
  bygone run web --wait                             return when it has stopped"
)]
pub(crate) struct Run {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// From which moment; the present unless given
    #[arg(long, value_name = "WHEN", add = ArgValueCandidates::new(complete::moments))]
    at: Option<String>,
    /// On which branch; with --at, what the new branch is called
    #[arg(long, value_name = "B", add = ArgValueCandidates::new(complete::branches))]
    branch: Option<String>,
    /// What its user sees, instead of the target's own setting: none, gtk (a window) or vnc:ADDRESS
    #[arg(long, value_name = "DISPLAY", value_parser = values::display)]
    display: Option<Display>,
    /// Attach to its serial console once it runs
    #[arg(long)]
    console: bool,
    /// Wait until it has stopped, and say when that was
    #[arg(long)]
    wait: bool,
}

impl Run {
    pub(crate) fn call(&self) -> call::Run {
        call::Run {
            name: self.name.clone(),
            at: self.at.clone(),
            branch: self.branch.clone(),
            display: self.display.clone(),
        }
    }
}

/// `console`.
#[derive(Debug, Args)]
#[command(
    long_about = "Attach this terminal to a target's serial console. Ctrl-] detaches; the target runs on.",
    after_long_help = "\
Examples:
  bygone console web"
)]
pub(crate) struct Console {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
}

/// `stop`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Shut a target down: ask it to, and wait until it has. One that has not by the deadline is forced.",
    after_long_help = "\
Examples:
  bygone stop web
  bygone stop web --deadline 300
  bygone stop web --force           at once, as if the power were cut"
)]
pub(crate) struct Stop {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// At once, as if the power were cut
    #[arg(long, conflicts_with = "deadline")]
    force: bool,
    /// How long it may take before it is forced, in seconds [default: 90]
    #[arg(long, value_name = "SECONDS", value_parser = values::whole_seconds)]
    deadline: Option<u32>,
}

impl Stop {
    pub(crate) fn call(&self) -> call::Stop {
        call::Stop { name: self.name.clone(), force: self.force, deadline_s: self.deadline }
    }
}

pub(crate) fn run(session: &Session, args: &Run) -> Result<()> {
    let started = manager::ask(session, &args.call())?;
    session.tell(&started, show::machine::started)?;
    if args.console {
        manager::console(session, &args.name)?;
    }
    if args.wait {
        let answer = manager::ask(session, &call::Wait { name: args.name.clone() })?;
        session.tell(&answer, |moment, look| show::machine::stopped(&args.name, moment, look))?;
    }
    // The present is what there is; a moment was asked for.
    check_whole(started.from.as_ref().map_or(&[], |from| from.lost.as_slice()))
}

pub(crate) fn console(session: &Session, args: &Console) -> Result<()> {
    manager::console(session, &args.name)
}

pub(crate) fn stop(session: &Session, args: &Stop) -> Result<()> {
    let answer = manager::ask(session, &args.call())?;
    session.tell(&answer, |moment, look| show::machine::stopped(&args.name, moment, look))
}
