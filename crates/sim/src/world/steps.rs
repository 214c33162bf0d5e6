//! Steps that change something.

use bygone_model::{BranchId, Event, Kind, Lba, Micros, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Error,
    catalog::{Change, Disk, Keeping},
    format::{
        key::{Identity, SECRET_BYTES},
        record::{HEADER_BYTES, Header, Op, Subject},
    },
};

use super::{Act, Done, World, check};
use crate::oracle::{Block, Rec};

const KINDS: &[Kind] = &[Kind::Boot, Kind::Point, Kind::Package, Kind::Gap];

impl World {
    pub(super) fn any_volume(&mut self) -> u32 {
        if self.rng.chance(700) {
            let present: Vec<u32> = self.oracle.volumes_of(self.oracle.present).collect();
            if !present.is_empty() {
                return self.rng.pick(&present);
            }
        }
        self.rng.below(self.oracle.volumes.len() as u64) as u32
    }

    fn block(&mut self, volume: u32) -> Block {
        let end = self.oracle.end_of(volume).0;
        let trims = self.rng.chance(120);
        let sectors = match self.rng.below(100) {
            0..55 => 8,
            55..75 => self.rng.within(1, 16),
            75..97 => self.rng.within(1, 128),
            _ => self.rng.within(1, 1500),
        };
        let sectors = if trims && self.rng.chance(100) { self.rng.within(1, end) } else { sectors };
        let sectors = sectors.min(end).min(u64::from(u32::MAX));
        let last = end - sectors;
        let lba = match self.rng.below(10) {
            0..3 => self.rng.below(64),
            3..5 => self.rng.below(8) * 8 + (u64::from(volume) % 3) * 512,
            // Around the borders of stripes.
            5 if self.profile.wide => (self.rng.within(1, 8) << 21).saturating_sub(self.rng.below(24)),
            6 => last - self.rng.below(20).min(last),
            _ => self.rng.below(last + 1),
        };
        let lba = lba.min(last);
        let lba = if self.rng.chance(700) { lba & !7 } else { lba };
        let content = if trims {
            None
        } else {
            self.next_content += 1;
            Some(self.next_content)
        };
        Block { volume: VolumeId(volume), lba, sectors, content }
    }

    pub(super) fn append(&mut self) -> Done {
        let count = if self.rng.chance(50) { self.rng.within(8, 40) } else { self.rng.within(1, 8) };
        let mut volume = self.any_volume();
        let mut blocks = Vec::new();
        for _ in 0..count {
            if self.rng.chance(100) {
                volume = self.any_volume();
            }
            let block = self.block(volume);
            if let Some(content) = block.content
                && self.rng.chance(30)
            {
                let id = self.log()?.id();
                self.forge(content, block.sectors, blocks.len() as u64, id);
            }
            blocks.push(block);
        }
        let before = self.oracle.head();
        self.append_blocks(&blocks)?;
        let failed = self.oracle.head() == before && !self.medium.is_dead() && !self.damaged;
        if failed && blocks.len() > 1 && self.rng.chance(300) {
            // It failed, but may be in the log. The record that replaces the first of them must not bring back the
            // others.
            let mut again = blocks[0].clone();
            self.next_content += 1;
            again.content = again.content.map(|_| self.next_content);
            self.append_blocks(&[again])?;
            if self.rng.chance(500) && !self.medium.is_dead() {
                let power_cut = self.rng.chance(300);
                return self.reopen(power_cut);
            }
        }
        Ok(())
    }

    /// Content that looks like the next records of the log, as a hostile target may write it.
    fn forge(&mut self, content: u64, sectors: u64, before: u64, id: [u8; 16]) {
        let mut bytes = vec![0; (sectors * SECTOR_BYTES) as usize];
        let head = self.oracle.head().0 + 1 + before;
        // The forger knows everything except the secret.
        let key = Identity { id, secret: [0; SECRET_BYTES] }.header_key();
        for (i, place) in bytes.chunks_exact_mut(HEADER_BYTES).enumerate() {
            let header = Header {
                seq: Seq(head + 1 + i as u64 % 3),
                time: self.oracle.last_time(),
                lba: Lba(0),
                sectors: Sectors(8),
                payload_bytes: 0,
                subject: Subject::volume(VolumeId(0)),
                op: Op::Zero,
                flags: 0,
                attempt: 0,
                previous: content as u32,
                incarnation: self.life,
                durable: Seq(head),
            };
            let mut forged = [0; HEADER_BYTES];
            header.encode(&key, &[], &mut forged, &mut Vec::new());
            place.copy_from_slice(&forged);
        }
        self.oracle.forge(content, bytes);
    }

    pub(super) fn append_blocks(&mut self, blocks: &[Block]) -> Done {
        let data: Vec<Vec<u8>> = blocks
            .iter()
            .map(|block| {
                let mut bytes = Vec::new();
                if let Some(content) = block.content {
                    bytes.resize((block.sectors * SECTOR_BYTES) as usize, 0);
                    self.oracle.fill(content, 0, &mut bytes);
                }
                bytes
            })
            .collect();
        let trim = self.rng.chance(500);
        let base = self.rng.chance(50);
        let writes: Vec<BlockWrite<'_>> = blocks
            .iter()
            .zip(&data)
            .map(|(block, bytes)| BlockWrite {
                volume: block.volume,
                lba: Lba(block.lba),
                content: match block.content {
                    Some(_) => Content::Data(bytes),
                    None if trim => Content::Trim(Sectors(block.sectors)),
                    None => Content::Zero(Sectors(block.sectors)),
                },
                base,
            })
            .collect();
        if self.rng.chance(10) {
            return self.append_outside(&writes);
        }
        let first = self.oracle.head().next();
        let plan = blocks.iter().cloned().map(Rec::Block).collect();
        self.say(format!(
            "append {}",
            blocks
                .iter()
                .map(|b| format!("{}:{}+{}", b.volume, b.lba, b.sectors))
                .collect::<Vec<_>>()
                .join(" ")
        ));
        match self.act("append", plan, |log| log.append(&writes))? {
            Act::Done(done) => {
                let head = self.oracle.head();
                check!(
                    done.last == head
                        && done.last.0 + 1 - done.first.0 == writes.len() as u64
                        && done.first >= first,
                    "append says {done:?}, head is {head}"
                );
                check!(done.time == self.oracle.last_time(), "append says {done:?}");
                Ok(())
            }
            // The number of versions without a checkpoint is at its limit: upkeep must succeed now, whatever was
            // damaged.
            Act::Refused(Error::Behind { .. }) if self.episode == 0 => {
                self.maintain(100)?;
                check!(self.medium.is_dead() || !self.log()?.is_overdue(), "upkeep leaves too much undone");
                Ok(())
            }
            Act::Refused(error) => self.excuse("append", &error),
            Act::Died => Ok(()),
        }
    }

    /// One write of several is out of range: none is applied.
    fn append_outside(&mut self, writes: &[BlockWrite<'_>]) -> Done {
        let mut writes = writes.to_vec();
        let which = self.rng.below(writes.len() as u64) as usize;
        writes[which].lba =
            Lba(self.oracle.end_of(writes[which].volume.0).0 + 1 - writes[which].content.sectors().0);
        let before = self.oracle.head();
        match self.act("append outside", Vec::new(), |log| log.append(&writes))? {
            Act::Refused(Error::OutOfRange { .. } | Error::Poisoned) => {
                check!(self.oracle.head() == before, "a write outside left records");
                Ok(())
            }
            Act::Refused(error) => self.excuse("append outside", &error),
            Act::Done(done) => Err(super::Failure(format!("a write outside was taken: {done:?}"))),
            Act::Died => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> Done {
        let before = self.oracle.head();
        match self.act("flush", Vec::new(), |log| log.flush())? {
            Act::Done(durable) => {
                self.say(format!("flushed to {durable}"));
                check!(durable >= before, "flush says {durable}, asked for {before}");
                check!(durable <= self.oracle.head(), "flush says {durable}, beyond the head");
                self.oracle.durable = self.oracle.durable.max(durable);
                Ok(())
            }
            Act::Refused(error) => self.excuse("flush", &error),
            Act::Died => Ok(()),
        }
    }

    pub(super) fn event(&mut self) -> Done {
        let branch = self.rng.below(self.oracle.branches.len() as u64) as u32;
        self.next_content += 1;
        let event = Event::new(
            self.rng.pick(&[0_usize, 1, 2, 3]).min(3).pipe(|i| KINDS[i].clone()),
            format!("event {}", self.next_content),
        )
        .with("n", self.next_content);
        self.say(format!("event on {branch}"));
        let plan = vec![Rec::Event(branch, event.clone())];
        match self.act("event", plan, |log| log.event(BranchId(branch), &event))? {
            Act::Done(done) => {
                check!(done.last == self.oracle.head(), "event says {done:?}");
                Ok(())
            }
            Act::Refused(error) => self.excuse("event", &error),
            Act::Died => Ok(()),
        }
    }

    pub(super) fn maintain(&mut self, times: usize) -> Done {
        for _ in 0..times {
            match self.act("maintain", Vec::new(), |log| log.maintain())? {
                Act::Done(true) => self.say("maintained"),
                Act::Done(false) | Act::Died => return Ok(()),
                Act::Refused(error) => return self.excuse("maintain", &error),
            }
        }
        Ok(())
    }

    pub(super) fn checkpoint(&mut self) -> Done {
        let before = self.oracle.head();
        match self.act("checkpoint", Vec::new(), |log| log.checkpoint())? {
            Act::Done(end) => {
                self.say(format!("checkpoint to {end}"));
                check!(end >= before, "checkpoint says {end}, head was {before}");
                self.oracle.durable = self.oracle.durable.max(end);
                Ok(())
            }
            Act::Refused(error) => self.excuse("checkpoint", &error),
            Act::Died => Ok(()),
        }
    }

    pub(super) fn add_disk(&mut self) -> Done {
        let number = self.oracle.volumes.len();
        if number >= 24 {
            return Ok(());
        }
        let sectors = if self.profile.wide {
            self.rng.pick(&[5 << 21, (9 << 21) + 77, 70 << 21, 1 << 33])
        } else {
            self.rng.pick(&[64, 900, 2048, 8192])
        };
        let disk = Disk {
            name: format!("vd{}", self.oracle.head()),
            sectors: Sectors(sectors),
            block_bytes: 512,
            keeping: Keeping::Store,
        };
        self.say(format!("disk {} of {sectors}", disk.name));
        let plan = vec![Rec::Change(Change::Disk {
            disk: disk.clone(),
            volume: VolumeId(number as u32),
            filling: false,
        })];
        match self.act("add disk", plan, |log| log.add_disk(&disk))? {
            Act::Done(volume) => {
                check!(volume.0 as usize == number, "disk became volume {volume}");
                self.all_is_durable()
            }
            Act::Refused(error) => self.excuse("add disk", &error),
            Act::Died => Ok(()),
        }
    }

    /// A change of the catalog is durable when it returns.
    fn all_is_durable(&mut self) -> Done {
        self.oracle.durable = self.oracle.head();
        if let Some(differs) =
            self.oracle.catalog_differs(&self.log()?.catalog(), self.fresh.then_some(self.life))
        {
            return Err(super::Failure(format!("the catalog's {differs} differ")));
        }
        Ok(())
    }

    pub(super) fn add_branch(&mut self) -> Done {
        if self.oracle.volumes.len() >= 24 {
            return Ok(());
        }
        let id = self.oracle.branches.len() as u32;
        let parent = self.rng.below(u64::from(id)) as u32;
        let parent = if self.rng.chance(500) { self.oracle.present } else { parent };
        let (made, head) = (self.oracle.branches[parent as usize].made, self.oracle.head());
        let at = match self.rng.below(10) {
            0 => head,
            1 => made,
            2 => Seq(made.0.saturating_sub(1)),
            3 => head.next(),
            4 => Seq(head.0.saturating_sub(self.rng.below(5))),
            _ => Seq(self.rng.within(made.0, head.0)),
        };
        let taken = self.rng.chance(50) && id > 1;
        let name = if taken { self.oracle.branches[1].name.clone() } else { format!("b{id}") };
        let exists = self.oracle.branches.iter().any(|b| b.name == name && !b.dropped);
        let plan = vec![Rec::Change(Change::Branch {
            id: BranchId(id),
            name: name.clone(),
            parent: (BranchId(parent), at),
            volumes_from: VolumeId(self.oracle.volumes.len() as u32),
        })];
        self.say(format!("branch {name} from {parent} at {at}"));
        let fits = at <= head && at >= made && !exists;
        match self.act("add branch", plan, |log| log.add_branch(&name, BranchId(parent), at))? {
            Act::Done(made) => {
                check!(fits && made.0 == id, "branch {made} was made");
                self.all_is_durable()
            }
            Act::Refused(
                Error::InTheFuture { .. } | Error::BeforeHistory { .. } | Error::BranchExists(_),
            ) if !fits => Ok(()),
            Act::Refused(error) => self.excuse("add branch", &error),
            Act::Died => Ok(()),
        }
    }

    fn named_branch(&mut self) -> (u32, String) {
        let id = self.rng.below(self.oracle.branches.len() as u64) as u32;
        (id, self.oracle.branches[id as usize].name.clone())
    }

    pub(super) fn drop_branch(&mut self) -> Done {
        let (_, name) = self.named_branch();
        let id = self.oracle.branches.iter().rposition(|b| b.name == name && !b.dropped);
        let fits = id.is_some_and(|id| id as u32 != self.oracle.present);
        let id = BranchId(id.map_or(u32::MAX, |id| id as u32));
        self.say(format!("drop {name}"));
        match self.act("drop", vec![Rec::Change(Change::Drop { id })], |log| log.drop_branch(id))? {
            Act::Done(_) => {
                check!(fits, "branch {name} was dropped");
                self.all_is_durable()
            }
            Act::Refused(Error::NoBranch(_) | Error::BranchInUse(_)) if !fits => Ok(()),
            Act::Refused(error) => self.excuse("drop", &error),
            Act::Died => Ok(()),
        }
    }

    pub(super) fn promote(&mut self) -> Done {
        let (_, name) = self.named_branch();
        let id = self.oracle.branches.iter().rposition(|b| b.name == name && !b.dropped);
        let fits = id.is_some();
        let id = BranchId(id.map_or(u32::MAX, |id| id as u32));
        self.say(format!("promote {name}"));
        match self.act("promote", vec![Rec::Change(Change::Promote { id })], |log| log.promote_branch(id))? {
            Act::Done(_) => {
                check!(fits, "branch {name} was promoted");
                self.all_is_durable()
            }
            Act::Refused(Error::NoBranch(_)) if !fits => Ok(()),
            Act::Refused(error) => self.excuse("promote", &error),
            Act::Died => Ok(()),
        }
    }

    pub(super) fn open_or_close(&mut self) -> Done {
        let volume = self.any_volume();
        // Opening it again must be harmless.
        let is_open = self.open.contains(&volume) || self.open_taps.contains(&volume);
        if is_open && self.rng.chance(500) {
            self.say(format!("close {volume}"));
            self.log()?.close_volume(VolumeId(volume));
            self.open.remove(&volume);
            self.open_taps.remove(&volume);
            return Ok(());
        }
        if self.taps.contains_key(&volume) {
            return self.open_tap(volume);
        }
        self.say(format!("open {volume}"));
        match self.act("open volume", Vec::new(), |log| {
            log.open_volume(VolumeId(volume), Below::Index, Seq::ZERO)
        })? {
            Act::Done(()) => {
                self.open.insert(volume);
                Ok(())
            }
            Act::Refused(error) => {
                check!(!matches!(error, Error::Full { .. }), "opening a volume needs room: {error}");
                self.excuse("open volume", &error)
            }
            Act::Died => Ok(()),
        }
    }

    fn open_tap(&mut self, volume: u32) -> Done {
        let since = self.taps.get(&volume).copied().unwrap_or_default();
        self.say(format!("open {volume} over a device of {since}"));
        match self
            .act("open tap", Vec::new(), |log| log.open_volume(VolumeId(volume), Below::Device, since))?
        {
            Act::Done(()) => {
                self.open.remove(&volume);
                self.open_taps.insert(volume);
                Ok(())
            }
            Act::Refused(error) => self.excuse("open tap", &error),
            Act::Died => Ok(()),
        }
    }

    /// A volume gets a device, destages to it, or is detached from it.
    pub(super) fn tap(&mut self) -> Done {
        let volume = self.any_volume();
        if !self.taps.contains_key(&volume) {
            self.flush()?;
            if self.medium.is_dead() || self.oracle.durable < self.oracle.head() {
                return Ok(());
            }
            let moment = self.oracle.durable;
            self.taps.insert(volume, moment);
            return self.open_tap(volume);
        }
        if self.rng.chance(60) {
            self.log()?.close_volume(VolumeId(volume));
            self.open_taps.remove(&volume);
            self.taps.remove(&volume);
            return Ok(());
        }
        if !self.open_taps.contains(&volume) {
            return self.open_tap(volume);
        }
        self.carry(volume)
    }

    /// Destages a volume to its device.
    fn carry(&mut self, volume: u32) -> Done {
        let since = self.taps.get(&volume).copied().unwrap_or_default();
        let log = self.log()?;
        let frozen = log.freeze_head(VolumeId(volume));
        let (map, until) = frozen.map_err(|e| super::Failure(format!("freeze: {e}")))?;
        self.say(format!("device of {volume} from {since} to {until}, {} runs", map.len()));
        check!(until <= self.oracle.head(), "frozen at {until}, in the future");
        let mut covered = 0;
        for (lba, sectors, seq, at) in map.iter() {
            covered += sectors.0;
            let fragment = bygone_store::HeadFragment { lba, sectors, found: Some((seq, at)) };
            if !self.check_fragment(volume, &fragment, (since, until))? {
                return Ok(());
            }
        }
        let mut ranges: Vec<(u64, u64)> = self
            .oracle
            .writes_of(volume)
            .iter()
            .filter(|w| w.0 > since.0 && w.0 <= until.0)
            .map(|(_, b)| (b.lba, b.lba + b.sectors))
            .collect();
        ranges.sort_unstable();
        let (mut expected, mut reached) = (0, 0);
        for (a, b) in ranges {
            expected += b.saturating_sub(a.max(reached));
            reached = reached.max(b);
        }
        check!(covered == expected, "frozen {since}..{until}: {covered} sectors instead of {expected}");
        if self.rng.chance(250) {
            self.say("the device did not take it");
            return Ok(());
        }
        self.flush()?;
        if !self.medium.is_dead() && self.oracle.durable >= until {
            log.drop_frozen_head(VolumeId(volume));
            self.taps.insert(volume, until);
        }
        Ok(())
    }

    /// After a failed flush nothing is acknowledged (I4).
    pub(super) fn check_poisoned(&mut self) -> Done {
        let log = self.log()?;
        let head = log.head_seq();
        let block = Block { volume: VolumeId(0), lba: 0, sectors: 1, content: None };
        let write =
            BlockWrite { volume: block.volume, lba: Lba(0), content: Content::Zero(Sectors(1)), base: false };
        let refused = [
            log.append(&[write]).err(),
            log.flush().err(),
            log.event(BranchId(0), &Event::new(Kind::Boot, "never")).err(),
            log.add_branch("never", BranchId(0), Seq(2)).err(),
            log.promote_branch(BranchId(0)).err(),
        ];
        for error in refused {
            check!(matches!(error, Some(Error::Poisoned)), "poisoned, but said {error:?}");
        }
        check!(log.head_seq() == head, "poisoned, but the head moved");
        self.say("poisoned");
        let _: Micros = log.now();
        Ok(())
    }
}

trait Pipe: Sized {
    fn pipe<T>(self, f: impl FnOnce(Self) -> T) -> T {
        f(self)
    }
}
impl Pipe for usize {}
