//! Requests with values that no command line makes.

use super::*;
use crate::{
    Usage,
    config::DiskConfig,
    store_dir::faults::{self, Step},
};

fn injected() -> std::io::Result<()> {
    Err(std::io::Error::other("injected fault"))
}

fn add_as(manager: &Manager, change: impl FnOnce(&mut TargetConfig)) -> Result<()> {
    let mut add = add_request("web");
    change(&mut add.config);
    manager.handle(&add, &mut Nobody).map(drop)
}

#[test]
fn the_disks_of_a_new_target_come_by_one_way_only() {
    let (world, manager) = World::with(&[]);
    world.tapped(&manager, "db");
    let path = Some(world.dir.path().join("db.raw"));
    let disk = DiskConfig { id: "vdb".into(), path, block_bytes: 512, size_bytes: 1 << 20 };
    let refused = add_as(&manager, |config| config.disks.push(disk));
    assert!(matches!(refused, Err(Error::Usage(Usage::BadRequest(_)))), "{refused:?}");
    assert_eq!(served(&manager), ["db"]);
}

#[test]
fn a_setting_is_checked_when_it_is_made_however_it_is_made() {
    let (_world, manager) = World::with(&[]);
    let bad = |refused: &Result<()>| matches!(refused, Err(Error::Usage(Usage::BadSetting(_))));
    for net in
        ["foo", "tap:", "user,hostfwd", "users", "user,hostfwd=tcp::99999-:22", "user,hostfwd=tcp::2222-:0"]
    {
        let refused = add_as(&manager, |config| config.net = net.into());
        assert!(bad(&refused), "{net}: {refused:?}");
    }
    let refused = [
        add_as(&manager, |config| config.cpus = 0),
        add_as(&manager, |config| config.cpus = 256),
        add_as(&manager, |config| config.memory_mib = 0),
        add_as(&manager, |config| config.memory_mib = 15),
        add_as(&manager, |config| config.display = crate::config::Display::Vnc(String::new())),
    ];
    assert!(refused.iter().all(bad), "{refused:?}");
    add_as(&manager, |config| config.net = "user,hostfwd=tcp::2222-:22".into()).unwrap();
    let set = |key: &str, value: &str| {
        let settings = vec![(key.to_owned(), value.to_owned())];
        manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody).map(drop)
    };
    let before = manager.target("web").unwrap().config();
    for (key, value) in
        [("net", "foo"), ("net", "tap:"), ("cpus", "0"), ("memory", "0"), ("memory", "1"), ("memory", "99T")]
    {
        let refused = set(key, value);
        assert!(bad(&refused), "{key}={value}: {refused:?}");
    }
    assert_eq!(manager.target("web").unwrap().config(), before);
    for net in ["tap:br0", "user", "none", ""] {
        set("net", net).unwrap();
    }
    assert_eq!(manager.target("web").unwrap().config().net, "none");
}

#[test]
fn settings_that_may_not_last_count_for_this_manager_as_for_the_next() {
    let (world, manager) = World::with(&["web"]);
    faults::plan(Step::LastSync, &world.target_dir("web"), injected);
    let settings = vec![("memory".to_owned(), "3G".to_owned())];
    let partly = manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody);
    assert!(matches!(partly, Err(Error::Partly { .. })), "{partly:?}");
    assert_eq!(manager.target("web").unwrap().config().memory_mib, 3072);
    drop(manager);
    assert_eq!(world.manager().target("web").unwrap().config().memory_mib, 3072);
}

#[test]
fn a_target_that_could_not_be_added_durably_is_not_there_for_the_next_manager() {
    let (world, manager) = World::with(&[]);
    let targets = world.paths().root().join("targets");
    // The first sync is that of its own folder.
    faults::plan(Step::SyncDir, &targets, || Ok(()));
    faults::plan(Step::SyncDir, &targets, injected);
    let refused = add(&manager, "web");
    assert!(matches!(refused, Err(Error::File { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(&targets).unwrap().count(), 0);
    drop(manager);
    add(&world.manager(), "web").unwrap();
}

#[test]
fn a_verification_may_take_any_number_of_seconds() {
    let (_world, manager) = World::with(&["web"]);
    let verify = call::Verify { name: None, newest_first: false, for_s: Some(u64::MAX) };
    assert!(manager.handle(&verify, &mut Nobody).unwrap().complete);
}

#[test]
fn what_is_likely_to_keep_a_machine_from_starting_is_said_when_it_is_set() {
    let (_world, manager) = World::with(&["web"]);
    let noted = |key: &str, value: &str| {
        let settings = vec![(key.to_owned(), value.to_owned())];
        Collected::of(&manager, &call::TargetSet { name: "web".into(), settings }).notes.join("; ")
    };
    assert_eq!(noted("memory", "64M"), "");
    assert!(noted("memory", "4T").contains("more than this computer has"));
    noted("memory", "64M");
    let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("user,hostfwd=tcp:127.0.0.1:{}-:22", used.local_addr().unwrap().port());
    assert!(noted("net", &forward).contains("is in use"));
    drop(used);
    assert_eq!(noted("net", &forward), "");
    let disk = NewDisk { id: None, source: NewSource::Store(900 << 40), block_bytes: None };
    let add = call::TargetAdd { config: TargetConfig::new("db"), disks: vec![disk], wait: true };
    let notes = Collected::of(&manager, &add).notes.join("; ");
    assert!(notes.contains("disk vda has 921600 GiB"), "{notes}");
}
