//! Disk images: recognised by their bytes, checked, and converted to raw ones with `qemu-img`.
//!
//! Invariants:
//! - the format is always passed to `qemu-img`, which never probes it;
//! - no file other than the named one is opened: an image that needs others is refused before any tool sees it;
//! - parts of an image that are not imported are reported ([`Looked::snapshots`]), and an incomplete image is refused.

mod format;

use std::{cell::Cell, fs, io, os::unix::fs::FileExt, path::Path, process::Command};

pub use format::{Format, HEAD_BYTES, TAIL_BYTES, Unfit, block_bytes, recognise, unfit};
use serde::Deserialize;

use crate::{
    error::{Error, Result},
    tool,
};

const PROGRAM: &str = "qemu-img";
/// How much of the output of `qemu-img info` is read; it lists the snapshots.
const INFO_BYTES_MAX: usize = 8 << 20;

/// The first and the last bytes of a file or device of `size_bytes`.
///
/// # Errors
/// The error of the operating system.
pub fn ends(file: &fs::File, size_bytes: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let read = |at: u64, len: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (len as u64).min(size_bytes) as usize];
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    Ok((read(0, HEAD_BYTES)?, read(size_bytes.saturating_sub(TAIL_BYTES as u64), TAIL_BYTES)?))
}

/// The contents of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The size of the disk, in bytes.
    pub size_bytes: u64,
    /// Internal snapshots of the image, by name. They are not part of the current disk.
    pub snapshots: Vec<String>,
}

/// Examines an image at an absolute path, and makes sure that it is complete.
///
/// # Errors
/// [`Error::Image`] when it is not, or needs other files; [`Error::Tool`] with the message of `qemu-img`; those of
/// running it.
pub fn look(path: &Path, format: Format, wanted: &mut dyn FnMut() -> bool) -> Result<Looked> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Info {
        virtual_size: u64,
        #[serde(default)]
        cluster_size: u64,
        #[serde(default)]
        snapshots: Vec<Snapshot>,
    }
    #[derive(Deserialize)]
    struct Snapshot {
        #[serde(default)]
        id: String,
        #[serde(default)]
        name: String,
    }
    let image = |unfit| Error::Image { path: path.to_owned(), unfit };
    let file = fs::File::open(path).map_err(Error::file(path))?;
    let file_bytes = file.metadata().map_err(Error::file(path))?.len();
    let (head, tail) = ends(&file, file_bytes).map_err(Error::file(path))?;
    if let Some(unfit) = unfit(format, &head, &tail) {
        return Err(image(unfit));
    }
    let mut said = String::new();
    img(&["info", "--output=json"], format, path, &[], wanted, &mut |line| {
        said.push_str(line);
        said.push('\n');
        said.len() < INFO_BYTES_MAX
    })
    .and_then(|done| done.expect_code(&[0]))?;
    let info: Info = serde_json::from_str(&said).map_err(|error| Error::Tool {
        program: PROGRAM,
        said: format!("no description of the image ({error})"),
    })?;

    // 63: the format has nothing to check. 3: it has leaked clusters, which do no harm.
    let done = img(&["check", "--output=json"], format, path, &[], wanted, &mut |_| true)?;
    if done.code == Some(2) {
        let first = done.complaint.lines().next().unwrap_or_default();
        let what = if first.is_empty() { "qemu-img finds it inconsistent" } else { first };
        return Err(image(Unfit::Damaged(what.to_owned())));
    }
    done.expect_code(&[0, 3, 63])?;

    let mut reaches = 0;
    img(&["map", "--output=json"], format, path, &[], wanted, &mut |line| {
        reaches = reaches.max(reach_of(line));
        true
    })
    .and_then(|done| done.expect_code(&[0]))?;
    // The last cluster may be incomplete. Large clusters are known to be used only in QEMU's own format.
    let slack = match format {
        Format::Qcow | Format::Qcow2 => info.cluster_size.max(512),
        _ => info.cluster_size.clamp(512, 64 << 10),
    };
    if reaches >= file_bytes.saturating_add(slack) {
        return Err(image(Unfit::Truncated { needed: reaches, found: file_bytes }));
    }
    let name = |s: Snapshot| if s.name.is_empty() { s.id } else { s.name };
    Ok(Looked { size_bytes: info.virtual_size, snapshots: info.snapshots.into_iter().map(name).collect() })
}

/// Where an extent of the map, which is one line, ends in the file.
fn reach_of(line: &str) -> u64 {
    #[derive(Deserialize)]
    struct Extent {
        length: u64,
        offset: Option<u64>,
        #[serde(default)]
        compressed: bool,
    }
    let extent = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
    match serde_json::from_str::<Extent>(extent) {
        Ok(Extent { length, offset: Some(offset), compressed: false }) => offset.saturating_add(length),
        _ => 0,
    }
}

/// Converts an image to a new, sparse raw file. `progress` gets hundredths of a percent; the conversion is cancelled
/// when it returns false.
///
/// # Errors
/// [`Error::Tool`] with the message of `qemu-img`; those of running it.
pub fn convert(path: &Path, format: Format, to: &Path, progress: &mut dyn FnMut(u32) -> bool) -> Result<()> {
    let reached = Cell::new(0);
    img(&["convert", "-p", "-O", "raw"], format, path, &[to], &mut || progress(reached.get()), &mut |line| {
        reached.set(hundredths(line).unwrap_or(reached.get()));
        true
    })?
    .expect_code(&[0])
}

/// `    (12.34/100%)`
fn hundredths(line: &str) -> Option<u32> {
    let (number, _) = line.trim().strip_prefix('(')?.split_once('/')?;
    let (whole, part) = number.split_once('.')?;
    Some(whole.parse::<u32>().ok()?.min(100) * 100 + part.parse::<u32>().ok()?.min(99))
}

fn img(
    command: &[&str],
    format: Format,
    path: &Path,
    more: &[&Path],
    wanted: &mut dyn FnMut() -> bool,
    each: &mut dyn FnMut(&str) -> bool,
) -> Result<tool::Done> {
    let mut line = Command::new(PROGRAM);
    // An absolute path cannot be mistaken for one of QEMU's protocols.
    line.args(command).args(["-f", format.name()]).arg(path).args(more);
    tool::run(&mut line, wanted, each)
}

impl tool::Done {
    fn expect_code(self, codes: &[i32]) -> Result<()> {
        if self.code.is_some_and(|code| codes.contains(&code)) {
            return Ok(());
        }
        let said =
            if self.complaint.is_empty() { format!("it ended with {:?}", self.code) } else { self.complaint };
        Err(Error::Tool { program: PROGRAM, said })
    }
}

#[cfg(test)]
mod tests;
