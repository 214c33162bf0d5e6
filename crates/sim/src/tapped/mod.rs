//! A world of one tapped disk: a log on one medium, the disk on another. Both lose what is not durable in a power cut.
//!
//! The oracle is the list of writes in order, with their seqs. After any end the log has a prefix of them, at least up
//! to the last flush. The tap must read as exactly that prefix says, whatever the disk alone shows. Once the tap is
//! closed the disk itself must show it (the write-ahead rule, the redo, marks that do not promise too much). Moments
//! after the disk was read completely must never change (I3, I7).

mod disk;
mod ends;

use std::sync::Arc;

use bygone_block::{BlockDevice, Change, Reading, TapDevice, TapState, WhenFull, Writing};
use bygone_model::{Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{
    Hold, Log, LogOptions, MEMORY_BYTES, Store, Wait,
    catalog::{Disk, Keeping},
    place::NoContainers,
};

use crate::{
    SimClock,
    medium::{Faults, Medium},
    rng::{Rng, SimRandom, mix},
    world::{Failure, check},
};
use disk::{SECTOR, SECTORS, Times};

type Done<T = ()> = Result<T, Failure>;

const DISK: &str = "disk/vda";
/// The real destager runs every second; the simulated one must not run later than the tap allows for.
const UNDESTAGED_MAX: u32 = 40;

/// A write, and the records between which it is.
struct Write {
    after: Seq,
    /// `None`: the machine died during it.
    upto: Option<Seq>,
    first: usize,
    content: Vec<u8>,
}

struct World {
    rng: Rng,
    clock: Arc<SimClock>,
    log_medium: Arc<Medium>,
    disk_medium: Arc<Medium>,
    times: Arc<Times>,
    /// The disk is a block device: it has no time of change.
    is_device: bool,
    options: LogOptions,
    volume: VolumeId,
    log: Option<Arc<Log>>,
    tap: Option<Arc<TapDevice>>,
    /// The content of the disk before the writes.
    before: Vec<u8>,
    writes: Vec<Write>,
    /// The failed writes. A record appended in the place of one may be lost again in a power cut that leaves the failed
    /// one, until something after it is durable.
    limbo: Vec<Write>,
    /// Everything up to here was acknowledged as durable.
    durable: Seq,
    /// Moments with their content.
    moments: Vec<(Seq, Vec<u8>)>,
    undestaged: u32,
    /// The last destaging was too late for the tap to recognise the disk by its time of change.
    late: bool,
    /// A close failed. Its mark may be complete, and may count after a crash although the tap was opened again.
    half_closed: bool,
    /// The disk was changed from outside, and the tap has not been opened since.
    touched: bool,
    next_mark: u64,
    /// Steps until faults end.
    episode: u64,
    trace: Vec<String>,
}

/// Plays one world of a tapped disk; returns a trace of the run, which the seed alone determines.
///
/// # Errors
/// When the tap or its log violated an invariant, with the trace so far.
pub fn run_tapped(seed: u64, steps: u64) -> Result<Vec<String>, Failure> {
    let mut world = World::make(seed)?;
    match (0..steps).try_for_each(|_| world.step()).and_then(|()| world.end()) {
        Ok(()) => Ok(world.trace),
        Err(Failure(what)) => {
            let last = world.trace[world.trace.len().saturating_sub(60)..].join("\n");
            Err(Failure(format!("{last}\nseed {seed}, {steps} steps of a tapped disk: {what}")))
        }
    }
}

impl World {
    fn make(seed: u64) -> Done<World> {
        let mut rng = Rng::new(seed);
        let start = Micros(1_700_000_000_000_000);
        let clock = Arc::new(SimClock::new(start));
        let (log_medium, disk_medium) = (Medium::new(rng.draw()), Medium::new(rng.draw()));
        let mut before = vec![0; SECTORS * SECTOR];
        for sector in before.chunks_mut(SECTOR) {
            if rng.chance(500) {
                sector.fill(rng.draw() as u8);
            }
        }
        disk_medium.forge(DISK, &before);
        let options = LogOptions {
            segment_bytes: rng.pick(&[16, 48, 128]) << 10,
            segment_records_max: rng.pick(&[5, 40, 1 << 16]),
            checkpoint_entries: rng.pick(&[16, 120, 500]),
            checkpoint_bytes: 1 << 30,
            page_entries_max: usize::MAX,
            versions_max: usize::MAX,
            aligned_payload_bytes: [512, 4096, 1 << 20][(seed % 3) as usize],
            begin_bytes: 8192,
            uncached_bytes: 16384,
            joined_min: 3,
            inventory_micros: 0,
            containers: Arc::new(NoContainers),
            hold: Hold::Newest,
            store: Arc::new(Store::new(64 << 10, MEMORY_BYTES)),
            random: Arc::new(SimRandom::new(seed)),
        };
        let log = Log::make(log_medium.dir(), clock.clone(), options.clone(), [seed as u8; 16]);
        let log = log.map_err(|e| Failure(format!("making a log: {e}")))?;
        let disk = Disk {
            name: "vda".to_owned(),
            sectors: Sectors(SECTORS as u64),
            block_bytes: 512,
            keeping: Keeping::Tap,
        };
        let volume = log.add_disk(&disk).map_err(|e| Failure(format!("adding the disk: {e}")))?;
        let times = Times::at(start);
        let mut world = World {
            rng,
            clock,
            log_medium,
            disk_medium,
            times,
            is_device: mix(seed).is_multiple_of(2),
            options,
            volume,
            durable: log.durable_seq(),
            log: Some(log),
            tap: None,
            before,
            writes: Vec::new(),
            limbo: Vec::new(),
            moments: Vec::new(),
            undestaged: 0,
            late: false,
            half_closed: false,
            touched: false,
            next_mark: 0,
            episode: 0,
            trace: Vec::new(),
        };
        world.open(Some(TapState::New))?;
        Ok(world)
    }

    fn say(&mut self, what: &str) {
        let head = self.log.as_ref().map_or(Seq::ZERO, |log| log.head_seq());
        self.trace.push(format!("@{head} {what}"));
    }

    fn is_dead(&self) -> bool {
        self.log_medium.is_dead() || self.disk_medium.is_dead()
    }

    /// The content of the disk after all writes in the log.
    fn now(&self) -> Vec<u8> {
        let mut now = self.before.clone();
        for write in &self.writes {
            now[write.first * SECTOR..][..write.content.len()].copy_from_slice(&write.content);
        }
        now
    }

    fn log(&self) -> Done<Arc<Log>> {
        self.log.clone().ok_or_else(|| Failure("there is no log".to_owned()))
    }

    /// An operation failed, which only injected faults excuse.
    fn excuse(&mut self, what: &str, error: &dyn std::fmt::Display) -> Done {
        self.say(&format!("{what}: {error}"));
        let poisoned = self.log.as_ref().is_some_and(|log| log.is_poisoned());
        check!(self.is_dead() || self.episode > 0 || poisoned, "{what}: {error}");
        Ok(())
    }

    /// Opens the tap. `expected`: the state that it must report.
    fn open(&mut self, expected: Option<TapState>) -> Done {
        let log = self.log()?;
        let disk = self.sim_disk()?;
        match TapDevice::open(log, self.volume, Box::new(disk), WhenFull::Fail) {
            Ok((tap, state)) => {
                self.say(&format!("opened: {state:?}"));
                if std::mem::take(&mut self.touched) {
                    check!(state != TapState::Known, "a change behind our back was not noticed");
                } else if let Some(expected) = expected {
                    check!(state == expected, "the disk is {state:?} instead of {expected:?}");
                }
                self.tap = Some(tap);
                self.read_all("after opening")
            }
            Err(e) => self.excuse("open", &e),
        }
    }

    fn read_all(&mut self, when: &str) -> Done {
        let Some(tap) = self.tap.clone() else { return Ok(()) };
        let mut bytes = vec![0; SECTORS * SECTOR];
        if let Err(e) = tap.read(0, &mut bytes, Reading::MayWait) {
            return self.excuse("read", &e);
        }
        same(&bytes, &self.now(), when)
    }

    fn step(&mut self) -> Done {
        self.clock.advance(self.rng.within(1000, 100_000) as i64);
        match self.rng.below(1000) {
            0..450 => self.write()?,
            450..520 => self.flush()?,
            520..620 => self.destage()?,
            620..680 => self.read_all("while open")?,
            680..760 => self.maintain()?,
            760..790 => self.reread()?,
            790..810 => self.remember(),
            810..830 => self.look_back()?,
            830..850 => self.close()?,
            850..880 => self.faults(),
            880..920 => {
                let operations = self.rng.pick(&[2, 8, 40]);
                let operations = self.rng.below(operations);
                let medium = if self.rng.chance(500) { &self.log_medium } else { &self.disk_medium };
                medium.die_in(Some(operations));
                self.say(&format!("dies in {operations}"));
            }
            920..940 => self.reopen()?,
            _ => {}
        }
        if self.is_dead() || self.log.as_ref().is_some_and(|log| log.is_poisoned()) && self.rng.chance(500) {
            self.reopen()?;
        }
        if self.undestaged > UNDESTAGED_MAX {
            self.destage()?;
        }
        if self.tap.is_none() && !self.is_dead() {
            self.open(None)?;
        }
        self.episode = self.episode.saturating_sub(1);
        if self.episode == 0 {
            self.end_faults();
        }
        Ok(())
    }

    fn end_faults(&mut self) {
        self.episode = 0;
        for medium in [&self.log_medium, &self.disk_medium] {
            medium.set_faults(Faults::default());
            medium.set_room(None);
        }
    }

    fn faults(&mut self) {
        self.episode = self.rng.within(3, 15);
        let sync_fails = self.rng.pick(&[100, 400, 1000]);
        let (of_log, what) = (self.rng.chance(300), self.rng.below(3));
        let faults = match what {
            0 => Faults { full: 300, ..Faults::default() },
            _ => Faults { sync_fails, ..Faults::default() },
        };
        let medium = if of_log { &self.log_medium } else { &self.disk_medium };
        medium.set_faults(faults);
        self.say(&format!("faults of the {}: {faults:?}", if of_log { "log" } else { "disk" }));
    }

    fn write(&mut self) -> Done {
        let (Some(tap), log) = (self.tap.clone(), self.log()?) else { return Ok(()) };
        let sectors = self.rng.pick(&[1, 1, 3, 8, 8, 8, 20, 90]).min(SECTORS as u64) as usize;
        let first = self.rng.below((SECTORS - sectors + 1) as u64) as usize;
        self.next_mark += 1;
        let clear = self.rng.below(6);
        let len_bytes = (sectors * SECTOR) as u64;
        let mut content = vec![0; sectors * SECTOR];
        if clear > 1 {
            for (i, word) in content.chunks_mut(8).enumerate() {
                word.copy_from_slice(&(self.next_mark << 16 | i as u64).to_le_bytes());
            }
        }
        let change = match clear {
            0 => Change::Zero { len_bytes },
            1 => Change::Trim { len_bytes },
            _ => Change::Data(&content),
        };
        let after = log.head_seq();
        let result = tap.write(&[Writing { offset: (first * SECTOR) as u64, change }]);
        self.say(&format!("write {first}+{sectors}: {}", result.is_ok()));
        let dead = self.is_dead();
        let upto = log.head_seq();
        if let Err(e) = result {
            self.excuse("write", &e)?;
            if !dead && !self.is_appended(&log, after, first, sectors)? {
                // A complete record of it may be in the log, as the next one.
                self.limbo.push(Write { after: upto, upto: None, first, content });
                return Ok(());
            }
        }
        self.undestaged += 1;
        self.writes.push(Write { after, upto: (!dead).then_some(upto), first, content });
        Ok(())
    }

    /// Whether the log has a write of these sectors after the record `after`. Their content alone would not tell,
    /// because it may have been the same before.
    fn is_appended(&self, log: &Log, after: Seq, first: usize, sectors: usize) -> Done<bool> {
        let range = (Lba(first as u64), Sectors(sectors as u64));
        let found = log.resolve_head(self.volume, range.0, range.1, Wait::Yes);
        let found = found.map_err(|e| Failure(format!("looking up the present: {e}")))?;
        Ok(found.iter().all(|part| part.found.is_some_and(|(seq, _)| seq > after)))
    }

    fn flush(&mut self) -> Done {
        let Some(tap) = self.tap.clone() else { return Ok(()) };
        let head = self.log()?.head_seq();
        match tap.flush() {
            Ok(()) => {
                check!(!self.log()?.is_poisoned(), "a flush of a poisoned log is acknowledged");
                self.durable = self.durable.max(head);
                self.say("flushed");
                Ok(())
            }
            Err(e) => self.excuse("flush", &e),
        }
    }

    fn destage(&mut self) -> Done {
        let Some(tap) = self.tap.clone() else { return Ok(()) };
        self.say("destage");
        match tap.destage() {
            Ok(()) => {
                self.undestaged = 0;
                self.late = false;
                Ok(())
            }
            Err(e) => {
                self.late |= self.undestaged > UNDESTAGED_MAX;
                self.excuse("destage", &e)
            }
        }
    }

    fn maintain(&mut self) -> Done {
        match self.log()?.maintain() {
            Ok(_) => Ok(()),
            Err(e) => self.excuse("maintain", &e),
        }
    }

    fn reread(&mut self) -> Done {
        let Some(tap) = self.tap.clone() else { return Ok(()) };
        if tap.is_complete() {
            return Ok(());
        }
        match tap.reread(&mut |_, _| true) {
            Ok(found) => {
                self.say(&format!("read: {found:?}"));
                self.durable = self.durable.max(self.log()?.durable_seq());
                Ok(())
            }
            Err(e) => self.excuse("reread", &e),
        }
    }

    /// Remembers a moment, if it may be read.
    fn remember(&mut self) {
        if let (Some(tap), Some(log)) = (&self.tap, &self.log)
            && tap.is_complete()
            && log.catalog().is_exact(self.volume, log.head_seq())
        {
            self.moments.push((log.head_seq(), self.now()));
        }
    }

    fn look_back(&mut self) -> Done {
        let log = self.log()?;
        let count = self.moments.len() as u64;
        let Some((seq, then)) = self.moments.get(self.rng.below(count) as usize).cloned() else {
            return Ok(());
        };
        let mut bytes = vec![0; SECTORS * SECTOR];
        let read = log.view(self.volume, seq).and_then(|view| view.read(Lba(0), &mut bytes, Wait::Yes));
        match read {
            Ok(()) => same(&bytes, &then, &format!("as of {seq}")),
            Err(e) => self.excuse("look back", &e),
        }
    }

    /// Closes the tap; sometimes the disk is changed from outside before it is opened again.
    fn close(&mut self) -> Done {
        let Some(tap) = self.tap.take() else { return Ok(()) };
        let complete = tap.is_complete();
        let closed = tap.close();
        drop(tap);
        if let Err(e) = closed {
            self.half_closed = true;
            return self.excuse("close", &e);
        }
        self.say("closed");
        (self.undestaged, self.late, self.half_closed) = (0, false, false);
        self.durable = self.durable.max(self.log()?.durable_seq());
        same(&self.disk(), &self.now(), "on the disk after a clean close")?;
        let known = if complete { TapState::Known } else { TapState::Unfinished };
        if self.rng.chance(300) {
            return self.reopen_expecting(known);
        }
        if self.episode > 0 || self.rng.chance(700) {
            return self.open((self.episode == 0).then_some(known));
        }
        // Behind Bygone's back.
        self.touched = true;
        self.disk_medium.die_in(None);
        self.clock.advance(1_000_000);
        let at = self.rng.below(SECTORS as u64) as usize;
        let disk = self.sim_disk()?;
        let mut mark = [self.rng.draw() as u8; SECTOR];
        if self.is_device && self.disk()[at * SECTOR] == mark[0] {
            // Nothing tells of a write of what is there already.
            mark = mark.map(|byte| !byte);
        }
        let written = disk.change((at * SECTOR) as u64, &mark);
        written.map_err(|e| Failure(format!("somebody cannot write: {e}")))?;
        self.say(&format!("somebody wrote to sector {at}"));
        self.before = self.disk();
        self.writes.clear();
        self.open(Some(TapState::Changed { waiting_bytes_max: 0 }))
    }

    fn end(&mut self) -> Done {
        self.end_faults();
        self.reopen()?;
        for (seq, then) in std::mem::take(&mut self.moments) {
            let mut bytes = vec![0; SECTORS * SECTOR];
            let read =
                self.log()?.view(self.volume, seq).and_then(|view| view.read(Lba(0), &mut bytes, Wait::Yes));
            read.map_err(|e| Failure(format!("as of {seq}: {e}")))?;
            same(&bytes, &then, &format!("as of {seq}"))?;
        }
        self.reread()?;
        let tap = self.tap.take().ok_or_else(|| Failure("there is no tap".to_owned()))?;
        tap.close().map_err(|e| Failure(format!("closing: {e}")))?;
        same(&self.disk(), &self.now(), "on the disk at the end")?;
        self.disk_medium.power_cut();
        same(&self.disk(), &self.now(), "on the disk after a last power cut")
    }
}

fn same(found: &[u8], wanted: &[u8], when: &str) -> Done {
    let differs = found.chunks(SECTOR).zip(wanted.chunks(SECTOR)).position(|(a, b)| a != b);
    check!(found.len() == wanted.len(), "{when}: {} bytes", found.len());
    if let Some(sector) = differs {
        let word = |bytes: &[u8]| {
            let from = sector * SECTOR;
            u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap_or_default()) >> 16
        };
        return Err(Failure(format!(
            "{when}: sector {sector} holds {:x} instead of {:x}",
            word(found),
            word(wanted)
        )));
    }
    Ok(())
}
