//! The size of a target in the store. The manager's caretaker counts it now and then, so that `status` opens no file,
//! except for a target that was never counted.

use std::{
    fs, io,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_model::Seq;

use super::{Target, lock};

/// The shortest time between two counts.
const EVERY: Duration = Duration::from_secs(5);
/// Counting takes at most one part in this many of the time.
const SHARE: u32 = 100;

/// See the module's comment.
#[derive(Debug, Default)]
pub(super) struct Size {
    bytes: AtomicU64,
    counted: Mutex<Option<Counted>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    head: Seq,
    again: Instant,
}

impl Target {
    /// The bytes that its files took at the last count.
    pub(crate) fn used_bytes(&self) -> u64 {
        if lock(&self.size.counted).is_none() {
            self.count_size();
        }
        self.size.bytes.load(Ordering::Relaxed)
    }

    /// Counts again if the log has grown and the last count is old enough.
    pub(crate) fn count_size(&self) {
        let mut counted = lock(&self.size.counted);
        let (head, begun) = (self.log.head_seq(), Instant::now());
        if counted.is_some_and(|counted| counted.head == head || counted.again > begun) {
            return;
        }
        self.size.bytes.store(size_in(&self.dir), Ordering::Relaxed);
        let again = Instant::now() + EVERY.max(begun.elapsed() * SHARE);
        *counted = Some(Counted { head, again });
    }
}

/// The bytes that the history in a target's folder takes.
pub(crate) fn size_in(dir: &Path) -> u64 {
    ["log", "index"].iter().map(|folder| bytes_in(&dir.join(folder)).unwrap_or(0)).sum()
}

fn bytes_in(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        // A file that was removed meanwhile takes nothing.
        total += entry?.metadata().map_or(0, |meta| meta.len());
    }
    Ok(total)
}
