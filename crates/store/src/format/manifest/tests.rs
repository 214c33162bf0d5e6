use super::*;

const LOG: Identity = Identity { id: *b"the id of a log!", secret: [6; SECRET_BYTES] };

fn some() -> Manifest {
    let entry = |number, state, hash| Entry {
        state,
        number,
        len_bytes: 77,
        first_seq: Seq(5),
        last_seq: Seq(9),
        first_time: Micros(-3),
        last_time: Micros(12),
        since: Micros(99),
        container: 6,
        header_crc: 0xabcd,
        hash,
    };
    Manifest {
        number: 7,
        log: LOG,
        term: 3,
        time: Micros(1_000_000),
        is_full: false,
        previous: Some((5, [9; 32])),
        entries: vec![
            entry(1, State::Lives, None),
            entry(2, State::Missing, Some([4; 32])),
            entry(4, State::Dropped, None),
            entry(9, State::Retired, None),
        ],
    }
}

#[test]
fn a_manifest_comes_back_and_no_flipped_bit_passes() {
    let manifest = some();
    let bytes = manifest.encode();
    assert_eq!(Manifest::decode(&bytes, 7), Ok(manifest));
    for bit in 0..bytes.len() * 8 {
        let mut rotten = bytes.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Manifest::decode(&rotten, 7), Err(Flaw::Damaged), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert_eq!(Manifest::decode(&bytes[..len], 7), Err(Flaw::Damaged), "cut at {len}");
    }
    assert_eq!(Manifest::decode(&bytes, 8), Err(Flaw::Damaged), "of another number");
}

/// Decodes [`some`] with `change` at offset `at` and a valid hash.
fn forged(at: usize, change: &[u8]) -> Result<Manifest, Flaw> {
    let mut bytes = some().encode();
    bytes[at..at + change.len()].copy_from_slice(change);
    let end = bytes.len() - HASH_BYTES;
    let own = hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&own);
    Manifest::decode(&bytes, 7)
}

#[test]
fn lies_that_have_a_right_hash_are_refused() {
    assert_eq!(forged(8, &2_u16.to_le_bytes()), Err(Flaw::Newer(2)));
    assert_eq!(forged(8, &0_u16.to_le_bytes()), Err(Flaw::Damaged));
    assert_eq!(forged(36, &u32::MAX.to_le_bytes()), Err(Flaw::Damaged), "more entries than bytes");
    assert_eq!(forged(48, &7_u32.to_le_bytes()), Err(Flaw::Damaged), "it names itself");
    assert_eq!(forged(132, &2_u32.to_le_bytes()), Err(Flaw::Damaged), "a number twice");
    assert_eq!(forged(132, &0_u32.to_le_bytes()), Err(Flaw::Damaged), "no number");
    assert_eq!(forged(152, &u64::MAX.to_le_bytes()), Err(Flaw::Damaged), "a seq that no log has");
}

#[test]
fn codes_that_this_version_does_not_have_are_those_of_a_newer_one() {
    for (at, codes) in [(10, [0, 3, 255]), (128, [0, 2, 4]), (129, [0, 5, 255]), (130, [0, 2, 3])] {
        for code in codes {
            assert_eq!(forged(at, &[code]), Err(Flaw::Newer(2)), "code {code} at {at}");
        }
    }
}

#[test]
fn a_part_says_of_which_manifest_it_is() {
    assert_eq!(part_of("0000000012.0123456789abcdef.part"), Some(12));
    for name in [
        "0000000012",
        "12.part",
        "0000000012.part",
        "0000000012.old.part",
        "0000000012.0123456789ABCDEF.part",
        "0000000012.0123456789abcdef0.part",
        "0000000012.0123.tmp",
        "0000000012.xpart",
        ".part",
        "notes.part",
    ] {
        assert_eq!(part_of(name), None, "{name}");
    }
}

#[test]
fn a_name_has_one_form() {
    assert_eq!(number_of("0000000012"), Some(12));
    for name in ["12", "0000000000", "4294967295", "+000000012", "00000000012", "0000000012.part", ""] {
        assert_eq!(number_of(name), None, "{name}");
    }
}
