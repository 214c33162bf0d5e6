//! apk: `/lib/apk/db/installed`, one paragraph a package, each line a letter, a colon and a value.
//!
//! The file is replaced as a whole at the end of a transaction. See `apk-package(5)` and the table of letters in the
//! documentation of the index format.

use super::{DatabaseError, PACKAGES_MAX, Package, PackageState, Result, System, content, text};

/// Of systems whose `/lib` is a link, and of others.
pub(super) const PLACES: &[&str] = &["usr/lib/apk/db/installed", "lib/apk/db/installed"];

const INSTALLED_BYTES_MAX: u64 = 256 << 20;

/// See [`super::databases`].
pub(super) fn read(system: &System<'_>) -> Result<Option<Vec<Package>>> {
    let tree = system.tree;
    for path in PLACES {
        if let Some(inode) = system.find(path)? {
            return packages(&content(tree, inode, INSTALLED_BYTES_MAX)?).map(Some);
        }
    }
    Ok(None)
}

fn packages(bytes: &[u8]) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    let (mut name, mut version, mut arch, mut broken) = (None, None, None, false);
    for line in bytes.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        match line {
            [b'P', b':', value @ ..] => name = Some(value),
            [b'V', b':', value @ ..] => version = Some(value),
            [b'A', b':', value @ ..] => arch = Some(value),
            // Files, scripts or attributes of it could not be written.
            [b'f', b':', value @ ..] => broken = value.iter().any(|flag| b"fsx".contains(flag)),
            [] => {
                let broken = std::mem::take(&mut broken);
                let (name, version, arch) = (name.take(), version.take(), arch.take());
                let Some(name) = name else { continue };
                let version = version.ok_or(DatabaseError::Damaged("a package without a version"))?;
                if packages.len() >= PACKAGES_MAX {
                    return Err(DatabaseError::TooLarge("its list of packages"));
                }
                let state = if broken { PackageState::Incomplete } else { PackageState::Installed };
                let (name, version, arch) = (text(name)?, text(version)?, text(arch.unwrap_or_default())?);
                packages.push(Package { name, arch, version, state });
            }
            _ => {}
        }
    }
    Ok(packages)
}
