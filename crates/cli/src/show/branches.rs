//! `branch list`, `promote`, `drop`.

use bygone_api::{BranchInfo, MomentInfo};

use super::{Cell, Column, Look, Style, Table, words};

/// Branches, one a row; a star marks the present.
pub(crate) fn table(branches: &[BranchInfo], look: &Look) -> String {
    let mut table = Table::new([
        Column::left(""),
        Column::left("BRANCH"),
        Column::left("MADE"),
        Column::left("STATE"),
        Column::left("FROM"),
    ]);
    for branch in branches {
        let (name, state) = match &branch.dropped {
            Some(time) => (
                format!("id:{} ({})", branch.id, branch.name),
                format!("dropped {}", words::time(time, look)),
            ),
            None => (branch.name.clone(), String::from(if branch.running { "running" } else { "" })),
        };
        table.row([
            Cell::new(if branch.present { "*" } else { " " }).styled(Style::Good),
            Cell::new(name).styled(if branch.present { Style::Bold } else { Style::Plain }),
            Cell::new(words::time(&branch.made, look)),
            Cell::new(state).styled(if branch.running { Style::Good } else { Style::Plain }),
            Cell::new(start(branch, look)),
        ]);
    }
    table.render(look)
}

/// Where a branch starts: `main, yesterday 14:59 (seq:812345)`.
fn start(branch: &BranchInfo, look: &Look) -> String {
    let Some(parent) = &branch.parent else { return String::new() };
    let time =
        branch.from_time.as_ref().map(|time| format!(", {}", words::time(time, look))).unwrap_or_default();
    let seq = branch.from_seq.map(|seq| format!(" (seq:{seq})")).unwrap_or_default();
    format!("{parent}{time}{seq}")
}

/// `branch promote`.
pub(crate) fn promoted(name: &str, moment: &MomentInfo, look: &Look) -> String {
    format!(
        "{} is the present of {name} now, as of {}\n",
        words::line(&moment.branch),
        words::moment(moment, look)
    )
}

/// `undo`.
pub(crate) fn undone(name: &str, moment: &MomentInfo, look: &Look) -> String {
    format!(
        "{name}: {}, as of {}\nAnother undo takes that back. To go further back: bygone branch promote {name} BRANCH, or \
         bygone restore {name} --at WHEN --in-place\n",
        words::line(&moment.label),
        words::moment(moment, look),
    )
}

/// `branch drop`.
pub(crate) fn dropped(name: &str, branch: &str, moment: &MomentInfo, look: &Look) -> String {
    format!(
        "Branch {branch} of {name} was given up, as of {}\nUndo takes that back: bygone undo {name}\n",
        words::moment(moment, look)
    )
}
