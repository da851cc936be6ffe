//! Machines that do not simply die: disks that hang, fail or are full, clocks that jump, servers that are slow, or that some hear and
//! others do not.
//!
//! Whatever happens: nothing acknowledged is lost, the writers go on, somebody is told what to do, and it heals by itself as soon
//! as the machine is well.

mod clock;
mod copies;
mod disks;
mod gate;
mod logs;
mod one_way;
mod rot;
mod slow;
mod strace;

use std::{
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use dfs::{
    client::{Client, ClusterStatus, WriteOptions},
    types::{Precondition, ServerId, Version},
};

use crate::{clients::Clients, cluster::Cluster, history::History, outcome::expect_promises, workload};

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// The writers go on when each of them has been acknowledged so often.
const WRITES_TO_GO_ON: u64 = 3;
const WRITERS: u64 = 4;
/// A fault lasts for as long at least, so that what comes and goes is seen to.
const FAULT_MIN: Duration = Duration::from_secs(5);
const FILESERVERS: u8 = 3;

/// A cluster with clients that write.
struct Day {
    cluster: Cluster,
    client: Client,
    history: Arc<History>,
    clients: Clients,
    began: Instant,
}

impl Day {
    async fn begin(directories: u16, locks: u16) -> Self {
        Self::begin_in(move || Cluster::start_of(directories, locks, FILESERVERS)).await
    }

    async fn begin_in(start: impl FnOnce() -> Cluster + Send + 'static) -> Self {
        let began = Instant::now();
        let cluster = tokio::task::spawn_blocking(start).await.expect("start a cluster");
        let directory = cluster.directory_address();
        let client = workload::connect(&directory).await.expect("connect");
        client.wait_ready(TIMEOUT).await.expect("a ready cluster");
        let history = Arc::new(History::default());
        let clients = Clients::start(rand::random(), &directory, WRITERS, 0, &history).await;
        let mut day = Self { cluster, client, history, clients, began };
        day.wait_until_level().await;
        day.wait_until_writers_go_on().await;
        day
    }

    /// Waits for something, as long as the clients are well.
    async fn wait_until(&mut self, what: &str, mut is_so: impl AsyncFnMut(&Client) -> bool) {
        let client = self.client.clone();
        let waited = async {
            let deadline = Instant::now() + TIMEOUT;
            while !is_so(&client).await {
                if Instant::now() > deadline {
                    return false;
                }
                tokio::time::sleep(POLL).await;
            }
            true
        };
        if !self.clients.during(waited).await {
            let status = self.client.status().await;
            panic!("not in time: {what}; {status:?}\n{}", self.cluster.log_tails());
        }
        println!("{:.1?}: {what}", self.began.elapsed());
    }

    /// From the moment of the call.
    async fn wait_until_writers_go_on(&mut self) {
        self.history.begin_watch();
        self.wait_until_watched_writers_go_on().await;
    }

    /// Since the watch began.
    async fn wait_until_watched_writers_go_on(&mut self) {
        let history = self.history.clone();
        self.wait_until("every writer goes on", async |_| history.watched().count_min >= WRITES_TO_GO_ON).await;
    }

    async fn watch_for_a_while(&mut self) {
        self.clients.during(tokio::time::sleep(FAULT_MIN)).await;
    }

    /// Every server is up and takes writes, and every group has all its copies.
    async fn wait_until_level(&mut self) {
        self.wait_until("all is level", async |client| client.status().await.is_ok_and(|status| is_level(&status)))
            .await;
    }

    /// What `status` says under this code, with its hint and its subjects.
    async fn wait_until_told(&mut self, code: &str) -> String {
        let mut told = String::new();
        self.wait_until(code, async |client| {
            let Ok(status) = client.status().await else { return false };
            let found = status.checks.into_iter().find(|check| check.code == code);
            told =
                found.map(|it| format!("{} ({}): {}", it.summary, it.subjects.join(", "), it.hint)).unwrap_or_default();
            !told.is_empty()
        })
        .await;
        println!("{code}: {told}");
        told
    }

    /// Waits until a process ends by itself, as one that has failed.
    async fn wait_until_ended(&mut self, index: usize) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.cluster.try_ended(index) {
                assert!(!status.success(), "{} ended well: {status}", self.cluster.name(index));
                return;
            }
            assert!(Instant::now() < deadline, "it goes on\n{}", self.cluster.log_tails());
            self.clients.during(tokio::time::sleep(POLL)).await;
        }
    }

    /// Since the watch began.
    fn expect_short_pause(&self) {
        let pause = self.history.watched().pause;
        println!("the longest pause was {pause:.2?}");
        assert!(pause < workload::PAUSE_MAX, "the writers paused for {pause:?}\n{}", self.cluster.log_tails());
    }

    /// The first of the file servers; it leads groups.
    async fn a_leading_file_server(&self) -> usize {
        let index = self.cluster.index("fileserver-a");
        let map = self.client.refresh_map().await.expect("the cluster map");
        let id: ServerId = "fileserver-a".parse().expect("a good id");
        assert!(map.groups.values().any(|group| group.is_primary(&id)), "it leads nothing");
        index
    }

    /// Writes files of its own: none of them is acknowledged with a copy on this server.
    async fn expect_no_copies_on(&mut self, server: &str) {
        for number in 0..16 {
            let path = format!("/without-{server}/{number}").parse().expect("a good path");
            let precondition = Precondition { if_version: Some(Version(0)), ..Precondition::default() };
            let options = WriteOptions::replace(precondition).create_parents();
            let receipt = self.client.write_bytes(&path, options, "written without it").await.expect("written");
            assert!(receipt.servers.iter().all(|copy| copy.as_str() != server), "{path}: {receipt:?}");
        }
    }

    /// Everything that was promised holds, and `fsck` says so too.
    async fn end(mut self) {
        self.wait_until_level().await;
        self.clients.finish().await;
        self.cluster.expect_all_running();
        expect_promises(&self.client, &self.history, WRITERS).await;
        let mut fsck = self.cluster.cli();
        fsck.arg("fsck");
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || fsck.output()).await.expect("fsck ends").expect("run fsck");
        let told = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(status.success(), "fsck: {told}\n{}", self.cluster.log_tails());
        println!("{:.1?}: {}", self.began.elapsed(), self.history.summary());
    }
}

fn is_level(status: &ClusterStatus) -> bool {
    let takes_writes = !status.checks.iter().any(|check| check.code == "SERVER_READ_ONLY");
    takes_writes
        && status.group_count > 0
        && status.group_full_count == status.group_count
        && status.server_up_count == u32::from(FILESERVERS)
}
