//! `export`: one disk, served for as long as this command runs.

use std::path::PathBuf;

use bygone_api::{
    call::{self, ExportTo},
    config::absolute,
};
use clap::{ArgGroup, Args};

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    error::{Result, check_whole},
    manager,
    session::Session,
    show, values,
};

/// `export`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Serve one disk until interrupted (Ctrl-C or SIGTERM).

WHAT is
  NAME[/DISK]          the present, writable
  NAME[/DISK]@WHEN     a past moment, read-only
  NAME/DISK#BRANCH     a branch, writable
DISK can be left out if there is only one.",
    after_long_help = "\
Examples:
  bygone export web@yesterday --nbd unix:/tmp/web.sock
  bygone export 'web/vda@3 days ago 15:00' --nbd 127.0.0.1:10809
  bygone export web@now --file /mnt/web.img                   a file until Ctrl-C; `restore --to` writes one that stays
  qemu-img convert 'nbd+unix:///?socket=/tmp/web.sock' web.qcow2",
    group = ArgGroup::new("to").required(true)
)]
pub(crate) struct Export {
    /// What to serve: NAME[/DISK][@WHEN] or NAME/DISK#BRANCH
    #[arg(add = ArgValueCandidates::new(complete::devices))]
    what: String,
    /// As NBD: unix:PATH or HOST:PORT
    #[arg(long, value_name = "ADDRESS", group = "to", value_parser = values::nbd)]
    nbd: Option<ExportTo>,
    /// As a raw file, which is there until Ctrl-C
    #[arg(long, value_name = "PATH", group = "to", value_parser = values::path)]
    file: Option<PathBuf>,
}

impl Export {
    pub(crate) fn call(&self) -> call::Export {
        let to = match (&self.nbd, &self.file) {
            (Some(nbd), _) => nbd.clone(),
            // The group requires one of them.
            (None, file) => ExportTo::File(absolute(&file.clone().unwrap_or_default())),
        };
        call::Export { what: self.what.clone(), to }
    }
}

pub(crate) fn run(session: &Session, args: &Export) -> Result<()> {
    let mut lost = Vec::new();
    manager::export(session, &args.call(), &mut |exported| {
        lost.clone_from(&exported.lost);
        session.show(&exported, show::machine::exported)
    })?;
    check_whole(&lost)
}
