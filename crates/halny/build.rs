//! Has the program look for llama.cpp's libraries beside itself, and where a package puts them.
#![allow(missing_docs)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for folder in ["$ORIGIN", "$ORIGIN/../lib/halny"] {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
    // The older tag, which holds for what the libraries themselves need, too.
    println!("cargo::rustc-link-arg-bins=-Wl,--disable-new-dtags");
}
