//! The question before something is lost.

use bygone_api::{Loss, POINTS_MAX, Planned, call::Plannable};

use super::{Cell, Column, Look, Style, Table, words};

/// What is about to be lost, and the question whether that is meant.
pub(crate) fn question(call: &Plannable, planned: &Planned, look: &Look) -> String {
    let target = words::line(&planned.target);
    let question = match call {
        Plannable::TargetRemove(_) => format!("Delete {target} and all of its history for good?"),
        Plannable::BranchDrop(drop) => {
            format!("Give up branch {} of {target}, and what happened on it?", words::line(&drop.branch))
        }
        Plannable::Restore(_) => format!("Put {target} back, and give up what came after that moment?"),
        Plannable::BranchPromote(_) => format!("Give {target} another present?"),
        Plannable::Undo(_) => format!("Take back the last change of {target}?"),
    };
    let mut table = Table::untitled([Column::left(""), Column::left("")], 2);
    let mut facts = facts(planned, look);
    if !matches!(call, Plannable::TargetRemove(_)) {
        let undo = format!("bygone undo {target}, as long as nothing of it was freed");
        facts.push(("undo", undo, Style::Plain));
    }
    for (what, text, style) in facts {
        table.row([Cell::new(what).styled(Style::Dim), Cell::new(text).styled(style)]);
    }
    format!("{}\n{}", look.paint.apply(Style::Bold, &question), table.render(look))
}

/// What would be done, with `--dry-run`.
pub(crate) fn outlook(call: &Plannable, planned: &Planned, look: &Look) -> String {
    let mut rows = Vec::new();
    if let Plannable::TargetRemove(remove) = call {
        let history = if remove.delete_history { "is deleted" } else { "is kept under another name" };
        rows.push(("removed", format!("its history {history}"), Style::Plain));
    }
    if let Some(does) = &planned.does {
        let present = planned.present.as_deref().map_or_else(|| "stays as it is".to_owned(), words::line);
        rows.push(("would say", words::line(does), Style::Plain));
        rows.push(("present", present, Style::Plain));
    }
    rows.extend(facts(planned, look));
    let mut table = Table::new([Column::left(""), Column::left("")]);
    for (what, text, style) in rows {
        table.row([Cell::new(what), Cell::new(text).styled(style)]);
    }
    format!("{}: nothing was done\n{}", words::line(&planned.target), table.render(look))
}

/// What a plan has to say besides what it does: each fact with what it is about.
fn facts(planned: &Planned, look: &Look) -> Vec<(&'static str, String, Style)> {
    let mut facts = Vec::new();
    if let Some(moment) = &planned.moment {
        let text =
            format!("{} on branch {}", words::moment_in_full(moment, look), words::line(&moment.branch));
        facts.push(("moment", text, Style::Plain));
    }
    for path in &planned.writes {
        facts.push(("written", words::line(&path.display().to_string()), Style::Plain));
    }
    for disk in &planned.fills {
        facts.push(("filled", format!("disk {} outside the store", words::line(disk)), Style::Plain));
    }
    for loss in &planned.loses {
        facts.push(("lost", lost(loss, look), Style::Warn));
    }
    for disk in &planned.lost_disks {
        let (id, size) = (words::line(&disk.id), words::bytes(disk.size_bytes));
        facts.push(("lost", format!("disk {id} ({size}), which is nowhere but in the store"), Style::Warn));
    }
    if planned.freed_bytes > 0 {
        facts.push(("freed", words::bytes(planned.freed_bytes), Style::Plain));
    }
    facts
}

/// `branch main after yesterday 14:59 (seq:912345) up to 11:59 (seq:1000002); 2 points: good, better`.
fn lost(loss: &Loss, look: &Look) -> String {
    let after = loss
        .after_time
        .as_ref()
        .map_or(String::new(), |time| format!(" after {} (seq:{})", words::time(time, look), loss.after_seq));
    let to = format!(" up to {} (seq:{})", words::time(&loss.to_time, look), loss.to_seq);
    let points = match loss.points {
        0 => String::new(),
        n => {
            let labels: Vec<String> = loss.labels.iter().map(|label| words::line(label)).collect();
            let more = if n > loss.labels.len() as u64 { ", …" } else { "" };
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            let count = words::count(n, "point");
            let least = if n >= POINTS_MAX { "at least " } else { "" };
            format!("; {least}{count}: {}{more}", labels.join(", "))
        }
    };
    format!("branch {}{after}{to}{points}", words::line(&loss.branch))
}
