//! The client library against a whole cluster: what a program that uses it can rely on.

mod bulk;
mod contention;
mod damage;
mod example;
mod namespace;
mod round_trips;
mod sessions;

use dfs::client::{Client, Error, Options, Path, Precondition, ReadOptions, Reason, Version};
use tempfile::TempDir;

use super::common::{
    cluster::{Cluster, start_cluster},
    lock::{RunningLock, start_lock},
};

/// Larger than any file of these tests.
const LIMIT: u64 = 64 << 20;

/// A Directory, a Lock service, three file servers, and a client of theirs.
struct World {
    client: Client,
    cluster: Cluster,
    /// Until a test stops it.
    lock: Option<RunningLock>,
    _folder: TempDir,
}

async fn start_world() -> World {
    let folder = TempDir::new().expect("a folder");
    let cluster = start_cluster().await;
    let lock = start_lock(&folder.path().join("lock-1"), &cluster.directory.address).await;
    let client = World::connect(&cluster).await;
    World { client, cluster, lock: Some(lock), _folder: folder }
}

impl World {
    async fn connect(cluster: &Cluster) -> Client {
        Client::connect(Options::new([cluster.directory.address.clone()])).await.expect("a cluster")
    }

    async fn another_client(&self) -> Client {
        Self::connect(&self.cluster).await
    }

    async fn stop(self) {
        // The servers wait for streams that are open.
        drop(self.client);
        self.cluster.stop().await;
        if let Some(lock) = self.lock {
            lock.stop().await;
        }
    }
}

fn path(text: &str) -> Path {
    text.parse().expect("a path")
}

fn if_version(version: u64) -> Precondition {
    Precondition { if_version: Some(Version(version)), fencing_token: None }
}

async fn read(client: &Client, file: &str) -> Result<Vec<u8>, Error> {
    read_with(client, file, ReadOptions::default()).await
}

async fn read_with(client: &Client, file: &str, options: ReadOptions) -> Result<Vec<u8>, Error> {
    let reader = client.read(&path(file), options).await?;
    Ok(reader.bytes(LIMIT).await?.to_vec())
}

#[track_caller]
fn expect_reason<T: std::fmt::Debug>(result: Result<T, Error>, reason: Reason) -> Error {
    let error = result.expect_err("the call must fail");
    assert_eq!(error.reason(), reason, "{error}");
    error
}
