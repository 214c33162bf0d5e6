//! Entry points for fuzz targets: everything a client's bytes reach, without sockets.

use super::{
    command::{Command, Refusal, Terms, understand},
    exports::Exports,
    limits::PAYLOAD_BYTES_MAX,
    negotiation::{Negotiation, Next, OPTION_BYTES_MAX},
    wire::{option::OptionHeader, request::Request},
};

/// Plays the client's side of a handshake, client flags first. Returns everything the server would send, and the agreed
/// terms if the handshake ended in transmission.
pub fn handshake(bytes: &[u8], exports: &dyn Exports) -> (Vec<u8>, Option<Terms>) {
    let mut sent = Vec::new();
    let Some((flags, mut rest)) = bytes.split_first_chunk() else { return (sent, None) };
    let Ok(mut negotiation) = Negotiation::begin(exports, &|_| true, u32::from_be_bytes(*flags)) else {
        return (sent, None);
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
            Next::Transmit(agreed) => return (sent, Some(agreed.terms)),
        }
    }
    (sent, None)
}

/// Parses the client's side of transmission until it becomes invalid, and reports the outcome of each request.
pub fn transmission(bytes: &[u8], terms: &Terms, each: &mut dyn FnMut(&Request, Result<Command, Refusal>)) {
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk() {
        let Ok(request) = Request::parse(header) else { break };
        if request.payload_bytes() > PAYLOAD_BYTES_MAX {
            break;
        }
        let understood = understand(&request, terms);
        each(&request, understood);
        let Some(after) = after.get(request.payload_bytes() as usize..) else { break };
        if understood == Ok(Command::Disconnect) {
            break;
        }
        rest = after;
    }
}
