//! Jobs and keys, as scripts use them.

use serde_json::Value;

use crate::world::World;

fn jobs(world: &World) -> Vec<Value> {
    world.lines(&["jobs"])
}

#[test]
fn what_is_asked_for_again_with_its_key_is_done_once_and_told_the_same() {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:64M"]);
    let point = ["point", "web", "--label", "good", "--key", "upgrade-42"];
    let first = world.lines(&point);
    let after = world.history("web");
    // Each command here is a manager of its own.
    assert_eq!(world.lines(&point), first);
    assert_eq!(world.history("web"), after);

    let restore = ["restore", "web", "--at", "point:good", "--in-place", "--key", "back-42"];
    let restored = world.lines(&restore);
    assert_eq!(world.lines(&restore), restored);
    assert_eq!(world.lines(&["branch", "list", "web"]).len(), 2);

    let output = world.run(&["point", "web", "--label", "other", "--key", "upgrade-42", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), said["error"]["code"].as_str()), (Some(2), Some("key-used")), "{said}");

    let known: Vec<(Value, Value)> =
        jobs(&world).iter().map(|job| (job["request"].clone(), job["state"].clone())).collect();
    let job = |request: &str| (Value::from(request), Value::from("done"));
    assert_eq!(known, [job("target-add"), job("point"), job("restore")]);
}

#[test]
fn a_detached_restore_is_a_job_of_a_manager_in_the_background() {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:64M"]);
    let output = world.run(&["restore", "web", "--at", "now", "--to", "out.raw", "--detach"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("this is job 2"), "{said}");
    let job = &jobs(&world)[1];
    assert_eq!((&job["detached"], &job["state"]), (&Value::from(true), &Value::from("done")));
    let ended = &world.lines(&["jobs", "2"])[0];
    assert_eq!(ended["answer"]["disks"][0]["id"], "vda");
    let output = world.run(&["jobs", "7"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no job 7"));
    assert_eq!(output.status.code(), Some(1));
}
