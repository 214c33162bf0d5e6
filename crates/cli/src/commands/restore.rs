//! `restore`: a past moment, put back or written elsewhere.

use std::path::PathBuf;

use bygone_api::{
    call::{self, RestoreTo},
    config::absolute,
};
use clap::{ArgGroup, Args};

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    confirm::{before_loss, dry_run},
    error::{Error, Result, check_whole},
    manager::{self, OnInterrupt},
    session::Session,
    show, values,
};

/// `restore`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Bring a moment back.

In place, the target's disks become what they were then. What they are now is not lost: it stays in the history, \
unless --discard-later gives it up. To a path, raw images are written and the target is left alone: to a new file or a \
device, one disk; to a folder (one that exists, or a path that ends in '/'), ID.raw of each disk. Nothing that is there is \
written over, but a device.",
    after_long_help = "\
Examples:
  bygone restore web --at 'last shutdown' --in-place
  bygone restore web --at 'last shutdown' --in-place --dry-run
  bygone restore web --at 'point:before the migration' --in-place --discard-later
  bygone restore web --at '3 days ago 15:00' --to /mnt/web.img      one disk
  bygone restore db --at yesterday --disk data --to /mnt/data.img
  bygone restore db --at yesterday --to /mnt/db/                    a folder, for several disks",
    group = ArgGroup::new("destination").required(true)
)]
pub(crate) struct Restore {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Which moment
    #[arg(long, value_name = "WHEN", add = ArgValueCandidates::new(complete::moments))]
    at: String,
    /// Write to the target itself
    #[arg(long, group = "destination")]
    in_place: bool,
    /// Write to a raw file or block device, or into a folder: one that exists, or FOLDER/
    #[arg(long, value_name = "PATH", group = "destination", value_parser = values::path)]
    to: Option<PathBuf>,
    /// Only this disk; all of them unless given
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(complete::disks))]
    disk: Option<String>,
    /// Give up the history after that moment
    #[arg(long, conflicts_with = "to")]
    discard_later: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before history is given up; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
}

impl Restore {
    pub(crate) fn call(&self) -> call::Restore {
        call::Restore {
            name: self.name.clone(),
            at: self.at.clone(),
            disk: self.disk.clone(),
            to: self.to.as_deref().map_or(RestoreTo::InPlace, |path| RestoreTo::Path(absolute(path))),
            discard_later: self.discard_later,
        }
    }
}

pub(crate) fn run(session: &Session, args: &Restore) -> Result<()> {
    let mut call = args.call();
    if args.dry_run {
        return dry_run(session, call);
    }
    let planned = if args.discard_later { before_loss(session, args.yes, call.clone())? } else { None };
    if let Some(moment) = planned.as_ref().and_then(|planned| planned.moment.as_ref()) {
        // The moment that was shown, however long the answer took.
        call.at.clone_from(&moment.when);
    }
    let restored = manager::ask_as_planned(session, &call, planned.as_ref(), OnInterrupt::GiveUp)?;
    session.tell(&restored, show::restore::restored)?;
    let damaged = restored.disks.iter().map(|disk| disk.unreadable.len()).sum();
    if damaged > 0 { Err(Error::Damaged(damaged)) } else { check_whole(&restored.moment.lost) }
}
