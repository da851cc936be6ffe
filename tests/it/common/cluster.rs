//! A whole cluster in this process: a Directory and file servers, with their data in a temporary folder.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Parser;
use dfs::{
    config::FileServerOptions,
    pb::{self, file_server_client::FileServerClient, write_response},
    serve,
    status::Reason,
    types::{Path, WriteId, crc32c},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use super::{
    directory::{RunningDirectory, start_directory, start_directory_at},
    fake_fileserver::wait_for_map,
    gate::Gate,
    http::free_address,
    wait_until, within_deadline,
};

pub const SERVERS: [&str; 3] = ["fileserver-a", "fileserver-b", "fileserver-c"];

/// Few groups, and file servers that settle what was left behind soon.
pub struct Settings {
    pub directory: Vec<&'static str>,
    pub fileserver: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { directory: vec!["--garbage-grace", "0ms"], fileserver: vec!["--staged-ttl", "2s"] }
    }
}

pub struct RunningFileServer {
    pub address: String,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

pub struct Cluster {
    pub directory: RunningDirectory,
    pub servers: BTreeMap<String, RunningFileServer>,
    settings: Settings,
    folder: TempDir,
}

/// Starts a cluster of three and waits until every group has everyone in sync.
pub async fn start_cluster() -> Cluster {
    start_cluster_with(Settings::default()).await
}

pub async fn start_cluster_with(settings: Settings) -> Cluster {
    let folder = TempDir::new().expect("a folder");
    let directory = start_directory(&folder.path().join("directory-1"), &settings.directory).await;
    start_cluster_beside(folder, directory, settings, &SERVERS).await
}

/// Starts these servers beside whoever has registered before, and waits until every group has three in sync.
pub async fn start_cluster_beside(
    folder: TempDir,
    directory: RunningDirectory,
    settings: Settings,
    servers: &[&str],
) -> Cluster {
    let mut cluster = Cluster::without_servers(folder, directory, settings);
    for id in servers {
        cluster.start_server(id).await;
    }
    cluster.wait_until_in_sync(3).await;
    cluster.wait_until_everyone_knows().await;
    cluster
}

impl Cluster {
    pub fn without_servers(folder: TempDir, directory: RunningDirectory, settings: Settings) -> Self {
        Self { directory, servers: BTreeMap::new(), settings, folder }
    }

    pub fn data_folder(&self, id: &str) -> PathBuf {
        self.folder.path().join(id)
    }

    /// Starts a server on the data it left, if any, on a new port.
    pub async fn start_server(&mut self, id: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.start_server_on(listener, id, &["--reserve-bytes", "1"]);
    }

    /// Starts a server whose metrics are at the address that is answered.
    pub async fn start_measured_server(&mut self, id: &str) -> String {
        let (listener, metrics) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), free_address().await);
        self.start_server_on(listener, id, &["--reserve-bytes", "1", "--metrics-listen", &metrics]);
        metrics
    }

    /// Starts a server that the others reach through the gate alone; it reaches the others, and a test reaches it, anyhow.
    pub async fn start_server_behind_gate(&mut self, id: &str, more: &[&str]) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gate = Gate::before(&listener.local_addr().expect("the port's address").to_string()).await;
        gate.shut();
        self.start_server_on(listener, id, &[&["--reserve-bytes", "1", "--advertise", &gate.address], more].concat());
        gate
    }

    /// Starts a server whose disk is full, as far as it is concerned.
    pub async fn start_full_server(&mut self, id: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.start_server_on(listener, id, &["--reserve-bytes", &u64::MAX.to_string()]);
    }

    fn start_server_on(&mut self, listener: TcpListener, id: &str, more: &[&str]) {
        let address = listener.local_addr().expect("the port's address").to_string();
        let data = self.data_folder(id);
        let data = data.to_str().expect("a path of text");
        let fixed = ["dfs-fileserver", "--id", id, "--listen", "127.0.0.1:0", "--data", data];
        let fixed = fixed.into_iter().chain(["--directory", &self.directory.address]);
        let options = FileServerOptions::parse_from(
            fixed
                .chain(["--segment-bytes", "8388608"])
                .chain(more.iter().copied())
                .chain(self.settings.fileserver.iter().copied()),
        );
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(dfs::fileserver::run(options, listener, shutdown.clone()));
        self.servers.insert(id.to_owned(), RunningFileServer { address, shutdown, task });
    }

    /// Stops a server and waits until everything of it is closed.
    pub async fn stop_server(&mut self, id: &str) {
        let server = self.servers.remove(id).expect("a running server");
        server.shutdown.cancel();
        within_deadline("a file server's end", server.task).await.expect("no panic").expect("a clean end");
    }

    /// Waits until a server has ended by itself, cleanly.
    pub async fn wait_until_ended(&mut self, id: &str) {
        let server = self.servers.remove(id).expect("a running server");
        within_deadline("a file server's end", server.task).await.expect("no panic").expect("a clean end");
    }

    /// Waits until there are groups, and each has so many members in sync, and a primary.
    pub async fn wait_until_in_sync(&self, count: usize) -> pb::ClusterMap {
        wait_for_map(&self.directory, "in-sync sets", |map| {
            map.group_count > 0
                && map.groups.iter().all(|group| group.in_sync.len() == count && !group.primary.is_empty())
        })
        .await
    }

    /// Waits until every server that runs has heard what the groups are now.
    pub async fn wait_until_everyone_knows(&self) {
        wait_until("the map at every server", || async {
            let groups = self.map().await.groups;
            for id in self.servers.keys() {
                let status = self.server(id).get_status(pb::GetStatusRequest {}).await;
                if !status.is_ok_and(|status| status.into_inner().groups == groups) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    pub async fn map(&self) -> pb::ClusterMap {
        let answer = self.directory.directory().get_cluster_map(pb::GetClusterMapRequest {}).await;
        answer.expect("the map").into_inner().cluster_map.expect("the map")
    }

    pub async fn group_of(&self, path: &str) -> pb::Group {
        let map = self.map().await;
        let path: Path = path.parse().expect("a path");
        let group = path.group(map.group_count).expect("groups");
        map.groups.into_iter().find(|known| known.group == group.0).expect("the group")
    }

    pub fn server(&self, id: &str) -> FileServerClient<Channel> {
        let address = &self.servers.get(id).expect("a running server").address;
        FileServerClient::new(serve::channel(address).expect("an address"))
    }

    /// A stream to the path's primary.
    pub async fn write_stream(&self, path: &str) -> WriteStream {
        let primary = self.group_of(path).await.primary;
        WriteStream::open(self.server(&primary)).await
    }

    /// Writes at the primary, once.
    pub async fn try_write(&self, begin: pb::WriteBegin, data: &[u8]) -> Result<pb::WriteReceipt, pb::ErrorStatus> {
        let mut stream = self.write_stream(&begin.path).await;
        stream.write(WriteId::random(), begin, data).await
    }

    /// Writes as a client does: the same write id until it is done, wherever the primary is.
    pub async fn write(&self, begin: pb::WriteBegin, data: &[u8]) -> pb::WriteReceipt {
        let write_id = WriteId::random();
        let written = async {
            loop {
                let primary = self.group_of(&begin.path).await.primary;
                if self.servers.contains_key(&primary) {
                    let mut stream = WriteStream::open(self.server(&primary)).await;
                    match stream.write(write_id, begin.clone(), data).await {
                        Ok(receipt) => return receipt,
                        Err(error) => assert!(
                            [
                                "UNAVAILABLE",
                                "NOT_LEADER",
                                "NOT_ENOUGH_REPLICAS",
                                "DEADLINE_EXCEEDED",
                                "SERVER_DRAINING"
                            ]
                            .contains(&error.reason.as_str()),
                            "{error:?}"
                        ),
                    }
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        within_deadline("a write", written).await
    }

    pub async fn look_up(&self, path: &str) -> Result<pb::LookupFileResponse, tonic::Status> {
        let file = Some(pb::lookup_file_request::File::Path(path.to_owned()));
        let request = pb::LookupFileRequest { file, ..Default::default() };
        self.directory.directory().lookup_file(request).await.map(tonic::Response::into_inner)
    }

    /// The bytes of the newest version, all from the disk of one server.
    pub async fn read_from(&self, id: &str, path: &str) -> Vec<u8> {
        let file = self.look_up(path).await.expect("the file");
        let ranges = ranges_of(&file);
        let mut chunks = self.server(id).read(pb::ReadRequest { ranges }).await.expect("a stream").into_inner();
        let mut bytes = Vec::new();
        while let Some(response) = chunks.message().await.expect("the stream goes on") {
            let Some(pb::read_response::Result::Chunk(chunk)) = response.result else {
                panic!("{id} cannot read {path}: {response:?}")
            };
            assert_eq!(crc32c(&chunk.data), chunk.checksum);
            bytes.extend_from_slice(&chunk.data);
        }
        bytes
    }

    /// Checksums of the newest version's extents, as computed from one server's own disk.
    pub async fn verify_on(&self, id: &str, path: &str) -> Vec<(u64, u32)> {
        let ranges = ranges_of(&self.look_up(path).await.expect("the file"));
        let request = pb::VerifyBlobsRequest { ranges, presence_only: false };
        let mut answers = self.server(id).verify_blobs(request).await.expect("a stream").into_inner();
        let mut verified = Vec::new();
        while let Some(response) = answers.message().await.expect("the stream goes on") {
            match response.result {
                Some(pb::verify_blobs_response::Result::Verified(range)) => {
                    verified.push((range.length, range.checksum));
                }
                other => panic!("{id} cannot verify {path}: {other:?}"),
            }
        }
        verified
    }

    /// All blobs on one server's disk.
    pub async fn blobs_on(&self, id: &str) -> Vec<pb::BlobInfo> {
        let mut blobs = Vec::new();
        for group in self.map().await.groups {
            let request = pb::ListBlobsRequest { group: group.group, page_size: 10_000, ..Default::default() };
            blobs.extend(self.server(id).list_blobs(request).await.expect("a page").into_inner().blobs);
        }
        blobs
    }

    /// Waits until every server that runs has exactly so many blobs, all published.
    pub async fn wait_until_blobs(&self, count: usize) {
        wait_until("blobs on the disks", || async {
            for id in self.servers.keys() {
                let blobs = self.blobs_on(id).await;
                if blobs.len() != count || !blobs.iter().all(|blob| blob.published) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until every server that runs has gone so often more through what is staged.
    pub async fn wait_until_settled_again(&self, rounds: u64) {
        let count = async |id: &str| {
            let status = self.server(id).get_status(pb::GetStatusRequest {}).await;
            status.expect("a status").into_inner().settle_round_count
        };
        for id in self.servers.keys() {
            let before = count(id).await;
            wait_until("rounds of settling", async || count(id).await >= before + rounds).await;
        }
    }

    /// Stops the Directory; answers where it was.
    pub async fn stop_directory(&mut self) -> String {
        let address = self.directory.address.clone();
        self.directory.stop_here().await;
        address
    }

    pub async fn start_directory_at(&mut self, address: &str) {
        let data = self.folder.path().join("directory-1");
        self.directory = start_directory_at(address, &data, &self.settings.directory).await;
    }

    pub async fn stop(mut self) {
        for id in self.servers.keys().cloned().collect::<Vec<_>>() {
            self.stop_server(&id).await;
        }
        self.directory.stop_here().await;
    }
}

pub fn ranges_of(file: &pb::LookupFileResponse) -> Vec<pb::BlobRange> {
    let range = |extent: &pb::Extent| pb::BlobRange {
        blob: extent.blob.clone(),
        offset: extent.blob_offset,
        length: extent.length,
    };
    file.extents.iter().map(range).collect()
}

/// A client's stream of writes.
pub struct WriteStream {
    requests: Option<mpsc::Sender<pb::WriteRequest>>,
    answers: Streaming<pb::WriteResponse>,
}

impl WriteStream {
    pub async fn open(mut server: FileServerClient<Channel>) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let answers = server.write(ReceiverStream::new(outgoing)).await.expect("a write stream").into_inner();
        Self { requests: Some(requests), answers }
    }

    pub async fn send(&self, request: pb::WriteRequest) {
        // A stream that the server has ended says why in its answers.
        let _ended = self.requests.as_ref().expect("still sending").send(request).await;
    }

    pub async fn begin(&self, write_id: WriteId, begin: pb::WriteBegin) {
        self.send(pb::WriteRequest { write_id: write_id.to_string(), begin: Some(begin), ..Default::default() }).await;
    }

    pub async fn data(&self, write_id: WriteId, data: &[u8]) {
        let data = pb::WriteData { data: bytes::Bytes::copy_from_slice(data), checksum: crc32c(data) };
        self.send(pb::WriteRequest { write_id: write_id.to_string(), data: Some(data), ..Default::default() }).await;
    }

    pub async fn end(&self, write_id: WriteId, data: &[u8]) {
        let end = pb::WriteEnd { length: data.len() as u64, checksum: crc32c(data) };
        self.send(pb::WriteRequest { write_id: write_id.to_string(), end: Some(end), ..Default::default() }).await;
    }

    /// Sends nothing more; answers still come.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    pub async fn next(&mut self) -> Result<Option<pb::WriteResponse>, tonic::Status> {
        within_deadline("an answer to a write", self.answers.message()).await
    }

    /// The next answer, which must be to this write.
    pub async fn answer(&mut self, write_id: WriteId) -> Result<pb::WriteReceipt, pb::ErrorStatus> {
        let response = match self.next().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(unavailable("the stream ended")),
            Err(status) => return Err(unavailable(status.message())),
        };
        assert_eq!(response.write_id, write_id.to_string());
        match response.result.expect("a result") {
            write_response::Result::Receipt(receipt) => Ok(receipt),
            write_response::Result::Error(error) => Err(error),
        }
    }

    /// A whole write, in frames of 256 KiB.
    pub async fn write(
        &mut self,
        write_id: WriteId,
        begin: pb::WriteBegin,
        data: &[u8],
    ) -> Result<pb::WriteReceipt, pb::ErrorStatus> {
        self.begin(write_id, begin).await;
        for frame in data.chunks(256 << 10) {
            self.data(write_id, frame).await;
        }
        self.end(write_id, data).await;
        self.answer(write_id).await
    }
}

fn unavailable(message: &str) -> pb::ErrorStatus {
    dfs::status::Failure::new(Reason::Unavailable, message).into()
}

/// The beginning of a write of a file's whole content, in place of the version named.
pub fn replace(path: &str, version: u64) -> pb::WriteBegin {
    pb::WriteBegin {
        path: path.to_owned(),
        mode: pb::WriteMode::Replace.into(),
        precondition: Some(pb::Precondition { if_version: Some(version), fencing_token: None }),
        ..Default::default()
    }
}

pub fn append(path: &str) -> pb::WriteBegin {
    pb::WriteBegin { path: path.to_owned(), mode: pb::WriteMode::Append.into(), ..Default::default() }
}

pub fn patch(path: &str, offset: u64, version: u64) -> pb::WriteBegin {
    pb::WriteBegin { mode: pb::WriteMode::Patch.into(), offset, ..replace(path, version) }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn some_bytes(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
