//! A whole log with damaged files: opening, reading and verifying it never panics and always ends, and every successful
//! read returns what was written.

mod base;
mod edits;

use std::sync::Arc;

use bygone_model::{BranchId, Event, Kind, Lba, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Hold, Log, LogOptions, MEMORY_BYTES, Store, Wait, place::NoContainers,
};

use crate::{
    input::Input,
    memory::{Memory, NoChance, Ticks},
};
use base::{Base, NOW, SECTORS};
use edits::Damage;

/// Small segments and checkpoints, so that little data fills many.
fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 12 << 10,
        segment_records_max: 64,
        checkpoint_entries: 12,
        checkpoint_bytes: 1 << 30,
        page_entries_max: usize::MAX,
        versions_max: usize::MAX,
        aligned_payload_bytes: 1024,
        begin_bytes: 8192,
        uncached_bytes: 16384,
        inventory_micros: 0,
        joined_min: 3,
        containers: Arc::new(NoContainers),
        hold: Hold::Newest,
        store: Arc::new(Store::new(64 << 10, MEMORY_BYTES)),
        random: Arc::new(NoChance),
    }
}

/// See the module's comment. Input: which log, the damage to its files, and which moments to read.
pub fn log_open(bytes: &[u8]) {
    let mut input = Input(bytes);
    let base = Base::of(input.u8());
    let moments: Vec<u64> = (0..2).map(|_| u64::from(input.u8())).collect();
    let mut files = base.files.clone();
    let damage = edits::apply(&mut input, &mut files);
    let memory = Memory::of(&files);
    let Ok(log) = Log::open(memory.dir(), Ticks::from(NOW), options()) else { return };
    let trust = Trust::of(&log, base, damage);
    look(&log, base, trust, &moments);
    let _ = log.verify(moments[0].is_multiple_of(2), &mut |_, _| true);
    if go_on(&log, trust).is_some() {
        drop(log);
        // Whatever the first life could repair is repaired: the second one sees the same.
        let again = Log::open(memory.dir(), Ticks::from(NOW + 10_000_000), options());
        match again {
            Ok(again) => look(&again, base, trust, &moments),
            Err(error) => assert_eq!(trust.upto, None, "a log that was open does not open again: {error}"),
        }
    }
}

/// What a damaged log must still get right.
#[derive(Clone, Copy)]
struct Trust {
    /// Everything up to here is as it was written. `None`: nothing is certain, because checksums were repaired, or
    /// because the log itself reported that records are missing.
    upto: Option<Seq>,
    /// The last record when it was opened; later ones were written by `go_on`.
    written: Seq,
}

impl Trust {
    fn of(log: &Log, base: &Base, damage: Damage) -> Trust {
        let in_log = log.damage_at_open().iter().any(|(place, _)| place.file.starts_with("log"));
        let written = log.head_seq();
        if !damage.forged && !damage.log {
            assert!(
                !in_log && written == base.head,
                "an index was hurt and {written} is left of {}",
                base.head
            );
        }
        Trust { upto: (!damage.forged && !in_log).then_some(written), written }
    }
}

/// Reads all volumes at some moments.
fn look(log: &Arc<Log>, base: &Base, trust: Trust, moments: &[u64]) {
    let head = log.head_seq();
    let asked = moments.iter().map(|n| Seq(n % (head.0 + 1))).chain([head.min(trust.written)]);
    for seq in asked {
        for volume in 0..log.catalog().volumes.len().min(8) as u32 {
            let Ok(view) = log.view(VolumeId(volume), seq) else { continue };
            let expected = trust.upto.filter(|upto| seq <= *upto).map(|_| base.image(volume, seq));
            for lba in (0..SECTORS.min(view.sectors().0)).step_by(8) {
                let mut bytes = vec![0xa5; 8 * SECTOR_BYTES as usize];
                if view.read(Lba(lba), &mut bytes, Wait::Yes).is_ok()
                    && let Some(expected) = &expected
                {
                    let from = (lba * SECTOR_BYTES) as usize;
                    assert!(
                        bytes == expected[from..from + bytes.len()],
                        "volume {volume}, {lba}, as of {seq}"
                    );
                }
            }
        }
        let time = log.time_of(seq);
        if let (Ok(time), Some(upto)) = (time, trust.upto)
            && seq.0 > 0
            && seq <= upto
        {
            assert_eq!(time, base.times[seq.0 as usize - 1], "the time of {seq}");
            let _ = log.at_time(time);
        }
    }
    let mut events = Vec::new();
    let read = log.events(Seq(0), trust.written, &mut |event| {
        events.push((event.seq, event.event.label.clone()));
        true
    });
    if let (Ok(()), Some(upto)) = (read, trust.upto) {
        events.retain(|(seq, _)| *seq <= upto);
        let expected: Vec<_> = base.events.iter().filter(|(seq, _)| *seq <= upto).cloned().collect();
        assert_eq!(events, expected);
    }
    look_at_present(log, base, trust);
}

fn look_at_present(log: &Arc<Log>, base: &Base, trust: Trust) {
    let volume = VolumeId(0);
    if log.open_volume(volume, Below::Index, Seq::ZERO).is_err() {
        return;
    }
    let upto = trust.upto.filter(|upto| *upto == trust.written && log.head_seq() == *upto);
    let Ok(fragments) = log.resolve_head(volume, Lba(0), Sectors(SECTORS), Wait::Yes) else { return };
    let mut at = 0;
    for fragment in fragments {
        assert_eq!(fragment.lba.0, at, "fragments do not tile the volume");
        at += fragment.sectors.0;
        let mut bytes = vec![0xa5; fragment.sectors.bytes() as usize];
        if log.read_fragment(&fragment, &mut bytes, Wait::Yes).is_ok()
            && let Some(upto) = upto
        {
            let from = fragment.lba.bytes() as usize;
            assert!(bytes == base.image(0, upto)[from..from + bytes.len()], "the present of {fragment:?}");
        }
    }
    assert_eq!(at, SECTORS);
}

/// Appends new records to a damaged log, as to any other, and reads them back.
fn go_on(log: &Arc<Log>, trust: Trust) -> Option<()> {
    let mark = [0x5a; 2 * SECTOR_BYTES as usize];
    let write =
        |lba| BlockWrite { volume: VolumeId(0), lba: Lba(lba), content: Content::Data(&mark), base: false };
    log.append(&[write(3), write(9)]).ok()?;
    log.event(BranchId(0), &Event::new(Kind::Point, "later")).ok()?;
    log.flush().ok()?;
    for _ in 0..20 {
        if !log.maintain().ok()? {
            break;
        }
    }
    let mut bytes = vec![0; mark.len()];
    let read =
        log.view(VolumeId(0), log.head_seq()).and_then(|view| view.read(Lba(9), &mut bytes, Wait::Yes));
    if read.is_ok() && trust.upto.is_some() {
        assert_eq!(bytes, mark, "what was written last");
    }
    Some(())
}
