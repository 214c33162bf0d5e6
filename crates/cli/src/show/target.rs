//! `target add`, `list`, `show`, `set`, `remove`.

use std::path::Path;

use bygone_api::{
    Removed, RemovedInfo, Repaired, Running, TargetInfo,
    config::{Firmware, TargetConfig},
};

use super::{Cell, Column, Look, Style, Table, status, words};

/// A new target, and what to do next.
pub(crate) fn added(info: &TargetInfo, look: &Look) -> String {
    let name = words::line(&info.config.name);
    format!("{}Start it with: bygone run {name}\n", target(info, look))
}

/// How a target is, and how it is made up.
pub(crate) fn target(info: &TargetInfo, look: &Look) -> String {
    let mut out = status::target(&info.status, look);
    out.push_str(&status::problems(&info.status.problems, look));
    let mut table = Table::untitled([Column::left(""), Column::left("")], 4);
    for (key, value) in settings(&info.config) {
        table.row([Cell::new(key).styled(Style::Dim), Cell::new(value)]);
    }
    out.push('\n');
    out.push_str(&table.render(look));
    out
}

/// The settings by the keys that `target set` takes; those that are not set are left out.
fn settings(config: &TargetConfig) -> Vec<(&'static str, String)> {
    let file = |path: &Path| path.display().to_string();
    let firmware = match config.firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
    };
    let mut all = vec![
        ("memory", words::bytes(u64::from(config.memory_mib) << 20)),
        ("cpus", config.cpus.to_string()),
        ("firmware", firmware.to_owned()),
        ("kernel", config.kernel.as_deref().map(file).unwrap_or_default()),
        ("initrd", config.initrd.as_deref().map(file).unwrap_or_default()),
        ("append", config.append.clone().unwrap_or_default()),
        ("cdrom", config.cdrom.as_deref().map(file).unwrap_or_default()),
        ("user-data", config.user_data.as_deref().map(file).unwrap_or_default()),
        ("display", if config.display.is_none() { String::new() } else { config.display.to_string() }),
        ("net", config.net.clone()),
        ("qemu-arg", config.qemu_args.join(" ")),
        ("autostart", config.autostart.to_string()),
    ];
    all.retain(|(_, value)| !value.is_empty());
    all
}

/// Every target, one a row.
pub(crate) fn list(targets: &[TargetInfo], look: &Look) -> String {
    if targets.is_empty() {
        return "Nothing is protected yet. Begin with: bygone target add NAME --disk store:20G\n".to_owned();
    }
    let mut table = Table::new([
        Column::left("NAME"),
        Column::left("STATE"),
        Column::left("BRANCH"),
        Column::right("DISKS"),
        Column::right("SIZE"),
        Column::left("NEWEST"),
    ]);
    for TargetInfo { status, .. } in targets {
        let size_bytes = status.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.size_bytes));
        let style = match status.state {
            Running::Running => Style::Good,
            Running::Stopped => Style::Dim,
            Running::Unknown => Style::Warn,
        };
        table.row([
            Cell::new(&status.name).styled(Style::Bold),
            Cell::new(status.state.word()).styled(style),
            Cell::new(status::branch(status)),
            Cell::new(status.disks.len().to_string()),
            Cell::new(words::bytes(size_bytes)),
            Cell::new(words::time(&status.head_time, look)),
        ]);
    }
    table.render(look)
}

/// Targets that were removed and can be brought back, one a row.
pub(crate) fn removed_list(kept: &[RemovedInfo], look: &Look) -> String {
    if kept.is_empty() {
        return "No history of a removed target is kept.\n".to_owned();
    }
    let mut table = Table::new([
        Column::left("NAME"),
        Column::left("REMOVED"),
        Column::right("DISKS"),
        Column::right("SIZE"),
        Column::right("TAKES"),
        Column::left("KEPT AS"),
    ]);
    for info in kept {
        let size_bytes = info.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.size_bytes));
        table.row([
            Cell::new(&info.name).styled(Style::Bold),
            Cell::new(words::time(&info.removed, look)),
            Cell::new(info.disks.len().to_string()),
            Cell::new(words::bytes(size_bytes)),
            Cell::new(words::bytes(info.used_bytes)),
            Cell::new(&info.kept_as),
        ]);
    }
    format!("{}Bring one back: bygone target restore KEPT-AS [--as NAME]\n", table.render(look))
}

/// `target repair`.
pub(crate) fn repaired(repaired: &Repaired, _: &Look) -> String {
    let (name, from) = (words::line(&repaired.name), words::line(&repaired.from));
    format!("{name} can be used again. Its configuration was made from {from}.\n")
}

/// A target that is no longer protected.
pub(crate) fn removed(removed: &Removed, _: &Look) -> String {
    let name = words::line(&removed.name);
    match &removed.kept_at {
        None => format!("{name} and its history are gone.\n"),
        Some(path) => {
            let path = words::line(&path.display().to_string());
            let kept_as = path.rsplit('/').next().unwrap_or(&name);
            format!(
                "{name} is no longer protected. Its history is kept at {path}\nBring it back with: bygone target restore \
                 {kept_as}\n"
            )
        }
    }
}
