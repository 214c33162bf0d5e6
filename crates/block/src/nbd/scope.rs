//! What one listening socket offers, and to which clients.
//!
//! Invariants: a client learns nothing outside the scope of its socket: an export that is not offered there looks the
//! same as one that does not exist. Behind a read-only scope no write reaches a device.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    exports::{ExportInfo, Exports, Observer, OpenError},
    socket::Socket,
};
use crate::{device::BlockDevice, read_only::ReadOnly};

/// Which clients may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every client that reaches the socket.
    Anyone,
    /// Processes of this user, over a unix socket.
    User(u32),
    /// This address, over TCP.
    Address(IpAddr),
}

impl Peers {
    pub(crate) fn admit(self, socket: &Socket) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(uid) => socket.peer_user() == Some(uid),
            Self::Address(address) => {
                socket.peer_address().is_some_and(|peer| peer.ip().to_canonical() == address)
            }
        }
    }
}

/// See the module's comment. Every listener of a [`super::Server`] has its own.
#[derive(Clone)]
pub struct Scope {
    exports: Arc<dyn Exports>,
    /// `None`: all of them.
    names: Option<BTreeSet<String>>,
    read_only: bool,
    peers: Peers,
    observer: Option<Arc<dyn Observer>>,
    kept: bool,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("names", &self.names)
            .field("read_only", &self.read_only)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Scope {
    /// All of `exports`, for everyone.
    #[must_use]
    pub fn new(exports: Arc<dyn Exports>) -> Self {
        Self { exports, names: None, read_only: false, peers: Peers::Anyone, observer: None, kept: false }
    }

    /// Only the exports of these names.
    #[must_use]
    pub fn only<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Refuses writes, whatever the device can do.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Admits only these clients; others are disconnected before anything is sent.
    #[must_use]
    pub fn for_peers(mut self, peers: Peers) -> Self {
        self.peers = peers;
        self
    }

    /// Tells `observer` about the clients of this listener.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Reserves places for the clients of this listener: they count only against [`super::Limits::kept_max`], however
    /// many clients other listeners have.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(crate) fn peers(&self) -> Peers {
        self.peers
    }

    pub(crate) fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.as_ref()
    }

    fn offers(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }
}

/// The exports as this scope shows them.
impl Exports for Scope {
    fn list(&self) -> Vec<ExportInfo> {
        let mut all = self.exports.list();
        all.retain(|export| self.offers(&export.name));
        all
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        if !self.offers(name) {
            return Err(OpenError::Unknown {
                hint: "this socket offers other exports; ask it for their list".to_owned(),
            });
        }
        let device = self.exports.open(name)?;
        Ok(if self.read_only { Arc::new(ReadOnly::new(device)) } else { device })
    }

    fn describe(&self, name: &str) -> String {
        if self.offers(name) { self.exports.describe(name) } else { String::new() }
    }
}
