//! The grammar of moments.
