//! Replays the corpus: inputs that the fuzzers found worth keeping, and those that once broke something.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bygone_fuzzing::TARGETS;
use rustix::process::{Resource, Rlimit, setrlimit};

/// No input is larger than a few KiB, so none needs much more memory than the program itself.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn replay(name: &str) {
    setrlimit(Resource::Data, Rlimit { current: Some(MEMORY_BYTES_MAX), maximum: None }).unwrap();
    let (_, target) = TARGETS.iter().find(|target| target.0 == name).unwrap();
    target(&[]);
    let mut inputs: Vec<PathBuf> =
        fs::read_dir(fuzz().join("corpus").join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no corpus");
    for path in inputs {
        let bytes = fs::read(&path).unwrap();
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            panic!("{} fails", path.display());
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed_and_can_be_fuzzed() {
            let names = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.0).eq(names));
            let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
            for name in names {
                assert!(fuzz().join("fuzz_targets").join(format!("{name}.rs")).exists(), "{name}");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
            }
        }
    };
}

targets! { api config files formats image log_open nbd_handshake nbd_session nbd_transmission qmp volumes when }
