//! A lock that the storage enforces: from the moment a successor holds the lock, the commit of a holder whose lease ran
//! out is refused, even if the successor has written nothing yet.

use std::{
    io::Write as _,
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use dfs::{
    client::{Client, SessionOptions, WriteOptions},
    pb,
    status::Reason,
    types::{AsOf, LockMode, Path, Precondition, WriteId, crc32c},
};
use futures::StreamExt;
use tokio::task::JoinSet;

use crate::{
    cluster::{self, Cluster},
    workload,
};

const ROUNDS: usize = 100;
/// As many at once as lets every lease be watched in time.
const AT_ONCE: usize = 20;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
const LEASE_MS: u64 = 1000;
const FIRST_HALF_BYTES: usize = 1 << 20;
const SECOND_HALF: &[u8] = b"the second half, sent too late\n";

async fn start() -> (Cluster, Arc<Client>) {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.expect("start a cluster");
    let client = workload::connect(&cluster.directory_address()).await.expect("connect");
    client.wait_ready(READY_TIMEOUT).await.expect("a ready cluster");
    (cluster, Arc::new(client))
}

fn path_of(round: usize) -> Path {
    format!("/fenced-{round}").parse().expect("a good path")
}

/// The holder here has no manners at all: it never renews, never looks at the clock, and sends its write to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_without_manners_cannot_commit_after_its_successor_was_granted() {
    let (cluster, client) = start().await;
    let mut rounds = JoinSet::new();
    for round in 0..ROUNDS {
        if rounds.len() == AT_ONCE {
            rounds.join_next().await.expect("a round").expect("a round");
        }
        rounds.spawn(outlive_a_lease(client.clone(), path_of(round)));
    }
    while let Some(ended) = rounds.join_next().await {
        ended.expect("a round");
    }
    drop(cluster);
}

async fn outlive_a_lease(client: Arc<Client>, path: Path) {
    let token = acquire_without_renewal(&client, &path).await;
    let write_id = WriteId::random().to_string();
    let first = vec![7_u8; 64 << 10];
    let begin = pb::WriteRequest {
        write_id: write_id.clone(),
        begin: Some(pb::WriteBegin {
            path: path.to_string(),
            mode: pb::WriteMode::Replace.into(),
            precondition: Some(pb::Precondition { fencing_token: Some(token), if_version: None }),
            ..pb::WriteBegin::default()
        }),
        data: Some(pb::WriteData { checksum: crc32c(&first), data: first.clone().into() }),
        ..pb::WriteRequest::default()
    };
    let (frames, queue) = tokio::sync::mpsc::channel(4);
    let mut primary = pb::file_server_client::FileServerClient::new(primary_of(&client, &path));
    frames.send(begin).await.expect("an open stream");
    let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
    let answers = tokio::spawn(async move { primary.write(stream).await });

    let successor = client.open_session(SessionOptions { ttl: ACQUIRE_TIMEOUT, client: "successor".into() }).await;
    let successor = successor.expect("open a session");
    let guard = successor.acquire(&path, LockMode::Exclusive, Some(ACQUIRE_TIMEOUT), |_| {}).await;
    let guard = guard.expect("the lock passes on");
    assert!(guard.token().0 > token, "tokens rise");

    let whole = [&first[..], SECOND_HALF].concat();
    let end = pb::WriteRequest {
        write_id,
        data: Some(pb::WriteData { checksum: crc32c(SECOND_HALF), data: SECOND_HALF.into() }),
        end: Some(pb::WriteEnd { length: whole.len() as u64, checksum: crc32c(&whole) }),
        ..pb::WriteRequest::default()
    };
    frames.send(end).await.expect("an open stream");
    let mut answers = answers.await.expect("the call").expect("an answer").into_inner();
    let answer = answers.message().await.expect("an answer").expect("an answer");
    match answer.result {
        Some(pb::write_response::Result::Error(error)) => assert_eq!(error.reason, "FENCING_TOKEN_STALE", "{error:?}"),
        other => panic!("{path}: a fenced write was answered {other:?}"),
    }
    let gone = client.get(&path, AsOf::Now).await.expect_err("nothing is visible of it");
    assert_eq!(gone.reason(), Reason::EntryNotFound);

    let precondition = Precondition { fencing_token: Some(guard.token()), if_version: None };
    let receipt = client.write_bytes(&path, WriteOptions::replace(precondition), "the successor's").await;
    assert_eq!(receipt.expect("the holder writes").version.0, 1);
    guard.release().await.expect("release");
    successor.close().await.expect("close the session");
}

async fn acquire_without_renewal(client: &Client, path: &Path) -> u64 {
    let map = client.cluster_map();
    let lock = map.lock_servers.first().expect("a lock server");
    let channel = dfs::serve::channel(&lock.address).expect("a good address");
    let mut lock = pb::lock_client::LockClient::new(channel);
    let session_id = dfs::types::SessionId::random().to_string();
    let open = pb::OpenSessionRequest { session_id: session_id.clone(), ttl_ms: LEASE_MS, client: "paused".into() };
    lock.open_session(open).await.expect("open a session");
    let acquire = pb::AcquireLockRequest {
        session_id,
        path: path.to_string(),
        mode: pb::LockMode::Exclusive.into(),
        wait_ms: Some(0),
    };
    let mut events = lock.acquire_lock(acquire).await.expect("acquire").into_inner();
    while let Some(event) = events.next().await {
        if let Some(pb::acquire_lock_response::Event::Grant(grant)) = event.expect("an event").event {
            return grant.fencing_token;
        }
    }
    panic!("{path} was not granted although nobody holds it");
}

fn primary_of(client: &Client, path: &Path) -> tonic::transport::Channel {
    let map = client.cluster_map();
    let group = path.group(map.group_count).expect("groups");
    let primary = map.groups[&group].primary.as_ref().expect("a primary");
    dfs::serve::channel(&map.servers[primary].address).expect("a good address")
}

/// The same with a process that is stopped in the middle of its write and continued later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_stopped_past_its_lease_cannot_commit() {
    let (cluster, client) = start().await;
    let cluster = Arc::new(cluster);
    let mut rounds = JoinSet::new();
    for round in 0..ROUNDS {
        if rounds.len() == AT_ONCE {
            rounds.join_next().await.expect("a round").expect("a round");
        }
        rounds.spawn(stop_in_the_middle(client.clone(), cluster.clone(), path_of(round)));
    }
    while let Some(ended) = rounds.join_next().await {
        ended.expect("a round");
    }
}

async fn stop_in_the_middle(client: Arc<Client>, cluster: Arc<Cluster>, path: Path) {
    let mut writer = start_writer(&cluster, &path);
    let mut input = writer.stdin.take().expect("a pipe");
    // More than a pipe holds: once it is taken, the writer has its lock and is in the middle of its write.
    let fed = tokio::task::spawn_blocking(move || input.write_all(&[7; FIRST_HALF_BYTES]).map(|()| input));
    let fed = tokio::time::timeout(ACQUIRE_TIMEOUT, fed).await.expect("the writer reads").expect("feed the writer");
    let mut input = fed.expect("feed the writer");
    cluster::stop(writer.id());

    let successor = client.open_session(SessionOptions { ttl: ACQUIRE_TIMEOUT, client: "successor".into() }).await;
    let successor = successor.expect("open a session");
    let guard = successor.acquire(&path, LockMode::Exclusive, Some(ACQUIRE_TIMEOUT), |_| {}).await;
    let guard = guard.expect("the lock passes on");

    cluster::cont(writer.id());
    // The writer may have given up by itself already, which closes the pipe.
    drop(input.write_all(SECOND_HALF));
    drop(input);
    let output = tokio::task::spawn_blocking(move || writer.wait_with_output()).await.expect("wait").expect("an exit");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{path}: {words}");
    let gone = client.get(&path, AsOf::Now).await.expect_err("nothing is visible of it");
    assert_eq!(gone.reason(), Reason::EntryNotFound);
    guard.release().await.expect("release");
    successor.close().await.expect("close the session");
}

fn start_writer(cluster: &Cluster, path: &Path) -> Child {
    cluster
        .cli()
        .args(["write", path.as_str(), "--from", "-", "--ttl", "3s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start dfs-cli")
}
