//! `kill -9` of each process in turn while clients write: nothing acknowledged is lost, nothing torn is ever seen.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dfs::{client::Client, status::Reason, types::Path};
use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::Cluster,
    history::History,
    payload::Payload,
    workload::{self, Worker},
};

const WRITERS: u64 = 16;
const READERS: u64 = 2;
const DEFAULT_SECONDS: u64 = 20;
/// Fewer of either and the run proved little.
const KILLS_PER_MINUTE_MIN: u64 = 12;
const WRITES_PER_SECOND_MIN: u64 = 5;
const LEVEL_TIMEOUT: Duration = Duration::from_secs(60);
const CHECKS_AT_ONCE: usize = 16;

/// From the environment, so that a failure can be tried again: `DFS_KILLS_SECONDS`, `DFS_KILLS_SEED`.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_death_of_every_process() {
    let seconds = setting("DFS_KILLS_SECONDS").unwrap_or(DEFAULT_SECONDS);
    let seed = setting("DFS_KILLS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}, {seconds} s");

    let cluster = tokio::task::spawn_blocking(Cluster::start).await.expect("start a cluster");
    let directory = cluster.directory_address();
    let checker = workload::connect(&directory).await.expect("connect");
    checker.wait_ready(LEVEL_TIMEOUT).await.expect("a ready cluster");

    let history = Arc::new(History::default());
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..WRITERS {
        let worker = Worker::connect(number, seed, &directory, history.clone()).await.expect("connect a writer");
        clients.spawn(worker.write(stop.clone()));
    }
    for number in WRITERS..WRITERS + READERS {
        let worker = Worker::connect(number, seed, &directory, history.clone()).await.expect("connect a reader");
        clients.spawn(worker.read(WRITERS, stop.clone()));
    }

    let killer = tokio::task::spawn_blocking(move || kill_in_turn(cluster, Duration::from_secs(seconds), seed));
    let (mut cluster, kills) = tokio::select! {
        killed = killer => killed.expect("kill in turn"),
        // Clients end only when told to, or by a failed assertion.
        Some(ended) = clients.join_next() => panic!("a client ended early: {ended:?}"),
    };
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client of the workload");
    }
    cluster.expect_all_running();

    wait_until_level(&checker).await;
    expect_acknowledged_writes(&checker, &history).await;
    expect_acknowledged_lines(&checker, &history).await;
    expect_equal_copies(&checker, &history).await;

    let summary = history.summary();
    println!("kills {kills}, {summary}");
    assert!(kills * 60 >= KILLS_PER_MINUTE_MIN * seconds, "only {kills} kills in {seconds} s");
    assert!(summary.acknowledged_writes as u64 >= WRITES_PER_SECOND_MIN * seconds, "too few writes: {summary}");
    assert!(summary.acknowledged_lines > 0 && summary.whole_reads > 0, "{summary}");
}

/// Kills and restarts one process after the other, each round in another order, at random moments.
fn kill_in_turn(mut cluster: Cluster, length: Duration, seed: u64) -> (Cluster, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut order: Vec<usize> = (0..cluster.process_count()).collect();
    let mut kills = 0;
    loop {
        order.shuffle(&mut random);
        for &index in &order {
            std::thread::sleep(Duration::from_millis(random.random_range(200..2500)));
            if began.elapsed() >= length {
                return (cluster, kills);
            }
            cluster.kill(index);
            kills += 1;
            let down = Duration::from_millis(random.random_range(0..1500));
            println!("{:>6.2} s: killed {}, back after {down:?}", began.elapsed().as_secs_f64(), cluster.name(index));
            std::thread::sleep(down);
            cluster.start_process(index);
        }
    }
}

async fn wait_until_level(client: &Client) {
    let deadline = Instant::now() + LEVEL_TIMEOUT;
    loop {
        let status = client.status().await.expect("the cluster's status");
        if status.group_full_count == status.group_count && status.group_count > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "groups are still short of copies: {status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn expect_acknowledged_writes(client: &Client, history: &History) {
    let checks = history.writes().into_iter().map(async |(path, version, payload)| {
        let bytes = workload::read_version(client, &path, version).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{path} version {version}: {error}"));
        assert_eq!(Payload::parse(&bytes), Ok(payload), "{path} version {version}");
    });
    stream::iter(checks).buffer_unordered(CHECKS_AT_ONCE).collect::<()>().await;
}

/// Every acknowledged line is there once; a line of unknown fate at most once; nothing else.
pub async fn expect_acknowledged_lines(client: &Client, history: &History) {
    for (path, lines) in history.lines() {
        let (_, bytes) = workload::read_newest(client, &path).await.expect("read a log");
        let text = String::from_utf8(bytes).expect("lines are text");
        let mut found: HashMap<&str, u32> = HashMap::new();
        for line in text.split_inclusive('\n') {
            assert!(line.starts_with("worker ") && line.ends_with('\n'), "{path} has a torn line {line:?}");
            *found.entry(line).or_default() += 1;
        }
        assert!(found.values().all(|count| *count == 1), "{path} has a line twice");
        for line in &lines {
            assert!(found.contains_key(line.as_str()), "{path} lost {line:?}");
        }
    }
}

/// Each server's own disk has the same bytes, of every file.
pub async fn expect_equal_copies(client: &Client, history: &History) {
    let own = (0..WRITERS).map(workload::own_file);
    let shared = (0..workload::SHARED_FILES).map(workload::shared_file);
    let logs = (0..workload::LOGS).map(workload::log_file);
    for path in own.chain(shared).chain(logs).collect::<Vec<Path>>() {
        match client.verify(&path, None).await {
            Ok(verified) => assert_eq!(verified.good_count(), 3, "{path}: {verified:?}"),
            Err(error) if error.reason() == Reason::EntryNotFound => history.not_found(&path, history.newest(&path)),
            Err(error) => panic!("{path}: {error}"),
        }
    }
}
