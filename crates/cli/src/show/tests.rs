//! What people see, as snapshots.

use std::path::PathBuf;

use bygone_api::{
    Accelerator, BranchInfo, Compacted, DamagedPlace, DiskMode, DiskStatus, Exported, Failure, IoProblem,
    JobInfo, JobState, KnownDamage, Life, LostRecords, MachineStatus, MomentInfo, Problem, Progress, Removed,
    RemovedInfo, Restored, RestoredDisk, Running, Started, Status, StoreState, StoreStatus, TargetInfo,
    TargetStatus, Trouble, Unreadable, Verification, Verified,
    config::{Display, TargetConfig},
};
use bygone_model::{Details, Grade, Kind, Truth};
use insta::assert_snapshot;
use jiff::{Timestamp, tz::TimeZone};

use super::*;

fn look(width: Option<usize>) -> Look {
    let now: Timestamp = "2026-11-25T12:00:00+09:00".parse().unwrap();
    Look { now: now.to_zoned(TimeZone::posix("JST-9").unwrap()), paint: Paint::NONE, width }
}

fn moment(seq: u64, time: &str, kind: Kind, grade: Grade, label: &str) -> MomentInfo {
    MomentInfo {
        seq,
        time: time.to_owned(),
        kind,
        label: label.to_owned(),
        grade,
        truth: Truth::Observed,
        branch: "main".to_owned(),
        branch_id: 0,
        when: format!("seq:{seq}"),
        earliest_seq: None,
        how: None,
        lost: Vec::new(),
        details: Details::new(),
    }
}

fn history() -> Vec<MomentInfo> {
    let mut moments = vec![
        moment(1, "2026-11-16T00:10:00.000001Z", Kind::Boot, Grade::Crash, "first boot"),
        moment(
            812_345,
            "2026-11-22T06:04:05.123456Z",
            Kind::Package,
            Grade::Flushed,
            "before apt install nginx 1.22, libnginx-mod-http-geoip2 and 4 more",
        ),
        moment(912_345, "2026-11-24T05:59:00Z", Kind::Shutdown, Grade::Stopped, "shut down in order"),
        moment(
            1_000_001,
            "2026-11-25T02:58:30Z",
            Kind::Suspect,
            Grade::Crash,
            "talked to \u{1b}[31mevil.example",
        ),
        moment(1_000_002, "2026-11-25T02:59:59.5Z", Kind::Point, Grade::Clean, "移行の前"),
    ];
    moments[3].truth = Truth::Claimed;
    moments
}

fn disk(id: &str, mode: DiskMode) -> DiskStatus {
    DiskStatus { id: id.to_owned(), size_bytes: 20 << 30, mode, path: None, complete: true, read_bytes: 0 }
}

fn target(name: &str, state: Running) -> TargetStatus {
    TargetStatus {
        name: name.to_owned(),
        state,
        life: match state {
            Running::Running => Life::Running,
            Running::Stopped => Life::Stopped,
            Running::Unknown => Life::LeftRunning,
        },
        life_since: None,
        machine: None,
        used_bytes: 0,
        written_bytes: 0,
        head_seq: 1_000_002,
        durable_seq: 1_000_002,
        head_time: "2026-11-25T02:59:57Z".to_owned(),
        branch: "main".to_owned(),
        disks: vec![disk("vda", DiskMode::Store)],
        problems: Vec::new(),
        verified: None,
    }
}

fn machine() -> MachineStatus {
    MachineStatus {
        branch: Some("try-1".to_owned()),
        pid: 4711,
        accelerator: Accelerator::Kvm,
        console: PathBuf::from("/s/run/web/console.sock"),
        display: Display::Vnc("127.0.0.1:1".to_owned()),
        forwards: vec!["tcp:127.0.0.1:2222-:22".to_owned(), "tcp:127.0.0.1:8080-:80".to_owned()],
    }
}

fn fits(text: &str, columns: usize) {
    for line in text.lines() {
        assert!(unicode_width::UnicodeWidthStr::width(line) <= columns, "{line}\nin\n{text}");
    }
}

fn store_status(state: StoreState) -> StoreStatus {
    StoreStatus {
        path: PathBuf::from("/var/lib/bygone"),
        used_bytes: 12_345_678_901,
        removed_bytes: 0,
        logical_bytes: 140 << 30,
        free_bytes: 300 << 30,
        state,
    }
}

fn info() -> TargetInfo {
    let mut config = TargetConfig::new("web");
    config.append = Some("console=ttyS0".to_owned());
    config.kernel = Some(PathBuf::from("/boot/vmlinuz"));
    TargetInfo { config, status: target("web", Running::Running) }
}

#[test]
fn a_timeline_fits_eighty_columns() {
    let text = moments::table(&history(), &look(Some(80)));
    assert!(text.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 80));
    assert_snapshot!(text, @r"
    WHEN              MOMENT       KIND      GRADE    WHAT
    2026-11-16 09:10  seq:1        boot      crash    first boot
    3 days ago 15:04  seq:812345   package   flushed  before apt install nginx 1.22,
                                                      libnginx-mod-http-geoip2 and 4
                                                      more
    yesterday 14:59   seq:912345   shutdown  stopped  shut down in order
    1 minute ago      seq:1000001  suspect   crash    talked to �[31mevil.example
                                                      (so it says)
    now               seq:1000002  point     clean    移行の前
    ");
}

#[test]
fn a_timeline_is_not_wrapped_where_no_terminal_is() {
    let mut moments = history();
    moments[4].branch = "try-1".to_owned();
    assert_snapshot!(moments::table(&moments, &look(None)), @r"
    WHEN              MOMENT       KIND      GRADE    BRANCH  WHAT
    2026-11-16 09:10  seq:1        boot      crash    main    first boot
    3 days ago 15:04  seq:812345   package   flushed  main    before apt install nginx 1.22, libnginx-mod-http-geoip2 and 4 more
    yesterday 14:59   seq:912345   shutdown  stopped  main    shut down in order
    1 minute ago      seq:1000001  suspect   crash    main    talked to �[31mevil.example (so it says)
    now               seq:1000002  point     clean    try-1   移行の前
    ");
    assert_snapshot!(moments::table(&[], &look(None)), @"There are no such moments.");
}

#[test]
fn colours_change_nothing_but_colours() {
    let painted = Look { paint: Paint::FULL, ..look(Some(80)) };
    let text = moments::table(&history(), &painted);
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    assert_eq!(plain, moments::table(&history(), &look(Some(80))));
    assert!(text.contains("\u{1b}[32mstopped\u{1b}[0m"));
}

#[test]
fn a_status_is_readable_at_a_glance() {
    let mut web = target("web", Running::Running);
    web.durable_seq -= 3;
    web.used_bytes = 11 << 30;
    web.written_bytes = 3 << 20;
    web.machine = Some(machine());
    let mut data = disk("data", DiskMode::Tap);
    data.size_bytes = 100 << 30;
    data.path = Some(PathBuf::from("/dev/vg/data"));
    data.complete = false;
    data.read_bytes = 45 << 30;
    web.disks.push(data);
    let mut fresh = target("mail-2", Running::Unknown);
    fresh.head_seq = 0;
    fresh.durable_seq = 0;
    fresh.machine =
        Some(MachineStatus { branch: None, display: Display::None, forwards: vec![], ..machine() });
    let mut moving = target("db", Running::Stopped);
    moving.life = Life::Restoring;
    moving.life_since = Some("2026-11-25T02:58:30Z".to_owned());
    let status = Status {
        targets: vec![web, moving, fresh],
        store: store_status(StoreState::Full),
        problems: vec![Problem::of_disk(
            "mail-2",
            "vda",
            Trouble::DiskFails { why: "the disk is gone\nplug it in again".to_owned() },
        )],
    };
    fits(&status::status(&status, &look(Some(60))), 60);
    assert_snapshot!(status::status(&status, &look(Some(60))), @r"
    ● web     running       on try-1  3 seconds ago
        process  4711 (kvm)
        console  bygone console web
        display  vnc:127.0.0.1:1
        ports    tcp:127.0.0.1:2222-:22, tcp:127.0.0.1:8080-:80
        present  main
        history  seq:1000002, durable to seq:999999, 11 GiB in
                 the store
        written  3 MiB since the manager began
        vda    20 GiB  store  complete
        data  100 GiB  tap    45% read  /dev/vg/data
    ○ db      restoring     on main  3 seconds ago
        since    1 minute ago
        history  seq:1000002, 0 B in the store
        vda    20 GiB  store  complete
    ? mail-2  left running  on main  no history yet
        process  4711 (kvm)
        console  bygone console mail-2
        branch   nobody knows on which one it runs
        history  0 B in the store
        vda    20 GiB  store  complete

    store /var/lib/bygone  full
        11 GiB used for 140 GiB of disks, 300 GiB free
    ! mail-2/vda: the disk outside the store takes no writes:
      the disk is gone
      plug it in again; the store has everything
      hint: check that disk and the system's log (`dmesg`)
    ");
    assert_snapshot!(status::status(&status, &look(Some(80))), @r"
    ● web     running       on try-1  3 seconds ago
        process  4711 (kvm)
        console  bygone console web
        display  vnc:127.0.0.1:1
        ports    tcp:127.0.0.1:2222-:22, tcp:127.0.0.1:8080-:80
        present  main
        history  seq:1000002, durable to seq:999999, 11 GiB in the store
        written  3 MiB since the manager began
        vda    20 GiB  store  complete
        data  100 GiB  tap    45% read  /dev/vg/data
    ○ db      restoring     on main  3 seconds ago
        since    1 minute ago
        history  seq:1000002, 0 B in the store
        vda    20 GiB  store  complete
    ? mail-2  left running  on main  no history yet
        process  4711 (kvm)
        console  bygone console mail-2
        branch   nobody knows on which one it runs
        history  0 B in the store
        vda    20 GiB  store  complete

    store /var/lib/bygone  full
        11 GiB used for 140 GiB of disks, 300 GiB free
    ! mail-2/vda: the disk outside the store takes no writes: the disk is gone
      plug it in again; the store has everything
      hint: check that disk and the system's log (`dmesg`)
    ");
}

#[test]
fn a_status_says_what_is_known_of_a_disk_that_nobody_has_open() {
    let mut web = target("web", Running::Stopped);
    let failures = [
        Failure::DiskAway {
            target: "web".to_owned(),
            disk: "vda".to_owned(),
            path: "/srv/a.img".to_owned(),
            problem: IoProblem::NotFound,
            why: "No such file or directory".to_owned(),
        },
        Failure::DiskResized { path: "/srv/b.img".to_owned(), found_bytes: 2 << 20, was_bytes: 1 << 20 },
        Failure::DiskResized { path: "/srv/c.img".to_owned(), found_bytes: 0, was_bytes: 1 << 20 },
    ];
    let ids = ["vda", "vdb", "vdc"];
    web.disks = ids.iter().map(|id| disk(id, DiskMode::Tap)).collect();
    let problem = |(id, why)| Problem::of_disk("web", id, Trouble::DiskUnusable { why });
    web.problems = ids.into_iter().zip(failures).map(problem).collect();
    let place = |place: &str, since: &str| KnownDamage {
        place: place.to_owned(),
        detail: "the checksum does not match".to_owned(),
        since: since.to_owned(),
    };
    let damaged = vec![
        place("log/1.seg at byte 9", "2026-11-24T05:59:00Z"),
        place("log/2.seg at byte 9", "2026-11-25T02:58:30Z"),
    ];
    web.verified = Some(Verification { time: "2026-11-25T02:58:30Z".to_owned(), complete: false, damaged });
    let known = Trouble::DamageKnown {
        places: 2,
        place: "log/1.seg at byte 9".to_owned(),
        damage: "the checksum does not match".to_owned(),
    };
    let mut problems = web.problems.clone();
    problems.push(Problem::of_target("web", known));
    let status = Status { targets: vec![web], store: store_status(StoreState::Ok), problems };
    assert_snapshot!(status::status(&status, &look(Some(80))), @r"
    ○ web  stopped  on main  3 seconds ago
        history   seq:1000002, 0 B in the store
        verified  1 minute ago, in part: 2 damaged places, known since yesterday
                  14:59
        vda  20 GiB  tap  missing
        vdb  20 GiB  tap  resized
        vdc  20 GiB  tap  resized

    store /var/lib/bygone  ok
        11 GiB used for 140 GiB of disks, 300 GiB free
    ! web/vda: disk /srv/a.img: No such file or directory
      hint: is its file system mounted, its device attached? if it is lost, the
      store has it: bygone restore web --at now --disk vda --to /srv/a.img
    ! web/vdb: disk /srv/b.img has 2097152 bytes; it had 1048576 when it was added
      hint: a disk keeps its size; what was added goes again with (if /srv/b.img is
      a file): truncate -s 1048576 /srv/b.img
    ! web/vdc: disk /srv/c.img has 0 bytes; it had 1048576 when it was added
      hint: a disk keeps its size; give it that back (if it is a file: truncate -s
      1048576 /srv/c.img), then restore a moment before it was cut: what was
      cut off is in the store
    ! web: 2 damaged places known from verifying, such as log/1.seg at byte 9: the
      checksum does not match
      hint: restore from moments and disks that are whole, and check the medium;
      `bygone verify` looks again
    ");
}

#[test]
fn what_was_removed_is_listed_with_what_brings_it_back() {
    let kept = |number: u32| RemovedInfo {
        name: "web".to_owned(),
        kept_as: format!("web-{number}"),
        removed: "2026-11-24T05:59:00Z".to_owned(),
        used_bytes: 3 << 30,
        disks: vec![],
    };
    let listed = target::removed_list(&[kept(1), kept(2)], &look(Some(60)));
    fits(&listed, 60);
    assert_snapshot!(listed, @r"
    NAME  REMOVED          DISKS  SIZE  TAKES  KEPT AS
    web   yesterday 14:59      0   0 B  3 GiB  web-1
    web   yesterday 14:59      0   0 B  3 GiB  web-2
    Bring one back: bygone target restore KEPT-AS [--as NAME]
    ");
    assert_snapshot!(target::removed_list(&[], &look(None)), @"No history of a removed target is kept.");
}

#[test]
fn an_undo_says_how_to_go_further_back() {
    let mut moment = history()[2].clone();
    moment.label =
        "the restore on branch restored-1 was taken back; branch main is the present again".to_owned();
    let undone = branches::undone("web", &moment, &look(None));
    assert_eq!(fit(&undone, None), undone);
    fits(&fit(&undone, Some(60)), 60);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&fit(&undone, Some(60))), words(&undone));
    assert_snapshot!(undone, @r"
    web: the restore on branch restored-1 was taken back; branch main is the present again, as of yesterday 14:59 (seq:912345)
    Another undo takes that back. To go further back: bygone branch promote web BRANCH, or bygone restore web --at WHEN --in-place
    ");
}

#[test]
fn an_empty_store_says_how_to_begin() {
    let status = Status { targets: vec![], store: store_status(StoreState::Ok), problems: vec![] };
    assert_snapshot!(status::status(&status, &look(None)), @r"
    Nothing is protected yet. Begin with: bygone target add NAME --disk store:20G

    store /var/lib/bygone  ok
        11 GiB used for 140 GiB of disks, 300 GiB free
    ");
    let why = Failure::Missing { path: "/s/targets".to_owned() };
    for problem in [
        Problem::of_store(Trouble::NoTargets { why: why.clone() }),
        Problem::of_target("web", Trouble::Unavailable { why }),
    ] {
        let problems = vec![problem];
        let status = Status { targets: vec![], store: store_status(StoreState::Ok), problems };
        assert!(!status::status(&status, &look(None)).contains("Nothing is protected"));
    }
}

#[test]
fn a_target_is_shown_by_the_keys_that_change_it() {
    assert_snapshot!(target::added(&info(), &look(None)), @r"
    ● web  running  on main  3 seconds ago
        history  seq:1000002, 0 B in the store
        vda  20 GiB  store  complete

        memory     1 GiB
        cpus       2
        firmware   bios
        kernel     /boot/vmlinuz
        append     console=ttyS0
        net        none
        autostart  false
    Start it with: bygone run web
    ");
    assert_snapshot!(target::list(&[info()], &look(None)), @r"
    NAME  STATE    BRANCH  DISKS    SIZE  NEWEST
    web   running  main        1  20 GiB  3 seconds ago
    ");
    assert_snapshot!(target::list(&[], &look(None)), @"Nothing is protected yet. Begin with: bygone target add NAME --disk store:20G");
}

#[test]
fn removing_says_where_history_went() {
    let kept = Removed { name: "web".to_owned(), kept_at: Some(PathBuf::from("/s/removed/web-1")) };
    let gone = Removed { name: "web".to_owned(), kept_at: None };
    assert_snapshot!(target::removed(&kept, &look(None)), @r"
    web is no longer protected. Its history is kept at /s/removed/web-1
    Bring it back with: bygone target restore web-1
    ");
    assert_snapshot!(target::removed(&gone, &look(None)), @"web and its history are gone.");
}

#[test]
fn branches_are_listed_with_where_they_start() {
    let main = BranchInfo {
        id: 0,
        name: "main".to_owned(),
        present: true,
        parent: None,
        parent_id: None,
        from_seq: None,
        from_time: None,
        made: "2026-11-16T00:10:00Z".to_owned(),
        dropped: None,
        running: false,
    };
    let attempt = BranchInfo {
        id: 1,
        name: "try-1".to_owned(),
        present: false,
        parent: Some("main".to_owned()),
        parent_id: Some(0),
        from_seq: Some(912_345),
        from_time: Some("2026-11-24T05:59:00Z".to_owned()),
        made: "2026-11-25T02:00:00Z".to_owned(),
        dropped: None,
        running: true,
    };
    let dropped = BranchInfo {
        dropped: Some("2026-11-24T05:59:00Z".to_owned()),
        id: 2,
        running: false,
        ..attempt.clone()
    };
    assert_snapshot!(branches::table(&[main.clone(), dropped], &look(None)), @r"
       BRANCH        MADE              STATE                    FROM
    *  main          2026-11-16 09:10
       id:2 (try-1)  today 11:00       dropped yesterday 14:59  main, yesterday 14:59 (seq:912345)
    ");
    assert_snapshot!(branches::table(&[main, attempt], &look(Some(80))), @r"
       BRANCH  MADE              STATE    FROM
    *  main    2026-11-16 09:10
       try-1   today 11:00       running  main, yesterday 14:59 (seq:912345)
    ");
}

#[test]
fn what_was_done_is_said_in_a_sentence() {
    let stop = &history()[2];
    let look = look(None);
    let run = Started {
        name: "web".to_owned(),
        branch: "try-1".to_owned(),
        from_seq: Some(912_345),
        from: None,
        pid: 4711,
        accelerator: Accelerator::Kvm,
        console: PathBuf::from("/s/run/web.console"),
        lost: Vec::new(),
    };
    let export = Exported {
        what: "web/vda@yesterday".to_owned(),
        at: "nbd+unix:///?socket=/tmp/x.sock".to_owned(),
        size_bytes: 20 << 30,
        read_only: true,
        seq: Some(912_345),
        moment: None,
        lost: Vec::new(),
    };
    let serving = |listen| machine::serving("/s/run/api.sock".as_ref(), "/s/run/nbd.sock".as_ref(), listen);
    let all = [
        machine::started(&run, &look),
        machine::stopped("web", stop, &look),
        machine::exported(&export, &look),
        serving(None),
        serving(Some("127.0.0.1:10809")),
        moments::named(&history()[4], &look),
        branches::promoted("web", stop, &look),
        branches::dropped("web", "try-1", stop, &look),
        store::compacted(&Compacted { before_bytes: 12 << 30, after_bytes: 9 << 30 }, &look),
        store::would_compact(&Compacted { before_bytes: 12 << 30, after_bytes: 9 << 30 }, &look),
        store::measured("log, 4 KiB writes", 812.345, "MiB/s", "a flush every 32"),
        store::measured("read then", 0.0712, "ms", ""),
    ];
    assert_snapshot!(all.concat(), @r"
    web runs on branch try-1 from seq:912345 (kvm, process 4711). Its console: bygone console web
    web stopped yesterday 14:59 (seq:912345, branch main, grade stopped): shut down in order
    web/vda@yesterday is served at nbd+unix:///?socket=/tmp/x.sock (20 GiB, read-only, seq:912345) until Ctrl-C
    The manager runs. API: /s/run/api.sock  NBD: nbd+unix:///?socket=/s/run/nbd.sock
    The manager runs. API: /s/run/api.sock  NBD: nbd+unix:///?socket=/s/run/nbd.sock and nbd://127.0.0.1:10809
    point:移行の前 is now (seq:1000002) on branch main
    main is the present of web now, as of yesterday 14:59 (seq:912345)
    Branch try-1 of web was given up, as of yesterday 14:59 (seq:912345)
    Undo takes that back: bygone undo web
    Freed 3 GiB: the store took 12 GiB and takes 9 GiB
    Would free 3 GiB: the store took 12 GiB and would take 9 GiB
    log, 4 KiB writes                       812 MiB/s    a flush every 32
    read then                              0.07 ms
    ");
}

#[test]
fn a_restore_says_what_is_where() {
    let disk = RestoredDisk {
        id: "vda".to_owned(),
        to: PathBuf::from("/mnt/web.img"),
        size_bytes: 20 << 30,
        written_bytes: 3 << 30,
        unreadable: Vec::new(),
        uncertain_bytes: 0,
    };
    let done =
        Restored { moment: history()[2].clone(), disks: vec![disk], branch: Some("main-2".to_owned()) };
    assert_snapshot!(restore::restored(&done, &look(Some(80))), @r"
    Restored as of yesterday 14:59 (seq:912345, branch main, grade stopped): shut down in order
        vda  20 GiB  3 GiB written  /mnt/web.img
    The present is branch main-2 now.
    ");
    let mut damaged = done;
    let place = |i: u64| Unreadable { first_byte: i * (1 << 20), len_bytes: 4096 };
    damaged.disks[0].unreadable = (0..22).map(place).collect();
    let shown = restore::restored(&damaged, &look(Some(80)));
    assert!(shown.contains("Of vda 88 KiB could not be read; zeroes stand there instead:\n"), "{shown}");
    assert!(shown.contains("  4096 bytes from byte 1048576 on\n"), "{shown}");
    assert!(shown.contains("  and 2 more places (--json lists them)\n"), "{shown}");
    let mut behind = damaged;
    behind.disks[0] =
        RestoredDisk { unreadable: Vec::new(), uncertain_bytes: 17 << 30, ..behind.disks[0].clone() };
    behind.moment.lost = vec![LostRecords {
        first_seq: 4000,
        last_seq: 4999,
        from: "2026-11-22T06:04:05.123456Z".to_owned(),
        to: "2026-11-22T06:09:00Z".to_owned(),
        in_doubt: true,
    }];
    assert_snapshot!(restore::restored(&behind, &look(None)), @r"
    Restored as of yesterday 14:59 (seq:912345, branch main, grade stopped): shut down in order
        vda  20 GiB  3 GiB written  /mnt/web.img
    Records before it are lost, and no index knows what they wrote: where they did, older content stands.
      seq:4000 to seq:4999, from 3 days ago 15:04 to 3 days ago 15:09; they may have made another branch the present
      17 GiB of vda may be older than this moment
    The present is branch main-2 now.
    ");
}

#[test]
fn damage_is_told_place_by_place() {
    let mut verified = Verified { checked_bytes: 12 << 30, damaged: vec![], complete: true };
    assert_snapshot!(store::verified(&verified, &look(None)), @"All is whole: 12 GiB checked, nothing left out");
    verified.complete = false;
    verified.damaged.push(DamagedPlace {
        place: "targets/web/log/000012.seg at 40960".to_owned(),
        detail: "the checksum does not match".to_owned(),
    });
    assert_snapshot!(store::verified(&verified, &look(None)), @r"
    1 damaged place: 12 GiB checked, the rest was not reached
      targets/web/log/000012.seg at 40960: the checksum does not match
    ");
}

#[test]
fn everything_fits_sixty_columns_and_no_name_is_cut() {
    let long = "web-server-of-the-department-in-the-basement";
    let look = look(Some(60));
    let info = TargetInfo { config: TargetConfig::new(long), status: target(long, Running::Stopped) };
    // The branch is the one that runs.
    let mut tried = self::info();
    tried.status.machine = Some(machine());
    let listed = target::list(&[info, tried], &look);
    fits(&listed, 60);
    assert_snapshot!(listed, @r"
    NAME                                          STATE
        BRANCH  DISKS    SIZE  NEWEST
    web-server-of-the-department-in-the-basement  stopped
        main        1  20 GiB  3 seconds ago
    web                                           running
        try-1       1  20 GiB  3 seconds ago
    ");
    assert!(target::list(&[], &look).contains("Nothing"));

    let mut moments = history();
    fits(&moments::table(&moments, &look), 60);
    moments[4].branch = "before-the-migration-to-the-new-database".to_owned();
    fits(&moments::table(&moments, &look), 60);
    assert_snapshot!(moments::table(&moments, &look), @r"
    WHEN              MOMENT       KIND      GRADE
        BRANCH        WHAT
    2026-11-16 09:10  seq:1        boot      crash
        main          first boot
    3 days ago 15:04  seq:812345   package   flushed
        main          before apt install nginx 1.22,
                      libnginx-mod-http-geoip2 and 4 more
    yesterday 14:59   seq:912345   shutdown  stopped
        main          shut down in order
    1 minute ago      seq:1000001  suspect   crash
        main          talked to �[31mevil.example (so it says)
    now               seq:1000002  point     clean
        before-the-…  移行の前
    ");

    let branch = BranchInfo {
        id: 1,
        name: "before-the-migration-to-the-new-database".to_owned(),
        present: false,
        parent: Some("restored-before-the-migration".to_owned()),
        parent_id: Some(0),
        from_seq: Some(912_345),
        from_time: Some("2026-11-24T05:59:00Z".to_owned()),
        made: "2026-11-25T02:00:00Z".to_owned(),
        dropped: None,
        running: true,
    };
    let main = BranchInfo { name: "main".to_owned(), present: true, parent: None, ..branch.clone() };
    let listed = branches::table(&[main, branch], &look);
    fits(&listed, 60);
    assert_snapshot!(listed, @r"
       BRANCH                                    MADE
        STATE    FROM
    *  main                                      today 11:00
        running
       before-the-migration-to-the-new-database  today 11:00
        running  restored-before-the-migration, yesterday 14:59
                 (seq:912345)
    ");

    let mut deep = target(long, Running::Running);
    let path = "/var/lib/libvirt/images/of/the/basement.raw";
    deep.disks[0].path = Some(PathBuf::from(path));
    let shown = status::target(&deep, &look);
    assert_eq!(fit(&shown, look.width), shown, "a table is as it is to be");
    fits(&shown, 60);
    assert!(shown.contains(long) && shown.contains(path), "{shown}");
}

#[test]
fn jobs_are_listed_with_how_far_they_are_and_what_came_of_them() {
    let job = |id, request: &str, state| JobInfo {
        id,
        request: request.to_owned(),
        target: Some("web".to_owned()),
        key: None,
        state,
        since: "2026-11-25T02:00:00Z".to_owned(),
        ended: None,
        progress: None,
        detached: false,
        failure: None,
        changed: None,
    };
    let doing = "filling vda".to_owned();
    let jobs = [
        job(1, "run", JobState::Done),
        JobInfo {
            failure: Some(Failure::Unavailable { target: "web".to_owned(), why: Box::new(Failure::BadKey) }),
            ..job(2, "undo", JobState::Failed)
        },
        job(3, "verify", JobState::Cancelled),
        job(4, "stop", JobState::Interrupted),
        JobInfo {
            changed: Some(vec!["restored as of 14:59".to_owned(), "disk vda is being filled".to_owned()]),
            ..job(5, "restore", JobState::Interrupted)
        },
        JobInfo {
            progress: Some(Progress { doing, done_bytes: 3 << 30, total_bytes: 4 << 30 }),
            ..job(6, "branch-promote", JobState::Running)
        },
        JobInfo { changed: Some(Vec::new()), ..job(7, "undo", JobState::Interrupted) },
    ];
    assert_snapshot!(jobs::table(&jobs, &look(Some(80))), @r#"
    JOB  REQUEST         TARGET  STATE        SINCE
      1  run             web     done         today 11:00
      2  undo            web     failed       today 11:00  target "web" cannot be
                                                           used: a key is 1 to 128
                                                           printable characters
      3  verify          web     cancelled    today 11:00
      4  stop            web     interrupted  today 11:00  what it had changed is
                                                           looked up when its target
                                                           is used next
      5  restore         web     interrupted  today 11:00  it had changed: restored
                                                           as of 14:59; disk vda is
                                                           being filled
      6  branch-promote  web     running      today 11:00  filling vda, 75 %
      7  undo            web     interrupted  today 11:00  it had changed nothing
    "#);
}
