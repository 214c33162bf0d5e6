//! The real program, real guests in QEMU, real disks. `scripts/setup` installs what they need, `scripts/guest` builds the
//! guests; without them these tests fail.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod bad_input;
mod full;
mod history;
mod images;
mod killed;
mod machines;
mod media;
mod resets;
mod small_fs;
mod software;
mod world;
