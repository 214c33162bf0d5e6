//! A store-only disk that is served: clients that never asked for the block size, and damage.

use std::{path::Path, sync::Arc};

use bygone_block::{
    BlockDevice, LogDevice, WhenFull,
    nbd::{ExportInfo, Exports, Limits, OpenError, Scope, Server, Serving},
};
use bygone_model::Sectors;
use bygone_store::{
    Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{RealDir, SystemClock},
};

use crate::{EXPORT, client::*, pattern};

const SIZE_BYTES: u64 = 4 << 20;

struct One(Arc<LogDevice>);

impl Exports for One {
    fn list(&self) -> Vec<ExportInfo> {
        Vec::new()
    }
    fn open(&self, _: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        Ok(Arc::clone(&self.0) as Arc<dyn BlockDevice>)
    }
}

/// A store-only disk with blocks of 4096 bytes.
fn served(folder: &Path) -> Serving {
    let dir = Arc::new(RealDir::new(folder.join("log")));
    let log = Log::make(dir, Arc::new(SystemClock::new()), LogOptions::default(), [7; 16]).unwrap();
    let (name, sectors) = ("vda".to_owned(), Sectors::of_bytes(SIZE_BYTES));
    let volume = log.add_disk(&Disk { name, sectors, block_bytes: 4096, keeping: Keeping::Store }).unwrap();
    let device = Arc::new(LogDevice::open(log, volume, WhenFull::Fail).unwrap());
    let server = Server::new(Limits::default());
    server.serve_unix(&folder.join("nbd.sock"), Scope::new(Arc::new(One(device)))).unwrap()
}

#[test]
fn a_client_that_did_not_ask_may_write_and_read_anything() {
    let folder = tempfile::tempdir().unwrap();
    let _serving = served(folder.path());
    let mut old = Client::connect(&folder.path().join("nbd.sock"));
    old.send(&option(OPT_EXPORT_NAME, EXPORT.as_bytes()));
    old.bytes(10).unwrap();
    let mut new = Client::connect(&folder.path().join("nbd.sock"));
    new.go_asking(EXPORT, &[]).unwrap();
    let mut copy = vec![0; usize::try_from(SIZE_BYTES).unwrap()];
    for (round, (offset, len)) in [
        (0, 4096),
        (1, 1),
        (511, 2),
        (4095, 2),
        (5000, 100),
        (100, 8192),
        (12288, 5000),
        (7, 3 << 20),
        (4_194_303, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset).unwrap() + len;
        for client in [&mut old, &mut new] {
            let data = pattern(round as u64 + offset, len);
            assert_eq!(client.write(offset, &data), 0, "{offset}+{len}");
            copy[range.clone()].copy_from_slice(&data);
            assert!(client.read(offset, u32::try_from(len).unwrap()) == data);
        }
        let kind = if round % 2 == 0 { ZEROES } else { TRIM };
        let (from, half) = (offset + 3, u32::try_from(len / 2).unwrap());
        if from + u64::from(half) <= SIZE_BYTES {
            assert_eq!(old.ask(kind, 0, from, half).error, 0);
            let from = usize::try_from(from).unwrap();
            copy[from..from + half as usize].fill(0);
        }
        assert!(new.read(0, u32::try_from(SIZE_BYTES).unwrap()) == copy, "after {offset}+{len}");
    }
}

#[test]
fn a_client_that_asked_has_to_keep_to_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let _serving = served(folder.path());
    let path = folder.path().join("nbd.sock");
    let mut client = Client::connect(&path);
    client.go_asking(EXPORT, &[3]).unwrap();
    assert_eq!(client.write(512, &[1; 512]), EINVAL);
    // Asking with `NBD_OPT_INFO` counts as well.
    let mut client = Client::connect(&path);
    client.option(OPT_INFO, &info_data(EXPORT, &[3]));
    client.go_asking(EXPORT, &[]).unwrap();
    assert_eq!(client.write(512, &[1; 512]), EINVAL);
}

#[test]
fn a_damaged_block_fails_alone_and_says_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let _serving = served(folder.path());
    let path = folder.path().join("nbd.sock");
    let mut client = Client::connect(&path);
    client.agree_on_all(EXPORT);
    let data = pattern(1, 256 << 10);
    assert_eq!(client.write(0, &data), 0);
    assert_eq!(client.write(1 << 20, &[2; 4096]), 0);
    client.flush();
    // One bit of the fourth block, in the middle of a large record.
    let segment = folder.path().join("log/log/0000000001-00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(64).position(|found| found == &data[3 * 4096..3 * 4096 + 64]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let mut simple = Client::connect(&path);
    simple.go(EXPORT).unwrap();
    let whole = client.ask(READ, 0, 0, 256 << 10);
    let alone = client.ask(READ, 0, 3 * 4096, 4096);
    for outcome in [whole, alone] {
        assert_eq!(outcome.error, EIO);
        assert!(outcome.message.contains("log/0000000001 "), "{}", outcome.message);
    }
    assert_eq!(simple.ask(READ, 0, 3 * 4096, 4096).error, EIO);
    for (offset, len) in [(0, 3 * 4096), (4 * 4096, 60 * 4096), (1 << 20, 4096)] {
        let read = client.read(offset, len);
        let at = usize::try_from(offset).unwrap();
        if offset < 1 << 20 {
            assert!(read == data[at..at + len as usize]);
        } else {
            assert_eq!(read, [2; 4096]);
        }
    }
    // Once overwritten, it is intact.
    assert_eq!(client.write(3 * 4096, &data[3 * 4096..4 * 4096]), 0);
    assert!(client.read(0, 256 << 10) == data);
}

#[test]
fn block_status_of_parts_of_blocks_is_of_just_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let _serving = served(folder.path());
    let mut client = Client::connect(&folder.path().join("nbd.sock"));
    client.structured();
    client.option(OPT_SET_CONTEXTS, &context_data(EXPORT, &["base:allocation"]));
    client.go_asking(EXPORT, &[]).unwrap();
    assert_eq!(client.write(4096, &[1; 4096]), 0);
    assert_eq!(client.ask(STATUS, 0, 100, 4000).extents, [(3996, 3), (4, 0)]);
    assert_eq!(client.ask(STATUS, 0, 5000, 10).extents, [(10, 0)]);
    assert_eq!(client.ask(STATUS, 0, 8190, 10).extents, [(2, 0), (8, 3)]);
}
