//! Every decoder of the store's bytes: whatever it accepts satisfies the format, and is the same when encoded again.
//! False lengths cost nothing (the memory of the fuzzer, and of the test, is limited).

pub(crate) mod json;
pub(crate) mod repair;

use bygone_model::Seq;
use bygone_store::format::{
    self,
    checkpoint::{self, Name, Table, TreeRef},
    key::{Identity, SECRET_BYTES},
    manifest::{Flaw as ManifestFlaw, Manifest},
    page::{self, STRIPE_SECTORS},
    record::{self, Flaw, Header},
    segment::{self, HeaderFlaw, SegmentHeader, SegmentIndex},
};

use crate::input::Input;

const ID: [u8; 16] = *b"the id of a log!";
const LOG: Identity = Identity { id: ID, secret: [7; SECRET_BYTES] };
/// The offset of the record in its segment.
const AT: usize = 4096 + 8;
/// The file number that pages and tables should have.
const FILE: u32 = 7;
/// Inputs that begin with at least this byte are manifests. So the inputs for the other decoders keep their meaning.
const MANIFESTS_FROM: u8 = 250;

/// See the module's comment. Input: which decoder, whether to repair checksums, then the bytes to decode.
pub fn formats(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (which, how) = (input.u8(), input.u8());
    let mut bytes = input.0.to_vec();
    let right = how & 1 == 0;
    assert_eq!(format::crc32c(&bytes), repair::crc32c(&bytes));
    if which >= MANIFESTS_FROM {
        let _ = right.then(|| repair::manifest(&mut bytes));
        return manifest(&bytes);
    }
    match which % 10 {
        0 => {
            let _ = right.then(|| repair::record(&LOG, AT, &mut bytes));
            record(&bytes);
        }
        1 => segment_header(&mut bytes, right),
        2 => {
            let _ = right.then(|| repair::segment_index(&LOG, &mut bytes));
            segment_index(&bytes, how);
        }
        3 => {
            let _ = right.then(|| repair::leading(&mut bytes));
            page(&bytes);
        }
        4 => {
            let _ = right.then(|| repair::leading(&mut bytes));
            table(&bytes);
        }
        5 => {
            let _ = right.then(|| repair::frame(&mut bytes));
            checkpoint_frame(&bytes);
        }
        6 => names(&bytes),
        7 => json::changes(&bytes),
        8 => json::event(&bytes),
        _ => json::footer(&bytes),
    }
}

fn manifest(bytes: &[u8]) {
    match Manifest::decode(bytes, FILE) {
        Ok(manifest) => {
            assert_eq!(manifest.encode(), bytes, "a manifest has one form only");
            assert!(manifest.is_full || manifest.previous.is_some());
            assert!(manifest.previous.is_none_or(|(before, _)| before < FILE));
            assert!(manifest.entries.is_sorted_by(|a, b| a.number < b.number));
            for entry in &manifest.entries {
                assert!((1..=1 << 31).contains(&entry.number) && entry.last_seq <= format::SEQ_MAX);
                assert!(entry.first_seq.0 <= entry.last_seq.0 + 1);
            }
            assert_eq!(Manifest::decode(bytes, FILE + 1), Err(ManifestFlaw::Damaged));
        }
        Err(ManifestFlaw::Newer(version)) => assert!(version > format::VERSION),
        Err(ManifestFlaw::Damaged) => {}
    }
}

fn record(bytes: &[u8]) {
    let (at, key) = (AT as u64, LOG.header_key());
    match Header::decode(&key, bytes) {
        Ok(proven) => {
            assert!(Header::looks_like_one(bytes));
            let end = proven.header.end(at);
            assert!(end >= at + 64 + u64::from(proven.header.payload_bytes) && end.is_multiple_of(8));
            assert!(end - at < 64 + 33024 + 4096 + (32 << 20), "a bound on what is fetched");
        }
        Err(Flaw::Newer(op)) => assert_eq!(op, bytes[12]),
        Err(flaw) => assert_eq!(flaw, Flaw::Header),
    }
    match record::check(&key, at, bytes) {
        Ok((proven, content)) => {
            let header = proven.header;
            let (from, len) = repair::payload(bytes, AT).unwrap();
            assert_eq!(content, &bytes[from..from + len]);
            assert_eq!((header.payload_at(at), header.payload_bytes as usize), (at + from as u64, len));
            let (mut head, mut crcs) = ([0; 64], Vec::new());
            let hash = header.encode(&key, content, &mut head, &mut crcs);
            // A skippable record with a transform was written by a newer version.
            let (lag, plain) = (get_u32(bytes, 56), bytes[14] == 0);
            if plain && (lag == u32::MAX || u64::from(lag) <= header.seq.0) {
                assert_eq!(head[8..56], bytes[8..56], "a header has one form only");
                assert!(lag == u32::MAX || head[..] == bytes[..64]);
                assert!(lag == u32::MAX || hash == proven.hash);
            }
            let mut again = [&head[..], &crcs].concat();
            again.resize(from, 0);
            again.extend_from_slice(content);
            assert_eq!(record::check(&key, at, &again).unwrap().0.header, header);
            let other = Identity { secret: [8; SECRET_BYTES], ..LOG }.header_key();
            assert_eq!(record::check(&other, at, &again), Err(Flaw::Header), "of another log");
            repair::record(&LOG, AT, &mut again).unwrap();
            assert_eq!(again[..64], head, "the checksums are not those of the format");
            // The rules under "must hold" in the format document.
            let (op, length) = (bytes[12], u128::from(get_u32(bytes, 40)));
            let sectors = u128::from(header.sectors.0);
            assert!((u128::from(header.lba.0) + sectors) * 512 <= u128::from(u64::MAX));
            assert_eq!(header.op.is_block(), [1, 2, 3].contains(&op));
            assert!([1, 2, 3, 16, 32, 33].contains(&op) && plain || op >= 16 && bytes[13] & 0x80 != 0);
            assert!(!header.op.is_block() || (length > 0 && sectors == length));
            assert!(header.op.is_block() || sectors == 0);
            assert_eq!(header.subject.as_volume().is_some(), get_u32(bytes, 44) >> 28 == 1);
            assert!(!header.op.is_block() || header.subject.as_volume().is_some());
            assert!(op != 16 || content.is_empty());
        }
        Err(Flaw::Payload(index)) => assert!(index * 4096 <= bytes.len()),
        Err(Flaw::Header | Flaw::Newer(_)) => {}
    }
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn segment_header(bytes: &mut Vec<u8>, right: bool) {
    if right {
        bytes.resize(4096, 0);
        let _ = repair::frame(bytes);
    }
    match SegmentHeader::decode(bytes) {
        Ok((header, crc)) => {
            assert_eq!(crc, repair::crc32c(&bytes[..4092]));
            assert_eq!(bytes[..12], *b"BYGONEsg\x01\0\0\0");
            assert_eq!(header.log.id, bytes[16..32]);
            let again = header.encode();
            assert_eq!(SegmentHeader::decode(&again).unwrap().0, header);
            let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|byte| *byte == 0);
            if zero(56..64) && zero(128..4092) {
                assert_eq!(again, bytes[..4096]);
            }
        }
        Err(HeaderFlaw::Newer(version)) => assert!(version > 1),
        Err(HeaderFlaw::Damaged) => {}
    }
}

fn segment_index(bytes: &[u8], how: u8) {
    let Some(at) = bytes.len().checked_sub(64) else { return };
    let (index, trailer) = bytes.split_at(at);
    // The trailer itself says where the records end, which is mostly used as it is.
    let records_end = u64::from_le_bytes(trailer[8..16].try_into().unwrap());
    let file_bytes =
        if how & 2 == 0 { records_end.wrapping_add(bytes.len() as u64) } else { bytes.len() as u64 };
    let key = LOG.header_key();
    let Some(trailer) = segment::Trailer::decode(&key, FILE, trailer, file_bytes) else { return };
    assert!(trailer.index_offset().checked_add(trailer.index_bytes() + 64) == Some(file_bytes));
    let Some(decoded) = SegmentIndex::decode(&trailer, FILE, index) else { return };
    let (first, count) = (u128::from(decoded.first_seq.0), decoded.times.len() as u128);
    let inside = |seq: Seq| (first..first + count).contains(&u128::from(seq.0));
    assert!(first + count <= 1 << 64, "seqs do not reach beyond their type");
    assert_eq!(trailer.first_seq(), decoded.first_seq);
    assert_eq!(u128::from(trailer.last_seq().0), (first + count).saturating_sub(1));
    for entry in &decoded.entries {
        assert!(inside(entry.seq) && entry.at.segment == FILE);
        assert!(u64::from(entry.at.offset) < decoded.records_end);
        assert!(entry.end().0 >= entry.lba.0);
    }
    assert!(decoded.marks.iter().all(|mark| inside(mark.seq) && !mark.op.is_block()));
    let again = decoded.encode(&key, FILE);
    let (index, trailer) = again.split_at(again.len() - 64);
    let file_bytes = decoded.records_end + again.len() as u64;
    let trailer = segment::Trailer::decode(&key, FILE, trailer, file_bytes).unwrap();
    assert_eq!(SegmentIndex::decode(&trailer, FILE, index).as_ref(), Some(&decoded));
}

fn page(bytes: &[u8]) {
    let Some(page) = page::decode(bytes, FILE) else { return };
    assert!(page.entries.len() <= page::entries_max(page.level));
    assert_eq!(page.children.len(), if page.level == 0 { 0 } else { page.entries.len() });
    assert!(page.children.iter().all(|child| child.file == FILE && child.offset.is_multiple_of(8)));
    for entry in &page.entries {
        assert!(u64::from(entry.lba) + u64::from(entry.sectors) <= STRIPE_SECTORS);
        assert_eq!(entry.end(), entry.lba + entry.sectors);
    }
    let mut again = Vec::new();
    page::encode(page.level, &page.entries, &page.children, FILE, &mut again);
    if [7, 10, 11].iter().all(|at| bytes[*at] == 0) {
        assert_eq!(again, bytes);
    }
    let decoded = page::decode(&again, FILE).unwrap();
    assert_eq!((decoded.level, &decoded.entries), (page.level, &page.entries));
    assert_eq!(decoded.children, page.children);
    for seq in [0, 1, u64::MAX] {
        for (entry, first, end) in page.newest_first(0, STRIPE_SECTORS as u32, seq) {
            assert!(entry.lba <= first && first < end && end <= entry.end() && entry.seq <= seq);
        }
        page.newest_first(7, 8, seq).for_each(|(_, first, end)| assert_eq!((first, end), (7, 8)));
    }
}

fn table(bytes: &[u8]) {
    let Some(table) = Table::decode(bytes, FILE) else { return };
    assert!(table.rows.len() <= checkpoint::TABLE_STRIPES as usize);
    let trees = |row: &checkpoint::Row| row.deltas.len() + row.before.iter().chain(&row.after).count();
    let sizes: usize = table.rows.iter().map(|row| 8 + trees(row) * 40).sum();
    assert_eq!(16 + sizes, bytes.len());
    for row in &table.rows {
        assert!(row.deltas.is_sorted_by(|newer, older| newer.low >= older.high), "newest first");
        let known =
            |tree: &TreeRef| row.deltas.contains(tree) || [row.before, row.after].contains(&Some(*tree));
        for seq in [Seq(0), Seq(1), Seq::MAX] {
            let _ =
                table.row(row.stripe).map(|row| row.deltas.iter().filter(|tree| tree.low < seq).all(known));
        }
    }
    let again = table.encode(FILE);
    assert_eq!(again.len(), bytes.len());
    assert_eq!(Table::decode(&again, FILE), Some(table));
}

fn checkpoint_frame(bytes: &[u8]) {
    if let Ok(term) = checkpoint::check_header(bytes, FILE, &ID) {
        let again = checkpoint::encode_header(FILE, &ID, term);
        assert_eq!(again[..10], bytes[..10]);
        assert_eq!(checkpoint::check_header(&again, FILE, &ID), Ok(term));
    }
    let Some(raw) = bytes.get(8..20) else { return };
    let (offset, len) = raw.split_at(8);
    let offset = u64::from_le_bytes(offset.try_into().unwrap());
    let len = u32::from_le_bytes(len.try_into().unwrap());
    let file_bytes = offset.wrapping_add(u64::from(len)).wrapping_add(64);
    if let Some(trailer) = checkpoint::Trailer::decode(bytes, file_bytes) {
        assert_eq!((trailer.offset, trailer.len_bytes), (offset, len));
        assert!(offset < file_bytes);
        let again = trailer.encode();
        assert_eq!(checkpoint::Trailer::decode(&again, file_bytes), Some(trailer));
        assert_eq!(again[..24], bytes[..24]);
    }
}

/// A valid name is the only name of its value.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(name) = segment::Name::parse(text) {
        assert_eq!(name.file_name(), format!("log/{text}"));
    }
    if let Some(name) = Name::parse(text) {
        assert_eq!(name.file_name(), format!("index/{text}"));
    }
}
