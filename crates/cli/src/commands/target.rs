//! What is protected: `target add`, `list`, `show`, `set`, `remove`.

use std::path::PathBuf;

use bygone_api::{
    RemovedInfo, TargetInfo,
    call::{self, NewDisk},
    config::{Display, Firmware, TargetConfig, absolute},
};
use clap::{ArgAction, Args, Subcommand, ValueEnum};

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    confirm::{before_loss, dry_run},
    error::Result,
    manager::{self, OnInterrupt},
    session::Session,
    show,
    values::{self, DiskArg},
};

const ADD_LONG: &str = "\
Protect a new target.

SOURCE is where a disk comes from:
  PATH            a raw file or block device; it stays where it is, and every write to it is kept
  store:SIZE      a new, empty disk that lives in the store
  import:PATH     an image that is read into the store once: raw, qcow2, vmdk, vhdx, vhd, vdi, qed or parallels
  raw:PATH        as PATH, and import:raw:PATH as import:PATH, for a raw disk that begins like something else

ID names the disk (vda, vdb, … unless given). A path that has a '=' needs a '/' before it: ./a=b.img";

const ADD_EXAMPLES: &str = "\
Examples:
  bygone target add web --disk store:20G --memory 2G --cpus 4
  bygone target add web --disk import:debian.qcow2 --firmware uefi --net user,hostfwd=tcp::2222-:22
  bygone target add new --disk store:20G --cdrom debian-netinst.iso --display gtk
  bygone target add cloud --disk import:debian-generic.qcow2 --user-data user-data.yaml --net user
  bygone target add db --disk root=/dev/vg/db --disk data=/srv/data.img --autostart
  bygone target add tiny --disk store:1G --kernel vmlinuz --append 'console=ttyS0 root=/dev/vda'
  bygone target add odd --disk store:1G --qemu-arg -device --qemu-arg virtio-rng-pci";

/// `target`.
#[derive(Debug, Subcommand)]
#[command(long_about = "Add, list, show, change or remove what is protected.")]
pub(crate) enum Target {
    #[command(about = "Protect a new target")]
    Add(Box<Add>),
    #[command(about = "List what is protected, or what was")]
    List(List),
    #[command(about = "Show how a target is made up")]
    Show(Show),
    #[command(about = "Change a target's settings")]
    Set(Set),
    #[command(about = "Stop protecting a target")]
    Remove(Remove),
    #[command(about = "Bring back a target that was removed and whose history was kept")]
    Restore(Restore),
    #[command(about = "Bring back a target whose configuration is damaged")]
    Repair(Repair),
}

/// `target add`.
#[derive(Debug, Args)]
#[command(long_about = ADD_LONG, after_long_help = ADD_EXAMPLES)]
pub(crate) struct Add {
    /// What the target is called
    name: String,
    /// A disk: PATH, store:SIZE or import:PATH; may be given again
    #[arg(long = "disk", required = true, value_name = "[ID=]SOURCE", value_parser = values::disk)]
    disks: Vec<DiskArg>,
    /// The block size that these disks show, in bytes, if not the one that they have (512 for new ones)
    #[arg(long, value_name = "BYTES", value_parser = values::block_bytes)]
    block_size: Option<u32>,
    /// Memory, such as 512M or 4G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = values::memory_mib)]
    memory: u32,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value = "2", value_parser = values::cpus)]
    cpus: u32,
    /// A kernel to boot directly
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel", value_parser = values::path)]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    append: Option<String>,
    /// An image of a CD, such as an installer: booted when none of its disks can be
    #[arg(long, value_name = "ISO")]
    cdrom: Option<PathBuf>,
    /// A file for cloud-init inside of it, which finds it as user-data on a small disk of its own
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// What its user sees, unless `run` says otherwise: none, gtk (a window) or vnc:ADDRESS
    #[arg(long, value_name = "DISPLAY", default_value = "none", value_parser = values::display)]
    display: Display,
    /// What starts the boot loader
    #[arg(long, value_name = "KIND", value_enum, default_value = "bios")]
    firmware: FirmwareArg,
    /// An argument for QEMU as it is; may be given again
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true, action = ArgAction::Append)]
    qemu_args: Vec<String>,
    /// The network: user[,hostfwd=…], tap:INTERFACE or none
    #[arg(long, value_name = "NET", default_value = "none", value_parser = values::net)]
    net: String,
    /// Start it with the manager
    #[arg(long)]
    autostart: bool,
    /// Do not wait until disks that stay where they are have been read once; a manager goes on with it when it runs
    #[arg(long)]
    no_wait: bool,
}

/// What starts the boot loader.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirmwareArg {
    Bios,
    Uefi,
}

/// `target list`.
#[derive(Debug, Args)]
#[command(
    long_about = "List what is protected; with --removed, what was and whose history is kept.",
    after_long_help = "\
Examples:
  bygone target list
  bygone target list --removed"
)]
pub(crate) struct List {
    /// List the targets that were removed and can be brought back, with when that was and what they take
    #[arg(long)]
    removed: bool,
}

/// `target show`.
#[derive(Debug, Args)]
#[command(
    long_about = "Show how a target is, and how it is made up: the settings that `target set` changes."
)]
pub(crate) struct Show {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
}

/// `target set`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Change a target's settings. They hold from its next start on; how it was made up before stays known.

Keys: memory, cpus, kernel, initrd, append, firmware, cdrom, user-data, display, net, autostart, qemu-arg. KEY= clears a setting.",
    after_long_help = "\
Examples:
  bygone target set web memory=4G cpus=4
  bygone target set web net=user,hostfwd=tcp::2222-:22 autostart=true
  bygone target set tiny 'append=console=ttyS0 root=/dev/vda1'"
)]
pub(crate) struct Set {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// What to change
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = values::setting)]
    settings: Vec<(String, String)>,
}

/// `target restore`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Bring back a target that was removed and whose history was kept: its history, its branches, its settings. Of several that \
had this name it is the one that was removed last; NAME-1, NAME-2, … name one of them, as `target list --removed` shows \
them.",
    after_long_help = "\
Examples:
  bygone target restore web
  bygone target restore web-1 --as web-of-may     beside another target that is called web now"
)]
pub(crate) struct Restore {
    /// What the target was called, or is kept as
    #[arg(add = ArgValueCandidates::new(complete::removed))]
    name: String,
    /// What it is called from now on, instead of its old name
    #[arg(long = "as", value_name = "OTHER")]
    new_name: Option<String>,
}

/// `target repair`.
#[derive(Debug, Args)]
#[command(long_about = "\
Bring back a target whose newest configuration cannot be read. It is made anew from what the target's log says of its \
settings and disks, or, if it says nothing, from an older configuration. Its history is left as it is.")]
pub(crate) struct Repair {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
}

/// `target remove`.
#[derive(Debug, Args)]
#[command(
    long_about = "Stop protecting a target. Its history is kept under another name, unless --delete-history is given. \
                  Disks outside the store are left as they are.",
    after_long_help = "\
Examples:
  bygone target remove web
  bygone target remove web --delete-history --yes"
)]
pub(crate) struct Remove {
    /// Which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Delete its history too
    #[arg(long)]
    delete_history: bool,
    /// Only say what would be done and lost
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before history is deleted; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
}

impl Add {
    pub(crate) fn call(&self) -> call::TargetAdd {
        let mut config = TargetConfig::new(&self.name);
        config.memory_mib = self.memory;
        config.cpus = self.cpus;
        config.kernel = self.kernel.as_deref().map(absolute);
        config.initrd = self.initrd.as_deref().map(absolute);
        config.append.clone_from(&self.append);
        config.cdrom = self.cdrom.as_deref().map(absolute);
        config.user_data = self.user_data.as_deref().map(absolute);
        config.display.clone_from(&self.display);
        config.firmware = match self.firmware {
            FirmwareArg::Bios => Firmware::Bios,
            FirmwareArg::Uefi => Firmware::Uefi,
        };
        config.qemu_args.clone_from(&self.qemu_args);
        config.net.clone_from(&self.net);
        config.autostart = self.autostart;
        let disk = |disk: &DiskArg| NewDisk {
            id: disk.id.clone(),
            source: disk.source.clone(),
            block_bytes: self.block_size,
        };
        call::TargetAdd { config, disks: self.disks.iter().map(disk).collect(), wait: !self.no_wait }
    }
}

impl Show {
    pub(crate) fn call(&self) -> call::TargetShow {
        call::TargetShow { name: self.name.clone() }
    }
}

impl Set {
    pub(crate) fn call(&self) -> call::TargetSet {
        call::TargetSet { name: self.name.clone(), settings: self.settings.clone() }
    }
}

impl Remove {
    pub(crate) fn call(&self) -> call::TargetRemove {
        call::TargetRemove { name: self.name.clone(), delete_history: self.delete_history }
    }
}

pub(crate) fn run(session: &Session, target: &Target) -> Result<()> {
    match target {
        Target::Add(args) => {
            session.tell(&manager::ask_for_long(session, &args.call())?, show::target::added)
        }
        Target::List(args) if args.removed => list_removed(session),
        Target::List(_) => list(session),
        Target::Show(args) => session.show(&manager::ask(session, &args.call())?, show::target::target),
        Target::Set(args) => session.tell(&manager::ask(session, &args.call())?, show::target::target),
        Target::Remove(args) if args.dry_run => dry_run(session, args.call()),
        Target::Remove(args) => {
            let call = args.call();
            let planned =
                if args.delete_history { before_loss(session, args.yes, call.clone())? } else { None };
            let answer = manager::ask_as_planned(session, &call, planned.as_ref(), OnInterrupt::Die)?;
            session.tell(&answer, show::target::removed)
        }
        Target::Restore(args) => {
            let new_name = args.new_name.clone();
            let call = call::TargetRestore { new_name, ..call::TargetRestore::of(&args.name) };
            session.tell(&manager::ask(session, &call)?, show::target::target)
        }
        Target::Repair(args) => {
            let call = call::TargetRepair { name: args.name.clone() };
            session.tell(&manager::ask(session, &call)?, show::target::repaired)
        }
    }
}

fn list_removed(session: &Session) -> Result<()> {
    let mut kept: Vec<RemovedInfo> = Vec::new();
    manager::ask_for_items(session, &call::TargetRemoved {}, OnInterrupt::Die, &mut |item| {
        if session.json() {
            return session.print_json(&item);
        }
        kept.push(item);
        Ok(())
    })?;
    if session.json() { Ok(()) } else { session.print(&show::target::removed_list(&kept, &session.look())) }
}

fn list(session: &Session) -> Result<()> {
    let mut targets: Vec<TargetInfo> = Vec::new();
    manager::ask_for_items(session, &call::TargetList {}, OnInterrupt::Die, &mut |item| {
        if session.json() {
            return session.print_json(&item);
        }
        targets.push(item);
        Ok(())
    })?;
    if session.json() { Ok(()) } else { session.print(&show::target::list(&targets, &session.look())) }
}
