//! `bygone`: what people and scripts type.
//!
//! Invariants:
//! - This crate knows how to ask and how to show. The engine does the work, and only `manager.rs` and
//!   `commands/serve.rs` call it.
//! - With `--json`, standard output holds JSON and nothing else. Progress, notes and errors for people go to standard
//!   error; a failure is written to both.
//! - Every failure ends in a hint.
//! - Text from a guest or a disk never reaches a terminal unfiltered (`show::words`).
#![forbid(unsafe_code)]

mod answers;
mod cli;
mod commands;
mod complete;
mod confirm;
mod error;
mod hints;
mod logging;
mod manager;
mod session;
mod show;
mod signals;
#[cfg(test)]
mod tests;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{cli::Cli, session::Session};

fn main() -> ExitCode {
    // A manager starts this program again to look at what guests wrote.
    if let Some(code) = bygone_engine::serve_child_if_asked() {
        return code;
    }
    // A shell that asks for completions gets them here.
    CompleteEnv::with_factory(Cli::command).complete();
    // Everything sent to the manager is text.
    if let Some(odd) = std::env::args_os().find(|word| word.to_str().is_none()) {
        return error::refuse_word(&odd);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => return error::refuse(&refusal),
    };
    raise_open_files();
    logging::start(&cli.global, matches!(cli.command, cli::Command::Serve(_)));
    let session = Session::new(cli.global);
    match commands::run(&session, &cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&session, &error),
    }
}

/// Each log has hundreds of files open. The usual soft limit is low only for programs that use `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, an open beyond the limit will report it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
