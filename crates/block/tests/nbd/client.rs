//! An NBD client written from the protocol's text alone: it shares no code with the server and sends whatever a test
//! asks for, valid or not.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const ZEROES: u16 = 6;
pub(crate) const STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const EOVERFLOW: u32 = 75;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED: u32 = 8;
pub(crate) const OPT_LIST_CONTEXTS: u32 = 9;
pub(crate) const OPT_SET_CONTEXTS: u32 = 10;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_CONTEXT: u32 = 4;
pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const ERR_POLICY: u32 = 0x8000_0002;
pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const ERR_SHUTDOWN: u32 = 0x8000_0007;
pub(crate) const ERR_TOO_BIG: u32 = 0x8000_0009;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) handshake_flags: u16,
    /// Structured replies were agreed on.
    structured: bool,
}

/// One message of the server in transmission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple { error: u32, cookie: u64 },
    Chunk { done: bool, kind: u16, cookie: u64, data: Vec<u8> },
}

/// The result of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// 0 is success.
    pub(crate) error: u32,
    pub(crate) message: String,
    /// Offsets of `ERROR_OFFSET` chunks.
    pub(crate) failed_at: Vec<u64>,
    /// Data chunks: offset and contents, in the order they came.
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    /// Block status: length and flags.
    pub(crate) extents: Vec<(u32, u32)>,
}

pub(crate) type Answers = Vec<(u32, Vec<u8>)>;

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

pub(crate) fn request(kind: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

pub(crate) fn write_request(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = request(WRITE, flags, cookie, offset, u32::try_from(data.len()).unwrap());
    bytes.extend(data);
    bytes
}

pub(crate) fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(crate) fn info_data(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = text(name);
    data.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
    wanted.iter().for_each(|one| data.extend(one.to_be_bytes()));
    data
}

pub(crate) fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = text(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    queries.iter().for_each(|query| data.extend(text(query)));
    data
}

impl Client {
    /// Connects and exchanges flags.
    pub(crate) fn connect(path: &Path) -> Self {
        let mut client = Self::silent(path);
        client.handshake_flags = client.greeting();
        client.send(&3_u32.to_be_bytes());
        client
    }

    /// Connects and says nothing.
    pub(crate) fn silent(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, handshake_flags: 0, structured: false }
    }

    pub(crate) fn greeting(&mut self) -> u16 {
        let greeting = self.bytes(18).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        u16::from_be_bytes([greeting[16], greeting[17]])
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Asserts that the server closed the connection without sending more.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"", "the server had more to say"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    /// All replies to one option.
    pub(crate) fn option(&mut self, kind: u32, data: &[u8]) -> Answers {
        self.send(&option(kind, data));
        self.option_answers(kind)
    }

    pub(crate) fn option_answers(&mut self, kind: u32) -> Answers {
        let mut answers = Vec::new();
        loop {
            let header = self.bytes(20).unwrap();
            assert_eq!(number(&header[..8]), 0x0003_e889_0455_65a9);
            assert_eq!(number(&header[8..12]), u64::from(kind));
            let answer = u32::try_from(number(&header[12..16])).unwrap();
            let data = self.bytes(usize::try_from(number(&header[16..20])).unwrap()).unwrap();
            answers.push((answer, data));
            if answer == REP_ACK || answer >> 31 == 1 {
                return answers;
            }
        }
    }

    /// The only reply to an option, as expected of an error.
    pub(crate) fn only_answer(&mut self, kind: u32, data: &[u8]) -> (u32, String) {
        let mut answers = self.option(kind, data);
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (answer, text) = answers.remove(0);
        (answer, String::from_utf8(text).unwrap())
    }

    /// Enters transmission after asking for the size constraints. Returns size and flags, or the error.
    pub(crate) fn go(&mut self, name: &str) -> Result<(u64, u16), (u32, String)> {
        self.go_asking(name, &[3])
    }

    pub(crate) fn go_asking(&mut self, name: &str, wanted: &[u16]) -> Result<(u64, u16), (u32, String)> {
        let answers = self.option(OPT_GO, &info_data(name, wanted));
        let (last, text) = answers.last().unwrap();
        if *last != REP_ACK {
            return Err((*last, String::from_utf8(text.clone()).unwrap()));
        }
        let export = answers.iter().find(|(answer, data)| *answer == REP_INFO && data[..2] == [0, 0]);
        let (_, data) = export.expect("NBD_INFO_EXPORT is mandatory");
        Ok((number(&data[2..10]), u16::from_be_bytes([data[10], data[11]])))
    }

    pub(crate) fn structured(&mut self) {
        assert_eq!(self.only_answer(OPT_STRUCTURED, b"").0, REP_ACK);
        self.structured = true;
    }

    pub(crate) fn agree_on_all(&mut self, name: &str) {
        self.structured();
        let answers = self.option(OPT_SET_CONTEXTS, &context_data(name, &["base:allocation"]));
        assert_eq!(answers.len(), 2);
        self.go(name).unwrap();
    }

    /// The next message, if it is not a simple reply with data.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let magic = number(&self.bytes(4)?);
        if magic == 0x6744_6698 {
            let rest = self.bytes(12)?;
            return Ok(Reply::Simple {
                error: u32::try_from(number(&rest[..4])).unwrap(),
                cookie: number(&rest[4..]),
            });
        }
        assert_eq!(magic, 0x668e_33ef, "neither a simple reply nor a chunk");
        let rest = self.bytes(16)?;
        let data = self.bytes(usize::try_from(number(&rest[12..])).unwrap())?;
        let kind = u16::from_be_bytes([rest[2], rest[3]]);
        Ok(Reply::Chunk { done: rest[1] & 1 == 1, kind, cookie: number(&rest[4..12]), data })
    }

    /// The next finished request.
    pub(crate) fn any_outcome(&mut self) -> io::Result<(u64, Outcome)> {
        let mut outcome = Outcome::default();
        loop {
            match self.reply()? {
                Reply::Simple { error, cookie } => return Ok((cookie, Outcome { error, ..outcome })),
                Reply::Chunk { done, kind, cookie, data } => {
                    match kind {
                        0 => assert!(done && data.is_empty()),
                        1 => outcome.data.push((number(&data[..8]), data[8..].to_vec())),
                        5 => {
                            assert_eq!(number(&data[..4]), 1, "the context's number");
                            let pair = |one: &[u8]| {
                                (
                                    u32::try_from(number(&one[..4])).unwrap(),
                                    u32::try_from(number(&one[4..])).unwrap(),
                                )
                            };
                            outcome.extents = data[4..].chunks(8).map(pair).collect();
                        }
                        0x8001 | 0x8002 => {
                            outcome.error = u32::try_from(number(&data[..4])).unwrap();
                            let len = usize::try_from(number(&data[4..6])).unwrap();
                            outcome.message = String::from_utf8(data[6..6 + len].to_vec()).unwrap();
                            let tail = &data[6 + len..];
                            assert_eq!(tail.len(), if kind == 0x8001 { 0 } else { 8 });
                            if !tail.is_empty() {
                                outcome.failed_at.push(number(tail));
                            }
                        }
                        other => panic!("unknown chunk {other}"),
                    }
                    if done {
                        return Ok((cookie, outcome));
                    }
                }
            }
        }
    }

    /// The outcome of this request, which must be the only one in flight.
    #[track_caller]
    pub(crate) fn outcome(&mut self, cookie: u64) -> Outcome {
        let (got, outcome) = self.any_outcome().unwrap();
        assert_eq!(got, cookie);
        outcome
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, kind: u16, flags: u16, offset: u64, len: u32) -> Outcome {
        let cookie = offset ^ 0xabcd_0123_4567_89ef;
        self.send(&request(kind, flags, cookie, offset, len));
        self.outcome(cookie)
    }

    #[track_caller]
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.write_flagged(0, offset, data)
    }

    #[track_caller]
    pub(crate) fn write_flagged(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let cookie = offset ^ 0x1234_5678_9abc_def0;
        self.send(&write_request(flags, cookie, offset, data));
        self.outcome(cookie).error
    }

    /// Reads with whichever kind of reply was negotiated.
    #[track_caller]
    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        if !self.structured {
            self.send(&request(READ, 0, 77, offset, len));
            assert_eq!(self.reply().unwrap(), Reply::Simple { error: 0, cookie: 77 });
            return self.bytes(len as usize).unwrap();
        }
        let outcome = self.ask(READ, 0, offset, len);
        assert_eq!((outcome.error, &*outcome.message), (0, ""));
        let mut bytes = vec![0; len as usize];
        let mut covered = 0;
        for (at, data) in outcome.data {
            let from = usize::try_from(at - offset).unwrap();
            bytes[from..from + data.len()].copy_from_slice(&data);
            covered += data.len();
        }
        assert_eq!(covered, len as usize);
        bytes
    }

    #[track_caller]
    pub(crate) fn flush(&mut self) {
        assert_eq!(self.ask(FLUSH, 0, 0, 0).error, 0);
    }
}
