//! Groups move while clients write: away from a server that is dead for good, to a new one, and away from one that is drained and
//! removed. Nothing acknowledged is lost, and writing goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dfs::{client::Client, cluster::Group, types::ServerId};
use tokio::task::{block_in_place, spawn_blocking};

use crate::{
    clients::Clients,
    cluster::Cluster,
    history::{History, Watched},
    outcome::expect_promises,
    workload::{self, setting},
};

const WRITERS: u64 = 12;
const READERS: u64 = 1;
const GROUPS: usize = 32;
const COPIES: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

struct Run {
    cluster: Cluster,
    client: Client,
    history: Arc<History>,
}

/// From the environment, so that a failure can be tried again: `DFS_MOVES_SEED`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_move_while_clients_write_and_nothing_is_lost() {
    let seed = setting("DFS_MOVES_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let settings = [format!("--groups={GROUPS}"), "--repair-after=3s".to_owned()];
    let start = move || {
        let mut cluster = Cluster::prepare(1, 1, 4);
        cluster.add_arguments(0, &settings);
        cluster.start_processes();
        cluster
    };
    let cluster = spawn_blocking(start).await.expect("start a cluster");
    let directory = cluster.directory_address();
    let client = workload::connect(&directory).await.expect("connect");
    client.wait_ready(READY_TIMEOUT).await.expect("a ready cluster");

    let history = Arc::new(History::default());
    let mut clients = Clients::start(seed, &directory, WRITERS, READERS, &history).await;
    let mut run = Run { cluster, client, history };
    let moves = async {
        run.wait_for_writes().await;
        run.watched("fileserver-a is lost", async |run| run.lose().await).await;
        run.watched("fileserver-e comes", async |run| run.add().await).await;
        run.watched("fileserver-b is drained", async |run| run.drain().await).await;
        run.wait_for_writes().await;
    };
    clients.during(moves).await;
    clients.finish().await;
    let Run { mut cluster, client, history } = run;
    cluster.expect_all_running();
    expect_promises(&client, &history, WRITERS).await;
    let fsck = block_in_place(|| cluster.cli().args(["fsck", "--deep"]).output()).expect("run dfs-cli");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
    println!("{}", history.summary());
}

impl Run {
    /// Nobody notices that groups move, but for a moment.
    async fn watched(&mut self, what: &str, step: impl AsyncFnOnce(&mut Self)) {
        self.history.begin_watch();
        let began = Instant::now();
        step(self).await;
        let Watched { pause, wait, .. } = self.history.watched();
        println!("{what}: {:.1?}, pause {pause:.2?}, longest wait of one writer {wait:.2?}", began.elapsed());
        assert!(pause < workload::PAUSE_MAX, "{what}: writers paused for {pause:?}");
    }

    /// Its groups heal elsewhere, and it is forgotten.
    async fn lose(&mut self) {
        block_in_place(|| self.cluster.lose("fileserver-a"));
        self.wait_until_whole("healed groups", |group, _| !group.is_member(&id("fileserver-a"))).await;
        self.cli(&["servers", "rm", "fileserver-a", "--lost", "--wait"]);
    }

    async fn add(&mut self) {
        block_in_place(|| self.cluster.start_fileserver(4));
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.client.servers().await.expect("the servers").fileservers.len() < 4 {
            assert!(Instant::now() < deadline, "it does not register\n{}", self.cluster.log_tails());
            tokio::time::sleep(POLL).await;
        }
        self.cli(&["rebalance", "--wait"]);
        self.wait_until_whole("its share", |_, groups| {
            groups.iter().filter(|group| group.is_member(&id("fileserver-e"))).count() == GROUPS * COPIES / 4
        })
        .await;
    }

    /// It ends empty, and goes.
    async fn drain(&mut self) {
        self.cli(&["servers", "drain", "fileserver-b", "--wait"]);
        let servers = self.client.servers().await.expect("the servers").fileservers;
        let drained = servers.iter().find(|server| server.server.as_str() == "fileserver-b").expect("it is known");
        assert_eq!((drained.group_count, drained.lead_count), (0, 0));
        let own = self.client.file_server_status(&drained.address).await.expect("its own count");
        assert_eq!((own.blob_count, own.staged_count), (0, 0), "{own:?}");
        self.cli(&["servers", "rm", "fileserver-b"]);
        block_in_place(|| self.cluster.wait_until_ended("fileserver-b"));
        self.wait_until_whole("whole groups", |group, _| !group.is_member(&id("fileserver-b"))).await;
    }

    fn cli(&self, arguments: &[&str]) {
        let ended = block_in_place(|| self.cluster.cli().args(arguments).output()).expect("run dfs-cli");
        let words = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{arguments:?}: {words}\n{}", self.cluster.log_tails());
    }

    /// Every group has all its copies, and `is_good` says so of each.
    async fn wait_until_whole(&self, what: &str, is_good: impl Fn(&Group, &[Group]) -> bool) {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let groups = self.client.groups().await.expect("the groups");
            let is_whole = |group: &Group| group.members.len() == COPIES && group.in_sync == group.members;
            if groups.iter().all(|group| is_whole(group) && is_good(group, &groups)) {
                return;
            }
            assert!(Instant::now() < deadline, "not in time: {what}: {groups:?}\n{}", self.cluster.log_tails());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Until every writer has been at it.
    async fn wait_for_writes(&self) {
        self.history.begin_watch();
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.history.summary().acknowledged_writes < WRITERS as usize || self.history.watched().count_min < 3 {
            assert!(Instant::now() < deadline, "writers do not come along");
            tokio::time::sleep(POLL).await;
        }
    }
}

fn id(name: &str) -> ServerId {
    name.parse().expect("a good name")
}
