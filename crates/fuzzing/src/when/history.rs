//! A history that answers from a list and follows the contract literally.

use bygone_model::{
    BranchId, Event, Grade, Kind, Micros, Moment, Place, Seq,
    when::{History, HistoryError, Line, Mark, TimeHit, What},
};
use jiff::tz::TimeZone;

use crate::input::Input;

const LABELS: [&str; 6] =
    ["before-upgrade", "apt install nginx=1.22", "removed libc6", "x", "", "a\u{1b}[31m b"];

/// See the module's comment. The log's clock may go back.
pub(super) struct Listed {
    pub(super) log: Vec<Mark>,
    pub(super) events: Vec<Moment>,
}

impl Listed {
    /// At most 15 moments, three bytes each.
    pub(super) fn of(input: &mut Input<'_>) -> Listed {
        let mut listed = Listed { log: Vec::new(), events: Vec::new() };
        let (mut time, mut seq) = (1_772_000_000_000_000 + i64::from(input.u8()) * 86_400_000_000, 0);
        for _ in 0..input.u8() % 16 {
            let (what, minutes) = (input.u8(), input.u16().cast_signed());
            time += i64::from(minutes) * 60_000_000;
            seq += 1 + u64::from(what & 3);
            let place = Place::new(BranchId(0), Seq(seq));
            listed.log.push(Mark { place, time: Micros(time) });
            let kinds = [Kind::Boot, Kind::Shutdown, Kind::Package, Kind::Point, Kind::Gap, Kind::Point];
            if let Some(kind) = kinds.get(usize::from(what >> 2) % 8) {
                let label = LABELS[usize::from(what >> 5) % LABELS.len()];
                let grade =
                    [Grade::Crash, Grade::Flushed, Grade::Clean, Grade::Stopped][usize::from(what >> 6)];
                listed.events.push(Moment {
                    place: Place::new(BranchId(u32::from(what & 1)), Seq(seq)),
                    time: Micros(time),
                    event: Event::new(kind.clone(), label).graded(grade),
                });
            }
        }
        listed
    }
}

/// `try-1` ends where the log does, so every moment is on every line; only the ids differ.
const BRANCHES: [&str; 2] = ["main", "try-1"];

impl Listed {
    pub(super) fn events_of(&self, line: Line) -> impl DoubleEndedIterator<Item = &Moment> {
        self.events.iter().filter(move |event| self.is_on(line, event.place))
    }
}

impl History for Listed {
    fn head(&self, _: Line) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.last().copied())
    }

    fn first(&self, _: Line) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.first().copied())
    }

    fn at_seq(&self, _: Line, seq: Seq) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.iter().copied().take_while(|mark| mark.place.seq <= seq).last())
    }

    fn at_time(&self, _: Line, time: Micros) -> Result<Vec<TimeHit>, HistoryError> {
        let (mut hits, mut era) = (Vec::new(), 0);
        for (i, mark) in self.log.iter().enumerate() {
            let next = self.log.get(i + 1).map(|next| next.time);
            let set_back = next.is_some_and(|next| next < mark.time);
            let passes = next.is_none_or(|next| next > time) || (mark.time == time && set_back);
            if mark.time <= time && passes {
                hits.push(TimeHit { mark: *mark, era });
            }
            era += u32::from(set_back);
        }
        Ok(hits)
    }

    fn last_event(&self, line: Line, what: &What, before: Seq) -> Result<Option<Moment>, HistoryError> {
        let is_it = |event: &&Moment| event.place.seq < before && what.matches(&event.event);
        Ok(self.events_of(line).rfind(is_it).cloned())
    }

    fn first_event(&self, line: Line, what: &What) -> Result<Option<Moment>, HistoryError> {
        Ok(self.events_of(line).find(|event| what.matches(&event.event)).cloned())
    }

    fn points(&self, label: &str, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let is_it = |event: &&Moment| event.event.kind == Kind::Point && event.event.label == label;
        Ok(self.events.iter().rev().filter(is_it).take(limit).cloned().collect())
    }

    fn nearest(&self, line: Line, seq: Seq, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let mut events: Vec<Moment> = self.events_of(line).cloned().collect();
        events.sort_by_key(|event| event.place.seq.0.abs_diff(seq.0));
        events.truncate(limit);
        Ok(events)
    }

    fn is_on(&self, line: Line, place: Place) -> bool {
        line == Line::Lived || line == Line::Of(place.branch)
    }

    fn branch(&self, name: &str) -> Option<BranchId> {
        let at = BRANCHES.iter().position(|known| *known == name || name == "id:0" && *known == "main")?;
        Some(BranchId(u32::try_from(at).unwrap()))
    }

    fn branches(&self, limit: usize) -> Vec<BranchId> {
        (0..2).take(limit).map(BranchId).collect()
    }

    fn branch_name(&self, branch: BranchId) -> String {
        BRANCHES[branch.0 as usize].to_owned()
    }

    fn name_of(&self, place: Place) -> Result<String, HistoryError> {
        Ok(format!("{}@seq:{}", BRANCHES[place.branch.0 as usize], place.seq))
    }

    fn zone(&self, name: &str) -> Option<TimeZone> {
        name.eq_ignore_ascii_case("Asia/Tokyo").then(|| TimeZone::posix("JST-9").unwrap())
    }
}
