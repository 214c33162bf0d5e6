//! The handshake without a socket: whatever options a client sends, the server's replies are well-formed and follow the
//! protocol's text.

use bygone_block::nbd::fuzzing::handshake;

use super::{
    geometry,
    rules::{Agreement, PAYLOAD_MAX, export_flags},
    shop::Shop,
};
use crate::input::Input;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const LIST_CONTEXTS: u32 = 9;
const SET_CONTEXTS: u32 = 10;

const ACK: u32 = 1;
const SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const CONTEXT: u32 = 4;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_POLICY: u32 = 0x8000_0002;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_SHUTDOWN: u32 = 0x8000_0007;
const ERR_TOO_BIG: u32 = 0x8000_0009;

/// See the module's comment. Input: three bytes of a device shape, then the client's bytes.
pub fn nbd_handshake(bytes: &[u8]) {
    let mut input = Input(bytes);
    let geometry = geometry(&mut input);
    let agreed = Agreement { geometry, structured: false, status: false, aligned: false };
    let shop = Shop::of_shape(geometry);
    let (sent, terms) = handshake(input.0, &shop);
    let mut model = Model { agreed, no_zeroes: false, context_of: None, sizes_of: None, sent: &sent };
    let transmits = model.play(input.0);
    assert!(model.sent.is_empty(), "the server said more than it was asked: {:x?}", model.sent);
    let terms = terms.map(|terms| (terms.geometry, terms.structured, terms.status, terms.aligned));
    let agreed = model.agreed;
    assert_eq!(
        terms,
        transmits.then_some((agreed.geometry, agreed.structured, agreed.status, agreed.aligned))
    );
}

/// A model that reads the server's bytes.
struct Model<'a> {
    agreed: Agreement,
    no_zeroes: bool,
    context_of: Option<String>,
    sizes_of: Option<String>,
    sent: &'a [u8],
}

impl Model<'_> {
    /// Plays the options; true if transmission follows.
    fn play(&mut self, bytes: &[u8]) -> bool {
        let mut client = Reader(bytes);
        match client.number(4) {
            Some(flags @ 0..=3) => self.no_zeroes = flags & 2 != 0,
            _ => return false,
        }
        let mut count = 0;
        loop {
            if client.take(8) != Some(&b"IHAVEOPT"[..]) {
                return false;
            }
            let (Some(kind), Some(len)) = (client.number(4), client.number(4)) else { return false };
            let Some(data) = client.take(len as usize) else { return false };
            let too_big = data.len() > 32 << 10;
            count += u32::from(!too_big);
            match self.option(kind as u32, data, too_big, count > 4096) {
                None => {}
                Some(transmits) => return transmits,
            }
        }
    }

    /// `Some`: the handshake is over; true if transmission follows.
    fn option(&mut self, kind: u32, data: &[u8], too_big: bool, too_many: bool) -> Option<bool> {
        if too_many || (too_big && kind == EXPORT_NAME) {
            return Some(false);
        }
        if too_big {
            self.answer(kind, ERR_TOO_BIG);
            return None;
        }
        match kind {
            EXPORT_NAME => Some(self.export_name(data)),
            ABORT => {
                self.answer(kind, ACK);
                Some(false)
            }
            LIST | STRUCTURED if !data.is_empty() => {
                self.answer(kind, ERR_INVALID);
                None
            }
            LIST => {
                for name in Shop::NAMES {
                    let mut line = Reader(self.answer(kind, SERVER));
                    assert_eq!(line.text(), Some(name));
                    assert!(std::str::from_utf8(line.0).is_ok());
                }
                self.answer(kind, ACK);
                None
            }
            STRUCTURED => {
                self.agreed.structured = true;
                self.answer(kind, ACK);
                None
            }
            INFO | GO => self.info(kind, data),
            LIST_CONTEXTS | SET_CONTEXTS => {
                self.contexts(kind, data);
                None
            }
            _ => {
                self.answer(kind, ERR_UNSUP);
                None
            }
        }
    }

    /// Checks that the next reply is this one; returns its data.
    fn answer(&mut self, kind: u32, reply: u32) -> &[u8] {
        let mut sent = Reader(self.sent);
        assert_eq!(sent.number(8), Some(0x0003_e889_0455_65a9));
        assert_eq!(sent.number(4), Some(u64::from(kind)));
        assert_eq!(sent.number(4), Some(u64::from(reply)), "the answer to option {kind}");
        let len = sent.number(4).unwrap();
        let data = sent.take(len as usize).unwrap();
        self.sent = sent.0;
        if reply >= 1 << 31 {
            assert!(data.len() <= 4096 && std::str::from_utf8(data).is_ok(), "not a message");
        }
        if reply == ACK {
            assert!(data.is_empty());
        }
        data
    }

    fn opens(&self, name: &str) -> Option<u32> {
        match name {
            "policy" => Some(ERR_POLICY),
            "closing" => Some(ERR_SHUTDOWN),
            _ if Shop::NAMES.contains(&name) => None,
            _ => Some(ERR_UNKNOWN),
        }
    }

    fn settle(&mut self, name: &str) {
        self.agreed.status = self.context_of.as_deref() == Some(name);
        self.agreed.aligned = self.sizes_of.as_deref() == Some(name);
    }

    fn export_name(&mut self, data: &[u8]) -> bool {
        let Some(name) = plain_text(data) else { return false };
        if self.opens(name).is_some() {
            return false;
        }
        self.settle(name);
        let mut sent = Reader(self.sent);
        assert_eq!(sent.number(8), Some(self.agreed.geometry.size_bytes));
        assert_eq!(sent.number(2), Some(u64::from(export_flags(&self.agreed))));
        if !self.no_zeroes {
            assert_eq!(sent.take(124), Some(&[0; 124][..]));
        }
        self.sent = sent.0;
        true
    }

    fn info(&mut self, kind: u32, data: &[u8]) -> Option<bool> {
        let parse = || {
            let mut data = Reader(data);
            let name = data.text()?;
            let count = data.number(2)?;
            let wanted: Option<Vec<u64>> = (0..count).map(|_| data.number(2)).collect();
            data.0.is_empty().then_some((name, wanted?))
        };
        let Some((name, wanted)) = parse() else {
            self.answer(kind, ERR_INVALID);
            return None;
        };
        if wanted.contains(&3) {
            self.sizes_of = Some(name.to_owned());
        }
        if let Some(error) = self.opens(name) {
            self.answer(kind, error);
            return None;
        }
        let Agreement { geometry, .. } = self.agreed;
        let flags = export_flags(&self.agreed);
        let export = [&[0, 0][..], &geometry.size_bytes.to_be_bytes(), &flags.to_be_bytes()].concat();
        assert_eq!(self.answer(kind, REP_INFO), export);
        if wanted.contains(&1) {
            assert_eq!(self.answer(kind, REP_INFO), [&[0, 1][..], name.as_bytes()].concat());
        }
        if wanted.contains(&2) {
            let description = self.answer(kind, REP_INFO);
            assert!(description.starts_with(&[0, 2]) && plain_text(&description[2..]).is_some());
        }
        let mut sizes = Reader(self.answer(kind, REP_INFO));
        assert_eq!(sizes.number(2), Some(3));
        let (min, preferred, max) = (sizes.number(4), sizes.number(4), sizes.number(4));
        assert_eq!((min, max), (Some(u64::from(geometry.block_bytes)), Some(u64::from(PAYLOAD_MAX))));
        assert!(preferred >= min && preferred.unwrap().is_power_of_two() && sizes.0.is_empty());
        self.answer(kind, ACK);
        if kind == GO {
            self.settle(name);
            return Some(true);
        }
        None
    }

    fn contexts(&mut self, kind: u32, data: &[u8]) {
        let sets = kind == SET_CONTEXTS;
        if sets {
            self.context_of = None;
        }
        let parse = || {
            let mut data = Reader(data);
            let (name, count) = (data.text()?, data.number(4)?);
            if count > 64 {
                return Some(Err(()));
            }
            let queries: Option<Vec<&str>> = (0..count).map(|_| data.text()).collect();
            data.0.is_empty().then_some(Ok((name, queries?)))
        };
        let (name, queries) = match parse() {
            Some(Ok(asked)) if self.agreed.structured => asked,
            Some(Err(())) if self.agreed.structured => {
                self.answer(kind, ERR_TOO_BIG);
                return;
            }
            _ => {
                self.answer(kind, ERR_INVALID);
                return;
            }
        };
        let listed = !sets && (queries.is_empty() || queries.contains(&"base:"));
        if listed || queries.contains(&"base:allocation") {
            let id: [u8; 4] = if sets { [0, 0, 0, 1] } else { [0; 4] };
            assert_eq!(self.answer(kind, CONTEXT), [&id[..], b"base:allocation"].concat());
            if sets {
                self.context_of = Some(name.to_owned());
            }
        }
        self.answer(kind, ACK);
    }
}

/// Big-endian numbers and strings from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        if self.0.len() < len {
            return None;
        }
        let (front, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(front)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.number(4)?;
        plain_text(self.take(usize::try_from(len).ok()?)?)
    }
}

/// "Strings": UTF-8, no NUL, at most 4096 bytes.
fn plain_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 4096 && !text.contains('\0'))
}
