//! `kill -9` of the Directory's leader, out of three: nothing acknowledged is lost, and writing goes on by itself.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dfs::{
    client::{Client, GroupKind, WriteOptions},
    types::{AsOf, Path, Precondition, Version},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{cluster::Cluster, workload};

const WRITERS: u64 = 4;
const FAILOVERS: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What was acknowledged, and when the last time.
#[derive(Default)]
struct Log {
    acknowledged: Mutex<Vec<Path>>,
    count: AtomicU64,
    /// Between two acknowledgements of any writer, the longest.
    pauses: Mutex<(Option<Instant>, Duration)>,
}

impl Log {
    fn acknowledge(&self, path: Path) {
        let now = Instant::now();
        let mut pauses = self.pauses.lock().unwrap();
        if let Some(last) = pauses.0.replace(now) {
            pauses.1 = pauses.1.max(now - last);
        }
        drop(pauses);
        self.acknowledged.lock().unwrap().push(path);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// The longest pause since the last call.
    fn take_longest_pause(&self) -> Duration {
        std::mem::take(&mut self.pauses.lock().unwrap().1)
    }
}

async fn write(client: Client, number: u64, log: Arc<Log>, stop: CancellationToken) {
    let mut sequence = 0;
    while !stop.is_cancelled() {
        sequence += 1;
        let path: Path = format!("/writers/{number}/{sequence}").parse().unwrap();
        let precondition = Precondition { if_version: Some(Version(0)), ..Precondition::default() };
        let options = WriteOptions::replace(precondition).create_parents();
        let content = format!("{number} {sequence}");
        let receipt = client.write_bytes(&path, options, content.into_bytes()).await;
        let receipt = receipt.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(receipt.version, Version(1), "{path} was written twice");
        log.acknowledge(path);
    }
}

async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + READY_TIMEOUT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn all_vote(client: &Client) -> bool {
    let members = client.members(GroupKind::Directory).await.unwrap_or_default();
    members.len() == 3 && members.iter().all(|member| member.is_voter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_goes_on_when_the_directorys_leader_dies_and_nothing_is_lost() {
    let mut cluster = tokio::task::spawn_blocking(|| Cluster::start_with(3, 1)).await.expect("start a cluster");
    let client = workload::connect(&cluster.directory_address()).await.expect("connect");
    client.wait_ready(READY_TIMEOUT).await.expect("a ready cluster");
    wait_for("three voters", async || all_vote(&client).await).await;
    let (log, stop) = (Arc::<Log>::default(), CancellationToken::new());
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let client = workload::connect(&cluster.directory_address()).await.expect("connect");
        writers.spawn(write(client, number, log.clone(), stop.clone()));
    }
    let mut pauses = Vec::new();
    for _ in 0..FAILOVERS {
        let before = log.count.load(Ordering::SeqCst);
        wait_for("writing", async || log.count.load(Ordering::SeqCst) > before + 20).await;
        log.take_longest_pause();
        let members = client.members(GroupKind::Directory).await.expect("members");
        let leader = members.into_iter().find(|member| member.is_leader).expect("somebody leads").server;
        let index = (0..cluster.process_count()).find(|&index| cluster.name(index) == leader).expect("a process");
        let at_death = log.count.load(Ordering::SeqCst);
        cluster.kill(index);
        wait_for("writing after a death", async || log.count.load(Ordering::SeqCst) > at_death + 20).await;
        let pause = log.take_longest_pause();
        println!("{leader} was killed: the longest pause was {pause:?}");
        pauses.push(pause);
        cluster = tokio::task::spawn_blocking(move || {
            cluster.start_process(index);
            cluster
        })
        .await
        .expect("start it again");
        wait_for("three voters", async || all_vote(&client).await).await;
    }
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer");
    }
    cluster.expect_all_running();
    let acknowledged = std::mem::take(&mut *log.acknowledged.lock().unwrap());
    for path in &acknowledged {
        let entry = client.get(path, AsOf::Now).await.unwrap_or_else(|error| panic!("{path} is lost: {error}"));
        assert_eq!(entry.version, Version(1), "{path} was written twice");
    }
    println!("{} writes, all there; pauses {pauses:?}", acknowledged.len());
    assert!(pauses.iter().all(|pause| *pause < workload::PAUSE_MAX), "{pauses:?}");
}
