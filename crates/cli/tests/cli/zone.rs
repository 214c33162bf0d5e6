//! A time of day is that of whoever asks, whoever answers.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::world::World;

/// A manager in a time zone of its own, as long as it lives.
struct Manager(Child);

impl Manager {
    fn start(world: &World, zone: &str) -> Manager {
        let mut command = world.command();
        let child = command.arg("serve").env("TZ", zone).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let manager = Manager(child.unwrap());
        let socket = world.store().join("run/api.sock");
        let end = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < end, "the manager did not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        manager
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_time_of_day_is_that_of_the_caller_with_a_manager_and_without_one() {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:1M"]);
    let point = |label: &str| world.lines(&["point", "web", "--label", label]).remove(0);
    let before = point("before");
    std::thread::sleep(Duration::from_millis(1100));
    let after = point("after");
    let seq = |moment: &Value| moment["seq"].as_u64().unwrap();
    let time: Timestamp = before["time"].as_str().unwrap().parse().unwrap();
    let between = time + SignedDuration::from_secs(1);
    let check = || {
        for zone in ["Asia/Tokyo", "America/New_York", "UTC", "Asia/Kathmandu"] {
            let there = between.to_zoned(TimeZone::get(zone).unwrap());
            let text = there.strftime("%Y-%m-%d %H:%M:%S").to_string();
            let in_utc = format!("{} UTC", between.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S"));
            for text in [text, in_utc] {
                let asked = world.command().env("TZ", zone).args(["when", "web", &text, "--json"]).output();
                let asked = asked.unwrap();
                let said = String::from_utf8_lossy(&asked.stdout);
                assert!(asked.status.success(), "{text} in {zone}: {said}");
                let meant: Value = serde_json::from_str(&said).unwrap();
                assert!((seq(&before)..seq(&after)).contains(&seq(&meant)), "{text} in {zone}: {meant}");
            }
        }
    };
    check();
    let _manager = Manager::start(&world, "Pacific/Auckland");
    check();
}
