//! Steps that read, and compare the store's answers with the oracle.

use std::collections::BTreeSet;

use bygone_model::{Lba, Micros, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{Damage, Damaged, Error, HeadFragment, View, Wait, format::checkpoint::Name};

use super::{Act, Done, Failure, World, check};

impl World {
    /// A range of a volume that is likely to be interesting.
    fn range(&mut self, volume: u32) -> (u64, u64) {
        let end = self.oracle.end_of(volume).0;
        let sectors = if self.rng.chance(800) { self.rng.within(1, 40) } else { self.rng.within(1, 400) };
        let sectors = sectors.min(end);
        let mut at = volume;
        while self.rng.chance(400)
            && let Some((parent, _)) = self.oracle.volumes[at as usize].parent
        {
            at = parent;
        }
        let writes = self.oracle.writes_of(at);
        let lba = if self.rng.chance(800) && !writes.is_empty() {
            let block = &writes[self.rng.below(writes.len() as u64) as usize].1;
            let edge = if self.rng.chance(300) { block.sectors } else { 0 };
            (block.lba + edge).saturating_sub(self.rng.below(12))
        } else {
            self.rng.below(end)
        };
        (lba.min(end - sectors), sectors)
    }

    fn same(&mut self, what: &str, volume: u32, (lba, sectors): (u64, u64), seq: Seq, bytes: &[u8]) -> Done {
        let expected = self.oracle.content(volume, lba, sectors, seq);
        self.stats.compared_bytes += bytes.len() as u64;
        self.note(bytes);
        if bytes == expected {
            return Ok(());
        }
        let size = SECTOR_BYTES as usize;
        let wrong = bytes.chunks(size).zip(expected.chunks(size)).position(|(a, b)| a != b).unwrap_or(0);
        let sign = |bytes: &[u8]| bytes[wrong * size..].first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
        Err(Failure(format!(
            "{what}: volume {volume} as of {seq}, sector {} of {lba}+{sectors}: content {:#x} instead of {:#x}",
            lba + wrong as u64,
            sign(bytes),
            sign(&expected)
        )))
    }

    /// Compares a part of a head map with the versions of a span. False: it could not be read, and that is allowed.
    pub(super) fn check_fragment(
        &mut self,
        volume: u32,
        fragment: &HeadFragment,
        span: (Seq, Seq),
    ) -> Done<bool> {
        const SECTORS_MAX: u64 = 4096;
        let log = self.log()?;
        let (lba, sectors) = (fragment.lba.0, fragment.sectors.0.min(SECTORS_MAX));
        let part = HeadFragment { sectors: Sectors(sectors), ..*fragment };
        let mut bytes = vec![0xa5; (sectors * SECTOR_BYTES) as usize];
        if let Err(error) = log.read_fragment(&part, &mut bytes, Wait::Yes) {
            self.excuse("read fragment", &error)?;
            return Ok(false);
        }
        let (expected, known) = self.oracle.content_since(volume, lba, sectors, span);
        check!(known.iter().all(|known| *known), "frozen sectors that were not written: {lba}+{sectors}");
        check!(bytes == expected, "frozen content of {lba}+{sectors} is wrong");
        Ok(true)
    }

    pub(super) fn read_present(&mut self) -> Done {
        let candidates: Vec<u32> = self.open.iter().chain(&self.open_taps).copied().collect();
        if candidates.is_empty() {
            return self.open_or_close();
        }
        for _ in 0..self.rng.within(1, 4) {
            let volume = self.rng.pick(&candidates);
            let range = self.range(volume);
            if self.rng.chance(300) {
                self.medium.forbid_reads(true);
                let before = self.medium.counters().reads_while_forbidden;
                let read = self.present(volume, range, Wait::No);
                self.medium.forbid_reads(false);
                let waited = self.medium.counters().reads_while_forbidden > before;
                match read {
                    Ok(()) | Err(Error::WouldBlock) => {}
                    Err(Error::Damaged { .. }) if self.is_hurt(volume, range, self.oracle.head()) => {}
                    Err(error) => self.excuse("read present without waiting", &error)?,
                }
                check!(!waited, "a read that must not wait did");
                self.compare_present(volume, range)?;
            } else {
                self.compare_present(volume, range)?;
            }
        }
        Ok(())
    }

    fn present(&self, volume: u32, (lba, sectors): (u64, u64), wait: Wait) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        for fragment in log.resolve_head(VolumeId(volume), Lba(lba), Sectors(sectors), wait)? {
            let mut bytes = vec![0; fragment.sectors.bytes() as usize];
            log.read_fragment(&fragment, &mut bytes, wait)?;
        }
        Ok(())
    }

    fn compare_present(&mut self, volume: u32, (lba, sectors): (u64, u64)) -> Done {
        let log = self.log()?;
        let mut refused = 0;
        let fragments = loop {
            match log.resolve_head(VolumeId(volume), Lba(lba), Sectors(sectors), Wait::Yes) {
                Ok(fragments) => break fragments,
                Err(error) if self.mended("resolve head", &error, &mut refused)? => {}
                Err(_) => return Ok(()),
            }
        };
        let mut bytes = vec![0xa5; (sectors * SECTOR_BYTES) as usize];
        let mut at = lba;
        for fragment in fragments {
            check!(fragment.lba.0 == at && fragment.sectors.0 > 0, "fragments do not tile {lba}+{sectors}");
            let from = ((at - lba) * SECTOR_BYTES) as usize;
            at += fragment.sectors.0;
            check!(at <= lba + sectors, "fragments reach beyond {lba}+{sectors}");
            let part = &mut bytes[from..((at - lba) * SECTOR_BYTES) as usize];
            match (fragment.found, self.open_taps.contains(&volume)) {
                (None, true) => {
                    let device = self.taps.get(&volume).copied().unwrap_or_default();
                    part.copy_from_slice(&self.oracle.content(
                        volume,
                        fragment.lba.0,
                        fragment.sectors.0,
                        device,
                    ));
                }
                _ => {
                    if let Err(error) = log.read_fragment(&fragment, part, Wait::Yes) {
                        let asked = (volume, (lba, sectors), self.oracle.head());
                        let read = |sector, bytes: &mut [u8]| {
                            let found =
                                log.resolve_head(VolumeId(volume), Lba(sector), Sectors(1), Wait::Yes)?;
                            found.iter().try_for_each(|found| log.read_fragment(found, bytes, Wait::Yes))
                        };
                        if self.costs_only_what_is_hurt("read present", &error, asked, read)? {
                            return Ok(());
                        }
                        return self.excuse("read present", &error);
                    }
                }
            }
        }
        check!(at == lba + sectors, "fragments end at {at} of {lba}+{sectors}");
        let head = self.oracle.head();
        self.same("present", volume, (lba, sectors), head, &bytes)
    }

    /// A moment that is likely to be interesting.
    fn moment(&mut self, volume: u32) -> Seq {
        let head = self.oracle.head().0;
        let of = &self.oracle.volumes[volume as usize];
        let (made, fork) = (of.made.0, of.parent.map_or(of.made.0, |(_, fork)| fork.0));
        let ends: Vec<u64> = self
            .medium
            .names()
            .iter()
            .filter_map(|name| Name::parse(name.strip_prefix("index/")?))
            .map(|name| name.end.0)
            .collect();
        let seq = match self.rng.below(10) {
            0 => head,
            1 => head + 1,
            2 => self.rng.within(fork.saturating_sub(2), fork + 2),
            3 => self.rng.within(made.saturating_sub(2), made + 2),
            4 => self.rng.below(4),
            // Around the end of a checkpoint.
            5 | 6 if !ends.is_empty() => (self.rng.pick(&ends) + 1).saturating_sub(self.rng.below(4)),
            5 => head - self.rng.below(20).min(head),
            _ => self.rng.below(head + 1),
        };
        Seq(if self.rng.chance(950) { seq.min(head) } else { seq })
    }

    pub(super) fn view(&mut self, volume: u32, seq: Seq) -> Done<Option<View>> {
        let head = self.oracle.head();
        let of = &self.oracle.volumes[volume as usize];
        let before = of.parent.is_none() && seq < of.made;
        match self.act("view", Vec::new(), |log| log.view(VolumeId(volume), seq))? {
            Act::Done(view) => {
                check!(!before && seq <= head, "a view of volume {volume} as of {seq}");
                check!(
                    view.sectors().0 == self.oracle.end_of(volume).0,
                    "a view of {} sectors",
                    view.sectors()
                );
                Ok(Some(view))
            }
            Act::Refused(Error::BeforeHistory { .. }) if before => Ok(None),
            Act::Refused(Error::InTheFuture { .. }) if seq > head => Ok(None),
            Act::Refused(error) => {
                let needs_to_write = matches!(error, Error::Full { .. } | Error::Poisoned);
                check!(!needs_to_write, "a view that needs room, or to write: {error}");
                self.excuse("view", &error).map(|()| None)
            }
            Act::Died => Ok(None),
        }
    }

    pub(super) fn compare_view(&mut self, view: &View, volume: u32, (lba, sectors): (u64, u64)) -> Done {
        let mut bytes = vec![0xa5; (sectors * SECTOR_BYTES) as usize];
        if self.rng.chance(150) {
            self.medium.forbid_reads(true);
            let before = self.medium.counters().reads_while_forbidden;
            let read = view.read(Lba(lba), &mut bytes, Wait::No);
            self.medium.forbid_reads(false);
            check!(
                self.medium.counters().reads_while_forbidden == before,
                "a read of the past that must not wait did"
            );
            match read {
                Ok(()) => return self.same("past, not waiting", volume, (lba, sectors), view.seq(), &bytes),
                Err(Error::WouldBlock) => {}
                Err(Error::Damaged { .. }) if self.is_hurt(volume, (lba, sectors), view.seq()) => {}
                Err(error) => return self.excuse("read past without waiting", &error),
            }
        }
        let mut refused = 0;
        loop {
            match view.read(Lba(lba), &mut bytes, Wait::Yes) {
                Ok(()) => return self.same("past", volume, (lba, sectors), view.seq(), &bytes),
                Err(error) if self.hurts_newest() => {
                    let asked = (volume, (lba, sectors), view.seq());
                    let read = |sector, bytes: &mut [u8]| view.read(Lba(sector), bytes, Wait::Yes);
                    return self.costs_only_what_is_hurt("read past", &error, asked, read).map(drop);
                }
                Err(error) if self.mended("read past", &error, &mut refused)? => {}
                Err(_) => return Ok(()),
            }
        }
    }

    pub(super) fn read_past(&mut self) -> Done {
        if !self.views.is_empty() && self.rng.chance(300) {
            // Views that were made long ago must not have changed.
            let which = self.rng.below(self.views.len() as u64) as usize;
            let (view, volume) = self.views[which].clone();
            let range = self.range(volume);
            return self.compare_view(&view, volume, range);
        }
        let volume = self.any_volume();
        let seq = self.moment(volume);
        let Some(view) = self.view(volume, seq)? else { return Ok(()) };
        self.say(format!("view of {volume} as of {seq}"));
        for _ in 0..self.rng.within(1, 4) {
            let range = self.range(volume);
            self.compare_view(&view, volume, range)?;
        }
        if self.views.len() > 3 {
            self.views.remove(0);
        }
        self.views.push((view, volume));
        Ok(())
    }

    /// Compares everything, at the present and at some other moments.
    pub(super) fn compare_all(&mut self, moments: u64) -> Done {
        const CHUNK: u64 = 256;
        self.say("compare all");
        for volume in 0..self.oracle.volumes.len() as u32 {
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            let end = self.oracle.end_of(volume).0;
            if end <= 8192 {
                ranges.extend((0..end).step_by(CHUNK as usize).map(|lba| (lba, CHUNK.min(end - lba))));
            } else {
                ranges.extend((0..60).map(|_| self.range(volume)));
            }
            if self.open.contains(&volume) || self.open_taps.contains(&volume) {
                for &range in &ranges {
                    self.compare_present(volume, range)?;
                }
            }
            for i in 0..moments {
                let seq = if i == 0 { self.oracle.head() } else { self.moment(volume) };
                let Some(view) = self.view(volume, seq)? else {
                    if self.medium.is_dead() {
                        return Ok(());
                    }
                    continue;
                };
                for &range in &ranges {
                    self.compare_view(&view, volume, range)?;
                }
            }
        }
        let (from, to) = (Seq(0), self.oracle.head());
        self.compare_events(from, to)?;
        if let Some(differs) =
            self.oracle.catalog_differs(&self.log()?.catalog(), self.fresh.then_some(self.life))
        {
            return Err(Failure(format!("the catalog's {differs} differ")));
        }
        Ok(())
    }

    pub(super) fn times(&mut self) -> Done {
        let log = self.log()?;
        let head = self.oracle.head();
        for _ in 0..3 {
            let seq = Seq(self.rng.within(1, head.0));
            let expected = self.oracle.record(seq.0).map(|r| r.0);
            match log.time_of(seq) {
                Ok(time) => check!(Some(time) == expected, "time of {seq} is {time} instead of {expected:?}"),
                Err(error) => self.excuse("time of", &error)?,
            }
            let near = expected.unwrap_or_default().0;
            let off = self.rng.pick(&[1, 2, 1000, 5_000_000, 7_200_000_000]);
            let time = match self.rng.below(3) {
                0 => near,
                1 => near + self.rng.below(off) as i64,
                _ => near - self.rng.below(off) as i64,
            };
            match log.at_time(Micros(time)) {
                Ok(hits) => {
                    let expected = self.oracle.at_time(Micros(time));
                    check!(hits == expected, "at {time}: {hits:?} instead of {expected:?}");
                    self.note(format!("{hits:?}").as_bytes());
                }
                Err(error) => self.excuse("at time", &error)?,
            }
        }
        let future = log.time_of(head.next());
        check!(matches!(future, Err(Error::InTheFuture { .. })), "time of the future: {future:?}");
        Ok(())
    }

    pub(super) fn read_events(&mut self) -> Done {
        let head = self.oracle.head().0;
        let (a, b) = (self.rng.below(head + 1), self.rng.below(head + 3));
        self.compare_events(Seq(a.min(b)), Seq(a.max(b)))
    }

    fn compare_events(&mut self, from: Seq, to: Seq) -> Done {
        let mut found = Vec::new();
        let result = self.log()?.events(from, to, &mut |event| {
            found.push(event.clone());
            true
        });
        if let Err(error) = result {
            return self.excuse("events", &error);
        }
        let missing = self.hurt_seqs();
        let is_found: BTreeSet<Seq> = found.iter().map(|event| event.seq).collect();
        let may_be_missing = |seq: Seq| missing.contains(&seq.0) && !is_found.contains(&seq);
        let found = found.iter().map(|e| (e.seq, e.time, e.branch, &e.event));
        let expected = self.oracle.events(from, to).filter(|event| !may_be_missing(event.0));
        check!(found.eq(expected), "events of {from}..{to} differ");
        Ok(())
    }

    pub(super) fn verify(&mut self) -> Done {
        let newest_first = self.rng.chance(500);
        let durable = self.log()?.durable_seq();
        match self.log()?.verify(newest_first, &mut |_, _| true) {
            Ok(report) => {
                self.say(format!("verified {}", report.checked_bytes));
                check!(report.complete, "verification was not complete");
                if self.hurts_newest() {
                    return self.names_what_is_hurt(&report.damaged, durable);
                }
                // What could not be read may look damaged otherwise, too.
                let is_passing = |found: &&Damaged| self.episode > 0 && found.damage == Damage::Unreadable;
                let unread = report.damaged.iter().filter(is_passing).map(|found| found.place.file.as_str());
                let unread: BTreeSet<&str> = unread.collect();
                let known =
                    |file: &str| self.hurt_index && file.starts_with("index/") || unread.contains(file);
                let fine = report.damaged.iter().all(|damaged| known(&damaged.place.file))
                    || self.damaged
                    || self.medium.sync_failed();
                if !fine {
                    let segments = crate::inspect::segments(&self.medium);
                    self.say(segments);
                }
                check!(fine, "verification found {:?}", report.damaged);
                Ok(())
            }
            Err(error) => self.excuse("verify", &error),
        }
    }
}
