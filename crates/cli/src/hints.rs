//! Hints for failures and problems: the next step, with the command to type where there is one. No crate below this one
//! knows commands; a failure describes itself by its code and fields.

use bygone_api::{
    Failure, ImageProblem, IoProblem, MomentProblem, MovedPart, Problem, ServeProblem, Trouble,
    config::check_name,
};
use bygone_model::when::{When, parse_duration};

/// Room is missing.
const ROOM: &str = "free space on that file system, then try again; nothing that is stored is lost";
/// A part of an index is damaged.
const INDEX: &str =
    "nothing is lost: the index is made anew from the log, by a running manager or by `bygone compact`";
/// A file cannot be used.
const FILE: &str = "check the path and its permissions";

/// What to do about a failure of a call about this target.
pub(crate) fn of(failure: &Failure, about: Option<&str>) -> String {
    // In a shell, only a name stands for itself.
    let about = about.filter(|name| check_name(name).is_ok());
    let name = about.unwrap_or("NAME");
    let fixed = match failure {
        Failure::BadMachine { .. } => {
            return format!(
                "`bygone target show {name}` shows how it is made up, `bygone target set` changes it"
            );
        }
        Failure::NoDisk { .. } => return format!("`bygone target show {name}` lists the disks"),
        Failure::NoBranch { .. } => return format!("`bygone branch list {name}` shows the branches"),
        Failure::NoOtherBranch => {
            return format!("a branch is made by running the past: bygone run {name} --at WHEN");
        }
        Failure::BranchInUse { .. } => {
            return format!("make another branch the present first: bygone branch promote {name} BRANCH");
        }
        Failure::LabelTaken { .. } => {
            return format!("choose another label; `bygone points {name}` lists them");
        }
        Failure::OutsideHistory { .. } => return format!("`bygone timeline {name}` shows what there is"),
        Failure::BaseIncomplete { .. } => {
            return format!(
                "choose a moment after the disk was read; `bygone status` shows how far it is, `bygone timeline {name}` \
                 when it was"
            );
        }
        Failure::NotRepeated { changed: Some(_), .. } => {
            return format!(
                "look whether that is what was wanted (`bygone timeline {name}`), and make what is missing with another key"
            );
        }
        Failure::Partly { why, .. } if is_of_a_disk(why) => {
            return format!(
                "what was done stays: the next use of the disk goes on with the rest, and `bygone undo {name}` takes it back"
            );
        }
        Failure::FirmwareMissing { .. } => {
            return format!(
                "install it (Debian and Ubuntu: apt install ovmf; Fedora: dnf install edk2-ovmf), or use bios: \
                 bygone target set {name} firmware=bios"
            );
        }
        Failure::QemuSilent { .. } => {
            return format!(
                "see with `bygone status` how the machine is; `bygone stop {name} --force` ends it"
            );
        }
        Failure::NoMoment { problem, .. } => return of_moment(*problem, name),

        Failure::BadName { .. } => {
            "a name has at most 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"
        }
        Failure::NoSetting { .. } => "`bygone target set --help` lists the settings",
        Failure::BadSetting { key, .. } => of_setting(key),
        Failure::BadAddress { .. } => "write HOST:PORT, such as 127.0.0.1:10809",
        Failure::BadDevice { .. } => "write NAME, NAME/DISK, NAME/DISK@WHEN or NAME/DISK#BRANCH",
        Failure::WhichDisk { target, disks } => {
            let disk = disks.first().map_or("DISK", String::as_str);
            return format!("say which one: {target}/{disk}");
        }
        Failure::NoFolder { disks, .. } => {
            let disk = disks.first().map_or("DISK", String::as_str);
            return format!(
                "name one of them (--disk {disk}), or a folder: one that exists, or --to FOLDER/"
            );
        }
        Failure::WhichBranch { .. } => "say which one",
        Failure::BadMoment { text, .. } => return of_moment_text(text),
        Failure::BadLabel { label, .. } if label.is_empty() => {
            "give it a label of your own, such as before-upgrade"
        }
        Failure::BadLabel { .. } => "a label has 1 to 250 bytes",
        Failure::BadRequest { .. } => "is the manager of another version? restart it",
        Failure::DiscardInPlaceOnly => "leave --discard-later out, or restore with --in-place",
        Failure::DisksTogether => "leave --disk out, or write the disk to a file with --to PATH",
        Failure::PathNotText { .. } => "rename it, or use a symbolic link with a plain name",
        Failure::SocketPathTooLong { .. } => {
            "use a shorter path; --store and $BYGONE_STORE say where the store is"
        }

        Failure::NoStore { .. } => {
            "`bygone init` makes one; if there was one, is its file system mounted? --store or $BYGONE_STORE says where it is"
        }
        Failure::StoreExists { .. } => "use it as it is, or choose another folder with --store",
        Failure::NotEmpty { .. } => "choose an empty folder, or one that does not exist yet",
        Failure::NoTarget { .. } => "`bygone target list` shows what there is",
        Failure::TargetExists { target } => {
            return format!(
                "choose another name (for `target restore`: --as OTHER), or remove that one first: bygone target \
                 remove {target}"
            );
        }
        Failure::DiskExists { .. } => "give each disk a name of its own: --disk ID=SOURCE",
        Failure::DiskSize { .. } => {
            "check that it is the right one; `truncate -s` gives a raw file another size"
        }
        Failure::NotRaw { can_import: true, path, .. } => {
            return format!(
                "import it: --disk import:{path}; if it is a raw disk that only begins like one: --disk raw:{path}"
            );
        }
        Failure::NotRaw { path, .. } => {
            return format!(
                "unpack or decrypt it first, and use the raw disk; if it is a raw disk that only begins like one: \
                 --disk raw:{path}"
            );
        }
        Failure::BadImage { problem, .. } => match problem {
            ImageProblem::NeedsOthers => {
                "make one image of it, if you trust it: `qemu-img convert -O qcow2 IMAGE whole.qcow2`"
            }
            ImageProblem::Encrypted => {
                "decrypt it first: `qemu-img convert` with its secret, or `cryptsetup open`"
            }
            ImageProblem::Packed => "unpack it first (gunzip, unxz, unzstd, bunzip2, unzip, tar xf)",
            ImageProblem::Unread => "make another image of it: `qemu-img convert -O qcow2 IMAGE whole.qcow2`",
            ImageProblem::Damaged => "get a whole copy of it; `qemu-img check IMAGE` says more",
        },
        Failure::Tapped { .. } => "choose another place, or restore that target with --in-place",
        Failure::DiskTaken { target, .. } => {
            return format!(
                "choose another disk, or remove that target first, which keeps its history: bygone target remove {target}"
            );
        }
        Failure::InsideStore { .. } => "choose a path outside of the store",
        Failure::BranchExists { .. } => "choose another name, or run that branch without --at",

        Failure::Busy { .. } => "wait until that is done, then try again; `bygone status` shows it",
        Failure::TargetRunning { target } => return format!("stop it first: bygone stop {target}"),
        Failure::TargetStopping { target } => {
            return format!("wait until it has stopped, or cut its power: bygone stop {target} --force");
        }
        Failure::LeftRunning { target, why: Some(_), .. } => {
            return format!(
                "put that right, then `bygone run {target}` adopts it, `bygone stop {target}` ends it; or cut its power: bygone stop {target} --force"
            );
        }
        Failure::LeftRunning { target, .. } => {
            return format!("`bygone run {target}` adopts it, `bygone stop {target}` ends it");
        }
        Failure::UnknownBranch { target, .. } => {
            return format!("cut its power, then start it again: bygone stop {target} --force");
        }
        Failure::ForeignMachine { pid, .. } => return format!("end process {pid}, then try again"),
        Failure::PresentInDoubt { target, branch, .. } => return choose_present(target, branch),
        Failure::Served { .. } | Failure::BranchUsed { .. } => {
            "end the exports, NBD clients and machines that use it, then try again"
        }
        Failure::Moved { what: MovedPart::Present, .. } => "look again, then try again",
        Failure::Moved { .. } => "nothing was done: look again at what would be lost, with the same command",
        Failure::NoJob { .. } => "`bygone jobs` lists those that are known",
        Failure::BadKey => "give --key letters, digits and signs without spaces",
        Failure::KeyUsed { job, .. } => {
            return format!("give each change a key of its own; `bygone jobs {job}` shows that one");
        }
        Failure::CallTooLarge { .. } => "leave --key out",
        Failure::TooManyClients { .. } => {
            "wait until one of them is done, or end one: each export, `run --wait` and `jobs JOB` is one"
        }
        Failure::NotRepeated { .. } => {
            "check the medium and start the manager again, then make the same call with the same key"
        }
        Failure::Partly { why, .. } => {
            return format!("what was done stays; of the rest: {}", of(why, about));
        }
        Failure::NotFilled { .. } => "the next use of the disk goes on with it",
        Failure::NotRead { .. } => "`bygone serve` reads it on; `bygone status` shows how far it is",
        Failure::DiskBehind { .. } => "`bygone status` says what is wrong with the disk",
        Failure::NotRemoved { .. } => "`bygone target list --removed` shows what is kept",
        Failure::RemovedTwice { .. } => {
            "move the folder of the copy out of the store's folder `removed`, then try again"
        }
        Failure::UnknownDiskPath { .. } => {
            "write a new file into the target's folder `config`, as docs/format.md describes it"
        }
        Failure::BeforeDisks { target } => {
            return format!("choose a later moment: bygone timeline {target}");
        }
        Failure::NothingToRepair { target } => {
            return format!("change it as you like: bygone target set {target} KEY=VALUE");
        }
        Failure::NothingToUndo { target } => {
            return format!("choose a moment to restore instead: bygone timeline {target}");
        }
        Failure::TargetStopped { target } => return format!("start it with: bygone run {target}"),
        Failure::StoreLocked { exports: true, .. } => {
            "end that export; if `bygone serve` runs first, exports and all other commands go side by side"
        }
        Failure::StoreLocked { .. } => "wait until that process is done, or end it",
        Failure::DiskInUse { target: Some(target), .. } => {
            return format!(
                "stop it first: `bygone stop {target}`; or use a copy: `bygone restore {target} --at now --to FILE`"
            );
        }
        Failure::DiskInUse { .. } => {
            "stop what uses it (`fuser -v PATH` and `lslocks` show programs, `lsblk` and `losetup -a` devices), then try again"
        }
        Failure::ConsoleBusy => {
            "detach there first with Ctrl-], or read along: the console's log has everything"
        }

        Failure::NewerFormat { .. } => "use a newer version of bygone",
        Failure::OlderFormat { .. } => {
            "nothing in it was changed: restore what you need with the bygone that made it, and add it to a new store"
        }
        Failure::DamagedStore { .. } => {
            "bring that file back from a copy of the store; the history itself lies elsewhere and is untouched"
        }
        Failure::DamagedConfig { target, .. } => {
            return format!(
                "bring it back from its log or an older configuration: bygone target repair {target}"
            );
        }
        Failure::Missing { .. } => {
            "is its file system mounted? nothing is made anew in its place; it is used again as soon as it is back"
        }
        Failure::Unavailable { target, why } => return of(why, Some(target)),
        Failure::DisksUnknown { target, why } => return of(why, target.as_deref()),
        Failure::Disk { problem, .. } => match problem {
            IoProblem::NotFound => "check the path; `--disk store:SIZE` makes a new disk inside the store",
            IoProblem::NotAllowed | IoProblem::ReadOnly => {
                "Bygone must be able to write to it: check its permissions, and whether it is mounted read-only"
            }
            IoProblem::IsFolder => "name a raw file or a block device",
            _ => {
                "name a raw file or a block device that can be read; the system's log (`dmesg`) may say more"
            }
        },
        Failure::DiskAway { target, disk, path, problem, .. } => match problem {
            IoProblem::NotFound | IoProblem::NotAFolder => {
                return format!(
                    "is its file system mounted, its device attached? if it is lost, the store has it: bygone restore \
                     {target} --at now --disk {disk} --to {path}"
                );
            }
            IoProblem::NotAllowed | IoProblem::ReadOnly => {
                "Bygone must be able to write to it: check its permissions, and whether it is mounted read-only"
            }
            IoProblem::IsFolder => "something else is there now; put the disk back where it was",
            _ => "check the disk and the system's log (`dmesg`)",
        },
        Failure::DiskResized { path, found_bytes, was_bytes } if found_bytes > was_bytes => {
            return format!(
                "a disk keeps its size; what was added goes again with (if {path} is a file): truncate -s {was_bytes} {path}"
            );
        }
        Failure::DiskResized { path, was_bytes, .. } => {
            return format!(
                "a disk keeps its size; give it that back (if it is a file: truncate -s {was_bytes} {path}), then restore \
                 a moment before it was cut: what was cut off is in the store"
            );
        }
        Failure::DiskUnlockable { .. } => {
            "put the image on a file system with byte-range locks: a local one, or NFS version 4"
        }
        Failure::File { problem, .. } => match problem {
            IoProblem::NotAllowed => "run it as the user who owns the store, or change the permissions",
            IoProblem::ReadOnly => "choose a place that can be written to",
            IoProblem::Exists => "choose another path, or remove what is there",
            IoProblem::IsFolder => "name a file",
            _ => FILE,
        },
        Failure::NoRoom { .. } => ROOM,
        Failure::MediumFailed { .. } => "check the medium and the system's log (`dmesg`), then try again",
        Failure::LogPoisoned { .. } => {
            "check the medium, then restart the manager: it reads back what is really there"
        }
        Failure::Damaged { .. } => "`bygone verify` shows all that is damaged; other moments may be whole",
        Failure::IndexDamaged { .. } => INDEX,
        Failure::CannotServe { problem, .. } => of_serving(*problem),
        Failure::ProgramFailed { .. } => "see what it said",
        Failure::QemuMissing { .. } => {
            "install QEMU (Debian and Ubuntu: apt install qemu-system-x86 qemu-utils)"
        }
        Failure::MachineUnknown { why, .. } => return of(why, about),
        Failure::BadMachineState { .. } => "if the machine does not run, remove that file",
        Failure::SystemRefuses { .. } => {
            "Linux 5.4 or newer is needed, and the right to watch the process: same user, or root"
        }

        Failure::QemuRefuses { .. } => "see with `bygone status` how the machine is",
        Failure::NotQemu { .. } => "QEMU 6.2 or newer is needed; is something else connected to its monitor?",
        Failure::MachineEnded { .. } => {
            "the last lines of its qemu.log say why; start it again with `bygone run`"
        }
        Failure::ManagerGone => {
            "`bygone jobs` says what became of what it was at; what ended it is in run/manager.log of the store if it was started by itself"
        }
        Failure::ManagerEnding => "ask again once it has ended; `bygone status` shows that",
        Failure::ManagerNotUp { .. } => "run `bygone serve` in a terminal to see what it says",
        Failure::Abandoned => "ask again",
        Failure::GoesOn => "`bygone jobs` shows what is being done, and how far it is",
        Failure::Internal { .. } => {
            "this should not happen: please report it with the output of `bygone -vv`"
        }
    };
    fixed.to_owned()
}

/// Whether a disk outside the store is in the way.
fn is_of_a_disk(failure: &Failure) -> bool {
    use Failure::{Disk, DiskAway, DiskBehind, DiskInUse, DiskResized, DiskUnlockable, NotFilled};
    matches!(
        failure,
        Disk { .. }
            | DiskAway { .. }
            | DiskBehind { .. }
            | DiskInUse { .. }
            | DiskResized { .. }
            | DiskUnlockable { .. }
            | NotFilled { .. }
    )
}

fn of_setting(key: &str) -> &'static str {
    match key {
        "memory" => "write a size from 16M to 4T, such as 512M or 4G",
        "cpus" => "write a number from 1 to 255",
        "firmware" => "write bios or uefi",
        "autostart" => "write true or false",
        "deadline" => "write a number of seconds, at most 86400",
        "net" => {
            "write user[,hostfwd=…], tap:INTERFACE or none; a port of this computer is forwarded with hostfwd=tcp::2222-:22"
        }
        _ => "`bygone target add --help` says what it can be",
    }
}

/// How moments are written, for a text that is none.
fn of_moment_text(text: &str) -> String {
    let general = "`bygone --help` says how moments are written";
    let error = When::parse(text).err().or_else(|| parse_duration(text).err());
    error.map_or(general, |error| error.hint()).to_owned()
}

fn of_moment(problem: MomentProblem, name: &str) -> String {
    let fixed = match problem {
        MomentProblem::NoSuchSeq => {
            return format!("`bygone points {name}` lists the moments worth choosing from");
        }
        MomentProblem::NoSuchEvent => return format!("`bygone timeline {name}` lists the events there are"),
        MomentProblem::NoSuchPoint => {
            return format!("`bygone points {name}` lists the labels; they are compared exactly");
        }
        MomentProblem::NoSuchBranch => {
            return format!(
                "`bygone branch list {name}` lists the branches; with --dropped those that were dropped, which are named `id:` and their number"
            );
        }
        MomentProblem::NoHistory => "nothing was recorded yet: run the target first",
        MomentProblem::TooEarly => "choose a later moment; history begins at the one below",
        MomentProblem::InTheFuture => "the latest moment is `now`",
        MomentProblem::PointElsewhere => {
            "leave the branch out: `point:LABEL` names it, whatever branch it is on"
        }
        MomentProblem::NoSuchZone => {
            "write an offset such as `+09:00`, `UTC`, or a name of the time zone database such as `Europe/Berlin`"
        }
        MomentProblem::WallClockTwice => {
            "write the offset as well, such as `2026-11-01 01:30 -04:00`, or take one of these"
        }
        MomentProblem::WholeDay => "write a time as well, such as `yesterday 14:59`",
        MomentProblem::Ambiguous => "take one of these",
        MomentProblem::Unreadable => "`bygone verify` checks the store",
        MomentProblem::Other => "`bygone --help` says how moments are written",
    };
    fixed.to_owned()
}

fn of_serving(problem: ServeProblem) -> &'static str {
    match problem {
        ServeProblem::NotEmpty | ServeProblem::NotAFile => {
            "name a file that does not exist yet, or an empty one"
        }
        ServeProblem::InUse => {
            "stop what is there (`fuser -vm PATH`, `losetup -a`, `ss -lp`), or choose another place"
        }
        ServeProblem::NotASocket => "choose another path",
        ServeProblem::PathTooLong => "use a shorter path",
        ServeProblem::NoFuse => "load the kernel's module with `modprobe fuse`, or use --nbd",
        ServeProblem::NoFuseHelper => "install the package fuse3, run as root, or use --nbd",
        ServeProblem::Other => "choose another place, or use --nbd unix:PATH",
    }
}

/// How a person chooses the present after records were lost that may have changed it.
fn choose_present(target: &str, branch: &str) -> String {
    format!(
        "with a copy of the lost file, put it back first. Else look at the branches (`bygone branch list {target}`, `bygone \
         restore {target} --at branch:B --to PATH`) and choose one: `bygone branch promote {target} {branch}` goes on with \
         this one. A disk outside the store is read again on the branch that it showed last, as far as that is known"
    )
}

/// What to do about a problem.
pub(crate) fn of_problem(problem: &Problem) -> String {
    let fixed = match &problem.trouble {
        Trouble::StoreFull | Trouble::StoreLow { .. } => {
            "free space on the store's file system; nothing that is stored is lost"
        }
        Trouble::NoTargets { why }
        | Trouble::Unavailable { why }
        | Trouble::MachineUnknown { why }
        | Trouble::DiskUnusable { why } => {
            return of(why, problem.target.as_deref());
        }
        Trouble::Opening => "wait; after a crash, what was written last has to be read again first",
        Trouble::LeftRunning { why: None, .. } => {
            "`bygone serve` adopts it, and so does `bygone run` of that target"
        }
        Trouble::ForeignMachine { pid } => {
            return format!("end process {pid}; until then this target does not run");
        }
        Trouble::LeftRunning { .. } => "put that right; a manager tries again and again to adopt it",
        Trouble::Damaged { .. } => "`bygone verify` shows all that is damaged",
        Trouble::IndexDamaged { .. } => INDEX,
        Trouble::DamageKnown { .. } => {
            "restore from moments and disks that are whole, and check the medium; `bygone verify` looks again"
        }
        Trouble::PresentInDoubt { branch, .. } => {
            let name = problem.target.as_deref().unwrap_or("NAME");
            return choose_present(name, branch);
        }
        Trouble::RecordsLost { .. } => {
            "moments before them are whole; with a copy of the file that is missing, put it back before anything else is done"
        }
        Trouble::UpkeepFails { .. } => {
            "check the medium that holds the store; `bygone verify` shows all that is damaged"
        }
        Trouble::NotLookedAt { .. } => {
            "let the manager start its own program, with seccomp: see limits and system call filters of its service"
        }
        Trouble::LogPoisoned => "check the medium, then restart the manager",
        Trouble::NotRead { .. } => "wait, with a manager running (`bygone serve`)",
        Trouble::WritesWait => "free space on the store's file system, and it goes on by itself",
        Trouble::WritesWaitForDisk | Trouble::DiskFails { .. } => {
            "check that disk and the system's log (`dmesg`)"
        }
        Trouble::DiskFull => "free space there, and the disk is brought up to date by itself",
        Trouble::DiskChanged => {
            "its next use reads it again; until then the newest moment is what it held before, and what was changed is in no moment"
        }
        Trouble::DiskBehind => {
            "do not use it without Bygone; its next use, or the next start of the manager, brings it up to date"
        }
    };
    fixed.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_the_target_that_it_is_about() {
        let running = Failure::TargetRunning { target: "web".to_owned() };
        assert_eq!(of(&running, None), "stop it first: bygone stop web");
        let unavailable = Failure::Unavailable { target: "web".to_owned(), why: Box::new(running) };
        assert_eq!(of(&unavailable, None), "stop it first: bygone stop web");
    }

    #[test]
    fn of_what_was_done_in_part_the_hint_is_about_what_failed() {
        let partly = |why| Failure::Partly { done: "branch b was dropped".to_owned(), why: Box::new(why) };
        let poisoned = Failure::LogPoisoned { why: String::new() };
        let said = of(&partly(poisoned.clone()), None);
        assert!(said.starts_with("what was done stays") && said.ends_with(&of(&poisoned, None)), "{said}");
        let disk = of(&partly(Failure::DiskBehind { disk: "vda".to_owned() }), None);
        assert!(disk.contains("bygone undo"), "{disk}");
    }

    #[test]
    fn a_text_that_is_no_moment_gets_the_rule_that_it_breaks() {
        let bad = |text: &str| of(&Failure::BadMoment { text: text.to_owned(), why: String::new() }, None);
        assert!(bad("25:99").contains("15:04"), "{}", bad("25:99"));
        assert!(bad("3 days").contains("ago"), "{}", bad("3 days"));
    }

    #[test]
    fn a_hint_names_the_target_of_the_call_and_leaves_paths_alone() {
        let moment = |problem| Failure::NoMoment {
            text: String::new(),
            problem,
            why: String::new(),
            candidates: Vec::new(),
        };
        let said = of(&moment(MomentProblem::NoSuchPoint), Some("web"));
        assert!(said.starts_with("`bygone points web` "), "{said}");
        // What is no name could mean anything in a shell.
        let said = of(&moment(MomentProblem::NoSuchPoint), Some("a; b"));
        assert!(said.starts_with("`bygone points NAME` "), "{said}");
        let path = "/srv/MY NAME.img".to_owned();
        let packed = Failure::NotRaw { path, format: "qcow2".to_owned(), can_import: true };
        assert!(of(&packed, Some("web")).contains("import:/srv/MY NAME.img"), "{}", of(&packed, Some("web")));
    }
}
