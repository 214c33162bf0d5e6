//! Sequences of requests by several clients at once, against a plain model of a target's life ([`model`]).
//!
//! Requests of one round are made at the same time. There must be an order of them in which the model gives every
//! answer that was given, and ends in the state that is found: the branches with their content, the present, the
//! machine, every named moment, the disk outside.
//!
//! `BYGONE_SEQUENCES=10000` plays so many, `BYGONE_SEED=17` begins with that one; `BYGONE_MET=1` says how often what
//! was met.

mod asking;
mod clock;
mod exports;
mod found;
mod held;
mod met;
mod model;
mod thinking;
mod when;

use std::{collections::BTreeMap, path::PathBuf};

use bygone_block::{Change, Writing};
use bygone_store::{LogOptions, env::Clock as _};

use self::{
    exports::Served,
    found::expected,
    held::{Held, NAMES, Rounds, touched},
    met::Met,
    model::{Ask, BLOCKS, CLEAN, Content, DIRTY, Machine, Model, Round, Said, Which},
    when::Past,
};
use super::*;
use crate::target::{Shared, Use};

const BLOCK: usize = 4096;
const ROUNDS: usize = 40;
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

    /// One of these, the likelier the more it weighs.
    fn weighted<T: Copy>(&mut self, all: &[(T, usize)]) -> T {
        let mut left = self.below(all.iter().map(|(_, weight)| weight).sum());
        let of = all.iter().find(|(_, weight)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        of.unwrap_or(&all[0]).0
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let i = self.below(all.len());
        all.get(i)
    }
}

struct Play {
    world: World,
    manager: Option<Arc<Manager>>,
    held: Held,
    /// By target, under whatever name it is.
    pasts: BTreeMap<u32, Past>,
    served: Served,
    /// How many exports and labels there were so far.
    numbers: u32,
    labels: u32,
    generations: u32,
    disks: u32,
    met: Met,
    clock: Arc<clock::Set>,
    said: Vec<String>,
}

/// What is in a block that is filled with this.
fn block_of(byte: u8) -> [u8; BLOCK] {
    if byte != CLEAN && byte != DIRTY {
        return [byte; BLOCK];
    }
    let mut block = [0; BLOCK];
    block[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
    block[1024 + 0x3a] = u8::from(byte == CLEAN);
    block
}

/// What a block is filled with.
fn byte_of(block: &[u8]) -> u8 {
    [block[0], CLEAN, DIRTY].into_iter().find(|byte| block_of(*byte) == block).expect("a block is torn")
}

fn to_content(bytes: &[u8]) -> Content {
    let mut content = [0; BLOCKS];
    for (block, chunk) in bytes.chunks(BLOCK).enumerate() {
        content[block] = byte_of(chunk);
    }
    content
}

fn bytes_of(content: Content) -> Vec<u8> {
    content.iter().flat_map(|byte| block_of(*byte)).collect()
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
            held: Held::default(),
            pasts: BTreeMap::new(),
            served: Served::default(),
            numbers: 0,
            labels: 0,
            generations: 0,
            disks: 0,
            met: Met::default(),
            clock: Arc::default(),
            said: Vec::new(),
        };
        play.open();
        play
    }

    fn open(&mut self) {
        let options = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
        let (paths, launcher) = (self.world.paths(), self.world.fake.clone());
        let shared = Shared::with_clock(&paths, launcher, options, self.clock.clone());
        self.manager = Some(Manager::open_shared(shared, false).unwrap());
    }

    fn manager(&self) -> &Arc<Manager> {
        self.manager.as_ref().unwrap()
    }

    fn disk(&self, disk: u32) -> PathBuf {
        self.world.dir.path().join(format!("disk-{disk}.raw"))
    }

    /// Requests at the same time, and a look at what came of them.
    fn round(&mut self, asks: &[(usize, Ask)]) {
        self.held.targets.iter_mut().flatten().for_each(|target| target.ended_on = None);
        let said: Vec<Said> = if let [(which, only)] = asks {
            vec![self.ask(*which, only)]
        } else {
            std::thread::scope(|scope| {
                let play = &*self;
                let threads: Vec<_> =
                    asks.iter().map(|(which, ask)| scope.spawn(move || play.ask(*which, ask))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        };
        let told = asks.iter().zip(&said).map(|((which, ask), said)| (NAMES[*which], ask, said));
        self.said.push(format!("{:?}", told.collect::<Vec<_>>()));
        for ((which, ask), said) in asks.iter().zip(&said) {
            self.met.note(&self.held, *which, ask, said);
        }
        let rounds = self.rounds(asks);
        let mut legal = Vec::new();
        for order in orders(asks.len()) {
            let mut state = self.held.clone();
            if order.iter().all(|&i| state.take(asks[i].0, &asks[i].1, &said[i], &rounds)) {
                legal.push(state);
            }
        }
        assert!(!legal.is_empty(), "no order gives these answers: {}", self.said.last().unwrap());
        let mut about: Vec<usize> = asks.iter().flat_map(|(which, ask)| touched(*which, ask)).collect();
        about.sort_unstable();
        about.dedup();
        let left: Vec<Vec<Option<Content>>> = legal
            .iter()
            .map(|state| about.iter().map(|which| self.disk_left(*which, state)).collect())
            .collect();
        // Whoever was refused may or may not have noticed what was changed outside; now it is noticed.
        for which in &about {
            self.settle(NAMES[*which]);
        }
        for state in &mut legal {
            for which in &about {
                let Some(target) = state.targets[*which].as_mut().filter(|target| !target.away) else {
                    continue;
                };
                target.notice();
                // A disk that is open is not opened anew.
                target.renamed &= target.is_open();
                target.unfilled &= target.is_open();
            }
        }
        let listed = (rounds.movers > 0).then(|| self.removed());
        let mut seen = Vec::new();
        let fits = legal.into_iter().zip(left).find(|(state, left)| {
            let all = about.iter().zip(left).all(|(which, left)| {
                let model = state.targets[*which].as_ref();
                let found = self.found(NAMES[*which], model);
                let wanted = model.map(expected);
                // Whoever had the disk outside open last left it whole.
                let shown = wanted.as_ref().and_then(|wanted| wanted.disk);
                let fits = found == wanted && (left.is_none() || shown.is_none() || shown == *left);
                if !fits {
                    seen.push(format!("found {found:?}\nwanted {wanted:?}\nthe disk was left as {left:?}"));
                }
                let events =
                    model.map_or(Ok(()), |model| self.are_events(*which, model, rounds.of[*which].crowded));
                if let Err(why) = &events {
                    seen.push(why.clone());
                }
                fits && events.is_ok()
            });
            let lists = listed.iter().all(|listed| state.lists(listed, 0));
            if !lists {
                seen.push(format!("{listed:?} of {:?}", state.removed.keys()));
            }
            all && lists
        });
        let Some((state, _)) = fits else { panic!("no order leads to this state:\n{}", seen.join("\n")) };
        self.held = state;
        for which in about {
            self.mark(which, asks, &said);
        }
    }

    /// Nothing else happened to a machine than what the model says.
    fn are_events(&self, which: usize, model: &Model, crowded: bool) -> std::result::Result<(), String> {
        let Ok(target) = self.manager().target(NAMES[which]) else { return Ok(()) };
        let past = self.pasts.get(&model.generation);
        if past.is_some_and(|past| past.is_of_another(&target)) {
            return Err("it is another target".to_owned());
        }
        let since = past.map_or(0, Past::head);
        found::are_events(&target, model, since, crowded)
    }

    /// What the requests of a round may meet.
    fn rounds(&self, asks: &[(usize, Ask)]) -> Rounds {
        let mut rounds = Rounds::default();
        for (which, round) in rounds.of.iter_mut().enumerate() {
            let here = || asks.iter().filter(|(name, ask)| touched(*name, ask).contains(&which));
            round.crowded = here().count() > 1;
            round.unread =
                self.held.targets[which].as_ref().is_some_and(|t| t.changed.is_some() || t.renamed)
                    || here().any(|(_, ask)| matches!(ask, Ask::Add(_) | Ask::BringBack(..)));
            round.stops = here().filter(|(_, ask)| ask.ends_machine()).count();
            let opens = |ask: &Ask| {
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
            };
            round.served = round.crowded && here().any(|(_, ask)| opens(ask));
        }
        rounds.movers = asks.iter().filter(|(_, ask)| ask.moves_targets()).count();
        rounds
    }

    /// Nothing is being done now.
    fn mark(&mut self, which: usize, asks: &[(usize, Ask)], said: &[Said]) {
        let Some(model) = &mut self.held.targets[which] else { return };
        let target = self.manager.as_ref().unwrap().target(NAMES[which]).unwrap();
        // Of what others did at the same time, only what changes something matters.
        let looks = |ask: &Ask| {
            matches!(
                ask,
                Ask::Set
                    | Ask::Removed
                    | Ask::When(_)
                    | Ask::ReadExport(..)
                    | Ask::Export(_, Which::Moment(_))
            )
        };
        let done = asks
            .iter()
            .zip(said)
            .filter(|((name, ask), said)| touched(*name, ask).contains(&which) && !said.is_refusal());
        let done = done.map(|((_, ask), _)| ask);
        let undone = done.clone().any(|ask| matches!(ask, Ask::Undo));
        let alone = done.filter(|ask| !looks(ask)).count() <= 1;
        let past = self.pasts.entry(model.generation).or_default();
        past.mark(&target, model, alone, undone);
        for ((name, _), said) in asks.iter().zip(said) {
            let place = match said {
                Said::Meant(place, _) => Some(place),
                Said::Done(made) => made.as_ref().and_then(|made| made.of.as_ref()),
                _ => None,
            };
            if let Some(place) = place.filter(|_| *name == which) {
                past.note_time(place.seq, place.time);
            }
        }
    }

    /// The disk outside, as those left it who had it open; nothing if somebody else changed it since.
    fn disk_left(&self, which: usize, state: &Held) -> Option<Content> {
        let model =
            state.targets[which].as_ref().filter(|model| model.changed.is_none() && !model.renamed)?;
        let target = self.manager().target(NAMES[which]).ok()?;
        wait_for("the target to be quiet", || target.is_quiet());
        std::fs::read(self.disk(model.disk?)).ok().map(|bytes| to_content(&bytes))
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
        for target in self.held.targets.iter_mut().flatten() {
            target.exports.clear();
            if let Machine::Running(branch) = target.machine {
                target.machine = Machine::Left(branch);
            }
        }
        self.open();
        // What was closed has written something.
        for which in 0..NAMES.len() {
            self.mark(which, &[], &[]);
        }
    }

    /// The clock is set, mostly back, and perhaps by so little that it only stands still for a while.
    fn step_clock(&mut self, random: &mut Random) {
        const SECOND: i64 = 1_000_000;
        let by =
            [SECOND / 20, SECOND, 5 * SECOND, 60 * SECOND, 3600 * SECOND, 86_400 * SECOND][random.below(6)];
        let by = if random.one_in(3) { by } else { -by };
        self.clock.step(by);
        self.said.push(format!("the clock is set by {} ms", by / 1000));
    }

    fn disk_away_or_back(&mut self, which: usize) {
        let name = NAMES[which];
        let Some(disk) = self.held.targets[which].as_ref().and_then(|target| target.disk) else { return };
        let (here, there) = (self.disk(disk), self.disk(disk).with_extension("away"));
        let target = self.held.targets[which].as_mut().unwrap();
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
        let free = |t: &&Model| !t.away && !t.is_open();
        let Some(target) = self.held.targets[which].as_ref().filter(free) else { return };
        let Some(disk) = target.disk else { return };
        // What has not reached the disk would go over the change: see docs/decisions/0002-write-ahead-tap.md.
        let shown = target.changed.unwrap_or(target.branches[target.head].content);
        if to_content(&std::fs::read(self.disk(disk)).unwrap()) != shown {
            return;
        }
        let Some(target) = self.held.targets[which].as_mut() else { return };
        target.changed = Some(content);
        self.said.push(format!("the disk of {name} is changed"));
        std::thread::sleep(Duration::from_millis(12));
        std::fs::write(self.disk(disk), bytes_of(content)).unwrap();
    }

    fn play(&mut self, random: &mut Random) {
        for _ in 0..ROUNDS {
            let which = [0, 0, 1, 1, 2][random.below(5)];
            match random.below(17) {
                16 => self.step_clock(random),
                0 => self.kill(),
                1 | 2 => self.disk_away_or_back(which),
                3 => {
                    let content = std::array::from_fn(|block| thinking::a_byte(block, random));
                    self.change_outside(which, content);
                    // It meets one request alone, so that it is known who meets it.
                    let ask = self.think(which, random, true);
                    self.round(&[(which, ask)]);
                }
                _ => {
                    let clients = 1 + random.below(3);
                    let asks = self.think_together(which, clients, random);
                    self.round(&asks);
                }
            }
            self.look_around(which, random, 1);
        }
        self.end(random);
    }

    /// Whatever was asked for, every text means what it did; so does the one that is said to mean the same for good.
    fn look_around(&mut self, which: usize, random: &mut Random, texts: usize) {
        for _ in 0..texts {
            let (name, Some(model)) = (NAMES[which], &self.held.targets[which]) else { return };
            let text = self
                .pasts
                .get(&model.generation)
                .and_then(|past| past.text(model, random, true, self.clock.wall()));
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
            let past = self.pasts.get_mut(&model.generation).unwrap();
            if let Some((place, _, _)) = &told {
                past.note_time(place.seq, place.time);
            }
            if let Some((place, Some(content), text)) = told {
                past.note_told(model, text, &place, content);
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
    let (first, count) = (number("BYGONE_SEED", 1), number("BYGONE_SEQUENCES", 16));
    let mut met = Met::default();
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
        met.add(play.met);
    }
    if std::env::var_os("BYGONE_MET").is_some() {
        eprint!("{}", met.shown());
    }
}
