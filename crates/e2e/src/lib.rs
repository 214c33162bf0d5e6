//! An empty crate: the tests with the real program and real guests are in `tests/e2e`.
#![forbid(unsafe_code)]
