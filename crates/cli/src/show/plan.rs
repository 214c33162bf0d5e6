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
    let mut row = |what: &str, text: String, style| {
        table.row([Cell::new(what).styled(Style::Dim), Cell::new(text).styled(style)]);
    };
    if let Some(moment) = &planned.moment {
        let text =
            format!("{} on branch {}", words::moment_in_full(moment, look), words::line(&moment.branch));
        row("moment", text, Style::Plain);
    }
    for loss in &planned.loses {
        row("lost", lost(loss, look), Style::Warn);
    }
    for disk in &planned.lost_disks {
        let size = words::bytes(disk.size_bytes);
        row("lost", format!("disk {} ({size}), which is nowhere but in the store", disk.id), Style::Warn);
    }
    if planned.freed_bytes > 0 {
        row("freed", words::bytes(planned.freed_bytes), Style::Plain);
    }
    if !matches!(call, Plannable::TargetRemove(_)) {
        row("undo", format!("bygone undo {target}, as long as nothing of it was freed"), Style::Plain);
    }
    format!("{}\n{}", look.paint.apply(Style::Bold, &question), table.render(look))
}

/// What would be done, with `--dry-run`.
pub(crate) fn outlook(planned: &Planned, look: &Look) -> String {
    let mut table = Table::new([Column::left(""), Column::left("")]);
    let mut row = |what: &str, text: String| table.row([Cell::new(what), Cell::new(text)]);
    row("would say", planned.does.as_deref().map_or_else(String::new, words::line));
    let present = planned.present.as_deref().map_or_else(|| "stays as it is".to_owned(), words::line);
    row("present", present);
    for disk in &planned.fills {
        row("filled", format!("disk {} outside the store", words::line(disk)));
    }
    let target = words::line(&planned.target);
    format!("{target}: nothing was done\n{}", table.render(look))
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
