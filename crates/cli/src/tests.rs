//! From what is typed to what is asked.

use bygone_api::{
    Request,
    call::{self, ExportTo, NewDisk, NewSource, RestoreTo},
    config::{Display, Firmware, TargetConfig},
};
use bygone_model::Kind;
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use crate::cli::{Cli, Command};

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["bygone"].into_iter().chain(words.iter().copied()))
}

/// The request that a command begins with.
fn request(words: &[&str]) -> Request {
    use crate::commands::{branch::Branch, target::Target};
    match parse(words).unwrap_or_else(|refusal| panic!("{words:?}: {refusal}")).command {
        Command::Status(_) => call::Status {}.into(),
        Command::Target(Target::Add(args)) => args.call().into(),
        Command::Target(Target::List(_)) => call::TargetList {}.into(),
        Command::Target(Target::Show(args)) => args.call().into(),
        Command::Target(Target::Set(args)) => args.call().into(),
        Command::Target(Target::Remove(args)) => args.call().into(),
        Command::Run(args) => args.call().into(),
        Command::Stop(args) => args.call().into(),
        Command::Timeline(args) => args.call().into(),
        Command::Point(args) => args.call().into(),
        Command::Branch(Branch::List(args)) => args.call().into(),
        Command::Branch(Branch::Promote(args)) => args.call().into(),
        Command::Branch(Branch::Drop(args)) => args.call().into(),
        Command::Restore(args) => args.call().into(),
        Command::Export(args) => args.call().into(),
        Command::Verify(args) => args.call().into(),
        Command::Compact(args) => args.call().into(),
        other => panic!("{other:?} asks for nothing"),
    }
}

fn refusal(words: &[&str]) -> clap::Error {
    let refusal = parse(words).err().unwrap_or_else(|| panic!("{words:?} was taken"));
    assert_eq!(refusal.exit_code(), 2, "{words:?}");
    refusal
}

fn web() -> String {
    "web".to_owned()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_that_fits_its_reader() {
    let mut command = Cli::command();
    command.build();
    let mut pending: Vec<&clap::Command> = command.get_subcommands().collect();
    while let Some(next) = pending.pop() {
        if next.get_name() == "help" {
            continue;
        }
        assert!(next.get_about().is_some(), "{} says nothing", next.get_name());
        for arg in next.get_arguments() {
            assert!(arg.get_help().is_some(), "{} {} says nothing", next.get_name(), arg.get_id());
        }
        pending.extend(next.get_subcommands());
    }
}

#[test]
fn a_target_is_added_as_it_was_described() {
    let words = [
        "target",
        "add",
        "web",
        "--disk",
        "store:20G",
        "--disk",
        "data=/srv/data.img",
        "--block-size",
        "4096",
        "--memory",
        "2G",
        "--cpus",
        "4",
        "--kernel",
        "/k",
        "--initrd",
        "/i",
        "--append",
        "-x console=ttyS0",
        "--firmware",
        "uefi",
        "--qemu-arg",
        "-device",
        "--qemu-arg",
        "virtio-rng-pci",
        "--net",
        "user,hostfwd=tcp::2222-:22",
        "--autostart",
        "--no-wait",
    ];
    let mut config = TargetConfig::new("web");
    config.memory_mib = 2048;
    config.cpus = 4;
    config.kernel = Some("/k".into());
    config.initrd = Some("/i".into());
    config.append = some("-x console=ttyS0");
    config.firmware = Firmware::Uefi;
    config.qemu_args = vec!["-device".to_owned(), "virtio-rng-pci".to_owned()];
    config.net = "user,hostfwd=tcp::2222-:22".to_owned();
    config.autostart = true;
    let disks = vec![
        NewDisk { id: None, source: NewSource::Store(20 << 30), block_bytes: Some(4096) },
        NewDisk { id: some("data"), source: NewSource::Tap("/srv/data.img".into()), block_bytes: Some(4096) },
    ];
    assert_eq!(request(&words), Request::from(call::TargetAdd { config, disks, wait: false }));
}

#[test]
fn a_target_without_options_has_the_engines_defaults() {
    let disks = vec![NewDisk { id: None, source: NewSource::Tap("/d".into()), block_bytes: None }];
    let expected = Request::from(call::TargetAdd { config: TargetConfig::new("web"), disks, wait: true });
    assert_eq!(request(&["target", "add", "web", "--disk", "/d"]), expected);
}

#[test]
fn targets_are_listed_shown_changed_and_removed() {
    assert_eq!(request(&["target", "list"]), Request::from(call::TargetList {}));
    assert_eq!(request(&["target", "show", "web"]), Request::from(call::TargetShow { name: web() }));
    let settings = vec![("memory".to_owned(), "4G".to_owned()), ("append".to_owned(), "a=b".to_owned())];
    assert_eq!(
        request(&["target", "set", "web", "memory=4G", "append=a=b"]),
        Request::from(call::TargetSet { name: web(), settings })
    );
    assert_eq!(
        request(&["target", "remove", "web", "--delete-history", "--yes"]),
        Request::from(call::TargetRemove { name: web(), delete_history: true })
    );
}

#[test]
fn machines_are_run_and_stopped() {
    assert_eq!(
        request(&[
            "run",
            "web",
            "--at",
            "3 days ago",
            "--branch",
            "b",
            "--display",
            "vnc:[::1]:0",
            "--console"
        ]),
        Request::from(call::Run {
            name: web(),
            at: some("3 days ago"),
            branch: some("b"),
            display: Some(Display::Vnc("[::1]:0".to_owned())),
        })
    );
    assert_eq!(
        request(&["run", "web"]),
        Request::from(call::Run { name: web(), at: None, branch: None, display: None })
    );
    assert_eq!(
        request(&["stop", "web", "--deadline", "5"]),
        Request::from(call::Stop { name: web(), force: false, deadline_s: Some(5) })
    );
    assert_eq!(
        request(&["stop", "web", "--force"]),
        Request::from(call::Stop { name: web(), force: true, deadline_s: None })
    );
}

#[test]
fn history_is_asked_for() {
    let kinds = vec![Kind::Boot, Kind::Shutdown, Kind::Point];
    let timeline = Request::from(call::Timeline {
        name: web(),
        since: some("yesterday"),
        until: some("now"),
        kinds,
        branch: None,
        limit: None,
    });
    for words in [
        &[
            "timeline",
            "web",
            "--since",
            "yesterday",
            "--until",
            "now",
            "--kind",
            "boot,shutdown",
            "--kind",
            "point",
        ][..],
        &[
            "timeline",
            "--kind",
            "boot",
            "--kind",
            "shutdown,point",
            "--since=yesterday",
            "--until=now",
            "web",
        ],
    ] {
        assert_eq!(request(words), timeline);
    }
    assert_eq!(
        request(&["point", "web", "--label", "good one", "--hold", "30d"]),
        Request::from(call::Point { name: web(), at: None, label: "good one".to_owned(), hold: some("30d") })
    );
    for (words, dropped) in
        [(&["branch", "list", "web"][..], false), (&["branch", "list", "web", "--dropped"], true)]
    {
        assert_eq!(request(words), Request::from(call::BranchList { name: web(), dropped }));
    }
    assert_eq!(
        request(&["branch", "promote", "web"]),
        Request::from(call::BranchPromote { name: web(), branch: None })
    );
    assert_eq!(
        request(&["branch", "drop", "web", "b", "-y"]),
        Request::from(call::BranchDrop { name: web(), branch: "b".to_owned() })
    );
}

#[test]
fn moments_are_restored_in_place_or_elsewhere() {
    let restore = |disk, to, discard_later| {
        Request::from(call::Restore { name: web(), at: "last shutdown".to_owned(), disk, to, discard_later })
    };
    assert_eq!(
        request(&["restore", "web", "--at", "last shutdown", "--in-place", "--discard-later"]),
        restore(None, RestoreTo::InPlace, true)
    );
    assert_eq!(
        request(&["restore", "web", "--at", "last shutdown", "--to", "/o", "--disk", "vda"]),
        restore(some("vda"), RestoreTo::Path("/o".into()), false)
    );
}

#[test]
fn disks_are_exported() {
    let export = |what: &str, to| Request::from(call::Export { what: what.to_owned(), to });
    assert_eq!(
        request(&["export", "web@3 days ago", "--nbd", "unix:/s"]),
        export("web@3 days ago", ExportTo::NbdUnix("/s".into()))
    );
    assert_eq!(
        request(&["export", "web/vda#b", "--nbd", "h:1"]),
        export("web/vda#b", ExportTo::NbdTcp("h:1".to_owned()))
    );
    assert_eq!(request(&["export", "web", "--file", "/f"]), export("web", ExportTo::File("/f".into())));
}

#[test]
fn the_store_is_verified_and_compacted() {
    let verify = |name, newest_first, for_s| Request::from(call::Verify { name, newest_first, for_s });
    assert_eq!(request(&["verify"]), verify(None, false, None));
    assert_eq!(request(&["verify", "--all", "web"]), verify(some("web"), false, None));
    assert_eq!(request(&["verify", "--newest-first", "--for", "10m"]), verify(None, true, Some(600)));
    assert_eq!(request(&["compact", "--dry-run"]), Request::from(call::Compact { dry_run: true }));
}

#[test]
fn options_of_every_command_are_taken_before_and_after_it() {
    for words in
        [&["--store", "/s", "--json", "-vv", "status"][..], &["status", "-vv", "--json", "--store", "/s"]]
    {
        let global = parse(words).unwrap().global;
        assert_eq!((global.store.unwrap().as_path(), global.json, global.verbose), ("/s".as_ref(), true, 2));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for words in [
        &["restore", "web", "--at", "now"][..],
        &["restore", "web", "--in-place"],
        &["restore", "web", "--at", "now", "--in-place", "--to", "/o"],
        &["restore", "web", "--at", "now", "--to", "/o", "--discard-later"],
        &["export", "web"],
        &["export", "web", "--nbd", "unix:/s", "--file", "/f"],
        &["target", "add", "web"],
        &["target", "add", "web", "--disk", "/d", "--append", "x"],
        &["target", "add", "web", "--disk", "/d", "--block-size", "1024"],
        &["target", "add", "web", "--disk", "/d", "--cpus", "0"],
        &["target", "set", "web", "memory"],
        &["verify", "--all", "--for", "10m"],
        &["stop", "web", "--force", "--deadline", "3"],
        &["timeline", "web", "--kind", "boots"],
        &["status", "-q", "-v"],
        &["point", "web"],
        &["serve", "--listen", "10809"],
    ] {
        refusal(words);
    }
    let tip = refusal(&["timeline", "web", "--kind", "shutdwn"]).to_string();
    assert!(tip.contains("tip: a similar value exists: 'shutdown'"), "{tip}");
    assert_eq!(refusal(&["statsu"]).kind(), ErrorKind::InvalidSubcommand);
}
