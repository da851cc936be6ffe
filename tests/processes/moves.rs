//! A cluster that changes under its writers: one file server killed for good, one drained and removed, a new one taken in.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dfs::{
    client::{Client, Group, WriteOptions},
    types::{Path, Precondition, Version},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{cluster::Cluster, workload};

const WRITERS: u64 = 4;
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
/// What is promised of one machine's death.
const PAUSE_MAX: Duration = Duration::from_secs(3);
const LENGTH: usize = 4000;

/// What was acknowledged, and the longest time that one write took.
#[derive(Default)]
struct Log {
    acknowledged: Mutex<Vec<Path>>,
    count: AtomicU64,
    longest: Mutex<Duration>,
}

impl Log {
    fn take_longest(&self) -> Duration {
        std::mem::take(&mut self.longest.lock().unwrap())
    }
}

fn content(path: &Path) -> Vec<u8> {
    path.as_str().bytes().cycle().take(LENGTH).collect()
}

async fn write(client: Client, number: u64, log: Arc<Log>, stop: CancellationToken) {
    let mut sequence = 0;
    while !stop.is_cancelled() {
        sequence += 1;
        let path: Path = format!("/writers/{number}/{sequence}").parse().unwrap();
        let precondition = Precondition { if_version: Some(Version(0)), ..Precondition::default() };
        let options = WriteOptions::replace(precondition).create_parents();
        let begun = Instant::now();
        let receipt = client.write_bytes(&path, options, content(&path)).await;
        let receipt = receipt.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(receipt.servers.len() >= 2, "{path} was acknowledged by {:?}", receipt.servers);
        let mut longest = log.longest.lock().unwrap();
        *longest = begun.elapsed().max(*longest);
        drop(longest);
        log.acknowledged.lock().unwrap().push(path);
        log.count.fetch_add(1, Ordering::SeqCst);
    }
}

async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < STEP_TIMEOUT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

/// Every group has three members, all of them in sync and among these.
async fn is_whole_on(client: &Client, servers: &[&str]) -> bool {
    let allowed: BTreeSet<&str> = servers.iter().copied().collect();
    let is_whole = |group: &Group| {
        let allowed = group.in_sync.iter().all(|member| allowed.contains(member.as_str()));
        group.replacement.is_none() && group.in_sync.len() == 3 && group.members.len() == 3 && allowed
    };
    client.groups().await.is_ok_and(|groups| !groups.is_empty() && groups.iter().all(is_whole))
}

async fn blocking<T: Send + 'static>(
    cluster: Cluster,
    act: impl FnOnce(&mut Cluster) -> T + Send + 'static,
) -> (Cluster, T) {
    let acted = tokio::task::spawn_blocking(move || {
        let mut cluster = cluster;
        let done = act(&mut cluster);
        (cluster, done)
    });
    acted.await.expect("act on the cluster")
}

/// Runs `dfs-cli`; what it printed.
fn cli(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.cli().args(arguments).output().expect("run dfs-cli");
    let (out, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{words}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_lost_drained_and_added_while_clients_write() {
    let begun = tokio::task::spawn_blocking(|| Cluster::start_customized(1, 1, 3, &["--repair-after=2s"]));
    let cluster = begun.await.expect("start a cluster");
    let client = workload::connect(&cluster.directory_address()).await.expect("connect");
    // The groups are on the first three.
    client.wait_ready(STEP_TIMEOUT).await.expect("a ready cluster");
    let (cluster, _) = blocking(cluster, |cluster| cluster.add_fileserver("d")).await;
    wait_for("four servers", async || client.servers().await.is_ok_and(|all| all.fileservers.len() == 4)).await;
    let (log, stop) = (Arc::<Log>::default(), CancellationToken::new());
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let client = workload::connect(&cluster.directory_address()).await.expect("connect");
        writers.spawn(write(client, number, log.clone(), stop.clone()));
    }
    wait_for("writing", async || log.count.load(Ordering::SeqCst) > 100).await;
    println!("the longest write before anything happened took {:?}", log.take_longest());

    let (cluster, ()) = blocking(cluster, |cluster| cluster.kill(cluster.index("fileserver-b"))).await;
    let rest = ["fileserver-a", "fileserver-c", "fileserver-d"];
    let healed = wait_for("whole groups without the dead", async || is_whole_on(&client, &rest).await).await;
    let longest_at_death = log.take_longest();
    println!("whole again after {healed:?}; the longest write took {longest_at_death:?}");

    let (cluster, ()) = blocking(cluster, |cluster| {
        cli(cluster, &["servers", "rm", "fileserver-b", "--lost", "--wait"]);
        let _port_of_b = cluster.add_fileserver("e");
    })
    .await;
    wait_for("the fifth", async || client.servers().await.is_ok_and(|all| all.fileservers.len() == 4)).await;
    let (mut cluster, drain) = blocking(cluster, |cluster| {
        assert!(cli(cluster, &["servers", "drain", "fileserver-a", "-n", "-o", "name"]).lines().count() > 0);
        let begun = Instant::now();
        cli(cluster, &["servers", "drain", "fileserver-a", "--wait"]);
        cli(cluster, &["servers", "rm", "fileserver-a"]);
        cluster.expect_end(cluster.index("fileserver-a"));
        begun.elapsed()
    })
    .await;
    let longest_at_drain = log.take_longest();
    println!("drained in {drain:?}; the longest write took {longest_at_drain:?}");

    (cluster, _) = blocking(cluster, |cluster| cluster.add_fileserver("f")).await;
    wait_for("the sixth", async || client.servers().await.is_ok_and(|all| all.fileservers.len() == 4)).await;
    let (cluster, ()) = blocking(cluster, |cluster| drop(cli(cluster, &["rebalance", "--wait"]))).await;
    let servers = client.servers().await.expect("the servers").fileservers;
    let loads: Vec<u32> = servers.iter().map(|server| server.group_count).collect();
    println!("groups: {loads:?}; the longest write took {:?}", log.take_longest());
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");

    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer");
    }
    let acknowledged = std::mem::take(&mut *log.acknowledged.lock().unwrap());
    for path in &acknowledged {
        let read = workload::read_newest(&client, path).await;
        let (version, bytes) = read.unwrap_or_else(|error| panic!("{path} is lost: {error}"));
        assert_eq!((version, bytes), (Version(1), content(path)), "{path}");
    }
    for path in acknowledged.iter().step_by(50) {
        let verified = client.verify(path, None).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(verified.good_count(), 3, "{path}: {verified:?}");
    }
    println!("{} writes, all there", acknowledged.len());
    for longest in [longest_at_death, longest_at_drain] {
        assert!(longest < PAUSE_MAX, "a write took {longest:?}");
    }
    drop(cluster);
}
