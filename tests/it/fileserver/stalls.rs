//! A replica that answers and takes no data: writes go on without it.

use std::time::Duration;

use dfs::{
    pb::{
        self,
        file_server_server::{FileServer, FileServerServer},
        replicate_response::Message as Answer,
    },
    serve,
    types::{StoreId, WriteId},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::common::{
    cluster::{SERVERS, Settings, replace, some_bytes, start_cluster_beside},
    directory::start_directory,
    fake_fileserver::start_fake_fileserver_at,
};

/// Welcomes primaries, says all the time that it is alive, and reads nothing: as with a disk that hangs.
struct Stuck(&'static str);

type Stream<T> = ReceiverStream<Result<T, Status>>;
type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl FileServer for Stuck {
    type WriteStream = Stream<pb::WriteResponse>;
    type ReadStream = Stream<pb::ReadResponse>;
    type VerifyBlobsStream = Stream<pb::VerifyBlobsResponse>;
    type ScrubStoreStream = Stream<pb::ScrubStoreResponse>;
    type RepairBlobsStream = Stream<pb::RepairBlobsResponse>;
    type ReplicateStream = Stream<pb::ReplicateResponse>;
    type FetchBlobsStream = Stream<pb::FetchBlobsResponse>;
    type JoinGroupStream = Stream<pb::JoinGroupResponse>;

    async fn replicate(&self, requests: Request<Streaming<pb::ReplicateRequest>>) -> Answered<Self::ReplicateStream> {
        let (answers, stream) = mpsc::channel(4);
        let welcome = pb::ReplicateWelcome { server_id: self.0.to_owned(), store_id: String::new() };
        tokio::spawn(async move {
            let _unread = requests;
            let mut next = Answer::Welcome(welcome);
            while answers.send(Ok(pb::ReplicateResponse { message: Some(next) })).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
                next = Answer::Pong(0);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn write(&self, _: Request<Streaming<pb::WriteRequest>>) -> Answered<Self::WriteStream> {
        Err(stuck())
    }

    async fn read(&self, _: Request<pb::ReadRequest>) -> Answered<Self::ReadStream> {
        Err(stuck())
    }

    async fn list_blobs(&self, _: Request<pb::ListBlobsRequest>) -> Answered<pb::ListBlobsResponse> {
        Err(stuck())
    }

    async fn verify_blobs(&self, _: Request<pb::VerifyBlobsRequest>) -> Answered<Self::VerifyBlobsStream> {
        Err(stuck())
    }

    async fn scrub_store(&self, _: Request<pb::ScrubStoreRequest>) -> Answered<Self::ScrubStoreStream> {
        Err(stuck())
    }

    async fn repair_blobs(&self, _: Request<pb::RepairBlobsRequest>) -> Answered<Self::RepairBlobsStream> {
        Err(stuck())
    }

    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Answered<pb::GetStatusResponse> {
        Err(stuck())
    }

    async fn fetch_blobs(&self, _: Request<pb::FetchBlobsRequest>) -> Answered<Self::FetchBlobsStream> {
        Err(stuck())
    }

    async fn join_group(&self, _: Request<Streaming<pb::JoinGroupRequest>>) -> Answered<Self::JoinGroupStream> {
        Err(stuck())
    }
}

fn stuck() -> Status {
    Status::unavailable("the disk hangs")
}

async fn start_stuck(id: &'static str, shutdown: &CancellationToken) -> (String, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("the port's address").to_string();
    let mut services = serve::Services::new();
    services.add(FileServerServer::new(Stuck(id)));
    (address, tokio::spawn(services.serve(listener, shutdown.clone())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_goes_on_without_a_replica_whose_disk_hangs() {
    let folder = TempDir::new().expect("a folder");
    let settings = Settings::default();
    let directory = start_directory(&folder.path().join("directory-1"), &settings.directory).await;
    let (shutdown, stuck) = (CancellationToken::new(), SERVERS[2]);
    let (address, serving) = start_stuck(stuck, &shutdown).await;
    let store = StoreId::random().to_string();
    let _beating = start_fake_fileserver_at(&directory, stuck, &store, &address).await;
    let cluster = start_cluster_beside(folder, directory, settings, &SERVERS[..2]).await;

    let mut path = String::new();
    for number in 0.. {
        path = format!("/big-{number}");
        if cluster.group_of(&path).await.primary != stuck {
            break;
        }
    }
    // More than windows and queues between two servers hold.
    let data = some_bytes(3, 24 << 20);
    let (mut stream, write_id) = (cluster.write_stream(&path).await, WriteId::random());
    let receipt = stream.write(write_id, replace(&path, 0), &data).await.expect("written");
    assert_eq!(receipt.servers, SERVERS[..2]);
    for id in receipt.servers {
        assert!(cluster.read_from(&id, &path).await == data, "{id}");
    }
    cluster.stop().await;
    shutdown.cancel();
    serving.await.expect("no panic").expect("a clean end");
}
