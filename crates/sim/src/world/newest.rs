//! Bit rot where the log grows: in segments that have no index yet, while the log is in use and between two lives.
//!
//! Only these records themselves can vouch for their integrity, and nothing shows that the newest of them were durable:
//! damage there looks like the result of a power cut. So this module states for each answer what the damage may cost:
//! - a read of a sector may fail if the version asked for is in a damaged granule; every other sector of the same read
//!   is served;
//! - recovery may end the log at a damaged record if nothing readable shows that it was durable, and nowhere else;
//! - an event in a damaged record may be missing;
//! - `verify` and the report at opening name damaged records, all of them that were durable, and nothing else.
//!
//! Catalog records are spared, because the loss of one affects more than one block (profile `rot` damages them).

use std::collections::{BTreeMap, BTreeSet};

use bygone_model::{SECTOR_BYTES, Seq};
use bygone_store::{
    Damaged, Error, Place,
    format::{
        record::{GRANULE_BYTES, HEADER_BYTES},
        segment::{self, SEGMENT_HEADER_BYTES},
    },
};

use super::{Done, World, check};
use crate::{
    inspect::{self, Placed},
    oracle::Rec,
};

/// The damaged part of a record.
enum Part {
    /// Its header or the checksums behind it, on which everything else depends.
    All,
    /// These granules of its payload.
    Granules(BTreeSet<u64>),
}

/// The current damage.
#[derive(Default)]
pub(super) struct Hurt {
    records: BTreeMap<u64, (Part, Placed)>,
    /// Segments whose header is damaged, by their first seq.
    headers: BTreeMap<u64, String>,
    /// Bytes of records that no checksum covers and that should be zero: `verify` may name them once a segment is sealed.
    padding: BTreeSet<(u32, u64)>,
}

impl Hurt {
    fn covers(&self, seq: Seq, sector: u64) -> bool {
        match self.records.get(&seq.0) {
            None => false,
            Some((Part::All, _)) => true,
            Some((Part::Granules(granules), _)) => {
                granules.contains(&(sector * SECTOR_BYTES / GRANULE_BYTES as u64))
            }
        }
    }

    /// Whether there is damage at a place.
    fn is_at(&self, place: &Place) -> bool {
        let in_record = |(_, placed): &(Part, Placed)| {
            let extent = placed.at..placed.header.end(placed.at);
            place.file == segment::label(placed.segment) && extent.contains(&place.offset)
        };
        let in_padding =
            |(number, at): &(u32, u64)| place.file == segment::label(*number) && place.offset == *at;
        self.records.values().any(in_record)
            || self.padding.iter().any(in_padding)
            || place.offset == 0 && self.headers.values().any(|file| *file == place.file)
    }
}

/// The part of a record at this byte, if a checksum covers it.
fn part_of(placed: &Placed, offset: u64) -> Option<Part> {
    let payload_bytes = u64::from(placed.header.payload_bytes);
    let granules = payload_bytes.div_ceil(GRANULE_BYTES as u64);
    let crcs_bytes = if granules > 1 { granules * 4 } else { 0 };
    let payload_at = placed.header.payload_at(placed.at);
    if offset < placed.at + HEADER_BYTES as u64 + crcs_bytes {
        Some(Part::All)
    } else if (payload_at..payload_at + payload_bytes).contains(&offset) {
        Some(Part::Granules([(offset - payload_at) / GRANULE_BYTES as u64].into()))
    } else {
        None
    }
}

impl World {
    pub(super) fn hurts_newest(&self) -> bool {
        self.profile.steps.iter().any(|step| step.0 == crate::profile::Step::RotNewest)
    }

    pub(super) fn rot_newest(&mut self) -> Done {
        if self.rng.chance(600) {
            self.flip_newest();
            return Ok(());
        }
        self.rot_between_lives = true;
        let power_cut = self.rng.chance(400);
        self.reopen(power_cut)
    }

    /// Flips bits in segments without an index, mostly in the newest records.
    pub(super) fn flip_newest(&mut self) {
        for _ in 0..self.rng.within(1, 3) {
            let unsealed: Vec<String> = inspect::segment_names(&self.medium)
                .into_iter()
                .filter(|name| {
                    let bytes = self.medium.sound_bytes(name).unwrap_or_default();
                    !bytes.is_empty() && !inspect::is_sealed(name, &bytes)
                })
                .collect();
            let Some(last) = unsealed.last() else { return };
            let name = if self.rng.chance(600) {
                last.clone()
            } else {
                unsealed[self.rng.below(unsealed.len() as u64) as usize].clone()
            };
            self.flip_in(&name);
        }
    }

    fn flip_in(&mut self, name: &str) {
        let len = self.medium.sound_bytes(name).unwrap_or_default().len() as u64;
        let all = inspect::placed(&self.medium);
        let here: Vec<&Placed> =
            all.values().filter(|placed| segment::label(placed.segment) == inspect::label(name)).collect();
        let end = here.last().map_or(SEGMENT_HEADER_BYTES as u64, |placed| placed.header.end(placed.at));
        let (choice, bit) = (self.rng.below(20), self.rng.below(8) as u32);
        if choice == 0 {
            // Repeatedly, too: a manifest also identifies the log.
            let offset = self.rng.below(SEGMENT_HEADER_BYTES as u64) as usize;
            self.flip_at(name, offset, bit, "its header");
            return;
        }
        if choice < 3 {
            // Belongs to no record: the next one overwrites it.
            if end < len {
                let offset = self.rng.within(end, len - 1) as usize;
                self.say(format!("flip bit {bit} of byte {offset} of {name}, behind its records"));
                self.medium.flip(name, offset, bit);
            }
            return;
        }
        let spared = |placed: &Placed| {
            !matches!(
                self.oracle.record(placed.header.seq.0),
                Some((_, Rec::Block(_) | Rec::Event(..) | Rec::Mark))
            )
        };
        let here: Vec<&Placed> = here.into_iter().filter(|placed| !spared(placed)).collect();
        if here.is_empty() {
            return;
        }
        let newest = here.len() - here.len().min(8);
        let from = if self.rng.chance(600) { newest } else { 0 };
        let placed = here[self.rng.within(from as u64, here.len() as u64 - 1) as usize];
        let (at, end) = (placed.at, placed.header.end(placed.at));
        let payload_at = placed.header.payload_at(at);
        let offset = match self.rng.below(4) {
            0 => at + self.rng.below(HEADER_BYTES as u64),
            1 => self.rng.within(at, payload_at.max(at + 1) - 1),
            _ if payload_at < end => self.rng.within(payload_at, end - 1),
            _ => at + self.rng.below(HEADER_BYTES as u64),
        };
        let header = at as usize..at as usize + HEADER_BYTES;
        // A header that is damaged twice cannot be reconstructed.
        let again = self.medium.rotten(name).iter().any(|other| header.contains(other));
        if header.contains(&(offset as usize)) && again {
            return;
        }
        let what = format!("record {} ({:?})", placed.header.seq, placed.header.op);
        self.flip_at(name, offset as usize, bit, &what);
    }

    fn flip_at(&mut self, name: &str, offset: usize, bit: u32, what: &str) {
        self.say(format!("flip bit {bit} of byte {offset} of {name}, {what}"));
        self.medium.rot(name, offset, bit);
        self.stats.damages += 1;
    }

    pub(super) fn hurt_now(&self) -> Hurt {
        let mut hurt = Hurt::default();
        if !self.hurts_newest() {
            return hurt;
        }
        let mut rotten: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for name in inspect::segment_names(&self.medium) {
            let Some(segment::Name { number, .. }) = inspect::segment_name(&name) else { continue };
            let places: Vec<u64> = self.medium.rotten(&name).into_iter().map(|at| at as u64).collect();
            if places.first().is_some_and(|at| *at < SEGMENT_HEADER_BYTES as u64)
                && let Some(first) = inspect::first_seq(&self.medium, &name)
            {
                hurt.headers.insert(first.0, inspect::label(&name));
            }
            rotten.insert(number, places);
        }
        if rotten.values().all(Vec::is_empty) {
            return hurt;
        }
        for (seq, placed) in inspect::placed(&self.medium) {
            let extent = placed.at..placed.header.end(placed.at);
            let mut granules = BTreeSet::new();
            let mut part = None;
            for &at in rotten[&placed.segment].iter().filter(|at| extent.contains(at)) {
                match part_of(&placed, at) {
                    Some(Part::All) => part = Some(Part::All),
                    Some(Part::Granules(one)) => granules.extend(one),
                    None => drop(hurt.padding.insert((placed.segment, at))),
                }
            }
            if !granules.is_empty() {
                part = part.or(Some(Part::Granules(granules)));
            }
            if let Some(part) = part {
                hurt.records.insert(seq, (part, placed));
            }
        }
        hurt
    }

    /// The seqs at which recovery may end the log: damaged records that nothing readable shows to have been durable.
    pub(super) fn ends_that_may_be(&self) -> BTreeSet<u64> {
        let hurt = self.hurt_now();
        let mut ends: BTreeSet<u64> = hurt.records.keys().chain(hurt.headers.keys()).copied().collect();
        if ends.is_empty() {
            return ends;
        }
        let sealed = inspect::sealed_ends(&self.medium).last().copied().unwrap_or_default();
        let all = inspect::placed(&self.medium);
        ends.retain(|&end| {
            let says_so = |(seq, placed): (&u64, &Placed)| {
                let readable = !matches!(hurt.records.get(seq), Some((Part::All, _)));
                readable && placed.header.durable.0 >= end
            };
            sealed.0 < end && !all.range(end + 1..).any(says_so)
        });
        ends
    }

    /// Whether a read of this range may fail.
    pub(super) fn is_hurt(&self, volume: u32, (lba, sectors): (u64, u64), seq: Seq) -> bool {
        let hurt = self.hurt_now();
        let covers = |sector| {
            self.oracle.version(volume, sector, seq).is_some_and(|(seq, within)| hurt.covers(seq, within))
        };
        (lba..lba + sectors).any(covers)
    }

    /// Handles a read that failed with `error`. In a world of this kind, damaged sectors may fail, and all others must
    /// be readable. False: this is not such a world.
    pub(super) fn costs_only_what_is_hurt(
        &mut self,
        what: &str,
        error: &Error,
        (volume, (lba, sectors), seq): (u32, (u64, u64), Seq),
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Error>,
    ) -> Done<bool> {
        if !self.hurts_newest() {
            return Ok(false);
        }
        let in_log = matches!(error, Error::Damaged { place, .. } if place.file.starts_with("log/"));
        check!(in_log, "{what}: {error}");
        let hurt = self.hurt_now();
        let mut refused = 0;
        for sector in lba..lba + sectors {
            let version = self.oracle.version(volume, sector, seq);
            let mut bytes = [0xa5; SECTOR_BYTES as usize];
            match read(sector, &mut bytes) {
                Ok(()) => {
                    let expected = self.oracle.content(volume, sector, 1, seq);
                    check!(
                        bytes[..] == expected,
                        "{what}: sector {sector} of volume {volume} as of {seq} is wrong"
                    );
                }
                Err(Error::Damaged { .. }) => {
                    let covers = version.is_some_and(|(seq, within)| hurt.covers(seq, within));
                    check!(
                        covers,
                        "{what}: sector {sector} of volume {volume} as of {seq}, version {version:?}: {error}"
                    );
                    refused += 1;
                }
                Err(other) => return Err(super::Failure(format!("{what}: sector {sector}: {other}"))),
            }
        }
        check!(refused > 0, "{what}: {error}, but each sector can be read");
        self.stats.damage_errors += 1;
        Ok(true)
    }

    /// The events that may be missing.
    pub(super) fn hurt_seqs(&self) -> BTreeSet<u64> {
        self.hurt_now().records.into_keys().collect()
    }

    /// Whether there is damage at the place that the log reports.
    pub(super) fn is_hurt_at(&self, place: &Place) -> bool {
        self.hurt_now().is_at(place)
    }

    /// Checks that verification names all damage to durable records, and nothing else.
    pub(super) fn names_what_is_hurt(&mut self, damaged: &[Damaged], durable: Seq) -> Done {
        let hurt = self.hurt_now();
        for Damaged { place, damage } in damaged {
            check!(hurt.is_at(place), "verification found {place}: {damage}, where nothing is hurt");
        }
        let named = |placed: &Placed| {
            let extent = placed.at..placed.header.end(placed.at);
            damaged.iter().any(|damaged| {
                damaged.place.file == segment::label(placed.segment) && extent.contains(&damaged.place.offset)
            })
        };
        for (seq, (_, placed)) in hurt.records.range(..=durable.0) {
            check!(named(placed), "verification does not name record {seq}; it found {damaged:?}");
        }
        for file in hurt.headers.values() {
            let named = damaged.iter().any(|damaged| damaged.place.file == *file);
            check!(named, "verification does not name {file}; it found {damaged:?}");
        }
        self.note(&(hurt.records.len() as u64).to_le_bytes());
        Ok(())
    }
}
