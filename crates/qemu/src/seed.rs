//! The volume from which cloud-init configures a machine (its NoCloud data source): an ISO 9660 image with the label
//! `cidata` and two files in its root, `user-data` and `meta-data`.
//!
//! The image is built by pure functions. ECMA-119 defines the layout. The file names are the ones cloud-init looks for;
//! readers accept them although the standard has no lower case.

use std::{fs, path::Path};

use bygone_sys::write_whole;

use crate::{
    error::{Error, Result},
    places::Places,
};

const SECTOR_BYTES: usize = 2048;
/// Locations in sectors. The sectors before the first are reserved for boot loaders.
const DESCRIPTOR: usize = 16;
const END_OF_DESCRIPTORS: usize = 17;
const PATHS_LITTLE: usize = 18;
const PATHS_BIG: usize = 19;
const ROOT: usize = 20;
const FILES: usize = 21;

/// More than is ever written by hand, and small enough to build in memory.
pub const USER_DATA_BYTES_MAX: u64 = 1 << 20;

/// Writes the volume for the machine called `name`; the file `user_data` is copied into it unchanged. Cloud-init
/// configures a machine once for each `identity`.
///
/// # Errors
/// [`Error::File`], also when it is too large.
pub fn write(places: &Places, name: &str, identity: &str, user_data: &Path) -> Result<()> {
    let failed = Error::file(user_data);
    let read = || {
        if fs::metadata(user_data)?.len() > USER_DATA_BYTES_MAX {
            return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
        }
        fs::read(user_data)
    };
    let user_data = read().map_err(failed)?;
    let meta_data = format!("instance-id: bygone-{identity}\nlocal-hostname: {name}\n");
    let image = volume("cidata", &[("meta-data", meta_data.as_bytes()), ("user-data", &user_data)]);
    let seed = places.seed();
    write_whole(&seed, &image).map_err(Error::file(seed))
}

/// An image with these files in its root. They have to be few and sorted by name.
fn volume(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut root = Vec::new();
    for special in [&[0][..], &[1]] {
        root.extend(record(special, ROOT, SECTOR_BYTES, true));
    }
    let mut at = FILES;
    for (name, content) in files {
        root.extend(record(name.as_bytes(), at, content.len(), false));
        at += content.len().div_ceil(SECTOR_BYTES).max(1);
    }
    let mut image = vec![0; at * SECTOR_BYTES];
    let mut put = |sector: usize, bytes: &[u8]| {
        image[sector * SECTOR_BYTES..sector * SECTOR_BYTES + bytes.len()].copy_from_slice(bytes);
    };
    put(DESCRIPTOR, &descriptor(label, at));
    put(END_OF_DESCRIPTORS, b"\xffCD001\x01");
    // One directory, which is its own parent: length of its name, its location, number of its parent, its name.
    put(PATHS_LITTLE, &[&[1, 0][..], &(ROOT as u32).to_le_bytes(), &[1, 0, 0, 0]].concat());
    put(PATHS_BIG, &[&[1, 0][..], &(ROOT as u32).to_be_bytes(), &[0, 1, 0, 0]].concat());
    put(ROOT, &root);
    let mut at = FILES;
    for (_, content) in files {
        put(at, content);
        at += content.len().div_ceil(SECTOR_BYTES).max(1);
    }
    image
}

/// The primary volume descriptor.
fn descriptor(label: &str, sectors: usize) -> Vec<u8> {
    let mut out = b"\x01CD001\x01\x00".to_vec();
    let text = |out: &mut Vec<u8>, text: &str, len: usize| {
        out.extend(text.bytes().chain(std::iter::repeat(b' ')).take(len));
    };
    text(&mut out, "", 32);
    text(&mut out, label, 32);
    out.extend([0; 8]);
    out.extend(both(sectors as u32));
    out.extend([0; 32]);
    for number in [1, 1, SECTOR_BYTES as u16] {
        out.extend(both_short(number));
    }
    out.extend(both(10));
    for (place, bytes) in
        [(PATHS_LITTLE, u32::to_le_bytes as fn(u32) -> [u8; 4]), (PATHS_BIG, u32::to_be_bytes)]
    {
        out.extend(bytes(place as u32));
        out.extend([0; 4]);
    }
    out.extend(record(&[0], ROOT, SECTOR_BYTES, true));
    text(&mut out, "", 128 * 4 + 37 * 3);
    for _ in 0..4 {
        // A date that was not given.
        out.extend(b"0000000000000000\x00");
    }
    out.push(1);
    out
}

/// A directory entry.
fn record(name: &[u8], sector: usize, len_bytes: usize, is_folder: bool) -> Vec<u8> {
    let padding = 1 - name.len() % 2;
    let mut out = vec![(33 + name.len() + padding) as u8, 0];
    out.extend(both(sector as u32));
    out.extend(both(len_bytes as u32));
    // A fixed date, so that the image is reproducible.
    out.extend([70, 1, 1, 0, 0, 0, 0]);
    out.extend([if is_folder { 2 } else { 0 }, 0, 0]);
    out.extend(both_short(1));
    out.push(name.len() as u8);
    out.extend(name);
    out.resize(out.len() + padding, 0);
    out
}

fn both(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

fn both_short(number: u16) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn said(program: &str, args: &[&str]) -> Vec<u8> {
        let done = Command::new(program).args(args).output();
        let done = done.unwrap_or_else(|e| panic!("{program}: {e}; run scripts/setup"));
        assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    /// Independent readers: libblkid, and GRUB's file systems.
    #[test]
    fn others_read_the_label_and_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path().join("run")).unwrap();
        places.make().unwrap();
        let user_data = dir.path().join("ud");
        for len in [0, 1, 2047, 2048, 2049, 70_000] {
            let text: String = "#cloud-config\n".chars().cycle().take(len).collect();
            fs::write(&user_data, &text).unwrap();
            write(&places, "web-1", "4f", &user_data).unwrap();
            let seed = places.seed().display().to_string();
            let label = said("blkid", &["-p", "-o", "value", "-s", "LABEL", &seed]);
            assert_eq!(String::from_utf8_lossy(&label).trim(), "cidata");
            let read = |name: &str| said("grub-fstest", &[&seed, "cat", &format!("(loop0)/{name}")]);
            assert_eq!(read("meta-data"), b"instance-id: bygone-4f\nlocal-hostname: web-1\n");
            if len > 0 {
                assert!(read("user-data") == text.as_bytes(), "{len}");
            }
            let list = said("grub-fstest", &[&seed, "ls", "(loop0)/"]);
            assert_eq!(
                String::from_utf8_lossy(&list).split_whitespace().collect::<Vec<_>>(),
                ["meta-data", "user-data"]
            );
        }
    }

    #[test]
    fn user_data_without_bounds_or_without_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path()).unwrap();
        let large = dir.path().join("large");
        fs::File::create(&large).unwrap().set_len(USER_DATA_BYTES_MAX + 1).unwrap();
        assert!(write(&places, "m", "m", &large).unwrap_err().to_string().contains("large"));
        assert!(write(&places, "m", "m", &dir.path().join("missing")).is_err());
        assert!(!places.seed().exists());
    }
}
