//! Followers get every durable record once, from any place on, whatever happened to the files.

use std::{sync::Arc, time::Duration};

use bygone_model::{BranchId, Event, Kind, Lba, SECTOR_BYTES, Seq, VolumeId};
use bygone_store::{
    Cursor, Error, Followed, Follower, Log,
    format::{
        record::{Op, Subject},
        segment,
    },
};

use crate::world::{World, sector, write};

fn from(log: &Arc<Log>, seq: Seq) -> Follower {
    log.follow(Cursor { log: log.id(), seq }).unwrap()
}

/// Everything that the follower can read, which must have no gap: the records, and the seqs that are lost.
fn all(follower: &mut Follower) -> (Vec<Followed>, Vec<u64>) {
    let (mut records, mut lost) = (Vec::new(), Vec::new());
    while let Some(batch) = follower.next_batch().unwrap() {
        assert_eq!(batch.upto, follower.cursor().seq);
        records.extend(batch.records);
        lost.extend(batch.lost.iter().flat_map(|range| range.start().0..=range.end().0));
    }
    assert!(records.is_sorted_by(|a, b| a.seq < b.seq));
    (records, lost)
}

fn seqs(records: &[Followed]) -> Vec<u64> {
    records.iter().map(|record| record.seq.0).collect()
}

/// Fills several segments, some of them sealed, with writes, events and flushes; write n has mark n and is to block n %
/// 50.
fn busy(log: &Arc<Log>, volume: VolumeId, writes: std::ops::Range<u64>) {
    for n in writes {
        write(log, volume, n % 50 * 4, 4, n);
        if n % 7 == 0 {
            log.event(BranchId(0), &Event::new(Kind::Point, format!("p{n}"))).unwrap();
        }
        if n % 5 == 0 {
            log.flush().unwrap();
        }
        while n % 11 == 0 && log.maintain().unwrap() {}
    }
    log.flush().unwrap();
}

/// The first byte of each write and the label of each event, in order, read through the follower.
fn told(follower: &Follower, records: &[Followed]) -> (Vec<u64>, Vec<String>) {
    let (mut writes, mut labels) = (Vec::new(), Vec::new());
    for record in records {
        match record.op {
            Op::Write => {
                let mut bytes = vec![0; (record.sectors.0 * SECTOR_BYTES) as usize];
                follower.read(record, record.lba, &mut bytes).unwrap();
                writes.push(bytes[0].into());
                // Reading a part of a record gives the same bytes.
                let mut part = vec![0; 512];
                follower.read(record, Lba(record.lba.0 + 2), &mut part).unwrap();
                assert_eq!(part, bytes[1024..1536]);
            }
            Op::Event => {
                let event: Event = serde_json::from_slice(&follower.payload(record).unwrap()).unwrap();
                labels.push(event.label);
            }
            _ => {}
        }
    }
    (writes, labels)
}

#[test]
fn every_record_is_given_out_once_from_any_place_on_and_after_any_restart() {
    let (world, log, volume) = World::make(1024);
    busy(&log, volume, 0..120);
    let mut follower = from(&log, Seq::ZERO);
    let (records, lost) = all(&mut follower);
    assert_eq!(seqs(&records), (1..=log.durable_seq().0).collect::<Vec<_>>());
    assert!(lost.is_empty());
    let (writes, labels) = told(&follower, &records);
    assert_eq!(writes, (0..120).map(|n| u64::from(sector(n)[0])).collect::<Vec<_>>());
    assert_eq!(labels, (0..120).step_by(7).map(|n| format!("p{n}")).collect::<Vec<_>>());
    for record in &records {
        assert_eq!(Some(record.time), log.time_of(record.seq).ok(), "{record:?}");
    }

    // The follower continues from its place, in this life of the log and in later ones.
    busy(&log, volume, 120..130);
    let more = all(&mut follower).0;
    assert_eq!(seqs(&more), (records.len() as u64 + 1..=log.durable_seq().0).collect::<Vec<_>>());
    let seen = follower.cursor();
    drop((follower, log));
    let log = world.open();
    busy(&log, volume, 130..200);
    for start in [0, 1, 17, seen.seq.0, log.durable_seq().0 - 1, log.durable_seq().0] {
        let (records, lost) = all(&mut from(&log, Seq(start)));
        assert_eq!(seqs(&records), (start + 1..=log.durable_seq().0).collect::<Vec<_>>(), "from {start}");
        assert!(lost.is_empty());
    }
}

#[test]
fn nothing_is_given_out_before_it_is_durable_and_waiting_ends_when_it_is() {
    let (_world, log, volume) = World::make(1024);
    log.flush().unwrap();
    let mut follower = from(&log, Seq::ZERO);
    all(&mut follower);
    write(&log, volume, 0, 4, 1);
    assert!(follower.next_batch().unwrap().is_none());
    assert_eq!(follower.lag(), 0);
    assert!(!follower.wait(Duration::from_millis(1)));
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| follower.wait(Duration::from_secs(60)));
        log.flush().unwrap();
        assert!(waiting.join().unwrap());
    });
    assert_eq!(follower.lag(), 2, "the write and the mark of the flush");
    let records = all(&mut follower).0;
    assert_eq!(records.iter().map(|record| record.op).collect::<Vec<_>>(), [Op::Write, Op::Flush]);
}

#[test]
fn only_what_is_about_the_wanted_subjects_is_given_out_and_the_place_moves_on_all_the_same() {
    let (_world, log, volume) = World::make(1024);
    busy(&log, volume, 0..60);
    let wanted = vec![Subject::branch(BranchId(0))];
    let mut follower = from(&log, Seq::ZERO).only(wanted);
    let records = all(&mut follower).0;
    assert_eq!(records.len(), (0..60).step_by(7).count());
    assert!(records.iter().all(|record| record.op == Op::Event));
    assert_eq!(follower.cursor().seq, log.durable_seq());
}

#[test]
fn what_is_lost_is_told_and_what_comes_behind_is_given_out() {
    let (world, log, volume) = World::make(1024);
    busy(&log, volume, 0..200);
    while log.maintain().unwrap() {}
    log.checkpoint().unwrap();
    let head = log.flush().unwrap();
    let (before, _) = all(&mut from(&log, Seq::ZERO));
    drop(log);
    let files = world.files("log");
    assert!(files.len() > 5, "{files:?}");
    std::fs::remove_file(world.path("log").join(&files[2])).unwrap();

    let log = world.open();
    let mut follower = from(&log, Seq::ZERO);
    let (records, lost) = all(&mut follower);
    assert!(!lost.is_empty());
    let mut both: Vec<u64> = seqs(&records).into_iter().chain(lost.iter().copied()).collect();
    both.sort_unstable();
    assert_eq!(both, (1..=log.durable_seq().0).collect::<Vec<_>>(), "each seq is told of once");
    let kept = |record: &&Followed| record.seq <= head && !lost.contains(&record.seq.0);
    let expected: Vec<_> = before.iter().filter(kept).collect();
    let found: Vec<_> = records.iter().filter(|record| record.seq <= head).collect();
    assert_eq!(found, expected);
    told(&follower, &records);
}

#[test]
fn a_follower_gets_past_a_beginning_that_is_lost() {
    for (manifests, lost) in [(true, 1), (false, 1), (true, 3), (false, 3)] {
        let (world, log, volume) = World::make(1024);
        busy(&log, volume, 0..200);
        while log.maintain().unwrap() {}
        let head = log.flush().unwrap();
        let (before, _) = all(&mut from(&log, Seq::ZERO));
        drop(log);
        // No checkpoint names the segments that are gone.
        std::fs::remove_dir_all(world.path("index")).unwrap();
        if !manifests {
            std::fs::remove_dir_all(world.path("manifest")).unwrap();
        }
        for path in &world.files("log")[..lost] {
            std::fs::remove_file(path).unwrap();
        }
        for life in 0..2 {
            let log = world.open();
            let (records, gone) = all(&mut from(&log, Seq::ZERO));
            let is_it = |record: &&Followed| record.seq <= head && !gone.contains(&record.seq.0);
            let (kept, found): (Vec<_>, Vec<_>) =
                (before.iter().filter(is_it).collect(), records.iter().filter(|r| r.seq <= head).collect());
            assert_eq!(found, kept, "{manifests}, {lost}, {life}");
            assert!(gone.contains(&1) && gone.len() < before.len() / 2, "{manifests}, {lost}, {life}");
            let told = log.time_of(Seq(1));
            assert!(matches!(told, Err(Error::Damaged { .. } | Error::BeforeHistory { .. })), "{told:?}");
            // The manifests know which segment had it.
            let names_it =
                matches!(&told, Err(Error::Damaged { place, .. }) if place.file == segment::label(1));
            assert_eq!(names_it, manifests, "{lost}, {life}: {told:?}");
            log.checkpoint().unwrap();
            assert_eq!(all(&mut from(&log, Seq::ZERO)).1, gone, "{manifests}, {lost}, {life}");
        }
    }
}

#[test]
fn a_cursor_of_another_log_or_of_the_future_is_refused() {
    let (_world, log, _) = World::make(1024);
    let other = Cursor { log: [9; 16], seq: Seq(1) };
    assert!(matches!(log.follow(other), Err(Error::OtherLog)));
    let future = Cursor { log: log.id(), seq: Seq(log.head_seq().0 + 1) };
    assert!(matches!(log.follow(future), Err(Error::InTheFuture { .. })));
}

#[test]
fn a_kept_place_is_the_last_whole_one_and_another_logs_is_refused() {
    let (world, log, volume) = World::make(1024);
    busy(&log, volume, 0..20);
    assert_eq!(log.kept_cursor("detect").unwrap().seq, Seq::ZERO);
    for seq in [3, 7, 9] {
        log.keep_cursor("detect", Seq(seq)).unwrap();
        log.keep_cursor("detect-2", Seq(seq + 1)).unwrap();
        assert_eq!(log.kept_cursor("detect").unwrap(), Cursor { log: log.id(), seq: Seq(seq) });
    }
    assert_eq!(log.kept_cursor("detect-2").unwrap().seq, Seq(10));
    assert_eq!(world.files("follow").len(), 2, "what was replaced goes");
    drop(log);

    // A power cut while the next place was written.
    let newest = world.path("follow").join("detect.0000000000000003");
    let whole = std::fs::read(&newest).unwrap();
    for len_bytes in 0..whole.len() {
        std::fs::write(world.path("follow").join("detect.0000000000000004"), &whole[..len_bytes]).unwrap();
        assert_eq!(world.open().kept_cursor("detect").unwrap().seq, Seq(9));
    }
    let mut next = whole.clone();
    next[32] = 12;
    let crc = bygone_store::format::crc32c(&next[..40]);
    next[40..44].copy_from_slice(&crc.to_le_bytes());
    for bit in 0..44 * 8 {
        let mut damaged = next.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(world.path("follow").join("detect.0000000000000004"), &damaged).unwrap();
        assert_eq!(world.open().kept_cursor("detect").unwrap().seq, Seq(9), "bit {bit}");
    }
    std::fs::write(world.path("follow").join("detect.0000000000000004"), &next).unwrap();
    assert_eq!(world.open().kept_cursor("detect").unwrap().seq, Seq(12));
    let mut foreign = whole;
    foreign[16..32].fill(7);
    let crc = bygone_store::format::crc32c(&foreign[..40]);
    foreign[40..44].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&newest, &foreign).unwrap();
    std::fs::remove_file(world.path("follow").join("detect.0000000000000004")).unwrap();
    assert!(matches!(world.open().kept_cursor("detect"), Err(Error::OtherLog)));
}
