//! `jobs`.

use bygone_api::{JobInfo, JobState};

use super::{Cell, Column, Look, Style, Table, words};

/// Jobs, one a row; below each what there is to say of it.
pub(crate) fn table(jobs: &[JobInfo], look: &Look) -> String {
    let mut table = Table::new([
        Column::right("JOB"),
        Column::left("REQUEST"),
        Column::left("TARGET"),
        Column::left("STATE"),
        Column::left("SINCE"),
        Column::left(""),
    ]);
    for job in jobs {
        let (state, style) = match job.state {
            JobState::Running => ("running", Style::Good),
            JobState::Done => ("done", Style::Plain),
            JobState::Failed => ("failed", Style::Warn),
            JobState::Cancelled => ("cancelled", Style::Plain),
            JobState::Interrupted => ("interrupted", Style::Warn),
        };
        table.row([
            Cell::new(job.id.to_string()),
            Cell::new(words::line(&job.request)),
            Cell::new(job.target.as_deref().map_or_else(String::new, words::line)),
            Cell::new(state).styled(style),
            Cell::new(words::time(&job.since, look)),
            Cell::new(more(job)),
        ]);
    }
    table.render(look)
}

/// How far it is, why it failed, or what it had changed.
fn more(job: &JobInfo) -> String {
    let progress = job.progress.as_ref().map(|progress| match progress.total_bytes {
        0 => words::line(&progress.doing),
        total => {
            let hundredths = u128::from(progress.done_bytes.min(total)) * 100 / u128::from(total);
            format!("{}, {hundredths} %", words::line(&progress.doing))
        }
    });
    let failure = job.failure.as_ref().map(|failure| words::line(&failure.to_string()));
    let changed = match job.changed.as_deref() {
        None if job.state == JobState::Interrupted => {
            Some("what it had changed is looked up when its target is used next".to_owned())
        }
        None => None,
        Some([]) => Some("it had changed nothing".to_owned()),
        Some(changed) => Some(words::line(&format!("it had changed: {}", changed.join("; ")))),
    };
    [progress, failure, changed].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
