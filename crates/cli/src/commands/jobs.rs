//! What is being done, whoever asked for it.

use bygone_api::{JobInfo, call};
use clap::Args;

use crate::{
    error::Result,
    manager::{self, OnInterrupt},
    session::Session,
    show,
};

/// `jobs`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Show what is being done and what was done last, the newest last. With a number, wait until that job has ended and show it.

What lasts ends with the command that asked for it, unless that has --detach. What a manager was at when it was killed is \
shown as interrupted, with what it had changed.",
    after_long_help = "\
Examples:
  bygone restore web --at 'last shutdown' --in-place --detach
  bygone jobs              all that are known
  bygone jobs 7            wait for job 7; Ctrl-C leaves it
  bygone jobs 7 --cancel

A script that may lose an answer asks again with the key it gave:
  bygone point web --label before-upgrade --key upgrade-42"
)]
pub(crate) struct Jobs {
    /// Only this one
    #[arg(value_name = "JOB")]
    id: Option<u64>,
    /// Give it up; what cannot be left half-way goes on
    #[arg(long, requires = "id")]
    cancel: bool,
}

pub(crate) fn run(session: &Session, args: &Jobs) -> Result<()> {
    match (args.id, args.cancel) {
        (None, _) => list(session),
        (Some(id), true) => {
            let job = manager::ask(session, &call::JobCancel { id })?;
            session.tell(&job, |job, look| show::jobs::table(std::slice::from_ref(job), look))
        }
        (Some(id), false) => {
            let ended = manager::ask(session, &call::Job { id })?;
            session.show(&ended, |ended, look| show::jobs::table(std::slice::from_ref(&ended.job), look))
        }
    }
}

fn list(session: &Session) -> Result<()> {
    let mut jobs: Vec<JobInfo> = Vec::new();
    manager::ask_for_items(session, &call::Jobs {}, OnInterrupt::Die, &mut |job| {
        if session.json() {
            return session.print_json(&job);
        }
        jobs.push(job);
        Ok(())
    })?;
    if session.json() { Ok(()) } else { session.print(&show::jobs::table(&jobs, &session.look())) }
}
