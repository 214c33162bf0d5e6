//! The real program, real guests in QEMU, real disks. `scripts/setup` installs what they need, `scripts/guest` builds the
//! guests; without them these tests fail.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test waits for the real world")]

mod bad_input;
mod history;
mod killed;
mod machines;
mod world;
