//! `status`: readable at a glance.

use bygone_api::{DiskStatus, Problem, Status, StoreStatus, TargetStatus};
use serde::Deserialize as _;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::hints;

use super::{Cell, Column, Look, Style, Table, words};

/// Everything.
pub(crate) fn status(status: &Status, look: &Look) -> String {
    let mut out = String::new();
    let name_width = status.targets.iter().map(|target| target.name.width()).max().unwrap_or(0);
    // One table for the disks of all, so that their columns stand in line.
    let disks = disks(status.targets.iter().flat_map(|target| &target.disks), look);
    let mut disks = disks.lines();
    for target in &status.targets {
        out.push_str(&line(target, name_width, look));
        for disk in disks.by_ref().take(target.disks.len()) {
            out.push_str(&format!("{disk}\n"));
        }
    }
    if status.targets.is_empty() {
        out.push_str("Nothing is protected yet. Begin with: bygone target add NAME --disk store:20G\n");
    }
    out.push('\n');
    out.push_str(&store(&status.store, look));
    out.push_str(&problems(&status.problems, look));
    out
}

/// What is wrong, each with what to do about it.
pub(crate) fn problems(problems: &[Problem], look: &Look) -> String {
    let mark = look.paint.apply(Style::Bad, "!");
    let hint = look.paint.apply(Style::Hint, "hint:");
    let lines = |problem: &Problem| {
        let said = words::lines(&problem.to_string()).replace('\n', "\n  ");
        format!("{mark} {said}\n  {hint} {}\n", words::lines(&hints::of_trouble(&problem.trouble)))
    };
    problems.iter().map(lines).collect()
}

/// Gives each problem in a JSON answer its words, beside its code: programs decide by the one and show the other.
pub(crate) fn explain(answer: &mut Value) {
    match answer {
        Value::Array(all) => all.iter_mut().for_each(explain),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Array(problems) if key == "problems" => problems.iter_mut().for_each(in_words),
                    value => explain(value),
                }
            }
        }
        _ => {}
    }
}

fn in_words(said: &mut Value) {
    if let (Ok(problem), Value::Object(fields)) = (Problem::deserialize(&*said), said) {
        fields.insert("message".to_owned(), problem.to_string().into());
        fields.insert("hint".to_owned(), hints::of_trouble(&problem.trouble).into());
    }
}

/// One target: its state, its branch, how far its history reaches.
pub(crate) fn line(target: &TargetStatus, name_width: usize, look: &Look) -> String {
    let (mark, style) = match target.state.as_str() {
        "running" => ("●", Style::Good),
        "stopped" => ("○", Style::Dim),
        _ => ("?", Style::Warn),
    };
    let padding = " ".repeat(name_width.saturating_sub(target.name.width()));
    let reach = if target.head_seq == 0 {
        "no history yet".to_owned()
    } else {
        format!("{}, seq:{}", words::time(&target.head_time, look), target.head_seq)
    };
    let pending = match target.head_seq.saturating_sub(target.durable_seq) {
        0 => String::new(),
        _ => format!(", durable to seq:{}", target.durable_seq),
    };
    format!(
        "{} {}{padding}  {}  on {}  {}\n",
        look.paint.apply(style, mark),
        look.paint.apply(Style::Bold, &words::line(&target.name)),
        look.paint.apply(style, &format!("{:<7}", words::line(&target.state))),
        words::line(&target.branch),
        look.paint.apply(Style::Dim, &format!("{reach}{pending}")),
    )
}

/// Disks, one a line.
pub(crate) fn disks<'a>(disks: impl IntoIterator<Item = &'a DiskStatus>, look: &Look) -> String {
    let columns = [Column::left(""), Column::right(""), Column::left(""), Column::left(""), Column::left("")];
    let mut table = Table::untitled(columns, 4).unwrapped();
    for disk in disks {
        let (progress, style) = completeness(disk);
        let path = disk.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        table.row([
            Cell::new(&disk.id),
            Cell::new(words::bytes(disk.size_bytes)),
            Cell::new(&disk.mode),
            Cell::new(progress).styled(style),
            Cell::new(path),
        ]);
    }
    table.render(look)
}

/// Whether the store has all of a disk.
fn completeness(disk: &DiskStatus) -> (String, Style) {
    if disk.complete {
        return ("complete".to_owned(), Style::Good);
    }
    let percent = u128::from(disk.read_bytes) * 100 / u128::from(disk.size_bytes.max(1));
    (format!("{}% taken over", percent.min(99)), Style::Warn)
}

/// The store: where it is, and how full. What to do when it is not well stands beside its problem.
fn store(store: &StoreStatus, look: &Look) -> String {
    let path = words::line(&store.path.display().to_string());
    let style = if store.state == "ok" { Style::Good } else { Style::Bad };
    let state = look.paint.apply(style, &words::line(&store.state));
    format!(
        "store {path}  {state}\n    {} used for {} of disks, {} free\n",
        words::bytes(store.used_bytes),
        words::bytes(store.logical_bytes),
        words::bytes(store.free_bytes),
    )
}
