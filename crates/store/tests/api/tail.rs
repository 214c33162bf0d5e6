//! A guest cannot make opening a log expensive by filling an unsealed segment with what looks like headers.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bygone_model::{Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Log,
    env::File,
    format::{
        key::Identity,
        record::{HEADER_BYTES, Header, Op, Subject},
    },
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, options};

/// Counts the bytes that are read.
struct Counting(Arc<AtomicU64>);

impl Watch for Counting {
    fn read(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let got = file.read_at(buf, offset)?;
        self.0.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

const RECORD_BYTES: usize = 64 << 10;

/// Headers that could be those of the next record, with `payload_bytes`, but for the secret.
fn headers(seq: Seq, payload_bytes: u32) -> Vec<u8> {
    let key = Identity { id: *b"sixteen bytes id", secret: [0; 32] }.header_key();
    let mut out = Vec::new();
    while out.len() < RECORD_BYTES {
        let header = Header {
            seq: Seq(seq.0 + 1),
            time: Micros(1_700_000_000_000_000),
            lba: Lba(0),
            sectors: Sectors(u64::from(payload_bytes / 512)),
            payload_bytes,
            subject: Subject::volume(VolumeId(0)),
            op: Op::Write,
            flags: 0,
            attempt: 0,
            previous: 7,
            incarnation: 1,
            durable: seq,
        };
        let mut bytes = [0; HEADER_BYTES];
        header.encode(&key, &vec![0; payload_bytes as usize], &mut bytes, &mut Vec::new());
        out.extend_from_slice(&bytes);
    }
    out
}

/// The bytes that are read to open a log of one segment, whose records have this content and the first of which is
/// torn.
fn read_to_open(content: &dyn Fn(Seq) -> Vec<u8>) -> u64 {
    let (world, log, volume) = World::make_of(1 << 20, 8 << 20);
    log.flush().unwrap();
    let first = log.head_seq().next();
    let begin = log.used_bytes().unwrap();
    for i in 0..48 {
        let data = content(first);
        let write = BlockWrite { volume, lba: Lba(i * 128), content: Content::Data(&data), base: false };
        log.append(&[write]).unwrap();
    }
    drop(log);
    let path = world.path("log").join(&world.files("log")[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() as u64 > begin + (2 << 20), "it is not sealed");
    // Damage the header of the first record.
    let key = bygone_store::format::segment::SegmentHeader::decode(&bytes).unwrap().0.log.header_key();
    let is_first =
        |at: &usize| Header::decode(&key, &bytes[*at..]).is_ok_and(|proven| proven.header.seq == first);
    let at = (4096..bytes.len()).step_by(8).find(is_first).unwrap();
    bytes[at + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let dir = Watched::new(world.folder.path(), Counting(read.clone()));
    let log = Log::open(dir, Arc::new(Ticks::default()), options(8 << 20)).unwrap();
    assert!(log.head_seq() < first, "what was torn and never durable is gone");
    read.load(Ordering::Relaxed)
}

#[test]
fn a_hostile_tail_costs_at_most_twice_what_an_innocent_one_does() {
    let innocent = read_to_open(&|seq| (0..RECORD_BYTES).map(|i| ((i as u64 * 31) ^ seq.0) as u8).collect());
    for payload_bytes in [0, 512, 4096, 32 << 20] {
        let hostile = read_to_open(&|seq| {
            // Encoding headers of the largest records would take long, so their lengths are patched in.
            let mut one = headers(seq, payload_bytes.min(4096));
            for header in one.chunks_exact_mut(HEADER_BYTES) {
                header[40..44].copy_from_slice(&(payload_bytes / 512).to_le_bytes());
            }
            one
        });
        assert!(hostile <= 2 * innocent, "{payload_bytes}: {hostile} bytes read instead of {innocent}");
    }
}
