//! Small undamaged logs and a plain model of each: every volume after every record.

use std::{collections::BTreeMap, sync::OnceLock};

use bygone_model::{BranchId, Event, Kind, Lba, Micros, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Log,
    catalog::{Disk, Keeping},
};

use super::options;
use crate::memory::{Files, Memory, Ticks};

/// The size of every volume.
pub(super) const SECTORS: u64 = 64;
/// The time at which damaged logs are opened.
pub(super) const NOW: i64 = 1_700_000_100_000_000;

const BYTES: usize = (SECTORS * SECTOR_BYTES) as usize;

/// A log and its model.
pub(super) struct Base {
    pub(super) files: Files,
    /// The last record.
    pub(super) head: Seq,
    /// The time of each record.
    pub(super) times: Vec<Micros>,
    pub(super) events: Vec<(Seq, String)>,
    images: BTreeMap<(u32, Seq), Vec<u8>>,
}

impl Base {
    pub(super) fn of(which: u8) -> &'static Base {
        static BASES: OnceLock<[Base; 3]> = OnceLock::new();
        let [long, open, short] = BASES.get_or_init(|| [long(), open(), short()]);
        match which % 4 {
            0 | 1 => long,
            2 => open,
            _ => short,
        }
    }

    /// A volume after a record.
    pub(super) fn image(&self, volume: u32, seq: Seq) -> Vec<u8> {
        let last = self.images.range((volume, Seq(0))..=(volume, seq)).next_back();
        last.map_or_else(|| vec![0; BYTES], |(_, image)| image.clone())
    }
}

/// A log being written.
struct Writer {
    memory: Memory,
    log: std::sync::Arc<Log>,
    images: BTreeMap<(u32, Seq), Vec<u8>>,
    now: BTreeMap<u32, Vec<u8>>,
    events: Vec<(Seq, String)>,
}

impl Writer {
    fn new(id: &[u8; 16]) -> Writer {
        let memory = Memory::default();
        let log = Log::make(memory.dir(), Ticks::from(1_700_000_000_000_000), options(), *id).unwrap();
        let (images, now, events) = Default::default();
        Writer { memory, log, images, now, events }
    }

    fn disk(&mut self, name: &str) -> u32 {
        let disk = Disk {
            name: name.to_owned(),
            sectors: Sectors(SECTORS),
            block_bytes: 512,
            keeping: Keeping::Store,
        };
        let volume = self.log.add_disk(&disk).unwrap().0;
        self.now.insert(volume, vec![0; BYTES]);
        volume
    }

    /// Writes data in which every eight bytes are `mark`; a trim if it is 0.
    fn write(&mut self, volume: u32, lba: u64, sectors: u64, mark: u64) {
        let data = mark.to_le_bytes().repeat((sectors * SECTOR_BYTES) as usize / 8);
        let content = if mark == 0 { Content::Trim(Sectors(sectors)) } else { Content::Data(&data) };
        let write = BlockWrite { volume: VolumeId(volume), lba: Lba(lba), content, base: false };
        let seq = self.log.append(&[write]).unwrap().last;
        let image = self.now.entry(volume).or_default();
        image[(lba * SECTOR_BYTES) as usize..][..data.len()].copy_from_slice(&data);
        self.images.insert((volume, seq), image.clone());
    }

    fn event(&mut self, label: &str) {
        let seq = self.log.event(BranchId(0), &Event::new(Kind::Point, label)).unwrap().last;
        self.events.push((seq, label.to_owned()));
    }

    /// Creates a branch of all volumes at the present; returns its first volume.
    fn branch(&mut self, name: &str) -> u32 {
        let from = self.log.catalog().volumes.len() as u32;
        self.log.add_branch(name, BranchId(0), self.log.head_seq()).unwrap();
        for (i, volume) in self.log.catalog().volumes[from as usize..].iter().enumerate() {
            let image = self.now[&volume.parent.unwrap().0.0].clone();
            self.images.insert((from + i as u32, Seq(0)), image.clone());
            self.now.insert(from + i as u32, image);
        }
        from
    }

    fn settle(&self) {
        while self.log.maintain().unwrap() {}
    }

    fn done(mut self) -> Base {
        let head = self.log.head_seq();
        let times = (1..=head.0).map(|seq| self.log.time_of(Seq(seq)).unwrap()).collect();
        // A branch also has its parent's past.
        for volume in self.log.catalog().volumes.clone() {
            let Some((parent, from)) = volume.parent else { continue };
            let seen = self.images.range((parent.0, Seq(0))..=(parent.0, from));
            let seen: Vec<_> = seen.map(|((_, seq), image)| (*seq, image.clone())).collect();
            self.images.remove(&(volume.id.0, Seq(0)));
            self.images.extend(seen.into_iter().map(|(seq, image)| ((volume.id.0, seq), image)));
        }
        drop(self.log);
        let files = self.memory.files();
        Base { files, head, times, events: self.events, images: self.images }
    }
}

/// Several segments and checkpoints, a branch, events; everything sealed except the end.
fn long() -> Base {
    let mut writer = Writer::new(b"the id of a log!");
    let (a, b) = (writer.disk("vda"), writer.disk("vdb"));
    for i in 0..12 {
        writer.write(a, i * 5 % 50, 1 + i % 7, 100 + i);
        writer.write(b, i * 3, 4, 200 + i);
        writer.settle();
    }
    writer.event("middle");
    let branch = writer.branch("try");
    for i in 0..10 {
        writer.write(branch, i * 6, 3, 300 + i);
        writer.write(a, 60 - i * 6, 3, if i % 3 == 0 { 0 } else { 400 + i });
        writer.settle();
    }
    writer.event("end");
    writer.log.checkpoint().unwrap();
    writer.write(a, 1, 2, 500);
    writer.done()
}

/// No checkpoint, two unsealed segments, the last of which was flushed only in part.
fn open() -> Base {
    let mut writer = Writer::new(b"another log's id");
    let a = writer.disk("vda");
    for i in 0..6 {
        writer.write(a, i * 9, 5, 100 + i);
    }
    writer.event("middle");
    writer.log.flush().unwrap();
    writer.write(a, 7, 9, 200);
    writer.write(a, 30, 2, 0);
    writer.done()
}

/// One segment with a few records.
fn short() -> Base {
    let mut writer = Writer::new(b"a third log's id");
    let a = writer.disk("vda");
    writer.write(a, 0, 2, 100);
    writer.event("only");
    writer.log.flush().unwrap();
    writer.done()
}
