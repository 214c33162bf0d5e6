//! An entry point for a fuzz target: what is on a disk, without one.

use crate::fs_state;

/// The file systems that are found on a disk: kind, place, and whether each is clean.
pub fn file_systems(
    size_bytes: u64,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<(&'static str, u64, bool)> {
    let found = fs_state::find(size_bytes, read);
    found.into_iter().map(|state| (state.kind, state.offset, state.clean)).collect()
}
