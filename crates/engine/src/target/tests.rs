use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bygone_block::{BlockDevice, Extent, Geometry, IoError, Reading, Writing};
use bygone_model::VolumeId;
use bygone_store::{CACHE_BYTES, index::cache::PageCache};

use super::{Target, lock};
use crate::{
    config::{DiskConfig, TargetConfig},
    store_dir::StorePaths,
};

/// A target with one disk of 1 MiB, tapped if there is a `path`.
fn target(store: &Path, path: Option<&Path>) -> Arc<Target> {
    let paths = StorePaths::new(store);
    paths.make().unwrap();
    let mut config = TargetConfig::new("web");
    let path = path.map(Path::to_owned);
    config.disks.push(DiskConfig { id: "vda".into(), path, block_bytes: 512, size_bytes: 1 << 20 });
    Target::make(&paths, &config, &PageCache::new(CACHE_BYTES)).unwrap()
}

/// A device that says, when it goes, whether the target still counts it as open.
struct Last {
    below: Arc<dyn BlockDevice>,
    target: Arc<Target>,
    volume: VolumeId,
    was_open: Arc<AtomicBool>,
}

impl BlockDevice for Last {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        self.below.read(offset, buf, reading)
    }
    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.below.write(writings)
    }
    fn flush(&self) -> Result<(), IoError> {
        self.below.flush()
    }
    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        self.below.extents(offset, len_bytes, each)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.below.prefetch(offset, len_bytes);
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        let open = lock(&self.target.live).contains_key(&self.volume);
        self.was_open.store(open, Ordering::Release);
    }
}

#[test]
fn a_lease_lets_go_of_its_device_before_the_disk_may_be_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    let volume = target.volume(target.present(), None).unwrap();
    let was_open = Arc::new(AtomicBool::new(false));
    let mut lease = target.lease(volume).unwrap();
    let below = lease.device.clone();
    lease.device = Arc::new(Last { below, target: target.clone(), volume, was_open: was_open.clone() });
    drop(lease);
    // A device that went later would take the head map of the one that was opened meanwhile.
    assert!(was_open.load(Ordering::Acquire));
    assert!(lock(&target.live).is_empty());
}
