//! Moments: `timeline`, `points`, `point`.

use bygone_api::MomentInfo;
use bygone_model::{Grade, Kind};

use super::{Cell, Column, Look, Style, Table, words};

/// The branch that history begins on. It is named only beside others.
const FIRST_BRANCH: &str = "main";

/// Moments, one a row.
pub(crate) fn table(moments: &[MomentInfo], look: &Look) -> String {
    if moments.is_empty() {
        return "There are no such moments.\n".to_owned();
    }
    let mut table = Table::new([
        Column::left("WHEN"),
        Column::left("MOMENT"),
        Column::left("KIND"),
        Column::left("GRADE"),
        Column::left("BRANCH"),
        Column::left("WHAT"),
    ]);
    let branches = moments.iter().any(|moment| moment.branch != FIRST_BRANCH);
    for moment in moments {
        table.row([
            Cell::new(words::time(&moment.time, look)),
            Cell::new(format!("seq:{}", moment.seq)).styled(Style::Dim),
            Cell::new(moment.kind.as_str()).styled(kind_style(&moment.kind)),
            Cell::new(moment.grade.to_string()).styled(grade_style(moment.grade)),
            Cell::new(if branches { moment.branch.as_str() } else { "" }),
            Cell::new(words::label(moment)),
        ]);
    }
    table.render(look)
}

/// `point`.
pub(crate) fn named(moment: &MomentInfo, look: &Look) -> String {
    format!("point:{} is {}\n", words::line(&moment.label), words::moment(moment, look))
}

fn kind_style(kind: &Kind) -> Style {
    match kind {
        Kind::Suspect | Kind::Panic => Style::Bad,
        Kind::Gap | Kind::Reset => Style::Warn,
        Kind::Point | Kind::Package => Style::Bold,
        _ => Style::Plain,
    }
}

fn grade_style(grade: Grade) -> Style {
    match grade {
        Grade::Stopped | Grade::Clean => Style::Good,
        Grade::Flushed => Style::Plain,
        Grade::Crash => Style::Dim,
    }
}
