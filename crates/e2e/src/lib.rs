//! Tests with the real program and real guests live in `tests/e2e`; there is nothing else here.
#![forbid(unsafe_code)]
