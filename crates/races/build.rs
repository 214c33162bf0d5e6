//! Builds the store with locks whose order shuttle chooses; no other crate is built this way.

fn main() {
    println!("cargo::rustc-cfg=races");
    println!("cargo::rerun-if-changed=build.rs");
}
