//! Another program removes the file of a segment that the log has open, or puts an equal one in its place.

use bygone_store::format::segment::SegmentHeader;

use super::{Done, World, check};
use crate::{inspect, medium::Faults, profile::Step};

impl World {
    /// Upkeep writes the segment again, whatever is in its way. If an equal file has its name meanwhile, nothing is lost
    /// whenever the process or the power ends. If none has, the process lives until upkeep is done.
    pub(super) fn displace(&mut self) -> Done {
        if self.log()?.is_poisoned() || self.medium.is_dead() {
            return Ok(());
        }
        self.end_episode();
        self.medium.die_in(None);
        self.flush()?;
        let log = self.log()?;
        if log.is_poisoned() {
            return Ok(());
        }
        let open: Vec<(String, Vec<u8>)> = inspect::segment_names(&self.medium)
            .into_iter()
            .filter_map(|name| self.medium.bytes(&name).map(|bytes| (name, bytes)))
            .filter(|(name, bytes)| !inspect::is_sealed(name, bytes) && SegmentHeader::decode(bytes).is_ok())
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let (name, bytes) = self.rng.pick(&open.iter().collect::<Vec<_>>()).clone();
        let replaced = self.rng.chance(600);
        if replaced {
            self.say(format!("another file takes the place of {name}"));
            self.medium.forge(&name, &bytes);
        } else {
            self.say(format!("another program removes {name}"));
            self.medium.erase(&name);
        }
        self.episode = 1;
        self.hinder_upkeep(replaced);
        for _ in 0..self.rng.within(1, 12) {
            self.maintain(1)?;
            if self.medium.is_dead() || log.is_poisoned() {
                return Ok(());
            }
        }
        self.end_episode();
        self.medium.die_in(None);
        self.maintain(100)?;
        check!(
            log.damage().iter().all(|(place, _)| place.file != inspect::label(&name)),
            "{name} counts as damaged"
        );
        // Behind the head, parts of a batch may be left that was refused.
        let (records, head) = (inspect::records(&self.medium), log.head_seq().0);
        check!(records.contains_key(&head), "{name} was not written again: record {head} is in no file");
        Ok(())
    }

    fn hinder_upkeep(&mut self, may_end: bool) {
        let has = |step| self.profile.steps.iter().any(|s| s.0 == step);
        match self.rng.below(5) {
            0 if has(Step::Doom) && may_end => {
                let operations = self.rng.below(20);
                self.say(format!("dies in {operations}"));
                self.medium.die_in(Some(operations));
            }
            1 if has(Step::Full) => {
                let room = self.rng.below(100_000);
                self.say(format!("room for {room}"));
                self.medium.set_room(Some(room));
            }
            2 if has(Step::FailSync) && may_end => {
                self.say("syncs may fail");
                self.medium.set_faults(Faults { sync_fails: 300, ..Faults::default() });
            }
            3 if has(Step::Full) => {
                self.say("full now and then");
                self.medium.set_faults(Faults { full: 300, ..Faults::default() });
            }
            _ => {}
        }
    }
}
