//! The disk below a tap: a file of a simulated medium, with the time of its last change, or a block device, which has
//! samples instead.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bygone_block::{RawDisk, samples};
use bygone_model::{Details, Micros};
use bygone_store::env::{Clock, File};

use crate::SimClock;

pub(super) const SECTOR: usize = 512;
pub(super) const SECTORS: usize = 160;

/// The time of the disk's last change, as its readers see it and as it is on the medium.
pub(super) struct Times {
    seen: AtomicI64,
    durable: AtomicI64,
}

impl Times {
    pub(super) fn at(start: Micros) -> Arc<Times> {
        Arc::new(Times { seen: start.0.into(), durable: start.0.into() })
    }

    /// Reverts to the durable time, after a power cut.
    pub(super) fn go_back(&self) {
        self.seen.store(self.durable.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The disk: a file of the second medium.
pub(super) struct SimDisk {
    file: DiskFile,
    is_device: bool,
}

impl SimDisk {
    pub(super) fn new(
        inner: Arc<dyn File>,
        clock: Arc<SimClock>,
        times: Arc<Times>,
        is_device: bool,
    ) -> SimDisk {
        SimDisk { file: DiskFile { inner, clock, times }, is_device }
    }

    /// Changes the disk from outside of Bygone.
    pub(super) fn change(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(&mut [IoSlice::new(bytes)], offset)?;
        self.sync()
    }
}

struct DiskFile {
    inner: Arc<dyn File>,
    clock: Arc<SimClock>,
    times: Arc<Times>,
}

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.times.seen.store(self.clock.wall().0, Ordering::Relaxed);
        self.inner.write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.set_len(len_bytes)
    }
    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.reserve(len_bytes)
    }
    fn prefetch(&self, _: u64, _: u64) {}
}

impl RawDisk for SimDisk {
    fn file(&self) -> &dyn File {
        &self.file
    }
    fn size_bytes(&self) -> u64 {
        (SECTORS * SECTOR) as u64
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        let Times { seen, durable } = &*self.file.times;
        durable.store(seen.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }
    fn zero(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.punch(offset, len_bytes)
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.file.write_at(&mut [IoSlice::new(&vec![0; len_bytes as usize])], offset)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut bytes = vec![0; (self.size_bytes() - offset) as usize];
        self.file.read_at(&mut bytes, offset)?;
        let data = bytes.iter().position(|b| *b != 0);
        Ok(data.map(|at| offset + (at - at % SECTOR) as u64))
    }
    fn next_hole(&self, _: u64) -> io::Result<u64> {
        Ok(self.size_bytes())
    }
    fn identity(&self) -> io::Result<Details> {
        let mut identity = Details::new();
        identity.insert("size_bytes".into(), self.size_bytes().into());
        identity.insert("device".into(), 1.into());
        if self.is_device {
            identity.insert("samples".into(), samples(&self.file, self.size_bytes())?.into());
            return Ok(identity);
        }
        identity.insert("inode".into(), 1.into());
        identity.insert("changed_micros".into(), self.file.times.seen.load(Ordering::Relaxed).into());
        Ok(identity)
    }
}
