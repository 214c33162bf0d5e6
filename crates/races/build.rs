//! Builds the store with shuttle's locks (`cfg(races)`); no other crate is built this way.

fn main() {
    println!("cargo::rustc-cfg=races");
    println!("cargo::rerun-if-changed=build.rs");
}
