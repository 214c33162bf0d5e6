//! The software on all volumes of a disk.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::{Database, DatabaseError, Glance, databases};
use crate::{
    blocks::{Blocks, Cached, ReadError},
    open::open,
    tree::{Tree, TreeError},
    volumes::volumes_with_blocks,
};

/// What a volume says at a glance of the software on it: see [`Glance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Glanced {
    /// The volume's first byte on the disk.
    pub start: u64,
    /// Equal glances of one run of this program have equal numbers; `None` if it cannot be read.
    pub glance: Option<u64>,
}

/// The databases of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// The volume's first byte on the disk.
    pub start: u64,
    /// The databases, sorted by manager; `None` if the volume cannot be read, or one of them.
    pub databases: Option<Vec<Database>>,
}

/// Glances at all volumes of a disk that have a reader. One whose log cannot be replayed exactly at this moment is left
/// out.
///
/// # Errors
/// When the disk cannot be read.
pub fn glances(disk: &dyn Blocks) -> Result<Vec<Glanced>, ReadError> {
    each_tree(
        disk,
        |start, tree| {
            let glance = Glance::of(tree?)?;
            let mut hasher = DefaultHasher::new();
            glance.hash(&mut hasher);
            Ok(Glanced { start, glance: Some(hasher.finish()) })
        },
        |start| Glanced { start, glance: None },
    )
}

/// Reads the databases of all volumes of a disk that have a reader, as [`glances`] does.
///
/// # Errors
/// When the disk cannot be read.
pub fn software(disk: &dyn Blocks) -> Result<Vec<Software>, ReadError> {
    each_tree(
        disk,
        |start, tree| {
            // What is never read counts as if it were not there.
            let found = databases(tree?).into_iter().map(|(_, database)| database);
            let found = found.filter(|database| !matches!(database, Err(DatabaseError::Unsupported(_))));
            let databases = found.collect::<Result<Vec<_>, DatabaseError>>()?;
            Ok(Software { start, databases: Some(databases) })
        },
        |start| Software { start, databases: None },
    )
}

fn each_tree<T>(
    disk: &dyn Blocks,
    mut look: impl FnMut(u64, Result<&dyn Tree, TreeError>) -> Result<T, DatabaseError>,
    unreadable: impl Fn(u64) -> T,
) -> Result<Vec<T>, ReadError> {
    const CACHE_BYTES: usize = 8 << 20;
    let mut found = Vec::new();
    for (volume, blocks) in volumes_with_blocks(disk)? {
        let Some(blocks) = blocks.filter(|_| volume.kind.can_be_dirty()) else { continue };
        let tree = open(Cached::new(blocks, CACHE_BYTES));
        if matches!(tree, Err(TreeError::Unsupported { .. })) {
            continue;
        }
        let looked = look(volume.start, tree.as_ref().map(|tree| &**tree).map_err(Clone::clone));
        match looked {
            Err(DatabaseError::Tree(TreeError::Read(error))) if error.is_final() => return Err(error),
            looked => found.push(looked.unwrap_or_else(|_| unreadable(volume.start))),
        }
    }
    Ok(found)
}
