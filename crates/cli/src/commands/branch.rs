//! Lines of history: `branch list`, `promote`, `drop`.

use bygone_api::{BranchInfo, call};
use clap::{Args, Subcommand};

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    confirm::{before_any_loss, before_loss, dry_run},
    error::Result,
    manager::{self, OnInterrupt},
    session::Session,
    show,
};

/// `branch`.
#[derive(Debug, Subcommand)]
#[command(
    long_about = "\
List, promote or drop the lines of a target's history. A branch starts where a target was run from a past moment, or \
where the past was restored in place. One of them is the present.",
    after_long_help = "\
Examples:
  bygone run web --at 'last shutdown' --branch try-1
  bygone branch list web
  bygone branch promote web try-1
  bygone branch drop web try-1"
)]
pub(crate) enum Branch {
    #[command(about = "List the branches")]
    List(List),
    #[command(about = "Make a branch the present")]
    Promote(Promote),
    #[command(about = "Give a branch up")]
    Drop(Drop),
}

/// `branch list`.
#[derive(Debug, Args)]
#[command(
    long_about = "List the branches of a target. A star marks the present. With --dropped also those that were given up, by \
                  the ids that name them from then on: `id:3@15:04` is a moment, and `web/vda@id:3@15:04` a disk of it."
)]
pub(crate) struct List {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// List also those that were dropped
    #[arg(long)]
    dropped: bool,
}

/// `branch promote`.
#[derive(Debug, Args)]
#[command(long_about = "Make a branch the present. What was the present stays in the history, as a branch.")]
pub(crate) struct Promote {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Which branch; the only one there is unless given
    #[arg(value_name = "B", add = ArgValueCandidates::new(complete::branches))]
    branch: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// `branch drop`.
#[derive(Debug, Args)]
#[command(
    long_about = "Give a branch up: it is listed no more, and later versions may free what is only on it. `bygone undo` takes it back. On a terminal you are asked first; elsewhere --yes is needed."
)]
pub(crate) struct Drop {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Which branch
    #[arg(value_name = "B", add = ArgValueCandidates::new(complete::branches))]
    branch: String,
    /// Only say what would be lost
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
}

/// `undo`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Take back the last `restore --in-place`, `branch promote`, `branch drop` or `undo` of a target. Nothing that was written \
since is lost: it stays on its branch.

An undo can be undone too, so a second one brings back what the first took back: it does not go further. If that gives a \
branch up again, you are asked first; elsewhere than on a terminal --yes is needed then. To go further \
back, make another branch the present (`branch promote`) or restore an older moment (`restore --in-place`).",
    after_long_help = "\
Examples:
  bygone undo web
  bygone undo web        once more: that takes back the undo"
)]
pub(crate) struct Undo {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where nobody can be asked and a branch would be given up again
    #[arg(short, long)]
    yes: bool,
}

impl Undo {
    pub(crate) fn call(&self) -> call::Undo {
        call::Undo { name: self.name.clone() }
    }
}

pub(crate) fn undo(session: &Session, args: &Undo) -> Result<()> {
    if args.dry_run {
        return dry_run(session, args.call());
    }
    let planned = before_any_loss(session, args.yes, args.call())?;
    let answer = manager::ask_as_planned(session, &args.call(), planned.as_ref(), OnInterrupt::Die)?;
    session.tell(&answer, |moment, look| show::branches::undone(&args.name, moment, look))
}

impl List {
    pub(crate) fn call(&self) -> call::BranchList {
        call::BranchList { name: self.name.clone(), dropped: self.dropped }
    }
}

impl Promote {
    pub(crate) fn call(&self) -> call::BranchPromote {
        call::BranchPromote { name: self.name.clone(), branch: self.branch.clone() }
    }
}

impl Drop {
    pub(crate) fn call(&self) -> call::BranchDrop {
        call::BranchDrop { name: self.name.clone(), branch: self.branch.clone() }
    }
}

pub(crate) fn run(session: &Session, branch: &Branch) -> Result<()> {
    match branch {
        Branch::List(args) => list(session, &args.call()),
        Branch::Promote(args) if args.dry_run => dry_run(session, args.call()),
        Branch::Promote(args) => {
            let answer = manager::ask(session, &args.call())?;
            session.tell(&answer, |moment, look| show::branches::promoted(&args.name, moment, look))
        }
        Branch::Drop(args) if args.dry_run => dry_run(session, args.call()),
        Branch::Drop(args) => {
            let planned = before_loss(session, args.yes, args.call())?;
            let call = args.call();
            let answer = manager::ask_as_planned(session, &call, planned.as_ref(), OnInterrupt::Die)?;
            session
                .tell(&answer, |moment, look| show::branches::dropped(&args.name, &args.branch, moment, look))
        }
    }
}

fn list(session: &Session, call: &call::BranchList) -> Result<()> {
    let mut branches: Vec<BranchInfo> = Vec::new();
    manager::ask_for_items(session, call, OnInterrupt::Die, &mut |item| {
        if session.json() {
            return session.print_json(&item);
        }
        branches.push(item);
        Ok(())
    })?;
    if session.json() { Ok(()) } else { session.print(&show::branches::table(&branches, &session.look())) }
}
