//! Reading an image into the store once. A qcow2 image is read through `qemu-img`, which knows all its variants.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bygone_block::{BlockDevice, Change, IoError, OsDisk, RawDisk, Writing};
use bygone_model::{Event, Kind};

use crate::{
    api::{Answers, Progress},
    error::{Error, Result},
    target::{Target, Use},
};

const PIECE_BYTES: u64 = 1 << 20;
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

fn is_qcow2(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = [0; 4];
    let mut file =
        std::fs::File::open(path).map_err(|source| Error::Disk { path: path.to_owned(), source })?;
    Ok(file.read_exact(&mut magic).is_ok() && magic == QCOW2_MAGIC)
}

fn qemu_img(arguments: &[&std::ffi::OsStr]) -> Result<Vec<u8>> {
    let failed = |output: String| Error::Program { program: "qemu-img", output };
    let done = Command::new("qemu-img").args(arguments).output().map_err(|e| failed(e.to_string()))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}

/// The size of the disk in an image, in bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn size_of(path: &Path) -> Result<u64> {
    if !is_qcow2(path)? {
        return Ok(crate::target::open_disk(path)?.0);
    }
    let said = qemu_img(&["info".as_ref(), "--output=json".as_ref(), path.as_os_str()])?;
    let said = serde_json::from_slice::<serde_json::Value>(&said).unwrap_or_default();
    if said.get("backing-filename").is_some() {
        // An image may name any file of this computer as its base.
        let output = "the image is based on another one; flatten it first with `qemu-img convert`".to_owned();
        return Err(Error::Program { program: "qemu-img", output });
    }
    let size = said.get("virtual-size").and_then(serde_json::Value::as_u64);
    size.ok_or_else(|| Error::Program { program: "qemu-img", output: "no virtual size".to_owned() })
}

/// Reads the image into the disk `id` of a new target.
///
/// # Errors
/// When it cannot be read or the store not be written.
pub(crate) fn import(target: &Arc<Target>, id: &str, path: &Path, answers: &mut dyn Answers) -> Result<()> {
    let volume = target.volume(target.present(), Some(id))?;
    let lease = target.lease(volume, Use::Upkeep)?;
    let (raw_path, temporary) = if is_qcow2(path)? {
        let raw = target.dir().join(format!("import-{id}.raw"));
        let arguments =
            ["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), path.as_os_str(), raw.as_os_str()];
        qemu_img(&arguments)?;
        (raw.clone(), Some(Temporary(raw)))
    } else {
        (path.to_owned(), None)
    };
    let raw = OsDisk::open(&raw_path).map_err(|source| Error::Disk { path: raw_path.clone(), source })?;
    let io = |source| Error::Disk { path: raw_path.clone(), source };
    let size = raw.size_bytes();
    let mut at = 0;
    let mut piece = Vec::new();
    while let Some(data) = raw.next_data(at).map_err(io)?.filter(|data| *data < size) {
        at = data - data % PIECE_BYTES;
        let len = PIECE_BYTES.min(size - at);
        piece.resize(len as usize, 0);
        bygone_store::env::read_exact_at(raw.file(), &mut piece, at).map_err(io)?;
        // In blocks, so that zeroes between data cost nothing.
        let mut start = 0;
        let mut writings = Vec::new();
        const BLOCK: usize = 64 << 10;
        for block in piece.chunks(BLOCK) {
            if block.iter().any(|b| *b != 0) {
                writings.push(Writing { offset: at + start, change: Change::Data(block) });
            }
            start += block.len() as u64;
        }
        lease.write(&writings).map_err(|e| match e {
            // An import is a command: it fails at once instead of waiting.
            IoError::Paused => bygone_store::Error::Full { name: format!("disk {id}") }.into(),
            e => Error::from(e),
        })?;
        at += len;
        let doing = format!("importing {id}");
        if !answers.progress(Progress { doing, done_bytes: at, total_bytes: size }) {
            return Err(Error::Abandoned);
        }
    }
    lease.flush()?;
    drop(temporary);
    let event = Event::new(Kind::Base, format!("disk {id} was imported"))
        .with("disk", id)
        .with("from", path.display().to_string())
        .with("phase", "complete");
    target.log.event(target.present(), &event)?;
    target.log.flush()?;
    Ok(())
}

/// Removed when it is no longer needed, however that comes.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
