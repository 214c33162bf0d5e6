//! An index is expendable: whatever is damaged in it is made anew from the segments, and until then as much as possible
//! is answered from them.

use std::{path::Path, sync::Arc};

use bygone_model::{BranchId, Event, Kind, Micros, Seq, VolumeId};
use bygone_store::{
    Error, Log,
    format::{
        checkpoint::{FRAME_BYTES, Footer, Name, Trailer},
        events::EventBlock,
    },
};

use crate::world::{World, mark, write};

const SECTORS: u64 = 240;

/// What a log answered while it was whole.
struct Answers {
    volume: VolumeId,
    head: Seq,
    events: Vec<(Seq, Micros, String)>,
    times: Vec<(Seq, Micros)>,
    /// Some moments, each with the marks of some sectors.
    moments: Vec<(Seq, Vec<(u64, u64)>)>,
}

/// A closed log with many checkpoints, of which each has events.
fn history() -> (World, Answers) {
    let (world, log, volume) = World::make(1024);
    let mut moments = Vec::new();
    for i in 1..=400 {
        let seq = write(&log, volume, i * 37 % SECTORS, 1, i);
        if i % 9 == 0 {
            log.event(BranchId(0), &Event::new(Kind::Point, format!("event {i}"))).unwrap();
        }
        if i % 10 == 0 {
            moments.push(seq);
            log.flush().unwrap();
        }
        while log.maintain().unwrap() {}
    }
    log.checkpoint().unwrap();
    write(&log, volume, 0, 1, 1000);
    log.flush().unwrap();
    drop(log);
    let log = world.open();
    while log.maintain().unwrap() {}
    let head = log.head_seq();
    let marks_at = |seq: Seq| {
        let sectors = (0..SECTORS).step_by(7);
        (seq, sectors.map(|lba| (lba, mark(&log, volume, lba, seq).unwrap())).collect())
    };
    let moments = moments.into_iter().map(marks_at).collect();
    let times = (1..=head.0).step_by(13).map(|seq| (Seq(seq), log.time_of(Seq(seq)).unwrap())).collect();
    let events = events_of(&log, head).unwrap();
    assert!(events.len() >= 44);
    (world, Answers { volume, head, events, times, moments })
}

fn events_of(log: &Log, head: Seq) -> bygone_store::Result<Vec<(Seq, Micros, String)>> {
    let mut events = Vec::new();
    log.events(Seq::ZERO, head, &mut |event| {
        events.push((event.seq, event.time, event.event.label.clone()));
        true
    })?;
    Ok(events)
}

impl Answers {
    /// Asks a log again for everything; with `trees_too` also for what needs the trees of the index, otherwise that may
    /// be refused.
    fn are_given(&self, log: &Arc<Log>, trees_too: bool, what: &str) {
        assert_eq!(events_of(log, self.head).unwrap(), self.events, "{what}");
        for &(seq, time) in &self.times {
            assert_eq!(log.time_of(seq).unwrap(), time, "{what}: {seq}");
            assert!(!log.at_time(time).unwrap().is_empty(), "{what}: {seq}");
        }
        for (seq, marks) in &self.moments {
            for &(lba, wanted) in marks {
                match mark(log, self.volume, lba, *seq) {
                    Err(Error::Damaged { .. }) if !trees_too => {}
                    got => assert_eq!(got.unwrap(), wanted, "{what}: sector {lba} as of {seq}"),
                }
            }
        }
    }
}

/// One byte of each kind of part that a checkpoint file has, and of two of them; whether it is of a tree.
fn parts(path: &Path) -> Vec<(&'static str, Vec<u64>, bool)> {
    let bytes = std::fs::read(path).unwrap();
    let number = Name::parse(path.file_name().unwrap().to_str().unwrap()).unwrap().number;
    let frame = bytes.last_chunk::<FRAME_BYTES>().unwrap();
    let len = bytes.len() as u64;
    let trailer = Trailer::decode(frame, len).unwrap();
    let footer = &bytes[trailer.offset as usize..][..trailer.len_bytes as usize];
    let footer: Footer = serde_json::from_slice(footer).unwrap();
    let table = footer.volumes.iter().flat_map(|volume| &volume.1).find(|table| table.1.file == number);
    let block = |block: &EventBlock| block.block.offset + 3;
    let (page, end) = (FRAME_BYTES as u64 + 20, len - FRAME_BYTES as u64 + 9);
    let mut parts = vec![
        ("header", vec![20], false),
        ("page", vec![page], true),
        ("footer", vec![trailer.offset + u64::from(trailer.len_bytes) / 2], false),
        ("trailer", vec![end], false),
        ("end", vec![len], false),
        ("page and trailer", vec![page, end], true),
    ];
    parts.extend(table.map(|table| ("table", vec![table.1.offset + 20], true)));
    parts.extend(footer.events.first().map(|first| ("events", vec![block(first)], false)));
    parts
}

/// Flips a bit, or cuts the file if there is no byte.
fn hurt(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    match bytes.get_mut(at as usize) {
        Some(byte) => *byte ^= 4,
        None => bytes.truncate(bytes.len() - 100),
    }
    std::fs::write(path, &bytes).unwrap();
}

/// Hurts each part of some checkpoints, and calls `then` with the log that has such a one.
fn each_part(then: impl Fn(&World, &Answers, (&str, bool))) {
    let (world, answers) = history();
    let files = world.files("index");
    assert!(files.len() >= 4, "{files:?}");
    for which in [0, files.len() / 2, files.len() - 2, files.len() - 1] {
        for (part, at, of_tree) in parts(&files[which]) {
            let world = World::copy_of(world.folder.path());
            at.iter().for_each(|at| hurt(&world.files("index")[which], *at));
            then(&world, &answers, (&format!("{part} of file {which} of {}", files.len()), of_tree));
        }
    }
}

/// There is nothing left of the damage, nor of mending it, also in the next life. With `met` only readers have looked for
/// damage.
fn is_whole(world: &World, answers: &Answers, met: bool, what: &str) {
    for life in 0..2 {
        let log = world.open();
        answers.are_given(&log, true, &format!("{what}, life {life}"));
        let found = log.verify(life == 1, &mut |_, _| true).unwrap();
        assert!(met || found.damaged.is_empty(), "{what}, life {life}: {found:?}");
        let parts = world.files("index").into_iter().filter(|path| path.extension().unwrap() == "part");
        assert_eq!(parts.count(), 0, "{what}");
    }
}

#[test]
fn a_flipped_bit_in_any_part_of_an_index_is_mended_by_upkeep_once_it_was_met() {
    each_part(|world, answers, (what, of_tree)| {
        let log = world.open();
        answers.are_given(&log, !of_tree, what);
        while log.maintain().unwrap() {}
        assert!(log.upkeep_trouble().is_none(), "{what}");
        answers.are_given(&log, true, what);
        // The log goes on.
        write(&log, answers.volume, 1, 1, 2000);
        log.checkpoint().unwrap();
        drop(log);
        is_whole(world, answers, of_tree, what);
    });
}

#[test]
fn a_flipped_bit_in_any_part_of_an_index_is_mended_once_the_index_was_verified() {
    each_part(|world, answers, (what, _)| {
        let log = world.open();
        log.verify_index(&mut |_, _| true).unwrap();
        while log.maintain().unwrap() {}
        let found = log.verify_index(&mut |_, _| true).unwrap();
        assert!(found.complete && found.damaged.is_empty(), "{what}: {found:?}");
        let files = world.files("index");
        while log.maintain().unwrap() {}
        assert_eq!(world.files("index"), files, "{what}: it is mended once");
        drop(log);
        is_whole(world, answers, false, what);
    });
}
