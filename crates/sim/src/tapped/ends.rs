//! How lives end, and what must hold afterwards.

use bygone_block::TapState;
use bygone_model::{Lba, Sectors, Seq};
use bygone_store::{Below, Log, Wait};

use super::{
    DISK, Done, World, Write,
    disk::{SECTOR, SECTORS, SimDisk},
};
use crate::world::{Failure, check};

impl World {
    pub(super) fn sim_disk(&self) -> Done<SimDisk> {
        let file = self.disk_medium.dir().open(DISK).map_err(|e| Failure(format!("no disk: {e}")))?;
        Ok(SimDisk::new(file, self.clock.clone(), self.times.clone(), self.is_device))
    }

    pub(super) fn disk(&self) -> Vec<u8> {
        self.disk_medium.bytes(DISK).unwrap_or_default()
    }

    pub(super) fn reopen(&mut self) -> Done {
        self.tap = None;
        self.reopen_with(None)
    }

    pub(super) fn reopen_expecting(&mut self, state: TapState) -> Done {
        self.reopen_with(Some(state))
    }

    /// Ends the process or cuts the power, then opens everything again.
    pub(super) fn reopen_with(&mut self, expected: Option<TapState>) -> Done {
        let power_cut = self.rng.chance(600);
        let log = self.log.take();
        let acknowledged = log.map_or(Seq::ZERO, |log| log.head_seq());
        let sure = if power_cut || self.log_medium.sync_failed() { self.durable } else { acknowledged };
        self.end_faults();
        for medium in [&self.log_medium, &self.disk_medium] {
            medium.die_in(None);
            if power_cut { medium.power_cut() } else { medium.kill() }
        }
        if power_cut && self.rng.chance(500) {
            self.times.go_back();
        }
        let log = Log::open(self.log_medium.dir(), self.clock.clone(), self.options.clone());
        let log = log.map_err(|e| Failure(format!("opening the log: {e}")))?;
        let head = log.head_seq();
        self.say(&format!("{}, recovered {head}", if power_cut { "power cut" } else { "kill" }));
        check!(log.damage_at_open().is_empty(), "damage: {:?}", log.damage_at_open());
        check!(head >= sure, "{head} recovered, {sure} was sure");
        self.log = Some(log);
        self.settle(head, sure)?;
        self.durable = head;
        self.moments.retain(|(seq, _)| *seq <= head);
        if self.is_device && self.rng.chance(200) {
            self.touch_after_a_crash()?;
        }
        let expected = expected.or_else(|| {
            let catalog = self.log.as_ref()?.catalog();
            let complete = catalog.taps.get(&self.volume.0)?.complete;
            (!self.late && !self.half_closed).then_some(if complete {
                TapState::Known
            } else {
                TapState::Unfinished
            })
        });
        self.open(expected)
    }

    /// Somebody else writes to a sector of the device after a crash, where no record since its mark has changed anything.
    fn touch_after_a_crash(&mut self) -> Done {
        const SAMPLED: usize = 8;
        let log = self.log()?;
        let mark = log.catalog().taps.get(&self.volume.0).cloned().filter(|mark| mark.complete);
        let Some(mark) = mark else { return Ok(()) };
        let at = self.rng.below(SECTORS as u64) as usize;
        let (first, sectors) = (Lba((at - at % SAMPLED) as u64), Sectors(SAMPLED as u64));
        let logged = log
            .open_volume(self.volume, Below::Device, mark.applied)
            .and_then(|()| log.resolve_head(self.volume, first, sectors, Wait::Yes));
        log.close_volume(self.volume);
        let logged = logged.map_err(|e| Failure(format!("looking up what was logged: {e}")))?;
        if logged.iter().any(|part| part.found.is_some()) {
            return Ok(());
        }
        let content = [!self.disk()[at * SECTOR]; SECTOR];
        let written = self.sim_disk()?.change((at * SECTOR) as u64, &content);
        written.map_err(|e| Failure(format!("somebody cannot write: {e}")))?;
        self.say(&format!("somebody wrote to sector {at} after the crash"));
        self.touched = true;
        let content = content.to_vec();
        self.writes.push(Write { after: Seq::ZERO, upto: Some(Seq::ZERO), first: at, content });
        Ok(())
    }

    /// Finds out which writes the recovered log has.
    pub(super) fn settle(&mut self, head: Seq, sure: Seq) -> Done {
        self.writes.retain(|write| write.after < head);
        // The last write's seq may belong to another record: a failed one that is complete. The last seq is also the
        // last of the batch that it came with. So the newest version in the log decides.
        let unsure = |upto: Seq| upto > sure && upto >= head;
        let last = self.writes.pop_if(|last| last.upto.is_none_or(unsure));
        let mut candidates: Vec<Write> = last.into_iter().collect();
        candidates.extend(std::mem::take(&mut self.limbo).into_iter().filter(|failed| failed.after >= sure));
        for write in candidates {
            if write.after < head && self.newest_is(&write)? {
                self.writes.push(write);
            }
        }
        Ok(())
    }

    /// Whether the log's newest version of this write's sectors is newer than the record before the write, and has its
    /// content.
    pub(super) fn newest_is(&self, write: &Write) -> Done<bool> {
        let (first, content) = (write.first, &write.content);
        let log = self.log()?;
        let view = log.view(self.volume, log.head_seq());
        let view = view.map_err(|e| Failure(format!("a view of the present: {e}")))?;
        let mut bytes = vec![0; content.len()];
        let fragments = view.resolve(Lba(first as u64), Sectors::of_bytes(bytes.len() as u64), Wait::Yes);
        let fragments = fragments.map_err(|e| Failure(format!("looking up the present: {e}")))?;
        let read = view.read(Lba(first as u64), &mut bytes, Wait::Yes);
        read.map_err(|e| Failure(format!("reading the present: {e}")))?;
        Ok(fragments.iter().all(|f| f.found.is_some_and(|(seq, _)| seq > write.after)) && bytes == *content)
    }
}
