//! A store on a file system that is too small. Mounts one, so it needs root.

use std::process::Command;

use crate::world::World;

struct Mounted<'a>(&'a std::path::Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn init_warns_of_a_file_system_that_is_too_small() {
    let world = World::empty();
    let small = world.path("small");
    std::fs::create_dir(&small).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64m", "none"];
    assert!(
        Command::new("mount").args(mount).arg(&small).status().unwrap().success(),
        "this test needs root"
    );
    let mounted = Mounted(&small);
    let store = small.join("store");
    let said = world.done(&["init", "--store", store.to_str().unwrap()]);
    assert!(said.contains("! the store is full") && said.contains("hint: free space"), "{said}");
    let json = world.done(&["status", "--json", "--store", store.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["problems"][0]["code"], "store-full");
    drop(mounted);
    assert!(!world.done(&["init"]).contains('!'));
}
