//! Two threads at the same moment, held at the worst place.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

use bygone_model::Seq;
use bygone_store::{
    Log,
    env::{Dir, File, RealDir},
};

use super::world::{Ticks, disk, mark, options, write};

const SECOND: &str = "log/0000000002.seg";

/// A folder that holds up whoever removes the file of the second segment in a thread of the name `keeper`.
struct Held {
    inner: RealDir,
    reached: mpsc::Sender<()>,
    go_on: Arc<(Mutex<bool>, Condvar)>,
}

impl Dir for Held {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.open(name)
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        if name == SECOND && thread::current().name() == Some("keeper") {
            let _ = self.reached.send(());
            let (go_on, changed) = &*self.go_on;
            // Not for ever: the other may rightly wait for this one.
            let limit = Duration::from_millis(300);
            drop(changed.wait_timeout_while(go_on.lock().unwrap(), limit, |go_on| !*go_on).unwrap());
        }
        self.inner.remove(name)
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.inner.sync(folder)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

#[test]
fn i1_a_segment_that_a_write_began_is_not_taken_away_by_upkeep() {
    let folder = tempfile::tempdir().unwrap();
    let (reached, wait_for_it) = mpsc::channel();
    let go_on = Arc::new((Mutex::new(false), Condvar::new()));
    let dir = Held { inner: RealDir::new(folder.path()), reached, go_on: go_on.clone() };
    let options = options(24 << 10);
    let log =
        Log::make(Arc::new(dir), Arc::new(Ticks::default()), options.clone(), *b"sixteen bytes id").unwrap();
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
    // Into the second segment, which upkeep is about to make.
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
