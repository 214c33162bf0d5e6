//! `serve`: the manager itself.

use bygone_engine::{ServeInfo, ServeOptions};
use clap::Args;
use serde_json::json;

use crate::{error::Result, session::Session, show, signals, values};

/// `serve`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Run the manager: it runs targets, serves disks as NBD exports, notices what happens to targets, and answers the \
other commands. SIGINT or SIGTERM end it in order; a second one ends it at once, which costs no acknowledged write.

Disks are served as NBD exports on STORE/run/nbd.sock:
  NAME/DISK            the present, writable
  NAME/DISK@WHEN       a past moment, read-only
  NAME/DISK#BRANCH     a branch, writable
Other commands find it at STORE/run/api.sock.",
    after_long_help = "\
Examples:
  bygone serve
  bygone serve --listen 127.0.0.1:10809     serve the NBD exports over TCP as well
  nbdinfo --list 'nbd+unix:///?socket=/var/lib/bygone/run/nbd.sock'"
)]
pub(crate) struct Serve {
    /// End when no target runs and nothing is asked for
    #[arg(long)]
    until_idle: bool,
    /// Serve the NBD exports over TCP as well
    #[arg(long, value_name = "HOST:PORT", value_parser = values::listen)]
    listen: Option<String>,
    /// Whoever starts it is about to run this target: it does not come up by itself
    #[arg(long, value_name = "NAME", hide = true)]
    to_run: Option<String>,
}

impl Serve {
    pub(crate) fn options(&self) -> ServeOptions {
        ServeOptions { until_idle: self.until_idle, listen: self.listen.clone(), to_run: self.to_run.clone() }
    }
}

pub(crate) fn run(session: &Session, args: &Serve) -> Result<()> {
    let store = session.store()?;
    signals::on_stop(bygone_engine::stop_serving)?;
    bygone_engine::serve(&store, &args.options(), &mut |info| ready(session, info))?;
    Ok(())
}

/// Says where it can be reached. That nobody listens is no reason to end.
fn ready(session: &Session, info: &ServeInfo) {
    let said = if session.json() {
        session.print_json(&json!({"api": info.api, "nbd": info.nbd, "listen": info.listen}))
    } else if session.quiet() {
        Ok(())
    } else {
        session.print(&show::machine::serving(&info.api, &info.nbd, info.listen.as_deref()))
    };
    if let Err(error) = said {
        tracing::warn!(%error, "nobody could be told where the manager is reached");
    }
}
