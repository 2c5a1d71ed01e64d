//! Compiles the gRPC surface. `protox` reads the `.proto` text, so no `protoc` has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let messages = protox::compile(["open_inference.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        // Tensors stay where the network put them instead of being copied out of the message.
        .bytes(".")
        .btree_map(".")
        .extern_path(".inference.Undecoded", "crate::oip::codec::Undecoded")
        .codec_path("crate::oip::codec::BoundedCodec")
        .compile_fds(messages)?;
    Ok(())
}
