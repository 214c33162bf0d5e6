//! `completions` and `man`: what is made of the command line's own description.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, env::Shells};

use crate::{
    cli::Cli,
    error::{Error, Result},
    session::Session,
};

/// `completions`.
#[derive(Debug, Args)]
#[command(
    long_about = "Write a completion script for a shell to standard output. It completes targets, branches, moments and disks too: the shell asks bygone.",
    after_long_help = "\
Examples:
  bygone completions bash > /etc/bash_completion.d/bygone
  bygone completions zsh > ~/.zfunc/_bygone
  bygone completions fish > ~/.config/fish/completions/bygone.fish"
)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
#[command(
    long_about = "Write the manual page of bygone to standard output, or the pages of all commands into a folder.",
    after_long_help = "\
Examples:
  bygone man | man -l -
  bygone man --dir /usr/local/share/man/man1"
)]
pub(crate) struct Man {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(session: &Session, args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    // The shells of the argument are those.
    if let Some(shell) = shells.completer(&args.shell.to_string()) {
        shell
            .write_registration("COMPLETE", "bygone", "bygone", "bygone", &mut script)
            .map_err(Error::Output)?;
    }
    session.print(&String::from_utf8_lossy(&script))
}

pub(crate) fn man(session: &Session, args: &Man) -> Result<()> {
    let Some(folder) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Error::Output)?;
        return session.print(&String::from_utf8_lossy(&page));
    };
    let write = || {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)
    };
    write().map_err(|source| Error::Manual { folder: folder.clone(), source })
}
