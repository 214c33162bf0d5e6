//! What runs and what is served: `run`, `stop`, `export`, `serve`.

use std::path::Path;

use bygone_api::{Exported, MomentInfo, Started};

use super::{Look, words};

/// `run`.
pub(crate) fn started(started: &Started, look: &Look) -> String {
    let name = words::line(&started.name);
    let from = started.from_seq.map(|seq| format!(" from seq:{seq}")).unwrap_or_default();
    let lost = started.from.as_ref().map_or(&started.lost, |from| &from.lost);
    format!(
        "{name} runs on branch {}{from} ({}, process {}). Its console: bygone console {name}\n{}",
        words::line(&started.branch),
        started.accelerator,
        started.pid,
        words::lost(lost, look),
    )
}

/// `stop`, `run --wait`.
pub(crate) fn stopped(name: &str, moment: &MomentInfo, look: &Look) -> String {
    format!("{name} stopped {}\n", words::moment_in_full(moment, look))
}

/// `export`, once it is served.
pub(crate) fn exported(exported: &Exported, look: &Look) -> String {
    let access = if exported.read_only { "read-only" } else { "writable" };
    let moment = exported.seq.map(|seq| format!(", seq:{seq}")).unwrap_or_default();
    format!(
        "{} is served at {} ({}, {access}{moment}) until Ctrl-C\n{}",
        words::line(&exported.what),
        words::line(&exported.at),
        words::bytes(exported.size_bytes),
        words::lost(&exported.lost, look),
    )
}

/// `serve`, once it is ready.
pub(crate) fn serving(api: &Path, nbd: &Path, listen: Option<&str>) -> String {
    let listen = listen.map(|address| format!(" and nbd://{}", words::line(address))).unwrap_or_default();
    format!(
        "The manager runs. API: {}  NBD: nbd+unix:///?socket={}{listen}\n",
        words::line(&api.display().to_string()),
        words::line(&nbd.display().to_string()),
    )
}
