//! A child answers as if it were no process of its own, and whatever goes wrong in it costs one answer.

use std::{fs, io::Write as _, net::UdpSocket, thread};

use bygone_files::{ReadError, survey};
use serde::{Deserialize, Serialize};

use super::{
    inside::{Disk, serve},
    *,
};

/// What a child does that was led astray by a disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Misdeed {
    OpensFile,
    OpensSocket,
    StartsProgram,
    SendsSignal,
    TakesMemory,
    TakesTime,
    Panics,
    Ends,
    ReadsWithoutEnd,
    AnswersWithoutEnd,
}

impl Misdeed {
    pub(super) fn commit(self, disk: &Disk<'_>) -> Answer {
        let done = match self {
            Misdeed::OpensFile => fs::read("/etc/passwd").is_ok(),
            Misdeed::OpensSocket => UdpSocket::bind("127.0.0.1:0").is_ok(),
            Misdeed::StartsProgram => Command::new("/bin/true").status().is_ok(),
            Misdeed::SendsSignal => rustix::process::getppid()
                .is_some_and(|parent| rustix::process::test_kill_process(parent).is_ok()),
            Misdeed::TakesMemory => std::hint::black_box(vec![1_u8; 2 << 30]).len() > 1,
            Misdeed::TakesTime => loop {
                std::hint::spin_loop();
            },
            Misdeed::Panics => panic!("as it was told"),
            Misdeed::Ends => std::process::exit(3),
            Misdeed::ReadsWithoutEnd => loop {
                let _ = disk.read_at(0, &mut [0; 4096]);
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

#[test]
fn a_child_answers_what_the_same_code_answers_here() {
    let mut reader = Reader::new();
    for hurt in [None, Some(1 << 20), Some(2 << 20), Some(4096)] {
        let disk = Bytes { hurt, ..disk() };
        assert_eq!(reader.survey(&disk).unwrap(), survey(&disk).unwrap(), "{hurt:?}");
    }
    let all = disk();
    assert!(reader.survey(&all).unwrap().volumes.len() == 2 && reader.child.is_some());
    let hurt = Bytes { hurt: Some(0), ..disk() };
    let Err(Trouble::Failed(said)) = reader.survey(&hurt) else { panic!("it was not read") };
    assert_eq!(said, survey(&hurt).unwrap_err().to_string());
    assert!(said.contains("the medium is worn"), "{said}");
}

#[test]
fn whatever_a_child_tries_costs_one_answer_and_nothing_else() {
    let disk = disk();
    let wanted = survey(&disk).unwrap();
    let may_not = "was ended: it tried what it may not";
    for (misdeed, said) in [
        (Misdeed::OpensSocket, may_not),
        (Misdeed::StartsProgram, may_not),
        (Misdeed::SendsSignal, may_not),
        (Misdeed::TakesMemory, "gave up: it needed too much memory"),
        (Misdeed::Ends, "ended (exit status: 3)"),
        (Misdeed::ReadsWithoutEnd, "it reads without end"),
        (Misdeed::AnswersWithoutEnd, "ended (exit status: 1)"),
    ] {
        let mut reader = Reader::new();
        let trouble = reader.ask(&Question::Misbehave(misdeed), &disk).unwrap_err().to_string();
        assert!(trouble.contains(said), "{misdeed:?}: {trouble}");
        assert!(reader.child.is_none(), "{misdeed:?}");
        assert_eq!(reader.survey(&disk).unwrap(), wanted, "{misdeed:?}");
    }
}

#[test]
fn a_child_opens_no_file() {
    let answer = Reader::new().ask(&Question::Misbehave(Misdeed::OpensFile), &disk()).unwrap();
    assert!(matches!(&answer, Answer::Failed(said) if said == "done: false"), "{answer:?}");
}

#[test]
fn a_child_that_panics_says_so_and_goes_on() {
    let (disk, mut reader) = (disk(), Reader::new());
    let answer = reader.ask(&Question::Misbehave(Misdeed::Panics), &disk).unwrap();
    assert!(matches!(&answer, Answer::Failed(said) if said.contains("a fault of ours")), "{answer:?}");
    let child = reader.child.as_ref().unwrap().process.id();
    assert_eq!(reader.survey(&disk).unwrap(), survey(&disk).unwrap());
    assert_eq!(reader.child.as_ref().unwrap().process.id(), child);
}

#[test]
fn a_child_that_is_lost_in_thought_is_ended() {
    let (disk, mut reader) = (disk(), Reader { child: None, patience: Duration::from_secs(2) });
    let child = Child::start(reader.patience).unwrap();
    let process = child.process.id();
    reader.child = Some(child);
    let trouble = reader.ask(&Question::Misbehave(Misdeed::TakesTime), &disk).unwrap_err();
    assert!(matches!(trouble, Trouble::Silent(_)), "{trouble}");
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
}

#[test]
fn a_child_is_confined_before_it_says_a_word() {
    let child = Child::start(PATIENCE).unwrap();
    let process = child.process.id();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
        assert!(status.lines().any(|found| found == line), "{line}: {status}");
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(limit.contains(&(1_u64 << 30).to_string()), "{limit}");
    // Standard input, output and error, and the socket under a number of its own.
    if let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) {
        let found: Vec<_> = descriptors.map(|found| fs::read_link(found.unwrap().path()).unwrap()).collect();
        assert!(found.len() <= 4, "{found:?}");
    }
    assert_eq!(fs::read(format!("/proc/{process}/environ")).unwrap_or_default(), b"");
    drop(child);
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
}

#[test]
fn a_child_that_somebody_else_ends_is_replaced() {
    let (disk, mut reader) = (disk(), Reader::new());
    for _ in 0..2 {
        let child = Child::start(PATIENCE).unwrap();
        let process = rustix::process::Pid::from_child(&child.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        reader.child = Some(child);
        assert_eq!(reader.survey(&disk).unwrap(), survey(&disk).unwrap());
    }
}

/// What comes of a child that says this, byte for byte, once it was asked.
fn told(words: Vec<u8>, stays: bool) -> Trouble {
    let (ours, its) = UnixStream::pair().unwrap();
    let mut talk = Talk::new(ours, Duration::from_secs(1)).unwrap();
    let child = thread::spawn(move || {
        let mut its = its;
        let asked = Frame::read(&mut its).unwrap();
        assert!(matches!(asked, Some(Frame::Question(_))), "{asked:?}");
        // It is not heard to the end.
        let _ = its.write_all(&words);
        if stays {
            let _ = Frame::read(&mut its);
        }
    });
    let trouble = talk.ask(&Question::Survey, &disk()).unwrap_err();
    drop(talk);
    child.join().unwrap();
    trouble
}

#[test]
fn what_a_child_says_is_believed_no_more_than_the_disk() {
    let frame = |kind: u8, len: u32, bytes: &[u8]| [&[kind][..], &len.to_le_bytes(), bytes].concat();
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
        let trouble = told(words.clone(), true);
        assert!(matches!(trouble, Trouble::Astray(_)), "{words:?}: {trouble}");
    }
    for words in [vec![], vec![19], frame(19, 100, b"x")] {
        let trouble = told(words.clone(), false);
        assert!(matches!(trouble, Trouble::Ended(_)), "{words:?}: {trouble}");
        let trouble = told(words.clone(), true);
        assert!(matches!(trouble, Trouble::Silent(_)), "{words:?}: {trouble}");
    }
}
