//! Positions, counts and times. Each has its own type so that none is mistaken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The unit of every address and length in the store, in bytes: one sector.
pub const SECTOR_BYTES: u64 = 512;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A position in a target's log. The first record has position 1; 0 is the moment before everything. Every prefix
    /// of the log is a legal power-cut image of all disks of the target.
    Seq(u64)
}
number! {
    /// A sector address on one disk (512-byte sectors, whatever the disk's own block size).
    Lba(u64)
}
number! {
    /// A count of 512-byte sectors.
    Sectors(u64)
}
number! {
    /// A point in time: microseconds since 1970-01-01T00:00:00Z.
    Micros(i64)
}
number! {
    /// A line of history of a target. 0 is the first one, `main`.
    BranchId(u32)
}
number! {
    /// One disk on one branch. Numbers are unique per target and never reused.
    VolumeId(u32)
}

impl Seq {
    /// The moment before everything.
    pub const ZERO: Seq = Seq(0);
    /// Later than any moment.
    pub const MAX: Seq = Seq(u64::MAX);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}

impl Lba {
    /// The address of the sector that holds `offset_bytes`.
    #[must_use]
    pub const fn of_bytes(offset_bytes: u64) -> Lba {
        Lba(offset_bytes / SECTOR_BYTES)
    }

    /// The byte offset at which this sector starts.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR_BYTES)
    }
}

impl Sectors {
    /// The number of sectors in `len_bytes`, rounded up.
    #[must_use]
    pub const fn of_bytes(len_bytes: u64) -> Sectors {
        Sectors(len_bytes.div_ceil(SECTOR_BYTES))
    }

    /// The length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR_BYTES)
    }
}

impl Micros {
    /// The largest representable time.
    pub const MAX: Micros = Micros(i64::MAX);
}
