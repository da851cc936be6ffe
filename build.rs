//! Compiles the protos, and nothing else. `protox` is a compiler in Rust, so no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTOS: [&str; 5] =
    ["dfs.proto", "storage/directory.proto", "storage/lock.proto", "storage/fileserver.proto", "storage/raft.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;

    // Reflection serves the public contract alone: what is on disk is nobody else's business.
    let contract = protox::compile(["dfs.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dfs_descriptor.bin"), contract.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
