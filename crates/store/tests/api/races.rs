//! Races between two threads, one of which is stopped at the worst place.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

use bygone_model::Seq;
use bygone_store::{
    Below, Cursor, Log,
    catalog::Disk,
    env::{File, RealDir},
};

use super::watched::{Watch, Watched};
use super::world::{Ticks, disk, mark, options, write};

const SECOND: &str = "log/0000000002-00000001.seg";

/// Stops the thread `keeper` before it creates the file of the second segment.
struct Held {
    reached: mpsc::Sender<()>,
    go_on: Arc<(Mutex<bool>, Condvar)>,
}

impl Watch for Held {
    fn before_create(&self, name: &str) {
        if name == SECOND && thread::current().name() == Some("keeper") {
            let _ = self.reached.send(());
            let (go_on, changed) = &*self.go_on;
            // With a time limit, because the other thread may rightly wait for this one.
            let limit = Duration::from_millis(300);
            drop(changed.wait_timeout_while(go_on.lock().unwrap(), limit, |go_on| !*go_on).unwrap());
        }
    }
}

/// A place where a thread stops until it may go on.
#[derive(Default)]
struct Stop {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Stop {
    fn reach(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }
    /// Waits until a thread is here, with a time limit, because it may rightly do something else.
    fn wait_for_it(&self) {
        let limit = Duration::from_millis(300);
        drop(self.changed.wait_timeout_while(self.state.lock().unwrap(), limit, |state| !state.0).unwrap());
    }
    fn go_on(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Where the thread `reader` is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// At a read that ends in zeroes. It does not see the header that is written there meanwhile, but everything after
    /// that.
    AtTheEnd,
    /// At every read.
    Everywhere,
}

struct Slow(Arc<Stop>, Where);

impl Watch for Slow {
    fn read(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        const HEADER_BYTES: usize = 64;
        let got = file.read_at(buf, offset)?;
        let zeroes_from = buf[..got].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let rest = zeroes_from + HEADER_BYTES + 8;
        let is_reader = thread::current().name() == Some("reader");
        if is_reader && self.1 == Where::Everywhere {
            self.0.reach();
        }
        if !is_reader || self.1 == Where::Everywhere || rest >= got {
            return Ok(got);
        }
        self.0.reach();
        Ok(rest + file.read_at(&mut buf[rest..], offset + rest as u64)?)
    }
}

/// A reader of a segment that is being written may see a hole, and after it a record that says that the hole was
/// durable. That would be damage in a segment that takes no more records, and means nothing in one that does.
#[test]
fn a_volume_can_be_opened_while_records_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(Stop::default());
    let dir = Watched::new(folder.path(), Slow(stop.clone(), Where::AtTheEnd));
    let log = Log::make(dir, Arc::new(Ticks::default()), options(64 << 10), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    (0..4).for_each(|n| _ = write(&log, volume, n * 4, 4, 10 + n));
    // With a checkpoint, opening the volume reads its versions from the segments.
    log.checkpoint().unwrap();
    let other = log.clone();
    let reader = move || other.open_volume(volume, Below::Device, Seq::ZERO);
    let reader = thread::Builder::new().name("reader".into()).spawn(reader).unwrap();
    stop.wait_for_it();
    write(&log, volume, 16, 4, 14);
    log.flush().unwrap();
    write(&log, volume, 20, 4, 15);
    stop.go_on();
    reader.join().unwrap().unwrap();
    assert!((4..=6).contains(&log.head_runs(volume)));
}

/// Opening a volume reads its versions from the medium; writers of other volumes do not wait for that.
#[test]
fn a_volume_that_is_opened_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(Stop::default());
    let dir = Watched::new(folder.path(), Slow(stop.clone(), Where::Everywhere));
    let log = Log::make(dir, Arc::new(Ticks::default()), options(24 << 10), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    let other = log.add_disk(&Disk { name: "vdb".to_owned(), ..disk(1024) }).unwrap();
    (0..40).for_each(|n| _ = write(&log, volume, n * 4, 4, 10 + n));
    log.checkpoint().unwrap();
    while log.maintain().unwrap() {}
    let opened = log.clone();
    let reader = move || opened.open_volume(volume, Below::Device, Seq::ZERO);
    let reader = thread::Builder::new().name("reader".into()).spawn(reader).unwrap();
    stop.wait_for_it();
    assert!(stop.state.lock().unwrap().0, "what is sealed is read from the medium");
    let (log_of_writer, done) = (log.clone(), mpsc::channel());
    let writer = thread::spawn(move || {
        (0..40).for_each(|n| _ = write(&log_of_writer, other, n * 4, 4, 10 + n));
        log_of_writer.flush().unwrap();
        done.0.send(()).unwrap();
    });
    let waited = done.1.recv_timeout(Duration::from_secs(20));
    let still_opening = !reader.is_finished();
    stop.go_on();
    waited.unwrap();
    assert!(still_opening);
    writer.join().unwrap();
    reader.join().unwrap().unwrap();
    assert_eq!(log.head_runs(volume), 40);
}

/// However long a follower waits for the medium, no writer and no reader waits for it.
#[test]
fn a_follower_that_waits_for_the_medium_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(Stop::default());
    let dir = Watched::new(folder.path(), Slow(stop.clone(), Where::Everywhere));
    let log = Log::make(dir, Arc::new(Ticks::default()), options(24 << 10), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    (0..40).for_each(|n| _ = write(&log, volume, n * 4, 4, 10 + n));
    while log.maintain().unwrap() {}
    let head = log.flush().unwrap();
    let mut follower = log.follow(Cursor { log: log.id(), seq: Seq::ZERO }).unwrap();
    let reader = move || {
        let mut seen = 0;
        while let Some(batch) = follower.next_batch().unwrap() {
            assert!(batch.lost.is_empty());
            seen += batch.records.len() as u64;
        }
        seen
    };
    let reader = thread::Builder::new().name("reader".into()).spawn(reader).unwrap();
    stop.wait_for_it();
    assert!(stop.state.lock().unwrap().0, "what is sealed is read from the medium");
    (40..80).for_each(|n| _ = write(&log, volume, n * 4, 4, 10 + n));
    log.flush().unwrap();
    while log.maintain().unwrap() {}
    assert_eq!(mark(&log, volume, 4, log.head_seq()).unwrap(), 11);
    assert!(!reader.is_finished());
    stop.go_on();
    assert!(reader.join().unwrap() > head.0);
}

#[test]
fn i1_a_segment_that_a_write_began_is_not_taken_away_by_upkeep() {
    let folder = tempfile::tempdir().unwrap();
    let (reached, wait_for_it) = mpsc::channel();
    let go_on = Arc::new((Mutex::new(false), Condvar::new()));
    let dir = Watched::new(folder.path(), Held { reached, go_on: go_on.clone() });
    let options = options(24 << 10);
    let log = Log::make(dir, Arc::new(Ticks::default()), options.clone(), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    let mut written = 0;
    let mut one_more = || {
        written += 1;
        write(&log, volume, written * 4, 4, written);
    };
    (0..8).for_each(|_| one_more());
    let keeper = log.clone();
    let keeper = thread::Builder::new().name("keeper".into()).spawn(move || keeper.maintain()).unwrap();
    wait_for_it.recv().unwrap();
    // Write into the second segment, which upkeep is about to prepare.
    (0..8).for_each(|_| one_more());
    *go_on.0.lock().unwrap() = true;
    go_on.1.notify_all();
    keeper.join().unwrap().unwrap();
    let head = log.flush().unwrap();
    drop(log);

    let dir = Arc::new(RealDir::new(folder.path()));
    let log = Log::open(dir, Arc::new(Ticks::default()), options).unwrap();
    assert!(log.head_seq() >= head, "{} of {head}", log.head_seq());
    for n in 1..=written {
        assert_eq!(mark(&log, volume, n * 4, Seq(log.head_seq().0)).unwrap(), n);
    }
}
