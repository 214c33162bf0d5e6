//! The store as a whole: `init`, `status`, `verify`, `compact`, `bench`.

use bygone_api::call;
use clap::Args;
use serde_json::json;

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    error::{Error, Result},
    manager,
    session::Session,
    show, values,
};

/// `init`.
#[derive(Debug, Args)]
#[command(
    long_about = "Make a store: the folder that keeps every version. It must not exist yet, or be empty.",
    after_long_help = "\
Examples:
  bygone init
  bygone init --store /mnt/big/bygone"
)]
pub(crate) struct Init {}

/// `status`.
#[derive(Debug, Args)]
#[command(
    long_about = "Show what is protected, how far, how full the store is, and what is wrong.",
    after_long_help = "\
Marks:
  ● running   ○ stopped   ? unknown

Under each target, as far as there is something to say:
  since      when the change that is under way began
  process    of its machine, and what runs its processors; console, display, ports: what it is reached by
  present    the branch that is the present, if its machine runs on another one
  history    the newest record, and what its history takes in the store
  verified   what the last `verify` found
  written    to its disks, since the manager began
and its disks: size; tap, store or branch; whether the store has all of it; where it is outside the store

Examples:
  bygone status
  bygone status --json"
)]
pub(crate) struct Status {}

/// `verify`.
#[derive(Debug, Args)]
#[command(
    long_about = "Read history back and check it against its checksums. Exits with 3 if something is damaged.",
    after_long_help = "\
Examples:
  bygone verify                             everything
  bygone verify web                         one target
  bygone verify --newest-first --for 10m    as much as ten minutes allow, from the newest on"
)]
pub(crate) struct Verify {
    /// Only this target; everything unless given
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: Option<String>,
    /// Everything, however long it takes (the default)
    #[arg(long, conflicts_with_all = ["newest_first", "for_s"])]
    all: bool,
    /// The newest history first
    #[arg(long)]
    newest_first: bool,
    /// Ends after this time, such as 10m
    #[arg(long = "for", value_name = "TIME", value_parser = values::seconds)]
    for_s: Option<u64>,
}

impl Verify {
    pub(crate) fn call(&self) -> call::Verify {
        call::Verify { name: self.name.clone(), newest_first: self.newest_first, for_s: self.for_s }
    }
}

/// `compact`.
#[derive(Debug, Args)]
#[command(
    long_about = "Write index checkpoints of all targets, so that the past is read faster after the next start, and make anew from the log \
                  whatever is damaged in an index. No moment is lost by this, and no history is freed: this version keeps everything.",
    after_long_help = "\
Examples:
  bygone compact --dry-run    what the store takes now
  bygone compact"
)]
pub(crate) struct Compact {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Compact {
    pub(crate) fn call(&self) -> call::Compact {
        call::Compact { dry_run: self.dry_run }
    }
}

/// `bench`.
#[derive(Debug, Args)]
#[command(
    long_about = "Measure this machine: how fast the log takes writes, and how fast the present and the past are \
                  read. It writes next to the store's data and takes away what it wrote.",
    after_long_help = "\
Examples:
  bygone bench
  bygone bench --json     one object a line: name, value, unit, note"
)]
pub(crate) struct Bench {}

pub(crate) fn init(session: &Session) -> Result<()> {
    manager::init(session)?;
    let store = session.store()?;
    // A file system that is too small is better known before there is something in the store.
    let problems = manager::ask(session, &call::Status {})?.problems;
    session.tell(&json!({"store": store, "problems": problems}), |_, look| {
        format!("{}{}", show::status::problems(&problems, look), show::store::made(&store))
    })
}

pub(crate) fn status(session: &Session) -> Result<()> {
    session.show(&manager::ask(session, &call::Status {})?, show::status::status)
}

pub(crate) fn verify(session: &Session, args: &Verify) -> Result<()> {
    let answer = manager::ask_for_long(session, &args.call())?;
    let damaged = answer.damaged.len();
    // What is damaged is shown even to those who want quiet.
    let shown = if damaged > 0 {
        session.show(&answer, show::store::verified)
    } else {
        session.tell(&answer, show::store::verified)
    };
    if damaged > 0 { Err(Error::Damaged(damaged)) } else { shown }
}

pub(crate) fn compact(session: &Session, args: &Compact) -> Result<()> {
    let answer = manager::ask_for_long(session, &args.call())?;
    if args.dry_run {
        session.show(&answer, show::store::would_compact)
    } else {
        session.tell(&answer, show::store::compacted)
    }
}

pub(crate) fn bench(session: &Session) -> Result<()> {
    manager::bench(session, &mut |row| {
        if session.json() {
            session.print_json(&json!({
                "name": row.name,
                "value": row.value,
                "unit": row.unit,
                "note": row.note,
            }))
        } else {
            session.print(&show::store::measured(&row.name, row.value, &row.unit, &row.note))
        }
    })
}
