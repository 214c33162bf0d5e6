//! Nothing is lost for good unasked.

use crate::world::{OnTerminal, World};

/// The commands that lose something.
const LOSING: [&[&str]; 3] = [
    &["target", "remove", "web", "--delete-history"],
    &["branch", "drop", "web", "main"],
    &["restore", "web", "--at", "point:good", "--in-place", "--discard-later"],
];

/// A target with a point, put back to it once: it has the branches `main` and `restored-1`, and the latter is the
/// present.
fn world() -> World {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:64M"]);
    world.done(&["point", "web", "--label", "good"]);
    world.done(&["point", "web", "--label", "later"]);
    world.done(&["restore", "web", "--at", "point:good", "--in-place"]);
    world
}

fn branches(world: &World) -> Vec<String> {
    let names = world.lines(&["branch", "list", "web"]);
    names.iter().map(|branch| branch["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn where_nobody_can_be_asked_nothing_is_lost_without_yes() {
    let world = world();
    let before = world.history("web");
    let untouched = || {
        assert_eq!(branches(&world), ["main", "restored-1"]);
        assert_eq!(world.history("web"), before);
    };
    for words in LOSING {
        let output = world.run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("nothing was done") && said.contains("hint: give --yes"), "{words:?}: {said}");
        untouched();

        let output = world.run(&[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["error"]["code"], "needs-yes", "{words:?}");
        untouched();

        // On a terminal, but with standard error elsewhere: the question would not be seen.
        let (_, code) = OnTerminal::start(&world, words, false, 80).end();
        assert_eq!(code, 2, "{words:?}");
        let (_, code) = OnTerminal::start(&world, &[words, &["--json"]].concat(), true, 80).end();
        assert_eq!(code, 2, "{words:?}");
        untouched();
    }
}

#[test]
fn only_the_word_yes_goes_on() {
    let world = world();
    for answer in ["y\n", "\n", "n\n", "YES!\n", "\u{4}"] {
        let mut asked = OnTerminal::start(&world, LOSING[1], true, 80);
        asked.until("Type yes to go on: ");
        asked.say(answer);
        let (said, code) = asked.end();
        assert_eq!(code, 1, "{answer:?}: {said}");
        assert!(said.contains("error: nothing was done"), "{answer:?}: {said}");
    }
    assert_eq!(branches(&world), ["main", "restored-1"]);
    let mut asked = OnTerminal::start(&world, LOSING[1], true, 80);
    asked.until("Type yes to go on: ");
    asked.say("yes\n");
    let (said, code) = asked.end();
    assert_eq!(code, 0, "{said}");
    assert_eq!(branches(&world), ["restored-1"]);
}

#[test]
fn with_yes_nobody_is_asked() {
    for words in LOSING {
        let world = world();
        world.done(&[words, &["--yes"]].concat());
    }
}

#[test]
fn the_question_says_what_it_is_about_and_comes_after_the_checks() {
    let world = world();
    let asked = |words: &[&str]| {
        let mut asked = OnTerminal::start(&world, words, true, 80);
        let said = asked.until("Type yes to go on: ");
        asked.say("no\n");
        asked.end();
        said.replace("\r\n", "\n")
    };
    let said = asked(LOSING[0]);
    for part in
        ["Delete web and all of its history", "branch main", "branch restored-1", "good", "64 MiB", "vda"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = asked(LOSING[1]);
    for part in ["Give up branch main of web", "2 points: good, later"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = asked(LOSING[2]);
    for part in ["Put web back", "moment", "grade crash", "on branch", "branch restored-1"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for (words, why) in [
        (&["branch", "drop", "web", "nope"][..], "there is no branch \"nope\""),
        (&["branch", "drop", "web", "restored-1"], "is the present"),
        (&["target", "remove", "wbe", "--delete-history"], "there is no target \"wbe\""),
        (&["restore", "web", "--at", "point:nope", "--in-place", "--discard-later"], "nope"),
    ] {
        let (said, code) = OnTerminal::start(&world, words, true, 80).end();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(why) && !said.contains("Type yes"), "{words:?}: {said}");
    }
}

#[test]
fn what_was_asked_about_is_done_however_long_the_answer_takes() {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:64M"]);
    world.done(&["point", "web", "--label", "first"]);
    let words = ["restore", "web", "--at", "now", "--in-place", "--discard-later"];
    let mut asked = OnTerminal::start(&world, &words, true, 120);
    let question = asked.until("Type yes to go on: ");
    world.done(&["point", "web", "--label", "meanwhile"]);
    asked.say("yes\n");
    let (said, code) = asked.end();
    assert_eq!(code, 0, "{said}");
    let seq = |text: &str| text.split("(seq:").nth(1).unwrap().split([',', ')']).next().unwrap().to_owned();
    let done = said.split("Restored as of").nth(1).unwrap();
    assert_eq!(seq(&question), seq(done), "{said}");
}

#[test]
fn what_is_impossible_is_said_before_anybody_has_to_say_yes() {
    let world = world();
    let output = world.run(&["branch", "drop", "web", "restored-1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("is the present"), "{said}");
}

#[test]
fn an_undo_that_gives_a_branch_up_again_asks_first() {
    let world = world();
    // Nothing is lost by this, so nobody is asked.
    world.done(&["branch", "drop", "web", "main", "--yes"]);
    world.done(&["undo", "web"]);
    assert_eq!(branches(&world), ["main", "restored-1"]);
    let output = world.run(&["undo", "web"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("hint: give --yes"), "{said}");
    assert_eq!(branches(&world), ["main", "restored-1"]);
    let mut asked = OnTerminal::start(&world, &["undo", "web"], true, 80);
    assert!(asked.until("Type yes to go on: ").contains("branch main"));
    asked.say("no\n");
    assert_eq!(asked.end().1, 1);
    world.done(&["undo", "web", "--yes"]);
    assert_eq!(branches(&world), ["restored-1"]);
}
