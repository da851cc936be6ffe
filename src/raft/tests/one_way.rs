//! Nodes that hear and are not heard, or are heard and do not hear.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tonic::{Request, Response, Status, Streaming};

use super::*;

/// Who is not heard by whom. What is said that way gets lost, and nobody is told.
#[derive(Clone, Default)]
pub struct Cuts(Arc<Mutex<BTreeSet<(NodeId, NodeId)>>>);

impl Cuts {
    fn change(&self, change: impl FnOnce(&mut BTreeSet<(NodeId, NodeId)>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Nothing that the node says arrives.
    fn silence(&self, node: NodeId, others: &[NodeId]) {
        self.change(|cuts| cuts.extend(others.iter().map(|other| (node, *other))));
    }

    /// Nothing that the others say arrives at the node.
    fn deafen(&self, node: NodeId, others: &[NodeId]) {
        self.change(|cuts| cuts.extend(others.iter().map(|other| (*other, node))));
    }

    fn heal(&self) {
        self.change(BTreeSet::clear);
    }

    async fn pass(&self, from: NodeId, to: NodeId) {
        let is_cut = self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(from, to));
        if is_cut {
            std::future::pending().await
        }
    }
}

/// A node's way in, over a network that loses what it is told to.
pub struct Lossy {
    pub node: NodeId,
    pub service: RaftService,
    pub cuts: Cuts,
}

impl Lossy {
    async fn answer<T>(
        &self,
        from: NodeId,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        self.cuts.pass(from, self.node).await;
        let answer = call.await;
        self.cuts.pass(self.node, from).await;
        answer
    }
}

fn sender(vote: &Option<pb::Vote>) -> NodeId {
    vote.as_ref().map_or(0, |vote| vote.node_id)
}

#[tonic::async_trait]
impl pb::raft_server::Raft for Lossy {
    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesResponse>, Status> {
        let from = sender(&request.get_ref().vote);
        self.answer(from, self.service.append_entries(request)).await
    }

    async fn request_vote(
        &self,
        request: Request<pb::RequestVoteRequest>,
    ) -> Result<Response<pb::RequestVoteResponse>, Status> {
        let from = sender(&request.get_ref().vote);
        self.answer(from, self.service.request_vote(request)).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        self.service.install_snapshot(request).await
    }

    async fn take_over(&self, request: Request<pb::TakeOverRequest>) -> Result<Response<pb::TakeOverResponse>, Status> {
        let from = sender(&request.get_ref().from_leader);
        self.answer(from, self.service.take_over(request)).await
    }
}

fn cut_one_way(nodes: &[TestNode], node: usize, cut: fn(&Cuts, NodeId, &[NodeId])) {
    let others: Vec<NodeId> = nodes.iter().map(|node| node.id).filter(|id| *id != nodes[node].id).collect();
    for of in nodes {
        cut(&of.cuts, nodes[node].id, &others);
    }
}

fn heal(nodes: &[TestNode]) {
    nodes.iter().for_each(|node| node.cuts.heal());
}

/// What a writer sees of a leader that is cut off half: nothing is acknowledged there, and another one leads soon.
async fn expect_another_leader(cut: fn(&Cuts, NodeId, &[NodeId])) {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    assert_eq!(nodes[leader].say("word").await.unwrap(), 1);
    cut_one_way(&nodes, leader, cut);
    let (began, stalls) = (Instant::now(), Stalls::watch());
    let leads = |at: usize| at != leader && nodes[at].is_leading();
    let leading = async {
        wait_until("another one leads", || (0..3).any(leads)).await;
        began.elapsed()
    };
    let (said, took) = tokio::join!(timeout(Duration::from_secs(3), nodes[leader].say("lost")), leading);
    assert!(!matches!(said, Ok(Ok(_))), "{said:?}");
    assert!(took < Duration::from_secs(3) + stalls.longest() * 4, "{took:?}, with stalls of {:?}", stalls.longest());
    let heir = (0..3).find(|at| leads(*at)).unwrap();
    assert_eq!(nodes[heir].say("word").await.unwrap(), 2);
    assert!(!nodes[leader].is_leading() && nodes[leader].group().confirm_lead().await.is_err());
    heal(&nodes);
    wait_until("all have the same", || {
        nodes.iter().all(|node| node.count("word") == 2 && node.count("lost") == nodes[heir].count("lost"))
    })
    .await;
    assert_eq!(say_to_leader(&nodes, "word").await, 3);
}

#[tokio::test]
async fn a_leader_that_hears_nobody_acknowledges_nothing_and_another_one_leads() {
    expect_another_leader(Cuts::deafen).await;
}

#[tokio::test]
async fn a_leader_that_nobody_hears_acknowledges_nothing_and_another_one_leads() {
    expect_another_leader(Cuts::silence).await;
}

/// A follower that is cut off half neither stops the others nor raises the term, for much longer than an election takes.
async fn expect_no_disturbance(cut: fn(&Cuts, NodeId, &[NodeId])) {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let follower = (leader + 1) % 3;
    let term = nodes[leader].group().term();
    cut_one_way(&nodes, follower, cut);
    let began = Instant::now();
    let mut said = 0;
    while began.elapsed() < Duration::from_secs(2) {
        said += 1;
        assert_eq!(nodes[leader].say("word").await.unwrap(), said);
    }
    let terms: Vec<u64> = nodes.iter().map(|node| node.group().term()).collect();
    assert_eq!(terms, [term; 3]);
    heal(&nodes);
    wait_until("it has all", || nodes[follower].count("word") == said).await;
    assert!(nodes[leader].is_leading() && nodes[leader].group().term() == term);
}

#[tokio::test]
async fn a_follower_that_nobody_hears_disturbs_nobody() {
    expect_no_disturbance(Cuts::silence).await;
}

#[tokio::test]
async fn a_follower_that_hears_nobody_disturbs_nobody() {
    expect_no_disturbance(Cuts::deafen).await;
}

#[tokio::test]
async fn a_leader_whose_followers_return_leads_again_or_follows() {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    nodes[leader].say("word").await.unwrap();
    // Nobody hears anybody: nobody can lead.
    for node in 0..3 {
        cut_one_way(&nodes, node, Cuts::silence);
    }
    wait_until("it leads nobody", || !nodes[leader].is_leading()).await;
    heal(&nodes);
    assert_eq!(timeout(DEADLINE, say_to_leader(&nodes, "word")).await.unwrap(), 2);
}
