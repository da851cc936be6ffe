//! `kill -9` of each process in turn while clients write: nothing acknowledged is lost, nothing torn is ever seen.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dfs::client::Client;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    clients::Clients,
    cluster::Cluster,
    history::History,
    outcome::expect_promises,
    workload::{self, setting},
};

const WRITERS: u64 = 16;
const READERS: u64 = 2;
const DEFAULT_SECONDS: u64 = 20;
/// Fewer of either and the run proved little.
const KILLS_PER_MINUTE_MIN: u64 = 12;
const WRITES_PER_SECOND_MIN: u64 = 5;
const LEVEL_TIMEOUT: Duration = Duration::from_secs(60);

/// From the environment, so that a failure can be tried again: `DFS_KILLS_SECONDS`, `DFS_KILLS_SEED`.
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
    let mut clients = Clients::start(seed, &directory, WRITERS, READERS, &history).await;
    let killer = tokio::task::spawn_blocking(move || kill_in_turn(cluster, Duration::from_secs(seconds), seed));
    let (mut cluster, kills) = clients.during(killer).await.expect("kill in turn");
    clients.finish().await;
    cluster.expect_all_running();

    wait_until_level(&checker).await;
    expect_promises(&checker, &history, WRITERS).await;

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
