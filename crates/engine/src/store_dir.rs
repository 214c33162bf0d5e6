//! The folder of a store: its layout, its description and its lock.
//!
//! ```text
//! STORE/bygone.json            the store's format (written once)
//! STORE/lock                   held by the one process that has the store open
//! STORE/run/                   sockets, state of machines, and their UEFI variables
//! STORE/run/.uefi-vars-LOG.fd  those of the removed target with this log that could not be moved into its folder
//! STORE/jobs/                  long calls and calls with a key
//! STORE/targets/NAME/config/   the target's configuration, each version a file
//! STORE/targets/NAME/log, index  its history (see docs/format.md)
//! STORE/targets/NAME/verified.json  the findings of `verify`
//! STORE/targets/.adding-NAME/  a target that is being added; renamed once it is complete
//! STORE/targets/.deleting-NAME-LOG/ a target that is being deleted, with the id of its log
//! STORE/removed/               the removed targets
//! ```
//!
//! Invariants: a folder `targets/NAME` is created in one step, by renaming a complete one, and nothing in it is created
//! later because it is missing. So a missing part was removed by others, or is on a file system that is not mounted,
//! and is an error.

#[cfg(test)]
pub(crate) mod faults;

use std::{
    fs,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::TargetConfig,
    error::{Error, Result},
};

const DESCRIPTION: &str = "bygone.json";
/// Format 1 was from before manifests and keyed headers, format 2 from before the names of segments and checkpoints had
/// terms; neither was ever released.
const FORMAT: u64 = 3;
const FOLDERS: [&str; 2] = ["targets", "run"];
/// Prefixes that no target's name can have.
const ADDING: &str = ".adding-";
const DELETING: &str = ".deleting-";
/// How long the store is waited for while another process uses it.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// How long it is waited for once its holder is ending: longer than all that a manager does at its end, which is
/// bounded.
const ENDING_PATIENCE: Duration = Duration::from_secs(900);
/// The word after the process id in the lock file, while its holder exports.
const EXPORTS: &str = "exports";
/// The same, once its holder begins with nothing any more.
const ENDING: &str = "ending";
const LOCK_RETRY: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Description {
    format: u64,
    made_by: String,
}

/// The paths in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StorePaths {
    root: PathBuf,
}

impl StorePaths {
    /// The store in `root`, which need not exist.
    #[must_use]
    pub(crate) fn new(root: &Path) -> StorePaths {
        StorePaths { root: crate::config::absolute(root) }
    }

    /// The store's folder.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The manager's API socket.
    #[must_use]
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.root.join("run/api.sock")
    }

    /// The manager's NBD socket.
    #[must_use]
    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.root.join("run/nbd.sock")
    }

    /// The output of a manager in the background.
    #[must_use]
    pub(crate) fn manager_log(&self) -> PathBuf {
        self.root.join("run/manager.log")
    }

    /// The folder of a target's machine.
    #[must_use]
    pub(crate) fn run_dir(&self, target: &str) -> PathBuf {
        self.root.join("run").join(target)
    }

    /// The UEFI variables of the removed target with this log, if they could not be moved into its folder. No target's
    /// machine has a folder of this name.
    #[must_use]
    pub(crate) fn variables_aside(&self, log: &str) -> PathBuf {
        self.root.join("run").join(format!(".uefi-vars-{log}.fd"))
    }

    /// The folder of a target's history and configuration.
    #[must_use]
    pub(crate) fn target_dir(&self, target: &str) -> PathBuf {
        self.root.join("targets").join(target)
    }

    /// The folder of a target that is being added, until it is complete.
    #[must_use]
    pub(crate) fn adding_dir(&self, target: &str) -> PathBuf {
        self.root.join("targets").join(format!("{ADDING}{target}"))
    }

    /// The folder of a target that is being deleted. The id of its log makes it unique: another target of the name may
    /// be deleted while this one still is, or could not be deleted completely.
    #[must_use]
    pub(crate) fn deleting_dir(&self, target: &str, log: [u8; 16]) -> PathBuf {
        self.root.join("targets").join(format!("{DELETING}{target}-{}", id_text(log)))
    }

    /// The folder of the jobs' files.
    #[must_use]
    pub(crate) fn jobs_dir(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// The folder of removed targets.
    #[must_use]
    pub(crate) fn removed_dir(&self) -> PathBuf {
        self.root.join("removed")
    }

    /// Creates a store.
    ///
    /// # Errors
    /// When there is one already, or the folder is not empty or cannot be written.
    pub(crate) fn make(&self) -> Result<()> {
        let description = self.root.join(DESCRIPTION);
        if description.exists() {
            return Err(Error::StoreExists(self.root.clone()));
        }
        let file = |doing| move |e| Error::file(doing, &self.root, e);
        let root_is_new = !self.root.exists();
        fs::create_dir_all(&self.root).map_err(file("making"))?;
        if fs::read_dir(&self.root).map_err(file("reading"))?.next().is_some() {
            return Err(Error::NotEmpty(self.root.clone()));
        }
        let made = self.fill(&description);
        if made.is_err() {
            // A partial store would prevent the next attempt.
            for folder in FOLDERS {
                let _ = fs::remove_dir(self.root.join(folder));
            }
            let _ = fs::remove_file(&description);
            if root_is_new {
                let _ = fs::remove_dir(&self.root);
            }
        }
        made
    }

    fn fill(&self, description: &Path) -> Result<()> {
        let file = |doing| move |e| Error::file(doing, &self.root, e);
        for folder in FOLDERS {
            fs::create_dir_all(self.root.join(folder)).map_err(file("making a folder in"))?;
        }
        restrict(&self.root).map_err(file("restricting"))?;
        let made = Description { format: FORMAT, made_by: format!("bygone {}", env!("CARGO_PKG_VERSION")) };
        write_new(description, &made)
    }

    /// Checks that there is a store, of this program's format.
    ///
    /// # Errors
    /// When there is none, or it is damaged or of another format.
    pub(crate) fn check(&self) -> Result<()> {
        let path = self.root.join(DESCRIPTION);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Error::NoStore(self.root.clone()));
            }
            Err(e) => return Err(Error::file("reading", path, e)),
        };
        let description: Description =
            serde_json::from_slice(&text).map_err(|_| Error::DamagedStore(path))?;
        if description.format > FORMAT {
            return Err(Error::NewerStore {
                path: self.root.clone(),
                found: description.format,
                known: FORMAT,
            });
        }
        if description.format < FORMAT {
            return Err(Error::OlderStore {
                path: self.root.clone(),
                found: description.format,
                known: FORMAT,
            });
        }
        Ok(())
    }

    /// Locks the store for this process. Waits while its holder is a short command or is ending: not for a manager that
    /// answers, nor for an export.
    ///
    /// # Errors
    /// [`Error::StoreLocked`] when another process keeps it.
    pub(crate) fn lock(&self) -> Result<StoreLock> {
        self.lock_within(LOCK_PATIENCE, ENDING_PATIENCE)
    }

    fn lock_within(&self, in_use: Duration, ending: Duration) -> Result<StoreLock> {
        let path = self.root.join("lock");
        let io = |e| Error::file("locking", &path, e);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io)?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::Error(e)) => return Err(io(e)),
                Err(fs::TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let _ = file.rewind().and_then(|()| (&file).take(32).read_to_string(&mut text));
                    let (holder, does) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
                    // An export may last as long as its user likes, so it is not waited for.
                    let exports = does.trim() == EXPORTS;
                    let patience = if does.trim() == ENDING { ending } else { in_use };
                    if exports || waited >= patience || self.api_socket_answers() {
                        let (path, holder) = (self.root.clone(), holder.to_owned());
                        return Err(Error::StoreLocked { path, holder, exports });
                    }
                    std::thread::sleep(LOCK_RETRY);
                    waited += LOCK_RETRY;
                }
            }
        }
        let lock = StoreLock(file);
        lock.says("");
        Ok(lock)
    }

    fn api_socket_answers(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.api_socket()).is_ok()
    }

    /// The names of all targets, sorted: every folder whose name is legal, whatever its content.
    ///
    /// # Errors
    /// When the folder is missing or cannot be read.
    pub(crate) fn targets(&self) -> Result<Vec<String>> {
        let folder = self.root.join("targets");
        let io = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Error::Missing(folder.clone()),
            _ => Error::file("reading", &folder, e),
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            if let Ok(name) = entry.file_name().into_string()
                && crate::config::check_name(&name).is_ok()
                && entry.path().is_dir()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Creates the folder of a target that is being added.
    ///
    /// # Errors
    /// When there is a target of this name, or the folder cannot be created.
    pub(crate) fn begin_adding(&self, target: &str) -> Result<PathBuf> {
        if self.target_dir(target).exists() {
            return Err(Error::TargetExists(target.to_owned()));
        }
        let dir = self.adding_dir(target);
        // A leftover of a manager that was killed while it added this target.
        delete_dir(&dir)?;
        let made = fs::create_dir(&dir);
        made.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Missing(self.root.join("targets")),
            _ => Error::file("making", &dir, e),
        })?;
        Ok(dir)
    }

    /// Gives the folder of a complete target its name, durably.
    ///
    /// # Errors
    /// When the name is taken, or the folder cannot be renamed durably. Then it has its name no more.
    pub(crate) fn finish_adding(&self, target: &str) -> Result<()> {
        let (from, to) = (self.adding_dir(target), self.target_dir(target));
        sync_dir(&from)?;
        rename_new(&from, &to)?;
        sync_dir(&self.root.join("targets")).inspect_err(|_| {
            // The next manager would find a target that nobody knows to be added.
            let _ = rename_new(&to, &from);
        })
    }

    /// Removes what is left of targets whose adding or deleting was cut off by the end of a manager.
    pub(crate) fn forget_unfinished(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("targets")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let begins = |with| name.to_str().and_then(|name| name.strip_prefix(with));
            if let Some(target) = begins(ADDING) {
                tracing::warn!(target, "adding it was cut off; add it again");
            } else if let Some(rest) = begins(DELETING) {
                let target = rest.rsplit_once('-').map_or(rest, |(target, _)| target);
                tracing::info!(target, "deleting it was cut off, and goes on");
            } else {
                continue;
            }
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::error!(dir = %entry.path().display(), %error, "cannot remove what is left of it");
            }
        }
    }
}

/// The configurations of a target, each a numbered file in this folder. The newest one is valid; an older one is used
/// only when a person asks for a repair.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    folder: PathBuf,
    target: String,
}

impl Configs {
    /// The configurations in the folder `dir` of a target.
    #[must_use]
    pub(crate) fn of(dir: &Path, target: &str) -> Configs {
        Configs { folder: dir.join("config"), target: target.to_owned() }
    }

    /// All files with their numbers, oldest first.
    fn files(&self) -> Result<Vec<(u32, PathBuf)>> {
        let entries = fs::read_dir(&self.folder).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Missing(self.folder.clone()),
            _ => Error::file("reading", &self.folder, e),
        })?;
        let number = |path: &Path| path.file_stem()?.to_str()?.parse().ok();
        let mut files: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .filter_map(|path| Some((number(&path)?, path)))
            .collect();
        files.sort_unstable();
        Ok(files)
    }

    fn damaged(&self, path: &Path) -> Error {
        Error::DamagedConfig { target: self.target.clone(), path: path.to_owned() }
    }

    fn read_of_any(&self, path: &Path) -> Result<TargetConfig> {
        let text = fs::read(path).map_err(|e| Error::file("reading", path, e))?;
        serde_json::from_slice(&text).map_err(|_| self.damaged(path))
    }

    fn read(&self, path: &Path) -> Result<TargetConfig> {
        let config = self.read_of_any(path)?;
        if config.name == self.target { Ok(config) } else { Err(self.damaged(path)) }
    }

    /// Reads the newest configuration.
    ///
    /// # Errors
    /// When the folder or its files are missing, or the newest file is damaged.
    pub(crate) fn load(&self) -> Result<TargetConfig> {
        self.read(&self.newest()?)
    }

    /// As [`Configs::load`], whatever the name in the configuration.
    ///
    /// # Errors
    /// As [`Configs::load`].
    pub(crate) fn load_of_any(&self) -> Result<TargetConfig> {
        self.read_of_any(&self.newest()?)
    }

    /// The number of the newest configuration.
    ///
    /// # Errors
    /// When the folder or its files are missing.
    pub(crate) fn newest_number(&self) -> Result<u32> {
        let newest = self.files()?.pop().map(|(number, _)| number);
        newest.ok_or_else(|| Error::Missing(self.folder.join("000001.json")))
    }

    fn newest(&self) -> Result<PathBuf> {
        let newest = self.files()?.pop().map(|(_, path)| path);
        newest.ok_or_else(|| Error::Missing(self.folder.join("000001.json")))
    }

    /// The newest readable configuration, its number, and how many newer ones are damaged; `None` if none is readable.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn newest_readable(&self) -> Result<Option<(TargetConfig, u32, usize)>> {
        let files = self.files()?;
        let readable =
            |(i, (number, path)): (usize, &(u32, PathBuf))| Some((self.read(path).ok()?, *number, i));
        Ok(files.iter().rev().enumerate().find_map(readable))
    }

    /// Writes a new configuration, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, config: &TargetConfig) -> Result<()> {
        // Creates only `config`: the target's folder must exist.
        match fs::create_dir(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::file("making", &self.folder, e));
            }
            _ => {}
        }
        let number = self.files()?.last().map_or(1, |(number, _)| number + 1);
        write_new(&self.folder.join(format!("{number:06}.json")), config)
    }
}

/// Keeps the store locked for this process, for its lifetime.
#[derive(Debug)]
pub(crate) struct StoreLock(fs::File);

impl StoreLock {
    /// Marks the store as locked for an export.
    pub(crate) fn exports(&self) {
        self.says(EXPORTS);
    }

    /// Marks the store as locked by a process that is ending.
    pub(crate) fn ends(&self) {
        self.says(ENDING);
    }

    /// Writes this process's id and purpose for processes that find the store locked. It overwrites text of the same
    /// length, and a failure is ignored: a full medium must not prevent looking at the store.
    fn says(&self, does: &str) {
        let mut file = &self.0;
        let _ = file.rewind().and_then(|()| writeln!(file, "{:<10} {does:<10}", std::process::id()));
    }
}

fn restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When it cannot be synced.
pub(crate) fn sync_dir(folder: &Path) -> Result<()> {
    let sync = || {
        #[cfg(test)]
        faults::meet(faults::Step::SyncDir, folder)?;
        fs::File::open(folder)?.sync_all()
    };
    sync().map_err(|e| Error::file("syncing", folder, e))
}

/// Deletes a folder and all that is in it. It need not exist.
///
/// # Errors
/// When a part of it cannot be deleted.
pub(crate) fn delete_dir(folder: &Path) -> Result<()> {
    let delete = || {
        #[cfg(test)]
        faults::meet(faults::Step::DeleteDir, folder)?;
        fs::remove_dir_all(folder)
    };
    match delete() {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("deleting", folder, e)),
        _ => Ok(()),
    }
}

/// The id of a log in file names and in JSON.
#[must_use]
pub(crate) fn id_text(log: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(log))
}

/// Renames a file or folder to a name that must be free.
///
/// # Errors
/// When it is not, or the rename fails.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let rename = || {
        #[cfg(test)]
        faults::meet(faults::Step::Rename, from)?;
        rename_to_free(from, to)
    };
    rename().map_err(|e| Error::file("moving", from, e))
}

/// As [`rename_new`], with the operating system's error.
///
/// # Errors
/// As [`rename_new`].
pub(crate) fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    let (here, no_replace) = (rustix::fs::CWD, rustix::fs::RenameFlags::NOREPLACE);
    match rustix::fs::renameat_with(here, from, here, to, no_replace) {
        // Not every file system supports `RENAME_NOREPLACE`.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        renamed => renamed.map_err(io::Error::from),
    }
}

/// Writes or replaces a file, atomically and durably.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_over<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::other);
    let written = text.and_then(|text| bygone_sys::write_whole(path, &text));
    written.map_err(|e| Error::file("writing", path, e))
}

/// Writes a file that must not exist yet, atomically and durably.
fn write_new<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::other);
    let rename = |part: &Path| rename_to_free(part, path);
    let written = text.and_then(|text| bygone_sys::write_whole_by(path, &text, rename));
    #[cfg(test)]
    let written = written.and_then(|()| faults::meet(faults::Step::LastSync, path));
    written.map_err(|e| Error::file("writing", path, e))
}

/// 16 random bytes from the system.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    let path = Path::new("/dev/urandom");
    fs::File::open(path)
        .and_then(|mut f| f.read_exact(&mut id))
        .map_err(|e| Error::file("reading", path, e))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_whose_holder_is_ending_is_waited_for_longer_than_one_that_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = StorePaths::new(&dir.path().join("store"));
        store.make().unwrap();
        let long = Duration::from_secs(60);
        let held = store.lock().unwrap();
        let refused = store.lock_within(Duration::ZERO, long);
        assert!(matches!(refused, Err(Error::StoreLocked { exports: false, .. })), "{refused:?}");
        held.exports();
        let refused = store.lock_within(long, long);
        assert!(matches!(refused, Err(Error::StoreLocked { exports: true, .. })), "{refused:?}");
        held.ends();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.lock_within(Duration::ZERO, long));
            // One that does not wait has given up by now.
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
        // The next holder is not ending.
        let held = store.lock().unwrap();
        assert!(store.lock_within(Duration::ZERO, long).is_err());
        drop(held);
    }
}
