//! Sequences of requests by several clients at once, against a plain model of a target's life ([`model`]).
//!
//! Requests of one round are made at the same time. There must be an order of them in which the model gives every answer that was given,
//! and ends in the state that is found: the branches with their content, the present, the machine, every named moment, the disk outside.
//!
//! `BYGONE_SEQUENCES=10000` plays so many, `BYGONE_SEED=17` begins with that one.

mod exports;
mod model;

use std::{collections::BTreeMap, path::PathBuf};

use bygone_block::{BlockDevice, Change, Reading, Writing};
use bygone_model::Seq;
use bygone_store::{LogOptions, Wait};

use self::{
    exports::Served,
    model::{Ask, BLOCKS, Content, Machine, Model, Round, Said, Which},
};
use super::*;
use crate::{
    api::call::RestoreTo,
    target::{Shared, Target, Use},
};

const BLOCK: usize = 4096;
const NAMES: [&str; 2] = ["web", "db"];
const ROUNDS: usize = 14;
const EXPORTS_MAX: usize = 3;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let i = self.below(all.len());
        all.get(i)
    }
}

/// What there is under a name: a target, and those that were removed and kept.
#[derive(Clone, Default)]
struct Named {
    target: Option<Model>,
    removed: Vec<Model>,
}

impl Named {
    fn take(&mut self, ask: &Ask, said: &Said, round: Round, made: Model) -> bool {
        match (ask, said) {
            (_, Said::Refused(Error::Busy { .. })) => round.crowded,
            (Ask::Add | Ask::BringBack, Said::Refused(Error::TargetExists(_))) => self.target.is_some(),
            (Ask::BringBack, Said::Refused(Error::NotRemoved(_))) => self.removed.is_empty(),
            (Ask::Add, Said::Done(_)) => {
                self.target.is_none() && self.target.insert(made).live().count() == 1
            }
            (Ask::BringBack, Said::Done(_)) => {
                let back = self.target.is_none().then(|| self.removed.pop()).flatten();
                self.target = self.target.take().or(back.clone());
                back.is_some()
            }
            (Ask::Remove, Said::Done(_)) => {
                let gone = self.target.take();
                let legal = gone.as_ref().is_some_and(Model::may_be_removed);
                self.removed.extend(gone);
                legal
            }
            (_, Said::Refused(Error::NoTarget(_))) => self.target.is_none(),
            _ => self.target.as_mut().is_some_and(|target| target.take(ask, said, round)),
        }
    }
}

/// What is found of a target.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    head: String,
    branches: BTreeMap<String, Content>,
    machine: Option<(bool, String)>,
    disk: Option<Content>,
    points: BTreeMap<String, Content>,
    /// What would be taken back: the present before, what was dropped, what was brought back.
    last: Option<(String, Option<String>, Option<String>)>,
}

fn expected(model: &Model) -> Found {
    let name = |branch: usize| model.branches[branch].name.clone();
    Found {
        head: name(model.head),
        branches: model.live().map(|(_, branch)| (branch.name.clone(), branch.content)).collect(),
        machine: match model.machine {
            Machine::Stopped => None,
            Machine::Running(branch) => Some((true, name(branch))),
            Machine::Left(branch) => Some((false, name(branch))),
        },
        disk: (model.tapped && !model.away && !model.is_open())
            .then(|| model.changed.unwrap_or(model.branches[model.head].content)),
        points: model.points.iter().map(|(label, point)| (label.clone(), point.content)).collect(),
        last: model.last.map(|last| (name(last.head), last.dropped.map(name), last.revived.map(name))),
    }
}

struct Play {
    world: World,
    manager: Option<Arc<Manager>>,
    names: [Named; 2],
    /// Where a point is in the log, by target and label.
    points: BTreeMap<(String, u32, String), (BranchId, Seq)>,
    served: Served,
    /// How many exports and labels there were so far.
    numbers: u32,
    labels: u32,
    generations: u32,
    said: Vec<String>,
}

fn to_content(bytes: &[u8]) -> Content {
    let mut content = [0; BLOCKS];
    for (block, chunk) in bytes.chunks(BLOCK).enumerate() {
        assert!(chunk.iter().all(|byte| *byte == chunk[0]), "a block is torn");
        content[block] = chunk[0];
    }
    content
}

fn bytes_of(content: Content) -> Vec<u8> {
    content.iter().flat_map(|byte| [*byte; BLOCK]).collect()
}

impl Play {
    fn new() -> Play {
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let world = World { dir: dir.unwrap(), fake: Arc::default() };
        world.paths().make().unwrap();
        let mut play = Play {
            world,
            manager: None,
            names: Default::default(),
            points: BTreeMap::new(),
            served: Served::default(),
            numbers: 0,
            labels: 0,
            generations: 0,
            said: Vec::new(),
        };
        play.open();
        play
    }

    fn open(&mut self) {
        let options = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
        let shared = Shared::with_options(&self.world.paths(), self.world.fake.clone(), options);
        self.manager = Some(Manager::open_shared(shared, false).unwrap());
    }

    fn manager(&self) -> &Arc<Manager> {
        self.manager.as_ref().unwrap()
    }

    fn disk(&self, name: &str, generation: u32) -> PathBuf {
        self.world.dir.path().join(format!("{name}-{generation}.raw"))
    }

    fn ask(&self, name: &str, ask: &Ask, new: &Model) -> Said {
        let manager = self.manager();
        let nothing = |result: Result<()>| result.map(|()| None);
        let result = match ask {
            Ask::Add => {
                let path = self.disk(name, new.generation);
                let source =
                    if new.tapped { NewSource::Tap(path) } else { NewSource::Store((BLOCKS * BLOCK) as u64) };
                let disk = NewDisk { id: None, source, block_bytes: None };
                let add = call::TargetAdd { config: TargetConfig::new(name), disks: vec![disk], wait: true };
                manager.handle(&add, &mut Nobody).map(|_| None)
            }
            Ask::Set => {
                let settings = vec![("memory".to_owned(), format!("{}M", 64 + new.generation))];
                nothing(
                    manager.handle(&call::TargetSet { name: name.into(), settings }, &mut Nobody).map(drop),
                )
            }
            Ask::Run => {
                let run = call::Run { name: name.into(), at: None, branch: None, display: None };
                nothing(manager.handle(&run, &mut Nobody).map(drop))
            }
            Ask::RunAt(point) => {
                let at = Some(format!("point:{point}"));
                let run = call::Run { name: name.into(), at, branch: None, display: None };
                manager.handle(&run, &mut Nobody).map(|started| Some(started.branch))
            }
            Ask::Stop => {
                let stop = call::Stop { name: name.into(), force: false, deadline_s: Some(1) };
                nothing(manager.handle(&stop, &mut Nobody).map(drop))
            }
            Ask::GuestWrite(block, byte) => nothing(self.guest_write(name, *block, *byte)),
            Ask::PresentWrite(block, byte) => nothing(self.present_write(name, *block, *byte)),
            Ask::Promote(branch) => {
                let promote = call::BranchPromote { name: name.into(), branch: Some(branch.clone()) };
                nothing(manager.handle(&promote, &mut Nobody).map(drop))
            }
            Ask::Restore(point, discard_later) => {
                let restore = call::Restore {
                    name: name.into(),
                    at: format!("point:{point}"),
                    disk: None,
                    to: RestoreTo::InPlace,
                    discard_later: *discard_later,
                };
                manager.handle(&restore, &mut Nobody).map(|restored| restored.branch)
            }
            Ask::Undo => nothing(manager.handle(&call::Undo { name: name.into() }, &mut Nobody).map(drop)),
            Ask::Drop(branch) => {
                let drop_it = call::BranchDrop { name: name.into(), branch: branch.clone() };
                nothing(manager.handle(&drop_it, &mut Nobody).map(drop))
            }
            Ask::Remove => {
                let remove = call::TargetRemove { name: name.into(), delete_history: false };
                nothing(manager.handle(&remove, &mut Nobody).map(drop))
            }
            Ask::BringBack => {
                nothing(manager.handle(&call::TargetRestore { name: name.into() }, &mut Nobody).map(drop))
            }
            Ask::Point(label) => {
                let point = call::Point { name: name.into(), at: None, label: label.clone(), hold: None };
                nothing(manager.handle(&point, &mut Nobody).map(drop))
            }
            Ask::Read(label) => nothing(self.read_point(name, new.generation, label)),
            Ask::Export(number, which) => nothing(self.served.begin(manager, name, *number, which)),
            Ask::ReadExport(number, block) => match self.served.read(*number, *block) {
                Ok(byte) => return Said::Block(byte),
                Err(error) => Err(error),
            },
            Ask::WriteExport(number, block, byte) => nothing(self.served.write(*number, *block, *byte)),
            Ask::EndExport(number) => nothing(self.served.end(*number)),
        };
        match result {
            Ok(made) => Said::Done(made),
            Err(error) => Said::Refused(error),
        }
    }

    fn guest_write(&self, name: &str, block: usize, byte: u8) -> Result<()> {
        let target = self.manager().target(name)?;
        let machine = target.machine().ok_or_else(|| Error::TargetStopped(name.into()))?;
        let lease = target.lease(target.volume(machine.branch, None)?, Use::Guest)?;
        // As a machine that ended meanwhile does not write any more.
        if target.machine_state() != crate::lifecycle::Machine::Running {
            return Err(Error::TargetStopped(name.into()));
        }
        Ok(lease.write(&[writing(block, &[byte; BLOCK])])?)
    }

    fn present_write(&self, name: &str, block: usize, byte: u8) -> Result<()> {
        let target = self.manager().target(name)?;
        let lease = target.serve(target.volume(target.present(), None)?, true)?;
        Ok(lease.write(&[writing(block, &[byte; BLOCK])])?)
    }

    /// Whatever is done at the same time, a named moment holds what it held.
    fn read_point(&self, name: &str, generation: u32, label: &str) -> Result<()> {
        let target = self.manager().target(name)?;
        let (branch, seq) = self.points[&(name.to_owned(), generation, label.to_owned())];
        let past = target.as_of(target.volume(branch, None)?, seq)?;
        let mut bytes = vec![0; BLOCKS * BLOCK];
        past.read(0, &mut bytes, Reading::MayWait)?;
        let known = self.names.iter().flat_map(|n| n.target.iter().chain(&n.removed));
        let known =
            known.filter(|model| model.generation == generation).find_map(|model| model.points.get(label));
        assert_eq!(Some(to_content(&bytes)), known.map(|point| point.content), "{name} at {label}");
        Ok(())
    }

    fn found(&self, name: &str, model: &Model) -> Option<Found> {
        let target = self.manager().target(name).ok()?;
        wait_for("the target to be quiet", || target.is_quiet());
        let catalog = target.log.catalog();
        let (mut branches, mut bytes) = (BTreeMap::new(), vec![0; BLOCKS * BLOCK]);
        let mut points = BTreeMap::new();
        for (label, branch, seq) in points_of(&target) {
            let view = target.log.view(target.volume(branch, None).unwrap(), seq).unwrap();
            view.read(bygone_model::Lba(0), &mut bytes, Wait::Yes).unwrap();
            points.insert(label, to_content(&bytes));
        }
        for branch in catalog.branches.iter().filter(|branch| branch.dropped.is_none()) {
            let volume = target.volume(branch.id, None).unwrap();
            let view = target.log.view(volume, target.log.head_seq()).unwrap();
            view.read(bygone_model::Lba(0), &mut bytes, Wait::Yes).unwrap();
            branches.insert(branch.name.clone(), to_content(&bytes));
        }
        let name_of = |id: BranchId| catalog.branch(id).unwrap().name.clone();
        Some(Found {
            head: name_of(catalog.head),
            branches,
            machine: target.running_branch().map(|branch| (target.is_running(), name_of(branch))),
            disk: (model.tapped && !model.away && !model.is_open())
                .then(|| to_content(&std::fs::read(self.disk(name, model.generation)).unwrap())),
            points,
            last: catalog
                .acts
                .last()
                .map(|act| (name_of(act.head_before), act.dropped.map(name_of), act.revived.map(name_of))),
        })
    }

    /// Requests for one name at the same time, and a look at what came of them.
    fn round(&mut self, which: usize, asks: &[Ask]) {
        let name = NAMES[which];
        let new = self.new_model(which, asks);
        if new.tapped && asks.iter().any(|ask| matches!(ask, Ask::Add)) && self.names[which].target.is_none()
        {
            std::fs::write(self.disk(name, new.generation), bytes_of([0; BLOCKS])).unwrap();
        }
        let of = self.names[which]
            .target
            .as_ref()
            .map_or(new.clone(), |model| Model { generation: model.generation, ..new.clone() });
        let said: Vec<Said> = if let [only] = asks {
            vec![self.ask(name, only, if matches!(only, Ask::Add) { &new } else { &of })]
        } else {
            std::thread::scope(|scope| {
                let play = &*self;
                let (new, of) = (&new, &of);
                let threads: Vec<_> = asks
                    .iter()
                    .map(|ask| {
                        scope.spawn(move || {
                            play.ask(name, ask, if matches!(ask, Ask::Add) { new } else { of })
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        };
        self.said.push(format!("{name}: {:?}", asks.iter().zip(&said).collect::<Vec<_>>()));
        let round = Round {
            crowded: asks.len() > 1,
            unread: self.names[which].target.as_ref().is_some_and(|t| t.changed.is_some() || t.renamed),
            stops: asks.iter().filter(|ask| matches!(ask, Ask::Stop)).count(),
            served: asks.len() > 1
                && asks.iter().any(|ask| {
                    matches!(
                        ask,
                        Ask::GuestWrite(..)
                            | Ask::PresentWrite(..)
                            | Ask::Read(_)
                            | Ask::RunAt(_)
                            | Ask::Run
                            | Ask::Export(..)
                            | Ask::ReadExport(..)
                            | Ask::WriteExport(..)
                    )
                }),
        };
        let mut legal = Vec::new();
        for order in orders(asks.len()) {
            let mut state = self.names[which].clone();
            if order.iter().all(|&i| state.take(&asks[i], &said[i], round, new.clone())) {
                legal.push(state);
            }
        }
        assert!(!legal.is_empty(), "no order gives these answers: {}", self.said.last().unwrap());
        let left: Vec<Option<Content>> = legal.iter().map(|state| self.disk_left(name, state)).collect();
        // Whoever was refused may or may not have noticed what was changed outside; now it is noticed.
        self.settle(name);
        for state in &mut legal {
            if let Some(target) = state.target.as_mut().filter(|target| !target.away) {
                target.notice();
                // A disk that is open is not opened anew.
                target.renamed &= target.is_open();
            }
        }
        let mut seen = Vec::new();
        let fits = legal.into_iter().zip(left).find(|(state, left)| {
            let found = match &state.target {
                Some(model) => self.found(name, model),
                None => self.manager().target(name).ok().map(|_| panic!("{name} is still there")),
            };
            let wanted = state.target.as_ref().map(expected);
            // Whoever had the disk outside open last left it whole.
            let shown = wanted.as_ref().and_then(|wanted| wanted.disk);
            let fits = found == wanted && (left.is_none() || shown.is_none() || shown == *left);
            seen.push(format!("found {found:?}\nwanted {wanted:?}\nthe disk was left as {left:?}"));
            fits
        });
        let Some(fits) = fits else { panic!("no order leads to this state:\n{}", seen.join("\n")) };
        self.names[which] = fits.0;
        self.note_points(name, which);
    }

    fn new_model(&mut self, which: usize, asks: &[Ask]) -> Model {
        if asks.iter().any(|ask| matches!(ask, Ask::Add)) {
            self.generations += 1;
        }
        Model::new(which == 0, self.generations)
    }

    /// The disk outside, as those left it who had it open; nothing if somebody else changed it since.
    fn disk_left(&self, name: &str, state: &Named) -> Option<Content> {
        let model = state.target.as_ref().filter(|model| model.changed.is_none() && !model.renamed)?;
        let target = self.manager().target(name).ok()?;
        wait_for("the target to be quiet", || target.is_quiet());
        std::fs::read(self.disk(name, model.generation)).ok().map(|bytes| to_content(&bytes))
    }

    /// Opens the disk of the present once, so that a change behind our back is noticed.
    fn settle(&self, name: &str) {
        let Ok(target) = self.manager().target(name) else { return };
        if target.running_branch() != Some(target.present())
            && let Ok(volume) = target.volume(target.present(), None)
        {
            drop(target.lease(volume, Use::Upkeep));
        }
        wait_for("the target to be quiet", || target.is_quiet());
    }

    fn note_points(&mut self, name: &str, which: usize) {
        let Some(model) = &self.names[which].target else { return };
        let target = self.manager().target(name).unwrap();
        for (label, branch, seq) in points_of(&target) {
            self.points.entry((name.to_owned(), model.generation, label)).or_insert((branch, seq));
        }
    }

    fn kill(&mut self) {
        self.said.push("the manager is killed".to_owned());
        self.served.end_all();
        let manager = self.manager.take().unwrap();
        self.world.kill(manager);
        for target in self.names.iter_mut().filter_map(|named| named.target.as_mut()) {
            target.exports.clear();
            if let Machine::Running(branch) = target.machine {
                target.machine = Machine::Left(branch);
            }
        }
        self.open();
    }

    fn disk_away_or_back(&mut self, which: usize) {
        let name = NAMES[which];
        let Some(generation) = self.names[which].target.as_ref().filter(|t| t.tapped).map(|t| t.generation)
        else {
            return;
        };
        let (here, there) = (self.disk(name, generation), self.disk(name, generation).with_extension("away"));
        let target = self.names[which].target.as_mut().unwrap();
        // With its tap open the file may go, but not come back as another one would.
        let (from, to) = if target.away { (there, here) } else { (here, there) };
        std::fs::rename(from, to).unwrap();
        target.away = !target.away;
        target.renamed = true;
        if !target.is_open() && target.changed.is_none() {
            // It was renamed, so it is no longer known to be the same.
            target.changed = Some(target.branches[target.head].content);
        }
        self.said.push(format!("the disk of {name} is {}", if target.away { "away" } else { "back" }));
    }

    fn change_outside(&mut self, which: usize, content: Content) {
        let name = NAMES[which];
        let free = |t: &&mut Model| t.tapped && !t.away && !t.is_open();
        let Some(target) = self.names[which].target.as_mut().filter(free) else { return };
        let generation = target.generation;
        target.changed = Some(content);
        self.said.push(format!("the disk of {name} is changed"));
        std::thread::sleep(Duration::from_millis(12));
        std::fs::write(self.disk(name, generation), bytes_of(content)).unwrap();
    }

    /// Something to ask, likely to make sense.
    fn think(&mut self, which: usize, random: &mut Random) -> Ask {
        let byte = (random.below(250) + 1) as u8;
        let Some(model) = &self.names[which].target else {
            return match random.below(6) {
                0 => Ask::Run,
                1 | 2 => Ask::BringBack,
                _ => Ask::Add,
            };
        };
        let points: Vec<String> = model.points.keys().cloned().collect();
        let branches: Vec<String> = model.live().map(|(_, branch)| branch.name.clone()).collect();
        let branch = random.pick(&branches).cloned().unwrap_or_default();
        let point = random.pick(&points).cloned();
        let block = random.below(BLOCKS);
        let exports: Vec<u32> = model.exports.keys().copied().collect();
        match random.below(33) {
            0..=2 => Ask::Run,
            3 | 4 => Ask::Stop,
            5..=7 => Ask::GuestWrite(block, byte),
            8 | 9 => Ask::PresentWrite(block, byte),
            10 | 11 if model.changed.is_none() => {
                self.labels += 1;
                Ask::Point(format!("p{}", self.labels))
            }
            12 | 13 => point.map_or(Ask::Set, |point| Ask::Restore(point, random.one_in(3))),
            14 => point.map_or(Ask::Run, Ask::RunAt),
            15 | 16 => Ask::Promote(branch),
            17 | 18 => Ask::Undo,
            19 => Ask::Drop(branch),
            20 => Ask::Remove,
            21 => Ask::Add,
            22 => Ask::BringBack,
            23 => random.pick(&points).cloned().map_or(Ask::Undo, Ask::Read),
            24..=27 if exports.len() < EXPORTS_MAX => {
                let which = match (random.below(3), point) {
                    (0, _) => Which::Present,
                    (1, Some(point)) => Which::Point(point),
                    _ => Which::Branch(branch),
                };
                self.numbers += 1;
                Ask::Export(self.numbers, which)
            }
            28..=31 => match (random.pick(&exports), random.below(3)) {
                (None, _) => Ask::Set,
                (Some(number), 0) => Ask::ReadExport(*number, block),
                (Some(number), 1) => Ask::WriteExport(*number, block, byte),
                (Some(number), _) => Ask::EndExport(*number),
            },
            _ => Ask::Set,
        }
    }

    fn play(&mut self, random: &mut Random) {
        for _ in 0..ROUNDS {
            let which = random.below(NAMES.len());
            match random.below(16) {
                0 => self.kill(),
                1 | 2 => self.disk_away_or_back(which),
                3 => {
                    let content = std::array::from_fn(|_| random.below(250) as u8);
                    self.change_outside(which, content);
                    // It meets one request alone, so that it is known who meets it.
                    let ask = self.think(which, random);
                    self.round(which, &[ask]);
                }
                _ => {
                    let clients = 1 + random.below(3);
                    let mut asks: Vec<Ask> = (0..clients).map(|_| self.think(which, random)).collect();
                    if asks.iter().any(|ask| matches!(ask, Ask::Remove)) {
                        // What was done to a target that is removed at the same time could not be seen.
                        let seen = |ask: &Ask| {
                            matches!(
                                ask,
                                Ask::Remove
                                    | Ask::Run
                                    | Ask::Stop
                                    | Ask::Set
                                    | Ask::Add
                                    | Ask::BringBack
                                    | Ask::Export(..)
                                    | Ask::ReadExport(..)
                                    | Ask::EndExport(_)
                            )
                        };
                        for ask in asks.iter_mut().filter(|ask| !seen(ask)) {
                            *ask = Ask::Set;
                        }
                    }
                    self.round(which, &asks);
                }
            }
        }
        self.end();
    }

    /// In the end every named moment still is the one that was named.
    fn end(&mut self) {
        for (name, generation, label) in self.points.keys() {
            let which = NAMES.iter().position(|n| n == name).unwrap();
            if self.names[which].target.as_ref().is_some_and(|model| model.generation == *generation) {
                self.read_point(name, *generation, label).unwrap();
            }
        }
        self.served.end_all();
        let manager = self.manager.take().unwrap();
        self.world.kill(manager);
    }
}

/// Named moments: label, branch, place.
fn points_of(target: &Target) -> Vec<(String, BranchId, Seq)> {
    let mut points = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        if event.event.kind == Kind::Point {
            let place = event.place();
            points.push((event.event.label.clone(), place.branch, place.seq));
        }
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    points
}

fn writing(block: usize, bytes: &[u8]) -> Writing<'_> {
    Writing { offset: (block * BLOCK) as u64, change: Change::Data(bytes) }
}

/// All orders of so many.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    (0..n)
        .flat_map(|at| {
            shorter.iter().map(move |order| {
                let mut order = order.clone();
                order.insert(at, n - 1);
                order
            })
        })
        .collect()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn whatever_is_asked_in_whatever_order_only_what_is_legal_is_done_and_no_moment_changes() {
    let (first, count) = (number("BYGONE_SEED", 1), number("BYGONE_SEQUENCES", 40));
    for seed in first..first + count {
        let mut play = Play::new();
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.play(&mut Random(seed))));
        if let Err(panic) = played {
            eprintln!("BYGONE_SEED={seed} BYGONE_SEQUENCES=1 plays it again; what was asked:");
            for line in &play.said {
                eprintln!("  {line}");
            }
            std::mem::forget(play);
            std::panic::resume_unwind(panic);
        }
    }
}
