//! Damage to stored data: every read is correct or fails.

use std::collections::{BTreeMap, BTreeSet};

use bygone_model::Seq;
use bygone_store::{
    Damage, Error, Log,
    format::{
        checkpoint::FRAME_BYTES,
        manifest::{self, Manifest},
        record::HEADER_BYTES,
    },
};

use super::{Done, World, check};
use crate::{inspect, oracle::Rec};

/// The damaged files that a checksum covers completely, with their content afterwards.
type Hurt = BTreeMap<String, Option<Vec<u8>>>;

/// The longest wait of an index that could not be rebuilt because a read failed.
const AGAIN_MICROS_MAX: i64 = 3_600_000_000;

impl World {
    /// Index files are lost. Nothing else is: they are rebuilt from the log.
    pub(super) fn lose_index(&mut self) -> Done {
        if self.log()?.is_poisoned() {
            return Ok(());
        }
        self.end_episode();
        self.medium.die_in(None);
        self.reopen(false)?;
        self.log = None;
        let names: Vec<String> =
            self.medium.names().into_iter().filter(|n| n.starts_with("index/")).collect();
        let mode = self.rng.below(4);
        for (i, name) in names.iter().enumerate() {
            let last = i + 1 == names.len();
            let lost = match mode {
                0 => true,
                1 => last,
                2 => i + 3 >= names.len(),
                _ => self.rng.chance(300),
            };
            if lost {
                self.say(format!("lose {name}"));
                self.medium.erase(name);
                self.lost_index = true;
            }
        }
        self.reopen(false)?;
        self.compare_all(3)
    }

    /// Bits of index files rot while the log is in use. A read may fail with damage in pages and tables until upkeep has
    /// rebuilt them. No read returns wrong data, and afterwards every read succeeds.
    pub(super) fn rot_index(&mut self) -> Done {
        if self.log()?.is_poisoned() {
            return Ok(());
        }
        let names: Vec<String> =
            self.medium.names().into_iter().filter(|name| name.starts_with("index/")).collect();
        let newest_only = self.rng.chance(400);
        for (i, name) in names.iter().enumerate().rev() {
            if newest_only && i + 3 < names.len() || !self.rng.chance(600) {
                continue;
            }
            let Some(bytes) = self.medium.bytes(name) else { continue };
            let Some(end) = inspect::pages_end(&bytes).filter(|end| *end > FRAME_BYTES) else { continue };
            for _ in 0..self.rng.within(1, 6) {
                let offset = match self.rng.chance(200) {
                    true => self.rng.below(bytes.len() as u64),
                    false => self.rng.within(FRAME_BYTES as u64, end as u64 - 1),
                } as usize;
                if !is_padding(&bytes, offset) {
                    let bit = self.rng.below(8) as u32;
                    self.say(format!("flip bit {bit} of byte {offset} of {name} in use"));
                    self.medium.flip(name, offset, bit);
                    self.stats.damages += 1;
                    self.hurt_index = true;
                }
            }
        }
        Ok(())
    }

    /// Handles a read that failed with `error`. True: pages of the index were damaged and upkeep has rebuilt them, so
    /// the read is to be retried. False: it needs another excuse. `refused` counts the failures, each in another stripe
    /// of another volume.
    pub(super) fn mended(&mut self, what: &str, error: &Error, refused: &mut usize) -> Done<bool> {
        let of_index = matches!(error, Error::Damaged { place, damage } if place.file.starts_with("index/")
            && *damage != Damage::Unreadable);
        *refused += 1;
        let many = *refused > 2 * self.oracle.volumes.len();
        if of_index && self.hurt_index && many && self.episode > 0 {
            // While reads fail it cannot be rebuilt.
            self.stats.damage_errors += 1;
            return Ok(false);
        }
        if !of_index || !self.hurt_index || self.damaged || many {
            self.excuse(what, error)?;
            return Ok(false);
        }
        self.stats.damage_errors += 1;
        if *refused > 1 && self.episode == 0 {
            // Reads failed while it was to be rebuilt, and it waits to be tried again.
            self.clock.advance(AGAIN_MICROS_MAX);
        }
        self.maintain(100)?;
        Ok(true)
    }

    /// Bits rot, files are truncated or lost, while the log is closed.
    pub(super) fn rot(&mut self) -> Done {
        if self.log()?.is_poisoned() {
            return Ok(());
        }
        self.end_episode();
        self.medium.die_in(None);
        self.reopen(false)?;
        // Sometimes the newest segments are not sealed yet.
        for _ in 0..self.rng.below(6) {
            self.append()?;
        }
        let upkeep = self.rng.below(8) as usize;
        self.maintain(upkeep)?;
        self.flush()?;
        self.log = None;
        self.views.clear();
        self.open.clear();
        self.open_taps.clear();
        self.medium.kill();
        let snapshot = self.medium.snapshot();
        let (oracle, limbo, taps) = (self.oracle.clone(), self.limbo.clone(), self.taps.clone());

        let hurt = self.hurt();
        self.damaged = true;
        match Log::open(self.medium.dir(), self.clock.clone(), self.options.clone()) {
            Ok(log) => {
                self.log = Some(log);
                self.look_at_damage(&hurt)?;
            }
            Err(error) => {
                self.say(format!("opening: {error}"));
                let empty = matches!(error, Error::NoLog)
                    && !self.medium.names().iter().any(|n| n.starts_with("log/"));
                check!(empty || matches!(error, Error::Damaged { .. }), "opening with damage: {error}");
            }
        }
        self.damaged = false;
        self.hurt_unsealed = false;
        self.suspects.clear();

        self.log = None;
        self.views.clear();
        self.open.clear();
        self.open_taps.clear();
        self.medium.restore(&snapshot);
        (self.oracle, self.limbo, self.taps) = (oracle, limbo, taps);
        self.reopen(false)
    }

    /// Inflicts some damage; returns the files.
    fn hurt(&mut self) -> Hurt {
        let mut hurt = Hurt::new();
        let all = self.medium.names();
        let folder = self.rng.pick(&["log/", "index/", ""]);
        let segments = inspect::segment_names(&self.medium);
        // What a superseded holder left is never looked at.
        let counts = |name: &String| inspect::segment_name(name).is_none() || segments.contains(name);
        let names: Vec<&String> = all.iter().filter(|n| n.starts_with(folder) && counts(n)).collect();
        if names.is_empty() {
            return hurt;
        }
        let is_manifest = |name: &&&String| name.starts_with("manifest/") && !name.ends_with(".part");
        let newest_manifest = names.iter().rev().find(is_manifest).copied();
        let mut flipped = Vec::new();
        let times = self.rng.within(1, 3);
        // One that is damaged names no other one, so of several only the newest is found for sure.
        let named = if times == 1 { self.named_manifests() } else { BTreeSet::new() };
        for _ in 0..times {
            let name = if self.rng.chance(300) {
                names[names.len() - 1]
            } else {
                names[self.rng.below(names.len() as u64) as usize]
            };
            let Some(bytes) = self.medium.bytes(name).filter(|bytes| !bytes.is_empty()) else { continue };
            match self.rng.below(20) {
                0 => {
                    let len = self.place_to_cut(&bytes);
                    self.say(format!("cut {name} to {len}"));
                    self.medium.truncate(name, len);
                }
                1 => {
                    self.say(format!("lose {name}"));
                    self.medium.erase(name);
                    if name.starts_with("manifest/") && !named.contains(name) {
                        // Nothing names the newest one, and those before the last full one do not count any more.
                        hurt.remove(name);
                        self.stats.damages += 1;
                        continue;
                    }
                }
                _ => {
                    let offset = self.place_to_hurt(&bytes);
                    if is_padding(&bytes, offset) {
                        continue;
                    }
                    let bit = self.rng.below(8) as u32;
                    // A bit flipped back is not damaged.
                    if flipped.contains(&(name, offset, bit)) {
                        continue;
                    }
                    flipped.push((name, offset, bit));
                    self.say(format!("flip bit {bit} of byte {offset} of {} of {name}", bytes.len()));
                    self.medium.flip(name, offset, bit);
                }
            }
            self.stats.damages += 1;
            // A manifest holds no records, so none may be missing without it. Older ones may not count any more.
            if name.starts_with("manifest/") && Some(name) != newest_manifest && !named.contains(name) {
                continue;
            }
            let is_whole = ["index/", "manifest/"].iter().any(|folder| name.starts_with(folder));
            let sealed = is_whole || inspect::is_sealed(name, &bytes);
            if sealed {
                hurt.insert(name.clone(), self.medium.bytes(name));
            } else {
                self.hurt_unsealed = true;
            }
        }
        hurt
    }

    /// The manifests that count and that a later one names.
    fn named_manifests(&self) -> BTreeSet<String> {
        let number = |name: &String| name.strip_prefix("manifest/").and_then(manifest::number_of);
        let mut next = self.medium.names().iter().filter_map(number).max();
        let mut named = BTreeSet::new();
        while let Some(number) = next {
            let name = manifest::file_name(number);
            let bytes = self.medium.bytes(&name).unwrap_or_default();
            let Ok(read) = Manifest::decode(&bytes, number) else { break };
            next = read.previous.map(|(before, _)| before).filter(|_| !read.is_full);
            named.extend(next.map(manifest::file_name));
        }
        named
    }

    /// Often within a record's header, where the rest looks complete, and often within the first one.
    fn place_to_cut(&mut self, bytes: &[u8]) -> usize {
        let starts = starts_of_records(bytes);
        let place = match self.rng.below(4) {
            0 if !starts.is_empty() => starts[0] as u64 + self.rng.below(HEADER_BYTES as u64),
            1 if !starts.is_empty() => self.rng.pick(&starts) as u64 + self.rng.below(HEADER_BYTES as u64),
            _ => self.rng.below(bytes.len() as u64),
        };
        place.min(bytes.len() as u64 - 1) as usize
    }

    fn place_to_hurt(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len() as u64;
        let starts = starts_of_records(bytes);
        let place = match self.rng.below(4) {
            // Headers, which a lookup mostly relies on.
            0 | 1 if !starts.is_empty() => {
                let start = self.rng.pick(&starts);
                if let Some(seq) = bytes[start..].get(16..24).and_then(|seq| seq.try_into().ok()) {
                    self.suspects.push(Seq(u64::from_le_bytes(seq)));
                }
                let field = self.rng.pick(&[32, 32, 40, 44, 60, 12, 0]);
                let field = if field == 0 { self.rng.below(64) } else { field };
                start as u64 + field
            }
            2 => len - 1 - self.rng.below(len.min(300)),
            _ => self.rng.below(len),
        };
        place.min(len - 1) as usize
    }

    /// Reads exactly what the damaged records wrote.
    fn look_at_suspects(&mut self) -> Done {
        for seq in std::mem::take(&mut self.suspects) {
            let Some((_, Rec::Block(block))) = self.oracle.record(seq.0).cloned() else { continue };
            let volume = block.volume.0;
            let Some(view) = self.view(volume, seq)? else { continue };
            for _ in 0..4 {
                let skip = self.rng.below(block.sectors);
                let sectors = self.rng.within(1, block.sectors - skip).min(4096);
                self.compare_view(&view, volume, (block.lba + skip, sectors))?;
            }
        }
        Ok(())
    }

    fn look_at_damage(&mut self, hurt: &Hurt) -> Done {
        let log = self.log()?;
        let reported: BTreeSet<String> =
            log.damage_at_open().iter().map(|(place, _)| place.file.clone()).collect();
        let recovered = log.head_seq().0;
        let old_head = self.oracle.head().0;
        // A lost end of the last segment looks the same as the result of a power cut.
        let lost = recovered != old_head || log.found_last() != self.oracle.last_time();
        let in_log = reported.iter().any(|file| file.starts_with("log/"));
        self.say(format!("recovered {recovered}, reported {reported:?}"));
        check!(recovered <= old_head, "records come from nowhere: {recovered} of {old_head}");
        if lost || in_log {
            // Which moments are correct cannot be determined, but nothing may panic and nothing else may happen.
            check!(
                self.hurt_unsealed || hurt.keys().any(|file| file.starts_with("log/")),
                "records are lost, but only the index was hurt"
            );
            self.roam();
            return Ok(());
        }
        self.fresh = true;
        self.life = log.catalog().incarnation;
        self.limbo.clear();
        self.oracle.durable = self.oracle.head();
        let report =
            log.verify(true, &mut |_, _| true).map_err(|e| super::Failure(format!("verify: {e}")))?;
        for (file, bytes) in hurt {
            // A segment that was not sealed is sealed now, without its damaged records.
            let found = report.damaged.iter().any(|damaged| damaged.place.file == inspect::label(file));
            // Unusable parts of the index were removed and rebuilt, including a segment's index.
            let now = self.medium.bytes(file);
            let gone = now != *bytes || now.is_none() && file.starts_with("index/");
            let gone = gone || inspect::may_be_unneeded(&self.medium, file);
            check!(
                found || gone || reported.contains(&inspect::label(file)),
                "verification did not find the damage in {file}; it found {:?}",
                report.damaged
            );
        }
        let only_index = hurt.keys().all(|file| file.starts_with("index/"));
        self.look_at_suspects()?;
        for _ in 0..4 {
            self.open_or_close()?;
            self.read_past()?;
            self.read_present()?;
            self.times()?;
            self.read_events()?;
            self.append()?;
            self.flush()?;
            self.maintain(3)?;
        }
        self.compare_all(2)?;
        self.note(&[u8::from(only_index)]);
        Ok(())
    }

    /// Reads everything, whatever the results.
    fn roam(&mut self) {
        let Some(log) = self.log.clone() else { return };
        let head = log.head_seq();
        for volume in &log.catalog().volumes {
            let seq = bygone_model::Seq(self.rng.below(head.0 + 1));
            let Ok(view) = log.view(volume.id, seq) else { continue };
            let mut bytes = vec![0; 64 << 9];
            let sectors = view.sectors().0;
            for _ in 0..8 {
                let lba = self.rng.below(sectors.saturating_sub(64) + 1);
                let _ = view.read(bygone_model::Lba(lba), &mut bytes, bygone_store::Wait::Yes);
            }
            let _ = log.at_time(bygone_model::Micros(self.oracle.last_time().0));
            let _ = log.time_of(seq);
        }
        let _ = log.events(bygone_model::Seq(0), head, &mut |_| true);
        let _ = log.verify(false, &mut |_, _| true);
        let _ = log.maintain();
    }
}

fn starts_of_records(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len()).step_by(8).filter(|&i| bytes[i..].get(8..12) == Some(b"ByRe")).collect()
}

/// Bytes that no checksum covers: zero padding to a multiple of 8.
fn is_padding(bytes: &[u8], offset: usize) -> bool {
    let end = (offset + 1).next_multiple_of(8).min(bytes.len());
    bytes[offset..end].iter().all(|byte| *byte == 0)
}
