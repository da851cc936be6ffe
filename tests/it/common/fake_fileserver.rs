//! A file server's part towards the Directory, without any data.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use dfs::{
    pb::{self, cluster_client::ClusterClient, directory_client::DirectoryClient},
    types::{BlobId, Path, StoreId, WriteId, crc32c},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{directory::RunningDirectory, within_deadline};

pub struct FakeFileServer {
    pub id: String,
    pub store: String,
    /// Blobs that it was told to delete, and has confirmed.
    pub deleted: Arc<Mutex<BTreeSet<String>>>,
    /// The newest map that a heartbeat brought.
    pub maps: watch::Receiver<pb::ClusterMap>,
    task: JoinHandle<()>,
}

pub fn a_registration(id: &str, store: &str) -> pb::RegisterServerRequest {
    pb::RegisterServerRequest {
        kind: pb::ServerKind::Fileserver.into(),
        server_id: id.to_owned(),
        store_id: store.to_owned(),
        // Nobody listens there: a probe is refused at once.
        address: "127.0.0.1:1".to_owned(),
        disk_total_bytes: 1000,
        disk_used_bytes: 100,
        ..Default::default()
    }
}

pub fn a_beat(id: &str, store: &str) -> pb::HeartbeatRequest {
    pb::HeartbeatRequest {
        server_id: id.to_owned(),
        store_id: store.to_owned(),
        disk_total_bytes: 1000,
        disk_used_bytes: 100,
        ..Default::default()
    }
}

/// Registers a server and keeps its lease until it is dropped. A probe of it is answered by the Directory's own health.
pub async fn start_fake_fileserver(directory: &RunningDirectory, id: &str, store: &str) -> FakeFileServer {
    start_fake_fileserver_at(directory, id, store, &directory.address).await
}

/// As [`start_fake_fileserver`], with an address where somebody else does the rest of its part.
pub async fn start_fake_fileserver_at(
    directory: &RunningDirectory,
    id: &str,
    store: &str,
    address: &str,
) -> FakeFileServer {
    let mut cluster = directory.cluster();
    let registration = pb::RegisterServerRequest { address: address.to_owned(), ..a_registration(id, store) };
    let registered = cluster.register_server(registration).await.expect("registers").into_inner();
    let (map_sender, maps) = watch::channel(registered.cluster_map.expect("a map"));
    let deleted = Arc::new(Mutex::new(BTreeSet::new()));
    let task = tokio::spawn(beat(cluster, a_beat(id, store), map_sender, deleted.clone()));
    FakeFileServer { id: id.to_owned(), store: store.to_owned(), deleted, maps, task }
}

async fn beat(
    mut cluster: ClusterClient<Channel>,
    beat: pb::HeartbeatRequest,
    maps: watch::Sender<pb::ClusterMap>,
    deleted: Arc<Mutex<BTreeSet<String>>>,
) {
    let mut unconfirmed = Vec::new();
    let (sender, beats) = mpsc::channel(1);
    sender.send(beat.clone()).await.expect("room for a beat");
    let answers = cluster.heartbeat(ReceiverStream::new(beats)).await.expect("a heartbeat stream");
    let mut answers = answers.into_inner();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    loop {
        tokio::select! {
            answer = answers.message() => {
                let Ok(Some(answer)) = answer else { return };
                if let Some(map) = answer.cluster_map {
                    maps.send_replace(map);
                }
                unconfirmed.extend(answer.delete_blobs);
            }
            _ = ticks.tick() => {
                let deleted_blobs = std::mem::take(&mut unconfirmed);
                deleted.lock().expect("no panic").extend(deleted_blobs.iter().cloned());
                if sender.send(pb::HeartbeatRequest { deleted_blobs, ..beat.clone() }).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for FakeFileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Three file servers, as many as the groups need.
pub async fn start_three(directory: &RunningDirectory) -> Vec<FakeFileServer> {
    let mut servers = Vec::new();
    for id in ["fileserver-a", "fileserver-b", "fileserver-c"] {
        servers.push(start_fake_fileserver(directory, id, &StoreId::random().to_string()).await);
    }
    servers
}

/// The map, once it satisfies.
pub async fn wait_for_map(
    directory: &RunningDirectory,
    what: &str,
    satisfies: impl Fn(&pb::ClusterMap) -> bool,
) -> pb::ClusterMap {
    let watched = directory.directory().watch_cluster_map(pb::WatchClusterMapRequest {}).await;
    let mut maps = watched.expect("a watch").into_inner();
    let found = async {
        loop {
            let map = maps.message().await.expect("the watch goes on").expect("the watch goes on");
            if let Some(map) = map.cluster_map.filter(&satisfies) {
                return map;
            }
        }
    };
    within_deadline(what, found).await
}

/// Commits as the primary of whichever group a path belongs to.
pub struct FakePrimary {
    pub directory: DirectoryClient<Channel>,
    pub map: pb::ClusterMap,
}

impl FakePrimary {
    pub async fn new(directory: &RunningDirectory) -> Self {
        let map = wait_for_map(directory, "a primary for every group", |map| {
            map.group_count > 0 && map.groups.iter().all(|group| !group.primary.is_empty())
        })
        .await;
        Self { directory: directory.directory(), map }
    }

    /// The group of a path.
    pub fn group(&self, path: &str) -> &pb::Group {
        let path: Path = path.parse().expect("a path");
        let group = path.group(self.map.group_count).expect("groups");
        self.map.groups.iter().find(|known| known.group == group.0).expect("the group")
    }

    /// A commit of these bytes under a fresh write id, for a new file.
    pub fn a_commit(&self, path: &str, data: &[u8]) -> pb::WriteCommit {
        let group = self.group(path);
        let pieces = if data.is_empty() {
            Vec::new()
        } else {
            vec![pb::BlobPiece { blob: BlobId::random().to_string(), length: data.len() as u64 }]
        };
        pb::WriteCommit {
            write_id: WriteId::random().to_string(),
            group: group.group,
            epoch: group.epoch,
            path: path.to_owned(),
            mode: pb::WriteMode::Replace.into(),
            pieces,
            checksum: crc32c(data),
            precondition: Some(pb::Precondition { if_version: Some(0), fencing_token: None }),
            begin_time: Some(now()),
            ..Default::default()
        }
    }

    /// One commit, by its group's primary.
    pub async fn commit(&mut self, commit: pb::WriteCommit) -> Result<pb::Committed, pb::ErrorStatus> {
        let primary = self.map.groups.iter().find(|group| group.group == commit.group).expect("the group");
        let request = pb::CommitWritesRequest { server_id: primary.primary.clone(), commits: vec![commit] };
        let answer = self.directory.commit_writes(request).await.expect("a batch is answered").into_inner();
        match answer.results.into_iter().next().and_then(|result| result.result).expect("one result") {
            pb::commit_result::Result::Committed(committed) => Ok(committed),
            pb::commit_result::Result::Error(error) => Err(error),
        }
    }

    /// Writes a whole file; `version` is the one it replaces.
    pub async fn write(&mut self, path: &str, data: &[u8], version: u64) -> pb::Committed {
        let precondition = Some(pb::Precondition { if_version: Some(version), fencing_token: None });
        let commit = pb::WriteCommit { precondition, ..self.a_commit(path, data) };
        self.commit(commit).await.expect("commits")
    }
}

pub fn now() -> prost_types::Timestamp {
    std::time::SystemTime::now().into()
}
