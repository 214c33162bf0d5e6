//! Large writes, whose payloads are aligned to blocks of the file.

use std::{fs, sync::Arc};

use bygone_model::{Lba, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{Below, BlockWrite, Content, Log, Wait};

use crate::world::{World, sector};

const SECTORS: u64 = 2048;
const SEGMENT_BYTES: u64 = 1 << 20;

/// The expected content of a disk: a mark for each sector.
type Marks = Vec<u64>;

fn check(log: &Arc<Log>, volume: VolumeId, seq: Seq, marks: &Marks) {
    let view = log.view(volume, seq).unwrap();
    let mut bytes = vec![0; marks.len() * SECTOR_BYTES as usize];
    view.read(Lba(0), &mut bytes, Wait::Yes).unwrap();
    for (lba, (found, mark)) in bytes.chunks(SECTOR_BYTES as usize).zip(marks).enumerate() {
        assert!(found == sector(*mark), "sector {lba} at {seq:?}");
    }
}

#[test]
fn small_and_large_writes_in_any_mixture_come_back() {
    let (world, log, volume) = World::make_of(SECTORS, SEGMENT_BYTES);
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    let mut state = 88_172_645_463_325_252_u64;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut marks: Marks = vec![0; SECTORS as usize];
    let mut moments = Vec::new();
    for mark in 1..400 {
        let datas: Vec<(u64, Vec<u8>)> = (0..=below(4))
            .map(|_| {
                let sectors = if below(2) == 0 { 1 + below(8) } else { 1 + below(200) };
                let lba = below(SECTORS - sectors);
                marks[lba as usize..(lba + sectors) as usize].fill(mark);
                (lba, sector(mark).repeat(sectors as usize))
            })
            .collect();
        let writes: Vec<BlockWrite<'_>> = datas
            .iter()
            .map(|(lba, data)| BlockWrite {
                volume,
                lba: Lba(*lba),
                content: Content::Data(data),
                base: false,
            })
            .collect();
        let seq = log.append(&writes).unwrap().last;
        match below(8) {
            0 => drop(log.flush().unwrap()),
            1 => drop(log.maintain().unwrap()),
            2 => moments.push((seq, marks.clone())),
            _ => {}
        }
    }
    moments.push((log.head_seq(), marks));
    for (seq, marks) in &moments {
        check(&log, volume, *seq, marks);
    }
    let report = log.verify(false, &mut |_, _| true).unwrap();
    assert_eq!((report.damaged.len(), report.complete), (0, true));
    drop(log);
    let log = world.open();
    assert_eq!(log.damage_at_open(), []);
    for (seq, marks) in &moments {
        check(&log, volume, *seq, marks);
    }
}

#[test]
fn a_large_payload_begins_at_a_block_of_its_segment_and_a_small_one_right_behind_the_last() {
    let (world, log, volume) = World::make_of(SECTORS, SEGMENT_BYTES);
    for (mark, sectors) in [(101, 1), (102, 40), (103, 1), (104, 100), (105, 1), (106, 1)] {
        crate::world::write(&log, volume, 0, sectors, mark);
    }
    let bytes = fs::read(&world.files("log")[0]).unwrap();
    let at = |mark: u64| bytes.windows(512).position(|found| found == sector(mark)).unwrap();
    assert_eq!((at(102) % 4096, at(104) % 4096), (0, 0));
    assert_eq!(at(106) - at(105), 512 + 64, "the payload and the next header");
}

#[test]
fn a_log_that_was_cut_off_behind_a_large_write_has_it() {
    let (world, log, volume) = World::make_of(SECTORS, SEGMENT_BYTES);
    for mark in 1..6 {
        crate::world::write(&log, volume, mark * 40, 40, mark);
    }
    let seq = log.head_seq();
    // As a killed manager leaves it: unsealed, and longer than its records.
    let copy = World::copy_of(world.folder.path());
    let log = copy.open();
    assert_eq!((log.head_seq(), log.damage_at_open()), (seq, &[][..]));
    for mark in 1..6 {
        assert_eq!(crate::world::mark(&log, volume, mark * 40 + 39, seq).unwrap(), mark);
    }
    let sectors = Sectors(1);
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    log.append(&[BlockWrite { volume, lba: Lba(0), content: Content::Zero(sectors), base: false }]).unwrap();
}
