//! Another holder takes the log over, and the one before goes on without having looked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bygone_model::{Lba, VolumeId};
use bygone_store::{BlockWrite, Content, Error, Log};

use super::{Done, Failure, World, check};
use crate::inspect;

impl World {
    /// What the holder before acknowledges now is lost, and no file of the log changes.
    pub(super) fn overrun(&mut self) -> Done {
        let old = self.log()?;
        if old.is_poisoned() || self.medium.is_dead() {
            return Ok(());
        }
        self.end_episode();
        self.medium.die_in(None);
        self.flush()?;
        if old.is_poisoned() {
            return Ok(());
        }
        self.say("taken over, and whoever held it goes on");
        (self.views, self.open, self.open_taps) = Default::default();
        self.term_perhaps += 1;
        let log = self.take_over_now().map_err(|e| Failure(format!("taking over: {e}")))?;
        self.check_term(&log, bygone_store::Hold::TakeOver)?;
        let new = log.clone();
        self.log = Some(log);
        self.adopt(false, &BTreeSet::new())?;
        let mut goes_on = true;
        for _ in 0..self.rng.within(2, 12) {
            if !self.is_held_by(&new) {
                return Ok(());
            }
            if goes_on && self.rng.chance(600) {
                goes_on = self.write_as(&old)?;
            }
            match self.rng.below(6) {
                0 | 1 => self.append()?,
                2 => self.flush()?,
                3 => self.checkpoint()?,
                _ => self.maintain(4)?,
            }
        }
        if !self.is_held_by(&new) {
            return Ok(());
        }
        for _ in 0..12 {
            let told = old.maintain();
            check!(
                matches!(told, Ok(false) | Err(Error::Superseded { .. })),
                "upkeep after the end: {told:?}"
            );
        }
        let told = old.flush();
        check!(matches!(told, Err(Error::Superseded { .. })), "superseded, but said {told:?}");
        if self.rng.chance(500) { self.compare_all(2) } else { Ok(()) }
    }

    /// False: a refused append has ended in another life.
    fn is_held_by(&self, log: &Arc<Log>) -> bool {
        self.log.as_ref().is_some_and(|held| Arc::ptr_eq(held, log))
    }

    /// Writes as the holder before; returns whether it acknowledged that.
    fn write_as(&mut self, old: &Arc<Log>) -> Done<bool> {
        let before = self.files_that_count();
        let acknowledged = self.write_and_flush_as(old)?;
        check!(self.files_that_count() == before, "whoever held it has changed files of the log");
        Ok(acknowledged)
    }

    /// The files of the log, without those that a superseded holder left.
    fn files_that_count(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let segments = inspect::segment_names(&self.medium);
        let counts = |name: &String| inspect::segment_name(name).is_none() || segments.contains(name);
        let names = self.medium.names().into_iter().filter(counts);
        names.map(|name| (name.clone(), self.medium.bytes(&name))).collect()
    }

    fn write_and_flush_as(&mut self, old: &Arc<Log>) -> Done<bool> {
        let volume = self.rng.below(self.oracle.volumes.len() as u64) as u32;
        let end = self.oracle.end_of(volume).0;
        let sectors = self.rng.within(1, 8).min(end);
        let lba = Lba(self.rng.below(end - sectors + 1));
        let data = vec![0xee; (sectors * 512) as usize];
        let write = BlockWrite { volume: VolumeId(volume), lba, content: Content::Data(&data), base: false };
        match old.append(&[write]) {
            Ok(_) => self.say(format!("whoever held it writes {volume}:{lba}+{sectors}")),
            Err(Error::Superseded { .. } | Error::Behind { .. }) => return Ok(false),
            // Added by the new holder.
            Err(Error::NoVolume(_)) => return Ok(true),
            Err(error) => return Err(Failure(format!("whoever held it cannot write: {error}"))),
        }
        match old.flush() {
            Ok(_) => Ok(true),
            Err(Error::Superseded { .. }) => Ok(false),
            Err(error) => Err(Failure(format!("whoever held it cannot flush: {error}"))),
        }
    }
}
