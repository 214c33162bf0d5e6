//! Converts errors to the API's failures.

use std::{error::Error as _, io, path::Path};

use bygone_block::{FuseError, IoError, nbd::ListenError};
use bygone_model::when::{Ambiguity, ResolveError};
use bygone_qemu::{self as qemu, image::Unfit};
use bygone_store::Error as StoreError;
use bygone_sys::ImageLockError;

use crate::{
    api::{Failure, ImageProblem, IoProblem, MomentProblem, MovedPart, ServeProblem},
    config::BadSetting,
    error::{Error, Usage},
};

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The operating system's message, without the error number.
fn system(error: &io::Error) -> String {
    // What is found without asking it has the library's words.
    if error.kind() == io::ErrorKind::AlreadyExists {
        return "File exists".to_owned();
    }
    let text = error.to_string();
    text.split_once(" (os error ").map_or(text.as_str(), |(text, _)| text).to_owned()
}

fn file(doing: &str, path: &Path, error: &io::Error) -> Failure {
    if bygone_store::is_full(error) {
        return Failure::NoRoom { why: format!("{doing} {}: {}", path.display(), system(error)) };
    }
    Failure::File {
        doing: doing.to_owned(),
        path: shown(path),
        problem: IoProblem::of(error),
        why: system(error),
    }
}

fn disk(path: &Path, error: &io::Error) -> Failure {
    if bygone_store::is_full(error) {
        return Failure::NoRoom { why: format!("disk {}: {}", path.display(), system(error)) };
    }
    Failure::Disk { path: shown(path), problem: IoProblem::of(error), why: system(error) }
}

impl Error {
    /// The failure that the API reports for this error.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Error::Usage(usage) => usage.failure(),
            Error::When { text, source } => {
                Failure::BadMoment { text: text.clone(), why: source.to_string() }
            }
            Error::Moment { text, source, candidates } => of_moment(text, source, candidates),
            Error::Label { label, source } => {
                Failure::BadLabel { label: label.clone(), why: source.to_string() }
            }
            Error::LabelTaken { label, name, time, branch } => Failure::LabelTaken {
                label: label.clone(),
                when: name.clone(),
                time: time.clone(),
                branch: branch.clone(),
            },
            Error::NoStore(path) => Failure::NoStore { path: shown(path) },
            Error::StoreExists(path) => Failure::StoreExists { path: shown(path) },
            Error::NotEmpty(path) => Failure::NotEmpty { path: shown(path) },
            Error::NewerStore { path, found, known } => Failure::NewerFormat {
                what: format!("the store in {}", path.display()),
                found: *found,
                known: *known,
            },
            Error::OlderStore { path, found, known } => {
                Failure::OlderFormat { path: shown(path), found: *found, known: *known }
            }
            Error::DamagedStore(path) => Failure::DamagedStore { path: shown(path) },
            Error::StoreLocked { path, holder, exports } => {
                Failure::StoreLocked { path: shown(path), holder: holder.clone(), exports: *exports }
            }
            Error::NoTarget(target) => Failure::NoTarget { target: target.clone() },
            Error::Busy { name, change, since } => {
                Failure::Busy { target: name.clone(), change: *change, since: since.clone() }
            }
            Error::Unavailable { name, why } => {
                Failure::Unavailable { target: name.clone(), why: Box::new(why.failure()) }
            }
            Error::Missing(path) => Failure::Missing { path: shown(path) },
            Error::DamagedConfig { target, path } => {
                Failure::DamagedConfig { target: target.clone(), path: shown(path) }
            }
            Error::TargetExists(target) => Failure::TargetExists { target: target.clone() },
            Error::TargetRunning(target) => Failure::TargetRunning { target: target.clone() },
            Error::TargetStopping(target) => Failure::TargetStopping { target: target.clone() },
            Error::LeftRunning { name, pid, why } => {
                Failure::LeftRunning { target: name.clone(), pid: *pid, why: why.clone() }
            }
            Error::MachineUnknown { name, why } => {
                Failure::MachineUnknown { target: name.clone(), why: Box::new(why.failure()) }
            }
            Error::UnknownBranch { name, pid } => Failure::UnknownBranch { target: name.clone(), pid: *pid },
            Error::ForeignMachine { name, pid } => {
                Failure::ForeignMachine { target: name.clone(), pid: *pid }
            }
            Error::Served(target) => Failure::Served { target: target.clone() },
            Error::PresentInDoubt { name, branch, first, last } => Failure::PresentInDoubt {
                target: name.clone(),
                branch: branch.clone(),
                first_seq: first.0,
                last_seq: last.0,
            },
            Error::BranchUsed(branch) => Failure::BranchUsed { branch: branch.clone() },
            Error::Moved(target) => Failure::Moved { target: target.clone(), what: MovedPart::Present },
            Error::Outdated { name, what } => Failure::Moved { target: name.clone(), what: *what },
            Error::Panicked { what } => Failure::Internal {
                why: format!("a defect of Bygone kept {what} from being done; its log has more"),
            },
            Error::Partly { done, why } => {
                Failure::Partly { done: done.clone(), why: Box::new(why.failure()) }
            }
            Error::DiskBehind { disk } => Failure::DiskBehind { disk: disk.clone() },
            Error::NotFilled { disk } => Failure::NotFilled { disk: disk.clone() },
            Error::NotRead { disk } => Failure::NotRead { disk: disk.clone() },
            Error::NotRemoved(target) => Failure::NotRemoved { target: target.clone() },
            Error::RemovedTwice { folders } => Failure::RemovedTwice { kept_as: folders.clone() },
            Error::UnknownDiskPath { disk } => Failure::UnknownDiskPath { disk: disk.clone() },
            Error::BeforeDisks { name } => Failure::BeforeDisks { target: name.clone() },
            Error::NothingToRepair(target) => Failure::NothingToRepair { target: target.clone() },
            Error::NothingToUndo(target) => Failure::NothingToUndo { target: target.clone() },
            Error::TargetStopped(target) => Failure::TargetStopped { target: target.clone() },
            Error::Disk { path, source } => disk(path, source),
            Error::DiskLocked { path, source } => {
                let (path, why) = (shown(path), source.to_string());
                match source {
                    ImageLockError::InUse(_) => Failure::DiskInUse { path, why, target: None },
                    ImageLockError::Unlockable(_) => Failure::DiskUnlockable { path, why },
                }
            }
            Error::DiskOpen { path, target } => Failure::DiskInUse {
                path: shown(path),
                why: format!("target {target:?} has it open and may write to it"),
                target: Some(target.clone()),
            },
            Error::DiskUsed { path, by } => {
                Failure::DiskInUse { path: shown(path), why: by.clone(), target: None }
            }
            Error::Tapped { path, target } => Failure::Tapped { path: shown(path), target: target.clone() },
            Error::DiskTaken { path, target } => {
                Failure::DiskTaken { path: shown(path), target: target.clone() }
            }
            Error::DiskAway { target, disk, path, source } => Failure::DiskAway {
                target: target.clone(),
                disk: disk.clone(),
                path: shown(path),
                problem: IoProblem::of(source),
                why: system(source),
            },
            Error::DiskResized { path, found, was } => {
                Failure::DiskResized { path: shown(path), found_bytes: *found, was_bytes: *was }
            }
            Error::DisksUnknown { name, why } => {
                Failure::DisksUnknown { target: name.clone(), why: Box::new(why.failure()) }
            }
            Error::InsideStore(path) => Failure::InsideStore { path: shown(path) },
            Error::NotRaw { path, format } => Failure::NotRaw {
                path: shown(path),
                format: format.name().to_owned(),
                can_import: format.is_read(),
            },
            Error::DiskSize { path, found, wanted } => {
                Failure::DiskSize { path: shown(path), found_bytes: *found, wanted: wanted.clone() }
            }
            Error::BaseIncomplete { disk } => Failure::BaseIncomplete { disk: disk.clone() },
            Error::Store(error) => of_store(error),
            Error::Device(error) => of_device(error),
            Error::Qemu(error) => of_qemu(error),
            Error::File { doing, path, source } => file(doing, path, source),
            Error::Listen(error) => of_listen(error),
            Error::Fuse { path, source } => of_fuse(path, source),
            Error::Program { program, output } => {
                Failure::ProgramFailed { program: (*program).to_owned(), said: output.clone() }
            }
            Error::Told(failure) => failure.clone(),
            Error::NoJob(id) => Failure::NoJob { id: *id },
            Error::BadKey => Failure::BadKey,
            Error::KeyUsed { key, job } => Failure::KeyUsed { key: key.clone(), job: *job },
            Error::CallTooLarge { bytes_max } => Failure::CallTooLarge { bytes_max: *bytes_max as u64 },
            Error::NotRepeated { job, state, why, changed } => {
                Failure::NotRepeated { job: *job, state: *state, why: why.clone(), changed: changed.clone() }
            }
            Error::TooManyClients { max } => Failure::TooManyClients { max: *max as u64 },
            Error::ManagerGone => Failure::ManagerGone,
            Error::ManagerEnding => Failure::ManagerEnding,
            Error::ManagerNotUp(said) => Failure::ManagerNotUp { said: said.clone() },
            Error::Abandoned => Failure::Abandoned,
            Error::GoesOn => Failure::GoesOn,
        }
    }
}

impl Usage {
    /// The failure that the API reports for it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self.clone() {
            Usage::BadName(bad) => Failure::BadName { name: bad.0 },
            Usage::BadSetting(BadSetting::Unknown(key)) => Failure::NoSetting { key },
            Usage::BadSetting(BadSetting::Value { key, value }) => Failure::BadSetting { key, value },
            Usage::BadAddress(address) => Failure::BadAddress { address },
            Usage::BadDevice(what) => Failure::BadDevice { what },
            Usage::WhichDisk { target, disks } => Failure::WhichDisk { target, disks },
            Usage::NoFolder { path, target, disks } => {
                Failure::NoFolder { path: shown(&path), target, disks }
            }
            Usage::WhichBranch(branches) => Failure::WhichBranch { branches },
            Usage::NoOtherBranch => Failure::NoOtherBranch,
            Usage::DiscardInPlaceOnly => Failure::DiscardInPlaceOnly,
            Usage::DisksTogether => Failure::DisksTogether,
            Usage::BadRequest(why) => Failure::BadRequest { why },
        }
    }
}

fn of_moment(text: &str, error: &ResolveError, candidates: &[String]) -> Failure {
    let problem = match error {
        ResolveError::Empty => MomentProblem::NoHistory,
        ResolveError::BeforeHistory { .. } => MomentProblem::TooEarly,
        ResolveError::Future { .. } => MomentProblem::InTheFuture,
        ResolveError::NoSuchSeq { .. } => MomentProblem::NoSuchSeq,
        ResolveError::NoSuchEvent { .. } => MomentProblem::NoSuchEvent,
        ResolveError::UnknownPoint { .. } => MomentProblem::NoSuchPoint,
        ResolveError::PointElsewhere { .. } => MomentProblem::PointElsewhere,
        ResolveError::UnknownBranch { .. } => MomentProblem::NoSuchBranch,
        ResolveError::UnknownZone { .. } => MomentProblem::NoSuchZone,
        ResolveError::Ambiguous { why: Ambiguity::WallClock, .. } => MomentProblem::WallClockTwice,
        ResolveError::Ambiguous { why: Ambiguity::WholeDay, .. } => MomentProblem::WholeDay,
        ResolveError::Ambiguous { .. } => MomentProblem::Ambiguous,
        ResolveError::History(_) => MomentProblem::Unreadable,
        _ => MomentProblem::Other,
    };
    Failure::NoMoment {
        text: text.to_owned(),
        problem,
        why: error.to_string(),
        candidates: candidates.to_vec(),
    }
}

fn of_store(error: &StoreError) -> Failure {
    let why = error.to_string();
    match error {
        StoreError::Io { .. } | StoreError::Behind { .. } | StoreError::Unnamed { .. } => {
            Failure::MediumFailed { why }
        }
        StoreError::Full { .. } => Failure::NoRoom { why },
        StoreError::Poisoned => Failure::LogPoisoned { why },
        StoreError::Abandoned => Failure::Abandoned,
        StoreError::Damaged { .. } if error.is_index_damage() => Failure::IndexDamaged { why },
        StoreError::Damaged { .. } => Failure::Damaged { why },
        StoreError::NewerVersion { name, found, known } => {
            Failure::NewerFormat { what: name.clone(), found: u64::from(*found), known: u64::from(*known) }
        }
        StoreError::NoBranch(branch) => Failure::NoBranch { branch: branch.clone() },
        StoreError::BranchExists(branch) => Failure::BranchExists { branch: branch.clone() },
        StoreError::BranchInUse(branch) => Failure::BranchInUse { branch: branch.clone() },
        StoreError::NoDisk(disk) => Failure::NoDisk { disk: disk.clone() },
        StoreError::DiskExists(disk) => Failure::DiskExists { disk: disk.clone() },
        StoreError::InTheFuture { .. } | StoreError::BeforeHistory { .. } => Failure::OutsideHistory { why },
        _ => Failure::Internal { why },
    }
}

fn of_device(error: &IoError) -> Failure {
    let why = error.to_string();
    match error {
        IoError::Full | IoError::Paused => Failure::NoRoom { why },
        IoError::Medium(source) if bygone_store::is_full(source) => Failure::NoRoom { why },
        IoError::Medium(source) => Failure::MediumFailed { why: system(source) },
        IoError::Store(source) => {
            source.downcast_ref::<StoreError>().map_or(Failure::MediumFailed { why }, of_store)
        }
        _ => Failure::Internal { why },
    }
}

fn of_qemu(error: &qemu::Error) -> Failure {
    let why = error.to_string();
    match error {
        qemu::Error::BadWord { word, what } => {
            Failure::BadSetting { key: (*what).to_owned(), value: word.clone() }
        }
        qemu::Error::DuplicateDisk { id } => Failure::DiskExists { disk: id.clone() },
        qemu::Error::BadDiskId { .. } | qemu::Error::BadBlockSize { .. } | qemu::Error::TooSmall => {
            Failure::BadMachine { why }
        }
        qemu::Error::NotUtf8 { path } => Failure::PathNotText { path: shown(path) },
        qemu::Error::SocketPathTooLong { path } => {
            Failure::SocketPathTooLong { path: shown(path), bytes_max: qemu::SOCKET_PATH_BYTES_MAX }
        }
        qemu::Error::NotInstalled { .. } => Failure::QemuMissing { why },
        qemu::Error::NoFirmware { .. } => Failure::FirmwareMissing { why },
        qemu::Error::File { path, source } => file("using", path, source),
        qemu::Error::BadState { path, .. } => Failure::BadMachineState { path: shown(path) },
        qemu::Error::System { .. } => Failure::SystemRefuses { why },
        qemu::Error::Image { path, unfit } => {
            Failure::BadImage { path: shown(path), problem: of_image(unfit), why: unfit.to_string() }
        }
        qemu::Error::Tool { program, said } => {
            Failure::ProgramFailed { program: (*program).to_owned(), said: said.clone() }
        }
        qemu::Error::GivenUp => Failure::Abandoned,
        qemu::Error::ConsoleBusy => Failure::ConsoleBusy,
        qemu::Error::NotListening { .. }
        | qemu::Error::NotConnected
        | qemu::Error::Unanswered { .. }
        | qemu::Error::TooManyCommands => Failure::QemuSilent { why },
        qemu::Error::AlreadyRunning { .. } | qemu::Error::Refused { .. } => Failure::QemuRefuses { why },
        qemu::Error::Ended { .. } => Failure::MachineEnded { why },
        qemu::Error::Protocol(_) => Failure::NotQemu { why },
    }
}

fn of_image(unfit: &Unfit) -> ImageProblem {
    match unfit {
        Unfit::Based(_) | Unfit::Elsewhere => ImageProblem::NeedsOthers,
        Unfit::Encrypted => ImageProblem::Encrypted,
        Unfit::Packed(_) => ImageProblem::Packed,
        Unfit::Unread(_) => ImageProblem::Unread,
        Unfit::Truncated { .. } | Unfit::Damaged(_) => ImageProblem::Damaged,
    }
}

fn of_listen(error: &ListenError) -> Failure {
    let (at, problem) = match error {
        ListenError::PathTooLong { path } => {
            return Failure::SocketPathTooLong { path: shown(path), bytes_max: qemu::SOCKET_PATH_BYTES_MAX };
        }
        ListenError::InUse { path } => (shown(path), ServeProblem::InUse),
        ListenError::NotASocket { path } => (shown(path), ServeProblem::NotASocket),
        ListenError::NotListening => (String::from("the socket"), ServeProblem::Other),
        ListenError::System { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
            (address.clone(), ServeProblem::InUse)
        }
        ListenError::System { address, .. } => (address.clone(), ServeProblem::Other),
    };
    let why = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(system);
    let why = why.unwrap_or_else(|| match problem {
        ServeProblem::InUse => "another server listens there".to_owned(),
        ServeProblem::NotASocket => "something that is not a socket is there".to_owned(),
        _ => error.to_string(),
    });
    Failure::CannotServe { at, problem, why }
}

fn of_fuse(path: &Path, error: &FuseError) -> Failure {
    let (problem, why) = match error {
        FuseError::NotAFile { .. } => (ServeProblem::NotAFile, "it is not a regular file".to_owned()),
        FuseError::NotEmpty { .. } => {
            (ServeProblem::NotEmpty, "there is a file with something in it, which would be hidden".to_owned())
        }
        FuseError::AlreadyMounted { .. } => {
            (ServeProblem::InUse, "something is mounted there already".to_owned())
        }
        FuseError::Busy { .. } => (ServeProblem::InUse, "it is in use".to_owned()),
        FuseError::File { path, source } => return file("using", path, source),
        FuseError::NoFuse { .. } => (ServeProblem::NoFuse, error.to_string()),
        FuseError::NoHelper { .. } => (ServeProblem::NoFuseHelper, error.to_string()),
        FuseError::HelperFailed { said, .. } => (ServeProblem::Other, format!("fusermount3: {said}")),
        FuseError::Session { source, .. } => (ServeProblem::Other, system(source)),
        FuseError::Flush(error) => return of_device(error),
    };
    Failure::CannotServe { at: shown(path), problem, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Remedy;

    #[test]
    fn a_full_medium_is_told_as_such_wherever_it_shows() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [
            Error::file("writing", "/s/x", full()),
            Error::Disk { path: "/d".into(), source: full() },
            Error::Device(IoError::Full),
            Error::Device(IoError::Medium(full())),
            Error::Store(StoreError::Full { name: "log/1".to_owned() }),
            Error::Qemu(qemu::Error::File { path: "/s/run".into(), source: full() }),
        ] {
            assert_eq!(error.failure().code(), "no-room", "{error}");
        }
    }

    #[test]
    fn the_systems_words_come_without_its_number() {
        for there in [io::ErrorKind::AlreadyExists.into(), io::Error::from_raw_os_error(17)] {
            let failure = file("making", Path::new("/s/x"), &there);
            assert_eq!(failure.to_string(), "making /s/x failed: File exists");
        }
        let missing = io::Error::from_raw_os_error(2);
        let failure = Error::file("reading", "/s/x", missing).failure();
        assert_eq!(failure.to_string(), "reading /s/x failed: No such file or directory");
        assert_eq!(failure.remedy(), Remedy::Repair);
    }

    #[test]
    fn a_target_that_cannot_be_used_says_why_in_full() {
        let why = std::sync::Arc::new(Error::Missing("/mnt/log".into()));
        let failure = Error::Unavailable { name: "web".to_owned(), why }.failure();
        assert_eq!(failure.to_string(), "target \"web\" cannot be used: /mnt/log is missing");
        let said = serde_json::to_string(&failure).unwrap();
        assert_eq!(
            said,
            r#"{"code":"unavailable","target":"web","why":{"code":"missing","path":"/mnt/log"}}"#
        );
        assert_eq!(serde_json::from_str::<Failure>(&said).unwrap(), failure);
    }
}
