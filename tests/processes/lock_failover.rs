//! The Lock service's leader, of three, killed and stopped while clients hold and wait: nobody loses a lock or a place, tokens
//! rise, and a leader that comes back grants and renews nothing.

use std::time::{Duration, Instant};

use dfs::{
    client::{Client, Error, GroupKind, LockGuard, QueuePosition, ReadOptions, Session, SessionOptions, WriteOptions},
    pb::{self, lock_client::LockClient},
    serve,
    status::{Failure, Reason},
    types::{AsOf, FencingToken, LockMode, Path, Precondition, SessionId, Version},
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{self, Cluster},
    workload,
};

const NODES: u16 = 3;
const LEASE: Duration = Duration::from_secs(10);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const HOLDERS: usize = 8;
const CONTENDERS: usize = 4;
/// Fewer between two faults and the contention proved little.
const TURNS: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
}

/// In this order, each on whoever leads then.
const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Stop, Fault::Kill, Fault::Stop];

async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + READY_TIMEOUT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster whose Lock service has three nodes, and a client of it.
struct World {
    cluster: Option<Cluster>,
    client: Client,
}

impl World {
    async fn start() -> Self {
        let cluster = tokio::task::spawn_blocking(|| Cluster::start_with(1, NODES)).await.expect("start a cluster");
        let client = workload::connect(&cluster.directory_address()).await.expect("connect");
        client.wait_ready(READY_TIMEOUT).await.expect("a ready cluster");
        let world = Self { cluster: Some(cluster), client };
        world.wait_until_level().await;
        wait_for("all nodes in the map", async || world.client.cluster_map().lock_servers.len() == 3).await;
        world
    }

    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("it runs")
    }

    async fn connect(&mut self) -> Client {
        let directory = self.cluster().directory_address();
        workload::connect(&directory).await.expect("connect")
    }

    async fn wait_until_level(&self) {
        wait_for("three voters", async || {
            let members = self.client.members(GroupKind::Lock).await.unwrap_or_default();
            let alive = |silence: Option<Duration>| silence.is_none_or(|silence| silence < Duration::from_secs(1));
            let level = members.iter().all(|member| member.is_voter && alive(member.silence));
            members.len() == 3 && level && members.iter().any(|member| member.is_leader)
        })
        .await;
    }

    /// Which process leads the Lock service, and where it listens.
    async fn leader(&mut self) -> (usize, String) {
        let members = self.client.members(GroupKind::Lock).await.expect("members");
        let leader = members.into_iter().find(|member| member.is_leader).expect("somebody leads");
        let cluster = self.cluster();
        let index = (0..cluster.process_count()).find(|&index| cluster.name(index) == leader.server);
        (index.expect("a process"), leader.address)
    }

    fn strike(&mut self, fault: Fault, index: usize) {
        match fault {
            Fault::Kill => self.cluster().kill(index),
            Fault::Stop => cluster::stop(self.cluster().pid(index)),
        }
    }

    async fn heal(&mut self, fault: Fault, index: usize) {
        match fault {
            Fault::Stop => cluster::cont(self.cluster().pid(index)),
            Fault::Kill => {
                let mut cluster = self.cluster.take().expect("it runs");
                let started = tokio::task::spawn_blocking(move || {
                    cluster.start_process(index);
                    cluster
                });
                self.cluster = Some(started.await.expect("start it again"));
            }
        }
    }
}

async fn open(client: &Client, name: &str) -> Session {
    client.open_session(SessionOptions { ttl: LEASE, client: name.into() }).await.expect("opens")
}

fn a_path(text: &str) -> Path {
    text.parse().expect("a good path")
}

/// Waits for the lock as its own client, and says when it has it.
async fn queue(world: &mut World, path: &Path, place: u32) -> JoinHandle<Result<LockGuard, Error>> {
    let client = world.connect().await;
    let session = open(&client, &format!("waiter {place}")).await;
    let (positions, mut told) = mpsc::channel(1);
    let path = path.clone();
    let waiting = tokio::spawn(async move {
        let told = |position: QueuePosition| {
            // Whoever listens wants the first one alone.
            let _unheard = positions.try_send(position.position);
        };
        session.acquire(&path, LockMode::Exclusive, None, told).await
    });
    assert_eq!(told.recv().await, Some(place));
    waiting
}

/// A node that does not lead must not answer as if it did.
async fn expect_grants_and_renews_nothing(address: &str, holder: SessionId, path: &Path) {
    let mut lock = LockClient::new(serve::channel(address).expect("an address"));
    let not_leader = |status: tonic::Status| {
        let failure = Failure::from(&status);
        assert!(matches!(failure.reason, Reason::NotLeader | Reason::NoQuorum), "{failure}");
    };
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(pb::KeepAliveRequest { session_id: holder.to_string() }).await.expect("room");
    match lock.keep_alive(ReceiverStream::new(outgoing)).await {
        Err(status) => not_leader(status),
        Ok(answers) => not_leader(answers.into_inner().message().await.expect_err("it renews nothing")),
    }
    let request = pb::AcquireLockRequest {
        session_id: holder.to_string(),
        path: path.to_string(),
        mode: pb::LockMode::Exclusive.into(),
        wait_ms: Some(0),
    };
    match lock.acquire_lock(request).await {
        Err(status) => not_leader(status),
        Ok(answers) => not_leader(answers.into_inner().message().await.expect_err("it grants nothing")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_keep_their_locks_and_waiters_their_places_when_the_leader_dies_or_hangs() {
    let mut world = World::start().await;
    let client = world.connect().await;
    let holding = open(&client, "holder").await;
    let mut held = Vec::new();
    for number in 0..HOLDERS {
        let path = a_path(&format!("/held/{number}"));
        held.push(holding.acquire(&path, LockMode::Exclusive, None, |_| {}).await.expect("granted"));
    }
    let queued = a_path("/queued");
    let mut current =
        open(&client, "first").await.acquire(&queued, LockMode::Exclusive, None, |_| {}).await.expect("granted");
    let mut waiting = Vec::new();
    for place in 1..=FAULTS.len() as u32 {
        waiting.push(queue(&mut world, &queued, place).await);
    }
    let mut pauses = Vec::new();
    for (fault, next) in FAULTS.into_iter().zip(waiting) {
        let (index, address) = world.leader().await;
        world.strike(fault, index);
        let struck = Instant::now();
        let before = current.token();
        current.release().await.expect("the holder has it still");
        current = next.await.expect("no panic").expect("the first in the queue gets it");
        let pause = struck.elapsed();
        println!("{fault:?} of {address}: the next grant came after {pause:?}");
        pauses.push(pause);
        assert!(current.token() > before, "tokens rise");
        world.heal(fault, index).await;
        if fault == Fault::Stop {
            expect_grants_and_renews_nothing(&address, holding.id(), &a_path("/held/0")).await;
        }
        world.wait_until_level().await;
        holding.check().expect("nobody lost anything because the leader changed");
        for guard in &held {
            let info = world.client.lock_info(guard.path()).await.expect("a look");
            assert_eq!(info.holders.first().map(|holder| holder.token), Some(guard.token()), "{}", guard.path());
        }
    }
    current.release().await.expect("releases");
    for guard in held {
        guard.release().await.expect("it was held all along");
    }
    world.cluster().expect_all_running();
    assert!(pauses.iter().all(|pause| *pause < workload::PAUSE_MAX), "{pauses:?}");
}

/// What one contender has done.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    acknowledged: u64,
    /// Writes of which it is not known whether they happened.
    unknown: u64,
}

/// Adds one to the number in a file, again and again, with nothing but the lock's token to keep the others out.
async fn count_up(client: Client, path: Path, stop: CancellationToken, turns: mpsc::Sender<()>) -> Count {
    let mut count = Count::default();
    let mut newest = FencingToken(0);
    while !stop.is_cancelled() {
        let session = open(&client, "contender").await;
        let guard = match session.acquire(&path, LockMode::Exclusive, Some(READY_TIMEOUT), |_| {}).await {
            Ok(guard) => guard,
            Err(error) if error.reason() == Reason::SessionExpired => continue,
            Err(error) => panic!("{error}"),
        };
        assert!(guard.token() > newest, "tokens rise");
        newest = guard.token();
        let number = read_number(&client, &path, ReadOptions::default()).await;
        let Ok(precondition) = guard.precondition() else { continue };
        let content = (number + 1).to_string();
        match client.write_bytes(&path, WriteOptions::replace(precondition), content.into_bytes()).await {
            Ok(_) => count.acknowledged += 1,
            Err(error) if error.may_have_taken_effect() => {
                count.unknown += 1;
                continue;
            }
            Err(error) if error.reason() == Reason::FencingTokenStale => {
                assert!(guard.session().check().is_err(), "{path} was taken from a holder that lives: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        turns.send(()).await.expect("somebody counts");
        match guard.release().await {
            Err(error) if error.reason() != Reason::SessionExpired => panic!("{error}"),
            _ => {}
        }
        drop(session);
    }
    count
}

async fn read_number(client: &Client, path: &Path, options: ReadOptions) -> u64 {
    let bytes = client.read(path, options).await.expect("a reader").bytes(64).await.expect("the content");
    std::str::from_utf8(&bytes).expect("text").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_under_a_lock_whatever_happens_to_its_leader() {
    let mut world = World::start().await;
    let path = a_path("/counter");
    let new = Precondition { if_version: Some(Version(0)), ..Precondition::default() };
    world.client.write_bytes(&path, WriteOptions::replace(new), "0").await.expect("the first version");
    let (stop, mut contenders) = (CancellationToken::new(), JoinSet::new());
    let (turns, mut turned) = mpsc::channel(1);
    for _ in 0..CONTENDERS {
        let client = world.connect().await;
        contenders.spawn(count_up(client, path.clone(), stop.clone(), turns.clone()));
    }
    drop(turns);
    for fault in FAULTS {
        for _ in 0..TURNS {
            turned.recv().await.expect("contenders go on");
        }
        let (index, _) = world.leader().await;
        world.strike(fault, index);
        for _ in 0..TURNS {
            turned.recv().await.expect("contenders go on");
        }
        world.heal(fault, index).await;
        let level = world.wait_until_level();
        tokio::pin!(level);
        loop {
            tokio::select! {
                () = &mut level => break,
                turn = turned.recv() => turn.expect("contenders go on"),
            }
        }
    }
    stop.cancel();
    while turned.recv().await.is_some() {}
    let mut total = Count::default();
    while let Some(ended) = contenders.join_next().await {
        let Count { acknowledged, unknown } = ended.expect("a contender");
        total.acknowledged += acknowledged;
        total.unknown += unknown;
    }
    let versions = world.client.get(&path, AsOf::Now).await.expect("an entry").version.0;
    // The first one holds 0; each was based on the one before it.
    let last = read_number(&world.client, &path, ReadOptions::default()).await;
    assert_eq!(last, versions - 1, "an update was lost");
    assert!(last >= total.acknowledged && last <= total.acknowledged + total.unknown, "{last}, {total:?}");
    println!("{total:?}");
    world.cluster().expect_all_running();
}
