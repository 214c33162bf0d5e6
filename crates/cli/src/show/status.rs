//! `status`: readable at a glance.

use bygone_api::{
    DiskStatus, Failure, IoProblem, Problem, Running, Status, StoreState, StoreStatus, TargetStatus, Trouble,
};
use serde::Deserialize as _;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::hints;

use super::{Cell, Column, Look, Style, Table, prose, words};

/// Everything.
pub(crate) fn status(status: &Status, look: &Look) -> String {
    let mut out = String::new();
    let widths = Widths::of(&status.targets);
    // One table for the disks of all, so that their columns stand in line.
    let mut disks = disks(&status.targets, look).into_iter();
    for target in &status.targets {
        out.push_str(&head(target, &widths, look));
        out.push_str(&facts(target, look));
        out.extend(disks.by_ref().take(target.disks.len()));
    }
    // What cannot be looked at is not nothing.
    if status.targets.is_empty()
        && status
            .problems
            .iter()
            .all(|problem| problem.target.is_none() && !matches!(problem.trouble, Trouble::NoTargets { .. }))
    {
        out.push_str("Nothing is protected yet. Begin with: bygone target add NAME --disk store:20G\n");
    }
    out.push('\n');
    out.push_str(&store(&status.store, look));
    out.push_str(&problems(&status.problems, look));
    out
}

/// One target: what it is doing, what its machine is reached by, how far its history reaches, its disks.
pub(crate) fn target(target: &TargetStatus, look: &Look) -> String {
    let all = std::slice::from_ref(target);
    let disks = disks(all, look).concat();
    format!("{}{}{disks}", head(target, &Widths::of(all), look), facts(target, look))
}

/// What is wrong, each with what to do about it.
pub(crate) fn problems(problems: &[Problem], look: &Look) -> String {
    let mark = look.paint.apply(Style::Bad, "!");
    let hint = look.paint.apply(Style::Hint, "hint:");
    let lines = |problem: &Problem| {
        let said = prose(&problem.to_string(), 2, look.width);
        let todo = prose(&hints::of_problem(problem), 8, look.width);
        format!("{mark} {said}\n  {hint} {todo}\n")
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
        fields.insert("hint".to_owned(), hints::of_problem(&problem).into());
    }
}

/// How wide the first columns of several targets are, so that what follows stands in line.
struct Widths {
    name: usize,
    state: usize,
}

impl Widths {
    /// A longer name than this moves only what stands beside itself.
    const NAME_MAX: usize = 24;

    fn of(targets: &[TargetStatus]) -> Widths {
        Widths {
            name: targets.iter().map(|target| target.name.width()).max().unwrap_or(0).min(Self::NAME_MAX),
            state: targets.iter().map(|target| state(target).width()).max().unwrap_or(0),
        }
    }
}

/// What it is doing, in a word: a change that is under way, else how its machine is.
fn state(target: &TargetStatus) -> String {
    target.life.word().replace('-', " ")
}

/// The branch on which its machine runs; the present if none does.
pub(crate) fn branch(target: &TargetStatus) -> &str {
    let running = target.machine.as_ref().and_then(|machine| machine.branch.as_ref());
    running.unwrap_or(&target.branch)
}

/// `● web  running  on main  3 seconds ago`.
fn head(target: &TargetStatus, widths: &Widths, look: &Look) -> String {
    let (mark, style) = match target.state {
        Running::Running => ("●", Style::Good),
        Running::Stopped => ("○", Style::Dim),
        Running::Unknown => ("?", Style::Warn),
    };
    let reach = match target.head_seq {
        0 => "no history yet".to_owned(),
        _ => words::time(&target.head_time, look),
    };
    let parts = [
        (words::line(&target.name), widths.name, Style::Bold),
        (state(target), widths.state, style),
        (format!("on {}", words::line(branch(target))), 0, Style::Plain),
        (reach, 0, Style::Dim),
    ];
    let mut out = format!("{} ", look.paint.apply(style, mark));
    let (mut column, mut blanks) = (2, 0);
    for (text, width, style) in parts {
        if blanks > 0 && look.width.is_some_and(|width| column + blanks + text.width() > width) {
            out.push('\n');
            (column, blanks) = (0, 4);
        }
        out.push_str(&" ".repeat(blanks));
        out.push_str(&look.paint.apply(style, &text));
        column += blanks + text.width();
        blanks = width.saturating_sub(text.width()) + 2;
    }
    out + "\n"
}

/// What there is to know of a target beside its disks, a line each.
fn facts(target: &TargetStatus, look: &Look) -> String {
    let mut table = Table::untitled([Column::left(""), Column::left("")], 4);
    let mut row = |what: &str, text: String| {
        table.row([Cell::new(what).styled(Style::Dim), Cell::new(text)]);
    };
    if let Some(since) = &target.life_since {
        row("since", words::time(since, look));
    }
    if let Some(machine) = &target.machine {
        row("process", format!("{} ({})", machine.pid, machine.accelerator));
        row("console", format!("bygone console {}", target.name));
        if !machine.display.is_none() {
            row("display", machine.display.to_string());
        }
        if !machine.forwards.is_empty() {
            row("ports", machine.forwards.join(", "));
        }
        match &machine.branch {
            None => row("branch", "nobody knows on which one it runs".to_owned()),
            Some(branch) if *branch == target.branch => {}
            Some(_) => row("present", target.branch.clone()),
        }
    }
    let takes = format!("{} in the store", words::bytes(target.used_bytes));
    row(
        "history",
        match (target.head_seq, target.durable_seq) {
            (0, _) => takes,
            (head, durable) if durable < head => format!("seq:{head}, durable to seq:{durable}, {takes}"),
            (head, _) => format!("seq:{head}, {takes}"),
        },
    );
    if let Some(verified) = &target.verified {
        let time = words::time(&verified.time, look);
        let part = if verified.complete { "" } else { ", in part" };
        let known = match verified.damaged.iter().min_by_key(|at| &at.since) {
            None => "whole".to_owned(),
            Some(first) => {
                let places = words::count(verified.damaged.len(), "damaged place");
                format!("{places}, known since {}", words::time(&first.since, look))
            }
        };
        row("verified", format!("{time}{part}: {known}"));
    }
    if target.written_bytes > 0 {
        row("written", format!("{} since the manager began", words::bytes(target.written_bytes)));
    }
    table.render(look)
}

/// Disks, one a row.
fn disks(targets: &[TargetStatus], look: &Look) -> Vec<String> {
    let columns = [Column::left(""), Column::right(""), Column::left(""), Column::left(""), Column::left("")];
    let mut table = Table::untitled(columns, 4);
    for (target, disk) in
        targets.iter().flat_map(|target| target.disks.iter().map(move |disk| (target, disk)))
    {
        let (progress, style) = completeness(target, disk);
        let path = disk.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        table.row([
            Cell::new(&disk.id),
            Cell::new(words::bytes(disk.size_bytes)),
            Cell::new(disk.mode.word()),
            Cell::new(progress).styled(style),
            Cell::new(path),
        ]);
    }
    table.rows(look)
}

/// Whether the store has all of a disk, and the disk is where it was.
fn completeness(target: &TargetStatus, disk: &DiskStatus) -> (String, Style) {
    let outside = target.problems.iter().find_map(|problem| match &problem.trouble {
        Trouble::DiskUnusable { why } if problem.disk.as_ref() == Some(&disk.id) => Some(why),
        _ => None,
    });
    match outside {
        None => {}
        Some(Failure::DiskAway { problem: IoProblem::NotFound | IoProblem::NotAFolder, .. }) => {
            return ("missing".to_owned(), Style::Bad);
        }
        Some(Failure::DiskResized { .. }) => return ("resized".to_owned(), Style::Bad),
        Some(_) => return ("unusable".to_owned(), Style::Bad),
    }
    if disk.complete {
        return ("complete".to_owned(), Style::Good);
    }
    let percent = u128::from(disk.read_bytes) * 100 / u128::from(disk.size_bytes.max(1));
    (format!("{}% read", percent.min(99)), Style::Warn)
}

/// The store: where it is, and how full. What to do when it is not well stands beside its problem.
fn store(store: &StoreStatus, look: &Look) -> String {
    let path = words::line(&store.path.display().to_string());
    let style = if store.state == StoreState::Ok { Style::Good } else { Style::Bad };
    let state = look.paint.apply(style, store.state.word());
    let removed = match store.removed_bytes {
        0 => String::new(),
        bytes => {
            format!("    {} of that by removed targets: bygone target list --removed\n", words::bytes(bytes))
        }
    };
    format!(
        "store {path}  {state}\n    {} used for {} of disks, {} free\n{removed}",
        words::bytes(store.used_bytes),
        words::bytes(store.logical_bytes),
        words::bytes(store.free_bytes),
    )
}
