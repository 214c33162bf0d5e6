//! rpm: one header for each package, in an SQLite database, in rpm's own `ndb`, or, before 4.16, in a Berkeley DB, which
//! is not read.
//!
//! A header is a list of tags, each with the place of its value; see rpm's `docs/manual/format_header.md`.

use super::{DatabaseError, PACKAGES_MAX, Package, PackageState, Result, System, ndb, sqlite, text};
use crate::bytes::be32;

/// What each transaction touches.
pub(super) const PLACES: &[&str] = &[
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "usr/lib/sysimage/rpm/rpmdb.sqlite-wal",
    "usr/lib/sysimage/rpm/Packages.db",
    "usr/lib/sysimage/rpm/Packages",
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/rpmdb.sqlite-wal",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/Packages",
    "usr/share/rpm/rpmdb.sqlite",
    "usr/share/rpm/rpmdb.sqlite-wal",
];

/// The folders of which one has the database; the others are links to it, or remains of an earlier one.
const FOLDERS: [&str; 3] = ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"];

/// See [`super::databases`].
pub(super) fn read(system: &System<'_>) -> Result<Option<Vec<Package>>> {
    let tree = system.tree;
    let mut packages = Vec::new();
    let mut each = |header: &[u8]| {
        if packages.len() >= PACKAGES_MAX {
            return Err(DatabaseError::TooLarge("its list of packages"));
        }
        packages.extend(package(header)?);
        Ok(())
    };
    for folder in FOLDERS {
        if sqlite::blobs(system, &format!("{folder}/rpmdb.sqlite"), "Packages", &mut each)? {
            return Ok(Some(packages));
        }
        if let Some(inode) = system.find(&format!("{folder}/Packages.db"))? {
            ndb::headers(tree, inode, &mut each)?;
            return Ok(Some(packages));
        }
        if let Some(inode) = system.find(&format!("{folder}/Packages"))? {
            let mut start = [0; 16];
            tree.read(inode, 0, &mut start)?;
            // Its mark, in either order of bytes.
            return Err(if matches!(start[12..], [0x61, 0x15, 6, 0] | [0, 6, 0x15, 0x61]) {
                DatabaseError::Unsupported("a Berkeley DB, as rpm wrote it before 4.16,")
            } else {
                DatabaseError::Damaged("a database of no known kind")
            });
        }
    }
    Ok(None)
}

const STRING: u32 = 6;
const I18N_STRING: u32 = 9;
const INT32: u32 = 4;

/// The package of a header.
fn package(header: &[u8]) -> Result<Option<Package>> {
    let damaged = DatabaseError::Damaged("a header of rpm that makes no sense");
    let (tags, data_bytes) = (be32(header, 0) as usize, be32(header, 4) as usize);
    let index_end = tags.checked_mul(16).and_then(|bytes| bytes.checked_add(8));
    let data = index_end.and_then(|start| header.get(start..start.checked_add(data_bytes)?));
    let Some(data) = data else { return Err(damaged) };
    let (mut name, mut version, mut release, mut epoch, mut arch) = (None, None, None, None, None);
    for tag in header[8..].chunks_exact(16).take(tags) {
        let (number, kind, offset) = (be32(tag, 0), be32(tag, 4), be32(tag, 8) as usize);
        let place = match (number, kind) {
            (1000, STRING | I18N_STRING) => &mut name,
            (1001, STRING | I18N_STRING) => &mut version,
            (1002, STRING | I18N_STRING) => &mut release,
            (1022, STRING | I18N_STRING) => &mut arch,
            (1003, INT32) => {
                epoch = Some(be32(data, offset));
                continue;
            }
            _ => continue,
        };
        let value = data.get(offset..).and_then(|rest| rest.split(|byte| *byte == 0).next());
        *place = Some(value.ok_or_else(|| damaged.clone())?);
    }
    let (Some(name), Some(version)) = (name, version) else { return Err(damaged) };
    let mut full = epoch.map_or_else(String::new, |epoch| format!("{epoch}:"));
    full.push_str(&text(version)?);
    if let Some(release) = release {
        full = format!("{full}-{}", text(release)?);
    }
    let (name, arch) = (text(name)?, text(arch.unwrap_or_default())?);
    Ok(Some(Package { name, arch, version: full, state: PackageState::Installed }))
}
