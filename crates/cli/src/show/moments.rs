//! Moments: `timeline`, `points`, `point`.

use bygone_api::{MomentInfo, MomentMeant};
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
        Column::left("BRANCH").shortened(),
        Column::left("WHAT"),
    ]);
    let branches = moments.iter().any(|moment| moment.branch != FIRST_BRANCH);
    for moment in moments {
        table.row([
            Cell::new(words::time(&moment.time, look)),
            Cell::new(words::name(moment)).styled(Style::Dim),
            Cell::new(moment.kind.as_str()).styled(kind_style(&moment.kind)),
            Cell::new(moment.grade.to_string()).styled(grade_style(moment.grade)),
            Cell::new(if branches { moment.branch.as_str() } else { "" }),
            Cell::new(words::label(moment)),
        ]);
    }
    table.render(look)
}

/// `when`: one line for each thing that is known.
pub(crate) fn meant(meant: &MomentMeant, look: &Look) -> String {
    let moment = &meant.moment;
    let at = moment.time.parse::<jiff::Timestamp>().map(|time| time.to_zoned(look.now.time_zone().clone()));
    let at = at.map_or_else(
        |_| words::line(&moment.time),
        |at| at.strftime("%Y-%m-%d %H:%M:%S%.6f %:z").to_string(),
    );
    let kept = match &meant.why {
        None => "yes".to_owned(),
        Some(why) => format!("no: {}", words::line(why)),
    };
    let what = match moment.kind {
        Kind::Moment => "no event".to_owned(),
        _ => format!("{}: {}", moment.kind, words::label(moment)),
    };
    let found = moment.how.as_deref().map(words::line).unwrap_or_default();
    let lines = [
        ("moment", words::line(&moment.when)),
        ("time", format!("{at} ({})", words::time(&moment.time, look))),
        ("branch", words::line(&moment.branch)),
        ("grade", moment.grade.to_string()),
        ("what", what),
        ("found", found),
        ("exact", kept),
    ];
    lines.iter().map(|(name, value)| format!("{name:<7} {value}\n")).collect()
}

/// `point`.
pub(crate) fn named(moment: &MomentInfo, look: &Look) -> String {
    let (label, branch) = (words::line(&moment.label), words::line(&moment.branch));
    format!("point:{label} is {} on branch {branch}\n", words::moment(moment, look))
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
