//! The one way from a volume to its files.

use crate::{
    blocks::Blocks,
    ext::Ext,
    fat::Fat,
    tree::{Tree, TreeError},
    volumes::{Kind, recognise},
    xfs::Xfs,
};

/// The files of a volume, whatever file system it has. Give it a [`crate::Cached`] volume: readers read small parts.
///
/// # Errors
/// [`TreeError::Unsupported`], with a reason, where there is no reader, or none that could show all that the file system
/// was told: such a volume needs the driver of a system of its own. Other errors if it is damaged or cannot be read.
pub fn open<'a, B: Blocks + 'a>(volume: B) -> Result<Box<dyn Tree + 'a>, TreeError> {
    let (kind, ..) = recognise(&volume)?;
    Ok(match kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => Box::new(Ext::open(volume)?),
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 | Kind::Exfat => Box::new(Fat::open(volume)?),
        Kind::Xfs => Box::new(Xfs::open(volume)?),
        other => return Err(TreeError::Unsupported { what: format!("the volume ({})", other.name()) }),
    })
}
