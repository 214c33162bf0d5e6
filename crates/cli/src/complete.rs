//! Shell completion beyond the commands themselves: targets, branches, moments, disks. The shell runs the binary, which
//! reads names from the store's folder and asks the manager for the rest like any command, so that no target is opened
//! but the one that the words name. A completion never fails and prints no errors: what cannot be queried is not
//! offered.

use std::{env, ffi::OsString, path::PathBuf};

use bygone_api::call;
use clap_complete::CompletionCandidate;

use crate::{
    cli::Global,
    manager::{self, OnInterrupt},
    session::Session,
};

/// More candidates are of no use.
const CANDIDATES_MAX: usize = 200;
/// Moments that every history may have.
const WORDS: [(&str, &str); 5] = [
    ("now", "the present"),
    ("last shutdown", "a state"),
    ("last boot", "a state"),
    ("10 minutes ago", "a span back from now"),
    ("yesterday 14:59", "a time of day"),
];

/// The words that the shell has so far.
fn typed() -> Vec<String> {
    let words = env::args_os().skip_while(|word| word != "--").skip(2);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The store that those words name.
fn session() -> Session {
    let words = typed();
    let after = words.iter().position(|word| word == "--store").and_then(|at| words.get(at + 1));
    let joined = words.iter().find_map(|word| word.strip_prefix("--store=").map(str::to_owned));
    let store = after.cloned().or(joined).map(PathBuf::from);
    let store = store.or_else(|| env::var_os("BYGONE_STORE").map(PathBuf::from));
    Session::new(Global { store, quiet: true, ..Global::default() })
}

/// The targets of the store, with their disks.
fn names(session: &Session) -> Vec<(String, Vec<String>)> {
    manager::target_names(session).unwrap_or_default()
}

/// The target among the words, with its disks.
fn named(session: &Session) -> Option<(String, Vec<String>)> {
    let words = typed();
    names(session).into_iter().find(|(name, _)| words.contains(name))
}

fn candidates(all: impl IntoIterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let candidate = |(value, help): (String, String)| {
        // Control characters would end up in the shell's line.
        let plain = !value.chars().any(char::is_control);
        plain.then(|| CompletionCandidate::new(OsString::from(value)).help(Some(help.into())))
    };
    all.into_iter().filter_map(candidate).take(CANDIDATES_MAX).collect()
}

/// Targets that were removed, as they are kept.
pub(crate) fn removed() -> Vec<CompletionCandidate> {
    let mut kept = Vec::new();
    let asked = manager::ask_for_items(&session(), &call::TargetRemoved {}, OnInterrupt::Die, &mut |info| {
        kept.push((info.kept_as, info.removed));
        Ok(())
    });
    drop(asked);
    candidates(kept)
}

/// Names of targets.
pub(crate) fn targets() -> Vec<CompletionCandidate> {
    candidates(names(&session()).into_iter().map(|(name, _)| (name, "a target".to_owned())))
}

fn branch_names(session: &Session, target: &str) -> Vec<(String, String)> {
    let mut branches = Vec::new();
    let call = call::BranchList { name: target.to_owned(), dropped: false };
    let asked = manager::ask_for_items(session, &call, OnInterrupt::Die, &mut |branch| {
        let help = if branch.present { "the present" } else { "a branch" };
        branches.push((branch.name, help.to_owned()));
        Ok(())
    });
    drop(asked);
    branches
}

/// Branches of the target among the words.
pub(crate) fn branches() -> Vec<CompletionCandidate> {
    let session = session();
    let branches = named(&session).map(|(target, _)| branch_names(&session, &target));
    candidates(branches.unwrap_or_default())
}

/// Moments of the target among the words: its points, the heads of its branches, and how others are written.
pub(crate) fn moments() -> Vec<CompletionCandidate> {
    let session = session();
    let mut all = Vec::new();
    if let Some((name, _)) = named(&session) {
        let points = call::Points { name: name.clone() };
        let asked = manager::ask_for_items(&session, &points, OnInterrupt::Die, &mut |point| {
            if point.kind == bygone_model::Kind::Point {
                all.push((format!("point:{}", point.label), point.time));
            }
            Ok(())
        });
        drop(asked);
        // The newest are the likeliest.
        all.reverse();
        let heads = branch_names(&session, &name).into_iter();
        all.extend(heads.map(|(branch, help)| (format!("branch:{branch}"), help)));
    }
    all.extend(WORDS.map(|(word, help)| (word.to_owned(), help.to_owned())));
    candidates(all)
}

/// Disks of the target among the words.
pub(crate) fn disks() -> Vec<CompletionCandidate> {
    let disks = named(&session()).map(|(_, disks)| disks).unwrap_or_default();
    candidates(disks.into_iter().map(|disk| (disk, "a disk".to_owned())))
}

/// Disks of all targets, as `export` names them.
pub(crate) fn devices() -> Vec<CompletionCandidate> {
    let device = |(name, disks): (String, Vec<String>)| {
        disks.into_iter().map(move |disk| (format!("{name}/{disk}"), "a disk".to_owned()))
    };
    candidates(names(&session()).into_iter().flat_map(device))
}
