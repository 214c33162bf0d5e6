//! One world: a medium, a clock, a store, an oracle, and steps that a seed chooses.

mod displaced;
mod ends;
mod follow;
mod newest;
mod overrun;
mod reads;
mod rot;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bygone_model::{BranchId, Micros, Seq};
use bygone_store::{
    Damage, Error, Hold, Log, LogOptions, MEMORY_BYTES, Store, View, catalog::Change, env::Clock,
    place::NoContainers,
};

use crate::{
    SimClock,
    medium::{Faults, Medium},
    oracle::{Oracle, Rec},
    profile::{Profile, Step},
    rng::{Rng, SimRandom, mix},
};

/// A violation of an invariant by the store.
#[derive(Clone, Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Done<T = ()> = Result<T, Failure>;

/// Fails the run unless the condition holds.
macro_rules! check {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(crate::world::Failure(format!($($what)*)));
        }
    };
}
pub(crate) use check;

/// Counters of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps.
    pub steps: u64,
    /// Records at the end.
    pub records: u64,
    /// Bytes that were compared with the oracle.
    pub compared_bytes: u64,
    /// Kills.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Records that a power cut took.
    pub lost_records: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Damages that were inflicted.
    pub damages: u64,
    /// Damage that the store reported instead of content.
    pub damage_errors: u64,
}

/// The result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all data read and of every answer.
    pub digest: u64,
    /// Counters of the run.
    pub stats: Stats,
}

/// Plays the world `seed` for `steps` steps.
///
/// # Errors
/// When the store violated an invariant; the text includes the seed.
pub fn run(seed: u64, steps: u64, profile: Profile) -> Result<Outcome, Failure> {
    let world = std::cell::RefCell::new(None);
    let played = catch_unwind(AssertUnwindSafe(|| {
        let made = World::make(seed, profile)?;
        let mut place = world.borrow_mut();
        place.insert(made).play(steps)
    }));
    let failure = match played {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(failure)) => failure.0,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            format!("panic: {}", text.unwrap_or("?"))
        }
    };
    let mut text = String::new();
    if let Some(world) = world.borrow().as_ref() {
        for line in &world.trace {
            text.push_str(line);
            text.push('\n');
        }
    }
    let name = profile.name;
    Err(Failure(format!(
        "{text}{failure}\nseed {seed} profile {name}: reproduce with: BYGONE_SIM_SEED={seed} \
         BYGONE_SIM_PROFILE={name} BYGONE_SIM_STEPS={steps} cargo nextest run -p bygone-sim one_seed"
    )))
}

/// Plays the same world twice; both must have the same result.
///
/// # Errors
/// As [`run()`], or when the results differ.
pub fn run_twice(seed: u64, steps: u64, profile: Profile) -> Result<Outcome, Failure> {
    let (first, second) = (run(seed, steps, profile)?, run(seed, steps, profile)?);
    if first == second {
        return Ok(first);
    }
    let name = profile.name;
    Err(Failure(format!("seed {seed} profile {name}: two runs differ: {first:?} and {second:?}")))
}

/// The result of an operation on the store.
enum Act<T> {
    /// It succeeded.
    Done(T),
    /// The store refused it.
    Refused(Error),
    /// The machine died during it.
    Died,
}

struct World {
    rng: Rng,
    medium: Arc<Medium>,
    clock: Arc<SimClock>,
    options: LogOptions,
    profile: Profile,
    log: Option<Arc<Log>>,
    /// This life of the log has no record yet; its first record will announce it.
    fresh: bool,
    /// The incarnation of this life.
    life: u32,
    /// The term in which it holds the log …
    term: u32,
    /// … and the newest one that may have been begun.
    term_perhaps: u32,
    oracle: Oracle,
    /// Records that were attempted but not acknowledged, with their first seq.
    limbo: Vec<(u64, Vec<Rec>)>,
    /// Open volumes over the index.
    open: BTreeSet<u32>,
    /// Volumes with a device below, and the moment that the device shows.
    taps: BTreeMap<u32, Seq>,
    open_taps: BTreeSet<u32>,
    views: Vec<(View, u32)>,
    /// Steps until faults end.
    episode: u64,
    /// Damage may be encountered.
    damaged: bool,
    /// Pages of index files were damaged while the log is in use: a read may fail until upkeep has run once.
    hurt_index: bool,
    /// Index files were lost.
    lost_index: bool,
    /// A segment without an index was damaged.
    hurt_unsealed: bool,
    /// Bits rot before the next open of the log.
    rot_between_lives: bool,
    /// Records that were damaged.
    suspects: Vec<Seq>,
    /// The position that the follower saved …
    followed: Seq,
    /// … and those whose saving was not confirmed.
    followed_perhaps: Vec<Seq>,
    next_content: u64,
    digest: u64,
    stats: Stats,
    trace: VecDeque<String>,
    trace_max: usize,
}

impl World {
    fn make(seed: u64, profile: Profile) -> Done<World> {
        let mut rng =
            Rng::new(seed ^ mix(profile.name.len() as u64 * 31 + u64::from(profile.name.as_bytes()[0])));
        let options = LogOptions {
            segment_bytes: rng.pick(&[16, 24, 48, 64, 128, 256]) << 10,
            segment_records_max: rng.pick(&[5, 40, 1 << 16, 1 << 16]),
            checkpoint_entries: rng.pick(&[16, 40, 120, 500]),
            checkpoint_bytes: rng.pick(&[100 << 10, 1 << 30]),
            page_entries_max: if profile.name == "pages" { 8 } else { usize::MAX },
            versions_max: if profile.name.contains("index") { 600 } else { usize::MAX },
            aligned_payload_bytes: [512, 2048, 8192, 1 << 20][(mix(seed) % 4) as usize],
            begin_bytes: 8192,
            uncached_bytes: 16384,
            joined_min: [2, 4, 8, usize::MAX][(mix(seed ^ 5) % 4) as usize],
            inventory_micros: 0,
            containers: Arc::new(NoContainers),
            hold: Hold::Newest,
            store: Arc::new(
                Store::new(rng.pick(&[4 << 10, 64 << 10, 1 << 20]), MEMORY_BYTES)
                    .with_background([100 << 10, u64::MAX][(mix(seed ^ 6) % 2) as usize]),
            ),
            random: Arc::new(SimRandom::new(seed)),
        };
        let start = Micros(1_700_000_000_000_000 + rng.below(1 << 40) as i64);
        let mut world = World {
            medium: Medium::new(rng.draw()),
            clock: Arc::new(SimClock::new(start)),
            rng,
            options,
            profile,
            log: None,
            fresh: false,
            life: 1,
            term: 1,
            term_perhaps: 1,
            oracle: Oracle::new(start),
            limbo: Vec::new(),
            open: BTreeSet::new(),
            taps: BTreeMap::new(),
            open_taps: BTreeSet::new(),
            views: Vec::new(),
            episode: 0,
            damaged: false,
            hurt_index: false,
            lost_index: false,
            hurt_unsealed: false,
            rot_between_lives: false,
            suspects: Vec::new(),
            followed: Seq::ZERO,
            followed_perhaps: Vec::new(),
            next_content: 1,
            digest: 0,
            stats: Stats::default(),
            trace: VecDeque::new(),
            trace_max: if std::env::var_os("BYGONE_SIM_TRACE").is_some() { usize::MAX } else { 60 },
        };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&world.rng.draw().to_le_bytes());
        id[8..].copy_from_slice(&seed.to_le_bytes());
        let made = Log::make(world.medium.dir(), world.clock.clone(), world.options.clone(), id);
        let log = made.map_err(|e| Failure(format!("making a log: {e}")))?;
        world.oracle.push(start, Rec::Change(Change::Opened { incarnation: 1 }));
        world.oracle.push(start, Rec::Change(Change::Promote { id: BranchId(0) }));
        world.oracle.push(start, Rec::Mark);
        world.oracle.durable = world.oracle.head();
        world.log = Some(log);
        world.add_disk()?;
        Ok(world)
    }

    fn play(&mut self, steps: u64) -> Done<Outcome> {
        let weights = self.profile.steps;
        for _ in 0..steps {
            self.stats.steps += 1;
            if self.rng.chance(800) {
                let pause = self.rng.pick(&[1, 1000, 50_000, 3_000_000]);
                self.clock.advance(self.rng.below(pause) as i64);
            }
            let step = weights[self.rng.weighted(weights.iter().map(|w| w.1))].0;
            self.step(step)?;
            self.after_step()?;
        }
        self.end_episode();
        self.medium.die_in(None);
        if self.rng.chance(300) {
            let power_cut = self.rng.chance(500);
            self.reopen(power_cut)?;
        }
        if self.log.as_ref().is_some_and(|log| log.is_poisoned()) {
            self.reopen(false)?;
        }
        self.compare_all(4)?;
        self.verify()?;
        self.stats.records = self.oracle.head().0;
        self.stats.faults = self.medium.counters().faults;
        Ok(Outcome { digest: self.digest, stats: self.stats })
    }

    fn after_step(&mut self) -> Done {
        if self.medium.is_dead() {
            self.log = None;
            let power_cut = self.rng.chance(500);
            return self.reopen(power_cut);
        }
        if self.log.as_ref().is_some_and(|log| log.is_poisoned()) {
            self.check_poisoned()?;
            if self.rng.chance(600) {
                let power_cut = self.rng.chance(500);
                return self.reopen(power_cut);
            }
        }
        if self.episode > 0 {
            self.episode -= 1;
            if self.episode == 0 {
                self.end_episode();
            }
        }
        Ok(())
    }

    fn end_episode(&mut self) {
        self.episode = 0;
        self.medium.set_faults(Faults::default());
        self.medium.set_room(None);
    }

    fn say(&mut self, what: impl Into<String>) {
        if self.trace.len() == self.trace_max {
            self.trace.pop_front();
        }
        let what = what.into();
        self.note(what.as_bytes());
        self.trace.push_back(format!("{:5} @{} {what}", self.stats.steps, self.oracle.head()));
    }

    fn note(&mut self, bytes: &[u8]) {
        let mut digest = self.digest;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            digest = mix(digest ^ u64::from_le_bytes(word));
        }
        self.digest = digest;
    }

    fn log(&self) -> Done<Arc<Log>> {
        self.log.clone().ok_or_else(|| Failure("there is no log".to_owned()))
    }

    /// Runs an operation that appends `intent`, and keeps the oracle in step with its result.
    fn act<T>(
        &mut self,
        what: &str,
        intent: Vec<Rec>,
        ask: impl FnOnce(&Arc<Log>) -> bygone_store::Result<T>,
    ) -> Done<Act<T>> {
        let log = self.log()?;
        let old = self.oracle.head();
        check!(log.head_seq() == old, "before {what}: head {} instead of {old}", log.head_seq());
        let (time, era) = self.oracle.next_time(self.clock.wall());
        let mut plan = Vec::new();
        if era {
            plan.push(Rec::Change(Change::Era));
        }
        if self.fresh {
            plan.push(Rec::Change(Change::Opened { incarnation: self.life }));
        }
        let appends = !intent.is_empty();
        plan.extend(intent);
        let needed = plan.len();
        plan.push(Rec::Mark);
        let faults = self.medium.counters().faults;
        let result = ask(&log);
        if self.medium.is_dead() {
            self.say(format!("{what}: died"));
            self.limbo.push((old.0 + 1, plan));
            return Ok(Act::Died);
        }
        let done = (log.head_seq().0 - old.0) as usize;
        check!(done <= plan.len(), "{what}: {done} records instead of {needed}");
        let rest = plan.split_off(done);
        let faulty = self.medium.counters().faults > faults;
        for rec in plan {
            self.fresh &= !matches!(rec, Rec::Change(Change::Opened { .. }));
            self.oracle.push(time, rec);
        }
        if result.is_err() || faulty {
            self.limbo.push((old.0 + done as u64 + 1, rest));
        }
        match result {
            Ok(value) => {
                check!(!appends || done >= needed, "{what}: acknowledged with {done} of {needed} records");
                Ok(Act::Done(value))
            }
            Err(error) => {
                self.say(format!("{what}: {error}"));
                Ok(Act::Refused(error))
            }
        }
    }

    /// Whether the state of the world excuses this error.
    fn excuses(&self, error: &Error) -> bool {
        let faulty = self.episode > 0;
        match error {
            Error::Full { .. } | Error::Io { .. } => faulty,
            Error::Unnamed { why, .. } => self.excuses(why),
            Error::Poisoned => self.medium.sync_failed(),
            Error::Damaged { damage: Damage::Unreadable, .. } => faulty,
            Error::Damaged { .. } => self.damaged || self.medium.sync_failed(),
            _ => false,
        }
    }

    fn excuse(&mut self, what: &str, error: &Error) -> Done {
        check!(self.excuses(error), "{what}: {error}");
        self.stats.damage_errors += u64::from(matches!(error, Error::Damaged { .. }));
        Ok(())
    }

    fn step(&mut self, step: Step) -> Done {
        match step {
            Step::Append => self.append(),
            Step::Flush => self.flush(),
            Step::Event => self.event(),
            Step::Maintain => self.maintain(1),
            Step::MaintainAll => self.maintain(50),
            Step::Checkpoint => self.checkpoint(),
            Step::AddDisk => self.add_disk(),
            Step::AddBranch => self.add_branch(),
            Step::DropBranch => self.drop_branch(),
            Step::Promote => self.promote(),
            Step::OpenOrClose => self.open_or_close(),
            Step::ReadPresent => self.read_present(),
            Step::ReadPast => self.read_past(),
            Step::Times => self.times(),
            Step::ReadEvents => self.read_events(),
            Step::Tap => self.tap(),
            Step::Kill => self.reopen(false),
            Step::PowerCut => self.reopen(true),
            Step::TakeOver => self.take_over(),
            Step::Overrun => self.overrun(),
            Step::Displace => self.displace(),
            Step::Doom => {
                let operations = self.rng.pick(&[3, 12, 60]);
                let operations = self.rng.below(operations);
                self.say(format!("dies in {operations}"));
                self.medium.die_in(Some(operations));
                Ok(())
            }
            Step::Full => {
                self.episode = self.rng.within(3, 25);
                if self.rng.chance(700) {
                    let room = self.rng.pick(&[0, 300, 5000, 40_000, 200_000]);
                    let room = self.rng.within(room / 2, room);
                    self.say(format!("room for {room}"));
                    self.medium.set_room(Some(room));
                } else {
                    self.say("full now and then");
                    self.medium.set_faults(Faults { full: 200, ..Faults::default() });
                }
                Ok(())
            }
            Step::FailSync => {
                self.episode = self.rng.within(3, 12);
                let sync_fails = self.rng.pick(&[100, 300, 1000]);
                self.say(format!("syncs fail {sync_fails}"));
                self.medium.set_faults(Faults { sync_fails, ..Faults::default() });
                Ok(())
            }
            Step::FailReads => {
                self.episode = self.rng.within(3, 12);
                self.say("reads fail");
                self.medium.set_faults(Faults { read_fails: 100, would_block: 300, ..Faults::default() });
                Ok(())
            }
            Step::Follow => self.follow(),
            Step::Rot => self.rot(),
            Step::LoseIndex => self.lose_index(),
            Step::RotIndex => self.rot_index(),
            Step::RotNewest => self.rot_newest(),
            Step::Jump => {
                let by = self.rng.pick(&[1_000_000, 3_000_000, 3_600_000_000, 400_000_000_000]);
                let by = self.rng.below(by) as i64;
                let by = if self.rng.chance(600) { -by } else { by };
                self.say(format!("clock jumps by {by}"));
                self.clock.jump(by);
                Ok(())
            }
            Step::Verify => self.verify(),
            Step::CompareAll => self.compare_all(2),
        }
    }
}
