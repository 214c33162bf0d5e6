//! The handshake without its socket: options go in, replies and finally the agreed terms come out.
//!
//! Invariants: the state is bounded by one export name and one open device. Every option gets exactly one final reply,
//! except where the protocol demands to close the connection. After [`Next::Transmit`] or [`Next::Close`] nothing is
//! called again.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    command::Terms,
    exports::{Exports, OpenError},
    limits::PAYLOAD_BYTES_MAX,
    wire::{
        Malformed, NAME_BYTES_MAX, clipped,
        codes::{HANDSHAKE_FIXED, HANDSHAKE_NO_ZEROES, info, opt, rep},
        option::{ContextRequest, InfoRequest, push_reply},
        text,
    },
};
use crate::device::{BlockDevice, Geometry};

/// Options with more data are refused. It fits a name and every useful query.
pub(crate) const OPTION_BYTES_MAX: u32 = 32 << 10;
/// More options than any client needs; beyond them the connection is closed.
const OPTIONS_MAX: u32 = 4096;
/// The most exports in one list.
const LISTED_MAX: usize = 10_000;
/// The only metadata context ("`base:allocation` metadata context"), and its id.
const CONTEXT: &str = "base:allocation";
pub(crate) const CONTEXT_ID: u32 = 1;
/// The smallest preferred block size that is announced ("Size constraints").
const PREFERRED_BYTES_MIN: u32 = 4096;

const CROWDED: &str = "too many clients are connected; disconnect others, or try again later";

/// The result of a successful handshake.
pub(crate) struct Agreed {
    pub(crate) name: String,
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) terms: Terms,
}

/// What to do after the reply to an option was sent.
pub(crate) enum Next {
    Option,
    Transmit(Agreed),
    Close,
}

/// One client's handshake.
pub(crate) struct Negotiation<'a> {
    exports: &'a dyn Exports,
    admit: &'a dyn Fn(&Geometry) -> bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which [`CONTEXT`] was selected.
    context_of: Option<String>,
    /// The export whose size constraints were last asked for.
    sizes_of: Option<String>,
    /// The device that `NBD_OPT_INFO` opened, so that `NBD_OPT_GO` gets the same one.
    open: Option<(String, Arc<dyn BlockDevice>)>,
    options: u32,
}

impl<'a> Negotiation<'a> {
    /// Starts after the client's flags ("Client flags").
    pub(crate) fn begin(
        exports: &'a dyn Exports,
        admit: &'a dyn Fn(&Geometry) -> bool,
        client_flags: u32,
    ) -> Result<Self, Malformed> {
        if client_flags & !u32::from(HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES) != 0 {
            return Err(Malformed::Magic);
        }
        let no_zeroes = client_flags & u32::from(HANDSHAKE_NO_ZEROES) != 0;
        Ok(Self {
            exports,
            admit,
            no_zeroes,
            structured: false,
            context_of: None,
            sizes_of: None,
            open: None,
            options: 0,
        })
    }

    /// Answers an option whose data exceeded [`OPTION_BYTES_MAX`] and was skipped.
    pub(crate) fn too_big(&mut self, kind: u32, out: &mut Vec<u8>) -> Next {
        match kind {
            opt::EXPORT_NAME => Next::Close,
            _ => self.refuse(out, kind, rep::ERR_TOO_BIG, "the option's data is too long"),
        }
    }

    /// Answers an option while the server is shutting down; the client has to disconnect then.
    pub(crate) fn shutting_down(&self, kind: u32, out: &mut Vec<u8>) {
        match kind {
            // Closing the connection is its only error reply.
            opt::EXPORT_NAME => {}
            opt::ABORT => push_reply(out, kind, rep::ACK, &[]),
            _ => {
                self.refuse(out, kind, rep::ERR_SHUTDOWN, &OpenError::Closing.to_string());
            }
        }
    }

    /// Answers one option.
    pub(crate) fn option(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Next::Close;
        }
        match kind {
            opt::EXPORT_NAME => self.export_name(data, out),
            opt::ABORT => {
                push_reply(out, kind, rep::ACK, &[]);
                Next::Close
            }
            opt::LIST | opt::STRUCTURED_REPLY if !data.is_empty() => {
                self.refuse(out, kind, rep::ERR_INVALID, "this option has no data")
            }
            opt::LIST => self.list(out),
            opt::STRUCTURED_REPLY => {
                self.structured = true;
                push_reply(out, kind, rep::ACK, &[]);
                Next::Option
            }
            opt::INFO | opt::GO => self.info(kind, data, out),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.contexts(kind, data, out),
            opt::STARTTLS => self.refuse(out, kind, rep::ERR_UNSUP, "this server does not speak TLS"),
            _ => self.refuse(out, kind, rep::ERR_UNSUP, "unknown option"),
        }
    }

    fn refuse(&self, out: &mut Vec<u8>, kind: u32, reply: u32, message: &str) -> Next {
        push_reply(out, kind, reply, &[clipped(message, NAME_BYTES_MAX).as_bytes()]);
        Next::Option
    }

    /// `NBD_OPT_EXPORT_NAME`: an error can only be reported by closing the connection.
    fn export_name(&mut self, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Ok(name) = text(data) else { return Next::Close };
        let device = match self.device(name) {
            Ok(device) => device,
            Err(error) => {
                tracing::info!(export = name, %error, "export refused");
                return Next::Close;
            }
        };
        let agreed = self.agreed(name, device);
        if !(self.admit)(&agreed.terms.geometry) {
            return Next::Close;
        }
        out.extend_from_slice(&agreed.terms.geometry.size_bytes.to_be_bytes());
        out.extend_from_slice(&agreed.terms.flags().to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Next::Transmit(agreed)
    }

    /// `NBD_OPT_LIST`.
    fn list(&self, out: &mut Vec<u8>) -> Next {
        let fits = |text: &str| text.len() <= NAME_BYTES_MAX;
        let exports = self.exports.list();
        for export in exports.iter().filter(|export| fits(&export.name)).take(LISTED_MAX) {
            // At most NAME_BYTES_MAX, just filtered.
            let len = u32::try_from(export.name.len()).unwrap_or_default();
            let description = clipped(&export.description, NAME_BYTES_MAX);
            let parts: [&[u8]; 3] = [&len.to_be_bytes(), export.name.as_bytes(), description.as_bytes()];
            push_reply(out, opt::LIST, rep::SERVER, &parts);
        }
        push_reply(out, opt::LIST, rep::ACK, &[]);
        Next::Option
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`.
    fn info(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let request = match InfoRequest::parse(data) {
            Ok(request) => request,
            Err(error) => return self.refuse(out, kind, rep::ERR_INVALID, &error.to_string()),
        };
        let name = request.name;
        if request.wants_block_size {
            self.sizes_of = Some(name.to_owned());
        }
        let device = match self.device(name) {
            Ok(device) => device,
            Err(error) => {
                tracing::info!(export = name, %error, "export refused");
                let reply = match error {
                    OpenError::Unknown { .. } | OpenError::Failed(_) => rep::ERR_UNKNOWN,
                    OpenError::Refused { .. } => rep::ERR_POLICY,
                    OpenError::Closing => rep::ERR_SHUTDOWN,
                };
                return self.refuse(out, kind, reply, &error.to_string());
            }
        };
        let agreed = self.agreed(name, Arc::clone(&device));
        let Terms { geometry, .. } = agreed.terms;
        if kind == opt::GO && !(self.admit)(&geometry) {
            return self.refuse(out, kind, rep::ERR_POLICY, CROWDED);
        }
        let mut item = |what: u16, parts: [&[u8]; 3]| {
            push_reply(out, kind, rep::INFO, &[&what.to_be_bytes(), parts[0], parts[1], parts[2]]);
        };
        let flags = agreed.terms.flags();
        item(info::EXPORT, [&geometry.size_bytes.to_be_bytes(), &flags.to_be_bytes(), &[]]);
        if request.wants_name {
            item(info::NAME, [name.as_bytes(), &[], &[]]);
        }
        if request.wants_description {
            let description = self.exports.describe(name);
            item(info::DESCRIPTION, [clipped(&description, NAME_BYTES_MAX).as_bytes(), &[], &[]]);
        }
        // Sent even when not asked for, because the minimum block size is not the protocol's default.
        let preferred = geometry.block_bytes.max(PREFERRED_BYTES_MIN).to_be_bytes();
        item(
            info::BLOCK_SIZE,
            [&geometry.block_bytes.to_be_bytes(), &preferred, &PAYLOAD_BYTES_MAX.to_be_bytes()],
        );
        push_reply(out, kind, rep::ACK, &[]);
        if kind == opt::GO {
            return Next::Transmit(agreed);
        }
        self.open = Some((name.to_owned(), device));
        Next::Option
    }

    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`. Every export has the same context, so the name is
    /// only remembered; `NBD_OPT_GO` decides whether the export exists.
    fn contexts(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let sets = kind == opt::SET_META_CONTEXT;
        if sets {
            self.context_of = None;
        }
        if !self.structured {
            return self.refuse(
                out,
                kind,
                rep::ERR_INVALID,
                "structured replies have to be negotiated first",
            );
        }
        let request = match ContextRequest::parse(data) {
            Ok(request) => request,
            Err(Malformed::Count) => return self.refuse(out, kind, rep::ERR_TOO_BIG, "too many queries"),
            Err(error) => return self.refuse(out, kind, rep::ERR_INVALID, &error.to_string()),
        };
        let queries: BTreeSet<&str> = request.queries.into_iter().collect();
        let listed = !sets && (queries.is_empty() || queries.contains("base:"));
        if listed || queries.contains(CONTEXT) {
            let id = if sets { CONTEXT_ID } else { 0 };
            push_reply(out, kind, rep::META_CONTEXT, &[&id.to_be_bytes(), CONTEXT.as_bytes()]);
            if sets {
                self.context_of = Some(request.name.to_owned());
            }
        }
        push_reply(out, kind, rep::ACK, &[]);
        Next::Option
    }

    /// The device of that name, reusing the open one if it is the same.
    fn device(&mut self, name: &str) -> Result<Arc<dyn BlockDevice>, OpenError> {
        match self.open.take() {
            Some((open, device)) if open == name => Ok(device),
            _ => self.exports.open(name),
        }
    }

    fn agreed(&self, name: &str, device: Arc<dyn BlockDevice>) -> Agreed {
        let terms = Terms {
            geometry: device.geometry(),
            structured: self.structured,
            status: self.context_of.as_deref() == Some(name),
            aligned: self.sizes_of.as_deref() == Some(name),
        };
        Agreed { name: name.to_owned(), device, terms }
    }
}
