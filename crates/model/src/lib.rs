//! The vocabulary of Bygone as types: positions, times, events, moments, and the grammar in which people name a moment.
//! Pure: no I/O, no clock, no threads, no unsafe.
#![forbid(unsafe_code)]

mod event;
mod place;
mod units;
pub mod when;

pub use event::{At, Details, Event, Grade, Kind, Moment, Truth};
pub use place::Place;
pub use units::{BranchId, Lba, Micros, SECTOR_BYTES, Sectors, Seq, VolumeId};
