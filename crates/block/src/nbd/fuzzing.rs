//! Entry points for fuzz targets: everything a client's bytes reach, without sockets.

use super::{
    command::{Terms, understand},
    exports::Exports,
    negotiation::{Negotiation, Next, OPTION_BYTES_MAX},
    wire::{option::OptionHeader, request::Request},
};
use crate::device::Geometry;

/// Plays a client's side of a handshake, flags first, and gives back all that the server would send. True: it ended in
/// transmission.
pub fn handshake(bytes: &[u8], exports: &dyn Exports) -> (Vec<u8>, bool) {
    let mut sent = Vec::new();
    let Some((flags, mut rest)) = bytes.split_first_chunk() else { return (sent, false) };
    let Ok(mut negotiation) = Negotiation::begin(exports, u32::from_be_bytes(*flags)) else {
        return (sent, false);
    };
    while let Some((header, after)) = rest.split_first_chunk() {
        let Ok(OptionHeader { kind, len_bytes }) = OptionHeader::parse(header) else { break };
        let Some((data, after)) = after.split_at_checked(len_bytes as usize) else { break };
        rest = after;
        let next = if len_bytes > OPTION_BYTES_MAX {
            negotiation.too_big(kind, &mut sent)
        } else {
            negotiation.option(kind, data, &mut sent)
        };
        match next {
            Next::Option => {}
            Next::Close => break,
            Next::Transmit(_) => return (sent, true),
        }
    }
    (sent, false)
}

/// Reads a client's side of transmission as far as it makes sense; says how many requests would be done and how many
/// refused.
pub fn transmission(bytes: &[u8], geometry: Geometry, structured: bool) -> (usize, usize) {
    let terms = Terms { geometry, structured, status: structured };
    let (mut done, mut refused) = (0, 0);
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk() {
        let Ok(request) = Request::parse(header) else { break };
        match understand(&request, &terms) {
            Ok(_) => done += 1,
            Err(_) => refused += 1,
        }
        let Some(after) = after.get(request.payload_bytes() as usize..) else { break };
        rest = after;
    }
    (done, refused)
}
