//! A disk with arbitrary content, most of it zeroes.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use bygone_files::{Blocks, Cause, ReadError};

use crate::input::Input;

pub(super) struct Disk {
    pub content: Content,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    read_bytes: AtomicU64,
}

impl Blocks for Disk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            return Err(ReadError { offset, len_bytes: buf.len(), cause: Cause::Outside });
        }
        self.read_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.content.read(offset, buf);
        Ok(())
    }
}

impl Disk {
    pub(super) fn new(content: Content, size_bytes: u64, sector_bytes: u32) -> Disk {
        Disk { content, size_bytes, sector_bytes, read_bytes: AtomicU64::new(0) }
    }

    /// How much was read since the last call.
    pub(super) fn take_read_bytes(&self) -> u64 {
        self.read_bytes.swap(0, Ordering::Relaxed)
    }
}

/// The sectors that do not hold zeroes.
#[derive(Clone)]
pub(super) struct Content(BTreeMap<u64, [u8; 512]>);

impl Content {
    pub(super) fn of(input: &mut Input<'_>) -> Content {
        let mut sectors = BTreeMap::new();
        while !input.is_empty() {
            let (sector, at, len) = (u64::from(input.u16()), input.below(512), usize::from(input.u8()));
            let bytes = input.bytes(len);
            let bytes = &bytes[..bytes.len().min(512 - at)];
            sectors.entry(sector).or_insert([0; 512])[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Content(sectors)
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = offset + buf.len() as u64;
        for (sector, bytes) in self.0.range(offset / 512..end.div_ceil(512)) {
            let start = sector * 512;
            let (from, to) = (start.max(offset), (start + 512).min(end));
            if from < to {
                let part = &bytes[(from - start) as usize..(to - start) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
    }

    /// Where the sectors are that do not hold zeroes, in bytes.
    pub(super) fn used(&self) -> impl Iterator<Item = u64> {
        self.0.keys().map(|sector| sector * 512)
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes);
        bytes
    }

    pub(super) fn byte(&self, at: u64) -> u8 {
        self.bytes(at, 1)[0]
    }

    pub(super) fn number(&self, at: u64, bytes: u64) -> u64 {
        (0..bytes).rev().fold(0, |n, i| n << 8 | u64::from(self.byte(at + i)))
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            self.0.entry(at / 512).or_insert([0; 512])[(at % 512) as usize] = *byte;
        }
    }
}
