//! The NBD server, against the protocol's text (`doc/proto.md` of the NetworkBlockDevice project).

pub(crate) mod handshake;
mod rules;
pub(crate) mod session;
mod shop;
pub(crate) mod transmission;

use crate::input::Input;
use bygone_block::Geometry;

/// The shape of a device, from three bytes; at most about 4 GiB.
fn geometry(input: &mut Input<'_>) -> Geometry {
    let flags = input.u8();
    let block_bytes = if flags & 1 == 0 { 512 } else { 4096 };
    let blocks = u64::from(input.u16()) << (flags >> 4);
    Geometry {
        size_bytes: blocks * u64::from(block_bytes),
        block_bytes,
        read_only: flags & 2 != 0,
        can_trim: flags & 4 != 0,
    }
}
