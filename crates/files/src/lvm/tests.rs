use super::*;
use crate::{Kind, State, Survey, crc::crc32_raw, survey, volumes_with_blocks};

const EXTENT: usize = 64 << 10;
const PV_BYTES: usize = 2 << 20;
const AREA: usize = 4096;
const AREA_BYTES: usize = 60 << 10;
const IDS: [&str; 3] = [
    "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa",
    "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb",
    "cccccc-cccc-cccc-cccc-cccc-cccc-cccccc",
];

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn seal(bytes: &mut [u8], sum_at: usize, summed: std::ops::Range<usize>) {
    let sum = crc32_raw(0xf597_a6cf, &bytes[summed]);
    put(bytes, sum_at, &sum.to_le_bytes());
}

/// Writes a physical volume with one metadata area, of which the text begins at an offset of the ring.
fn write_pv(bytes: &mut [u8], id: &str, text: &str, offset: usize) {
    put(bytes, 512, b"LABELONE\x01\0\0\0\0\0\0\0");
    put(bytes, 512 + 20, &32_u32.to_le_bytes());
    put(bytes, 512 + 24, b"LVM2 001");
    let header = 512 + 32;
    put(bytes, header, id.replace('-', "").as_bytes());
    let numbers = [PV_BYTES, EXTENT, 0, 0, 0, AREA, AREA_BYTES, 0, 0];
    for (i, number) in numbers.iter().enumerate() {
        put(bytes, header + 32 + i * 8, &(*number as u64).to_le_bytes());
    }
    put(bytes, header + 104, &[2, 0, 0, 0, u8::from(!text.is_empty())]);
    seal(bytes, 512 + 16, 532..1024);
    for (i, byte) in text.bytes().enumerate() {
        let at = if offset + i < AREA_BYTES { offset + i } else { offset + i - AREA_BYTES + 512 };
        bytes[AREA + at] = byte;
    }
    put(bytes, AREA + 4, b" LVM2 x[5A%r0N*>\x01\0\0\0");
    let place = if text.is_empty() { 0 } else { offset };
    for (i, number) in [AREA, AREA_BYTES, place, text.len()].iter().enumerate() {
        put(bytes, AREA + 24 + i * 8, &(*number as u64).to_le_bytes());
    }
    put(bytes, AREA + 56, &crc32_raw(0xf597_a6cf, text.as_bytes()).to_le_bytes());
    seal(bytes, AREA, AREA + 4..AREA + 512);
}

fn text(seqno: u64, pvs: usize, logical: &str) -> String {
    let pv = |i: usize| {
        format!(
            "pv{i} {{\nid = \"{}\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\npe_start = 128\npe_count = 31\n}}\n",
            IDS[i]
        )
    };
    let pvs: String = (0..pvs).map(pv).collect();
    format!(
        "g {{\nid = \"gggggg-gggg-gggg-gggg-gggg-gggg-gggggg\"\nseqno = {seqno}\nformat = \"lvm2\" # informational\n\
         extent_size = 128\nphysical_volumes {{\n{pvs}}}\nlogical_volumes {{\n{logical}}}\n}}\n\
         contents = \"Text Format Volume Group\"\nversion = 1\ndescription = \"a \\\"quoted\\\" }}\"\n\0"
    )
}

/// A logical volume of segments: type, first extent, extents, the rest.
fn logical(name: &str, segments: &[(&str, u64, u64, &str)]) -> String {
    let segment = |(i, (kind, start, count, rest)): (usize, &(&str, u64, u64, &str))| {
        let i = i + 1;
        format!(
            "segment{i} {{\nstart_extent = {start}\nextent_count = {count}\ntype = \"{kind}\"\n{rest}\n}}\n"
        )
    };
    let all: String = segments.iter().enumerate().map(segment).collect();
    let count = segments.len();
    format!("{name} {{\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = {count}\n{all}}}\n")
}

const ON_0: &str = "stripe_count = 1\nstripes = [\n\"pv0\", 0\n]";

/// A disk whose partitions are physical volumes, with these texts.
fn disk(texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; (1 + texts.len()) * PV_BYTES];
    let first = |i: usize| ((i + 1) * PV_BYTES / 512) as u64;
    let parts: Vec<_> = (0..texts.len()).map(|i| (first(i), first(i + 1) - 1)).collect();
    // Another table at the end would lie in the last volume.
    bytes.resize(bytes.len() + PV_BYTES, 0);
    crate::partitions::tests::write_gpt(&mut bytes, 512, &parts);
    for (i, text) in texts.iter().enumerate() {
        write_pv(&mut bytes[(i + 1) * PV_BYTES..][..PV_BYTES], IDS[i], text, 512);
    }
    bytes
}

fn clean_ext() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    put(&mut bytes, 1024 + 0x38, &[0x53, 0xef, 1]);
    bytes
}

/// The logical volumes of a survey and of its physical ones: name, kind, state, evidence.
fn seen(found: &Survey) -> Vec<(String, Kind, State, String)> {
    let shown = |v: &crate::Volume| {
        let name = v.logical.clone().or(v.partition.map(|n| n.to_string())).unwrap_or_default();
        (name, v.kind, v.state, v.evidence.clone())
    };
    found.volumes.iter().map(shown).collect()
}

#[test]
fn a_logical_volume_reads_what_lies_in_its_segments_and_stripes() {
    let striped = "stripe_count = 2\nstripe_size = 16\nstripes = [\n\"pv0\", 4,\n\"pv1\", 2\n]";
    let all = logical("a", &[("striped", 2, 4, striped), ("striped", 0, 2, ON_0)]);
    let text = text(3, 2, &all);
    let mut bytes = disk(&[&text, &text]);
    // Each 8 KiB have a number of their own.
    let start = |pv: usize, extent: usize| (pv + 1) * PV_BYTES + (1 + extent) * EXTENT;
    for (at, number) in [(start(0, 0), 0_u8), (start(0, 4), 50), (start(1, 2), 100)] {
        for i in 0..16 {
            bytes[at + i * 8192..at + (i + 1) * 8192].fill(number + i as u8);
        }
    }
    let found = volumes_with_blocks(&bytes).unwrap();
    let (volume, blocks) = &found[2];
    let blocks = blocks.as_ref().unwrap();
    assert_eq!((volume.logical.as_deref(), volume.start), (Some("g/a"), start(0, 0) as u64));
    assert_eq!((volume.len_bytes, blocks.size_bytes()), (6 * EXTENT as u64, 6 * EXTENT as u64));
    let wanted: Vec<u8> = (0..48_u8)
        .flat_map(|i| {
            let number = match i {
                0..16 => i,
                _ if i % 2 == 0 => 50 + (i - 16) / 2,
                _ => 100 + (i - 16) / 2,
            };
            vec![number; 8192]
        })
        .collect();
    for (at, len) in [(0, wanted.len()), (8000, 300_000), (131_071, 2), (393_215, 1), (140_000, 20_000)] {
        let mut read = vec![255; len];
        blocks.read_at(at as u64, &mut read).unwrap();
        assert!(read == wanted[at..at + len], "{len} at {at}");
    }
    assert!(blocks.read_at(wanted.len() as u64, &mut [0]).is_err());
}

#[test]
fn the_file_system_of_a_logical_volume_counts_and_the_physical_one_says_nothing_of_it() {
    let text = text(1, 1, &logical("root", &[("striped", 0, 4, ON_0)]));
    let mut bytes = disk(&[&text]);
    put(&mut bytes, PV_BYTES + EXTENT, &clean_ext());
    let found = survey(&bytes).unwrap();
    assert_eq!((found.volumes[0].kind, found.volumes[0].state), (Kind::LvmPv, State::Clean));
    assert_eq!((found.volumes[1].kind, found.volumes[1].state), (Kind::Ext2, State::Clean));
    bytes[PV_BYTES + EXTENT + 1024 + 0x3a] = 0;
    assert_eq!(survey(&bytes).unwrap().volumes[1].state, State::Dirty);
    // A whole disk can be a physical volume as well.
    let whole = survey(&bytes[PV_BYTES..2 * PV_BYTES].to_vec()).unwrap();
    assert_eq!((whole.volumes[0].partition, whole.volumes[1].state), (None, State::Dirty));
}

#[test]
fn a_text_that_goes_round_its_ring_is_read_and_a_damaged_one_is_never_replaced_by_an_older_one() {
    let (old, new) = (
        text(4, 1, &logical("old", &[("striped", 0, 4, ON_0)])),
        text(5, 1, &logical("new", &[("striped", 0, 4, ON_0)])),
    );
    let mut bytes = disk(&[&old]);
    let pv = PV_BYTES;
    write_pv(&mut bytes[pv..][..PV_BYTES], IDS[0], &new, AREA_BYTES - 100);
    assert_eq!(seen(&survey(&bytes).unwrap())[1].0, "g/new");
    // It lies at the end of the ring; `old` may be whole.
    bytes[pv + AREA + AREA_BYTES - 50] ^= 1;
    let found = survey(&bytes).unwrap();
    assert_eq!((found.volumes.len(), found.volumes[0].state), (1, State::Unknown));
    assert!(found.volumes[0].evidence.contains("checksum"), "{found:?}");
}

#[test]
fn the_newest_copy_of_all_areas_counts_and_two_that_are_equally_new_are_not_believed() {
    let (old, new) = (
        text(4, 2, &logical("old", &[("striped", 0, 4, ON_0)])),
        text(5, 2, &logical("new", &[("striped", 0, 4, ON_0)])),
    );
    for texts in [[&old, &new], [&new, &old], [&new, &new], [&new, &String::new()]] {
        let found = survey(&disk(&[texts[0], texts[1]])).unwrap();
        assert_eq!((found.volumes.len(), seen(&found)[2].0.as_str()), (3, "g/new"));
        assert!(found.volumes[..2].iter().all(|pv| pv.state == State::Clean), "{found:?}");
    }
    let mut bytes = disk(&[&new, &new]);
    bytes[PV_BYTES + AREA + 600] ^= 1;
    assert_eq!(seen(&survey(&bytes).unwrap())[2].0, "g/new", "LVM takes the other area");
    let other = text(5, 2, &logical("other", &[("striped", 0, 4, ON_0)]));
    let found = survey(&disk(&[&new, &other])).unwrap();
    assert_eq!(found.volumes.len(), 2);
    assert!(found.volumes.iter().all(|v| v.state == State::Unknown && v.evidence.contains("differ")));
}

#[test]
fn a_group_of_which_something_is_elsewhere_is_not_looked_into() {
    let all = logical("a", &[("striped", 0, 4, ON_0)]);
    let whole = text(1, 1, &all);
    let short = whole.replace("pe_count = 31", "pe_count = 32");
    let twice = disk(&[&whole, &whole]);
    let mut twice = twice;
    write_pv(&mut twice[2 * PV_BYTES..][..PV_BYTES], IDS[0], &whole, 512);
    let mut torn = disk(&[&whole]);
    torn[PV_BYTES + 600] ^= 1;
    let mut unused = disk(&[""]);
    let crossed = text(1, 1, &(all.clone() + &logical("b", &[("striped", 0, 1, ON_0)])));
    for (bytes, why) in [
        (disk(&[&text(1, 2, &all)]), "on other disks"),
        (disk(&[&whole.replacen("flags = []", "flags = [\"MISSING\"]", 1)]), "missing"),
        (disk(&[&short]), "shorter"),
        (twice, "same identity"),
        (torn, "label is damaged"),
        (disk(&[&whole.replace("version = 1", "version = 2")]), "not understood"),
        (disk(&[&whole.replace("seqno = 1", "seqno = -1")]), "not understood"),
        (disk(&[&whole.replace('}', "")]), "not understood"),
        (disk(&[&crossed]), "overlap"),
    ] {
        let found = survey(&bytes).unwrap();
        assert!(found.volumes.iter().all(|v| v.logical.is_none() && v.state == State::Unknown), "{found:?}");
        assert!(found.volumes[0].evidence.contains(why), "{why}: {found:?}");
    }
    assert_eq!(survey(&unused).unwrap().volumes[0].state, State::Clean, "it belongs to no group");
    put(&mut unused, PV_BYTES + 512 + 32 + 108, &[1]);
    seal(&mut unused, PV_BYTES + 512 + 16, PV_BYTES + 532..PV_BYTES + 1024);
    assert_eq!(survey(&unused).unwrap().volumes[0].state, State::Unknown, "it says that it is used");
}

#[test]
fn what_is_neither_linear_nor_striped_is_named_with_the_reason() {
    let on = |name: &str, at: u64| format!("stripe_count = 1\nstripes = [\n\"{name}\", {at}\n]");
    let hidden = logical("pool_tdata", &[("striped", 0, 1, &on("pv0", 9))]).replace(", \"VISIBLE\"", "");
    let all = [
        logical("origin", &[("striped", 0, 1, &on("pv0", 0))]),
        logical("cow", &[("striped", 0, 1, &on("pv0", 1))]),
        logical("snapshot0", &[("snapshot", 0, 1, "origin = \"origin\"\ncow_store = \"cow\"")]),
        logical("target", &[("striped", 0, 1, &on("pv0", 2))]),
        logical("merged", &[("striped", 0, 1, &on("pv0", 3))]),
        logical("snapshot1", &[("snapshot", 0, 1, "origin = \"target\"\nmerging_store = \"merged\"")]),
        logical("thin", &[("thin", 0, 1, "thin_pool = \"pool\"")]),
        logical("cached", &[("cache+METADATA_FORMAT", 0, 1, "")]),
        logical("raid", &[("raid1", 0, 1, "")]),
        logical("moving", &[("striped", 0, 1, &on("pvmove0", 0))]),
        logical("beyond", &[("striped", 0, 2, &on("pv0", 30))]),
        logical("huge", &[("striped", 0, u64::MAX, &on("pv0", 0))]),
        logical("gap", &[("striped", 1, 1, &on("pv0", 4))]),
        logical(
            "odd",
            &[("striped", 0, 1, "stripe_count = 2\nstripe_size = 8\nstripes = [\"pv0\", 5, \"pv0\", 6]")],
        ),
        logical(
            "zero",
            &[("striped", 0, 2, "stripe_count = 2\nstripe_size = 0\nstripes = [\"pv0\", 5, \"pv0\", 6]")],
        ),
        logical("none", &[]),
        hidden,
    ];
    let found = survey(&disk(&[&text(1, 1, &all.concat())])).unwrap();
    let said: Vec<_> = seen(&found).into_iter().skip(1).collect();
    let wanted = [
        ("origin", ""),
        ("cow", "it is a snapshot"),
        ("target", "a snapshot is being merged"),
        ("merged", "it is a snapshot"),
        ("thin", "it is of type thin"),
        ("cached", "it is of type cache+METADATA_FORMAT"),
        ("raid", "it is of type raid1"),
        ("moving", "it lies on another logical volume"),
        ("beyond", "it reaches beyond"),
        ("huge", "its segments make no sense"),
        ("gap", "its segments make no sense"),
        ("odd", "its segments make no sense"),
        ("zero", "its segments make no sense"),
        ("none", "its segments make no sense"),
    ];
    assert_eq!(said.len(), wanted.len(), "{said:?}");
    for ((name, kind, state, evidence), (wanted, why)) in said.iter().zip(wanted) {
        assert_eq!(*name, format!("g/{wanted}"));
        if why.is_empty() {
            assert_eq!(*kind, Kind::Empty);
        } else {
            assert!(
                (*kind, *state) == (Kind::LvmLv, State::Unknown) && evidence.starts_with(why),
                "{evidence}"
            );
        }
    }
}

/// Each byte of a header, a label and a text is damaged in turn, with checksums that hold: nothing panics, and what is
/// mapped lies on the disk.
#[test]
fn damaged_metadata_costs_errors_and_nothing_else() {
    let striped = "stripe_count = 2\nstripe_size = 16\nstripes = [\n\"pv0\", 4,\n\"pv0\", 12\n]";
    let good = text(7, 1, &logical("a", &[("striped", 0, 2, ON_0), ("striped", 2, 8, striped)]));
    let mut whole = vec![0; PV_BYTES];
    write_pv(&mut whole, IDS[0], &good, 512);
    let places = (512..700).chain(AREA..AREA + 64).chain(AREA + 512..AREA + 512 + good.len());
    let mut mapped = 0;
    for at in places {
        for change in [0xff, 0x01, 0x09, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let sum = crc32_raw(0xf597_a6cf, &bytes[AREA + 512..][..good.len()]);
            put(&mut bytes, AREA + 56, &sum.to_le_bytes());
            seal(&mut bytes, AREA, AREA + 4..AREA + 512);
            seal(&mut bytes, 512 + 16, 532..1024);
            for (_, blocks) in volumes_with_blocks(&bytes).unwrap().into_iter().skip(1) {
                let Some(blocks) = blocks else { continue };
                assert!(blocks.size_bytes() <= PV_BYTES as u64);
                let mut read = vec![0; blocks.size_bytes() as usize];
                blocks.read_at(0, &mut read).unwrap();
                mapped += 1;
            }
        }
    }
    assert!(mapped > 500, "{mapped}");
}
