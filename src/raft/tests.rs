//! Groups of real nodes in one process, over real folders and sockets, with a state machine that counts words.

mod away;
mod bad_input;
mod changes;
mod lost_memory;
mod one_way;
mod other_groups;
mod snapshots;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    pb::{
        self, members_client::MembersClient, members_server::MembersServer, raft_client::RaftClient,
        raft_server::RaftServer,
    },
    serve::{self, Services},
    status::{Failure, Reason},
};

const WORDS: TableDefinition<&str, u64> = TableDefinition::new("words");
const DEADLINE: Duration = Duration::from_secs(30);

/// Answers how often the word was proposed.
struct Words;

impl Machine for Words {
    fn tables(&self) -> Tables {
        &[&WORDS]
    }

    fn prepare(&self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        transaction.open_table(WORDS)?;
        Ok(())
    }

    fn apply(&self, transaction: &WriteTransaction, proposals: &[Bytes]) -> Result<Vec<Answer>, StoreError> {
        let mut table = transaction.open_table(WORDS)?;
        let mut count = |word: &Bytes| -> Result<Answer, StoreError> {
            let word = std::str::from_utf8(word).map_err(|_| StoreError::Damaged("no word"))?;
            let before = table.get(word)?.map_or(0, |count| count.value());
            table.insert(word, before + 1)?;
            Ok(Box::new(before + 1))
        };
        proposals.iter().map(&mut count).collect()
    }

    fn applied(&self, _: &Store) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Running {
    group: Arc<Group>,
    store: Arc<Store>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// A node's folder and address; it runs or it does not.
struct TestNode {
    name: &'static str,
    id: NodeId,
    folder: tempfile::TempDir,
    address: String,
    cuts: one_way::Cuts,
    running: Option<Running>,
}

impl TestNode {
    async fn start(name: &'static str, id: NodeId, join: Vec<String>) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // Another node of the test has set it.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let mut node = Self { name, id, folder, address, cuts: Default::default(), running: None };
        node.run(listener, join).await;
        node
    }

    async fn restart(&mut self) {
        let bound = async {
            loop {
                match TcpListener::bind(&self.address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let listener = timeout(DEADLINE, bound).await.unwrap();
        self.run(listener, Vec::new()).await;
    }

    async fn run(&mut self, listener: TcpListener, join: Vec<String>) {
        let (gate, stop) = (Gate::default(), CancellationToken::new());
        let mut services = Services::new();
        let (service, cuts) = (RaftService::new(gate.clone()), self.cuts.clone());
        services.add(RaftServer::new(one_way::Lossy { node: self.id, service, cuts }));
        services.add(MembersServer::new(MembersService(gate.clone())));
        let store = self.open_store().await;
        let group = Group::start(self.options(!join.is_empty()), store.clone(), Arc::new(Words)).await.unwrap();
        gate.open(group.clone());
        let mut tasks = JoinSet::new();
        let serving = services.serve(listener, stop.clone());
        tasks.spawn(async move { drop(serving.await) });
        tasks.spawn(group.clone().become_member(join));
        tasks.spawn(group.clone().promote_learners());
        self.running = Some(Running { group, store, stop, tasks });
    }

    /// The group alone; nobody is served.
    async fn try_start(&self, join: Vec<String>) -> Result<Arc<Group>, String> {
        let store = self.open_store().await;
        let started = Group::start(self.options(!join.is_empty()), store, Arc::new(Words)).await;
        if let Ok(group) = &started {
            group.stop().await;
        }
        started.map_err(|error| format!("{error:#}"))
    }

    fn options(&self, joins: bool) -> Options {
        Options {
            service: "words",
            folder: self.folder.path().join("raft"),
            node: self.id,
            me: Node {
                server: self.name.to_owned(),
                address: self.address.clone(),
                external_address: self.address.clone(),
                ..Default::default()
            },
            joins,
            has_state: false,
        }
    }

    /// Calls that were under way at a death let go of the old one in their own time.
    async fn open_store(&self) -> Arc<Store> {
        let opened = async {
            loop {
                match Store::open(&self.folder.path().join("words.redb"), None) {
                    Ok(store) => return Arc::new(store),
                    Err(StoreError::Database(error)) if matches!(*error, redb::Error::DatabaseAlreadyOpen) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        timeout(DEADLINE, opened).await.expect("the old process has let go of its database")
    }

    fn group(&self) -> &Arc<Group> {
        &self.running.as_ref().unwrap().group
    }

    fn group_uid(&self) -> Bytes {
        self.group().identity.to_wire()
    }

    fn is_leading(&self) -> bool {
        let leads = |running: &Running| matches!(*running.group.role().borrow(), Role::Leader { .. });
        self.running.as_ref().is_some_and(leads)
    }

    /// As a crash of the process does: whoever it talks to hears no more of it.
    async fn kill(&mut self) {
        let Running { group, store, stop, mut tasks } = self.running.take().unwrap();
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        stop.cancel();
        group.stop().await;
        drop((group, store));
    }

    async fn say(&self, word: &str) -> Result<u64, Error> {
        let answer = self.group().propose(Bytes::copy_from_slice(word.as_bytes())).await?;
        Ok(*answer.downcast::<u64>().unwrap())
    }

    fn count(&self, word: &str) -> u64 {
        let transaction = self.running.as_ref().unwrap().store.begin_read().unwrap();
        let table = transaction.open_table(WORDS);
        table.ok().and_then(|table| table.get(word).unwrap().map(|count| count.value())).unwrap_or_default()
    }

    /// 0 while one configuration passes into another.
    fn voters(&self) -> usize {
        let membership = self.group().metrics().committed_membership_config;
        if membership.get_joint_config().len() == 1 { membership.voter_ids().count() } else { 0 }
    }
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// For how long this machine has let nobody run: a bound in time is one of a machine that does.
struct Stalls {
    longest: Arc<std::sync::atomic::AtomicU64>,
    _watching: tokio_util::task::AbortOnDropHandle<()>,
}

impl Stalls {
    const TICK: Duration = Duration::from_millis(10);

    fn watch() -> Self {
        let longest = Arc::<std::sync::atomic::AtomicU64>::default();
        let noted = longest.clone();
        let watching = async move {
            loop {
                let began = tokio::time::Instant::now();
                tokio::time::sleep(Self::TICK).await;
                let late = began.elapsed().saturating_sub(Self::TICK);
                noted.fetch_max(late.as_millis() as u64, std::sync::atomic::Ordering::Relaxed);
            }
        };
        Self { longest, _watching: tokio_util::task::AbortOnDropHandle::new(tokio::spawn(watching)) }
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.load(std::sync::atomic::Ordering::Relaxed))
    }
}

/// The index of the one that leads.
async fn leader_of(nodes: &[TestNode]) -> usize {
    wait_until("somebody leads", || nodes.iter().any(TestNode::is_leading)).await;
    nodes.iter().position(TestNode::is_leading).unwrap()
}

async fn three_nodes() -> Vec<TestNode> {
    let first = TestNode::start("a", 11, Vec::new()).await;
    let known = vec![first.address.clone()];
    let second = TestNode::start("b", 12, known.clone()).await;
    let third = TestNode::start("c", 13, known).await;
    let nodes = vec![first, second, third];
    wait_until("all vote", || nodes.iter().all(|node| node.voters() == 3)).await;
    nodes
}

/// Says a word to whoever leads, until one takes it. Whether it was taken more than once is not known.
async fn say_to_leader(nodes: &[TestNode], word: &str) -> u64 {
    let said = async {
        loop {
            let leader = leader_of(nodes).await;
            if let Ok(count) = nodes[leader].say(word).await {
                return count;
            }
        }
    };
    timeout(DEADLINE, said).await.unwrap_or_else(|_| panic!("`{word}` was not taken"))
}

#[tokio::test]
async fn a_node_alone_leads_at_once_and_goes_on_after_a_restart() {
    let mut nodes = [TestNode::start("a", 11, Vec::new()).await];
    timeout(Duration::from_secs(5), leader_of(&nodes)).await.unwrap();
    for count in 1..=50 {
        assert_eq!(nodes[0].say("word").await.unwrap(), count);
    }
    nodes[0].kill().await;
    nodes[0].restart().await;
    leader_of(&nodes).await;
    nodes[0].group().confirm_lead().await.unwrap();
    assert_eq!(nodes[0].count("word"), 50, "what was not durable in the database comes back from the log");
    assert_eq!(nodes[0].say("word").await.unwrap(), 51);
}

#[tokio::test]
async fn a_node_that_moved_tells_its_group_where_it_is_now() {
    let mut node = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&node)).await;
    let before = node.address.clone();
    node.kill().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.address = listener.local_addr().unwrap().to_string();
    assert_ne!(node.address, before);
    node.run(listener, Vec::new()).await;
    let here = node.address.clone();
    wait_until("the new address", || node.group().nodes().iter().all(|(_, at)| at.address == here)).await;
    wait_until("a leader", || node.is_leading()).await;
    assert_eq!(node.group().nodes().len(), 1);
}

#[tokio::test]
async fn many_proposals_at_once_are_each_answered_by_their_own_count() {
    let nodes = [TestNode::start("a", 11, Vec::new()).await];
    leader_of(&nodes).await;
    let mut counts: Vec<u64> =
        futures::future::join_all((0..500).map(|_| nodes[0].say("x"))).await.into_iter().map(Result::unwrap).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn nodes_that_join_become_voters_and_hold_the_same() {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    for _ in 0..20 {
        nodes[leader].say("word").await.unwrap();
    }
    wait_until("all have it", || nodes.iter().all(|node| node.count("word") == 20)).await;
    let other = (leader + 1) % 3;
    let refused = nodes[other].say("word").await.unwrap_err();
    assert!(
        matches!(&refused, Error::NotLeader { leader: Some(node) } if node.server == nodes[leader].name),
        "{refused}"
    );
    let failure = Failure::from(refused);
    assert_eq!(failure.metadata.get("leader_address"), Some(&nodes[leader].address));
    assert!(nodes[other].group().confirm_lead().await.is_err());
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_leader_dies_and_it_comes_back_as_a_follower() {
    let mut nodes = three_nodes().await;
    let first = leader_of(&nodes).await;
    for _ in 0..30 {
        nodes[first].say("word").await.unwrap();
    }
    nodes[first].kill().await;
    let began = std::time::Instant::now();
    assert_eq!(say_to_leader(&nodes, "word").await, 31);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    nodes[first].restart().await;
    wait_until("it has caught up", || nodes[first].count("word") == 31).await;
    assert_eq!(say_to_leader(&nodes, "word").await, 32);
}

#[tokio::test]
async fn a_minority_acknowledges_nothing_and_vouches_for_nothing() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    nodes[leader].say("word").await.unwrap();
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        nodes[other].kill().await;
    }
    let said = timeout(Duration::from_millis(1500), nodes[leader].say("word")).await;
    assert!(!matches!(said, Ok(Ok(_))), "{said:?}");
    wait_until("it knows that it leads nobody", || !nodes[leader].is_leading()).await;
    assert!(nodes[leader].group().confirm_lead().await.is_err());
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        nodes[other].restart().await;
    }
    assert!(say_to_leader(&nodes, "word").await >= 2);
}

#[tokio::test]
async fn a_node_that_was_away_does_not_disturb_the_leader_when_it_returns() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let away = (leader + 1) % 3;
    nodes[away].kill().await;
    for _ in 0..10 {
        nodes[leader].say("word").await.unwrap();
    }
    let term = nodes[leader].group().term();
    nodes[away].restart().await;
    wait_until("it has caught up", || nodes[away].count("word") == 10).await;
    assert!(nodes[leader].is_leading());
    assert_eq!(nodes[leader].group().term(), term);
}

#[tokio::test]
async fn a_question_for_votes_changes_nothing_and_is_refused_while_a_leader_lives() {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let (asked, asker) = (&nodes[(leader + 1) % 3], &nodes[(leader + 2) % 3]);
    let term = asked.group().term();
    wait_until("it votes again", || asked.group().started.elapsed() > group::ELECTION_TIMEOUT_MIN).await;
    let mut client = RaftClient::new(serve::channel(&asked.address).unwrap());
    let mut ask = async |to_node| {
        let request = pb::RequestVoteRequest {
            to_node,
            vote: Some(pb::Vote { term: term + 100, node_id: asker.id, committed: false }),
            last_log_id: Some(pb::LogId { term: term + 99, index: 1 << 40 }),
            leadership_transfer: false,
            pre: true,
            group_uid: asked.group_uid(),
        };
        client.request_vote(request).await
    };
    let answer = ask(asked.id).await.unwrap().into_inner();
    assert!(!answer.granted);
    assert_eq!(asked.group().term(), term, "no vote was changed by the question");
    let stranger = ask(999).await.unwrap_err();
    assert_eq!(Failure::from(&stranger).reason, Reason::BadArgument, "meant for another node");
}

#[tokio::test]
async fn a_node_far_behind_gets_a_snapshot_while_the_others_go_on() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let away = (leader + 1) % 3;
    nodes[away].kill().await;
    for number in 0..300 {
        nodes[leader].say(&format!("word {number}")).await.unwrap();
    }
    for node in [leader, (leader + 2) % 3] {
        let group = nodes[node].group();
        group.raft.trigger().snapshot().await.unwrap();
        let last = group.metrics().last_applied.map(|id| id.index).unwrap();
        wait_until("it is durable", || group.metrics().snapshot.is_some_and(|id| id.index >= last)).await;
        group.raft.trigger().purge_log(last).await.unwrap();
        wait_until("the log is purged", || group.metrics().purged.is_some_and(|id| id.index >= last)).await;
    }
    nodes[away].restart().await;
    nodes[leader].say("meanwhile").await.unwrap();
    wait_until("it has all", || nodes[away].count("word 299") == 1 && nodes[away].count("meanwhile") == 1).await;
    assert!((0..300).all(|number| nodes[away].count(&format!("word {number}")) == 1));
    // What came with the snapshot is its own now.
    nodes[away].kill().await;
    nodes[away].restart().await;
    wait_until("it is still there", || nodes[away].count("word 7") == 1).await;
    assert!(say_to_leader(&nodes, "after").await >= 1);
}

#[tokio::test]
async fn the_lead_is_handed_over_on_request() {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    nodes[leader].say("word").await.unwrap();
    let heir = (leader + 1) % 3;
    let handed_over = async {
        loop {
            let leader = leader_of(&nodes).await;
            let mut client = MembersClient::new(serve::channel(&nodes[leader].address).unwrap());
            let request = pb::TransferLeadershipRequest { server_id: nodes[heir].name.to_owned() };
            // Where another one has won meanwhile, that one is asked.
            if client.transfer_leadership(request).await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, handed_over).await.unwrap();
    wait_until("the heir leads", || nodes[heir].is_leading()).await;
    assert_eq!(nodes[heir].say("word").await.unwrap(), 2);
}

#[tokio::test]
async fn a_member_that_is_dead_can_be_removed_and_its_name_used_again() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let (dead, name) = ((leader + 1) % 3, nodes[(leader + 1) % 3].name);
    let known = vec![nodes[leader].address.clone()];
    let stranger = TestNode::start(name, 99, known.clone()).await;
    let mut client = MembersClient::new(serve::channel(&nodes[leader].address).unwrap());
    let request = pb::AddMemberRequest {
        server_id: name.to_owned(),
        node_id: 99,
        address: stranger.address.clone(),
        ..Default::default()
    };
    let refused = client.add_member(request).await.unwrap_err();
    assert_eq!(Failure::from(&refused).reason, Reason::EntryExists, "its namesake lives");
    nodes[dead].kill().await;
    // With another data folder it takes the place of its old self.
    wait_until("the new one votes", || {
        let metrics = nodes[leader].group().metrics();
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        voters.contains(&99) && voters.len() == 3
    })
    .await;
    nodes[leader].say("word").await.unwrap();
    wait_until("the new one has it", || stranger.count("word") == 1).await;
    let removed = client.remove_member(pb::RemoveMemberRequest { server_id: name.to_owned() }).await;
    removed.unwrap();
    wait_until("two are left", || nodes[leader].voters() == 2).await;
    let unknown = client.remove_member(pb::RemoveMemberRequest { server_id: "nobody".to_owned() }).await.unwrap_err();
    assert_eq!(Failure::from(&unknown).reason, Reason::ServerNotFound);
}

#[tokio::test]
async fn a_node_that_was_removed_stays_away_until_it_is_told_to_join() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let (gone, name) = ((leader + 1) % 3, nodes[(leader + 1) % 3].name);
    let mut client = MembersClient::new(serve::channel(&nodes[leader].address).unwrap());
    client.remove_member(pb::RemoveMemberRequest { server_id: name.to_owned() }).await.unwrap();
    wait_until("two are left", || nodes[leader].voters() == 2).await;
    // Whether it has heard of it or not: it knows of no leader any more, or of its removal.
    nodes[gone].kill().await;
    nodes[gone].restart().await;
    let term = nodes[leader].group().term();
    wait_until("it has asked", || nodes[gone].group().expect_counted().is_err()).await;
    for count in 1..=20 {
        assert_eq!(nodes[leader].say("word").await.unwrap(), count);
    }
    assert_eq!((nodes[leader].voters(), nodes[leader].group().term()), (2, term));
    assert_eq!(nodes[leader].group().nodes().len(), 2);
}

#[tokio::test]
async fn a_node_whose_log_is_gone_refuses_to_go_on() {
    let mut node = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&node)).await;
    node.say("word").await.unwrap();
    node.group().raft.trigger().snapshot().await.unwrap();
    let group = node.group().clone();
    wait_until("it is durable", || group.metrics().snapshot.is_some_and(|id| id.index >= 2)).await;
    drop(group);
    node.kill().await;
    std::fs::remove_dir_all(node.folder.path().join("raft")).unwrap();
    let refused = node.try_start(Vec::new()).await.err();
    assert!(refused.as_ref().is_some_and(|text| text.contains("takes part no more")), "{refused:?}");
}
