//! Whoever does not want to know any more costs one piece more, and pieces are small.

use bygone_model::{Lba, Sectors};
use bygone_store::{BlockWrite, Content};

use crate::world::{World, write};

#[test]
fn verification_ends_within_a_piece_of_a_segment_or_a_tree() {
    const STEP_BYTES: u64 = 1 << 20;
    const RECORD_SECTORS: u64 = 1024;
    /// No piece is longer: a record with its header and checksums, or a page.
    const PIECE_BYTES: u64 = RECORD_SECTORS * 512 + 8192;
    let (world, log, volume) = World::make_of(1 << 21, 64 << 20);
    // One large segment …
    for i in 0..24 {
        write(&log, volume, i * RECORD_SECTORS, RECORD_SECTORS, i);
    }
    // … and one large tree.
    for batch in 0..60 {
        let lba = |i: u64| Lba((batch * 1000 + i) * 2);
        let zero = |i| BlockWrite { volume, lba: lba(i), content: Content::Zero(Sectors(1)), base: false };
        let writes: Vec<BlockWrite<'_>> = (0..1000).map(zero).collect();
        log.append(&writes).unwrap();
    }
    log.checkpoint().unwrap();
    let in_index: u64 = world.files("index").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(in_index > STEP_BYTES, "{in_index}");

    let mut asked = vec![0];
    let report = log.verify(false, &mut |done, _| {
        asked.push(done);
        true
    });
    assert!(report.unwrap().complete);
    assert!(asked.len() > 12, "{asked:?}");
    for pair in asked.windows(2) {
        assert!(pair[1] - pair[0] <= STEP_BYTES + PIECE_BYTES, "{asked:?}");
    }
    for (last, reached) in asked.iter().enumerate().skip(1) {
        let mut calls = 0;
        let report = log.verify(false, &mut |_, _| {
            calls += 1;
            calls < last
        });
        let report = report.unwrap();
        assert!(!report.complete);
        assert_eq!((calls, report.checked_bytes), (last, *reached));
    }
}
