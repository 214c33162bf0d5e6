use proptest::prelude::*;

use super::{
    Malformed,
    codes::Errno,
    option::{ContextRequest, InfoRequest, OptionHeader, push_reply},
    reply::{Chunk, SimpleReply, offset_data, push_error, push_error_offset},
    request::{Cookie, Request},
};

fn prefixed(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

proptest! {
    #[test]
    fn request_survives_the_wire(flags: u16, kind: u16, cookie: u64, offset: u64, len_bytes: u32) {
        let request = Request { flags, kind, cookie: Cookie(cookie), offset, len_bytes };
        prop_assert_eq!(Request::parse(&request.encode()), Ok(request));
    }

    #[test]
    fn request_with_any_other_magic_is_malformed(bytes: [u8; 28]) {
        prop_assume!(bytes[..4] != [0x25, 0x60, 0x95, 0x13]);
        prop_assert_eq!(Request::parse(&bytes), Err(Malformed::Magic));
    }

    #[test]
    fn option_header_survives_the_wire(kind: u32, len_bytes: u32) {
        let header = OptionHeader { kind, len_bytes };
        prop_assert_eq!(OptionHeader::parse(&header.encode()), Ok(header));
    }

    #[test]
    fn replies_survive_the_wire(error: u32, cookie: u64, done: bool, kind: u16, len_bytes: u32) {
        let simple = SimpleReply { error, cookie: Cookie(cookie) };
        prop_assert_eq!(SimpleReply::parse(&simple.encode()), Ok(simple));
        let chunk = Chunk { done, kind, cookie: Cookie(cookie), len_bytes };
        prop_assert_eq!(Chunk::parse(&chunk.encode()), Ok(chunk));
    }

    #[test]
    fn info_request_survives_the_wire(name in "[^\0]{0,60}", wanted in prop::collection::vec(0_u16..6, 0..20)) {
        let mut data = prefixed(&name);
        data.extend_from_slice(&u16::try_from(wanted.len()).unwrap().to_be_bytes());
        wanted.iter().for_each(|one| data.extend_from_slice(&one.to_be_bytes()));
        let parsed = InfoRequest::parse(&data);
        prop_assert_eq!(parsed, Ok(InfoRequest {
            name: &name,
            wants_name: wanted.contains(&1),
            wants_description: wanted.contains(&2),
            wants_block_size: wanted.contains(&3),
        }));
        data.push(0);
        prop_assert_eq!(InfoRequest::parse(&data), Err(Malformed::Length));
    }

    #[test]
    fn context_request_survives_the_wire(name in "[^\0]{0,60}", queries in prop::collection::vec("[^\0]{0,30}", 0..64)) {
        let mut data = prefixed(&name);
        data.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
        queries.iter().for_each(|query| data.extend_from_slice(&prefixed(query)));
        let parsed = ContextRequest::parse(&data).unwrap();
        prop_assert_eq!(parsed.name, name);
        prop_assert_eq!(parsed.queries, queries);
    }

    #[test]
    fn garbage_never_panics(data in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = InfoRequest::parse(&data);
        let _ = ContextRequest::parse(&data);
    }

    #[test]
    fn error_chunk_says_how_long_it_is(message in ".{0,2000}", cookie: u64, offset: u64) {
        for with_offset in [false, true] {
            let mut out = Vec::new();
            if with_offset {
                push_error_offset(&mut out, Cookie(cookie), Errno::Io, &message, offset);
            } else {
                push_error(&mut out, Cookie(cookie), Errno::Io, &message);
            }
            let header = Chunk::parse(out.first_chunk().unwrap()).unwrap();
            prop_assert_eq!(header.len_bytes as usize, out.len() - Chunk::BYTES);
            let text_bytes = usize::from(u16::from_be_bytes([out[24], out[25]]));
            prop_assert!(message.starts_with(std::str::from_utf8(&out[26..26 + text_bytes]).unwrap()));
        }
    }
}

#[test]
fn absurd_lengths_inside_an_option_are_malformed() {
    let mut data = u32::MAX.to_be_bytes().to_vec();
    assert_eq!(InfoRequest::parse(&data), Err(Malformed::Length));
    assert_eq!(ContextRequest::parse(&data), Err(Malformed::Length));
    data = prefixed("x");
    data.extend_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(ContextRequest::parse(&data), Err(Malformed::Count));
    assert_eq!(InfoRequest::parse(&prefixed(&"x".repeat(4097))), Err(Malformed::Text));
    assert_eq!(InfoRequest::parse(&prefixed("a\0b")), Err(Malformed::Text));
}

#[test]
fn data_header_counts_its_offset() {
    let bytes = offset_data(true, Cookie(7), 4096, 512);
    let header = Chunk::parse(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!((header.len_bytes, header.done, header.kind), (520, true, 1));
    assert_eq!(bytes[20..], 4096_u64.to_be_bytes());
}

#[test]
fn option_reply_counts_its_parts() {
    let mut out = Vec::new();
    push_reply(&mut out, 7, 3, &[b"ab", b"", b"cde"]);
    assert_eq!(out[16..20], 5_u32.to_be_bytes());
    assert_eq!(&out[20..], b"abcde");
}
