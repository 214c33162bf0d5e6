use super::*;

const SUPERBLOCK: u64 = 8;
const ID: [u8; 16] = *b"sixteen bytes id";

/// A volume with a log of some blocks, written the way the kernel does.
struct Written {
    bytes: Vec<u8>,
    blocks: u64,
    /// Where the next record begins, and in which round.
    at: u64,
    round: u32,
}

impl Written {
    /// A new log, as mkfs makes it: an unmount, and zeroes.
    fn new(blocks: u64) -> Written {
        let mut bytes = vec![0; ((SUPERBLOCK + blocks) * BLOCK) as usize];
        bytes[..4].copy_from_slice(b"XFSB");
        bytes[4..8].copy_from_slice(&512_u32.to_be_bytes());
        bytes[32..48].copy_from_slice(&ID);
        bytes[48..56].copy_from_slice(&SUPERBLOCK.to_be_bytes());
        bytes[96..100].copy_from_slice(&(blocks as u32).to_be_bytes());
        bytes[124] = 31;
        let mut written = Written { bytes, blocks, at: 0, round: 1 };
        written.record(1, true);
        written
    }

    /// Writes a block, with its round in the first four bytes, or after the magic of a header.
    fn block(&mut self, content: &[u8]) {
        let start = ((SUPERBLOCK + self.at) * BLOCK) as usize;
        let block = &mut self.bytes[start..start + BLOCK as usize];
        block.fill(0);
        block[..content.len()].copy_from_slice(content);
        let is_header = content.starts_with(&RECORD_MAGIC.to_be_bytes());
        block[if is_header { 4..8 } else { 0..4 }].copy_from_slice(&self.round.to_be_bytes());
        self.at += 1;
        if self.at == self.blocks {
            (self.at, self.round) = (0, self.round + 1);
        }
    }

    /// A record of some blocks of data.
    fn record(&mut self, blocks: u32, unmounts: bool) {
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(&RECORD_MAGIC.to_be_bytes());
        header[8..12].copy_from_slice(&2_u32.to_be_bytes());
        header[12..16].copy_from_slice(&(blocks * 512).to_be_bytes());
        let place = u64::from(self.round) << 32 | self.at;
        header[16..24].copy_from_slice(&place.to_be_bytes());
        header[40..44].copy_from_slice(&if unmounts { 1_u32 } else { 9 }.to_be_bytes());
        header[304..320].copy_from_slice(&ID);
        // Room for records of 64 KiB needs two headers.
        let buffer = if blocks > 64 { 64 << 10 } else { HEADER_COVERS };
        header[320..324].copy_from_slice(&buffer.to_be_bytes());
        self.block(&header);
        if buffer > HEADER_COVERS {
            self.block(&[]);
        }
        for i in 0..blocks {
            let mut content = vec![0xab; 512];
            content[9] = if unmounts && i == 0 { UNMOUNT } else { 0 };
            self.block(&content);
        }
    }

    fn state(&self) -> (State, String) {
        let found = xfs(Probe { volume: &self.bytes }).unwrap().unwrap();
        (found.state, found.evidence)
    }
}

#[test]
fn the_end_of_a_log_is_found_wherever_it_is() {
    for blocks in [300, 307, 6000] {
        let mut log = Written::new(blocks);
        assert_eq!(log.state().0, State::Clean);
        let (mut sizes, mut rounds) = ((1..).map(|i: u32| 1 + i * 37 % 90), 0);
        while rounds < 4 {
            let before = log.round;
            log.record(sizes.next().unwrap(), false);
            assert_eq!(log.state().0, State::Dirty, "round {}, block {}", log.round, log.at);
            log.record(1, true);
            assert_eq!(
                log.state().0,
                State::Clean,
                "round {}, block {}: {}",
                log.round,
                log.at,
                log.state().1
            );
            rounds += u32::from(log.round != before);
        }
    }
}

#[test]
fn a_write_that_did_not_arrive_ends_the_log_before_those_that_did() {
    let mut log = Written::new(4000);
    for _ in 0..300 {
        log.record(20, false);
    }
    log.record(1, true);
    assert_eq!(log.state().0, State::Clean);
    // The first of three records is lost: the mount that wrote them has changed nothing yet.
    let before = log.bytes.clone();
    let lost = ((SUPERBLOCK + log.at) * BLOCK) as usize;
    for _ in 0..3 {
        log.record(5, false);
    }
    let mut arrived = log.bytes.clone();
    arrived[lost..lost + 6 * 512].copy_from_slice(&before[lost..lost + 6 * 512]);
    log.bytes = arrived;
    assert_eq!(log.state().0, State::Clean);
}

#[test]
fn logs_that_make_no_sense_are_not_clean() {
    let mut log = Written::new(300);
    log.bytes[(SUPERBLOCK * BLOCK) as usize + 304] ^= 1;
    assert_eq!(log.state(), (State::Unknown, "its log belongs to another file system".to_owned()));
    let mut log = Written::new(300);
    let start = (SUPERBLOCK * BLOCK) as usize;
    log.bytes[start..].fill(0);
    assert_eq!(log.state().0, State::Unknown);
    for (at, value) in [(48, 0), (48, 1 << 20), (48, u64::MAX)] {
        let mut log = Written::new(300);
        log.bytes[at..at + 8].copy_from_slice(&u64::to_be_bytes(value));
        assert_eq!(log.state().0, State::Unknown, "{value}");
    }
    for start in (start..).step_by(512).take(300) {
        let mut log = Written::new(300);
        log.record(100, false);
        log.bytes[start..start + 4].copy_from_slice(&77_u32.to_be_bytes());
        assert_ne!(log.state().0, State::Clean);
    }
}
