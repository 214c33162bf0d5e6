//! Repository chores: `cargo xtask layers` checks that crates depend only on floors below them, `cargo xtask lengths` that no
//! file grew too long.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The floor of each crate, and which of our crates it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("bygone-model", &[]),
    ("bygone-sys", &[]),
    ("bygone-api", &["bygone-model"]),
    ("bygone-store", &["bygone-model", "bygone-sys"]),
    ("bygone-qemu", &["bygone-model", "bygone-sys"]),
    ("bygone-files", &["bygone-model"]),
    ("bygone-block", &["bygone-model", "bygone-store", "bygone-sys"]),
    ("bygone-detect", &["bygone-model", "bygone-files"]),
    (
        "bygone-engine",
        &[
            "bygone-model",
            "bygone-detect",
            "bygone-api",
            "bygone-store",
            "bygone-qemu",
            "bygone-files",
            "bygone-block",
            "bygone-sys",
        ],
    ),
    ("bygone", &["bygone-model", "bygone-api", "bygone-engine"]),
    ("bygone-sim", &["bygone-model", "bygone-store", "bygone-block"]),
    (
        "bygone-fuzzing",
        &["bygone-model", "bygone-api", "bygone-store", "bygone-qemu", "bygone-files", "bygone-block"],
    ),
    ("bygone-races", &["bygone-model", "bygone-sys"]),
    ("bygone-e2e", &[]),
    ("bygone-xtask", &[]),
];

/// Dependencies that a crate must not have.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("bygone-model", &["rustix", "libc", "tokio"]),
    ("bygone-store", &["libc", "tokio"]),
    ("bygone-api", &["rustix", "libc", "tokio", "clap", "jiff"]),
    ("bygone-files", &["rustix", "libc", "tokio", "jiff"]),
    ("bygone-detect", &["rustix", "libc", "tokio", "jiff"]),
    ("bygone-engine", &["clap", "indicatif"]),
];

const LINES_MAX: usize = 1500;

fn main() -> ExitCode {
    let problems = match std::env::args().nth(1).as_deref() {
        Some("layers") => layers(),
        Some("lengths") => lengths(),
        _ => Err("cargo xtask layers | lengths".to_owned()),
    };
    match problems {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

/// Names of the normal dependencies of each of our crates.
fn dependencies() -> Result<BTreeMap<String, Vec<String>>, String> {
    let done = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&done.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let normal = |d: &&serde_json::Value| d["kind"].is_null();
        let names = package["dependencies"].as_array().into_iter().flatten().filter(normal);
        out.insert(text(&package["name"]), names.map(|d| text(&d["name"])).collect());
    }
    Ok(out)
}

fn layers() -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    for (name, uses) in dependencies()? {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
            problems.push(format!(
                "crate {name} has no floor; give it one in crates/xtask and in ARCHITECTURE.md"
            ));
            continue;
        };
        let forbidden = FORBIDDEN.iter().find(|(layer, _)| *layer == name).map_or(&[][..], |(_, list)| list);
        for used in uses {
            let ours = used == "bygone" || used.starts_with("bygone-");
            if (ours && !allowed.contains(&used.as_str())) || forbidden.contains(&used.as_str()) {
                problems.push(format!("{name} must not know {used}"));
            }
        }
    }
    Ok(problems)
}

fn lengths() -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    let mut folders = vec![PathBuf::from("crates")];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
                let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let lines = text.lines().count();
                if lines >= LINES_MAX {
                    problems.push(format!("{} has {lines} lines; {LINES_MAX} are too many", path.display()));
                }
            }
        }
    }
    Ok(problems)
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_name().is_some_and(|n| n == "tests.rs")
}
