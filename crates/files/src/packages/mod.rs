//! Which software is installed, by the databases of package managers on a volume: dpkg, apk, pacman and rpm.
//!
//! A database is read as it lies there, in the middle of a transaction too: dpkg's journal, SQLite's write-ahead log
//! and packages that are only half installed are part of what it says.
//! Nothing of it is believed. Each file has a bound, and what cannot be read is an error of that database alone.

mod apk;
mod disk;
mod dpkg;
mod ndb;
mod pacman;
mod rpm;
mod sqlite;
#[cfg(test)]
mod tests;
mod versions;

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

pub use self::disk::{Glanced, Software, glances, software};
use crate::tree::{FileKind, FileTime, Metadata, Tree, TreeError};

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "their names say what they are")]
pub enum PackageManager {
    Dpkg,
    Apk,
    Pacman,
    Rpm,
}

impl fmt::Display for PackageManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PackageManager::Dpkg => "dpkg",
            PackageManager::Apk => "apk",
            PackageManager::Pacman => "pacman",
            PackageManager::Rpm => "rpm",
        })
    }
}

/// How far a package is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageState {
    /// Completely.
    Installed,
    /// Its files are there, partly or all of them, and its installation or removal was not completed.
    Incomplete,
    /// It was removed, and its configuration is kept.
    Removed,
}

/// A package of a database. Texts are as the database has them, with what is not UTF-8 replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its architecture, in the words of its package manager.
    pub arch: String,
    /// Its version, with epoch and release where there are any.
    pub version: String,
    /// How far it is installed.
    pub state: PackageState,
}

/// The packages of one database, sorted. Of one name there can be several, of other architectures or versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whose database it is.
    pub manager: PackageManager,
    /// Its packages.
    pub packages: Vec<Package>,
}

/// Why a database cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its files cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What is there makes no sense.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is larger than what is read.
    #[error("it is too large: {0}")]
    TooLarge(&'static str),
    /// It is written in a way that is not read here.
    #[error("{0} is not read here")]
    Unsupported(&'static str),
}

type Result<T> = std::result::Result<T, DatabaseError>;

/// The databases on a volume, each with its manager. A volume that has no root file system of an operating system has
/// none.
///
/// # Errors
/// One database's error does not keep others from being read.
pub fn databases(tree: &dyn Tree) -> Vec<(PackageManager, Result<Database>)> {
    let system = match System::of(tree) {
        Ok(system) => system,
        // What a package manager it would be is not known; one of them says it.
        Err(error) => return vec![(PackageManager::Dpkg, Err(error.into()))],
    };
    READERS
        .iter()
        .filter_map(|(manager, read)| {
            let packages = read(&system).transpose()?;
            let sorted = packages.map(|mut packages| {
                packages.sort_unstable();
                packages.dedup();
                Database { manager: *manager, packages }
            });
            Some((*manager, sorted))
        })
        .collect()
}

/// The system of a volume: its root, or the first folder there that has one, as where a system is in a subvolume that is
/// not the default one (`@`, `root`).
struct System<'a> {
    tree: &'a dyn Tree,
    root: Vec<u8>,
}

impl System<'_> {
    fn of(tree: &dyn Tree) -> std::result::Result<System<'_>, TreeError> {
        const FOLDERS_MAX: usize = 64;
        let has_system = |root: &[u8]| -> std::result::Result<bool, TreeError> {
            Ok(found(tree, &[root, b"/etc"].concat())?.is_some()
                && found(tree, &[root, b"/usr"].concat())?.is_some())
        };
        let mut folders = Vec::new();
        tree.entries(tree.root(), &mut |entry| {
            folders.push(entry.name);
            folders.len() < FOLDERS_MAX
        })?;
        folders.sort_unstable();
        let is_system = |name: &Vec<u8>| name == b"etc" || name == b"usr";
        if !folders.iter().any(is_system) {
            for root in folders {
                if has_system(&root)? {
                    return Ok(System { tree, root });
                }
            }
        }
        Ok(System { tree, root: Vec::new() })
    }

    /// See [`found`].
    fn find(&self, path: &str) -> std::result::Result<Option<u64>, TreeError> {
        found(self.tree, &[&self.root, &b"/"[..], path.as_bytes()].concat())
    }
}

/// Reads a database's packages; `None` if there is none.
type Reader = fn(&System<'_>) -> Result<Option<Vec<Package>>>;

const READERS: [(PackageManager, Reader); 4] = [
    (PackageManager::Dpkg, dpkg::read),
    (PackageManager::Apk, apk::read),
    (PackageManager::Pacman, pacman::read),
    (PackageManager::Rpm, rpm::read),
];

/// What a volume says at a glance of whether its databases may have changed: the files and folders that each
/// transaction touches, with what their inodes say. Where this is the same, no transaction ended between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Glance(Vec<Touched>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Touched {
    path: &'static str,
    inode: u64,
    size_bytes: u64,
    modified: FileTime,
    changed: FileTime,
    /// The beginning of a file, where SQLite and rpm's own database count their transactions. Times may be whole
    /// seconds.
    start: [u8; 32],
}

impl Glance {
    /// Of the databases on a volume.
    ///
    /// # Errors
    /// [`TreeError`] when what leads to a database cannot be read.
    pub fn of(tree: &dyn Tree) -> std::result::Result<Glance, TreeError> {
        let (system, mut glance) = (System::of(tree)?, Vec::new());
        for path in PLACES.iter().flat_map(|places| places.iter()).copied() {
            if let Some(inode) = system.find(path)? {
                let Metadata { kind, size_bytes, modified, changed, .. } = tree.metadata(inode)?;
                let mut start = [0; 32];
                if kind == FileKind::Regular {
                    tree.read(inode, 0, &mut start)?;
                }
                glance.push(Touched { path, inode, size_bytes, modified, changed, start });
            }
        }
        Ok(Glance(glance))
    }

    /// Whether there is no database at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const PLACES: [&[&str]; 4] = [dpkg::PLACES, apk::PLACES, pacman::PLACES, rpm::PLACES];

/// What happened to a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is new.
    Installed,
    /// It has a higher version.
    Upgraded,
    /// It has a lower version.
    Downgraded,
    /// It is of another version, of which it is not known which is higher, or the same one is installed further.
    Changed,
    /// It is gone, but for its configuration.
    Removed,
    /// Its configuration is gone as well.
    Purged,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Action::Installed => "install",
            Action::Upgraded => "upgrade",
            Action::Downgraded => "downgrade",
            Action::Changed => "change",
            Action::Removed => "remove",
            Action::Purged => "purge",
        })
    }
}

/// The change of one package between two states of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub action: Action,
    /// The package.
    pub name: String,
    /// Its architecture.
    pub arch: String,
    /// Its version before, if it was there.
    pub before: Option<String>,
    /// Its version afterwards, if it is there.
    pub after: Option<String>,
    /// How far it is installed afterwards; [`PackageState::Removed`] if it is not there any more.
    pub state: PackageState,
}

/// What changed from one state of a database to a later one, sorted by name.
///
/// Where several versions of a package are installed side by side, as rpm does it with kernels, one that comes is
/// installed and one that goes is removed; none is an upgrade of another.
#[must_use]
pub fn changes(before: &Database, after: &Database) -> Vec<Change> {
    let (mut old, mut new) = (by_name(before), by_name(after));
    let mut changes = Vec::new();
    for ((name, arch), now) in &mut new {
        let then = old.remove(&(*name, *arch)).unwrap_or_default();
        let change = |then: Option<&Package>, now: Option<&Package>| {
            changed(after.manager, then, now).map(|(action, state)| Change {
                action,
                name: (*name).to_owned(),
                arch: (*arch).to_owned(),
                before: then.map(|package| package.version.clone()),
                after: now.map(|package| package.version.clone()),
                state,
            })
        };
        if let ([], [one]) | ([_], [one]) = (&then[..], &now[..]) {
            changes.extend(change(then.first().copied(), Some(one)));
            continue;
        }
        let same = |a: &Package, b: &Package| a.version == b.version;
        for package in now.iter() {
            changes.extend(change(then.iter().find(|other| same(other, package)).copied(), Some(package)));
        }
        for package in then.iter().filter(|package| !now.iter().any(|other| same(other, package))) {
            changes.extend(change(Some(package), None));
        }
    }
    for ((name, arch), then) in old {
        changes.extend(then.into_iter().filter_map(|package| {
            let (action, state) = changed(before.manager, Some(package), None)?;
            let (name, arch) = (name.to_owned(), arch.to_owned());
            Some(Change { action, name, arch, before: Some(package.version.clone()), after: None, state })
        }));
    }
    changes.sort_by(|a, b| {
        (&a.name, &a.arch, &a.after, &a.before).cmp(&(&b.name, &b.arch, &b.after, &b.before))
    });
    changes
}

fn by_name(database: &Database) -> BTreeMap<(&str, &str), Vec<&Package>> {
    let mut packages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for package in &database.packages {
        packages.entry((package.name.as_str(), package.arch.as_str())).or_default().push(package);
    }
    packages
}

/// What happened from one state of a package to another, if anything.
fn changed(
    manager: PackageManager,
    before: Option<&Package>,
    after: Option<&Package>,
) -> Option<(Action, PackageState)> {
    let is_there = |package: &&Package| package.state != PackageState::Removed;
    let (then, now) = (before.filter(is_there), after.filter(is_there));
    let state = after.map_or(PackageState::Removed, |package| package.state);
    let action = match (then, now) {
        (None, None) if before.is_some() && after.is_none() => Action::Purged,
        (None, None) => return None,
        (None, Some(_)) => Action::Installed,
        (Some(_), None) => Action::Removed,
        (Some(then), Some(now)) if then.version == now.version && then.state == now.state => return None,
        (Some(then), Some(now)) => match versions::compare(manager, &then.version, &now.version) {
            Ordering::Less => Action::Upgraded,
            Ordering::Greater => Action::Downgraded,
            Ordering::Equal => Action::Changed,
        },
    };
    Some((action, state))
}

/// The inode of a path, or `None` if it or a part of its way is missing or no directory. Links on the way are followed
/// as [`Tree::find`] does it, which is not at all.
fn found(tree: &dyn Tree, path: &[u8]) -> std::result::Result<Option<u64>, TreeError> {
    match tree.find(path) {
        Ok(inode) => Ok(Some(inode)),
        Err(TreeError::NotFound | TreeError::OtherKind { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The content of a file, if it is one.
///
/// # Errors
/// When it is longer than `max_bytes`, or cannot be read.
fn content(tree: &dyn Tree, inode: u64, max_bytes: u64) -> Result<Vec<u8>> {
    let said = tree.metadata(inode)?;
    if said.kind != FileKind::Regular {
        return Err(DatabaseError::Damaged("it is no file"));
    }
    if said.size_bytes > max_bytes {
        return Err(DatabaseError::TooLarge("a file"));
    }
    let mut bytes = vec![0; usize::try_from(said.size_bytes).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        let (from, to) = (filled, bytes.len().min(filled + PIECE_BYTES));
        match tree.read(inode, from as u64, &mut bytes[from..to])? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Fills `buf` from a place in a file.
///
/// # Errors
/// When the file ends before, or cannot be read.
fn read_exact(tree: &dyn Tree, inode: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
    if tree.read(inode, offset, buf)? == buf.len() {
        return Ok(());
    }
    Err(DatabaseError::Damaged("a file that ends too early"))
}

/// How much of a file is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// A text of a database, with what is not UTF-8 replaced, and not longer than names and versions are.
fn text(bytes: &[u8]) -> Result<String> {
    const TEXT_BYTES_MAX: usize = 1024;
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(DatabaseError::TooLarge("a name or version"));
    }
    Ok(String::from_utf8_lossy(bytes.trim_ascii()).into_owned())
}

/// The most packages of a database.
const PACKAGES_MAX: usize = 1 << 20;
