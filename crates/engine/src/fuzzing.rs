//! The entry point for the fuzz target of file systems.

use crate::fs_state;

/// The file systems on a disk: kind, offset in bytes, and whether each is clean.
pub fn file_systems(
    size_bytes: u64,
    block_bytes: u32,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<(&'static str, u64, bool)> {
    let found = fs_state::find(size_bytes, block_bytes, read);
    found.into_iter().map(|state| (state.kind, state.offset, state.clean)).collect()
}
