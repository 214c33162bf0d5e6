//! What the volumes of a disk are, and whether each was left in order.
//!
//! - A volume is named by its superblock or signature. If two of them disagree, nothing is guessed: it is ambiguous.
//! - The logical volumes of LVM are volumes of their own, beside the physical ones.
//! - `Clean` means that the volume itself says so. What cannot say so, or is not understood, is `Unknown`.
//! - What is read of one volume is bounded, and so is what is read of all volumes of a disk together.

mod btrfs;
mod ext;
mod fat;
mod kind;
mod ntfs;
mod opaque;
#[cfg(test)]
mod tests;
pub(crate) mod xfs;

use std::sync::{Arc, atomic::AtomicBool};

pub use kind::Kind;
use serde::{Deserialize, Serialize};

use crate::{
    blocks::{Blocks, Cached, Cause, Guarded, ReadError, Window},
    lvm::{self, Logical, Map, Standing},
    partitions::{Partition, Scheme, Table, partitions, partitions_in},
};

/// The most that is read to survey one disk.
const SURVEY_BYTES_MAX: u64 = 64 << 20;
const CACHE_BYTES: usize = 4 << 20;

/// How a volume was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It says that it was closed in order, or it is never written.
    Clean,
    /// It is in use, was in use when its disk stopped, or says that it has errors.
    Dirty,
    /// It does not say, or it is not understood.
    Unknown,
}

/// What was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    kind: Kind,
    state: State,
    evidence: String,
}

impl Found {
    fn new(kind: Kind, state: State, evidence: impl Into<String>) -> Found {
        Found { kind, state, evidence: evidence.into() }
    }

    /// Dirty if there are reasons for it, which are the evidence then.
    fn unless(kind: Kind, reasons: &[String], otherwise: (State, &str)) -> Found {
        if reasons.is_empty() {
            Found::new(kind, otherwise.0, otherwise.1)
        } else {
            Found::new(kind, State::Dirty, reasons.join("; "))
        }
    }
}

/// A partition, a logical volume, or a whole disk without any partitions, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The number of the partition; `None` for the whole disk, and for a logical volume.
    pub partition: Option<u32>,
    /// The name of a logical volume of LVM, `GROUP/NAME`; `None` for what is not one.
    pub logical: Option<String>,
    /// Its first byte on the disk. A logical volume may go on elsewhere; of one that is not looked into, this is the
    /// first byte of its group.
    pub start: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// What it holds.
    pub kind: Kind,
    /// How it was left.
    pub state: State,
    /// Where this is known from, in words.
    pub evidence: String,
}

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// How it is divided.
    pub table: Table,
    /// The volumes, in the order of the partitions, and then the logical ones.
    pub volumes: Vec<Volume>,
}

impl Survey {
    /// Whether there may be something that was not seen: a damaged table, a volume that cannot be read.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.table.notes.iter().any(crate::Note::may_hide_partitions)
            || self.volumes.iter().any(|volume| volume.kind == Kind::Unreadable)
    }
}

/// Reads parts of a volume.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    pub(crate) volume: &'a dyn Blocks,
}

impl Probe<'_> {
    /// The bytes at a place, or nothing if the volume ends before.
    fn bytes(&self, at: u64, len: usize) -> Result<Option<Vec<u8>>, ReadError> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.volume.size_bytes()) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        self.volume.read_at(at, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn size(&self) -> u64 {
        self.volume.size_bytes()
    }
}

type Recogniser = fn(Probe<'_>) -> Result<Option<Found>, ReadError>;

/// Of these, a volume can be only one.
const EXCLUSIVE: [Recogniser; 7] =
    [opaque::headers, fat::exfat, ntfs::ntfs, fat::fat, xfs::xfs, btrfs::btrfs, ext::ext];
/// These are asked when it is nothing else: other formats leave room for them, or leave them behind.
const LAST: [Recogniser; 3] = [opaque::swap, opaque::leftovers, opaque::zfs];

/// What a volume holds and how it was left.
///
/// # Errors
/// [`ReadError`] if it cannot be read where it has to be.
fn recognised(probe: Probe<'_>) -> Result<Found, ReadError> {
    // What lies in the usual places then is from the time before.
    if let Some(found) = opaque::md(probe)? {
        return Ok(found);
    }
    let mut all = Vec::new();
    for ask in EXCLUSIVE {
        all.extend(ask(probe)?);
    }
    // Whichever of them counts: if one is in use, so may be the volume.
    let in_use = all.iter().find(|found| found.state == State::Dirty);
    let in_use = in_use.map(|found| format!("; {}: {}", found.kind.name(), found.evidence));
    let state = if in_use.is_some() { State::Dirty } else { State::Unknown };
    let in_use = in_use.unwrap_or_default();
    if let Some(found) = opaque::md_at_end(probe)? {
        return Ok(Found::new(found.kind, state, found.evidence + &in_use));
    }
    if all.len() > 1 {
        let names: Vec<_> = all.iter().map(|found| found.kind.name()).collect();
        let evidence = format!("has the superblocks of several file systems: {}{in_use}", names.join(", "));
        return Ok(Found::new(Kind::Ambiguous, state, evidence));
    }
    if let Some(found) = all.pop() {
        return Ok(found);
    }
    for ask in LAST {
        if let Some(found) = ask(probe)? {
            return Ok(found);
        }
    }
    let head = probe.bytes(0, (probe.size().min(4096)) as usize)?.unwrap_or_default();
    Ok(if head.iter().all(|byte| *byte == 0) {
        Found::new(Kind::Empty, State::Unknown, "begins with zeroes and has no superblock")
    } else {
        Found::new(Kind::Unknown, State::Unknown, "has no superblock that is known here")
    })
}

/// What a volume holds, how it was left, and where this is known from.
///
/// # Errors
/// [`ReadError`] if it cannot be read where it has to be.
pub fn recognise(volume: &dyn Blocks) -> Result<(Kind, State, String), ReadError> {
    let Found { kind, state, evidence } = recognised(Probe { volume })?;
    Ok((kind, state, evidence))
}

/// What a volume is found to be, if the caller did not end the reading.
fn found(volume: &dyn Blocks) -> Result<Found, ReadError> {
    match recognised(Probe { volume }) {
        Err(error) if matches!(error.cause, Cause::Cancelled) => Err(error),
        Err(error) => Ok(Found::new(Kind::Unreadable, State::Unknown, error.to_string())),
        Ok(found) => Ok(found),
    }
}

/// The volume of a partition, or of a whole disk.
fn volume(disk: &dyn Blocks, part: Option<&Partition>) -> Result<Volume, ReadError> {
    let (start, len_bytes) = part.map_or((0, disk.size_bytes()), |part| (part.start, part.len_bytes));
    let Found { kind, state, evidence } = found(&Window::new(disk, start, len_bytes))?;
    let partition = part.map(|part| part.number);
    Ok(Volume { partition, logical: None, start, len_bytes, kind, state, evidence })
}

fn volumes(disk: &dyn Blocks, table: &Table) -> Result<Vec<Volume>, ReadError> {
    table.partitions.iter().map(|part| volume(disk, Some(part))).collect()
}

/// Says of each physical volume of LVM how it stands, and returns the logical volumes with where they lie.
fn logical_volumes(
    disk: &dyn Blocks,
    volumes: &mut [Volume],
) -> Result<Vec<(Volume, Option<Map>)>, ReadError> {
    let physical: Vec<_> = volumes.iter_mut().filter(|volume| volume.kind == Kind::LvmPv).collect();
    let places: Vec<_> = physical.iter().map(|volume| (volume.start, volume.len_bytes)).collect();
    let groups = match lvm::groups(disk, &places) {
        Err(error) if matches!(error.cause, Cause::Cancelled) => return Err(error),
        Err(error) => {
            for volume in physical {
                (volume.kind, volume.evidence) = (Kind::Unreadable, error.to_string());
            }
            return Ok(Vec::new());
        }
        Ok(groups) => groups,
    };
    for (volume, standing) in physical.into_iter().zip(groups.standings) {
        (volume.kind, volume.state, volume.evidence) = match standing {
            Standing::Sound(why) => (Kind::LvmPv, State::Clean, why),
            Standing::Opaque(why) => (Kind::LvmPv, State::Unknown, why),
            Standing::Unreadable(why) => (Kind::Unreadable, State::Unknown, why),
        };
    }
    let mut all = Vec::new();
    for lvm::Volume { name, start, len_bytes, map } in groups.volumes {
        let (Found { kind, state, evidence }, map) = match map {
            Ok(map) => {
                let logical = Logical { disk, map };
                (found(&logical)?, Some(logical.map))
            }
            Err(why) => {
                (Found::new(Kind::LvmLv, State::Unknown, format!("{why}: it is not looked into")), None)
            }
        };
        let logical = Some(name);
        all.push((Volume { partition: None, logical, start, len_bytes, kind, state, evidence }, map));
    }
    Ok(all)
}

/// What is on a disk. A whole-disk file system is looked for where there are no partitions, or none that holds anything
/// known: a table may be left from the time before.
///
/// # Errors
/// [`ReadError`] if the beginning of the disk cannot be read, or if the caller itself ended the reading. Other places
/// that cannot be read make their volumes [`Kind::Unreadable`].
pub fn survey(disk: &dyn Blocks) -> Result<Survey, ReadError> {
    Ok(survey_with_maps(disk)?.0)
}

/// A volume with its bytes; a logical volume that is not looked into has none.
pub type VolumeBlocks<'a> = (Volume, Option<Box<dyn Blocks + 'a>>);

/// The volumes of a [`survey`], with their bytes.
///
/// # Errors
/// As [`survey`].
pub fn volumes_with_blocks(disk: &dyn Blocks) -> Result<Vec<VolumeBlocks<'_>>, ReadError> {
    let (survey, maps) = survey_with_maps(disk)?;
    let with_blocks = |(volume, map): (Volume, Option<Map>)| {
        let blocks: Option<Box<dyn Blocks>> = match map {
            Some(map) => Some(Box::new(Logical { disk, map })),
            None if volume.logical.is_some() => None,
            None => Some(Box::new(Window::new(disk, volume.start, volume.len_bytes))),
        };
        (volume, blocks)
    };
    Ok(survey.volumes.into_iter().zip(maps).map(with_blocks).collect())
}

/// A survey, with where each volume lies that is not one run of the disk.
fn survey_with_maps(disk: &dyn Blocks) -> Result<(Survey, Vec<Option<Map>>), ReadError> {
    let never = Arc::new(AtomicBool::new(false));
    let disk = Cached::new(Guarded::new(disk, never, SURVEY_BYTES_MAX), CACHE_BYTES);
    let mut survey = divided(&disk)?;
    let logical = logical_volumes(&disk, &mut survey.volumes)?;
    let mut maps = vec![None; survey.volumes.len()];
    for (volume, map) in logical {
        survey.volumes.push(volume);
        maps.push(map);
    }
    Ok((survey, maps))
}

/// The partitions of a disk and what they hold, or the whole disk.
fn divided(disk: &dyn Blocks) -> Result<Survey, ReadError> {
    let table = partitions(disk)?;
    let volumes = volumes(disk, &table)?;
    // Another reading of the disk must not hide that a partition could not be read.
    if volumes.iter().any(|volume| volume.kind.is_known() || volume.kind == Kind::Unreadable) {
        return Ok(Survey { table, volumes });
    }
    if table.scheme == Scheme::Mbr {
        // An MBR does not say how long its sectors are.
        let sector_bytes = if table.sector_bytes == 512 { 4096 } else { 512 };
        match partitions_in(disk, sector_bytes) {
            Ok(table) => {
                let volumes = self::volumes(disk, &table)?;
                if volumes.iter().any(|volume| volume.kind.is_known()) {
                    return Ok(Survey { table, volumes });
                }
            }
            Err(error) if matches!(error.cause, Cause::Cancelled) => return Err(error),
            Err(_) => {}
        }
    }
    let whole = volume(disk, None)?;
    if table.partitions.is_empty() || whole.kind.is_known() {
        return Ok(Survey { table, volumes: vec![whole] });
    }
    Ok(Survey { table, volumes })
}
