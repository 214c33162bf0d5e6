//! Where a file can be served, and how that ends.

use std::{fs::File, os::unix::fs::symlink, sync::Arc};

use super::*;

#[test]
fn stop_while_the_file_is_open_is_refused_and_can_be_repeated() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 512));
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        let file = File::open(&disk).unwrap();
        let error = export.stop().unwrap_err();
        assert!(matches!(error, FuseError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("in use"));
        assert!(!export.has_ended());
        assert_eq!(std::io::copy(&mut &file, &mut std::io::sink()).unwrap(), 1 << 20);
        drop(file);
        export.stop().unwrap();
        assert!(export.has_ended() && !disk.exists());
    });
}

#[test]
fn dropping_an_export_takes_the_file_away_even_while_it_is_open() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 512));
        let disk = folder.join("disk");
        drop(serve(&device, &disk));
        assert!(!disk.exists());
        let export = serve(&device, &disk);
        let file = File::open(&disk).unwrap();
        drop(export);
        assert!(!disk.exists());
        // A process that has it open can finish.
        assert_eq!(std::io::copy(&mut &file, &mut std::io::sink()).unwrap(), 1 << 20);
    });
}

#[test]
fn an_unmount_by_somebody_else_ends_the_export() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 512));
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        run(&["umount", text(&disk)]);
        for _ in 0..100 {
            if export.has_ended() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert!(export.has_ended());
        export.stop().unwrap();
        assert!(!disk.exists());
    });
}

#[test]
fn a_dead_mount_is_cleared_away() {
    with_folder(|folder| {
        let disk = folder.join("disk");
        // As a killed server leaves it: mounted, with the connection closed.
        fs::write(&disk, b"").unwrap();
        for _ in 0..2 {
            let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
            let options = std::ffi::CString::new(format!(
                "fd={},rootmode=100000,user_id=0,group_id=0",
                std::os::fd::AsRawFd::as_raw_fd(&fuse)
            ));
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("bygone", &disk, "fuse.bygone", flags, Some(options.unwrap().as_c_str()))
                .unwrap();
            drop(fuse);
            assert_eq!(
                fs::metadata(&disk).unwrap_err().raw_os_error(),
                Some(rustix::io::Errno::NOTCONN.raw_os_error())
            );
            let device = Arc::new(Memory::new(1 << 20, 512));
            let export = serve(&device, &disk);
            assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 20);
            export.stop().unwrap();
            assert_eq!(fs::metadata(&disk).unwrap().len(), 0, "the file was there before");
        }
    });
}

#[test]
fn paths_that_cannot_be_served_are_refused() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 512));
        let refused = |path: &Path| serve_file(Arc::clone(&device) as _, path).unwrap_err();
        assert!(matches!(refused(folder), FuseError::NotAFile { .. }));
        assert!(matches!(refused(Path::new("/")), FuseError::NotAFile { .. }));
        assert!(matches!(refused(Path::new("")), FuseError::NotAFile { .. }));
        assert!(matches!(refused(Path::new("/dev/null")), FuseError::NotAFile { .. }));
        assert!(matches!(refused(&folder.join("none/disk")), FuseError::File { .. }));
        let full = folder.join("full");
        fs::write(&full, b"data").unwrap();
        assert!(matches!(refused(&full), FuseError::NotEmpty { .. }));
        symlink(folder.join("nowhere"), folder.join("dangling")).unwrap();
        assert!(matches!(refused(&folder.join("dangling")), FuseError::File { .. }));

        let (disk, link) = (folder.join("disk"), folder.join("link"));
        fs::write(&disk, b"").unwrap();
        symlink(&disk, &link).unwrap();
        let export = serve(&device, &link);
        assert_eq!(export.path(), disk);
        assert!(matches!(refused(&disk), FuseError::AlreadyMounted { .. }));
        assert!(matches!(refused(&link), FuseError::AlreadyMounted { .. }));
        export.stop().unwrap();
        assert_eq!(fs::metadata(&disk).unwrap().len(), 0);
    });
}

#[test]
fn stop_ends_writes_that_wait_for_room() {
    with_folder(|folder| {
        use std::{io::ErrorKind, os::unix::fs::FileExt, sync::atomic::Ordering::SeqCst};

        let device = Arc::new(Memory::new(1 << 20, 4096));
        device.paused.store(true, SeqCst);
        let path = folder.join("disk.raw");
        let export = serve(&device, &path);
        // Twice as many as the server has threads, so that no other request is answered any more.
        let files: Vec<_> = (0..16).map(|_| File::options().write(true).open(&path).unwrap()).collect();
        let writers: Vec<_> =
            files.into_iter().map(|file| thread::spawn(move || file.write_all_at(&[1; 4096], 0))).collect();
        while device.refused.load(SeqCst) < 8 {
            thread::yield_now();
        }
        export.stop().unwrap();
        for writer in writers {
            assert_eq!(writer.join().unwrap().unwrap_err().kind(), ErrorKind::StorageFull);
        }
        assert!(!path.exists());
    });
}
