//! Every node of a cluster dies and hangs, one after the other, while clients write: nothing acknowledged is lost, and no
//! writer waits for longer than is promised of one machine.
//!
//! A fault begins when the one before is over: the node is back, every group has all its copies, every Directory node is
//! level. What a writer waits is what one client sees between two of its writes that are acknowledged, whatever it does
//! in between: its look-ups, its places in queues and its tries again are in it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use dfs::client::{Client, GroupKind};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{self, Cluster},
    history::History,
    kills::{expect_acknowledged_lines, expect_acknowledged_writes, expect_equal_copies},
    workload::{self, Worker},
};

const WRITERS: u64 = 16;
const READERS: u64 = 1;
const DIRECTORIES: u16 = 3;
const FILESERVERS: u8 = 4;
const DEFAULT_ROUNDS: u64 = 1;
const LEVEL_TIMEOUT: Duration = Duration::from_secs(60);
/// A fault lasts until every writer has been acknowledged so often since: it has met the node that is gone by then.
const WRITES_DURING_FAULT: u64 = 5;
const FAULT_MIN: Duration = Duration::from_millis(1500);
const FAULT_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Kill,
    Stop,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP",
        })
    }
}

/// Who meets with a fault.
#[derive(Clone, Debug)]
enum Target {
    Node(usize),
    /// Whoever leads the Directory then.
    Leader,
}

/// What one fault did.
#[derive(Clone, Copy, Debug)]
struct Effect {
    /// The longest that a writer waited.
    pause: Duration,
    /// From the node's return until everything was level.
    level: Duration,
}

struct Run {
    cluster: Cluster,
    client: Client,
    history: Arc<History>,
    effects: BTreeMap<(String, Kind), Vec<Effect>>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_writer_waits_long_for_any_one_node() {
    let seed = setting("DFS_FAULTS_SEED").unwrap_or_else(rand::random);
    let rounds = setting("DFS_FAULTS_ROUNDS").unwrap_or(DEFAULT_ROUNDS);
    println!("seed {seed}, {rounds} rounds");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = tokio::task::spawn_blocking(|| Cluster::start_of(DIRECTORIES, 1, FILESERVERS));
    let cluster = cluster.await.expect("start a cluster");
    let directory = cluster.directory_address();
    let client = workload::connect(&directory).await.expect("connect");
    client.wait_ready(LEVEL_TIMEOUT).await.expect("a ready cluster");

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

    let mut run = Run { cluster, client, history: history.clone(), effects: BTreeMap::new() };
    let faults = async {
        for _ in 0..rounds {
            let nodes = (0..run.cluster.process_count()).filter(|&index| !run.cluster.name(index).starts_with("lock"));
            let only = std::env::var("DFS_FAULTS_ONLY").unwrap_or_default();
            let nodes = nodes.filter(|&index| run.cluster.name(index).starts_with(&only));
            let leader = "leader".starts_with(&only).then_some(Target::Leader);
            let targets = nodes.map(Target::Node).chain(leader);
            let mut faults: Vec<(Target, Kind)> =
                targets.flat_map(|target| [(target.clone(), Kind::Kill), (target, Kind::Stop)]).collect();
            faults.shuffle(&mut random);
            for (target, kind) in faults {
                run.fault(&target, kind).await;
            }
        }
    };
    tokio::select! {
        () = faults => {}
        // Clients end only when told to, or by a failed assertion.
        Some(ended) = clients.join_next() => panic!("a client ended early: {ended:?}"),
    }
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client of the workload");
    }
    run.cluster.expect_all_running();
    run.wait_until_level().await;
    expect_acknowledged_writes(&run.client, &history).await;
    expect_acknowledged_lines(&run.client, &history).await;
    expect_equal_copies(&run.client, &history).await;
    println!("{}", history.summary());
    run.report();
}

impl Run {
    async fn fault(&mut self, target: &Target, kind: Kind) {
        self.wait_until_level().await;
        let leader = self.leader().await;
        let index = match target {
            Target::Node(index) => *index,
            Target::Leader => leader,
        };
        let name = self.cluster.name(index).to_owned();
        let role = match name.split_once('-').map_or("", |(service, _)| service) {
            "directory" if index == leader => "directory, leading".to_owned(),
            "directory" => "directory, following".to_owned(),
            service => service.to_owned(),
        };
        let pid = self.cluster.pid(index);
        self.history.begin_watch();
        let began = Instant::now();
        match kind {
            Kind::Kill => self.cluster.kill(index),
            Kind::Stop => cluster::stop(pid),
        }
        while began.elapsed() < FAULT_MIN
            || (self.history.watched().1 < WRITES_DURING_FAULT && began.elapsed() < FAULT_MAX)
        {
            tokio::time::sleep(POLL).await;
        }
        let lasted = began.elapsed();
        match kind {
            Kind::Kill => tokio::task::block_in_place(|| self.cluster.start_process(index)),
            Kind::Stop => cluster::cont(pid),
        }
        let back = Instant::now();
        self.wait_until_level().await;
        let level = back.elapsed();
        let (pause, _) = self.history.watched();
        println!("{name} ({role}), {kind} for {lasted:.1?}: longest pause {pause:.2?}, level after {level:.2?}");
        self.effects.entry((role, kind)).or_default().push(Effect { pause, level });
    }

    async fn leader(&self) -> usize {
        let deadline = Instant::now() + LEVEL_TIMEOUT;
        loop {
            let members = self.client.members(GroupKind::Directory).await.expect("the Directory's members");
            let leader = members.into_iter().find(|member| member.is_leader).map(|member| member.server);
            let index =
                (0..self.cluster.process_count()).find(|&index| Some(self.cluster.name(index)) == leader.as_deref());
            if let Some(index) = index {
                return index;
            }
            assert!(Instant::now() < deadline, "nobody leads the Directory");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every server is up, every group has all its copies, every Directory node votes and has answered just now.
    async fn wait_until_level(&self) {
        let deadline = Instant::now() + LEVEL_TIMEOUT;
        loop {
            let status = self.client.status().await.expect("the cluster's status");
            let groups = status.group_count > 0 && status.group_full_count == status.group_count;
            let servers = status.server_up_count == u32::from(FILESERVERS);
            let members = self.client.members(GroupKind::Directory).await.expect("the Directory's members");
            let answers = |silence: Option<Duration>| silence.is_some_and(|silence| silence < Duration::from_secs(1));
            let voters = members.iter().filter(|node| node.is_voter && (node.is_leader || answers(node.silence)));
            if groups && servers && voters.count() == usize::from(DIRECTORIES) {
                return;
            }
            assert!(Instant::now() < deadline, "not level: {status:?} {members:?}\n{}", self.cluster.log_tails());
            tokio::time::sleep(POLL).await;
        }
    }

    fn report(&self) {
        println!(
            "{:<24}{:<10}{:>6}  {:>14}  {:>14}  {:>14}",
            "ROLE", "FAULT", "COUNT", "PAUSE MEDIAN", "PAUSE LONGEST", "LEVEL LONGEST"
        );
        for ((role, kind), effects) in &self.effects {
            let mut pauses: Vec<Duration> = effects.iter().map(|effect| effect.pause).collect();
            pauses.sort_unstable();
            let level = effects.iter().map(|effect| effect.level).max().unwrap_or_default();
            let (median, longest) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
            println!(
                "{role:<24}{:<10}{:>6}  {:>14}  {:>14}  {:>14}",
                kind.to_string(),
                effects.len(),
                format!("{median:.2?}"),
                format!("{longest:.2?}"),
                format!("{level:.2?}")
            );
        }
    }
}
