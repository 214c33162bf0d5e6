//! The interface between the server and its user: which exports there are, and who is told about clients.

use std::{error::Error, sync::Arc};

use crate::device::BlockDevice;

/// One line of `NBD_OPT_LIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name a client asks for. Names above 4096 bytes are left out of the list.
    pub name: String,
    /// Shown to people; may be empty.
    pub description: String,
}

/// The source of devices. Called from many threads at once.
pub trait Exports: Send + Sync {
    /// The exports to list; [`Exports::open`] may accept more names.
    fn list(&self) -> Vec<ExportInfo>;

    /// Opens the device behind a name. This may take a while; only the asking client waits.
    ///
    /// # Errors
    /// [`OpenError`]; its text goes to the client.
    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError>;

    /// The description of an export; by default the one of [`Exports::list`], or none.
    fn describe(&self, name: &str) -> String {
        self.list()
            .into_iter()
            .find(|export| export.name == name)
            .map(|export| export.description)
            .unwrap_or_default()
    }
}

/// Why an export cannot be opened. The `Display` text is sent to the client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No export has this name (`NBD_REP_ERR_UNKNOWN`).
    #[error("there is no such export; {hint}")]
    Unknown {
        /// What to do about it.
        hint: String,
    },
    /// It exists, but not for this client or not now (`NBD_REP_ERR_POLICY`).
    #[error("{why}")]
    Refused {
        /// Why, and what to do about it.
        why: String,
    },
    /// The manager is going away (`NBD_REP_ERR_SHUTDOWN`).
    #[error("the server is shutting down; connect again later")]
    Closing,
    /// Opening it failed (`NBD_REP_ERR_UNKNOWN`, as no other code fits).
    #[error(transparent)]
    Failed(#[from] Arc<dyn Error + Send + Sync>),
}

/// A client that is using an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Unique among all connections of this server.
    pub id: u64,
    /// The name of the export in use.
    pub export: String,
    /// A TCP address, or the process and user behind a unix socket.
    pub peer: String,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client disconnected (`NBD_CMD_DISC`).
    Asked,
    /// The client closed its end of the socket.
    Vanished,
    /// The client violated the protocol, so the rest of its stream cannot be parsed.
    Violation,
    /// The client read none of its replies for [`super::Limits::send_stall`].
    Stalled,
    /// The device is closing or the server failed; a client that reconnects can go on.
    Broken,
    /// The server was stopped.
    Stopped,
}

/// Is told when a client begins and stops using an export. Called from the connection's own thread.
pub trait Observer: Send + Sync {
    /// Transmission begins: the handshake is done, no request has been read.
    fn connected(&self, client: &Client);

    /// No request of this client has any further effect: every call to the device has returned, and the connection has
    /// released the device.
    fn disconnected(&self, client: &Client, ending: Ending);
}
