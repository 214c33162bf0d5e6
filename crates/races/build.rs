//! Has the store built with locks whose turns are chosen; no other crate is.

fn main() {
    println!("cargo::rustc-cfg=races");
    println!("cargo::rerun-if-changed=build.rs");
}
