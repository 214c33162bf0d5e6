//! Imports an image into the store. An image that is not raw is converted by `qemu-img` first, to a temporary file in
//! the target's folder.
//!
//! Invariants: an image is imported completely or not at all; what of it is left out is reported; nobody writes to it
//! from when it is looked at until it was imported.

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
use bygone_sys::ImageLock;

use crate::{
    api::{Answers, Progress},
    error::{Error, Result},
    outside::{self, Facts},
    target::{Target, Use},
};

/// Images are copied in pieces of this size: writes that are small enough to stay in the page cache, because the
/// machine boots from them next.
const PIECE_BYTES: u64 = 128 << 10;
/// Zero blocks of this size are left out.
const COMPARED_BYTES: usize = 64 << 10;

/// An image that can be imported.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    raw: OsDisk,
    _lock: Option<ImageLock>,
    /// `None`: raw.
    format: Option<Format>,
    /// The size of the disk in it.
    pub(crate) size_bytes: u64,
    /// The block size according to its device or its partition table, if the image is raw.
    pub(crate) block_bytes: Option<u32>,
    /// The internal snapshots, which are left out.
    snapshots: Vec<String>,
}

impl Image {
    /// Examines an image; with `is_raw` its content may look like another format.
    ///
    /// # Errors
    /// When it cannot be read, a program may write to it, it is damaged or incomplete, or needs other files.
    pub(crate) fn look(path: &Path, is_raw: bool, answers: &mut dyn Answers) -> Result<Image> {
        let path = crate::config::absolute(path);
        let (raw, lock) = outside::open_to_read(&path)?;
        let Facts { size_bytes, block_bytes, format } = outside::facts(&path, &raw)?;
        let format = format.filter(|_| !is_raw);
        let image = Image { path, raw, _lock: lock, format, size_bytes, block_bytes, snapshots: Vec::new() };
        let Some(format) = format else { return Ok(image) };
        answers.progress(Progress {
            doing: "looking at the image".to_owned(),
            done_bytes: 0,
            total_bytes: 0,
        });
        let looked = image::look(&image.path, format, &mut || answers.wanted())?;
        if !looked.snapshots.is_empty() {
            let (count, names) = (looked.snapshots.len(), looked.snapshots.join(", "));
            answers.note(format!(
                "{} has {count} snapshots inside, which are not imported, only the disk as it is: {names}",
                image.path.display()
            ));
        }
        let (size_bytes, snapshots) = (looked.size_bytes, looked.snapshots);
        Ok(Image { size_bytes, block_bytes: None, snapshots, ..image })
    }

    /// Imports it into the disk `id` of a new target; returns the event of that.
    ///
    /// # Errors
    /// When it cannot be read, the store cannot be written, or the caller no longer waits.
    pub(crate) fn import(&self, target: &Arc<Target>, id: &str, answers: &mut dyn Answers) -> Result<Event> {
        let lease = target.lease(target.volume(target.present(), Some(id))?, Use::Upkeep)?;
        let doing = format!("importing {id}");
        let mut progress = |done_bytes| {
            answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes: self.size_bytes })
        };
        match self.format {
            None => copy(&self.path, &self.raw, id, &lease, &mut progress)?,
            Some(format) => {
                let raw = Temporary(target.dir().join(format!("import-{id}.raw")));
                // Conversion counts as half of the work.
                let half = u128::from(self.size_bytes) / 2;
                image::convert(&self.path, format, &raw.0, &mut |hundredths| {
                    progress((half * u128::from(hundredths) / 10_000) as u64)
                })?;
                let converted = OsDisk::open_to_read(&raw.0)
                    .map_err(|source| Error::Disk { path: raw.0.clone(), source })?;
                copy(&raw.0, &converted, id, &lease, &mut |done| progress(half as u64 + done / 2))?;
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
        Ok(event)
    }
}

/// Copies a raw disk to an empty one of the same size.
fn copy(
    path: &Path,
    raw: &OsDisk,
    id: &str,
    to: &dyn BlockDevice,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let io = |source| Error::Disk { path: path.to_owned(), source };
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
            // An import fails at once instead of waiting for room.
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

/// A temporary file, removed when it is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
