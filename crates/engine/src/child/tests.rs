//! A child answers as if it were no process of its own, and whatever goes wrong in it costs one answer.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::Path,
    sync::Arc,
    thread,
};

use bygone_files::{Note, ReadError, State, Table, survey};
use serde::{Deserialize, Serialize};

use super::{
    inside::{Disk, serve},
    *,
};

/// What a child does that a disk has taken over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Misdeed {
    OpensFile,
    OpensSocket,
    StartsProgram,
    SendsSignal { to: i32 },
    TakesMemory,
    TakesTime,
    Sleeps,
    Panics,
    Ends,
    ReadsWithoutEnd { bytes: usize },
    AnswersWithoutEnd,
}

impl Misdeed {
    pub(super) fn commit(self, disk: &Disk<'_>) -> Answer {
        let done = match self {
            Misdeed::OpensFile => fs::read("/etc/passwd").is_ok(),
            Misdeed::OpensSocket => UdpSocket::bind("127.0.0.1:0").is_ok(),
            Misdeed::StartsProgram => Command::new("/bin/true").status().is_ok(),
            Misdeed::SendsSignal { to } => rustix::process::Pid::from_raw(to)
                .is_some_and(|to| rustix::process::test_kill_process(to).is_ok()),
            Misdeed::TakesMemory => std::hint::black_box(vec![1_u8; 1 << 30]).len() > 1,
            Misdeed::TakesTime => loop {
                std::hint::spin_loop();
            },
            Misdeed::Sleeps => {
                // A futex that nobody wakes: the calls that sleep are not allowed.
                let (lock, changed) = (Mutex::new(()), Condvar::new());
                let held = lock.lock().unwrap();
                drop(changed.wait_timeout(held, Duration::from_secs(3600)));
                true
            }
            Misdeed::Panics => panic!("as it was told"),
            Misdeed::Ends => std::process::exit(3),
            Misdeed::ReadsWithoutEnd { bytes } => loop {
                let _ = disk.read_piece(0, &mut vec![0; bytes]);
            },
            Misdeed::AnswersWithoutEnd => return Answer::Failed("x".repeat(5 << 20)),
        };
        Answer::Failed(format!("done: {done}"))
    }
}

/// Not a test: what the others start as their child.
#[test]
#[ignore = "it is the child that other tests start"]
fn the_child_of_these_tests() {
    match serve() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        result => std::process::exit(i32::from(result.is_err())),
    }
}

/// Bytes in memory, of which those at `hurt` cannot be read.
struct Bytes {
    bytes: Vec<u8>,
    hurt: Option<u64>,
}

impl Blocks for Bytes {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.hurt.is_some_and(|at| (offset..offset + buf.len() as u64).contains(&at)) {
            return Err(ReadError::failed(offset, buf.len(), io::Error::other("the medium is worn")));
        }
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// A disk with an MBR, an ext4 file system in use, an encrypted volume, and a partition outside the disk.
fn disk() -> Bytes {
    let mut bytes = vec![0; 4 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (i, (start, sectors)) in [(2048_u32, 2048_u32), (4096, 4096), (100_000, 8)].into_iter().enumerate() {
        let entry = &mut bytes[446 + 16 * i..];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    }
    let superblock = &mut bytes[(1 << 20) + 1024..];
    superblock[0x38..0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
    superblock[0x3a] = 1;
    superblock[0x60] = 0x44;
    bytes[2 << 20..][..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
    Bytes { bytes, hurt: None }
}

fn misbehave(surveyor: &mut Surveyor<'_>, misdeed: Misdeed) -> Result<Answer, ChildError> {
    surveyor.ask(&Question::Misbehave(misdeed), &disk())
}

fn lives(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn a_child_answers_what_the_same_code_answers_here() {
    let children = Children::default();
    let mut surveyor = children.surveyor();
    for hurt in [None, Some(1 << 20), Some(2 << 20), Some(4096)] {
        let disk = Bytes { hurt, ..disk() };
        assert_eq!(surveyor.survey(&disk).unwrap(), survey(&disk).unwrap(), "{hurt:?}");
    }
    let all = disk();
    assert!(surveyor.survey(&all).unwrap().volumes.len() == 2 && surveyor.child.is_some());
    let hurt = Bytes { hurt: Some(0), ..disk() };
    let Err(ChildError::Failed(said)) = surveyor.survey(&hurt) else { panic!("it was not read") };
    assert_eq!(said, survey(&hurt).unwrap_err().to_string());
    assert!(said.contains("the medium is worn"), "{said}");
    assert_eq!(children.trouble(), None);
}

#[test]
fn a_child_says_which_software_is_on_a_disk() {
    let children = Children::default();
    let mut surveyor = children.surveyor();
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("root"), folder.path().join("disk"));
    fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    let status = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n";
    fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).args([&root, &image]).status().unwrap();
    assert!(made.success());
    let disk = Bytes { bytes: fs::read(&image).unwrap(), hurt: None };
    let (said, found) = (surveyor.glances(&disk).unwrap(), surveyor.software(&disk).unwrap());
    assert_eq!(said, bygone_files::glances(&disk).unwrap());
    assert_eq!(found, bygone_files::software(&disk).unwrap());
    assert_eq!(found[0].databases.as_ref().unwrap()[0].packages[0].name, "a");
    assert!(said[0].glance.is_some());
}

#[test]
fn an_answer_about_software_is_bounded() {
    use bygone_files::{Database, Package, PackageManager, PackageState, Software};
    let package = |name: String| Package {
        name,
        arch: "\u{1b}[31m".to_owned(),
        version: "1".to_owned(),
        state: PackageState::Installed,
    };
    let answer = |packages| {
        let databases = Some(vec![Database { manager: PackageManager::Dpkg, packages }]);
        Answer::Software(vec![Software { start: 0, databases }]).checked()
    };
    let Ok(Answer::Software(checked)) = answer(vec![package("b".repeat(5000)), package("a".to_owned())])
    else {
        panic!("it was refused")
    };
    let packages = &checked[0].databases.as_ref().unwrap()[0].packages;
    assert_eq!((packages[0].name.as_str(), packages[1].name.len()), ("a", 512), "sorted, and cut");
    assert!(!packages[0].arch.contains('\u{1b}'));
    assert!(answer(vec![package("a".to_owned()); 100_001]).is_err());
    let many = vec![Software { start: 0, databases: None }; 2049];
    assert!(Answer::Software(many).checked().is_err());
}

#[test]
fn whatever_a_child_tries_costs_one_answer_and_nothing_else() {
    let wanted = survey(&disk()).unwrap();
    let may_not = "was ended: it tried what it may not";
    let without_end = "it reads without end";
    let here = i32::try_from(std::process::id()).unwrap();
    let children = Children::default();
    for (misdeed, said) in [
        (Misdeed::OpensSocket, may_not),
        (Misdeed::StartsProgram, may_not),
        (Misdeed::SendsSignal { to: here }, may_not),
        (Misdeed::TakesMemory, "gave up: it needed too much memory"),
        (Misdeed::TakesTime, "was ended: it needed too much time"),
        (Misdeed::Ends, "ended (exit status: 3)"),
        (Misdeed::ReadsWithoutEnd { bytes: 1 << 20 }, without_end),
        (Misdeed::ReadsWithoutEnd { bytes: 0 }, without_end),
    ] {
        let mut surveyor = children.surveyor();
        let error = misbehave(&mut surveyor, misdeed).unwrap_err().to_string();
        assert!(error.contains(said), "{misdeed:?}: {error}");
        assert!(surveyor.child.is_none(), "{misdeed:?}");
        assert_eq!(surveyor.survey(&disk()).unwrap(), wanted, "{misdeed:?}");
    }
}

#[test]
fn an_answer_that_is_too_long_is_none() {
    let answer = misbehave(&mut Children::default().surveyor(), Misdeed::AnswersWithoutEnd).unwrap();
    assert!(
        matches!(&answer, Answer::Failed(said) if said.contains("more than one answer holds")),
        "{answer:?}"
    );
}

#[test]
fn a_child_opens_no_file() {
    let answer = misbehave(&mut Children::default().surveyor(), Misdeed::OpensFile).unwrap();
    assert!(matches!(&answer, Answer::Failed(said) if said == "done: false"), "{answer:?}");
}

#[test]
fn a_child_that_panics_says_so_and_goes_on() {
    let children = Children::default();
    let mut surveyor = children.surveyor();
    let answer = misbehave(&mut surveyor, Misdeed::Panics).unwrap();
    assert!(matches!(&answer, Answer::Failed(said) if said.contains("a fault of ours")), "{answer:?}");
    let child = surveyor.child.as_ref().unwrap().process.id();
    assert_eq!(surveyor.survey(&disk()).unwrap(), survey(&disk()).unwrap());
    assert_eq!(surveyor.child.as_ref().unwrap().process.id(), child);
}

#[test]
fn a_child_gives_no_more_answers_than_its_time_is_for() {
    let children = Children::default();
    let mut surveyor = children.surveyor();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..ANSWERS_PER_CHILD + 1 {
        surveyor.survey(&disk()).unwrap();
        seen.extend(surveyor.child.as_ref().map(|child| child.process.id()));
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_child_that_takes_too_long_is_ended() {
    let children = Children::default();
    let mut surveyor = children.surveyor();
    surveyor.answer_max = Duration::from_secs(2);
    let child = surveyor.start(&mut Budget::new(ANSWER_MAX)).unwrap();
    let process = child.process.id();
    surveyor.child = Some(child);
    let error = misbehave(&mut surveyor, Misdeed::Sleeps).unwrap_err();
    assert!(matches!(error, ChildError::TimedOut), "{error}");
    assert!(!lives(process));
}

#[test]
fn a_child_is_confined_before_it_says_a_word() {
    let children = Children::default();
    let child = children.surveyor().start(&mut Budget::new(ANSWER_MAX)).unwrap();
    let process = child.process.id();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for line in [
        "Name:\tbygone-child",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
    ] {
        // The capabilities are those of a thread, and in a test the child is not the first one.
        let of_thread = fs::read_dir(format!("/proc/{process}/task")).unwrap().any(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            status.lines().any(|found| found == line)
        });
        assert!(of_thread, "{line}: {status}");
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(limit.contains(&(512_u64 << 20).to_string()), "{limit}");
    // Whoever may look at what is not dumpable finds standard input, output and error, and the socket once more.
    if rustix::process::geteuid().is_root() {
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let found: Vec<_> = descriptors.map(|found| fs::read_link(found.unwrap().path()).unwrap()).collect();
        assert!(found.len() <= 4, "{found:?}");
        assert_eq!(fs::read(format!("/proc/{process}/environ")).unwrap(), b"");
    }
    drop(child);
    assert!(!lives(process));
}

#[test]
fn landlock_alone_takes_files_and_network_from_a_thread() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let confined = thread::spawn(move || {
        confine::restrict_files_and_network().unwrap();
        (fs::read("/etc/passwd").is_ok(), TcpStream::connect(address).is_ok())
    });
    assert_eq!(confined.join().unwrap(), (false, false));
    assert!(fs::read("/etc/passwd").is_ok() && TcpStream::connect(address).is_ok());
}

#[test]
fn a_child_that_somebody_else_ends_is_replaced() {
    let children = Children::default();
    let mut surveyor = children.surveyor();
    for _ in 0..2 {
        let child = surveyor.start(&mut Budget::new(ANSWER_MAX)).unwrap();
        let process = rustix::process::Pid::from_child(&child.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        surveyor.child = Some(child);
        assert_eq!(surveyor.survey(&disk()).unwrap(), survey(&disk()).unwrap());
    }
}

#[test]
fn a_child_ends_with_whoever_started_it() {
    let process = thread::spawn(|| {
        let children = Children::default();
        let child = children.surveyor().start(&mut Budget::new(ANSWER_MAX)).unwrap();
        let process = child.process.id();
        // As if this side were gone without a word: neither killed nor waited for, the socket still open.
        std::mem::forget(child);
        process
    });
    let process = process.join().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(format!("/proc/{process}/stat")).unwrap().contains(") Z ") {
        assert!(Instant::now() < end, "it lives");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn there_are_never_more_children_than_that() {
    let children = Children::default();
    let held: Vec<_> = (0..CHILDREN_MAX).map(|_| children.surveyor()).collect();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| children.surveyor().survey(&disk()).unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(held);
        assert_eq!(waiting.join().unwrap(), survey(&disk()).unwrap());
    });
    assert_eq!(*children.free.lock().unwrap(), CHILDREN_MAX);
}

#[test]
fn those_who_can_wait_leave_children_to_others() {
    let children = Arc::new(Children::default());
    let patient: Vec<_> = (0..CHILDREN_MAX / 2).map(|_| children.patient_surveyor()).collect();
    let (another, (begun, begins)) = (children.clone(), std::sync::mpsc::channel());
    let waits = thread::spawn(move || {
        let surveyor = another.patient_surveyor();
        begun.send(()).unwrap();
        drop(surveyor);
    });
    // Half of them are free for a stop, and stay so.
    let stops: Vec<_> = (0..CHILDREN_MAX / 2).map(|_| children.surveyor()).collect();
    begins.recv_timeout(Duration::from_millis(200)).unwrap_err();
    drop(stops);
    begins.recv_timeout(Duration::from_millis(200)).unwrap_err();
    drop(patient);
    begins.recv_timeout(Duration::from_secs(60)).unwrap();
    waits.join().unwrap();
}

#[test]
fn whether_a_child_can_work_is_known_before_it_is_needed() {
    let children = Children::default();
    children.try_one();
    assert_eq!(children.trouble(), None);
    let surveyor = children.surveyor();
    // No time: as where it never begins.
    surveyor.start(&mut Budget::new(Duration::ZERO)).unwrap_err();
    assert!(children.trouble().unwrap().contains("no answer in time"));
    surveyor.start(&mut Budget::new(ANSWER_MAX)).unwrap();
    assert_eq!(children.trouble(), None);
}

/// What comes of a child that behaves like this once it was asked.
fn played(time: Duration, act: impl FnOnce(UnixStream) + Send + 'static) -> Result<Answer, ChildError> {
    let (ours, mut its) = UnixStream::pair().unwrap();
    let mut talk = Talk::new(ours).unwrap();
    let child = thread::spawn(move || {
        let asked = Frame::read(&mut its).unwrap();
        assert!(matches!(asked, Some(Frame::Request(_))), "{asked:?}");
        act(its);
    });
    let answer = talk.ask(&Question::Survey, &disk(), &mut Budget::new(time));
    drop(talk);
    child.join().unwrap();
    answer
}

/// What comes of a child that says this, byte for byte, and then stays or goes.
fn said(words: Vec<u8>, stays: bool) -> ChildError {
    let answer = played(Duration::from_secs(1), move |mut its| {
        // It is not heard to the end.
        let _ = its.write_all(&words);
        if stays {
            let _ = its.read(&mut [0]);
        }
    });
    answer.unwrap_err()
}

fn frame(kind: u8, len: u32, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &len.to_le_bytes(), bytes].concat()
}

#[test]
fn what_a_child_says_is_believed_no_more_than_the_disk() {
    let read = |offset: u64, len: u32| [&offset.to_le_bytes()[..], &len.to_le_bytes()].concat();
    for words in [
        frame(0, 0, b""),
        frame(255, 0, b""),
        frame(19, u32::MAX, b""),
        frame(19, 2, b"{}"),
        frame(19, 6, b"\"\xff\xff\xff\xff\""),
        frame(19, 9, br#"{"Bad":1}"#),
        frame(18, 3, b"abc"),
        frame(18, 12, &read(0, u32::MAX)),
        frame(16, 1, b"x"),
        frame(1, 2, b"{}"),
        frame(2, 0, b""),
        frame(16, 0, b""),
        frame(17, 4, b"\"no\""),
    ] {
        let error = said(words.clone(), true);
        assert!(matches!(error, ChildError::Misbehaved(_)), "{words:?}: {error}");
    }
    for words in [vec![], vec![19], frame(19, 100, b"x")] {
        let error = said(words.clone(), false);
        assert!(matches!(error, ChildError::Ended(_)), "{words:?}: {error}");
        let error = said(words.clone(), true);
        assert!(matches!(error, ChildError::TimedOut), "{words:?}: {error}");
    }
}

#[test]
fn a_child_that_hardly_listens_is_given_up() {
    let error = played(Duration::from_secs(2), |mut its| {
        let wanted = Frame::Read { offset: 0, len_bytes: 1 << 20 }.encode().unwrap();
        // More answers than a socket holds, of which it takes little by little.
        for _ in 0..8 {
            let _ = its.write_all(&wanted);
        }
        for _ in 0..60 {
            let _ = its.read(&mut [0; 100]);
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(matches!(error, Err(ChildError::TimedOut)), "{error:?}");
}

#[test]
fn an_answer_is_as_large_and_plain_as_an_intact_child_makes_it() {
    let survey = survey(&disk()).unwrap();
    let answered = |answer: Answer| {
        let bytes = Frame::Answer(answer).encode().unwrap();
        played(Duration::from_secs(60), move |mut its| its.write_all(&bytes).unwrap())
    };
    let many = Survey { volumes: vec![survey.volumes[0].clone(); 3000], ..survey.clone() };
    assert!(matches!(answered(Answer::Survey(many)), Err(ChildError::Misbehaved(_))));
    let notes = vec![Note::NoUsableGpt; 3000];
    let many = Survey { table: Table { notes, ..survey.table.clone() }, ..survey.clone() };
    assert!(matches!(answered(Answer::Survey(many)), Err(ChildError::Misbehaved(_))));

    let mut rude = survey;
    rude.volumes[0].evidence = format!("\u{1b}[2J\n{}", "x".repeat(10_000));
    let Ok(Answer::Survey(plain)) = answered(Answer::Survey(rude)) else { panic!("it was refused") };
    let evidence = &plain.volumes[0].evidence;
    assert!(evidence.starts_with("\u{fffd}[2J\u{fffd}xxx") && evidence.chars().count() == 512, "{evidence}");
    assert_eq!(plain.volumes[0].state, State::Dirty);
    let Ok(Answer::Failed(text)) = answered(Answer::Failed("\n".repeat(1000))) else {
        panic!("it was refused")
    };
    assert_eq!(text, "\u{fffd}".repeat(512));
}
