use super::{super::key::Identity, *};

fn key() -> HeaderKey {
    Identity { id: *b"the id of a log!", secret: [7; 32] }.header_key()
}

fn header(payload_bytes: usize) -> Header {
    Header {
        seq: Seq(7),
        time: Micros(-3),
        lba: Lba(9),
        sectors: Sectors::of_bytes(payload_bytes as u64),
        payload_bytes: payload_bytes as u32,
        subject: if payload_bytes == 0 { Subject::LOG } else { Subject::volume(VolumeId(4)) },
        op: if payload_bytes == 0 { Op::Flush } else { Op::Write },
        flags: FLAG_BASE,
        attempt: 3,
        previous: 11,
        incarnation: 12,
        durable: Seq(6),
    }
}

/// The bytes of a record that begins at `at`.
fn encoded(header: &Header, payload: &[u8], at: u64) -> Vec<u8> {
    let (mut head, mut crcs) = ([0; HEADER_BYTES], Vec::new());
    header.encode(&key(), payload, &mut head, &mut crcs);
    let mut bytes = [&head[..], &crcs].concat();
    bytes.resize((header.payload_at(at) - at) as usize, 0);
    bytes.extend_from_slice(payload);
    bytes.resize((header.end(at) - at) as usize, 0);
    bytes
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn a_record_comes_back_as_it_was() {
    for len in [0, 512, 4096, 4608, 65536] {
        let (header, payload) = (header(len), payload(len));
        let bytes = encoded(&header, &payload, 4096);
        assert_eq!(bytes.len(), record_bytes(len));
        let (back, content) = check(&key(), 4096, &bytes).unwrap();
        assert_eq!((back.header, content), (header, &payload[..]));
    }
}

#[test]
fn an_aligned_payload_starts_at_a_block_wherever_its_header_is() {
    for at in [4096, 4104, 8192 - 64, 8192 - 80, 8192 - 88] {
        let (mut header, payload) = (header(8192), payload(8192));
        header.flags |= FLAG_ALIGNED;
        assert!(header.payload_at(at).is_multiple_of(4096) && header.payload_at(at) < at + 64 + 8 + 4096);
        let bytes = encoded(&header, &payload, at);
        assert_eq!(
            check(&key(), at, &bytes).unwrap(),
            (Header::decode(&key(), &bytes).unwrap(), &payload[..])
        );
    }
}

#[test]
fn a_record_of_another_log_is_none() {
    let bytes = encoded(&header(512), &payload(512), 4096);
    let other = Identity { id: *b"the id of a log!", secret: [8; 32] }.header_key();
    assert_eq!(check(&other, 4096, &bytes), Err(Flaw::Header));
}

#[test]
fn every_single_bit_flip_is_noticed() {
    let bytes = encoded(&header(4608), &payload(4608), 4096);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&key(), 4096, &flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_record_that_may_be_skipped_is_one_and_any_other_unknown_one_is_of_a_newer_program() {
    let with = |op, flags| {
        let header =
            Header { op, flags, sectors: Sectors(0), lba: Lba(0), subject: Subject(9 << 28), ..header(512) };
        let bytes = encoded(&header, &payload(512), 4096);
        check(&key(), 4096, &bytes).map(|(proven, content)| (proven.header, content.len()))
    };
    let (skipped, len) = with(Op::Other(77), FLAG_SKIP | 0x10).unwrap();
    assert_eq!((skipped.op, len), (Op::Other(77), 512));
    assert_eq!(with(Op::Other(77), 0), Err(Flaw::Newer(77)));
    // A block record changes what a disk shows, so no reader may skip it.
    assert_eq!(with(Op::Other(9), FLAG_SKIP), Err(Flaw::Newer(9)));
    // An unknown flag changes what a record means.
    assert_eq!(with(Op::Catalog, 0x10), Err(Flaw::Newer(33)));
    assert!(with(Op::Catalog, 0).is_ok());
}

#[test]
fn subjects_of_different_kinds_never_have_one_id() {
    let (volume, branch) = (Subject::volume(VolumeId(5)), Subject::branch(BranchId(5)));
    assert!(volume != branch && ![volume, branch].contains(&Subject::LOG));
    assert_eq!((volume.as_volume(), volume.as_branch()), (Some(VolumeId(5)), None));
    assert_eq!((branch.as_volume(), branch.as_branch()), (None, Some(BranchId(5))));
    assert_eq!((Subject::LOG.as_volume(), Subject::LOG.as_branch()), (None, None));
}

#[test]
fn what_was_durable_is_never_said_to_be_more_than_it_was() {
    for (seq, durable, expected) in
        [(9, 9, 9), (9, 0, 0), (1 << 40, 5, 0), (1 << 40, (1 << 40) - 7, (1 << 40) - 7)]
    {
        let header = Header { seq: Seq(seq), durable: Seq(durable), ..header(0) };
        let bytes = encoded(&header, &[], 4096);
        assert_eq!(Header::decode(&key(), &bytes).unwrap().header.durable, Seq(expected));
    }
}
