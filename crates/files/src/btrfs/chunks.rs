//! Where on the devices the addresses of the file system lie. Its address space is divided into chunks, each of which is
//! spread over stripes on devices in one of several ways.

use super::{damaged, unsupported};
use crate::{
    bytes::{id, le16, le64},
    tree::TreeError,
};

const STRIPE_BYTES: u64 = 64 << 10;
const HEADER_BYTES: usize = 48;
const PLACE_BYTES: usize = 32;
/// As many as a file system of a petabyte has.
const CHUNKS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// Each stripe has all bytes.
    Mirrored,
    /// Stripes take turns; so many neighbours have the same bytes.
    Striped { copies: usize },
    /// Stripes take turns, except so many in each row, which move on from row to row.
    Parity { parity: usize },
}

#[derive(Clone, Debug)]
struct Stripe {
    device: u64,
    device_id: [u8; 16],
    place: u64,
}

#[derive(Clone, Debug)]
struct Chunk {
    start: u64,
    len_bytes: u64,
    profile: Profile,
    stripes: Vec<Stripe>,
}

/// A copy of some bytes that lie side by side.
pub(super) struct Copy {
    /// Which of the devices, as they were given.
    pub device: usize,
    pub place: u64,
    pub len_bytes: u64,
}

impl Chunk {
    /// Which stripe has the bytes from `offset` on, where in it, and how many of them side by side.
    fn stripe(&self, offset: u64, copy: usize) -> Option<(&Stripe, u64, u64)> {
        let count = self.stripes.len();
        let (number, within) = (offset / STRIPE_BYTES, offset % STRIPE_BYTES);
        let (index, row) = match self.profile {
            Profile::Mirrored => {
                return self.stripes.get(copy).map(|stripe| (stripe, offset, self.len_bytes - offset));
            }
            Profile::Striped { copies } if copy < copies => {
                let groups = (count / copies) as u64;
                ((number % groups) as usize * copies + copy, number / groups)
            }
            Profile::Parity { parity } if copy == 0 => {
                let data = (count - parity) as u64;
                let row = number / data;
                (((row + number % data) % count as u64) as usize, row)
            }
            _ => return None,
        };
        Some((self.stripes.get(index)?, row * STRIPE_BYTES + within, STRIPE_BYTES - within))
    }

    fn copies(&self) -> usize {
        match self.profile {
            Profile::Mirrored => self.stripes.len(),
            Profile::Striped { copies } => copies,
            Profile::Parity { .. } => 1,
        }
    }

    /// Whether each byte has a copy on a device of which this is true.
    fn is_complete(&self, is_here: &dyn Fn(&Stripe) -> bool) -> bool {
        match self.profile {
            Profile::Mirrored => self.stripes.iter().any(is_here),
            Profile::Striped { copies } => self.stripes.chunks(copies).all(|group| group.iter().any(is_here)),
            Profile::Parity { .. } => self.stripes.iter().all(is_here),
        }
    }
}

/// All chunks that are known, in the order of their addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    all: Vec<Chunk>,
    /// Number and identifier of the devices that are here.
    devices: Vec<(u64, [u8; 16])>,
}

impl Chunks {
    pub(super) fn new(devices: Vec<(u64, [u8; 16])>) -> Chunks {
        Chunks { all: Vec::new(), devices }
    }

    /// Adds the chunk that begins at `start`, and returns how many bytes describe it. One that is known already is replaced.
    pub(super) fn add(&mut self, start: u64, bytes: &[u8], sector_bytes: u64) -> Result<usize, TreeError> {
        let wrong = damaged(0, "a chunk makes no sense");
        let (len_bytes, kind) = (le64(bytes, 0), le64(bytes, 24));
        let (count, sub) = (usize::from(le16(bytes, 44)), usize::from(le16(bytes, 46)));
        let used = HEADER_BYTES + count * PLACE_BYTES;
        let end = start.checked_add(len_bytes);
        if bytes.len() < used
            || count == 0
            || len_bytes == 0
            || le64(bytes, 16) != STRIPE_BYTES
            || end.is_none()
        {
            return Err(wrong);
        }
        if !start.is_multiple_of(sector_bytes) || !len_bytes.is_multiple_of(sector_bytes) {
            return Err(wrong);
        }
        let profile = match kind >> 3 {
            0 | 0b10 | 0b100 | 0b100_0000 | 0b1000_0000 => Profile::Mirrored,
            0b1 => Profile::Striped { copies: 1 },
            0b1000 if sub > 0 && count % sub == 0 => Profile::Striped { copies: sub },
            0b1_0000 if count > 1 => Profile::Parity { parity: 1 },
            0b10_0000 if count > 2 => Profile::Parity { parity: 2 },
            0b1000 | 0b1_0000 | 0b10_0000 => return Err(wrong),
            _ => return Err(unsupported(format!("a btrfs with a chunk of the kind {kind:#x}"))),
        };
        let stripes: Vec<Stripe> = bytes[HEADER_BYTES..used]
            .chunks_exact(PLACE_BYTES)
            .map(|stripe| Stripe {
                device: le64(stripe, 0),
                place: le64(stripe, 8),
                device_id: id(stripe, 16),
            })
            .collect();
        if stripes.iter().any(|stripe| stripe.place.checked_add(len_bytes).is_none()) {
            return Err(wrong);
        }
        let chunk = Chunk { start, len_bytes, profile, stripes };
        let at = self.all.partition_point(|known| known.start < start);
        let next = self.all.get(at);
        if next.is_some_and(|next| next.start == start) {
            self.all[at] = chunk;
            return Ok(used);
        }
        let follows = at.checked_sub(1).is_none_or(|i| self.all[i].start + self.all[i].len_bytes <= start);
        let precedes = next.is_none_or(|next| end.is_some_and(|end| end <= next.start));
        if !follows || !precedes || self.all.len() >= CHUNKS_MAX {
            return Err(damaged(0, "its chunks overlap, or are too many"));
        }
        self.all.insert(at, chunk);
        Ok(used)
    }

    fn is_here(&self, stripe: &Stripe) -> Option<usize> {
        self.devices.iter().position(|device| *device == (stripe.device, stripe.device_id))
    }

    /// Whether all chunks can be read from the devices that are here.
    pub(super) fn are_complete(&self) -> bool {
        self.all.iter().all(|chunk| chunk.is_complete(&|stripe| self.is_here(stripe).is_some()))
    }

    fn chunk(&self, address: u64) -> Option<&Chunk> {
        let at = self.all.partition_point(|chunk| chunk.start <= address).checked_sub(1)?;
        self.all.get(at).filter(|chunk| address - chunk.start < chunk.len_bytes)
    }

    /// How many copies there are of what lies at an address; some of them may not be here.
    pub(super) fn copies(&self, address: u64) -> usize {
        self.chunk(address).map_or(0, Chunk::copies)
    }

    /// One of the copies of the bytes at an address, if it is here.
    pub(super) fn copy(&self, address: u64, copy: usize) -> Option<Copy> {
        let chunk = self.chunk(address)?;
        let offset = address - chunk.start;
        let (stripe, within, run) = chunk.stripe(offset, copy)?;
        let len_bytes = run.min(chunk.len_bytes - offset);
        let device = self.is_here(stripe)?;
        Some(Copy { device, place: stripe.place.checked_add(within)?, len_bytes })
    }
}
