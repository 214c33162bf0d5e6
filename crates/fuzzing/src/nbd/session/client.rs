//! A client written from the protocol's text alone. It checks the form of everything it receives.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use super::super::rules::{Agreement, Asked, DISC, READ, export_flags};

/// The result of a request.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// 0 is success.
    pub(super) error: u32,
    /// Data, with its offset on the device.
    pub(super) data: Vec<(u64, Vec<u8>)>,
    /// Lengths and flags.
    pub(super) extents: Vec<(u32, u32)>,
}

pub(super) struct Client {
    stream: UnixStream,
    structured: bool,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

impl Client {
    /// Performs the handshake; with `old`, the old one (`NBD_OPT_EXPORT_NAME`).
    pub(super) fn greet(stream: UnixStream, agreed: &Agreement, old: bool) -> Client {
        // Anything longer counts as a hang.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Client { stream, structured: agreed.structured };
        assert_eq!(client.bytes(18), b"NBDMAGICIHAVEOPT\0\x03");
        client.send(&[0, 0, 0, 3]);
        if agreed.structured {
            client.option(8, &[]);
        }
        if agreed.status {
            let query = [text("a"), vec![0, 0, 0, 1], text("base:allocation")].concat();
            client.option(10, &query);
        }
        let export =
            [&agreed.geometry.size_bytes.to_be_bytes()[..], &export_flags(agreed).to_be_bytes()].concat();
        if old {
            client.send(b"IHAVEOPT\0\0\0\x01\0\0\0\x01a");
            assert_eq!(client.bytes(10), export);
        } else {
            let wanted: &[u8] = if agreed.aligned { &[0, 1, 0, 3] } else { &[0, 0] };
            let infos = client.option(7, &[&text("a"), wanted].concat());
            assert!(infos.contains(&[&[0, 0][..], &export].concat()));
        }
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends an option, which must be granted; returns the data of the replies.
    fn option(&mut self, kind: u32, data: &[u8]) -> Vec<Vec<u8>> {
        let header = [&b"IHAVEOPT"[..], &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes()].concat();
        self.send(&header);
        self.send(data);
        let mut answers = Vec::new();
        loop {
            let header = self.bytes(20);
            assert_eq!(number(&header[..12]), 0x0455_65a9 << 32 | u64::from(kind));
            let answer = number(&header[12..16]);
            answers.push(self.bytes(number(&header[16..]) as usize));
            assert!(answer < 1 << 31, "option {kind} was refused: {answer:x}");
            if answer == 1 {
                return answers;
            }
        }
    }

    /// Sends requests while reading replies; returns the result of each.
    pub(super) fn exchange(&mut self, sent: &[u8], asked: &[Asked]) -> BTreeMap<u64, Outcome> {
        let mut writing = self.stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || writing.write_all(sent).unwrap());
            let mut open: BTreeMap<u64, (Asked, Outcome)> =
                asked.iter().map(|asked| (asked.cookie, (*asked, Outcome::default()))).collect();
            let mut done = BTreeMap::new();
            while !open.is_empty() {
                let (cookie, finished) = self.message(&mut open);
                if finished && let Some((_, outcome)) = open.remove(&cookie) {
                    done.insert(cookie, outcome);
                }
            }
            done
        })
    }

    /// Reads one message; returns its request, and whether the request is finished.
    fn message(&mut self, open: &mut BTreeMap<u64, (Asked, Outcome)>) -> (u64, bool) {
        let magic = number(&self.bytes(4));
        if magic == 0x6744_6698 {
            let rest = self.bytes(12);
            let (error, cookie) = (number(&rest[..4]) as u32, number(&rest[4..]));
            let (asked, outcome) = open.get_mut(&cookie).unwrap();
            outcome.error = error;
            if asked.kind == READ && error == 0 {
                assert!(!self.structured, "a read is answered in chunks");
                outcome.data.push((asked.offset, self.bytes(asked.len as usize)));
            }
            return (cookie, true);
        }
        assert_eq!(magic, 0x668e_33ef, "neither a simple reply nor a chunk");
        assert!(self.structured);
        let rest = self.bytes(16);
        let (flags, kind, cookie) = (number(&rest[..2]), number(&rest[2..4]), number(&rest[4..12]));
        let data = self.bytes(number(&rest[12..]) as usize);
        assert!(flags <= 1);
        let (asked, outcome) = open.get_mut(&cookie).unwrap();
        match kind {
            0 => assert!(data.is_empty() && flags == 1),
            1 => {
                let (offset, len) = (number(&data[..8]), data.len() as u64 - 8);
                assert!(asked.kind == READ && len > 0);
                assert!(offset >= asked.offset && offset + len <= asked.offset + u64::from(asked.len));
                outcome.data.push((offset, data[8..].to_vec()));
            }
            5 => {
                assert!(number(&data[..4]) == 1 && data.len() % 8 == 4);
                let pair = |one: &[u8]| (number(&one[..4]) as u32, number(&one[4..]) as u32);
                outcome.extents = data[4..].chunks(8).map(pair).collect();
            }
            0x8001 | 0x8002 => {
                let message = number(&data[4..6]) as usize;
                outcome.error = number(&data[..4]) as u32;
                assert!(outcome.error != 0 && std::str::from_utf8(&data[6..6 + message]).is_ok());
                assert_eq!(data.len(), 6 + message + if kind == 0x8002 { 8 } else { 0 });
            }
            _ => panic!("an unknown chunk: {kind:#x}"),
        }
        (cookie, flags == 1)
    }

    /// Disconnects; the server must not send anything more.
    pub(super) fn leave(mut self) {
        let asked = Asked { kind: DISC, flags: 0, cookie: 0, offset: 0, len: 0 };
        self.send(&asked.encode());
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}
