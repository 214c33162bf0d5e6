//! Reading an image into the store once. What is no raw disk is made one by `qemu-img` first, in the target's folder.
//!
//! Invariant: an image becomes a disk whole or not at all; what in it is no part of the disk is said.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bygone_block::{
    BlockDevice, Change, Extent, IoError, OsDisk, RawDisk, Writing,
    walk::{End, Piece, Took, Walk, differing},
};
use bygone_model::{Event, Kind};
use bygone_qemu::image::{self, Format};

use crate::{
    api::{Answers, Progress},
    error::{Error, Result},
    outside::{self, Facts},
    target::{Target, Use},
};

/// Small enough to stay in the system's memory as far as there is room: it is what the machine boots from next.
const PIECE_BYTES: u64 = 128 << 10;
/// Zeroes between data are left out in blocks of this size.
const COMPARED_BYTES: usize = 64 << 10;

/// An image that can be imported.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    path: PathBuf,
    /// `None`: raw.
    format: Option<Format>,
    /// The size of the disk in it.
    pub(crate) size_bytes: u64,
    /// The size of its blocks, as its partition table says.
    pub(crate) block_bytes: Option<u32>,
    /// Snapshots inside of it, which are left out.
    snapshots: Vec<String>,
}

impl Image {
    /// Looks at an image; with `is_raw` its first bytes may look like anything.
    ///
    /// # Errors
    /// When it cannot be read, is not whole, or needs other files.
    pub(crate) fn look(path: &Path, is_raw: bool, answers: &mut dyn Answers) -> Result<Image> {
        let path = crate::config::absolute(path);
        let Facts { size_bytes, block_bytes, format } = outside::facts(&path)?;
        let Some(format) = format.filter(|_| !is_raw) else {
            return Ok(Image { path, format: None, size_bytes, block_bytes, snapshots: Vec::new() });
        };
        answers.progress(Progress {
            doing: "looking at the image".to_owned(),
            done_bytes: 0,
            total_bytes: 0,
        });
        let looked = image::look(&path, format, &mut || answers.wanted())?;
        if !looked.snapshots.is_empty() {
            let (count, names) = (looked.snapshots.len(), looked.snapshots.join(", "));
            answers.note(format!(
                "{} has {count} snapshots inside, which are not imported, only the disk as it is: {names}",
                path.display()
            ));
        }
        let (size_bytes, snapshots) = (looked.size_bytes, looked.snapshots);
        Ok(Image { path, format: Some(format), size_bytes, block_bytes: None, snapshots })
    }

    /// Reads it into the disk `id` of a new target.
    ///
    /// # Errors
    /// When it cannot be read or the store not be written.
    pub(crate) fn import(&self, target: &Arc<Target>, id: &str, answers: &mut dyn Answers) -> Result<()> {
        let lease = target.lease(target.volume(target.present(), Some(id))?, Use::Upkeep)?;
        let doing = format!("importing {id}");
        let mut progress = |done_bytes| {
            answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes: self.size_bytes })
        };
        match self.format {
            None => copy(&self.path, id, &lease, &mut progress)?,
            Some(format) => {
                let raw = Temporary(target.dir().join(format!("import-{id}.raw")));
                // Unpacking it is half of the work.
                let half = u128::from(self.size_bytes) / 2;
                image::convert(&self.path, format, &raw.0, &mut |hundredths| {
                    progress((half * u128::from(hundredths) / 10_000) as u64)
                })?;
                copy(&raw.0, id, &lease, &mut |done| progress(half as u64 + done / 2))?;
            }
        }
        lease.flush()?;
        let mut event = Event::new(Kind::Base, format!("disk {id} was imported"))
            .with("disk", id)
            .with("from", self.path.display().to_string())
            .with("format", self.format.map_or("raw", Format::name))
            .with("phase", "complete");
        if !self.snapshots.is_empty() {
            event = event.with("snapshots_left_out", self.snapshots.clone());
        }
        target.log.event(target.present(), &event)?;
        target.log.flush()?;
        Ok(())
    }
}

/// Copies a raw disk into an empty one of its size.
fn copy(path: &Path, id: &str, to: &dyn BlockDevice, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let io = |source| Error::Disk { path: path.to_owned(), source };
    let raw = OsDisk::open_to_read(path).map_err(io)?;
    let size = raw.size_bytes();
    let wanted = to.geometry().size_bytes;
    if size != wanted {
        let wanted = format!("it had {wanted} when it was looked at");
        return Err(Error::DiskSize { path: path.to_owned(), found: size, wanted });
    }
    let mut piece = vec![0; PIECE_BYTES as usize];
    let mut take = |Piece { at, len_bytes, zero }: Piece| {
        if zero {
            return Ok(Took::All);
        }
        let piece = &mut piece[..len_bytes as usize];
        if raw.file().read_uncached_at(piece, at).map_err(io)? < piece.len() {
            return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let writings: Vec<Writing<'_>> = differing(piece, None, COMPARED_BYTES)
            .map(|data| Writing { offset: at + data.start as u64, change: Change::Data(&piece[data]) })
            .collect();
        to.write(&writings).map_err(|e| match e {
            // An import is a command: it fails at once instead of waiting.
            IoError::Paused => bygone_store::Error::Full { name: format!("disk {id}") }.into(),
            e => Error::from(e),
        })?;
        Ok(Took::All)
    };
    let walk = Walk { size_bytes: size, piece_bytes: PIECE_BYTES };
    let mut holes =
        |at, len, each: &mut dyn FnMut(Extent) -> bool| raw.extents(at, len, each).map(drop).map_err(io);
    match walk.go(&mut holes, &mut take, &mut |done, _| progress(done))? {
        End::Whole => Ok(()),
        End::GivenUp => Err(Error::Abandoned),
    }
}

/// Removed when it is no longer needed, however that comes.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
