//! The fuzz targets. Each takes arbitrary bytes, passes them to code that must handle them, and compares the result
//! with a plainer model that shares no code with it. A target fails by panicking.
//!
//! `cargo fuzz` calls these functions (`fuzz/fuzz_targets`), and so does the test that replays `fuzz/corpus`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a fuzz target fails by panicking")]

mod engine;
mod formats;
mod input;
mod log;
mod memory;
mod nbd;
mod when;

pub use engine::{api::api, config::config, files::files, image::image, qmp::qmp, volumes::volumes};
pub use formats::formats;
pub use log::log_open;
pub use nbd::{handshake::nbd_handshake, session::nbd_session, transmission::nbd_transmission};
pub use when::when;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name, as in `fuzz/fuzz_targets` and `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 12] = [
    ("api", api),
    ("config", config),
    ("files", files),
    ("formats", formats),
    ("image", image),
    ("log_open", log_open),
    ("nbd_handshake", nbd_handshake),
    ("nbd_session", nbd_session),
    ("nbd_transmission", nbd_transmission),
    ("qmp", qmp),
    ("volumes", volumes),
    ("when", when),
];
