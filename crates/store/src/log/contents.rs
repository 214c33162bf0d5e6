//! What segments hold: from memory if they are not sealed, otherwise from their index.
//!
//! Invariant: nothing here scans the file of the active segment, in which a record that is being written would look
//! damaged.

use std::{ops::Range, sync::Arc};

use bygone_model::{Micros, Seq, VolumeId};
use rustc_hash::FxHashMap;

use super::{Log, scan};
use crate::{
    catalog::Lost,
    error::{Damage, Error, Result},
    format::{
        checkpoint::{self, SegmentStart},
        cursor, manifest,
        segment::{self, Entry},
    },
};

/// The span of a segment, and its versions.
struct SegmentVersions {
    first: Seq,
    last: Seq,
    entries: Arc<Vec<Entry>>,
}

impl Log {
    /// The first seq of a segment, the times of all its records, and the records whose times are unknown.
    pub(super) fn segment_times(&self, number: u32) -> Result<(Seq, Vec<Micros>, Vec<Range<Seq>>)> {
        {
            let sequencer = self.sequencer();
            if let Some(active) = sequencer.active.as_ref().filter(|active| active.number == number) {
                return Ok((active.first_seq, active.times.clone(), Vec::new()));
            }
            if let Some(full) = sequencer.full.iter().find(|full| full.number == number) {
                return Ok((full.first_seq, full.times.clone(), Vec::new()));
            }
        }
        if let Some(container) = self.places.elsewhere(number) {
            let index = container.index(number)?;
            return Ok((index.first_seq, index.times, Vec::new()));
        }
        let scanned = self.scan_segment(number)?;
        Ok((scanned.index.first_seq, scanned.index.times, scanned.lost))
    }

    /// Reads a segment that takes no more records.
    fn scan_segment(&self, number: u32) -> Result<scan::Scanned> {
        let file = self.places.segments.file(number)?;
        if let Some(sealed) = scan::scan_sealed(&*file, number, &self.key)? {
            return Ok(sealed);
        }
        let (durable, until) = (self.durable_seq(), self.first_behind(number)?);
        let header = scan::read_header(&*file, number, &self.key)?;
        let expected = if header.is_none() { self.start_of(number)? } else { None };
        let context = scan::Context { log: self.key, expected, until, durable };
        scan::scan_records(&*file, number, header, context)
    }

    /// The first seq of a segment, without reading the segment.
    fn start_of(&self, number: u32) -> Result<Option<Seq>> {
        let among =
            |starts: &[SegmentStart]| starts.iter().find(|start| start.0 == number).map(|start| start.1);
        let recent = among(&self.sequencer().segments);
        if recent.is_some() {
            return Ok(recent);
        }
        let snapshot = self.index.snapshot();
        for &name in snapshot.names.iter().rev() {
            let checkpoint = match self.open_checkpoint(name) {
                // An older one may have it as well.
                Err(Error::Damaged { .. }) => continue,
                opened => opened?,
            };
            let starts = &checkpoint.footer.segments;
            if starts.first().is_some_and(|first| first.0 <= number) {
                return Ok(among(starts));
            }
        }
        Ok(None)
    }

    /// The first seq of the segments after `number`: records of that one from there on do not belong to the log.
    pub(super) fn first_behind(&self, number: u32) -> Result<Seq> {
        let (newest, in_memory) = {
            let sequencer = self.sequencer();
            let full = sequencer.full.iter().map(|full| (full.number, full.first_seq));
            let active = sequencer.active.iter().map(|active| (active.number, active.first_seq));
            (sequencer.newest, full.chain(active).collect::<FxHashMap<u32, Seq>>())
        };
        let mut behind = self.segments_there()?;
        // One in use may have lost its name.
        behind.extend(in_memory.keys());
        behind.sort_unstable();
        behind.dedup();
        for next in behind.into_iter().filter(|next| (number + 1..=newest).contains(next)) {
            if let Some(first) = in_memory.get(&next) {
                return Ok(*first);
            }
            if let Some(container) = self.places.elsewhere(next) {
                return Ok(container.index(next)?.first_seq);
            }
            let file = self.places.segments.file(next)?;
            if let Some((first, _)) = scan::beginning(&*file, next, self.key)? {
                return Ok(first);
            }
        }
        Ok(Seq::MAX)
    }

    /// The index of a segment that takes no more records; rebuilt from the records if it has none.
    pub(super) fn segment_index(&self, number: u32) -> Result<segment::SegmentIndex> {
        if let Some(container) = self.places.elsewhere(number) {
            return container.index(number);
        }
        let scanned = self.scan_segment(number)?;
        match scanned.damage.first() {
            // A record with a damaged payload is still known; reading it reports the damage.
            Some(&(offset, damage)) if !scanned.lost.is_empty() => {
                Err(Error::damaged(&segment::label(number), offset, damage))
            }
            _ => Ok(scanned.index),
        }
    }

    /// The same, or what is left of a segment whose damage was reported when the log was opened.
    pub(super) fn index_despite_reported_damage(&self, number: u32) -> Result<segment::SegmentIndex> {
        let file = segment::label(number);
        let moved = self.places.elsewhere(number).is_some();
        if !moved && self.damaged_at_open.contains(&file) {
            return Ok(self.scan_segment(number)?.index);
        }
        self.segment_index(number)
    }

    /// The same, but not if records are lost that the index knew when the log was opened. A tree made from the rest
    /// would show what was there before them, where reading fails without it.
    pub(super) fn index_with_all_that_was_known(&self, number: u32) -> Result<segment::SegmentIndex> {
        let file = segment::label(number);
        if self.places.elsewhere(number).is_none() && self.damaged_at_open.contains(&file) {
            let scanned = self.scan_segment(number)?;
            if scanned.lost.iter().any(|lost| lost.start <= self.covered_at_open) {
                return Err(Error::damaged(&file, 0, Damage::Inconsistent));
            }
            return Ok(scanned.index);
        }
        self.segment_index(number)
    }

    /// What can still be read of a segment, damaged or not; `None`: nothing.
    ///
    /// # Errors
    /// When the medium cannot be read.
    pub(super) fn index_despite_damage(&self, number: u32) -> Result<Option<segment::SegmentIndex>> {
        let read = match self.places.elsewhere(number) {
            Some(container) => container.index(number),
            None => self.scan_segment(number).map(|scanned| scanned.index),
        };
        match read {
            // What is only unreadable now is not given up: a follower would miss it for good.
            Err(error) if error.is_lasting_damage() => Ok(None),
            read => read.map(Some),
        }
    }

    /// The segments in memory, each with at least its versions of `volume` up to `upto`.
    fn unsealed(&self, volume: Option<VolumeId>, upto: Seq) -> FxHashMap<u32, SegmentVersions> {
        let sequencer = self.sequencer();
        let full = sequencer.full.iter().map(|full| {
            let entries = full.entries.clone();
            (full.number, SegmentVersions { first: full.first_seq, last: full.last_seq(), entries })
        });
        let active = sequencer.active.iter().map(|active| {
            let wanted = |entry: &&Entry| volume.is_none_or(|v| v == entry.volume) && entry.seq <= upto;
            let entries = Arc::new(active.entries.iter().filter(wanted).copied().collect());
            (active.number, SegmentVersions { first: active.first_seq, last: sequencer.head, entries })
        });
        full.chain(active).collect()
    }

    /// Calls `each` with every version of `volume` (`None`: of all volumes) after `from`, up to and including `to`,
    /// in order of seq. They are read from the segments `numbers`, which are in order.
    ///
    /// # Errors
    /// When a part of that is damaged or missing.
    pub(super) fn versions_in(
        &self,
        numbers: impl IntoIterator<Item = u32>,
        volume: Option<VolumeId>,
        from: Seq,
        to: Seq,
        each: &mut dyn FnMut(&Entry),
    ) -> Result<()> {
        let index_of = |number| self.index_despite_reported_damage(number);
        self.versions_by(&index_of, numbers, (volume, from, to), &[], each)
    }

    /// Every version of a volume up to `to`, or an error: damage that was reported when the log was opened is no excuse
    /// for the lack of what the index knew then.
    ///
    /// # Errors
    /// As [`Log::versions_in`].
    pub(super) fn all_versions(&self, volume: VolumeId, to: Seq, each: &mut dyn FnMut(&Entry)) -> Result<()> {
        let index_of = |number| self.index_with_all_that_was_known(number);
        let mut numbers = self.segments_there()?;
        {
            // One in use has its versions in memory, also while its file has no name.
            let sequencer = self.sequencer();
            numbers.extend(sequencer.full.iter().map(|full| full.number));
            numbers.extend(sequencer.active.iter().map(|active| active.number));
        }
        numbers.sort_unstable();
        numbers.dedup();
        self.versions_by(&index_of, numbers, (Some(volume), Seq::ZERO, to), &[], each)
    }

    fn versions_by(
        &self,
        index_of: &dyn Fn(u32) -> Result<segment::SegmentIndex>,
        numbers: impl IntoIterator<Item = u32>,
        (volume, from, to): (Option<VolumeId>, Seq, Seq),
        lost: &[Lost],
        each: &mut dyn FnMut(&Entry),
    ) -> Result<()> {
        let is_lost =
            |first: Seq, last: Seq| lost.iter().any(|lost| lost.first <= first && last <= lost.last);
        let unsealed = self.unsealed(volume, to);
        let mut reached = from;
        for number in numbers {
            if reached >= to {
                break;
            }
            let part = match unsealed.get(&number) {
                Some(part) => SegmentVersions { entries: part.entries.clone(), ..*part },
                None => {
                    let mut index = match index_of(number) {
                        // Whether it is one of those is seen at the next one.
                        Err(error) if !lost.is_empty() && error.is_lasting_damage() => continue,
                        index => index?,
                    };
                    index.entries.sort_unstable_by_key(|entry| entry.seq);
                    let (first, last) = (index.first_seq, index.last_seq());
                    SegmentVersions { first, last, entries: Arc::new(index.entries) }
                }
            };
            if part.first > reached.next() && !is_lost(reached.next(), Seq(part.first.0 - 1)) {
                return Err(Error::damaged(&segment::label(number), 0, Damage::Inconsistent));
            }
            let of_it = |e: &Entry| volume.is_none_or(|volume| volume == e.volume);
            let wanted = |e: &&Entry| of_it(e) && e.seq > reached && e.seq <= to;
            part.entries.iter().filter(wanted).for_each(&mut *each);
            reached = reached.max(part.last);
        }
        if reached < to && !is_lost(reached.next(), to) {
            return Err(Error::damaged("log", 0, Damage::Truncated));
        }
        Ok(())
    }

    /// The same for a range that checkpoints cover, which name its segments. What they do not know because it was lost
    /// before is passed over.
    ///
    /// # Errors
    /// As [`Log::versions_in`].
    pub(super) fn versions_between(
        &self,
        volume: VolumeId,
        from: Seq,
        to: Seq,
        each: &mut dyn FnMut(&Entry),
    ) -> Result<()> {
        let snapshot = self.index.snapshot();
        let names = &snapshot.names;
        let first = names.partition_point(|name| name.end <= from);
        let end = names.partition_point(|name| name.end < to).saturating_add(1).min(names.len());
        let summaries = self.summaries_of(names.get(first..end).unwrap_or_default(), names)?;
        let segments = summaries.iter().flat_map(|summary| &summary.span.segments);
        let mut numbers: Vec<u32> = segments.map(|start| start.0).collect();
        numbers.dedup();
        let lost = self.catalog().lost.clone();
        let index_of = |number| self.index_despite_reported_damage(number);
        self.versions_by(&index_of, numbers, (Some(volume), from, to), &lost, each)
    }

    /// Whether anything was written to a volume after record `since`. Reads the indexes of the segments since then, up to
    /// the first with such a write.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub fn is_written_since(&self, volume: VolumeId, since: Seq) -> Result<bool> {
        Ok(self.first_write(volume, since, Seq::MAX)?.is_some())
    }

    /// The first write to a volume after record `after`, up to and including `upto`; what it inherits from its parent
    /// does not count. Reads the indexes of the segments in between, up to the first with such a write.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub fn first_write(&self, volume: VolumeId, after: Seq, upto: Seq) -> Result<Option<Seq>> {
        let covered = || self.heads().base.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
        let mut after = after;
        loop {
            let known = covered().min(upto);
            if after < known {
                if let Some(found) = self.first_write_covered(volume, after, known)? {
                    return Ok(Some(found));
                }
                after = known;
            }
            let sequencer = self.sequencer();
            // What a checkpoint took over meanwhile is not in memory any more.
            if after >= covered().min(upto) {
                let mut recent = sequencer.recent().filter(|e| e.volume == volume);
                return Ok(recent.find(|e| e.seq > after && e.seq <= upto).map(|e| e.seq));
            }
        }
    }

    /// The same for a range that checkpoints cover.
    fn first_write_covered(&self, volume: VolumeId, after: Seq, upto: Seq) -> Result<Option<Seq>> {
        let snapshot = self.index.snapshot();
        let names = &snapshot.names;
        let first = names.partition_point(|name| name.end <= after);
        let end = names.partition_point(|name| name.end < upto).saturating_add(1).min(names.len());
        let mut after = after;
        for &name in names.get(first..end).unwrap_or_default() {
            let summary = self.summaries_of(&[name], names)?;
            let segments = summary.iter().flat_map(|summary| &summary.span.segments);
            let segments: Vec<SegmentStart> = segments.copied().collect();
            for (at, start) in segments.iter().enumerate() {
                let next = segments.get(at + 1).map_or(name.end, |next| Seq(next.1.0.saturating_sub(1)));
                let to = next.min(upto);
                if to <= after {
                    continue;
                }
                let mut found = None;
                self.versions_in([start.0], Some(volume), after, to, &mut |entry| {
                    found = found.or(Some(entry.seq));
                })?;
                if found.is_some() {
                    return Ok(found);
                }
                after = to;
            }
        }
        Ok(None)
    }

    /// The size of the log's segments, checkpoints, manifests and cursors, in bytes.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn used_bytes(&self) -> Result<u64> {
        self.bytes_in(&[segment::folder(), checkpoint::folder(), manifest::folder(), cursor::folder()])
    }

    /// The size of the files in some folders, in bytes.
    pub(super) fn bytes_in(&self, folders: &[&str]) -> Result<u64> {
        // Not through the cache of open files, of which readers would lose as many.
        let mut names = Vec::new();
        for &folder in folders {
            let files = self.dir.list(folder).map_err(|e| Error::io("listing", folder, e))?;
            names.extend(files.into_iter().map(|file| format!("{folder}/{file}")));
        }
        let mut total = 0;
        for name in names {
            let len = self.dir.open(&name).and_then(|file| file.len_bytes());
            total += match len {
                // Removed meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
                len => len.map_err(|e| Error::io("reading", &name, e))?,
            };
        }
        Ok(total)
    }
}
