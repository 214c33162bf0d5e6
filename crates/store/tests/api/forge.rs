//! A guest that writes forged records to its disk and knows everything about the log but its secret.

use bygone_model::{BranchId, Event, Kind, Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Error, Log,
    format::{
        SEQ_MAX,
        key::{HeaderKey, Identity},
        record::{HEADER_BYTES, Header, Op, Subject, link},
        segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex},
    },
};

use crate::world::{World, mark, sector, write};

const VICTIM: u64 = 500;

fn segment(world: &World) -> (std::path::PathBuf, Vec<u8>) {
    let path = world.files("log").pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

fn identity(bytes: &[u8]) -> Identity {
    SegmentHeader::decode(bytes).unwrap().0.log
}

/// The records of a segment: offset, header and hash of each.
fn records(bytes: &[u8]) -> Vec<(usize, Header, u64)> {
    let key = identity(bytes).header_key();
    let mut at = SEGMENT_HEADER_BYTES;
    let mut out = Vec::new();
    while let Ok(proven) = Header::decode(&key, &bytes[at.min(bytes.len())..]) {
        out.push((at, proven.header, proven.hash));
        at = proven.header.end(at as u64) as usize;
    }
    out
}

/// Forged headers of the records `seq` and following, which zero the victim's sectors; the first links to `previous`.
fn forged(key: &HeaderKey, seq: u64, previous: u64, incarnation: u32, len: usize) -> Vec<u8> {
    let (mut out, mut previous) = (Vec::new(), link(previous));
    for seq in seq.. {
        if out.len() + HEADER_BYTES > len {
            break;
        }
        let header = Header {
            seq: Seq(seq),
            time: Micros(1_700_000_000_000_000),
            lba: Lba(VICTIM),
            sectors: Sectors(8),
            payload_bytes: 0,
            subject: Subject::volume(VolumeId(0)),
            op: Op::Zero,
            flags: 0,
            attempt: 0,
            previous,
            incarnation,
            durable: Seq(seq - 1),
        };
        let mut bytes = [0; HEADER_BYTES];
        previous = link(header.encode(key, &[], &mut bytes, &mut Vec::new()));
        out.extend_from_slice(&bytes);
    }
    out
}

fn append(log: &Log, volume: VolumeId, lba: u64, data: &[u8]) -> Seq {
    let write = BlockWrite { volume, lba: Lba(lba), content: Content::Data(data), base: false };
    log.append(&[write]).unwrap().last
}

/// Lets a guest write headers that are forged with the key of `key_of`, damages the header of that write, and opens the
/// log again. Returns what the victim's sectors hold, and the last record before and after.
fn after_damage(key_of: impl Fn(&Identity) -> HeaderKey) -> (bygone_store::Result<u64>, Seq, Seq) {
    let (world, log, volume) = World::make_of(1024, 256 << 10);
    write(&log, volume, VICTIM, 8, 7);
    log.flush().unwrap();
    let (_, bytes) = segment(&world);
    let (_, last, hash) = *records(&bytes).last().unwrap();
    // The guest's own record gets this seq; its forgeries claim the following ones.
    let seq = last.seq.next();
    let key = key_of(&identity(&bytes));
    let content = forged(&key, seq.0 + 1, hash, last.incarnation, 32 << 10);
    assert_eq!(append(&log, volume, 0, &content), seq);
    log.flush().unwrap();
    write(&log, volume, 100, 8, 9);
    let head = log.flush().unwrap();
    drop(log);
    let (path, mut bytes) = segment(&world);
    let (at, ..) = *records(&bytes).iter().find(|(_, header, _)| header.seq == seq).unwrap();
    // More than one bit, so that nothing of it is recovered and recovery searches for the next record.
    bytes[at + 20] ^= 3;
    std::fs::write(path, bytes).unwrap();
    let log = world.open();
    assert!(!log.damage_at_open().is_empty(), "the damage is told");
    (mark(&log, volume, VICTIM, log.head_seq()), head, log.head_seq())
}

#[test]
fn what_a_guest_writes_is_never_taken_for_a_record() {
    let guesses: [&dyn Fn(&Identity) -> HeaderKey; 3] = [
        &|log| Identity { id: log.id, secret: [0; 32] }.header_key(),
        &|log| Identity { id: log.id, secret: [0xff; 32] }.header_key(),
        &|log| Identity { id: [0; 16], secret: log.secret.map(|byte| byte ^ 1) }.header_key(),
    ];
    for guess in guesses {
        let (victim, head, recovered) = after_damage(guess);
        assert_eq!((victim.unwrap(), recovered), (7, head));
    }
}

#[test]
fn only_the_secret_keeps_a_forged_record_out() {
    // With the right key the forgery does harm, so the test above would notice one.
    let (victim, head, recovered) = after_damage(Identity::header_key);
    assert!(!matches!((victim, recovered == head), (Ok(7), true)));
}

/// Opens a log that ends in a guest's block, whose end is a forged index without entries, made with the key of
/// `key_of`. Returns what the victim's sectors hold, and whether the block reads as it was written; `None` if the log
/// does not even know the disk any more.
fn after_a_forged_index(key_of: impl Fn(&Identity) -> HeaderKey) -> Option<(u64, bool)> {
    let (world, log, volume) = World::make_of(1024, 256 << 10);
    write(&log, volume, VICTIM, 8, 7);
    log.flush().unwrap();
    let (_, bytes) = segment(&world);
    let (at, last, _) = *records(&bytes).last().unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap().0;
    let file_bytes = last.end(at as u64) + (HEADER_BYTES + 4096) as u64;
    let times = vec![Micros(5); (last.seq.0 + 2 - header.first_seq.0) as usize];
    let mut index = SegmentIndex { first_seq: header.first_seq, times, ..SegmentIndex::default() };
    let key = key_of(&header.log);
    index.records_end = file_bytes - index.encode(&key, header.number).len() as u64;
    let index = index.encode(&key, header.number);
    let mut content = vec![0; 4096 - index.len()];
    content.extend_from_slice(&index);
    let seq = append(&log, volume, 0, &content);
    drop(log);
    // A power cut: the file ends where the guest's bytes end.
    let (path, bytes) = segment(&world);
    std::fs::write(path, &bytes[..file_bytes as usize]).unwrap();
    let log = world.open();
    let mut read = sector(0).repeat(8);
    log.view(volume, seq).ok()?.read(Lba(0), &mut read, bygone_store::Wait::Yes).unwrap();
    Some((mark(&log, volume, VICTIM, seq).unwrap(), read == content))
}

#[test]
fn what_a_guest_writes_at_the_very_end_is_never_taken_for_an_index() {
    let guess = |log: &Identity| Identity { id: log.id, secret: [0; 32] }.header_key();
    assert_eq!(after_a_forged_index(guess), Some((7, true)));
    // With the right key it is, and hides everything in the segment.
    assert_eq!(after_a_forged_index(Identity::header_key), None);
}

#[test]
fn no_two_segments_have_one_salt_and_no_two_logs_one_secret() {
    let (mut salts, mut secrets) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for _ in 0..3 {
        let (world, log, volume) = World::make(1024);
        for i in 0..40 {
            write(&log, volume, i * 8, 8, i + 1);
        }
        for path in world.files("log") {
            let Ok((header, _)) = SegmentHeader::decode(&std::fs::read(path).unwrap()) else { continue };
            assert!(salts.insert(header.salt));
            assert_eq!((header.term, header.log.id), (1, *b"sixteen bytes id"));
            secrets.insert(header.log.secret);
        }
    }
    assert!(secrets.len() == 3 && salts.len() > 12);
}

#[test]
fn a_log_whose_numbers_are_used_up_takes_no_more_and_keeps_what_it_has() {
    let (world, log, volume) = World::make(1024);
    write(&log, volume, 0, 1, 1);
    log.flush().unwrap();
    drop(log);
    // Replace all files with one segment whose records have the last valid seqs.
    let (_, bytes) = segment(&world);
    let header = SegmentHeader {
        number: 1,
        first_seq: Seq(SEQ_MAX.0 - 2),
        ..SegmentHeader::decode(&bytes).unwrap().0
    };
    let mut forged = header.encode();
    let mut previous = SegmentHeader::decode(&forged).unwrap().1;
    for seq in SEQ_MAX.0 - 2..=SEQ_MAX.0 {
        let record = Header {
            seq: Seq(seq),
            time: header.created,
            lba: Lba(0),
            sectors: Sectors(1),
            payload_bytes: 0,
            subject: Subject::volume(volume),
            op: Op::Zero,
            flags: 0,
            attempt: 0,
            previous,
            incarnation: header.incarnation,
            durable: Seq(seq - 1),
        };
        let mut bytes = [0; HEADER_BYTES];
        previous = link(record.encode(&header.log.header_key(), &[], &mut bytes, &mut Vec::new()));
        forged.extend_from_slice(&bytes);
    }
    for folder in ["log", "index", "manifest"] {
        let _ = std::fs::remove_dir_all(world.path(folder));
    }
    std::fs::create_dir(world.path("log")).unwrap();
    std::fs::write(world.segment(1), &forged).unwrap();
    let log = world.open();
    assert_eq!(log.head_seq(), SEQ_MAX);
    let refused = log.event(BranchId(0), &Event::new(Kind::Point, "one more"));
    assert!(matches!(refused, Err(Error::NoNumberLeft(_))), "{refused:?}");
    let _ = (log.checkpoint(), log.maintain(), log.flush());
    assert!(log.verify(false, &mut |_, _| true).is_ok());
    drop(log);
    assert_eq!(world.open().head_seq(), SEQ_MAX);
}
