use std::cmp::Ordering::{Equal, Greater, Less};

use super::{PackageManager::*, *};
use crate::tree::{Attribute, Budget, Entry, FileExtent};

/// Files in memory, by path, and the folders that lead to them.
#[derive(Default)]
struct Files {
    budget: Budget,
    nodes: Vec<(String, Option<Vec<u8>>)>,
}

impl Files {
    fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> Files {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for folder in std::iter::once(0).chain(ends).map(|end| path[..end].to_owned()) {
            if !self.nodes.iter().any(|(known, _)| *known == folder) {
                self.nodes.push((folder, None));
            }
        }
        self.nodes.push((path.to_owned(), Some(content.into())));
        self
    }

    fn only(self) -> Result<Database> {
        let mut databases = databases(&self);
        assert_eq!(databases.len(), 1);
        databases.remove(0).1
    }
}

impl Tree for Files {
    fn root(&self) -> u64 {
        0
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn entries(
        &self,
        directory: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> std::result::Result<(), TreeError> {
        let (above, None) = &self.nodes[directory as usize] else {
            return Err(TreeError::OtherKind { inode: directory, wanted: "directory" });
        };
        for (inode, (path, _)) in self.nodes.iter().enumerate() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if folder == above && !path.is_empty() {
                let (name, inode) = (name.as_bytes().to_vec(), inode as u64);
                if !each(Entry { name, inode, kind: self.metadata(inode)?.kind }) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn metadata(&self, inode: u64) -> std::result::Result<Metadata, TreeError> {
        let content = &self.nodes[inode as usize].1;
        let time = FileTime::default();
        Ok(Metadata {
            inode,
            kind: if content.is_some() { FileKind::Regular } else { FileKind::Directory },
            mode: 0,
            uid: 0,
            gid: 0,
            links: 1,
            size_bytes: content.as_ref().map_or(0, |content| content.len() as u64),
            accessed: time,
            modified: time,
            changed: time,
            created: None,
            device: None,
        })
    }

    fn attributes(&self, _: u64) -> std::result::Result<Vec<Attribute>, TreeError> {
        Ok(Vec::new())
    }

    fn link_target(&self, _: u64) -> std::result::Result<Vec<u8>, TreeError> {
        Ok(Vec::new())
    }

    fn extents(&self, _: u64, _: &mut dyn FnMut(FileExtent) -> bool) -> std::result::Result<(), TreeError> {
        Ok(())
    }

    fn read(&self, inode: u64, offset: u64, buf: &mut [u8]) -> std::result::Result<usize, TreeError> {
        let content = self.nodes[inode as usize].1.as_deref().unwrap_or_default();
        let rest = content.get(offset as usize..).unwrap_or_default();
        let bytes = rest.len().min(buf.len());
        buf[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }
}

fn package(name: &str, version: &str, state: PackageState) -> Package {
    Package { name: name.to_owned(), arch: "all".to_owned(), version: version.to_owned(), state }
}

fn words(manager: PackageManager, before: &[Package], after: &[Package]) -> Vec<String> {
    let database = |packages: &[Package]| Database { manager, packages: packages.to_vec() };
    let changes = changes(&database(before), &database(after));
    let version = |version: Option<String>| version.unwrap_or_else(|| "-".to_owned());
    changes
        .into_iter()
        .map(|c| format!("{} {} {} {}", c.action, c.name, version(c.before), version(c.after)))
        .collect()
}

#[test]
fn versions_are_ordered_as_their_package_managers_order_them() {
    for (manager, a, b, expected) in [
        (Dpkg, "1.0", "1.0", Equal),
        (Dpkg, "1.0-1", "1.0-2", Less),
        (Dpkg, "1.0~rc1-1", "1.0-1", Less),
        (Dpkg, "1:0.1", "2.0", Greater),
        (Dpkg, "1.10", "1.9", Greater),
        (Dpkg, "1.0", "1.0-0", Equal),
        (Dpkg, "1.0+b1", "1.0", Greater),
        (Dpkg, "1.0a", "1.0+", Less),
        (Dpkg, "2.36-9+deb12u10", "2.36-9+deb12u9", Greater),
        (Dpkg, "1.0~~", "1.0~", Less),
        (Dpkg, "00001", "1", Equal),
        (Rpm, "1.0-1.fc40", "1.0-2.fc40", Less),
        (Rpm, "1.0~rc1-1", "1.0-1", Less),
        (Rpm, "1.0^git1-1", "1.0-1", Greater),
        (Rpm, "1.0^git1-1", "1.0.1-1", Less),
        (Rpm, "2:1.0-1", "1:9.0-1", Greater),
        (Rpm, "1.a-1", "1.1-1", Less),
        (Rpm, "1.0_1-1", "1.0.1-1", Equal),
        (Pacman, "1:1.0-1", "2.0-1", Greater),
        (Pacman, "1.10-1", "1.9-3", Greater),
        (Apk, "1.2.3-r0", "1.2.3-r1", Less),
        (Apk, "1.2.3_rc1-r0", "1.2.3-r0", Less),
        (Apk, "1.2.3_p1-r0", "1.2.3-r0", Greater),
        (Apk, "1.2_alpha", "1.2_beta", Less),
        (Apk, "1.2.10", "1.2.9", Greater),
        (Apk, "1.2a", "1.2", Greater),
        (Apk, "1.2a", "1.2b", Less),
        (Apk, "1.2.1", "1.2", Greater),
        (Apk, "1.2", "1.2", Equal),
    ] {
        assert_eq!(versions::compare(manager, a, b), expected, "{manager} {a} {b}");
        assert_eq!(versions::compare(manager, b, a), expected.reverse(), "{manager} {b} {a}");
    }
}

#[test]
fn what_changed_between_two_states_is_said_for_each_package() {
    use PackageState::{Incomplete, Installed, Removed};
    let before = [
        package("gone", "1", Installed),
        package("kept", "1", Removed),
        package("new", "1.9", Installed),
        package("old", "2", Installed),
        package("purged", "1", Removed),
        package("removed", "1", Installed),
        package("same", "1", Installed),
        package("torn", "1", Installed),
    ];
    let after = [
        package("added", "1", Installed),
        package("kept", "1", Removed),
        package("new", "1.10", Installed),
        package("old", "1", Installed),
        package("removed", "1", Removed),
        package("same", "1", Installed),
        package("torn", "1", Incomplete),
    ];
    let expected = [
        "install added - 1",
        "remove gone 1 -",
        "upgrade new 1.9 1.10",
        "downgrade old 2 1",
        "purge purged 1 -",
        "remove removed 1 1",
        "change torn 1 1",
    ];
    assert_eq!(words(Dpkg, &before, &after), expected);
    assert!(words(Dpkg, &after, &after).is_empty());
    // Several versions side by side.
    let kernels = [package("kernel", "5", Installed), package("kernel", "6", Installed)];
    let newer = [package("kernel", "6", Installed), package("kernel", "7", Installed)];
    assert_eq!(words(Rpm, &kernels, &newer), ["remove kernel 5 -", "install kernel - 7"]);
}

#[test]
fn a_status_of_dpkg_counts_with_its_journal() {
    let status = "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\
        Description: x\n Version: 7\n\n\
        Package: b\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
        Package: c\nStatus: unknown ok not-installed\nArchitecture: all\n";
    let files = Files::default()
        .with("var/lib/dpkg/status", status)
        .with("var/lib/dpkg/updates/0010", "Package: a\nStatus: purge ok not-installed\nArchitecture: all\n")
        .with(
            "var/lib/dpkg/updates/0009",
            "Package: a\nStatus: install ok unpacked\nArchitecture: all\nVersion: 2\n",
        )
        .with(
            "var/lib/dpkg/updates/0011",
            "Package: d\nStatus: install reinstreq half-installed\nArchitecture: all\nVersion: 3\n",
        )
        .with("var/lib/dpkg/updates/tmp.i", "torn");
    assert!(!Glance::of(&files).unwrap().is_empty());
    let database = files.only().unwrap();
    let expected = [package("b", "1", PackageState::Removed), package("d", "3", PackageState::Incomplete)];
    assert_eq!(database.packages, expected);

    let strange = Files::default().with("var/lib/dpkg/status", "Package: a\nStatus: install ok strange\n");
    assert!(matches!(strange.only(), Err(DatabaseError::Damaged(_))));
    assert!(databases(&Files::default().with("etc/passwd", "")).is_empty());
}

#[test]
fn a_system_in_a_subvolume_is_found() {
    let status = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n";
    for root in ["", "@/", "root/"] {
        let files = Files::default()
            .with("@home/ann/var/lib/dpkg/status", "Package: no\n")
            .with(&format!("{root}etc/passwd"), "")
            .with(&format!("{root}usr/bin/true"), "")
            .with(&format!("{root}var/lib/dpkg/status"), status);
        assert!(!Glance::of(&files).unwrap().is_empty(), "{root}");
        assert_eq!(files.only().unwrap().packages, [package("a", "1", PackageState::Installed)], "{root}");
    }
}

#[test]
fn apk_names_its_packages_in_one_file() {
    let installed = "C:Q1x=\nP:musl\nV:1.2.5-r1\nA:x86_64\nF:lib\nR:ld-musl.so\nZ:Q1y=\n\n\
        C:Q1x=\nP:broken\nV:1-r0\nA:x86_64\nf:fs\n\n";
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        let packages = Files::default().with(path, installed).only().unwrap().packages;
        let said: Vec<_> = packages.iter().map(|p| (&*p.name, &*p.version, &*p.arch, p.state)).collect();
        let expected = [
            ("broken", "1-r0", "x86_64", PackageState::Incomplete),
            ("musl", "1.2.5-r1", "x86_64", PackageState::Installed),
        ];
        assert_eq!(said, expected);
    }
    let torn = Files::default().with("lib/apk/db/installed", "P:musl\n\n");
    assert!(matches!(torn.only(), Err(DatabaseError::Damaged(_))));
}

#[test]
fn a_folder_of_pacman_without_its_description_is_half_installed() {
    let desc = "%NAME%\nbeta\n\n%VERSION%\n2:1.0-1\n\n%ARCH%\nall\n\n";
    let files = Files::default()
        .with("var/lib/pacman/local/ALPM_DB_VERSION", "9\n")
        .with("var/lib/pacman/local/beta-2:1.0-1/desc", desc)
        .with("var/lib/pacman/local/a-b-1.0-3/files", "");
    let packages = files.only().unwrap().packages;
    assert_eq!(packages[0].name, "a-b");
    assert_eq!((&*packages[0].version, packages[0].state), ("1.0-3", PackageState::Incomplete));
    assert_eq!(packages[1], package("beta", "2:1.0-1", PackageState::Installed));
}

/// A header of rpm with a name, a version and a release.
fn rpm_header(name: &str, version: &str) -> Vec<u8> {
    let mut data = Vec::new();
    let mut index = Vec::new();
    for (tag, value) in [(1000_u32, name), (1001, version), (1002, "1"), (1022, "all")] {
        for field in [tag, 6, data.len() as u32, 1] {
            index.extend(field.to_be_bytes());
        }
        data.extend(value.as_bytes());
        data.push(0);
    }
    let count = (index.len() / 16) as u32;
    [&count.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat()
}

/// A database as rpm's backend `ndb` writes it, which Debian's rpm does not have.
fn ndb(headers: &[Vec<u8>]) -> Vec<u8> {
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut slots = [le(&[u32::from_le_bytes(*b"RpmP"), 0, 1, 1, 9]), vec![0; 12]].concat();
    let mut blobs = Vec::new();
    for (at, header) in headers.iter().enumerate() {
        let blocks = (header.len() + 28).div_ceil(16);
        let place = 256 + blobs.len() / 16;
        slots.extend(le(&[u32::from_le_bytes(*b"Slot"), at as u32 + 1, place as u32, blocks as u32]));
        let head = le(&[u32::from_le_bytes(*b"BlbS"), at as u32 + 1, 1, header.len() as u32]);
        let mut blob = [head, header.clone()].concat();
        blob.resize(blocks * 16 - 12, 0);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &blob {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        blob.extend(le(&[b << 16 | a, header.len() as u32, u32::from_le_bytes(*b"BlbE")]));
        blobs.extend(blob);
    }
    while slots.len() < 4096 {
        slots.extend(le(&[u32::from_le_bytes(*b"Slot"), 0, 0, 0]));
    }
    [slots, blobs].concat()
}

#[test]
fn rpms_own_database_is_read_and_each_damaged_byte_of_a_header_is_noticed() {
    let path = "usr/lib/sysimage/rpm/Packages.db";
    let whole = ndb(&[rpm_header("alpha", "1.0"), rpm_header("beta", "2")]);
    let packages = Files::default().with(path, &*whole).only().unwrap().packages;
    let installed = PackageState::Installed;
    assert_eq!(packages, [package("alpha", "1.0-1", installed), package("beta", "2-1", installed)]);
    for at in (32..64).chain(4096..whole.len()) {
        // The number of the transaction in a slot's place is anybody's.
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        let found = Files::default().with(path, damaged).only();
        assert!(found.is_err(), "byte {at}: {found:?}");
    }
    for len in (0..whole.len()).step_by(7) {
        assert!(Files::default().with(path, &whole[..len]).only().is_err());
    }
}

#[test]
fn headers_that_make_no_sense_are_errors() {
    let path = "var/lib/rpm/Packages.db";
    let mut huge = rpm_header("a", "1");
    huge[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut outside = rpm_header("a", "1");
    outside[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    for header in [Vec::new(), vec![0; 8], huge, outside] {
        let found = Files::default().with(path, ndb(&[header])).only();
        assert!(matches!(found, Err(DatabaseError::Damaged(_))), "{found:?}");
    }
    let mut berkeley = vec![0; 512];
    berkeley[12..16].copy_from_slice(&0x0006_1561_u32.to_le_bytes());
    let found = Files::default().with("var/lib/rpm/Packages", berkeley).only();
    assert!(matches!(found, Err(DatabaseError::Unsupported(_))), "{found:?}");
}
