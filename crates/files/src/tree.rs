//! The files of a volume: paths, inodes, what an inode says, where its bytes lie.
//!
//! One trait for all file systems. Names, link targets and attributes are bytes, since no encoding can be relied upon.
//! [`walk`] goes over a whole tree within limits, and ends whatever the tree looks like.

use std::{
    collections::HashSet,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::blocks::ReadError;

/// Why a tree cannot be read further.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TreeError {
    /// The blocks below could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is there makes no sense.
    #[error("inode {inode} is damaged: {what}")]
    Damaged {
        /// The inode at which this was noticed; 0 for the file system as a whole.
        inode: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It is written in a way that is not read here.
    #[error("{what} cannot be read here")]
    Unsupported {
        /// What it is.
        what: String,
    },
    /// It is larger than what is read.
    #[error("inode {inode} is too large: {what}")]
    TooLarge {
        /// The inode.
        inode: u64,
        /// Of what it has too much.
        what: &'static str,
    },
    /// More would have to be read than the [`Limits`] of a [`walk`] allow.
    #[error("more would have to be read than is allowed")]
    Exhausted,
    /// There is no such file.
    #[error("there is no such file")]
    NotFound,
    /// It is something else than was asked for.
    #[error("inode {inode} is not a {wanted}")]
    OtherKind {
        /// The inode.
        inode: u64,
        /// What it should be.
        wanted: &'static str,
    },
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "their names say what they are")]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    /// Something else, or not said where a name was read.
    Unknown,
}

/// A moment in seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanos: u32,
}

/// What an inode says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its number.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Permissions, with set-user-id, set-group-id and sticky bits: 12 bits.
    pub mode: u16,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The number of its names.
    pub links: u32,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its content was read last.
    pub accessed: FileTime,
    /// Its content was changed last.
    pub modified: FileTime,
    /// Its inode was changed last.
    pub changed: FileTime,
    /// It was created, if that is recorded.
    pub created: Option<FileTime>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, without slash and zero byte.
    pub name: Vec<u8>,
    /// The inode it stands for.
    pub inode: u64,
    /// What the directory says that it is.
    pub kind: FileKind,
}

/// An extended attribute: its whole name ("user.…") and its value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// A run of a file's bytes that lie on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes; it may reach beyond the end of the file.
    pub len_bytes: u64,
    /// Where it lies, in bytes from the start of the volume.
    pub place: u64,
    /// It is reserved and reads as zeroes.
    pub unwritten: bool,
    /// What lies at its place is a compressed form, of so many bytes, from which the content is made; `None` if it is the
    /// content itself.
    pub encoded_bytes: Option<u64>,
}

/// How much may still be read of the directories and maps of a volume: without bounds, unless a [`walk`] is on its way.
///
/// A damaged or hostile volume can refer to the same blocks again and again. Each call on its own is bounded by what a
/// sound volume can have, but all calls of a walk together would take hours.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Budget {
        Budget(AtomicU64::new(u64::MAX))
    }
}

impl Budget {
    /// Takes some bytes of it; small reads cost as much as a block does.
    ///
    /// # Errors
    /// [`TreeError::Exhausted`].
    pub(crate) fn take(&self, bytes: u64) -> Result<(), TreeError> {
        let left = self.0.load(Ordering::Relaxed);
        if left == u64::MAX {
            return Ok(());
        }
        let rest = left.checked_sub(bytes.max(BLOCK_BYTES));
        self.0.store(rest.unwrap_or(0), Ordering::Relaxed);
        rest.map(|_| ()).ok_or(TreeError::Exhausted)
    }

    /// Sets it until the guard is dropped.
    fn limit(&self, bytes: u64) -> Limited<'_> {
        Limited(self, self.0.swap(bytes, Ordering::Relaxed))
    }
}

/// Puts a budget back to what it was before.
struct Limited<'a>(&'a Budget, u64);

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        self.0.0.store(self.1, Ordering::Relaxed);
    }
}

/// The files of a volume.
pub trait Tree {
    /// The inode of the root directory.
    fn root(&self) -> u64;

    /// What may still be read of directories and maps.
    fn budget(&self) -> &Budget;

    /// Calls `each` with the names in a directory, without `.` and `..`, in any order, until it returns false.
    ///
    /// # Errors
    /// [`TreeError`]; some names may have been passed before.
    fn entries(&self, directory: u64, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), TreeError>;

    /// What an inode says of itself.
    ///
    /// # Errors
    /// [`TreeError`].
    fn metadata(&self, inode: u64) -> Result<Metadata, TreeError>;

    /// The extended attributes of an inode, access lists in the form in which Linux shows them, sorted by name.
    ///
    /// # Errors
    /// [`TreeError`].
    fn attributes(&self, inode: u64) -> Result<Vec<Attribute>, TreeError>;

    /// What a symbolic link points to.
    ///
    /// # Errors
    /// [`TreeError`].
    fn link_target(&self, inode: u64) -> Result<Vec<u8>, TreeError>;

    /// Calls `each` with the extents of a file's content, in the order of the file, until it returns false. What lies
    /// between them reads as zeroes; content that is kept in the inode itself has none.
    ///
    /// # Errors
    /// [`TreeError`]; some extents may have been passed before.
    fn extents(&self, inode: u64, each: &mut dyn FnMut(FileExtent) -> bool) -> Result<(), TreeError>;

    /// Fills `buf` with a file's content from `offset` and returns how many bytes there were.
    ///
    /// # Errors
    /// [`TreeError`]; the contents of `buf` are undefined then.
    fn read(&self, inode: u64, offset: u64, buf: &mut [u8]) -> Result<usize, TreeError>;

    /// Whether two names stand for the same file of a directory.
    fn is_same_name(&self, a: &[u8], b: &[u8]) -> bool {
        a == b
    }

    /// The inode of a path from the root; links are not followed, empty parts count for nothing.
    ///
    /// # Errors
    /// [`TreeError`].
    fn find(&self, path: &[u8]) -> Result<u64, TreeError> {
        let mut at = self.root();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let mut found = None;
            self.entries(at, &mut |entry| {
                if self.is_same_name(&entry.name, name) {
                    found = Some(entry.inode);
                }
                found.is_none()
            })?;
            at = found.ok_or(TreeError::NotFound)?;
        }
        Ok(at)
    }
}

/// What a read costs of a [`Budget`] at least.
const BLOCK_BYTES: u64 = 4096;
/// Directories that a [`walk`] has met and not entered yet.
const DIRECTORIES_MAX: usize = 2 << 20;

/// A directory that is to be entered. Those in one directory share its path, so that each costs no more than its name.
struct Waiting {
    inode: u64,
    above: Rc<[u8]>,
    /// With a slash before it.
    name: Vec<u8>,
    depth: usize,
}

/// The bounds of a [`walk`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Names in all.
    pub entries_max: u64,
    /// Directories within each other.
    pub depth_max: usize,
    /// Bytes of one path.
    pub path_bytes_max: usize,
    /// Bytes of directories and maps that are read in all, by the walk and by whatever is asked of the tree meanwhile.
    pub read_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries_max: 50_000_000,
            depth_max: 4096,
            path_bytes_max: 64 << 10,
            read_bytes_max: 64 << 30,
        }
    }
}

/// What a [`walk`] tells.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// A name, with the path that leads to it, and the kind that its inode has, if that can be read.
    Name(&'a [u8], &'a Entry),
    /// A directory that cannot be read, or not further, or an inode of which it is not known whether it is one.
    Unreadable(&'a [u8], TreeError),
    /// A directory that was met before, lies too deep, or is one of too many; it is not entered.
    NotEntered(&'a [u8], u64),
}

/// Goes over all names of a tree, in no particular order, until `each` returns false. Each directory is entered once,
/// so that a damaged tree with cycles ends as well.
///
/// Returns false if the limits put an end to it.
///
/// # Errors
/// [`ReadError`] when the caller itself ended the reading; other errors are steps.
pub fn walk(
    tree: &dyn Tree,
    limits: Limits,
    each: &mut dyn FnMut(Step<'_>) -> bool,
) -> Result<bool, ReadError> {
    let _limited = tree.budget().limit(limits.read_bytes_max);
    let mut met = HashSet::from([tree.root()]);
    let mut waiting = vec![Waiting { inode: tree.root(), above: Rc::from([]), name: Vec::new(), depth: 0 }];
    let mut left = limits.entries_max;
    while let Some(Waiting { inode: directory, above, name, depth }) = waiting.pop() {
        let path: Rc<[u8]> = [&above[..], &name].concat().into();
        let (mut stopped, mut exhausted, mut ended) = (false, false, None);
        let done = tree.entries(directory, &mut |entry| {
            if left == 0 {
                exhausted = true;
                return false;
            }
            left -= 1;
            let inode = entry.inode;
            let name = [b"/", &entry.name[..]].concat();
            let below = [&path[..], &name].concat();
            // What counts is the inode: a name that says something else must not hide a directory.
            let (kind, error) = match tree.metadata(entry.inode) {
                Ok(found) => (found.kind, None),
                Err(error) => (entry.kind, Some(error)),
            };
            if !each(Step::Name(&below, &Entry { kind, ..entry })) {
                stopped = true;
                return false;
            }
            match error {
                None if kind == FileKind::Directory => {}
                None => return true,
                Some(TreeError::Read(error)) if error.is_final() => {
                    ended = Some(error);
                    return false;
                }
                Some(TreeError::Exhausted) => {
                    exhausted = true;
                    return false;
                }
                Some(error) => {
                    stopped = !each(Step::Unreadable(&below, error));
                    return !stopped;
                }
            }
            let fits = depth < limits.depth_max
                && below.len() <= limits.path_bytes_max
                && waiting.len() < DIRECTORIES_MAX;
            if fits && met.insert(inode) {
                let above = Rc::clone(&path);
                waiting.push(Waiting { inode, above, name, depth: depth + 1 });
            } else {
                stopped = !each(Step::NotEntered(&below, inode));
            }
            !stopped
        });
        if let Some(error) = ended {
            return Err(error);
        }
        match done {
            Err(TreeError::Read(error)) if error.is_final() => return Err(error),
            Err(TreeError::Exhausted) => exhausted = true,
            Err(error) => stopped |= !each(Step::Unreadable(&path, error)),
            Ok(()) => {}
        }
        if stopped || exhausted {
            return Ok(!exhausted);
        }
    }
    Ok(true)
}
