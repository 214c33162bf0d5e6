//! FAT12, FAT16, FAT32 and exFAT compared with the drivers of Linux.

use std::{fs, path::PathBuf};

use bygone_files::{Cached, Fat, Tree};

use crate::{
    guest::{self, Task, can_boot},
    image::{Image, blank, run, scratch, text},
    snapshot::{self, Random, Snapshot, expect_equal, read_all, read_damaged},
};

/// Name, size in MiB, program, options, driver.
type Shape = (&'static str, u64, &'static str, &'static [&'static str], &'static str);

const SHAPES: [Shape; 10] = [
    ("fat12", 8, "mkfs.fat", &["-F", "12", "-s", "8"], "vfat"),
    ("fat16", 16, "mkfs.fat", &["-F", "16"], "vfat"),
    ("fat16-large-clusters", 200, "mkfs.fat", &["-F", "16", "-s", "64"], "vfat"),
    ("fat32", 40, "mkfs.fat", &["-F", "32", "-s", "1"], "vfat"),
    ("fat32-sectors-of-4096", 300, "mkfs.fat", &["-F", "32", "-S", "4096", "-s", "1"], "vfat"),
    ("fat12-sectors-of-4096", 15, "mkfs.fat", &["-F", "12", "-S", "4096", "-s", "1"], "vfat"),
    ("fat32-one-table", 80, "mkfs.fat", &["-F", "32", "-f", "1", "-R", "40", "-s", "2"], "vfat"),
    ("exfat", 32, "mkfs.exfat", &[], "exfat"),
    ("exfat-small-clusters", 12, "mkfs.exfat", &["-c", "512"], "exfat"),
    ("exfat-sectors-of-4096", 64, "sh", &["-c", EXFAT_4096], "exfat"),
];

/// Its maker takes the length of sectors from the device.
const EXFAT_4096: &str =
    "disk=$(losetup --find --show --sector-size 4096 $0) && mkfs.exfat -c 32K $disk && losetup -d $disk";

/// What Linux makes up, because these file systems have no place for it: numbers of inodes, the number of folders in a
/// folder, and the times of the root.
fn without_what_is_made_up(kernel: &mut Snapshot, ours: &Snapshot) {
    for (path, shown) in kernel {
        let Some(found) = ours.get(path) else { continue };
        shown.inode = found.inode;
        if shown.mode & 0o170_000 == 0o040_000 {
            shown.links = found.links;
        }
        if path.is_empty() {
            (shown.times, shown.created) = (found.times, found.created);
        }
    }
}

/// These drivers map blocks (FIBMAP) and not clusters, and none behind the end of a file.
fn cut_at_the_end(snapshot: &mut Snapshot) {
    for shown in snapshot.values_mut() {
        if let Some((last, size)) =
            shown.extents.as_mut().and_then(|all| all.last_mut()).map(|e| (e, shown.size))
        {
            last.1 = last.1.min(size - last.0);
        }
    }
}

#[test]
fn every_shape_of_fat_shows_what_linux_shows_and_damaged_ones_cost_errors_and_nothing_else() {
    if !can_boot("every_shape_of_fat_shows_what_linux_shows_and_damaged_ones_cost_errors_and_nothing_else") {
        return;
    }
    let folder = scratch();
    let images: Vec<(PathBuf, &str)> = SHAPES
        .iter()
        .map(|(name, mib, program, options, driver)| {
            let path = blank(folder.path(), name, *mib);
            run(program, &[*options, &[text(&path)]].concat());
            (path, *driver)
        })
        .collect();
    let fills = (0..images.len()).map(|i| (Task::Fill, i));
    let tasks: Vec<_> = fills.chain((0..images.len()).map(|i| (Task::Show, i))).collect();
    let shown = guest::run(folder.path(), &images, &tasks);
    let (mut opened, mut walked, mut fragmented) = (0, 0, 0);
    let mut random = Random(4711);
    for ((path, _), kernel) in images.iter().zip(shown) {
        let tree = Fat::open(Cached::new(Image::open(path), 16 << 20)).unwrap();
        let mut ours = snapshot::ours(&tree);
        cut_at_the_end(&mut ours);
        let mut kernel = kernel.expect("the kernel refuses it");
        cut_at_the_end(&mut kernel);
        without_what_is_made_up(&mut kernel, &ours);
        expect_equal(text(path), &ours, &kernel);
        assert!(ours.len() > 330, "{} names", ours.len());
        fragmented +=
            ours.values().filter(|shown| shown.extents.as_ref().is_some_and(|e| e.len() > 10)).count();
        // Names are found whatever their case is.
        let inode = tree.find(b"/NAMES/mit leerzeichen UND \xc3\x9cml\xc3\xa4uten").unwrap();
        assert_eq!(tree.metadata(inode).unwrap().size_bytes, 106);
        let image = fs::read(path).unwrap();
        if image.len() > 50 << 20 {
            continue;
        }
        assert!(read_all(&tree).unwrap() > 330);
        let (with_names, names) = read_damaged(&image, 170, &mut random);
        opened += with_names;
        walked += names;
    }
    assert!(fragmented >= SHAPES.len(), "{fragmented} files in many parts");
    assert!(opened > 500 && walked > 10_000, "{opened} could be opened, with {walked} names");
}
