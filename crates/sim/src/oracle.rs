//! The reference model of the store: a plain list of all records.

use std::collections::BTreeMap;

use bygone_model::{BranchId, Lba, Micros, SECTOR_BYTES, Seq, VolumeId};
use bygone_store::{TimeHit, catalog::Change};

use crate::rng::mix;

/// The wall clock may step back by this much within an era.
const STEP_BACK_MICROS_MAX: i64 = 2_000_000;

/// A change of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The volume.
    pub volume: VolumeId,
    /// The first sector.
    pub lba: u64,
    /// The number of sectors.
    pub sectors: u64,
    /// The id of the content; `None`: zeroes.
    pub content: Option<u64>,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Rec {
    /// A change of blocks.
    Block(Block),
    /// An event on a branch.
    Event(u32, bygone_model::Event),
    /// A change of the catalog; also the log's own (`Era`, `Opened`).
    Change(Change),
    /// A flush mark.
    Mark,
}

/// A disk on a branch, and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The branch.
    pub branch: u32,
    /// The size.
    pub sectors: u64,
    /// The parent volume, and its moment at which this one starts.
    pub parent: Option<(u32, Seq)>,
    /// The record that created it.
    pub made: Seq,
    disk: u32,
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Where it starts.
    pub parent: Option<(u32, Seq)>,
    /// The record that created it.
    pub made: Seq,
    /// It was dropped.
    pub dropped: bool,
}

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    records: Vec<(Micros, Rec)>,
    created: Micros,
    writes: BTreeMap<u32, Vec<(u64, Block)>>,
    /// All volumes that ever existed.
    pub volumes: Vec<Volume>,
    /// All branches that ever existed.
    pub branches: Vec<Branch>,
    /// The branch that is the present.
    pub present: u32,
    disks: Vec<(String, u64)>,
    eras: Vec<(Seq, Micros)>,
    incarnation: u32,
    /// Everything up to here must survive a power cut.
    pub durable: Seq,
    forged: BTreeMap<u64, Vec<u8>>,
}

impl Oracle {
    /// An empty log.
    #[must_use]
    pub fn new(created: Micros) -> Oracle {
        let main = Branch { name: "main".to_owned(), parent: None, made: Seq(0), dropped: false };
        Oracle { created, branches: vec![main], eras: vec![(Seq(0), created)], ..Oracle::default() }
    }

    /// The last record's seq.
    #[must_use]
    pub fn head(&self) -> Seq {
        Seq(self.records.len() as u64)
    }

    /// The last record's time.
    #[must_use]
    pub fn last_time(&self) -> Micros {
        self.records.last().map_or(self.created, |record| record.0)
    }

    /// The record `seq`.
    #[must_use]
    pub fn record(&self, seq: u64) -> Option<&(Micros, Rec)> {
        self.records.get(seq.checked_sub(1)? as usize)
    }

    /// The time that the next record gets, and whether an era begins with it.
    #[must_use]
    pub fn next_time(&self, wall: Micros) -> (Micros, bool) {
        let last = self.last_time();
        if wall < last && last.0 - wall.0 <= STEP_BACK_MICROS_MAX {
            (last, false)
        } else {
            (wall, wall < last)
        }
    }

    /// Appends a record.
    pub fn push(&mut self, time: Micros, rec: Rec) {
        self.records.push((time, rec));
        self.learn(self.records.len() - 1);
    }

    fn learn(&mut self, index: usize) {
        let seq = index as u64 + 1;
        let (time, rec) = self.records[index].clone();
        match rec {
            Rec::Block(block) => self.writes.entry(block.volume.0).or_default().push((seq, block)),
            Rec::Change(change) => self.change(Seq(seq), time, &change),
            Rec::Event(..) | Rec::Mark => {}
        }
    }

    fn change(&mut self, seq: Seq, time: Micros, change: &Change) {
        match change {
            Change::Disk { disk, .. } => {
                self.disks.push((disk.name.clone(), disk.sectors.0));
                self.volumes.push(Volume {
                    branch: self.present,
                    sectors: disk.sectors.0,
                    parent: None,
                    made: seq,
                    disk: self.disks.len() as u32 - 1,
                });
            }
            Change::Act { act } => {
                if let Some(new) = &act.make {
                    let bygone_store::catalog::NewBranch { id, name, parent, volumes_from } = new.clone();
                    self.change(seq, time, &Change::Branch { id, name, parent, volumes_from });
                }
                if let Some(revived) = &act.revive {
                    let branch = &mut self.branches[revived.id.0 as usize];
                    branch.dropped = false;
                    branch.name.clone_from(&revived.name);
                }
                self.present = act.head.0;
                if let Some(id) = act.drop {
                    self.branches[id.0 as usize].dropped = true;
                }
            }
            Change::Branch { name, parent, .. } => {
                let id = self.branches.len() as u32;
                self.branches.push(Branch {
                    name: name.clone(),
                    parent: Some((parent.0.0, parent.1)),
                    made: seq,
                    dropped: false,
                });
                for i in 0..self.volumes.len() {
                    let from = self.volumes[i].clone();
                    if from.branch == parent.0.0 && from.made <= parent.1 {
                        let parent = Some((i as u32, parent.1));
                        self.volumes.push(Volume { branch: id, parent, made: seq, ..from });
                    }
                }
            }
            Change::Drop { id } => self.branches[id.0 as usize].dropped = true,
            Change::Promote { id } => self.present = id.0,
            Change::Era => self.eras.push((seq, time)),
            Change::Opened { incarnation } => self.incarnation = *incarnation,
            Change::Tap { .. }
            | Change::Fill { .. }
            | Change::Filled { .. }
            | Change::Chosen { .. }
            | Change::Reread { .. } => {}
        }
    }

    /// Forgets everything after `seq`.
    pub fn truncate(&mut self, seq: Seq) {
        if seq >= self.head() {
            return;
        }
        self.records.truncate(seq.0 as usize);
        self.durable = self.durable.min(seq);
        let durable = self.durable;
        let forged = std::mem::take(&mut self.forged);
        let records = std::mem::take(&mut self.records);
        *self = Oracle { records, durable, forged, ..Oracle::new(self.created) };
        for index in 0..self.records.len() {
            self.learn(index);
        }
    }

    /// The volumes of a branch, by number.
    pub fn volumes_of(&self, branch: u32) -> impl Iterator<Item = u32> + '_ {
        (0..self.volumes.len() as u32).filter(move |&v| self.volumes[v as usize].branch == branch)
    }

    /// The changes to a volume itself, without those of its parents.
    #[must_use]
    pub fn writes_of(&self, volume: u32) -> &[(u64, Block)] {
        self.writes.get(&volume).map_or(&[], Vec::as_slice)
    }

    /// Sets the bytes of a content instead of the generated ones.
    pub fn forge(&mut self, content: u64, bytes: Vec<u8>) {
        self.forged.insert(content, bytes);
    }

    /// Sectors of a content, from sector `skip` on.
    pub fn fill(&self, content: u64, skip: u64, out: &mut [u8]) {
        if let Some(bytes) = self.forged.get(&content) {
            let from = (skip * SECTOR_BYTES) as usize;
            out.copy_from_slice(&bytes[from..from + out.len()]);
            return;
        }
        for (i, sector) in out.chunks_mut(SECTOR_BYTES as usize).enumerate() {
            let index = skip + i as u64;
            let mut word = mix(content ^ index.rotate_left(40));
            for (n, eight) in sector.chunks_exact_mut(8).enumerate() {
                word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(index | 1);
                let value = match n {
                    0 => content,
                    1 => index,
                    _ => word,
                };
                eight.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// The content of sectors of a volume as of `seq`.
    #[must_use]
    pub fn content(&self, volume: u32, lba: u64, sectors: u64, seq: Seq) -> Vec<u8> {
        self.content_since(volume, lba, sectors, (Seq(0), seq)).0
    }

    /// The content of sectors that results from versions after `span.0` and up to `span.1`, and which sectors have any.
    /// The volumes below count only for `Seq(0)`.
    #[must_use]
    pub fn content_since(
        &self,
        volume: u32,
        lba: u64,
        sectors: u64,
        (since, seq): (Seq, Seq),
    ) -> (Vec<u8>, Vec<bool>) {
        let mut out = vec![0; (sectors * SECTOR_BYTES) as usize];
        let mut known = vec![false; sectors as usize];
        let mut missing = known.len();
        let (mut at, mut until) = (volume, seq.0);
        loop {
            let writes = self.writes_of(at);
            for (from, block) in writes[..writes.partition_point(|w| w.0 <= until)].iter().rev() {
                if missing == 0 || *from <= since.0 {
                    break;
                }
                let (a, b) = (block.lba.max(lba), (block.lba + block.sectors).min(lba + sectors));
                for sector in a..b {
                    let i = (sector - lba) as usize;
                    if !known[i] {
                        known[i] = true;
                        missing -= 1;
                        if let Some(content) = block.content {
                            let range = i * SECTOR_BYTES as usize..(i + 1) * SECTOR_BYTES as usize;
                            self.fill(content, sector - block.lba, &mut out[range]);
                        }
                    }
                }
            }
            match self.volumes[at as usize].parent {
                Some((parent, fork)) if missing > 0 && since == Seq(0) => {
                    (at, until) = (parent, until.min(fork.0));
                }
                _ => return (out, known),
            }
        }
    }

    /// The record whose data a sector of a volume shows as of `seq`, and the index of that sector in the record;
    /// `None`: zeroes that were never written.
    #[must_use]
    pub fn version(&self, volume: u32, sector: u64, seq: Seq) -> Option<(Seq, u64)> {
        let (mut at, mut until) = (volume, seq.0);
        loop {
            let covers = |(from, block): &&(u64, Block)| {
                *from <= until && (block.lba..block.lba + block.sectors).contains(&sector)
            };
            if let Some((from, block)) = self.writes_of(at).iter().rev().find(covers) {
                return Some((Seq(*from), sector - block.lba));
            }
            let (parent, fork) = self.volumes[at as usize].parent?;
            (at, until) = (parent, until.min(fork.0));
        }
    }

    /// The events after `from`, up to and with `to`.
    pub fn events(
        &self,
        from: Seq,
        to: Seq,
    ) -> impl Iterator<Item = (Seq, Micros, BranchId, &bygone_model::Event)> {
        let range = (from.0 as usize).min(self.records.len())..(to.0 as usize).min(self.records.len());
        let first = range.start as u64 + 1;
        let inside = if range.start < range.end { &self.records[range] } else { &[] };
        inside.iter().enumerate().filter_map(move |(i, (time, rec))| match rec {
            Rec::Event(branch, event) => Some((Seq(first + i as u64), *time, BranchId(*branch), event)),
            _ => None,
        })
    }

    /// For each era that had begun by `time`, the last moment up to then.
    #[must_use]
    pub fn at_time(&self, time: Micros) -> Vec<TimeHit> {
        let mut hits = Vec::new();
        for (era, &(first, from)) in self.eras.iter().enumerate() {
            let first = first.0.max(1);
            let next = self.eras.get(era + 1);
            let last = next.map_or(self.head().0, |next| next.0.0.saturating_sub(1));
            let found = (first..=last).rev().find(|&seq| self.record(seq).is_some_and(|r| r.0 <= time));
            if let Some(seq) = found
                && from <= time
            {
                let at = self.record(seq).map_or(Micros(0), |r| r.0);
                let within = !(seq == last && next.is_some() && at < time);
                hits.push(TimeHit { seq: Seq(seq), time: at, era, within });
            }
        }
        hits
    }

    /// The differences to the store's catalog. A life without records (`fresh`) is in the store's catalog, but not
    /// here.
    #[must_use]
    pub fn catalog_differs(
        &self,
        other: &bygone_store::catalog::Catalog,
        fresh: Option<u32>,
    ) -> Option<&'static str> {
        let disks = other.disks.iter().map(|d| (d.name.clone(), d.sectors.0));
        let branches = other.branches.iter().map(|b| Branch {
            name: b.name.clone(),
            parent: b.parent.map(|(id, seq)| (id.0, seq)),
            made: b.made,
            dropped: b.dropped.is_some(),
        });
        let volumes = other.volumes.iter().map(|v| Volume {
            branch: v.branch.0,
            sectors: other.disks.get(v.disk as usize).map_or(0, |d| d.sectors.0),
            parent: v.parent.map(|(id, seq)| (id.0, seq)),
            made: v.made,
            disk: v.disk,
        });
        if !disks.eq(self.disks.iter().cloned()) {
            return Some("disks");
        }
        if !branches.eq(self.branches.iter().cloned()) {
            return Some("branches");
        }
        if !volumes.eq(self.volumes.iter().cloned()) {
            return Some("volumes");
        }
        if !other.eras.iter().map(|e| (e.first, e.from)).eq(self.eras.iter().copied()) {
            return Some("eras");
        }
        if other.head.0 != self.present || other.incarnation != fresh.unwrap_or(self.incarnation) {
            return Some("present or incarnation");
        }
        None
    }

    /// The last incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The size of a volume, as a bound for addresses.
    #[must_use]
    pub fn end_of(&self, volume: u32) -> Lba {
        Lba(self.volumes[volume as usize].sectors)
    }
}
