//! How lives end, and what the next life must find.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use bygone_model::{BranchId, Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Damage, Error, Hold, Log, LogOptions, Place,
    catalog::Change,
    format::record::{Header, Op},
};

use super::{Done, Failure, World, check};
use crate::{
    inspect::{self, Records},
    medium::Faults,
    oracle::{Oracle, Rec},
    rng::mix,
};

impl World {
    fn end_life(&mut self, power_cut: bool) {
        self.log = None;
        self.views.clear();
        self.open.clear();
        self.open_taps.clear();
        self.episode = 0;
        if power_cut {
            self.say("power cut");
            self.stats.power_cuts += 1;
            self.medium.power_cut();
        } else {
            self.say("kill");
            self.stats.kills += 1;
            self.medium.kill();
        }
    }

    /// Ends this life of the process and begins the next.
    pub(super) fn reopen(&mut self, power_cut: bool) -> Done {
        let mut lossy = power_cut || self.medium.sync_failed();
        self.end_life(power_cut);
        if std::mem::take(&mut self.rot_between_lives) {
            self.flip_newest();
        }
        let mut ends = BTreeSet::new();
        for attempt in 0.. {
            // An open that was interrupted may have ended the log there legitimately.
            ends.extend(self.ends_that_may_be());
            let fine = self.hinder_open(attempt);
            let hold = self.some_hold();
            let options = LogOptions { hold, ..self.options.clone() };
            let opened = Log::open(self.medium.dir(), self.clock.clone(), options);
            lossy |= self.medium.sync_failed();
            if self.medium.is_dead() {
                let power_cut = self.rng.chance(500);
                lossy |= power_cut;
                self.end_life(power_cut);
                continue;
            }
            match opened {
                Ok(log) => {
                    self.medium.die_in(None);
                    self.medium.set_faults(Faults::default());
                    self.medium.set_room(None);
                    self.check_term(&log, hold)?;
                    self.log = Some(log);
                    break;
                }
                Err(error) => {
                    let excused = matches!(error, Error::Full { .. } | Error::Io { .. } | Error::Poisoned)
                        || matches!(error, Error::Damaged { damage: Damage::Unreadable, .. });
                    check!(excused && !fine, "opening: {error}");
                    self.say(format!("opening: {error}"));
                    self.end_life(false);
                }
            }
        }
        self.adopt(lossy, &ends)
    }

    /// In some lives another holder takes the log over.
    fn some_hold(&mut self) -> Hold {
        if !mix(self.digest).is_multiple_of(6) {
            return Hold::Newest;
        }
        self.say("taken over");
        self.term_perhaps += 1;
        Hold::TakeOver
    }

    /// Checks that no two holders ever have the same term, and that no term is forgotten.
    pub(super) fn check_term(&mut self, log: &Log, hold: Hold) -> Done {
        let new = u32::from(hold == Hold::TakeOver);
        let terms = self.term + new..=self.term_perhaps;
        check!(terms.contains(&log.term()), "opened in term {}, not one of {terms:?}", log.term());
        // A power cut may bring back a manifest that could not be made durable: no holder ever had that term.
        self.term = log.term();
        Ok(())
    }

    /// Another holder takes the log over while this one has it open, which can change nothing from then on.
    pub(super) fn take_over(&mut self) -> Done {
        let old = self.log()?;
        if old.is_poisoned() || self.medium.is_dead() {
            return Ok(());
        }
        self.end_episode();
        let between = self.rng.chance(700);
        if between {
            self.flush()?;
            if old.is_poisoned() || self.medium.is_dead() {
                return Ok(());
            }
        }
        self.say("taken over in use");
        (self.views, self.open, self.open_taps) = Default::default();
        self.term_perhaps += 1;
        let opened = if between { self.take_over_between(&old)? } else { self.take_over_now() };
        if self.medium.is_dead() {
            return Ok(());
        }
        let log = opened.map_err(|e| Failure(format!("taking over: {e}")))?;
        self.check_term(&log, Hold::TakeOver)?;
        let files = |world: &World| -> Vec<(String, Option<Vec<u8>>)> {
            let names = world.medium.names().into_iter();
            names.map(|name| (name.clone(), world.medium.bytes(&name))).collect()
        };
        let before = files(self);
        for _ in 0..self.rng.within(1, 12) {
            let told = old.maintain();
            if self.medium.is_dead() {
                return Ok(());
            }
            check!(
                matches!(told, Ok(false) | Err(Error::Superseded { .. })),
                "upkeep after the end: {told:?}"
            );
        }
        // Upkeep has compared the folder with the manifest by now.
        let write =
            BlockWrite { volume: VolumeId(0), lba: Lba(0), content: Content::Zero(Sectors(1)), base: false };
        let refused = [old.append(&[write]).err(), old.flush().err(), old.checkpoint().err()];
        for told in refused {
            check!(matches!(told, Some(Error::Superseded { .. })), "superseded, but said {told:?}");
        }
        check!(files(self) == before, "whoever held the log before has changed its files");
        drop(old);
        self.log = Some(log);
        self.adopt(false, &BTreeSet::new())
    }

    pub(super) fn take_over_now(&self) -> bygone_store::Result<Arc<Log>> {
        let options = LogOptions { hold: Hold::TakeOver, ..self.options.clone() };
        Log::open(self.medium.dir(), self.clock.clone(), options)
    }

    /// Another holder takes the log over between two steps of what this one does. Everything was flushed, so that no
    /// act writes a record of its own.
    fn take_over_between(&mut self, old: &Arc<Log>) -> Done<bygone_store::Result<Arc<Log>>> {
        let options = LogOptions { hold: Hold::TakeOver, ..self.options.clone() };
        let (medium, clock) = (self.medium.clone(), self.clock.clone());
        let opened = Arc::new(Mutex::new(None));
        let taken = opened.clone();
        let steps_end = if self.rng.chance(500) { 8 } else { 60 };
        let steps = self.rng.below(steps_end);
        self.medium.interrupt(steps, move || {
            let log = Log::open(medium.dir(), clock, options);
            *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
        });
        let head = old.head_seq();
        for _ in 0..self.rng.within(1, 12) {
            let told =
                if self.rng.chance(300) { old.checkpoint().map(drop) } else { old.maintain().map(drop) };
            let is_taken = opened.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            match told {
                Err(Error::Superseded { .. }) => check!(is_taken, "superseded by nobody"),
                Err(error) if !self.medium.is_dead() => self.excuse("upkeep", &error)?,
                _ => {}
            }
            if is_taken || self.medium.is_dead() {
                break;
            }
        }
        if self.medium.was_interrupted() {
            self.say("taken over in the middle");
        }
        // A checkpoint may have been preceded by a mark.
        self.limbo.push((head.0 + 1, vec![Rec::Mark]));
        let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(opened.unwrap_or_else(|| self.take_over_now()))
    }

    /// Injects faults into opening; returns whether it must still succeed.
    fn hinder_open(&mut self, attempt: u32) -> bool {
        const ATTEMPTS_MAX: u32 = 4;
        if attempt >= ATTEMPTS_MAX {
            return true;
        }
        let has = |step| self.profile.steps.iter().any(|s| s.0 == step);
        match self.rng.below(12) {
            0 if has(crate::profile::Step::Doom) => {
                let operations = self.rng.below(20);
                self.say(format!("dies in {operations}"));
                self.medium.die_in(Some(operations));
                true
            }
            1 if has(crate::profile::Step::Full) => {
                let room = self.rng.below(200_000);
                self.say(format!("room for {room}"));
                self.medium.set_room(Some(room));
                false
            }
            2 if has(crate::profile::Step::FailSync) => {
                self.say("syncs may fail");
                self.medium.set_faults(Faults { sync_fails: 200, ..Faults::default() });
                false
            }
            3 if has(crate::profile::Step::FailReads) => {
                self.say("reads may fail");
                self.medium.set_faults(Faults { read_fails: 30, ..Faults::default() });
                false
            }
            _ => true,
        }
    }

    /// Compares the recovered records with the written ones, and adopts them. Bits rotted at `ends`, so the log may end
    /// there.
    pub(super) fn adopt(&mut self, lossy: bool, ends: &BTreeSet<u64>) -> Done {
        let log = self.log()?;
        // A checkpoint that could not be read is passed over. Nothing of the log is.
        let is_passing = |(place, what): &&(Place, Damage)| {
            *what == Damage::Unreadable && place.file.starts_with("index/")
        };
        let damage: Vec<_> = log.damage_at_open().iter().filter(|found| !is_passing(found)).collect();
        let in_log = damage.iter().any(|(place, _)| place.file.starts_with("log/"));
        let excused = (self.lost_index || self.hurt_index) && !in_log
            || damage.iter().all(|(place, _)| self.is_hurt_at(place));
        check!(excused, "damage out of nowhere: {damage:?}");
        self.lost_index = false;
        let found = inspect::records(&self.medium);
        let recovered = log.head_seq().0;
        let wanted = if lossy { self.oracle.durable } else { self.oracle.head() };
        self.say(format!("recovered {recovered}"));
        let rotten_end = recovered < wanted.0 && ends.contains(&(recovered + 1));
        check!(recovered >= wanted.0 || rotten_end, "recovered {recovered} records of {wanted}, {ends:?}");
        let durable = if rotten_end { Seq(recovered) } else { self.oracle.durable };
        let lossy = lossy || rotten_end;
        check!(found.last_key_value().map(|r| *r.0) == Some(recovered), "the head is not the last record");

        // A prefix of what was acknowledged …
        let old_head = self.oracle.head().0;
        let everything = self.rng.chance(150);
        let from = if everything { 1 } else { durable.0.saturating_sub(20).max(1) };
        let mut same = from;
        while same <= recovered.min(old_head) && self.is_same(&found, same) {
            same += 1;
        }
        check!(same > durable.0.min(old_head), "durable record {same} is another one or lost");
        check!(lossy || same > old_head, "acknowledged record {same} is another one or lost");
        // … and then perhaps of what was attempted last.
        let rest = self.unacknowledged(&found, same, recovered)?;
        self.stats.lost_records += old_head.saturating_sub(same - 1);
        self.oracle.truncate(Seq(same - 1));
        for (time, rec) in rest {
            self.oracle.push(time, rec);
        }
        check!(
            log.found_last() == self.oracle.last_time(),
            "last time {} instead of {}",
            log.found_last(),
            self.oracle.last_time()
        );
        self.fresh = true;
        self.life = log.catalog().incarnation;
        check!(self.life > self.oracle.incarnation(), "life {} comes again", self.life);
        self.oracle.durable = self.oracle.head();
        self.limbo.clear();
        let head = self.oracle.head();
        check!(self.taps.values().all(|moment| *moment <= head), "a device is ahead of the log");
        if let Some(differs) = self.oracle.catalog_differs(&log.catalog(), self.fresh.then_some(self.life)) {
            return Err(Failure(format!("the catalog's {differs} differ")));
        }
        Ok(())
    }

    fn is_same(&self, found: &Records, seq: u64) -> bool {
        let (Some((time, rec)), Some(record)) = (self.oracle.record(seq), found.get(&seq)) else {
            return false;
        };
        record.0.time == *time && is(&self.oracle, rec, record)
    }

    /// The records `from ..= to`, which were never acknowledged: attempts that failed.
    fn unacknowledged(&self, found: &Records, from: u64, to: u64) -> Done<Vec<(Micros, Rec)>> {
        let nothing = Vec::new();
        let attempts = self.limbo.iter().filter(|(start, _)| *start == from).map(|(_, recs)| recs);
        for attempt in attempts.chain([&nothing]) {
            let records = || (from..=to).map(|seq| found.get(&seq));
            if (from..=to).count() <= attempt.len()
                && records().zip(attempt).all(|(found, rec)| found.is_some_and(|f| is(&self.oracle, rec, f)))
            {
                let time = |record: Option<&(Header, Vec<u8>)>| record.map_or(Micros(0), |r| r.0.time);
                return Ok(records().map(time).zip(attempt.iter().cloned()).collect());
            }
        }
        let ops: Vec<_> = (from..=to).map(|seq| found.get(&seq).map(|r| r.0)).collect();
        Err(Failure(format!("records {from}..={to} come from nowhere: {ops:?}; tried: {:?}", self.limbo)))
    }
}

/// Whether a record of the log matches an expected one.
fn is(oracle: &Oracle, rec: &Rec, (header, payload): &(Header, Vec<u8>)) -> bool {
    match rec {
        Rec::Mark => header.op == Op::Flush,
        Rec::Change(change) => {
            header.op == Op::Catalog && serde_json::from_slice::<Change>(payload).is_ok_and(|c| c == *change)
        }
        Rec::Event(branch, event) => {
            header.op == Op::Event
                && header.subject.as_branch() == Some(BranchId(*branch))
                && serde_json::from_slice::<bygone_model::Event>(payload).is_ok_and(|e| e == *event)
        }
        Rec::Block(block) => {
            let place = header.op.is_block()
                && header.subject.as_volume() == Some(block.volume)
                && header.lba == Lba(block.lba)
                && header.sectors == Sectors(block.sectors);
            let content = match block.content {
                None => header.op != Op::Write,
                Some(content) => {
                    let mut bytes = vec![0; payload.len()];
                    header.op == Op::Write && payload.len() as u64 == block.sectors * 512 && {
                        oracle.fill(content, 0, &mut bytes);
                        bytes == *payload
                    }
                }
            };
            place && content
        }
    }
}
