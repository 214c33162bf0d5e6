//! Sequences of requests by several clients at once, against a plain model of a target's life ([`model`]).
//!
//! Requests of one round are made at the same time. There must be an order of them in which the model gives every answer that was given,
//! and ends in the state that is found: the branches with their content, the present, the machine, every named moment, the disk outside.
//!
//! `BYGONE_SEQUENCES=10000` plays so many, `BYGONE_SEED=17` begins with that one.

mod asking;
mod exports;
mod found;
mod model;
mod when;

use std::{collections::BTreeMap, path::PathBuf};

use bygone_block::{Change, Writing};
use bygone_store::LogOptions;

use self::{
    exports::Served,
    found::expected,
    model::{Ask, BLOCKS, Content, Machine, Model, Round, Said, Which},
    when::{At, Meant, Past},
};
use super::*;
use crate::target::{Shared, Use};

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

struct Play {
    world: World,
    manager: Option<Arc<Manager>>,
    names: [Named; 2],
    /// By target, under whatever name it is.
    pasts: BTreeMap<u32, Past>,
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
            pasts: BTreeMap::new(),
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
                            | Ask::When(_)
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
        if let Some(model) = &mut self.names[which].target {
            let target = self.manager.as_ref().unwrap().target(name).unwrap();
            // Of what others did at the same time, only what changes something matters.
            let looks = |ask: &Ask| {
                matches!(
                    ask,
                    Ask::Set | Ask::When(_) | Ask::ReadExport(..) | Ask::Export(_, Which::Moment(_))
                )
            };
            let done = asks.iter().zip(&said).filter(|(_, said)| !said.is_refusal()).map(|(ask, _)| ask);
            let undone = done.clone().any(|ask| matches!(ask, Ask::Undo));
            let alone = done.filter(|ask| !looks(ask)).count() <= 1;
            self.pasts.entry(model.generation).or_default().mark(&target, model, alone, undone);
        }
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

    /// Something to ask, likely to make sense; nobody else asks at the same time if it is asked `alone`.
    fn think(&mut self, which: usize, random: &mut Random, alone: bool) -> Ask {
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
        let point = random.pick(&points).map(|label| At::point(label, model));
        let text = self.pasts.get(&model.generation).and_then(|past| past.text(model, random, alone));
        // What is asked of the manager is asked now, and of what is known.
        let known = |at: &At| at.now.is_none() && !matches!(at.meant, Meant::Place { contents: None, .. });
        let moment = text.clone().filter(known).filter(|_| random.one_in(2)).or(point);
        let exports: Vec<u32> = model.exports.keys().copied().collect();
        let block = random.below(BLOCKS);
        let runs_on = match model.machine {
            Machine::Running(branch) if branch != model.head => Some(model.branches[branch].name.clone()),
            _ => None,
        };
        match random.below(36) {
            0..=2 => Ask::Run,
            3 | 4 => Ask::Stop,
            5..=7 => Ask::GuestWrite(block, byte),
            8 | 9 => Ask::PresentWrite(block, byte),
            10 | 11 if model.changed.is_none() => {
                self.labels += 1;
                Ask::Point(format!("p{}", self.labels), moment.filter(|_| random.one_in(3)))
            }
            12 | 13 => moment.map_or(Ask::Set, |at| Ask::Restore(at, random.one_in(3))),
            14 | 15 => moment.map_or(Ask::Run, Ask::RunAt),
            16 => Ask::Promote(runs_on.unwrap_or(branch)),
            17 => Ask::Promote(branch),
            18 | 19 => Ask::Undo,
            20 => Ask::Drop(branch),
            21 => Ask::Remove,
            22 => Ask::Add,
            23 => Ask::BringBack,
            24..=26 => text.map_or(Ask::Undo, Ask::When),
            27..=29 if exports.len() < EXPORTS_MAX => {
                let which = match (random.below(3), moment) {
                    (0, _) => Which::Present,
                    (1, Some(at)) => Which::Moment(at),
                    _ => Which::Branch(branch),
                };
                self.numbers += 1;
                Ask::Export(self.numbers, which)
            }
            30..=33 => match (random.pick(&exports), random.below(3)) {
                (None, _) => Ask::Set,
                (Some(number), 0) => Ask::ReadExport(*number, block),
                (Some(number), 1) => Ask::WriteExport(*number, block, byte),
                (Some(number), _) => Ask::EndExport(*number),
            },
            34 if alone => {
                let moved = match (random.below(3), points.first()) {
                    (0, _) => Ask::Undo,
                    (1, Some(label)) => Ask::Restore(At::point(label, model), random.one_in(3)),
                    _ => Ask::Promote(branch),
                };
                Ask::Weak(Box::new(moved))
            }
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
                    let ask = self.think(which, random, true);
                    self.round(which, &[ask]);
                }
                _ => {
                    let clients = 1 + random.below(3);
                    let mut asks: Vec<Ask> =
                        (0..clients).map(|_| self.think(which, random, clients == 1)).collect();
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
                                    | Ask::When(_)
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
            self.look_around(which, random, 1);
        }
        self.end(random);
    }

    /// Whatever was asked for, every text means what it did; so does the one that is said to mean the same for good.
    fn look_around(&mut self, which: usize, random: &mut Random, texts: usize) {
        for _ in 0..texts {
            let (name, Some(model)) = (NAMES[which], &self.names[which].target) else { return };
            let text = self.pasts.get(&model.generation).and_then(|past| past.text(model, random, true));
            let Some(at) = text else { continue };
            let (said, told) = match self.look(name, &at) {
                Ok((place, content, text)) => {
                    (Said::Meant(place.clone(), content), Some((place, content, text)))
                }
                Err(error) => (Said::Refused(error), None),
            };
            let round = Round { unread: model.changed.is_some() || model.renamed, ..Round::default() };
            let short = told.as_ref().map(|(place, _, text)| format!("{place:?}, {text}"));
            self.said.push(format!("{name}@{}: {short:?}", at.text));
            assert!(model.clone().take(&Ask::When(at.clone()), &said, round), "{said:?} of {at:?}");
            if let Some((place, Some(content), text)) = told {
                self.pasts.get_mut(&model.generation).unwrap().note_told(model, text, &place, content);
            }
        }
    }

    /// In the end every named moment still is the one that was named.
    fn end(&mut self, random: &mut Random) {
        for which in 0..NAMES.len() {
            self.look_around(which, random, 12);
        }
        self.served.end_all();
        let manager = self.manager.take().unwrap();
        self.world.kill(manager);
    }
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
