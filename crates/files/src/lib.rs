//! What is on a disk: its partitions, the file systems in them, and whether each was left in order.
//!
//! Everything is read through [`Blocks`]; this crate opens no file, starts no process and knows neither clock nor store.
//! What it reads was written by a guest, so nothing of it is believed: each loop, allocation and recursion has a bound of
//! our own, arithmetic on numbers from the disk is checked, and whatever is senseless becomes an error value or a note.
//! A file system that is not understood is named, if it can be, and never guessed at.
#![forbid(unsafe_code)]

mod blocks;
mod btrfs;
mod bytes;
mod crc;
mod ext;
mod fat;
mod lvm;
mod open;
mod packages;
mod partitions;
mod tree;
mod volumes;
mod xfs;

pub use blocks::{Blocks, Cached, Cause, Guarded, ReadError, Window};
pub use btrfs::Btrfs;
pub use ext::{Ext, Replay};
pub use fat::Fat;
pub use open::open;
pub use packages::{
    Action, Change, Database, DatabaseError, Glance, Glanced, Package, PackageManager, PackageState,
    Software, changes, databases, glances, software,
};
pub use partitions::{GptCopy, Note, Partition, Scheme, Table, Type, partitions};
pub use tree::{
    Attribute, Budget, Entry, FileExtent, FileKind, FileTime, Limits, Metadata, Step, Tree, TreeError, walk,
};
pub use volumes::{Kind, State, Survey, Volume, VolumeBlocks, recognise, survey, volumes_with_blocks};
pub use xfs::{LogReplay, Xfs};
