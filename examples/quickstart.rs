//! A first program: a file is written under its lock, changed, read back, and looked at on every server's disk.
//!
//! Start a cluster (`cargo run -- dev`), then: `cargo run --example quickstart`. Another address goes into `DFS_DIRECTORY`.

use dfs::client::{Client, CreateDirectory, LockMode, Options, Path, ReadOptions, SessionOptions, WriteOptions};
use futures::TryStreamExt;

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::var("DFS_DIRECTORY").unwrap_or_else(|_| "localhost:7070".to_owned());
    let client = Client::connect(Options::new(directory.split(','))).await?;
    tour(&client).await
}

pub async fn tour(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    let folder: Path = "/quickstart".parse()?;
    client.create_directory(&folder, CreateDirectory { parents: true, mode: None }).await?;
    let path = folder.join("greeting")?;

    // A lock has a token. Once another client holds the lock, the storage refuses this one.
    let session = client.open_session(SessionOptions { client: "quickstart".into(), ..Default::default() }).await?;
    let told = |place: dfs::client::QueuePosition| println!("{} of {} in the queue", place.position, place.waiters);
    let guard = session.acquire(&path, LockMode::Exclusive, None, told).await?;
    let receipt = client.write_bytes(&path, WriteOptions::replace(guard.precondition()?), "hello\n").await?;
    println!("version {} is on the disks of {:?}", receipt.version, receipt.servers);
    guard.release().await?;
    session.close().await?;

    // Read, change, write: under the lock, and only if nobody else wrote in between.
    let edited = client
        .edit(&path, Default::default(), |content, _version| async move {
            Ok([&content[..], b"and welcome\n"].concat().into())
        })
        .await?;

    // The newest version, and the one before: versions never change.
    let newest = client.read(&path, ReadOptions::default()).await?.bytes(1 << 20).await?;
    let first = ReadOptions { version: Some(receipt.version), ..Default::default() };
    let first = client.read(&path, first).await?.bytes(1 << 20).await?;
    print!("now:\n{}then:\n{}", String::from_utf8_lossy(&newest), String::from_utf8_lossy(&first));

    let mut versions = client.versions(&path);
    while let Some(version) = versions.try_next().await? {
        println!("version {}: {} bytes, checksum {:08x}", version.version, version.size, version.checksum);
    }

    // Every copy, read from each server's own disk.
    let verification = client.verify(&path, Some(edited.version)).await?;
    for replica in &verification.replicas {
        println!("{}: {}", replica.server, if replica.good { "good" } else { "not as written" });
    }
    Ok(())
}
