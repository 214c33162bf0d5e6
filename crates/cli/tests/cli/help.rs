//! The help promises nothing that is not there, and neither do the documents and the hints.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn help(path: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bygone"));
    let output = command.args(path).arg("--help").env_remove("BYGONE_STORE").output().unwrap();
    assert!(output.status.success(), "bygone {} --help", path.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let after = help.split_once("\nCommands:\n").map_or("", |(_, after)| after);
    let lines = after.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every command with its help.
fn all() -> Vec<(Vec<String>, String)> {
    let mut all = Vec::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let text = help(&path.iter().map(String::as_str).collect::<Vec<_>>());
        pending.extend(listed(&text).into_iter().map(|name| [path.as_slice(), &[name]].concat()));
        all.push((path, text));
    }
    all
}

/// What stands behind `bygone` in a text: commands that somebody is told to type.
fn told(text: &str) -> impl Iterator<Item = &str> {
    let typed = |before: &str| before.is_empty() || before.ends_with(['`', ' ', '\n', '(', '$', '"']);
    text.match_indices("bygone ").filter(move |(at, _)| typed(&text[..*at])).map(|(at, word)| {
        let rest = &text[at + word.len()..];
        &rest[..rest.find(['\n', '`', '"']).unwrap_or(rest.len())]
    })
}

#[test]
fn every_command_that_is_named_anywhere_is_there() {
    let all = all();
    let commands: BTreeSet<String> = all.iter().map(|(path, _)| path.join(" ")).collect();
    assert!(commands.len() > 25, "{commands:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut texts: Vec<(String, String)> =
        all.into_iter().map(|(path, text)| (format!("bygone {} --help", path.join(" ")), text)).collect();
    for file in ["README.md", "crates/cli/src/hints.rs", "docs/threat-model.md"] {
        texts.push((file.to_owned(), fs::read_to_string(root.join(file)).unwrap()));
    }
    let mut seen = 0;
    for (place, text) in &texts {
        for told in told(text) {
            let mut words = told.split_whitespace();
            let Some(first) = words.next().filter(|word| word.chars().all(|c| c.is_ascii_lowercase())) else {
                continue;
            };
            // Prose: "bygone needs it".
            let is_command = commands.contains(first);
            let in_code = told.contains("--") || told.contains('\'') || told.contains("NAME");
            assert!(is_command || !in_code || first == "help", "{place} names `bygone {told}`");
            if !is_command {
                continue;
            }
            seen += 1;
            let has_sub = commands.iter().any(|command| command.starts_with(&format!("{first} ")));
            let second = words.next().unwrap_or_default();
            if has_sub && second.chars().all(|c| c.is_ascii_lowercase()) && !second.is_empty() {
                assert!(commands.contains(&format!("{first} {second}")), "{place} names `bygone {told}`");
            }
            for option in told.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
                let option = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                let option = option.split('=').next().unwrap_or(option);
                let path = format!("{first} {second}");
                let path = if commands.contains(&path) { path } else { first.to_owned() };
                let help = texts.iter().find(|(place, _)| *place == format!("bygone {path} --help"));
                let help = &help.unwrap().1;
                assert!(help.contains(option), "{place} names `bygone {told}`, and there is no {option}");
            }
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn the_help_fits_its_reader() {
    for (path, text) in all() {
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "bygone {}: {line}", path.join(" "));
        }
        assert!(!text.contains("before install"), "nothing records changes of software: {text}");
    }
}
