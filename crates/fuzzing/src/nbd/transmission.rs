//! Requests without a socket: whatever bytes a client sends, each request is accepted or refused as the protocol's text
//! says.

use bygone_block::nbd::{command::Terms, fuzzing::transmission};

use super::{
    geometry,
    rules::{Agreement, Asked, PAYLOAD_MAX, WRITE, verdict},
};
use crate::input::Input;

/// See the module's comment. Input: three bytes of a device shape, one of terms, then the stream.
pub fn nbd_transmission(bytes: &[u8]) {
    let mut input = Input(bytes);
    let geometry = geometry(&mut input);
    let terms = input.u8();
    let (structured, status) = (terms & 1 != 0, terms & 3 == 3);
    let aligned = terms & 4 == 0;
    let agreed = Agreement { geometry, structured, status, aligned };
    let mut expected = plain_requests(input.0).into_iter();
    transmission(input.0, &Terms { geometry, structured, status, aligned }, &mut |request, understood| {
        let (asked, raw) = expected.next().unwrap_or_else(|| panic!("{request:?} was never sent"));
        assert_eq!(request.encode()[..], raw);
        assert_eq!(understood.map_err(|refusal| refusal.errno.code()), verdict(&asked, &agreed), "{asked:?}");
        let payload = if asked.kind == WRITE { asked.len } else { 0 };
        assert_eq!(request.payload_bytes(), payload);
    });
    let missed = expected.next();
    assert!(missed.is_none(), "{missed:?} was not seen");
}

/// The requests in a stream, until it becomes invalid or the client disconnects.
fn plain_requests(mut stream: &[u8]) -> Vec<(Asked, Vec<u8>)> {
    let mut out = Vec::new();
    while stream.len() >= 28 {
        let number = |from: usize, to: usize| stream[from..to].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let asked = Asked {
            flags: number(4, 6) as u16,
            kind: number(6, 8) as u16,
            cookie: number(8, 16),
            offset: number(16, 24),
            len: number(24, 28) as u32,
        };
        let payload = if asked.kind == WRITE { asked.len } else { 0 };
        if number(0, 4) != 0x2560_9513 || payload > PAYLOAD_MAX {
            break;
        }
        out.push((asked, stream[..28].to_vec()));
        assert_eq!(asked.encode(), stream[..28]);
        let leaves = asked.kind == super::rules::DISC && asked.flags | 1 == 1;
        match stream.get(28 + payload as usize..) {
            Some(rest) if !leaves => stream = rest,
            _ => break,
        }
    }
    out
}
