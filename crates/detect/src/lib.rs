//! What happened to a machine, as its disks tell it.
//!
//! A source looks at the present now and then. What it finds to be different happened between two looks, and since every
//! moment is kept, it looks at moments in between until it knows which write was the first. So nothing has to be caught
//! in the act, and looking seldom costs no exactness.
//!
//! Sources know no store and no disk: whoever uses one passes what answers for a moment ([`Past`]).
#![forbid(unsafe_code)]

mod packages;

pub use packages::{Past, Sight, Transaction, VolumePlace, Watcher};
