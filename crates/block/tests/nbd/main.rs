//! The NBD server from outside: a client of our own that can misbehave, and the tools people use.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests as a whole; the lints know only test functions"
)]

mod backpressure;
mod client;
mod device;
mod handshake;
mod hostile;
mod lifecycle;
mod places;
mod room;
mod scope;
mod stored;
mod tools;
mod transmission;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use bygone_block::{
    BlockDevice,
    nbd::{ExportInfo, Exports, Limits, Observer, OpenError, Scope, Server, Serving},
};
use client::Client;
use device::Mem;

/// Exports by name; `refused`, `closing` and `failing` cannot be opened.
struct Table(Vec<(String, Arc<Mem>)>);

impl Exports for Table {
    fn list(&self) -> Vec<ExportInfo> {
        let info = |name: &String| ExportInfo { name: name.clone(), description: format!("about {name}") };
        self.0.iter().map(|(name, _)| info(name)).collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        match name {
            "refused" => Err(OpenError::Refused { why: "not while it is promoted".to_owned() }),
            "closing" => Err(OpenError::Closing),
            "failing" => Err(OpenError::Failed(Arc::new(std::io::Error::other("the index is damaged")))),
            _ => match self.0.iter().find(|(known, _)| known == name) {
                Some((_, device)) => Ok(Arc::clone(device) as Arc<dyn BlockDevice>),
                None => Err(OpenError::Unknown { hint: "bygone target list shows them".to_owned() }),
            },
        }
    }
}

/// The one export of most tests.
fn only(device: &Arc<Mem>) -> Scope {
    Scope::new(Arc::new(Table(vec![(EXPORT.to_owned(), Arc::clone(device))])))
}

/// A server with one or more exports on a unix socket of its own.
struct Fixture {
    server: Server,
    serving: Serving,
    folder: tempfile::TempDir,
}

const EXPORT: &str = "web/root";

impl Fixture {
    fn new(device: &Arc<Mem>) -> Self {
        Self::with(vec![(EXPORT.to_owned(), Arc::clone(device))], Limits::default(), None)
    }

    fn limited(device: &Arc<Mem>, limits: Limits) -> Self {
        Self::with(vec![(EXPORT.to_owned(), Arc::clone(device))], limits, None)
    }

    fn with(table: Vec<(String, Arc<Mem>)>, limits: Limits, observer: Option<Arc<dyn Observer>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(limits);
        let mut scope = Scope::new(Arc::new(Table(table)));
        if let Some(observer) = observer {
            scope = scope.observed(observer);
        }
        let serving = server.serve_unix(&folder.path().join("nbd.sock"), scope).unwrap();
        Self { server, serving, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///{EXPORT}?socket={}", self.path().display())
    }

    /// A client past its handshake, with structured replies and block status.
    fn client(&self) -> Client {
        let mut client = Client::connect(&self.path());
        client.agree_on_all(EXPORT);
        client
    }

    /// A client past its handshake, with simple replies.
    fn simple_client(&self) -> Client {
        let mut client = Client::connect(&self.path());
        client.go(EXPORT).unwrap();
        client
    }
}

/// Waits until a condition holds, for at most 10 seconds.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 10 seconds: {what}");
}

/// Bytes from which a test can tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}
