//! The one way from a volume to its files.

use crate::{
    blocks::Blocks,
    btrfs::Btrfs,
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
        Kind::Btrfs => Box::new(Btrfs::open(volume)?),
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => Box::new(Ext::open(volume)?),
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 | Kind::Exfat => Box::new(Fat::open(volume)?),
        Kind::Xfs => Box::new(Xfs::open(volume)?),
        other => return Err(TreeError::Unsupported { what: format!("the volume ({})", other.name()) }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_reader_is_refused_by_its_name() {
        let mut both = vec![0; 8192];
        both[..6].copy_from_slice(b"LUKS\xba\xbe");
        both[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
        for (volume, name) in [
            (b"LUKS\xba\xbe\0\x02".to_vec(), "LUKS"),
            (both, "ambiguous"),
            (vec![0; 8192], "empty"),
            (vec![7; 8192], "unknown"),
        ] {
            match open(volume).map(|tree| tree.root()) {
                Err(TreeError::Unsupported { what }) => assert!(what.contains(name), "{what}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
