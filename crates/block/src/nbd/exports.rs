//! What the server asks of whoever uses it: which exports there are, and who wants to hear of clients.

use std::{error::Error, sync::Arc};

use crate::device::BlockDevice;

/// One line of `NBD_OPT_LIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// What a client asks for. At most 4096 bytes; a longer one is left out of the list.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// Where the devices come from. Called from many threads at once.
pub trait Exports: Send + Sync {
    /// What is worth listing; [`Exports::open`] may know more names than that.
    fn list(&self) -> Vec<ExportInfo>;

    /// Opens the device behind a name. It may take a moment; only the asking client waits.
    ///
    /// # Errors
    /// [`OpenError`]; its text goes to the client.
    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError>;

    /// What the export is, for people. By default what [`Exports::list`] says, or nothing.
    fn describe(&self, name: &str) -> String {
        self.list()
            .into_iter()
            .find(|export| export.name == name)
            .map(|export| export.description)
            .unwrap_or_default()
    }
}

/// Why an export cannot be had. The `Display` text is sent to the client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none of this name (`NBD_REP_ERR_UNKNOWN`).
    #[error("there is no such export; {hint}")]
    Unknown {
        /// What to do about it.
        hint: String,
    },
    /// There is one, but not for this client or not now (`NBD_REP_ERR_POLICY`).
    #[error("{why}")]
    Refused {
        /// Why, and what to do about it.
        why: String,
    },
    /// The manager is going away (`NBD_REP_ERR_SHUTDOWN`).
    #[error("the server is shutting down; connect again later")]
    Closing,
    /// Opening it failed (`NBD_REP_ERR_UNKNOWN`, for lack of a better one).
    #[error(transparent)]
    Failed(#[from] Arc<dyn Error + Send + Sync>),
}

/// A client that is using an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Unlike that of any other connection of this server.
    pub id: u64,
    /// The export it asked for.
    pub export: String,
    /// Where it comes from: a TCP address, or process and user behind a unix socket.
    pub peer: String,
}

/// Why a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It said good-bye (`NBD_CMD_DISC`).
    Asked,
    /// Its end of the socket was closed.
    Vanished,
    /// It broke the protocol, so its stream meant nothing any more.
    Violation,
    /// It took none of its replies for [`super::Limits::send_stall`].
    Stalled,
    /// The device is closing, or this server failed it; a client that re-connects can go on.
    Broken,
    /// The server was stopped.
    Stopped,
}

/// Hears of clients that begin and end to use exports. Called from the connection's own thread.
pub trait Observer: Send + Sync {
    /// Transmission begins: the handshake is done, no request has been read.
    fn connected(&self, client: &Client);

    /// Nothing that this client asked for will happen any more: every call to the device has returned and the
    /// connection has let go of the device.
    fn disconnected(&self, client: &Client, ending: Ending);
}
