//! Random sequences of operations on a log, compared with a plain model: each form of a moment must resolve to the
//! place and the content that the model has.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bygone_model::{
    At, BranchId, Event, Grade, Kind, Lba, Micros, Place, Sectors, Seq, VolumeId,
    when::{Ambiguity, ResolveError, WholeDay},
};
use bygone_store::{
    BlockWrite, Content, Log, LogOptions, Wait,
    catalog::{Disk, Keeping},
    env::{Clock, RealDir},
};
use jiff::{Timestamp, tz::TimeZone};

use crate::{Error, timeline::rfc3339};

struct Wall(AtomicI64);

impl Clock for Wall {
    fn wall(&self) -> Micros {
        Micros(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Micros {
        Micros(0)
    }
}

/// A plain generator of numbers, so that a seed determines the sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

struct Branch {
    name: String,
    parent: Option<(u32, u64)>,
    made: u64,
    dropped: Option<u64>,
}

/// A branch and a seq.
type Spot = (u32, u64);

/// A plain list of what was done.
#[derive(Default)]
struct Model {
    /// By seq - 1: the time, the branch (`None`: of no line), and the present after it.
    records: Vec<(i64, Option<u32>, u32)>,
    branches: Vec<Branch>,
    writes: Vec<(u64, u32, u8)>,
    events: Vec<(Spot, Event)>,
    present: u32,
}

impl Model {
    fn head(&self) -> u64 {
        self.records.len() as u64
    }

    fn content(&self, (branch, seq): Spot) -> u8 {
        let own = self.writes.iter().rev().find(|(at, on, _)| *on == branch && *at <= seq);
        match (own, self.branches[branch as usize].parent) {
            (Some((_, _, byte)), _) => *byte,
            (None, Some((parent, from))) => self.content((parent, seq.min(from))),
            (None, None) => 0,
        }
    }

    fn lived(&self, seq: u64) -> Spot {
        (self.records[seq as usize - 1].2, seq)
    }

    /// A branch's line at a seq.
    fn on(&self, branch: u32, seq: u64) -> Spot {
        let one = &self.branches[branch as usize];
        let seq = one.dropped.map_or(seq, |dropped| seq.min(dropped));
        match one.parent {
            Some((parent, from)) if seq < one.made => self.on(parent, seq.min(from)),
            _ => (branch, seq),
        }
    }

    fn is_on_line(&self, branch: u32, place: Spot) -> bool {
        let one = &self.branches[branch as usize];
        if place.0 == branch {
            return one.dropped.is_none_or(|dropped| place.1 <= dropped);
        }
        one.parent.is_some_and(|(parent, from)| place.1 <= from && self.is_on_line(parent, place))
    }

    /// The records right after which the clock stood at `time` or passed it. Times after `now` name no moment yet.
    fn at_time(&self, time: i64, now: i64) -> Vec<u64> {
        let passes = |i: usize| match self.records.get(i + 1).map(|next| next.0) {
            None => time <= now || self.records[i].0 == time,
            Some(next) => next > time || (next < self.records[i].0 && self.records[i].0 == time),
        };
        let is_it = |i: &usize| self.records[*i].0 <= time && passes(*i);
        (0..self.records.len()).filter(is_it).map(|i| i as u64 + 1).collect()
    }
}

struct Life {
    dice: Dice,
    clock: Arc<Wall>,
    log: Option<Arc<Log>>,
    model: Model,
    dir: PathBuf,
    labels: u32,
}

impl Life {
    fn begin(dir: &Path, seed: u64) -> Life {
        let clock = Arc::new(Wall(AtomicI64::new(1_790_000_000_000_000)));
        let log =
            Log::make(Arc::new(RealDir::new(dir)), clock.clone(), LogOptions::default(), [7; 16]).unwrap();
        let main = Branch { name: "main".into(), parent: None, made: 0, dropped: None };
        let model = Model { branches: vec![main], ..Model::default() };
        let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        let disk =
            Disk { name: "vda".into(), sectors: Sectors(8), block_bytes: 512, keeping: Keeping::Store };
        log.add_disk(&disk).unwrap();
        let mut life = Life { dice, clock, log: Some(log), model, dir: dir.to_owned(), labels: 0 };
        life.took(None);
        life
    }

    fn log(&self) -> &Arc<Log> {
        self.log.as_ref().unwrap()
    }

    /// Adds the new records to the model; the record at `line`'s seq is on its branch.
    fn took(&mut self, line: Option<Spot>) {
        for seq in self.model.head() + 1..=self.log().head_seq().0 {
            let on = line.filter(|(_, at)| *at == seq).map(|(branch, _)| branch);
            let time = self.log().time_of(Seq(seq)).unwrap().0;
            self.model.records.push((time, on, self.model.present));
        }
    }

    fn volume(&self, branch: u32) -> VolumeId {
        self.log().catalog().volume_of(BranchId(branch), "vda").unwrap().id
    }

    /// A moment at which the disk existed.
    fn some_place(&mut self) -> Spot {
        let branch = self.dice.below(self.model.branches.len() as u64) as u32;
        let first = self.log().catalog().volumes[0].made.0;
        let seq = first + self.dice.below(self.model.head() + 1 - first);
        self.model.on(branch, seq)
    }

    fn live(&mut self) -> u32 {
        let ids = 0..self.model.branches.len() as u32;
        let live: Vec<u32> = ids.filter(|id| self.model.branches[*id as usize].dropped.is_none()).collect();
        live[self.dice.below(live.len() as u64) as usize]
    }

    fn event(&mut self, branch: u32, event: Event) {
        let done = self.log().event(BranchId(branch), &event).unwrap();
        self.took(Some((branch, done.last.0)));
        let at = event.at.map_or(done.last.0, |at| at.seq.0);
        self.model.events.push(((branch, at), event));
    }

    fn new_branch(&mut self) -> u32 {
        let parent = self.some_place();
        let id = self.model.branches.len() as u32;
        // Reuses the name of a dropped branch.
        let names = self.model.branches.iter().map(|b| b.name.clone());
        let is_free = |name: &String| {
            self.model.branches.iter().filter(|b| b.name == *name).all(|b| b.dropped.is_some())
        };
        let name = names.into_iter().find(is_free).unwrap_or_else(|| format!("b{id}"));
        self.log().add_branch(&name, BranchId(parent.0), Seq(parent.1)).unwrap();
        let made = self.log().catalog().branch(BranchId(id)).unwrap().made.0;
        self.model.branches.push(Branch { name, parent: Some(parent), made, dropped: None });
        self.took(None);
        id
    }

    fn promote(&mut self, id: u32) {
        let done = self.log().promote_branch(BranchId(id)).unwrap();
        let before = self.model.present;
        for seq in self.model.head() + 1..=self.log().head_seq().0 {
            let time = self.log().time_of(Seq(seq)).unwrap().0;
            self.model.records.push((time, None, if seq >= done.last.0 { id } else { before }));
        }
        self.model.present = id;
    }

    fn drop_branch(&mut self, id: u32) {
        let done = self.log().drop_branch(BranchId(id)).unwrap();
        self.model.branches[id as usize].dropped = Some(done.last.0);
        self.took(None);
    }

    fn step(&mut self) {
        let ahead = 1 + self.dice.below(3_000_000) as i64;
        self.clock.0.fetch_add(ahead, Ordering::Relaxed);
        match self.dice.below(20) {
            0..6 => {
                let (branch, byte) = (self.live(), 1 + self.dice.below(255) as u8);
                let data = [byte; 4096];
                let (volume, content) = (self.volume(branch), Content::Data(&data));
                let done =
                    self.log().append(&[BlockWrite { volume, lba: Lba(0), content, base: false }]).unwrap();
                self.model.writes.push((done.last.0, branch, byte));
                self.took(Some((branch, done.last.0)));
            }
            6..9 => {
                let kind = if self.dice.below(2) == 0 { Kind::Boot } else { Kind::Shutdown };
                let grade = [Grade::Crash, Grade::Clean, Grade::Stopped][self.dice.below(3) as usize];
                let branch = self.live();
                self.event(branch, Event::new(kind, "it happened").graded(grade));
            }
            9..12 => {
                let (branch, seq) = self.some_place();
                self.labels += 1;
                let time = Micros(self.model.records[seq as usize - 1].0);
                let event = Event::new(Kind::Point, format!("p{}", self.labels));
                self.event(branch, event.at(At::exactly(Seq(seq), time)));
            }
            12 => drop(self.new_branch()),
            13 => {
                let id = self.live();
                self.promote(id);
            }
            // A restore in place, and one that discards what came later.
            14 | 15 => {
                let before = self.model.present;
                let id = self.new_branch();
                self.promote(id);
                if self.dice.below(2) == 0 {
                    self.drop_branch(before);
                }
            }
            16 => {
                let id = self.live();
                if id != self.model.present {
                    self.drop_branch(id);
                }
            }
            17 => {
                let back = 4_000_000 + self.dice.below(9_000_000) as i64;
                self.clock.0.fetch_sub(back, Ordering::Relaxed);
            }
            18 => {
                self.log().checkpoint().unwrap();
                self.took(None);
            }
            _ => {
                // Closed before it is opened again: a log has one holder.
                self.log = None;
                let dir = Arc::new(RealDir::new(&self.dir));
                self.log = Some(Log::open(dir, self.clock.clone(), LogOptions::default()).unwrap());
                self.took(None);
            }
        }
    }

    fn find(&self, text: &str) -> crate::Result<super::super::Found> {
        let now = Timestamp::from_microsecond(self.clock.wall().0).unwrap().to_zoned(TimeZone::UTC);
        super::super::find(self.log(), text, WholeDay::Refuse, &now)
    }

    #[track_caller]
    fn means(&mut self, text: &str, (branch, seq): Spot) {
        let found = self.find(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(found.place, Place::new(BranchId(branch), Seq(seq)), "{text}");
        assert_eq!(found.time, Micros(self.model.records[seq as usize - 1].0), "{text}");
        let info = found.info(&self.log().catalog());
        assert_eq!(self.find(&info.when).unwrap().place, found.place, "{text}, by {}", info.when);
        let catalog = self.log().catalog();
        let volume = catalog.volume_of(BranchId(branch), "vda").unwrap();
        if volume.made > Seq(seq) {
            // The disk did not exist yet.
            return;
        }
        let mut block = [0; 4096];
        let view = self.log().view(volume.id, Seq(seq)).unwrap();
        view.read(Lba(0), &mut block, Wait::Yes).unwrap();
        assert_eq!(block[0], self.model.content((branch, seq)), "the content of {text}");
        // Reading the past may have flushed the log, which adds a record.
        self.took(None);
    }

    fn ask(&mut self) {
        let seq = 1 + self.dice.below(self.model.head());
        let branch = self.dice.below(self.model.branches.len() as u64) as u32;
        let (form, off) = (self.dice.below(6), self.dice.below(3) as i64 - 1);
        let nth = self.dice.below(1 << 20) as usize;
        let record = self.model.records[seq as usize - 1];
        match form {
            0 => {
                let place = record.1.map_or(self.model.lived(seq), |on| (on, seq));
                self.means(&format!("seq:{seq}"), place);
            }
            1 => {
                let end = self.model.branches[branch as usize].dropped.unwrap_or(self.model.head());
                let place = self.model.on(branch, seq.min(end));
                self.means(&format!("id:{branch}@seq:{}", seq.min(end)), place);
            }
            2 => self.ask_time(record.0 + off),
            3 => self.ask_event(branch),
            4 => {
                let points = self.model.events.iter().filter(|(_, event)| event.kind == Kind::Point);
                let points: Vec<_> = points.map(|(place, event)| (*place, event.label.clone())).collect();
                if let Some((place, label)) = points.get(nth % points.len().max(1)) {
                    self.means(&format!("point:{label}"), *place);
                }
            }
            _ => {
                self.means("now", (self.model.present, self.model.head()));
                let one = &self.model.branches[branch as usize];
                if one.dropped.is_none() {
                    let text = format!("branch:{}", one.name);
                    self.means(&text, (branch, self.model.head()));
                }
                let place = self.model.on(branch, self.model.head());
                self.means(&format!("branch:id:{branch}"), place);
            }
        }
    }

    fn ask_time(&mut self, time: i64) {
        let text = rfc3339(Micros(time));
        let at = self.model.at_time(time, self.clock.wall().0);
        match at.as_slice() {
            [only] => self.means(&text, self.model.lived(*only)),
            // Between two eras, where the nearest earlier moment is taken, or before all records.
            [] if self.model.records.iter().any(|record| record.0 <= time) => {}
            [] => assert!(self.find(&text).is_err(), "{text}"),
            several => {
                let Err(Error::Moment { source, .. }) = self.find(&text) else {
                    panic!("{text} is ambiguous: {several:?}");
                };
                let ResolveError::Ambiguous { why: Ambiguity::LogClock, candidates } = &*source else {
                    panic!("{text}: {source}");
                };
                let expected: Vec<_> =
                    several.iter().rev().take(8).map(|seq| self.model.lived(*seq)).collect();
                let told: Vec<_> = candidates.iter().map(|c| (c.place.branch.0, c.place.seq.0)).collect();
                assert_eq!(told, expected, "{text}");
                for candidate in candidates {
                    assert_eq!(self.find(&candidate.name).unwrap().place, candidate.place, "{text}");
                }
            }
        }
    }

    fn ask_event(&mut self, branch: u32) {
        type Wanted = fn(&Event) -> bool;
        let words: [(&str, Wanted); 3] = [
            ("last shutdown", |event| event.kind == Kind::Shutdown),
            ("last boot", |event| event.kind == Kind::Boot),
            ("last clean", |event| event.grade >= Grade::Clean),
        ];
        for (text, wanted) in words {
            let fitting = || self.model.events.iter().filter(|(_, e)| wanted(e)).map(|(place, _)| *place);
            let lived = fitting().filter(|place| self.model.lived(place.1) == *place);
            let lived = lived.max_by_key(|place| place.1);
            let own = fitting().filter(|place| self.model.is_on_line(branch, *place));
            let own = own.max_by_key(|place| place.1);
            self.expect(text, lived);
            self.expect(&format!("id:{branch}@{text}"), own);
        }
    }

    fn expect(&mut self, text: &str, place: Option<Spot>) {
        match place {
            Some(place) => self.means(text, place),
            None => assert!(self.find(text).is_err(), "{text}"),
        }
    }
}

#[test]
fn each_form_means_what_a_plain_model_says_in_any_life_of_a_target() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let mut life = Life::begin(dir.path(), seed);
        for step in 0..60 {
            println!("seed {seed}, step {step}, head {}", life.model.head());
            life.step();
            life.ask();
            life.ask();
        }
    }
}
