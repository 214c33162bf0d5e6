//! The commands: each reads its arguments, asks the manager, and shows the answer.

pub(crate) mod branch;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod machine;
pub(crate) mod manuals;
pub(crate) mod restore;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod target;

use crate::{cli::Command, error::Result, session::Session};

/// Does what was typed.
pub(crate) fn run(session: &Session, command: &Command) -> Result<()> {
    match command {
        Command::Init(_) => store::init(session),
        Command::Status(_) => store::status(session),
        Command::Target(args) => target::run(session, args),
        Command::Run(args) => machine::run(session, args),
        Command::Console(args) => machine::console(session, args),
        Command::Stop(args) => machine::stop(session, args),
        Command::Timeline(args) => history::timeline(session, args),
        Command::Points(args) => history::points(session, args),
        Command::When(args) => history::when(session, args),
        Command::Point(args) => history::point(session, args),
        Command::Branch(args) => branch::run(session, args),
        Command::Undo(args) => branch::undo(session, args),
        Command::Restore(args) => restore::run(session, args),
        Command::Export(args) => export::run(session, args),
        Command::Jobs(args) => jobs::run(session, args),
        Command::Verify(args) => store::verify(session, args),
        Command::Compact(args) => store::compact(session, args),
        Command::Bench(_) => store::bench(session),
        Command::Serve(args) => serve::run(session, args),
        Command::Completions(args) => manuals::completions(session, args),
        Command::Man(args) => manuals::man(session, args),
    }
}
