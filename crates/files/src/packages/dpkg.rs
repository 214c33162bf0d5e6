//! dpkg: `/var/lib/dpkg/status`, one paragraph a package, with the journal of the transaction that is under way.
//!
//! dpkg writes each change into a file of its own in `updates/` first, and a new `status` from time to time; the files
//! of `updates/` count until then, in the order of their numbers. See `deb-control(5)` and the comment on `updates/` in
//! `dpkg(1)`.

use std::collections::BTreeMap;

use super::{DatabaseError, PACKAGES_MAX, Package, PackageState, Result, System, content, text};
use crate::tree::{FileKind, Tree, TreeError};

const STATUS: &str = "var/lib/dpkg/status";
const UPDATES: &str = "var/lib/dpkg/updates";
/// One file a package instead of one for all, as images without dpkg have it.
const PARTS: &str = "var/lib/dpkg/status.d";

/// What each transaction touches. The first thing is the folder of them all: a package's control files are unpacked there
/// before anything else happens.
pub(super) const PLACES: &[&str] = &["var/lib/dpkg", STATUS, UPDATES, PARTS];

/// A status file of 5,000 packages has 5 MiB.
const STATUS_BYTES_MAX: u64 = 128 << 20;
const UPDATE_BYTES_MAX: u64 = 4 << 20;
/// dpkg itself begins a new status after 250.
const UPDATES_MAX: usize = 10_000;

/// See [`super::databases`].
pub(super) fn read(system: &System<'_>) -> Result<Option<Vec<Package>>> {
    let tree = system.tree;
    let mut packages = BTreeMap::new();
    let mut exists = false;
    if let Some(status) = system.find(STATUS)? {
        exists = true;
        take(&content(tree, status, STATUS_BYTES_MAX)?, &mut packages)?;
    }
    for (folder, is_journal) in [(PARTS, false), (UPDATES, true)] {
        let Some(folder) = system.find(folder)? else { continue };
        for inode in files(tree, folder, is_journal)? {
            exists = true;
            take(&content(tree, inode, UPDATE_BYTES_MAX)?, &mut packages)?;
        }
    }
    Ok(exists.then(|| packages.into_values().flatten().collect()))
}

/// The files of a folder in the order of their names; of the journal those that count.
fn files(tree: &dyn Tree, folder: u64, is_journal: bool) -> Result<Vec<u64>> {
    let (mut files, mut too_many) = (Vec::new(), false);
    let listed = tree.entries(folder, &mut |entry| {
        let counts = if is_journal {
            !entry.name.is_empty() && entry.name.iter().all(u8::is_ascii_digit)
        } else {
            !entry.name.starts_with(b".") && !entry.name.ends_with(b".md5sums")
        };
        if counts {
            files.push((entry.name.len(), entry.name, entry.inode));
        }
        too_many = files.len() > UPDATES_MAX;
        !too_many
    });
    match listed {
        Err(TreeError::OtherKind { .. }) => return Ok(Vec::new()),
        listed => listed?,
    }
    if too_many {
        return Err(DatabaseError::TooLarge("the journal of dpkg"));
    }
    // Numbers of another length would be in another order as texts.
    files.sort_unstable();
    let kinds = files.into_iter().map(|(.., inode)| Ok((inode, tree.metadata(inode)?.kind)));
    let kinds: std::result::Result<Vec<_>, TreeError> = kinds.collect();
    Ok(kinds?.into_iter().filter(|(_, kind)| *kind == FileKind::Regular).map(|(inode, _)| inode).collect())
}

/// Packages by name and architecture; `None` for those that are not there at all.
type Packages = BTreeMap<(String, String), Option<Package>>;

/// Takes over what some paragraphs say; of a package that is there already this is the newer word.
fn take(bytes: &[u8], packages: &mut Packages) -> Result<()> {
    let mut fields = Fields::default();
    // A paragraph ends with an empty line or with the file.
    for line in bytes.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        if line.trim_ascii().is_empty() {
            let said = std::mem::take(&mut fields);
            if let Some(package) = said.package()? {
                if packages.len() >= PACKAGES_MAX {
                    return Err(DatabaseError::TooLarge("its list of packages"));
                }
                // What has no state at all was never installed.
                let known = said.is_known().then(|| package.clone());
                packages.insert((package.name, package.arch), known);
            }
        } else if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            fields.take(line);
        }
    }
    Ok(())
}

/// The fields of a paragraph that matter.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    arch: &'a [u8],
    version: &'a [u8],
    status: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, line: &'a [u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (field, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let place = match field.to_ascii_lowercase().as_slice() {
            b"package" => &mut self.name,
            b"architecture" => &mut self.arch,
            b"version" => &mut self.version,
            b"status" => &mut self.status,
            _ => return,
        };
        *place = value;
    }

    /// The third word: wanted, error flag, state. Without one, as in an image's `status.d`, it is installed.
    fn state(&self) -> &'a [u8] {
        if self.status.is_empty() {
            return b"installed";
        }
        self.status.rsplit(|byte| *byte == b' ').next().unwrap_or_default()
    }

    fn is_known(&self) -> bool {
        self.state() != b"not-installed"
    }

    fn package(&self) -> Result<Option<Package>> {
        if self.name.is_empty() {
            return Ok(None);
        }
        let state = match self.state() {
            b"installed" | b"triggers-pending" | b"triggers-awaited" => PackageState::Installed,
            b"config-files" | b"not-installed" => PackageState::Removed,
            b"half-installed" | b"unpacked" | b"half-configured" => PackageState::Incomplete,
            _ => return Err(DatabaseError::Damaged("a package in a state that there is not")),
        };
        let (name, arch, version) = (text(self.name)?, text(self.arch)?, text(self.version)?);
        Ok(Some(Package { name, arch, version, state }))
    }
}
