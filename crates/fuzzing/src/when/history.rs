//! A history that answers from a list, by the words of the contract and nothing cleverer.

use bygone_model::{
    Event, Grade, Kind, Micros, Moment, Seq,
    when::{History, HistoryError, Mark, TimeHit, What},
};

use crate::input::Input;

const LABELS: [&str; 6] =
    ["before-upgrade", "apt install nginx=1.22", "removed libc6", "x", "", "a\u{1b}[31m b"];

/// See the module's comment. The clock of the log may go back.
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
            listed.log.push(Mark { seq: Seq(seq), time: Micros(time) });
            let kinds = [Kind::Boot, Kind::Shutdown, Kind::Package, Kind::Point, Kind::Gap, Kind::Point];
            if let Some(kind) = kinds.get(usize::from(what >> 2) % 8) {
                let label = LABELS[usize::from(what >> 5) % LABELS.len()];
                let grade =
                    [Grade::Crash, Grade::Flushed, Grade::Clean, Grade::Stopped][usize::from(what >> 6)];
                listed.events.push(Moment {
                    seq: Seq(seq),
                    time: Micros(time),
                    branch: if what & 1 == 0 { "main" } else { "try-1" }.to_owned(),
                    event: Event::new(kind.clone(), label).graded(grade),
                });
            }
        }
        listed
    }
}

impl History for Listed {
    fn head(&self) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.last().copied())
    }

    fn first(&self) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.first().copied())
    }

    fn at_seq(&self, seq: Seq) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.iter().copied().take_while(|mark| mark.seq <= seq).last())
    }

    fn at_time(&self, time: Micros) -> Result<Vec<TimeHit>, HistoryError> {
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

    fn last_event(&self, what: &What, before: Seq) -> Result<Option<Moment>, HistoryError> {
        Ok(self.events.iter().rfind(|event| event.seq < before && what.matches(&event.event)).cloned())
    }

    fn first_event(&self, what: &What) -> Result<Option<Moment>, HistoryError> {
        Ok(self.events.iter().find(|event| what.matches(&event.event)).cloned())
    }

    fn points(&self, label: &str, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let is_it = |event: &&Moment| event.event.kind == Kind::Point && event.event.label == label;
        Ok(self.events.iter().rev().filter(is_it).take(limit).cloned().collect())
    }

    fn nearest(&self, seq: Seq, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let mut events = self.events.clone();
        events.sort_by_key(|event| event.seq.0.abs_diff(seq.0));
        events.truncate(limit);
        Ok(events)
    }

    fn branch_head(&self, name: &str) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.last().filter(|_| ["main", "try-1"].contains(&name)).copied())
    }

    fn branch_names(&self, limit: usize) -> Result<Vec<String>, HistoryError> {
        Ok(["main", "try-1"].into_iter().take(limit).map(str::to_owned).collect())
    }
}
