//! The events of a checkpoint: they are stored in blocks, each with a summary that lets a query skip blocks without a
//! match.
//!
//! A summary may have false positives and never has false negatives. Its size is bounded whatever the events contain.

use bygone_model::{BranchId, Grade, Kind, Seq};
use serde::{Deserialize, Serialize};

use super::{
    checkpoint::{Block, StoredEvent},
    crc32c,
};

/// The most events in a block.
pub const BLOCK_EVENTS_MAX: usize = 512;
/// A block is closed once its labels and details have about this many bytes.
pub const BLOCK_CONTENT_BYTES: usize = 256 << 10;
/// The most combinations of kind and branch in a summary; a block with more matches every query for one.
const ABOUT_MAX: usize = 48;
/// The size of the Bloom filter of labels: bits per label.
const FILTER_BITS_PER_LABEL: usize = 10;
/// How many bits a label sets in the Bloom filter.
const FILTER_HASHES: u32 = 5;

/// The summary of a block of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBlock {
    /// Where the block is: a JSON array of [`StoredEvent`], by seq.
    pub block: Block,
    /// The seqs of the first and the last event.
    pub seqs: (Seq, Seq),
    /// The earliest and the latest moment that an event names.
    pub moments: (Seq, Seq),
    /// The events by kind and branch. Empty: unknown, so any may be in the block.
    pub about: Vec<About>,
    /// A Bloom filter of the labels of the points, as hexadecimal digits. Empty: there is no point.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub labels: String,
}

/// The events of one kind on one branch in a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct About {
    pub kind: Kind,
    pub branch: BranchId,
    /// The best grade.
    pub grade: Grade,
    /// The earliest and the latest moment that an event names.
    pub moments: (Seq, Seq),
}

fn widen(range: &mut (Seq, Seq), seq: Seq) {
    *range = (range.0.min(seq), range.1.max(seq));
}

impl EventBlock {
    /// The summary of `events`, which are stored in `block`. There must be at least one.
    #[must_use]
    pub fn of(block: Block, events: &[StoredEvent]) -> EventBlock {
        let mut seqs = (Seq::MAX, Seq::ZERO);
        let mut moments = seqs;
        let mut about: Vec<About> = Vec::new();
        let mut too_many = false;
        for event in events {
            let place = event.place();
            widen(&mut seqs, event.seq);
            widen(&mut moments, place.seq);
            let same = |a: &&mut About| a.kind == event.event.kind && a.branch == event.branch;
            if let Some(known) = about.iter_mut().find(same) {
                widen(&mut known.moments, place.seq);
                known.grade = known.grade.max(event.event.grade);
            } else if about.len() < ABOUT_MAX {
                let (kind, grade) = (event.event.kind.clone(), event.event.grade);
                let moments = (place.seq, place.seq);
                about.push(About { kind, branch: event.branch, grade, moments });
            } else {
                too_many = true;
            }
        }
        if too_many {
            about.clear();
        }
        let points = events.iter().filter(|event| event.event.kind == Kind::Point);
        let labels = filter_of(points.map(|event| event.event.label.as_str()));
        EventBlock { block, seqs, moments, about, labels }
    }

    /// Whether the events are in no checkpoint file.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.block == Block::NOWHERE
    }

    /// Whether a point with this label may be in the block.
    #[must_use]
    pub fn may_have_label(&self, label: &str) -> bool {
        may_have(&self.labels, label)
    }
}

/// The bits that a label sets in a Bloom filter of `bits` bits.
fn bits_of(label: &str, bits: usize) -> impl Iterator<Item = usize> {
    let one = crc32c(label.as_bytes());
    let other = crc32c(&one.to_le_bytes()) | 1;
    (0..FILTER_HASHES).map(move |i| one.wrapping_add(other.wrapping_mul(i)) as usize % bits)
}

fn filter_of<'a>(labels: impl Iterator<Item = &'a str> + Clone) -> String {
    let count = labels.clone().count();
    if count == 0 {
        return String::new();
    }
    let mut bytes = vec![0_u8; (count * FILTER_BITS_PER_LABEL).div_ceil(8)];
    let bits = bytes.len() * 8;
    for label in labels {
        bits_of(label, bits).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn may_have(filter: &str, label: &str) -> bool {
    let digits = filter.as_bytes();
    let bits = digits.len() * 4;
    // A digit that is none rules nothing out.
    let is_set = |bit: usize| {
        let digit = digits.get(bit / 8 * 2 + usize::from(bit % 8 < 4));
        let value = digit.and_then(|digit| char::from(*digit).to_digit(16));
        value.is_none_or(|value| value & (1 << (bit % 4)) != 0)
    };
    bits > 0 && bits_of(label, bits).all(is_set)
}

/// Cuts events into blocks, none of which is empty.
pub fn blocks(events: &[StoredEvent]) -> impl Iterator<Item = &[StoredEvent]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |event: &StoredEvent| {
            let before = bytes;
            let details =
                event.event.details.values().map(|value| value.to_string().len() + 16).sum::<usize>();
            bytes += event.event.label.len() + details;
            before < BLOCK_CONTENT_BYTES
        };
        let count = rest.iter().take(BLOCK_EVENTS_MAX).map(fits).take_while(|fits| *fits).count();
        if count == 0 {
            return None;
        }
        let (block, later) = rest.split_at(count);
        rest = later;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use bygone_model::{At, Event, Micros};

    use super::*;

    fn event(seq: u64, branch: u32, event: Event) -> StoredEvent {
        StoredEvent { seq: Seq(seq), time: Micros(0), branch: BranchId(branch), event }
    }

    #[test]
    fn a_summary_rules_out_nothing_that_is_there() {
        let labels: Vec<String> = (0..400).map(|n| format!("label {n}")).collect();
        let mut events: Vec<StoredEvent> = labels
            .iter()
            .zip(10..)
            .map(|(label, seq)| event(seq, 0, Event::new(Kind::Point, label.as_str())))
            .collect();
        let at = At::exactly(Seq(3), Micros(0));
        events.push(event(500, 2, Event::new(Kind::Shutdown, "x").graded(Grade::Clean).at(at)));
        let block = EventBlock::of(Block::NOWHERE, &events);
        assert_eq!((block.seqs, block.moments), ((Seq(10), Seq(500)), (Seq(3), Seq(409))));
        assert!(labels.iter().all(|label| block.may_have_label(label)));
        let wrong = (0..1000).filter(|n| block.may_have_label(&format!("other {n}"))).count();
        assert!(wrong < 50, "{wrong} of 1000 labels that are not there are not ruled out");
        let about: Vec<_> = block.about.iter().map(|a| (a.kind.as_str(), a.branch.0, a.grade)).collect();
        assert_eq!(about, [("point", 0, Grade::Crash), ("shutdown", 2, Grade::Clean)]);
        assert!(!EventBlock::of(Block::NOWHERE, &events[400..]).may_have_label("label 1"));
    }

    #[test]
    fn a_summary_is_bounded_whatever_the_events_hold() {
        let events: Vec<StoredEvent> =
            (1..500).map(|n| event(n, n as u32, Event::new(Kind::Boot, ""))).collect();
        assert!(EventBlock::of(Block::NOWHERE, &events).about.is_empty());
    }

    #[test]
    fn blocks_hold_all_events_in_order_and_are_bounded() {
        let long = "x".repeat(100 << 10);
        let label = |n: u64| if n < 20 { long.as_str() } else { "" };
        let events: Vec<StoredEvent> =
            (1..3000).map(|n| event(n, 0, Event::new(Kind::Boot, label(n)))).collect();
        let cut: Vec<&[StoredEvent]> = blocks(&events).collect();
        assert!(cut.iter().all(|block| !block.is_empty() && block.len() <= BLOCK_EVENTS_MAX));
        assert!(cut[0].len() <= 4);
        assert_eq!(cut.concat(), events);
        assert_eq!(blocks(&[]).count(), 0);
    }
}
