//! A file system inside the file, as users will have it.

use std::{fs, path::PathBuf, sync::Arc};

use bygone_block::{AsOfDevice, LogDevice, WhenFull};
use bygone_model::{Sectors, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{RealDir, SystemClock},
};

use super::*;

const SIZE_BYTES: u64 = 64 << 20;

fn make_log(folder: &Path) -> (Arc<Log>, VolumeId) {
    let store = folder.join("store");
    fs::create_dir(&store).unwrap();
    let options = LogOptions { segment_bytes: 16 << 20, ..LogOptions::default() };
    let log =
        Log::make(Arc::new(RealDir::new(&store)), Arc::new(SystemClock::new()), options, [7; 16]).unwrap();
    let sectors = Sectors::of_bytes(SIZE_BYTES);
    let disk = Disk { name: "vda".into(), sectors, block_bytes: 512, keeping: Keeping::Store };
    let volume = log.add_disk(&disk).unwrap();
    (log, volume)
}

fn check(device: &dyn BlockDevice, folder: &Path) {
    let mut content = vec![0; SIZE_BYTES as usize];
    device.read(0, &mut content, Reading::MayWait).unwrap();
    let image: PathBuf = folder.join("image");
    fs::write(&image, &content).unwrap();
    run(&["e2fsck", "-fn", text(&image)]);
}

#[test]
fn a_file_system_made_and_written_through_a_loop_device_is_whole_now_and_then() {
    with_folder(|folder| {
        let (log, volume) = make_log(folder);
        let (disk, dir) = (folder.join("disk"), folder.join("dir"));
        fs::create_dir(&dir).unwrap();
        let device = Arc::new(LogDevice::open(Arc::clone(&log), volume, WhenFull::Fail).unwrap());
        let export = serve_file(Arc::clone(&device) as _, &disk).unwrap();
        run(&["mkfs.ext4", "-q", "-F", text(&disk)]);
        run(&["mount", "-o", "loop", text(&disk), text(&dir)]);
        fs::write(dir.join("first"), noise(5 << 20, 1)).unwrap();
        fs::create_dir(dir.join("many")).unwrap();
        for i in 0..300_u64 {
            fs::write(dir.join(format!("many/{i}")), noise(100 + 37 * i as usize, i)).unwrap();
        }
        let busy = export.stop().unwrap_err();
        assert!(matches!(busy, FuseError::Busy { .. }), "{busy}");
        run(&["umount", text(&dir)]);
        run(&["e2fsck", "-fn", text(&disk)]);
        let then = log.head_seq();

        // The same once more with direct I/O below the loop device, and with discards.
        let looped = run(&["losetup", "--direct-io=on", "--show", "-f", text(&disk)]);
        run(&["mount", "-o", "discard", looped.trim(), text(&dir)]);
        assert!(fs::read(dir.join("first")).unwrap() == noise(5 << 20, 1));
        fs::remove_file(dir.join("first")).unwrap();
        fs::write(dir.join("second"), noise(3 << 20, 2)).unwrap();
        run(&["fstrim", text(&dir)]);
        run(&["umount", text(&dir)]);
        run(&["losetup", "-d", looped.trim()]);
        export.stop().unwrap();
        check(&*device, folder);

        let view = log.view(volume, then).unwrap();
        let past = Arc::new(AsOfDevice::new(log, view, 512));
        let export = serve_file(Arc::clone(&past) as _, &disk).unwrap();
        run(&["mount", "-o", "loop,ro", text(&disk), text(&dir)]);
        assert!(fs::read(dir.join("first")).unwrap() == noise(5 << 20, 1));
        assert_eq!(fs::read_dir(dir.join("many")).unwrap().count(), 300);
        assert!(!dir.join("second").exists());
        run(&["umount", text(&dir)]);
        export.stop().unwrap();
        check(&*past, folder);
    });
}
