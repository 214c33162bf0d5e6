//! How much a target takes in the store: counted now and then by whoever does upkeep, so that whoever asks opens no file.

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

/// It is counted again at most so often, …
const EVERY: Duration = Duration::from_secs(5);
/// … and at most in this part of the time.
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
    /// Bytes that its files took when they were last counted.
    pub(crate) fn used_bytes(&self) -> u64 {
        if lock(&self.size.counted).is_none() {
            self.count_size();
        }
        self.size.bytes.load(Ordering::Relaxed)
    }

    /// Counts again if it is time to.
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

/// Bytes that the history in the folder of a target takes.
pub(crate) fn size_in(dir: &Path) -> u64 {
    ["log", "index"].iter().map(|folder| bytes_in(&dir.join(folder)).unwrap_or(0)).sum()
}

fn bytes_in(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        // One that goes meanwhile takes nothing.
        total += entry?.metadata().map_or(0, |meta| meta.len());
    }
    Ok(total)
}
