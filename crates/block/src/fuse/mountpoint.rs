//! The file that an export is mounted over, and the mount.
//!
//! The kernel mounts a FUSE file system over a regular file if the root of the file system is a regular file too, which
//! the option `rootmode` says (`fs/fuse/inode.c`, `fuse_parse_param`). Root mounts directly. Other users go through
//! `fusermount3`, which takes the mode from the file and sends the descriptor of the connection back over the socket
//! that `_FUSE_COMMFD` names (libfuse's `util/fusermount.c`). The socket is passed as its standard input, so that no
//! descriptor has to be made inheritable.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, statx},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    process::{getegid, geteuid},
};

use super::FuseError;

/// How many dead mounts are cleared from one path, at most. Each crash leaves at most one.
const DEAD_MOUNTS_MAX: usize = 16;
/// A file stays busy for a moment after it was closed, because the kernel detaches loop devices in the background.
const UNMOUNT_TRIES: u32 = 20;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);
const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// The source shown in lists of mounts, with the type `fuse.bygone`.
const SOURCE: &str = "bygone";

/// A file to mount over.
#[derive(Debug)]
pub(super) struct Mountpoint {
    path: PathBuf,
    made_by_us: bool,
    made_at: SystemTime,
}

impl Mountpoint {
    /// Finds an empty file at `path` or creates one; clears dead mounts.
    pub(super) fn find_or_make(path: &Path) -> Result<Mountpoint, FuseError> {
        let path = resolve(path)?;
        let file_error = |source: io::Error| FuseError::File { path: path.clone(), source };
        let mut made_by_us = false;
        for _ in 0..DEAD_MOUNTS_MAX {
            let flags = StatxFlags::TYPE | StatxFlags::SIZE | StatxFlags::MTIME;
            match statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, flags) {
                Err(Errno::NOTCONN | Errno::CONNABORTED) => detach(&path)?,
                Err(Errno::NOENT) => {
                    let mut options = OpenOptions::new();
                    options.write(true).create_new(true).mode(0o600).open(&path).map_err(file_error)?;
                    made_by_us = true;
                }
                Err(error) => return Err(file_error(error.into())),
                Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
                    return Err(FuseError::AlreadyMounted { path });
                }
                Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile => {
                    return Err(FuseError::NotAFile { path });
                }
                Ok(stat) if stat.stx_size > 0 => return Err(FuseError::NotEmpty { path }),
                Ok(_) => {
                    let made_at = fs::symlink_metadata(&path).and_then(|meta| meta.modified());
                    let made_at = made_at.unwrap_or(SystemTime::UNIX_EPOCH);
                    return Ok(Mountpoint { path, made_by_us, made_at });
                }
            }
        }
        Err(FuseError::AlreadyMounted { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// When the file was last changed.
    pub(super) fn made_at(&self) -> SystemTime {
        self.made_at
    }

    /// Mounts over the file; the kernel's requests are read from the returned descriptor.
    pub(super) fn mount(&self, read_only: bool) -> Result<OwnedFd, FuseError> {
        let connection = match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(file) => OwnedFd::from(file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return self.ask_helper(read_only);
            }
            Err(source) => return Err(FuseError::NoFuse { source }),
        };
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let fd = connection.as_raw_fd();
        // default_permissions: the kernel checks the file's mode and owner, so this process need not.
        let options = format!("fd={fd},rootmode=100000,user_id={user},group_id={group},default_permissions");
        let options = CString::new(options).map_err(|nul| self.file_error(nul.into()))?;
        let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NOATIME;
        flags.set(MountFlags::RDONLY, read_only);
        match rustix::mount::mount(SOURCE, &self.path, "fuse.bygone", flags, Some(options.as_c_str())) {
            Ok(()) => Ok(connection),
            Err(Errno::PERM) => self.ask_helper(read_only),
            Err(error @ Errno::NODEV) => Err(FuseError::NoFuse { source: error.into() }),
            Err(error) => Err(self.file_error(error.into())),
        }
    }

    fn file_error(&self, source: io::Error) -> FuseError {
        FuseError::File { path: self.path.clone(), source }
    }

    /// Lets root open the file as well, so that it can be loop-mounted, if `/etc/fuse.conf` permits `allow_other`. The
    /// file's mode keeps other users out.
    fn ask_helper(&self, read_only: bool) -> Result<OwnedFd, FuseError> {
        let options = format!(
            "fsname={SOURCE},subtype=bygone,nodev,nosuid,noexec,default_permissions,{}",
            if read_only { "ro" } else { "rw" }
        );
        match self.mount_by_helper(&format!("{options},allow_other")) {
            Err(FuseError::HelperFailed { .. }) => self.mount_by_helper(&options),
            done => done,
        }
    }

    fn mount_by_helper(&self, options: &str) -> Result<OwnedFd, FuseError> {
        let (ours, theirs) = UnixStream::pair().map_err(|source| FuseError::NoFuse { source })?;
        {
            let mut command = Command::new(HELPER);
            command.args(["-o", options, "--"]).arg(&self.path).env("_FUSE_COMMFD", "0");
            run_helper(command.stdin(OwnedFd::from(theirs)), &self.path)?;
            // Drops the command, which holds the other end of the socket: with it open, the read below would wait in
            // vain.
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut iov = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(&ours, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| self.file_error(error.into()))?;
        let connection = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        connection.ok_or_else(|| {
            self.detach();
            self.file_error(io::ErrorKind::UnexpectedEof.into())
        })
    }

    /// Unmounts the file unless it is in use.
    pub(super) fn unmount(&self) -> Result<(), FuseError> {
        for attempt in 1..=UNMOUNT_TRIES {
            match rustix::mount::unmount(&self.path, UnmountFlags::NOFOLLOW) {
                // Not mounted any more, which is the goal.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) => {}
                Err(Errno::PERM) => match helper_unmount(&self.path, &["-u", "--"]) {
                    Err(FuseError::HelperFailed { said, .. }) if said.contains("busy") => {}
                    done => return done,
                },
                Err(error) => return Err(self.file_error(error.into())),
            }
            if attempt < UNMOUNT_TRIES {
                thread::sleep(UNMOUNT_PAUSE);
            }
        }
        Err(FuseError::Busy { path: self.path.clone() })
    }

    /// Detaches the mount from the path, even if it is in use.
    pub(super) fn detach(&self) {
        if let Err(error) = detach(&self.path) {
            tracing::warn!(%error, "a file export is still mounted");
        }
    }

    /// Detaches the mount if no process serves it any more.
    pub(super) fn clear_dead(&self) -> Result<(), FuseError> {
        match statx(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Err(Errno::NOTCONN | Errno::CONNABORTED) => detach(&self.path),
            _ => Ok(()),
        }
    }

    /// Removes the file if the export created it and it is still that empty file.
    pub(super) fn remove_file(&self) {
        if !self.made_by_us {
            return;
        }
        let removed = fs::symlink_metadata(&self.path).and_then(|meta| {
            if meta.is_file() && meta.len() == 0 { fs::remove_file(&self.path) } else { Ok(()) }
        });
        if let Err(error) =
            removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the file of an export");
        }
    }
}

/// The path as the kernel lists it. The last component may be a dead mount, of which only the name can be read.
fn resolve(path: &Path) -> Result<PathBuf, FuseError> {
    let file_error = |source| FuseError::File { path: path.to_owned(), source };
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) {
        return path.canonicalize().map_err(file_error);
    }
    let Some(name) = path.file_name() else {
        return Err(FuseError::NotAFile { path: path.to_owned() });
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(folder.canonicalize().map_err(file_error)?.join(name))
}

fn detach(path: &Path) -> Result<(), FuseError> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::PERM) => helper_unmount(path, &["-u", "-z", "--"]),
        Err(error) => Err(FuseError::File { path: path.to_owned(), source: error.into() }),
    }
}

fn helper_unmount(path: &Path, args: &[&str]) -> Result<(), FuseError> {
    run_helper(Command::new(HELPER).args(args).arg(path).stdin(Stdio::null()), path)
}

fn run_helper(command: &mut Command, path: &Path) -> Result<(), FuseError> {
    let output = command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|source| FuseError::NoHelper { source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FuseError::HelperFailed { path: path.to_owned(), said })
}
