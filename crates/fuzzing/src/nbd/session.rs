//! Whole sessions over a real socket: a device behind a real server, and a plain byte array to which the same requests
//! are applied in the order they were sent. Every reply is compared, and at the end the whole device.

mod client;
mod device;

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bygone_block::{
    BlockDevice, Geometry, LogDevice, Reading, WhenFull,
    nbd::{Limits, Scope, Server, Serving, command::Command},
};
use bygone_model::Sectors;
use bygone_store::{
    Log, LogOptions, MEMORY_BYTES, Store,
    catalog::{Disk, Keeping},
};

use super::{
    rules::{Agreement, Asked, CACHE, DISC, EIO, ENOSPC, FLUSH, READ, STATUS, TRIM, WRITE, ZEROES, verdict},
    shop::Shop,
};
use crate::{
    input::Input,
    memory::{Memory, Ticks},
};
use client::{Client, Outcome};
use device::Bytes;

const SIZE_BYTES: u64 = 2 << 20;
const GROUPS_MAX: usize = 12;
/// Requests in flight at once.
const GROUP_MAX: usize = 16;
/// The most bytes that one input may transfer, so that it does not take long.
const MOVED_BYTES_MAX: u64 = 4 << 20;

/// One server for all inputs, which run one after the other.
struct Stage {
    shop: Arc<Shop>,
    path: PathBuf,
    turn: Mutex<()>,
    _serving: Serving,
    _folder: tempfile::TempDir,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let shop = Arc::new(Shop::empty());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nbd.sock");
        let serving = Server::new(Limits::default()).serve_unix(&path, Scope::new(shop.clone())).unwrap();
        Stage { shop, path, turn: Mutex::new(()), _serving: serving, _folder: folder }
    })
}

/// See the module's comment. Input: what is negotiated, then requests.
pub fn nbd_session(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (shape, agreement, bad) = (input.u8(), input.u8(), input.u8());
    let geometry = Geometry {
        size_bytes: SIZE_BYTES,
        block_bytes: if shape & 1 == 0 { 512 } else { 4096 },
        read_only: shape & 2 != 0 && shape & 8 == 0,
        can_trim: shape & 4 == 0 || shape & 8 != 0,
    };
    // Only the device in memory has a bad range; the log has none.
    let bad = (bad != 0 && shape & 8 == 0).then(|| u64::from(bad) * 4096);
    let device: Arc<dyn BlockDevice> = if shape & 8 == 0 {
        Arc::new(Bytes::new(geometry, bad, shape & 16 != 0))
    } else {
        Arc::new(disk_in_a_log(geometry.block_bytes))
    };
    let (structured, status) = (agreement & 1 != 0, agreement & 3 == 3);
    // The old handshake cannot ask for size constraints.
    let aligned = agreement & 12 == 0;
    let agreed = Agreement { geometry, structured, status, aligned };

    let stage = stage();
    let _turn = stage.turn.lock().unwrap_or_else(PoisonError::into_inner);
    stage.shop.put(Some(device.clone()));
    let mut client = Client::greet(UnixStream::connect(&stage.path).unwrap(), &agreed, agreement & 4 != 0);
    stage.shop.put(None);
    let mut model = Model { agreed, bytes: vec![0; SIZE_BYTES as usize], bad };
    let (mut cookie, mut moved) = (1, 0);
    for _ in 0..GROUPS_MAX {
        if input.is_empty() {
            break;
        }
        let group = model.group(&mut input, &mut cookie, &mut moved);
        model.play(&mut client, &group);
    }
    client.leave();
    let mut left = vec![0xa5; SIZE_BYTES as usize];
    if bad.is_none() {
        device.read(0, &mut left, Reading::MayWait).unwrap();
        assert!(left == model.bytes, "the device holds something else at the end");
    }
}

fn disk_in_a_log(block_bytes: u32) -> LogDevice {
    let options = LogOptions {
        segment_bytes: 256 << 10,
        segment_records_max: 64,
        checkpoint_entries: 24,
        store: Arc::new(Store::new(64 << 10, MEMORY_BYTES)),
        ..LogOptions::default()
    };
    let clock = Ticks::from(1_700_000_000_000_000);
    let log = Log::make(Memory::default().dir(), clock, options, *b"the id of a log!").unwrap();
    let (name, sectors) = ("vda".to_owned(), Sectors::of_bytes(SIZE_BYTES));
    let volume = log.add_disk(&Disk { name, sectors, block_bytes, keeping: Keeping::Store }).unwrap();
    LogDevice::open(log, volume, WhenFull::Fail).unwrap()
}

/// A request, its data, and the expected result.
struct Step {
    asked: Asked,
    data: Vec<u8>,
    expected: Result<Command, u32>,
    /// For reads: the bytes when it was sent.
    before: Vec<u8>,
}

struct Model {
    agreed: Agreement,
    bytes: Vec<u8>,
    bad: Option<u64>,
}

impl Model {
    /// Sends a group of requests before reading any reply.
    fn group(&mut self, input: &mut Input<'_>, cookie: &mut u64, moved: &mut u64) -> Vec<Step> {
        let mut group = Vec::new();
        for _ in 0..1 + input.u8() as usize % GROUP_MAX {
            let asked = self.request(input, *cookie);
            *cookie = cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            let small = asked.len <= 1 << 20;
            let moves = [READ, WRITE].contains(&asked.kind);
            if asked.kind == DISC || (moves && *moved + u64::from(asked.len) > MOVED_BYTES_MAX) {
                continue;
            }
            if !small && moves && self.touches_bad(&asked) {
                // A request done in pieces may be half done, so it could not be compared.
                continue;
            }
            *moved += if moves { u64::from(asked.len) } else { 0 };
            let data = if asked.kind == WRITE { pattern(*cookie, asked.len as usize) } else { Vec::new() };
            let expected = verdict(&asked, &self.agreed).and_then(|command| self.fate(&asked, command));
            // A valid request lies within the device; the data of others does not matter.
            let end = asked.offset.saturating_add(u64::from(asked.len)).min(SIZE_BYTES) as usize;
            let range = (asked.offset as usize).min(end)..end;
            let before = match expected {
                Ok(Command::Read { .. } | Command::Status { .. }) => self.bytes[range.clone()].to_vec(),
                _ => Vec::new(),
            };
            match expected {
                Ok(Command::Write { .. }) => self.bytes[range].copy_from_slice(&data),
                Ok(Command::Clear { .. }) => self.bytes[range].fill(0),
                _ => {}
            }
            group.push(Step { asked, data, expected, before });
        }
        group
    }

    fn request(&self, input: &mut Input<'_>, cookie: u64) -> Asked {
        let kinds = [READ, WRITE, WRITE, ZEROES, TRIM, FLUSH, CACHE, STATUS, READ, 8];
        let (kind, how) = (input.pick(&kinds), input.u8());
        let block = u64::from(self.agreed.geometry.block_bytes);
        let blocks = SIZE_BYTES / block;
        let mut offset = u64::from(input.u16()) % (blocks + 1) * block;
        let size = u64::from(input.u8());
        let mut len = if size < 200 { size % 40 * block } else { (size - 199) * 8 * 4096 };
        if how & 0xc0 != 0xc0 {
            // Mostly in range.
            len = len.min(SIZE_BYTES - offset);
        } else {
            offset += input.pick(&[0, 1, 511, 512, u64::MAX - SIZE_BYTES * 2]);
            len += input.pick(&[0, 0, 7, 512, 1 << 32]);
        }
        if kind == FLUSH && how & 0xe0 != 0xe0 {
            (offset, len) = (0, 0);
        }
        let len = if kind == WRITE { len.min(SIZE_BYTES) } else { len };
        let flags = [0, 0, 1, 2, 4, 8, 16, 1 << 5][usize::from(how % 8)];
        Asked { kind, flags, cookie, offset, len: u32::try_from(len).unwrap_or(u32::MAX) }
    }

    fn touches_bad(&self, asked: &Asked) -> bool {
        self.bad.is_some_and(|bad| {
            asked.offset < bad + 4096 && bad < asked.offset.saturating_add(u64::from(asked.len))
        })
    }

    /// The device's result for a valid request.
    fn fate(&self, asked: &Asked, command: Command) -> Result<Command, u32> {
        match command {
            Command::Read { .. } | Command::Status { .. } if self.touches_bad(asked) => Err(EIO),
            Command::Write { .. } | Command::Clear { .. } if self.touches_bad(asked) => Err(ENOSPC),
            _ => Ok(command),
        }
    }

    fn play(&self, client: &mut Client, group: &[Step]) {
        let mut sent = Vec::new();
        for step in group {
            sent.extend(step.asked.encode());
            sent.extend(&step.data);
        }
        let asked: Vec<Asked> = group.iter().map(|step| step.asked).collect();
        let outcomes = client.exchange(&sent, &asked);
        for (i, step) in group.iter().enumerate() {
            let outcome = &outcomes[&step.asked.cookie];
            match (&step.expected, outcome.error) {
                (Ok(command), 0) => self.compare(step, *command, outcome, &group[i + 1..]),
                (Err(expected), error) => assert_eq!(error, *expected, "{:?}", step.asked),
                (Ok(_), error) => panic!("{:?} failed with {error}", step.asked),
            }
        }
    }

    fn compare(&self, step: &Step, command: Command, outcome: &Outcome, later: &[Step]) {
        match command {
            Command::Read { whole, .. } => {
                assert!(!whole || outcome.data.len() <= 1, "one chunk was asked for");
                let mut pieces: Vec<_> = outcome.data.iter().collect();
                pieces.sort();
                let read: Vec<u8> = pieces.iter().flat_map(|(_, data)| data).copied().collect();
                let tiled = pieces.windows(2).all(|pair| pair[0].0 + pair[0].1.len() as u64 == pair[1].0);
                assert!(tiled && read.len() == step.before.len(), "{:?} is not answered whole", step.asked);
                if read == step.before {
                    return;
                }
                for (at, (byte, before)) in (step.asked.offset..).zip(read.iter().zip(&step.before)) {
                    // Concurrent requests may or may not be visible.
                    let same = byte == before || later.iter().any(|step| step.leaves(at) == Some(*byte));
                    assert!(same, "{at} in {:?} is {byte} instead of {before}", step.asked);
                }
            }
            Command::Status { one, .. } => {
                let extents = &outcome.extents;
                assert!(!extents.is_empty() && (!one || extents.len() == 1), "{extents:?}");
                let quiet = later.iter().all(|step| !matches!(step.expected, Ok(Command::Write { .. })));
                let mut at = 0;
                for (len, flags) in extents {
                    let end = at + *len as usize;
                    assert!(*len > 0 && end <= step.before.len() && flags & !3 == 0, "{extents:?}");
                    let zero = step.before[at..end].iter().all(|byte| *byte == 0);
                    assert!(flags & 2 == 0 || zero || !quiet || clears(later), "{at}..{end} are no zeroes");
                    at = end;
                }
            }
            _ => assert!(outcome.data.is_empty() && outcome.extents.is_empty()),
        }
    }
}

fn clears(later: &[Step]) -> bool {
    later.iter().any(|step| matches!(step.expected, Ok(Command::Clear { .. })))
}

impl Step {
    /// The byte that this request leaves at an offset, if it changes it.
    fn leaves(&self, at: u64) -> Option<u8> {
        let i = at.checked_sub(self.asked.offset).filter(|i| *i < u64::from(self.asked.len))?;
        match self.expected {
            Ok(Command::Write { .. }) => Some(self.data[i as usize]),
            Ok(Command::Clear { .. }) => Some(0),
            _ => None,
        }
    }
}

/// Bytes that identify their request.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let word = (seed | 1).wrapping_mul(0x5851_f42d_4c95_7f2d);
    let mut out = Vec::with_capacity(len + 8);
    for i in 0..len.div_ceil(8) as u64 {
        out.extend(word.wrapping_add(i).to_le_bytes());
    }
    out.truncate(len);
    out
}
