//! Generated from `proto/`; nothing else lives here.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("dfs.v1");

/// Descriptors of `proto/dfs.proto` and what it imports, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dfs_descriptor.bin"));

/// What the services, and the consensus below them, write to disk.
pub mod storage {
    pub mod directory {
        tonic::include_proto!("dfs.storage.directory.v1");
    }
    pub mod lock {
        tonic::include_proto!("dfs.storage.lock.v1");
    }
    pub mod fileserver {
        tonic::include_proto!("dfs.storage.fileserver.v1");
    }
    pub mod raft {
        tonic::include_proto!("dfs.storage.raft.v1");
    }
}
