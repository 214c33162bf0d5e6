//! pacman: `/var/lib/pacman/local`, a folder for each package, with a file `desc`.
//!
//! A package is written folder by folder, so one that was cut off is a folder without a readable `desc`.
//! See `libalpm(3)`.

use super::{DatabaseError, PACKAGES_MAX, Package, PackageState, Result, System, content, text};
use crate::tree::{FileKind, Tree, TreeError};

const LOCAL: &str = "var/lib/pacman/local";
/// The folder, and the lock that stands as long as a transaction.
pub(super) const PLACES: &[&str] = &[LOCAL, "var/lib/pacman/db.lck"];

const DESC_BYTES_MAX: u64 = 1 << 20;

/// See [`super::databases`].
pub(super) fn read(system: &System<'_>) -> Result<Option<Vec<Package>>> {
    let tree = system.tree;
    let Some(local) = system.find(LOCAL)? else { return Ok(None) };
    let (mut folders, mut too_many) = (Vec::new(), false);
    let listed = tree.entries(local, &mut |entry| {
        folders.push((entry.name, entry.inode));
        too_many = folders.len() > PACKAGES_MAX;
        !too_many
    });
    match listed {
        Err(TreeError::OtherKind { .. }) => return Ok(None),
        listed => listed?,
    }
    if too_many {
        return Err(DatabaseError::TooLarge("its list of packages"));
    }
    let mut packages = Vec::new();
    for (folder, inode) in folders {
        if tree.metadata(inode)?.kind == FileKind::Directory {
            packages.extend(package(tree, &folder, inode)?);
        }
    }
    Ok(Some(packages))
}

/// The package of a folder, whose name is `NAME-VERSION-RELEASE`.
fn package(tree: &dyn Tree, folder: &[u8], inode: u64) -> Result<Option<Package>> {
    let mut desc = None;
    tree.entries(inode, &mut |entry| {
        desc = (entry.name == b"desc").then_some(entry.inode).or(desc);
        desc.is_none()
    })?;
    let bytes = desc.map(|desc| content(tree, desc, DESC_BYTES_MAX)).transpose()?.unwrap_or_default();
    let field = |field: &[u8]| {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        lines.find(|line| line.trim_ascii() == field)?;
        lines.next().map(<[u8]>::trim_ascii).filter(|value| !value.is_empty())
    };
    let arch = text(field(b"%ARCH%").unwrap_or_default())?;
    if let (Some(name), Some(version)) = (field(b"%NAME%"), field(b"%VERSION%")) {
        let (name, version) = (text(name)?, text(version)?);
        return Ok(Some(Package { name, arch, version, state: PackageState::Installed }));
    }
    // The version has one hyphen in it.
    let mut parts = folder.rsplitn(3, |byte| *byte == b'-');
    let (Some(release), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Ok(None);
    };
    let version = format!("{}-{}", text(version)?, text(release)?);
    Ok(Some(Package { name: text(name)?, arch, version, state: PackageState::Incomplete }))
}
