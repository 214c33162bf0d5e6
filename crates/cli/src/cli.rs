//! What can be typed: the commands and the options that all of them take.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands::{branch, export, history, jobs, machine, manuals, restore, serve, store, target};

const ABOUT: &str = "A time machine for machines";

const LONG_ABOUT: &str = "\
A time machine for machines.

Bygone keeps every version of a machine's disks, notices by itself what happens to the machine, and brings any \
moment back: as a disk to look into, as a machine that runs at once, or in place.";

const AFTER_HELP: &str =
    "`bygone help COMMAND` says more, with examples. `bygone --help` says how moments are named.";

const AFTER_LONG_HELP: &str = "\
Moments (WHEN):
  now                                    the present
  3 days ago · 3 days ago 15:00          a span back from now
  15:04 · yesterday 14:59 · tuesday 9:00 a time of day
  2026-11-22 15:04 · RFC 3339            a date and time
  last shutdown · last boot · last clean a state
  point:LABEL · seq:12345                a name, a record where it was written
  branch:B · B@15:04 · B@last shutdown   a branch's newest moment, or another one of it
  22:44 UTC · 15:04 Europe/Berlin        the time of another zone than yours
  A moment means the nearest one at or before it; an impossible or ambiguous one is refused with candidates.
  Quote it if it has spaces: --at '3 days ago'.

The first steps:
  bygone init
  bygone target add web --disk import:web.qcow2 --memory 2G --net user
  bygone run web --console
  bygone timeline web
  bygone run web --at 'last shutdown'

Every command works with or without a running manager (`bygone serve`).

Exit codes:
  0 done · 1 failed · 2 wrong usage · 3 a check did not hold

Environment:
  BYGONE_STORE   where the store is, unless --store says
  RUST_LOG       what is logged, as tracing-subscriber reads it
  NO_COLOR       no colours";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "bygone",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The store [default: /var/lib/bygone for root, ~/.local/share/bygone for others]
    #[arg(long, global = true, env = "BYGONE_STORE", hide_env_values = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Answer in JSON: one document, or one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing but what was asked for, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log more to standard error; -vv and -vvv even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Let what lasts go on when this command ends early; `bygone jobs` shows it
    #[arg(long, global = true)]
    pub(crate) detach: bool,

    /// A name of this change: made again with it, it is not done again
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(about = "Make a store")]
    Init(store::Init),
    #[command(about = "Show what is protected, how far, how full, what is wrong")]
    Status(store::Status),
    #[command(about = "Add, list, show, change or remove what is protected", subcommand)]
    Target(target::Target),

    #[command(about = "Boot a target in QEMU, now or from a past moment")]
    Run(machine::Run),
    #[command(about = "Attach to a target's serial console")]
    Console(machine::Console),
    #[command(about = "Shut a target down")]
    Stop(machine::Stop),

    #[command(about = "Show what happened to a target, the newest last")]
    Timeline(history::Timeline),
    #[command(about = "Show the moments worth choosing from, the newest last")]
    Points(history::Points),
    #[command(about = "Say what a moment would be, without acting on it")]
    When(history::When),
    #[command(about = "Name a moment and keep it")]
    Point(history::Point),
    #[command(about = "List, promote or drop the lines of a target's history", subcommand)]
    Branch(branch::Branch),

    #[command(about = "Bring a moment back, in place or to somewhere else")]
    Restore(restore::Restore),
    #[command(about = "Take back the last restore, promotion, drop or undo")]
    Undo(branch::Undo),
    #[command(about = "Serve one disk, present or past, until interrupted")]
    Export(export::Export),

    #[command(about = "Show what is being done, wait for it or cancel it")]
    Jobs(jobs::Jobs),
    #[command(about = "Read history back and check it")]
    Verify(store::Verify),
    #[command(about = "Write index checkpoints, so that the past is read faster")]
    Compact(store::Compact),
    #[command(about = "Measure this machine")]
    Bench(store::Bench),
    #[command(about = "Run the manager")]
    Serve(serve::Serve),

    #[command(about = "Write a completion script for a shell")]
    Completions(manuals::Completions),
    #[command(about = "Write the manual pages")]
    Man(manuals::Man),
}
