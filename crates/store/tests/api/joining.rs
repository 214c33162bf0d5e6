//! Small checkpoints are merged into one, and views that still use one of them do not notice.

use std::sync::Arc;

use bygone_model::{BranchId, Event, Kind, Lba, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, Event as Stored, Log, LogOptions, View, Wait,
    format::checkpoint::{FRAME_BYTES, Trailer},
};

use crate::world::{Ticks, World, disk, mark, options, write};

const SECTORS: u64 = 256;

/// The mark of each sector.
type State = Vec<u64>;

fn contents(view: &View) -> bygone_store::Result<State> {
    let mut bytes = vec![0; SECTORS as usize * 512];
    view.read(Lba(0), &mut bytes, Wait::Yes)?;
    Ok(bytes.chunks(512).map(|sector| u64::from_le_bytes(sector[..8].try_into().unwrap())).collect())
}

#[test]
fn small_checkpoints_become_one_that_answers_for_all_their_moments() {
    let (world, log, volume) = World::make(SECTORS);
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    let mut state = vec![0; SECTORS as usize];
    let (mut moments, mut views, mut most) = (Vec::new(), Vec::new(), 0);
    for round in 1..=60 {
        for i in 0..3 {
            let lba = (round * 37 + i * 11) % SECTORS;
            write(&log, volume, lba, 1, round * 10 + i);
            state[lba as usize] = round * 10 + i;
        }
        log.event(BranchId(0), &Event::new(Kind::Point, format!("p{round}"))).unwrap();
        let seq = log.checkpoint().unwrap();
        moments.push((seq, state.clone()));
        if round % 20 == 7 {
            views.push((log.view(volume, seq).unwrap(), state.clone()));
        }
        while log.maintain().unwrap() {}
        most = most.max(world.files("index").len());
    }
    // 60 were written; those on which the views are built still exist.
    assert!(most <= 30, "{most} files of checkpoints");
    assert!(log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty());
    for (view, state) in &views {
        assert_eq!(contents(view).unwrap(), *state);
    }
    let kept = world.files("index").len();
    drop(views);
    while log.maintain().unwrap() {}
    assert!(world.files("index").len() < kept, "what only a view needed goes with it");
    let check = |log: &Arc<Log>| {
        for (seq, state) in &moments {
            assert_eq!(contents(&log.view(volume, *seq).unwrap()).unwrap(), *state, "as of {seq}");
        }
        let mut labels = Vec::new();
        let take = &mut |event: &Stored| {
            labels.push(event.event.label.clone());
            true
        };
        log.events(Seq::ZERO, log.head_seq(), take).unwrap();
        labels.retain(|label| label.starts_with('p'));
        assert_eq!(labels, (1..=60).map(|round| format!("p{round}")).collect::<Vec<_>>());
    };
    check(&log);
    for lba in 0..2 {
        write(&log, volume, lba, 1, 7);
        state[lba as usize] = 7;
        log.checkpoint().unwrap();
    }
    drop(log);
    // With a higher limit, so that a view may have the newest version in memory.
    let options = LogOptions { checkpoint_entries: 64, ..options(24 << 10) };
    let log = Log::open(world.dir(), Arc::new(Ticks::default()), options).unwrap();
    assert_eq!(log.damage(), []);
    // A view that is built on the checkpoint with which the log was opened.
    let begun_with = world.files("index").pop().unwrap();
    let view = log.view(volume, write(&log, volume, 0, 1, 8)).unwrap();
    state[0] = 8;
    for round in 1..=30 {
        write(&log, volume, round, 1, 1000 + round);
        log.checkpoint().unwrap();
        while log.maintain().unwrap() {}
    }
    assert!(begun_with.exists());
    assert_eq!(contents(&view).unwrap(), state);
    drop(view);
    while log.maintain().unwrap() {}
    assert!(!begun_with.exists());
    check(&log);
}

#[test]
fn a_checkpoint_that_others_were_made_upon_is_missed() {
    let (world, log, volume) = World::make(SECTORS);
    for round in 1..=30 {
        write(&log, volume, round, 1, round);
        log.checkpoint().unwrap();
        while log.maintain().unwrap() {}
    }
    drop(log);
    let files = world.files("index");
    assert!((2..15).contains(&files.len()));
    std::fs::remove_file(&files[0]).unwrap();
    let log = world.open();
    assert_eq!(log.damage_at_open().len(), 1);
    for round in 1..=30 {
        assert_eq!(mark(&log, volume, round, log.head_seq()).unwrap(), round);
    }
}

#[test]
fn of_two_files_with_one_number_the_finished_one_counts() {
    let (world, log, volume) = World::make(SECTORS);
    let first = log.head_seq();
    for round in 1..=6 {
        write(&log, volume, round, 1, round);
        log.checkpoint().unwrap();
    }
    drop(log);
    // A checkpoint that failed, could not be removed either, and whose number was used again.
    let files = world.files("index");
    let third = files[2].file_name().unwrap().to_str().unwrap();
    let parts: Vec<&str> = third.split('-').collect();
    let end = u64::from_str_radix(parts[1], 16).unwrap() - 1;
    let left = world.path("index").join(format!("{}-{end:016x}-{}-{}", parts[0], parts[2], parts[3]));
    std::fs::write(&left, b"half").unwrap();
    let log = world.open();
    assert_eq!(log.damage_at_open(), []);
    assert!(!left.exists());
    for seq in first.0..=log.head_seq().0 {
        for lba in 1..=6 {
            let mark = mark(&log, volume, lba, Seq(seq));
            assert!(
                matches!(mark, Ok(0)) || matches!(mark, Ok(mark) if mark == lba),
                "as of {seq}, {lba}: {mark:?}"
            );
        }
    }
}

fn present(log: &Log, volume: VolumeId, lba: u64) -> bygone_store::Result<u64> {
    let mut bytes = [0; 512];
    for fragment in log.resolve_head(volume, Lba(lba), Sectors(1), Wait::Yes)? {
        log.read_fragment(&fragment, &mut bytes, Wait::Yes)?;
    }
    Ok(u64::from_le_bytes(*bytes.first_chunk().unwrap()))
}

#[test]
fn what_was_made_anew_is_not_joined_with_what_was_made_upon_the_damaged_one() {
    const BLOCKS: u64 = 600;
    let world = World::empty();
    let open = |world: &World| {
        let options = LogOptions { checkpoint_entries: 4096, ..options(1 << 20) };
        let log = Log::open(world.dir(), Arc::new(Ticks::default()), options).unwrap();
        log.open_volume(VolumeId(0), Below::Index, Seq::ZERO).unwrap();
        log
    };
    let options = LogOptions { checkpoint_entries: 4096, ..options(1 << 20) };
    let log = Log::make(world.dir(), Arc::new(Ticks::default()), options, *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1 << 20)).unwrap();
    (0..BLOCKS).for_each(|n| _ = write(&log, volume, n * 3, 1, n + 1));
    log.checkpoint().unwrap();
    while log.maintain().unwrap() {}
    drop(log);
    // Damage its pages, but not its tables and its footer.
    let file = world.files("index").remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let trailer = Trailer::decode(bytes.last_chunk::<FRAME_BYTES>().unwrap(), bytes.len() as u64).unwrap();
    (80..trailer.offset as usize - 150).step_by(50).for_each(|at| bytes[at] ^= 4);
    std::fs::write(&file, &bytes).unwrap();
    let check = |log: &Log, extra: u64| {
        for n in 0..BLOCKS {
            assert_eq!(present(log, volume, n * 3).unwrap(), n + 1, "after {extra} more");
        }
    };
    let log = open(&world);
    assert!(present(&log, volume, 30).is_err());
    while log.maintain().unwrap() {}
    check(&log, 0);
    drop(log);
    // A later life does not know any more what was damaged.
    let log = open(&world);
    for extra in 1..=12 {
        write(&log, volume, 5000 + extra, 1, 7);
        log.checkpoint().unwrap();
        while log.maintain().unwrap() {}
        check(&log, extra);
    }
    assert!(world.files("index").len() <= 8, "what came behind is joined");
}
