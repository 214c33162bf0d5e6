//! Disks and branches. Each is created by one small record.

use bygone_model::{BranchId, Seq, VolumeId};

use super::{Appended, Log};
use crate::{
    catalog::{Act, Catalog, Change, Disk, NewBranch, TapMark},
    error::{Error, Result},
    format::record::Subject,
};

/// The largest disk that the index accepts: it counts a disk's stripes in 32 bits, with room to spare.
const DISK_SECTORS_MAX: u64 = 1 << 50;

/// The number of the next item after `count` others.
fn number_for(count: usize, what: &'static str) -> Result<u32> {
    u32::try_from(count).ok().filter(|n| *n < Subject::NUMBERS_END).ok_or(Error::NoNumberLeft(what))
}

/// Checks that a branch can start after record `at` of branch `parent`.
fn check_start(catalog: &Catalog, head: Seq, parent: BranchId, at: Seq) -> Result<()> {
    if at > head {
        return Err(Error::InTheFuture { asked: at, head });
    }
    let from = catalog.branch(parent).ok_or_else(|| Error::NoBranch(parent.to_string()))?;
    if at < from.made {
        return Err(Error::BeforeHistory { asked: at, first: from.made });
    }
    Ok(())
}

impl Log {
    /// Adds a disk to the present branch; returns its volume.
    ///
    /// # Errors
    /// When the name is taken, the disk is too large, or the log cannot be written.
    pub fn add_disk(&self, disk: &Disk) -> Result<VolumeId> {
        self.append_disk(disk, false)
    }

    /// Adds a disk whose content will be copied from elsewhere. Its history is inexact until [`Log::disk_is_filled`].
    ///
    /// # Errors
    /// As [`Log::add_disk`].
    pub fn add_disk_to_fill(&self, disk: &Disk) -> Result<VolumeId> {
        self.append_disk(disk, true)
    }

    /// Records that a disk added with [`Log::add_disk_to_fill`] has its whole content.
    ///
    /// # Errors
    /// When there is no such volume, or the log cannot be written.
    pub fn disk_is_filled(&self, volume: VolumeId) -> Result<Appended> {
        self.change(|catalog, _| {
            catalog.volume(volume)?;
            Ok(Change::Filled { volume })
        })
    }

    fn append_disk(&self, disk: &Disk, filling: bool) -> Result<VolumeId> {
        let mut made = VolumeId(0);
        self.change(|catalog, _| {
            made = VolumeId(number_for(catalog.volumes.len(), "volumes")?);
            if catalog.disks.iter().any(|d| d.name == disk.name) {
                return Err(Error::DiskExists(disk.name.clone()));
            }
            if disk.sectors.0 > DISK_SECTORS_MAX {
                return Err(Error::OutOfRange {
                    volume: made,
                    lba: bygone_model::Lba(0),
                    sectors: disk.sectors,
                });
            }
            Ok(Change::Disk { disk: disk.clone(), volume: made, filling })
        })?;
        Ok(made)
    }

    /// Creates a branch that starts after record `at` of branch `parent`.
    ///
    /// # Errors
    /// When the name is taken, the moment does not exist, or the log cannot be written.
    pub fn add_branch(&self, name: &str, parent: BranchId, at: Seq) -> Result<BranchId> {
        let mut made = BranchId(0);
        self.change(|catalog, head| {
            check_start(catalog, head, parent, at)?;
            if catalog.branch_named(name).is_ok() {
                return Err(Error::BranchExists(name.to_owned()));
            }
            made = BranchId(number_for(catalog.branches.len(), "branches")?);
            // So walking from a branch to its ancestors ends.
            assert!(parent < made && at <= head, "branch {made} from {parent} at {at} of {head}");
            let volumes_from = VolumeId(catalog.volumes.len() as u32);
            number_for(catalog.volumes.len() + catalog.disks.len(), "volumes")?;
            Ok(Change::Branch { id: made, name: name.to_owned(), parent: (parent, at), volumes_from })
        })?;
        Ok(made)
    }

    /// Drops a branch. Its records stay until retention removes them.
    ///
    /// # Errors
    /// When it is the present, there is no such branch, or the log cannot be written.
    pub fn drop_branch(&self, id: BranchId) -> Result<Appended> {
        self.change(|catalog, _| {
            let branch = catalog.live_branch(id)?;
            if id == catalog.head {
                return Err(Error::BranchInUse(branch.name.clone()));
            }
            Ok(Change::Drop { id })
        })
    }

    /// Changes the branches as a person asked, atomically. With `make` (a name, a parent and the record after which
    /// to start) it creates a branch first and makes it the present. Returns the branch that is the present
    /// afterwards.
    ///
    /// # Errors
    /// When it does not fit the catalog: then nothing has changed. When the log cannot be written.
    pub fn act(&self, act: Act, make: Option<(&str, BranchId, Seq)>) -> Result<(Appended, BranchId)> {
        let mut head = act.head;
        let done = self.change(|catalog, log_head| {
            let mut act = act;
            if let Some((name, parent, at)) = make {
                check_start(catalog, log_head, parent, at)?;
                let id = BranchId(number_for(catalog.branches.len(), "branches")?);
                let volumes_from = VolumeId(catalog.volumes.len() as u32);
                number_for(catalog.volumes.len() + catalog.disks.len(), "volumes")?;
                act.make = Some(NewBranch { id, name: name.to_owned(), parent: (parent, at), volumes_from });
                act.head = id;
            }
            head = act.head;
            catalog.check_act(&act)?;
            Ok(Change::Act { act })
        })?;
        Ok((done, head))
    }

    /// Makes a branch the present of the target.
    ///
    /// # Errors
    /// When there is no such branch, or the log cannot be written.
    pub fn promote_branch(&self, id: BranchId) -> Result<Appended> {
        self.change(|catalog, _| catalog.live_branch(id).map(|_| Change::Promote { id }))
    }

    /// Makes a branch the present as a person chose it, after records were lost that may have changed branches
    /// ([`Catalog::is_in_doubt`]). From here on there is no doubt about it.
    ///
    /// # Errors
    /// When there is no such branch, or the log cannot be written.
    pub fn choose_branch(&self, id: BranchId) -> Result<Appended> {
        self.change(|catalog, _| catalog.choice(id))
    }

    /// Records up to where a tapped disk is durable.
    ///
    /// # Errors
    /// When there is no such volume, or the log cannot be written.
    pub fn mark_tap(&self, volume: VolumeId, mark: &TapMark) -> Result<Appended> {
        self.change(|catalog, _| {
            catalog.volume(volume)?;
            Ok(Change::Tap { volume, mark: mark.clone() })
        })
    }

    /// Records that a volume was compared with the disk outside the store that shows it, after records up to `upto` were
    /// lost ([`Catalog::lost_before`]): from here on it is right again.
    ///
    /// # Errors
    /// When there is no such volume, or the log cannot be written.
    pub fn note_reread(&self, volume: VolumeId, upto: Seq) -> Result<Appended> {
        self.change(|catalog, _| {
            catalog.volume(volume)?;
            Ok(Change::Reread { volume, upto })
        })
    }

    /// Records that a disk outside the store will be filled with `volume`, and does not show its previous content any
    /// more.
    ///
    /// # Errors
    /// When there is no such volume, or the log cannot be written.
    pub fn begin_fill(&self, volume: VolumeId) -> Result<Appended> {
        self.change(|catalog, _| {
            catalog.volume(volume)?;
            Ok(Change::Fill { volume })
        })
    }
}
