//! The catalog: disks, branches, volumes, the eras of the clock, tapped disks. It is small and held in memory. It is
//! the result of applying the log's catalog records in order; each checkpoint holds a copy.

mod doubt;
mod lost;

use std::collections::BTreeMap;

use bygone_model::{BranchId, Details, Lba, Micros, Place, Sectors, Seq, VolumeId};
use serde::{Deserialize, Serialize};

pub(crate) use self::doubt::ChangeRecord;
pub use self::{
    doubt::{Doubt, Seen},
    lost::{Lost, Reread},
};
use crate::error::{Error, Result};

/// The name of the first branch.
pub const MAIN: &str = "main";

/// Where a disk's present is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeping {
    /// The store is the disk.
    Store,
    /// The disk stays where it is; the store logs every write to it.
    Tap,
}

/// A disk of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Disk {
    /// Unique among the disks of the target, such as `vda`.
    pub name: String,
    pub sectors: Sectors,
    /// Its block size in bytes: 512 or 4096.
    pub block_bytes: u32,
    /// Where its present is stored.
    pub keeping: Keeping,
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// Its permanent number.
    pub id: BranchId,
    /// Unique among the branches that were not dropped.
    pub name: String,
    /// Where it starts: on which branch, and after which record. `None` for `main`.
    pub parent: Option<(BranchId, Seq)>,
    /// The record that made it.
    pub made: Seq,
    /// The time of that record.
    pub made_at: Micros,
    /// The record that dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Seq>,
}

/// One disk on one branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Volume {
    pub id: VolumeId,
    pub branch: BranchId,
    /// The disk, as an index into [`Catalog::disks`].
    pub disk: u32,
    /// What it shows where nothing was written to it: this volume after this record. `None`: zeroes.
    pub parent: Option<(VolumeId, Seq)>,
    /// The record that made it.
    pub made: Seq,
}

/// A stretch of the log in which the wall clock did not jump back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Era {
    /// Its first record.
    pub first: Seq,
    /// The time of that record.
    pub from: Micros,
}

/// A stretch of the log in which one branch was the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Lived {
    /// The record that made the branch the present.
    pub from: Seq,
    pub branch: BranchId,
}

/// A tap mark: how much of the log a tapped disk is known to hold durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapMark {
    /// The disk holds all writes up to this record, and possibly some later ones.
    pub applied: Seq,
    /// The manager closed the disk cleanly: it holds no later writes.
    pub clean: bool,
    /// The store has the whole content of the disk; otherwise the disk has to be read (again).
    pub complete: bool,
    /// What the device layer compares to find out whether somebody else changed the disk (file, change time, samples
    /// of its content).
    pub identity: Details,
}

/// What a tapped disk shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shows {
    /// This volume, as far as its [`TapMark`] says.
    Volume(VolumeId),
    /// A mixture, until the fill with this volume is complete.
    Filling(VolumeId),
}

/// A stretch of a volume's history that is inexact, because its disk had not been read completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Inexact {
    pub volume: VolumeId,
    /// The first moment of the stretch.
    pub from: Seq,
    /// The first exact moment after it; `None` if the stretch has not ended.
    pub to: Option<Seq>,
}

/// The kind of an [`Act`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActKind {
    /// A moment became the present.
    Restore,
    /// A branch became the present.
    Promote,
    /// A branch was dropped.
    Drop,
    /// The last act was undone.
    Undo,
}

/// A branch that an act makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct NewBranch {
    /// Its number: the next one that is free.
    pub id: BranchId,
    pub name: String,
    /// Where it starts: on which branch, and after which record.
    pub parent: (BranchId, Seq),
    /// The number of its first volume: the next one that is free. The branch gets one volume for each that the parent
    /// had at that record, in order.
    pub volumes_from: VolumeId,
}

/// A dropped branch that an act brings back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Revived {
    pub id: BranchId,
    /// Its name from now on, because another branch may have taken its old one.
    pub name: String,
}

/// A change of the branches on request. It is one record, so it is atomic, and it can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Act {
    pub kind: ActKind,
    /// A branch that is made first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub make: Option<NewBranch>,
    /// A branch that is brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revive: Option<Revived>,
    /// The branch that is the present afterwards.
    pub head: BranchId,
    /// A branch that is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<BranchId>,
}

/// An act that was done, with what is needed to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Done {
    pub seq: Seq,
    pub kind: ActKind,
    /// The present before the act.
    pub head_before: BranchId,
    /// The present after the act.
    pub head: BranchId,
    /// The branch that the act dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<BranchId>,
    /// The branch that the act brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revived: Option<BranchId>,
}

/// How many acts the catalog remembers. Only the last one can be undone.
const ACTS_MAX: usize = 64;

/// One change of the catalog: the payload of a catalog record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum Change {
    /// A disk was added to the target, with a volume on the present branch.
    Disk {
        disk: Disk,
        /// The number of the volume: the next one that is free.
        volume: VolumeId,
        /// The disk is being filled from elsewhere (an import); its history is inexact until [`Change::Filled`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        filling: bool,
    },
    /// A disk that was filled from elsewhere is complete.
    Filled {
        /// The disk's volume.
        volume: VolumeId,
    },
    /// A branch was made. The fields are those of [`NewBranch`].
    Branch { id: BranchId, name: String, parent: (BranchId, Seq), volumes_from: VolumeId },
    /// A branch was dropped.
    Drop { id: BranchId },
    /// A branch became the present of the target.
    Promote { id: BranchId },
    /// The clock jumped back: a new era begins with this record.
    Era,
    /// A tapped disk was brought up to date.
    Tap {
        /// The volume that the disk shows.
        volume: VolumeId,
        mark: TapMark,
    },
    /// A tapped disk is about to be filled with this volume.
    Fill { volume: VolumeId },
    /// The branches were changed on request.
    Act {
        #[serde(flatten)]
        act: Act,
    },
    /// A volume was compared with the disk that shows it, after records up to `upto` were lost.
    Reread {
        /// The volume.
        volume: VolumeId,
        /// The last lost record.
        upto: Seq,
    },
    /// A person chose the present after records were lost that may have changed it.
    Chosen {
        /// The branch that is the present from here on.
        head: BranchId,
        /// The last record that may have been lost.
        upto: Seq,
        /// How many numbers of branches were given out at least.
        branches: u32,
        /// How many numbers of volumes were given out at least.
        volumes: u32,
    },
    /// The log was opened for writing.
    Opened {
        /// The incarnation that began.
        incarnation: u32,
    },
}

/// See the module's comment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Catalog {
    /// The disks of the target, in the order in which they were added.
    pub disks: Vec<Disk>,
    /// All branches, also dropped ones, by number.
    pub branches: Vec<Branch>,
    /// All volumes, also those of dropped branches, by number.
    pub volumes: Vec<Volume>,
    /// The branch that is the present.
    pub head: BranchId,
    /// The lived line, oldest first.
    pub lived: Vec<Lived>,
    /// The eras of the clock, oldest first.
    pub eras: Vec<Era>,
    /// The newest tap marks, by volume.
    #[serde(default)]
    pub taps: BTreeMap<u32, TapMark>,
    /// What tapped disks show, by disk.
    #[serde(default)]
    pub shows: BTreeMap<u32, Shows>,
    /// The stretches of history that are inexact, in the order in which they began.
    #[serde(default)]
    pub inexact: Vec<Inexact>,
    /// The last acts, oldest first.
    #[serde(default)]
    pub acts: Vec<Done>,
    /// What was lost for good, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// The volumes that are right again although records were lost, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rereads: Vec<Reread>,
    /// The stretches in which records may be lost that changed disks, branches or the present, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
    /// What records behind a doubt tell of numbers that were given out.
    #[serde(default)]
    pub seen: Seen,
    /// The last record that changed disks, branches or the present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Seq>,
    pub incarnation: u32,
}

impl Catalog {
    /// The catalog of a log without records.
    #[must_use]
    pub fn new(now: Micros) -> Catalog {
        let main = Branch {
            id: BranchId(0),
            name: MAIN.to_owned(),
            parent: None,
            made: Seq::ZERO,
            made_at: now,
            dropped: None,
        };
        Catalog {
            branches: vec![main],
            lived: vec![Lived { from: Seq::ZERO, branch: BranchId(0) }],
            eras: vec![Era { first: Seq::ZERO, from: now }],
            ..Catalog::default()
        }
    }

    /// Applies the change in record `seq`. A change that does not fit (in a damaged log) does nothing.
    pub fn apply(&mut self, seq: Seq, time: Micros, change: &Change) {
        match change {
            Change::Disk { disk, volume, filling } => {
                if volume.0 as usize == self.volumes.len() {
                    let index = self.disks.len() as u32;
                    self.disks.push(disk.clone());
                    let branch = self.head;
                    if disk.keeping == Keeping::Tap || *filling {
                        // Until the store has its whole content.
                        self.inexact.push(Inexact { volume: *volume, from: seq, to: None });
                    }
                    self.volumes.push(Volume { id: *volume, branch, disk: index, parent: None, made: seq });
                }
            }
            Change::Branch { id, name, parent, volumes_from } => {
                let (id, name, parent, volumes_from) = (*id, name.clone(), *parent, *volumes_from);
                self.make_branch(seq, time, &NewBranch { id, name, parent, volumes_from });
            }
            Change::Act { act } => self.apply_act(seq, time, act),
            Change::Drop { id } => {
                if let Some(branch) = self.branches.get_mut(id.0 as usize) {
                    branch.dropped = Some(seq);
                }
            }
            Change::Promote { id } => self.set_head(seq, *id),
            Change::Filled { volume } => self.end_inexact(seq, *volume),
            Change::Era => self.eras.push(Era { first: seq, from: time }),
            Change::Tap { volume, mark } => self.apply_mark(seq, *volume, mark),
            Change::Fill { volume } => {
                if let Ok(disk) = self.volume(*volume).map(|v| v.disk) {
                    let volumes = self.volumes.iter().filter(|v| v.disk == disk);
                    for other in volumes.map(|v| v.id.0).collect::<Vec<_>>() {
                        self.taps.remove(&other);
                    }
                    self.shows.insert(disk, Shows::Filling(*volume));
                }
            }
            Change::Chosen { head, upto, branches, volumes } => {
                let seen = Seen { branches: *branches, volumes: *volumes };
                self.apply_choice((seq, time), *head, *upto, seen);
            }
            Change::Reread { volume, upto } => self.note_reread(seq, *volume, *upto),
            Change::Opened { incarnation } => self.incarnation = *incarnation,
        }
        if change.moves() {
            self.moved = Some(seq);
        }
    }

    fn set_head(&mut self, seq: Seq, id: BranchId) {
        if self.branch(id).is_some_and(|branch| branch.dropped.is_none()) && id != self.head {
            self.head = id;
            self.lived.push(Lived { from: seq, branch: id });
        }
    }

    fn make_branch(&mut self, seq: Seq, time: Micros, new: &NewBranch) {
        let NewBranch { id, name, parent, volumes_from } = new;
        if id.0 as usize != self.branches.len() || volumes_from.0 as usize != self.volumes.len() {
            return;
        }
        let parents: Vec<Volume> = self.volumes_of(parent.0, parent.1).cloned().collect();
        for (i, from) in parents.iter().enumerate() {
            self.volumes.push(Volume {
                id: VolumeId(volumes_from.0 + i as u32),
                branch: *id,
                disk: from.disk,
                parent: Some((from.id, parent.1)),
                made: seq,
            });
        }
        let (name, parent) = (name.clone(), Some(*parent));
        self.branches.push(Branch { id: *id, name, parent, made: seq, made_at: time, dropped: None });
    }

    /// Checks that an act fits the catalog; an act that does not fit changes nothing.
    ///
    /// # Errors
    /// The first thing that does not fit: a number, a branch that does not exist or is in the wrong state, or a name
    /// that is taken.
    pub fn check_act(&self, act: &Act) -> Result<()> {
        let no_branch = |id: BranchId| Error::NoBranch(id.to_string());
        if let Some(new) = &act.make {
            let fits =
                new.id.0 as usize == self.branches.len() && new.volumes_from.0 as usize == self.volumes.len();
            if !fits || self.branch(new.parent.0).is_none() {
                return Err(no_branch(new.id));
            }
            if self.branch_named(&new.name).is_ok() {
                return Err(Error::BranchExists(new.name.clone()));
            }
        }
        if let Some(revived) = &act.revive {
            self.branch(revived.id).filter(|b| b.dropped.is_some()).ok_or_else(|| no_branch(revived.id))?;
            if self.branch_named(&revived.name).is_ok() {
                return Err(Error::BranchExists(revived.name.clone()));
            }
        }
        let is_live = |id: BranchId| {
            act.make.as_ref().is_some_and(|new| new.id == id)
                || act.revive.as_ref().is_some_and(|revived| revived.id == id)
                || self.branch(id).is_some_and(|b| b.dropped.is_none())
        };
        match act.drop {
            _ if !is_live(act.head) => Err(no_branch(act.head)),
            Some(id) if !is_live(id) => Err(no_branch(id)),
            Some(id) if id == act.head => {
                Err(Error::BranchInUse(self.branch(id).map_or_else(|| id.to_string(), |b| b.name.clone())))
            }
            _ => Ok(()),
        }
    }

    fn apply_act(&mut self, seq: Seq, time: Micros, act: &Act) {
        if self.check_act(act).is_err() {
            return;
        }
        if let Some(new) = &act.make {
            self.make_branch(seq, time, new);
        }
        if let Some(Revived { id, name }) = &act.revive
            && let Some(branch) = self.branches.get_mut(id.0 as usize)
        {
            branch.dropped = None;
            branch.name.clone_from(name);
        }
        let head_before = self.head;
        self.set_head(seq, act.head);
        if let Some(branch) = act.drop.and_then(|id| self.branches.get_mut(id.0 as usize)) {
            branch.dropped = Some(seq);
        }
        if self.acts.len() == ACTS_MAX {
            self.acts.remove(0);
        }
        self.acts.push(Done {
            seq,
            kind: act.kind,
            head_before,
            head: act.head,
            dropped: act.drop,
            revived: act.revive.as_ref().map(|revived| revived.id),
        });
    }

    /// The act that would undo the last one, and the last one; `None` if there was none. Undoing is an act itself, so
    /// undoing twice is redoing.
    #[must_use]
    pub fn undo(&self) -> Option<(Act, Done)> {
        let last = self.acts.last()?.clone();
        let free = |id: BranchId| {
            let name = self.branch(id).map_or("branch", |b| &b.name);
            let names = std::iter::once(name.to_owned()).chain((2..).map(|n: u32| format!("{name}-{n}")));
            names.into_iter().find(|name| self.branch_named(name).is_err()).unwrap_or_default()
        };
        let revive = last.dropped.map(|id| Revived { id, name: free(id) });
        let head = last.head_before;
        Some((Act { kind: ActKind::Undo, make: None, revive, head, drop: last.revived }, last))
    }

    fn apply_mark(&mut self, seq: Seq, volume: VolumeId, mark: &TapMark) {
        let Ok(disk) = self.volume(volume).map(|v| v.disk) else { return };
        self.shows.insert(disk, Shows::Volume(volume));
        self.taps.insert(volume.0, mark.clone());
        if mark.complete {
            self.end_inexact(seq, volume);
        } else if !self.inexact.iter().any(|part| part.volume == volume && part.to.is_none()) {
            self.inexact.push(Inexact { volume, from: seq, to: None });
        }
    }

    fn end_inexact(&mut self, seq: Seq, volume: VolumeId) {
        let open = self.inexact.iter_mut().find(|part| part.volume == volume && part.to.is_none());
        if let Some(part) = open {
            part.to = Some(seq);
        }
    }

    /// The branch that was the present after record `seq`.
    #[must_use]
    pub fn present_at(&self, seq: Seq) -> BranchId {
        let at = self.lived.partition_point(|lived| lived.from <= seq);
        at.checked_sub(1).and_then(|at| self.lived.get(at)).map_or(BranchId(0), |lived| lived.branch)
    }

    /// The place on the lived line after record `seq`.
    #[must_use]
    pub fn lived_at(&self, seq: Seq) -> Place {
        Place::new(self.present_at(seq), seq)
    }

    /// Whether a volume's whole content is known after record `seq`, including what it inherits from its ancestors.
    #[must_use]
    pub fn is_exact(&self, volume: VolumeId, seq: Seq) -> bool {
        let covers = |part: &&Inexact| part.from <= seq && part.to.is_none_or(|to| seq < to);
        let own = !self.inexact.iter().filter(|part| part.volume == volume).any(|part| covers(&part));
        let parent = self.volume(volume).ok().and_then(|v| v.parent).filter(|(parent, _)| *parent < volume);
        own && parent.is_none_or(|(parent, from)| self.is_exact(parent, seq.min(from)))
    }

    /// The volumes of a branch that exist after record `seq`, in the order of their disks.
    pub fn volumes_of(&self, branch: BranchId, seq: Seq) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().filter(move |v| v.branch == branch && v.made <= seq)
    }

    /// The volume `id`.
    ///
    /// # Errors
    /// If there is none.
    pub fn volume(&self, id: VolumeId) -> Result<&Volume> {
        self.volumes.get(id.0 as usize).ok_or(Error::NoVolume(id))
    }

    /// Whether the branch of this volume was dropped.
    #[must_use]
    pub fn is_given_up(&self, volume: VolumeId) -> bool {
        let branch = self.volume(volume).ok().and_then(|volume| self.branch(volume.branch));
        branch.is_some_and(|branch| branch.dropped.is_some())
    }

    /// The disk of a volume.
    ///
    /// # Errors
    /// If there is none.
    pub fn disk_of(&self, id: VolumeId) -> Result<&Disk> {
        self.disks.get(self.volume(id)?.disk as usize).ok_or(Error::NoVolume(id))
    }

    /// The volume of the disk `name` on a branch.
    ///
    /// # Errors
    /// If there is none.
    pub fn volume_of(&self, branch: BranchId, name: &str) -> Result<&Volume> {
        let disk = self.disks.iter().position(|d| d.name == name);
        let is_it = |v: &&Volume| v.branch == branch && Some(v.disk as usize) == disk;
        self.volumes.iter().find(is_it).ok_or_else(|| Error::NoDisk(name.to_owned()))
    }

    /// The branch with this name, unless it was dropped.
    ///
    /// # Errors
    /// If there is none.
    pub fn branch_named(&self, name: &str) -> Result<&Branch> {
        let live = self.branches.iter().rev().find(|b| b.name == name && b.dropped.is_none());
        live.ok_or_else(|| Error::NoBranch(name.to_owned()))
    }

    /// The branch `id`, unless it was dropped.
    ///
    /// # Errors
    /// If there is none, or it was dropped.
    pub fn live_branch(&self, id: BranchId) -> Result<&Branch> {
        let live = self.branch(id).filter(|branch| branch.dropped.is_none());
        live.ok_or_else(|| {
            Error::NoBranch(self.branch(id).map_or_else(|| id.to_string(), |b| b.name.clone()))
        })
    }

    /// The branch `id`, also if it was dropped.
    #[must_use]
    pub fn branch(&self, id: BranchId) -> Option<&Branch> {
        self.branches.get(id.0 as usize)
    }

    /// Checks that a range lies within a volume.
    ///
    /// # Errors
    /// If it does not, or there is no such volume.
    pub fn check_range(&self, volume: VolumeId, lba: Lba, sectors: Sectors) -> Result<()> {
        let end = lba.0.checked_add(sectors.0);
        if end.is_some_and(|end| self.disk_of(volume).is_ok_and(|disk| end <= disk.sectors.0)) {
            return Ok(());
        }
        self.disk_of(volume)?;
        Err(Error::OutOfRange { volume, lba, sectors })
    }

    /// The era in which record `seq` was written, as an index into [`Catalog::eras`].
    #[must_use]
    pub fn era_of(&self, seq: Seq) -> usize {
        self.eras.partition_point(|era| era.first <= seq).saturating_sub(1)
    }
}
