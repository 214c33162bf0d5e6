//! Logs: to standard error, as much as was asked for.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::EnvFilter;

use crate::{cli::Global, show::Paint};

/// Starts logging. The manager says what it does unless told to be quiet; all others only warn.
pub(crate) fn start(global: &Global, serves: bool) {
    let said = env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = match said {
        Some(said) => EnvFilter::builder().parse_lossy(said),
        None => EnvFilter::builder().parse_lossy(directives(global, serves)),
    };
    let colours = Paint::for_stream(io::stderr().is_terminal()).is_on();
    let subscriber =
        tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colours).with_env_filter(filter).finish();
    // There is none before this one.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The filter for `-q` and `-v`. `bygone` is the beginning of the name of every crate of ours.
fn directives(global: &Global, serves: bool) -> &'static str {
    match (global.quiet, global.verbose, serves) {
        (true, _, _) => "error",
        (_, 0, false) => "warn",
        (_, 0, true) | (_, 1, false) => "warn,bygone=info",
        (_, 1, true) | (_, 2, false) => "info,bygone=debug",
        _ => "debug,bygone=trace",
    }
}
