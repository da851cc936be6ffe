//! A node that its group goes on without: it was removed while nobody could tell it, or it is a copy of another.

use std::{fs, path::Path};

use super::*;

impl TestNode {
    /// Kills it if it runs, and starts it at a new address.
    async fn start_elsewhere(&mut self, join: Vec<String>) {
        if self.running.is_some() {
            self.kill().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        self.run(listener, join).await;
    }

    /// A second node with a copy of this one's folder, not started.
    fn copied(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(self.folder.path(), folder.path());
        let cuts = Default::default();
        Self { name: self.name, id: self.id, folder, address: String::new(), cuts, running: None }
    }

    fn why_away(&self) -> Option<Error> {
        self.group().expect_counted().err()
    }

    fn members(&self) -> MembersClient<tonic::transport::Channel> {
        MembersClient::new(serve::channel(&self.address).unwrap())
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            fs::create_dir(&to).unwrap();
            copy_folder(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

fn is_removed(error: Option<Error>) -> bool {
    matches!(error, Some(Error::Away(why)) if matches!(*why, Error::Removed { .. }))
}

fn is_a_copy(error: Option<Error>) -> bool {
    matches!(error, Some(Error::Away(why)) if matches!(*why, Error::NodeTaken { .. }))
}

async fn remove(from: &TestNode, name: &str) {
    from.members().remove_member(pb::RemoveMemberRequest { server_id: name.to_owned() }).await.unwrap();
}

#[tokio::test]
async fn a_member_removed_while_it_was_down_is_told_so_disturbs_nobody_and_can_be_taken_in_again() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let gone = (leader + 1) % 3;
    nodes[gone].kill().await;
    remove(&nodes[leader], nodes[gone].name).await;
    wait_until("two are left", || nodes[leader].voters() == 2).await;
    nodes[gone].restart().await;
    let term = nodes[leader].group().term();
    wait_until("it is told", || is_removed(nodes[gone].why_away())).await;
    let listed = nodes[gone].members().list_members(pb::ListMembersRequest {}).await.unwrap_err();
    let failure = Failure::from(&listed);
    assert_eq!(failure.reason, Reason::NotLeader, "whoever asks goes on to another node");
    assert!(failure.message.contains("was removed") && failure.message.contains("--join"), "{failure}");
    let peers = [nodes[gone].address.clone()];
    assert_eq!(whom_to_join("words", &[], &peers, true).await, peers, "it still knows that there is a group");
    wait_until("it knows no leader", || *nodes[gone].group().role().borrow() == Role::Other { leader: None }).await;
    for count in 1..=10 {
        assert_eq!(say_to_leader(&nodes, "word").await, count);
    }
    assert!(nodes[leader].is_leading() && nodes[leader].group().term() == term);
    assert_eq!(nodes[leader].group().nodes().len(), 2);

    let known = vec![nodes[leader].address.clone()];
    nodes[gone].start_elsewhere(known).await;
    wait_until("it votes again", || nodes.iter().all(|node| node.voters() == 3)).await;
    wait_until("it counts", || nodes[gone].why_away().is_none() && nodes[gone].count("word") == 10).await;
    assert!(nodes[leader].is_leading() && nodes[leader].group().term() == term);
    let third = (leader + 2) % 3;
    nodes[third].kill().await;
    assert_eq!(say_to_leader(&nodes, "word").await, 11, "the two are a majority");
}

#[tokio::test]
async fn a_member_that_is_removed_while_it_runs_stays_away_though_it_was_started_to_join() {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    // Not the founder, which was told of nobody.
    let gone = if leader == 1 { 2 } else { 1 };
    remove(&nodes[leader], nodes[gone].name).await;
    let term = nodes[leader].group().term();
    wait_until("it is told", || is_removed(nodes[gone].why_away())).await;
    assert_eq!((nodes[leader].voters(), nodes[leader].group().nodes().len()), (2, 2));
    assert!(nodes[leader].is_leading() && nodes[leader].group().term() == term);
}

#[tokio::test]
async fn a_copy_of_a_node_that_lives_gives_way_and_is_not_started_again() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    say_to_leader(&nodes, "word").await;
    let original = (leader + 1) % 3;
    nodes[original].kill().await;
    let mut copy = nodes[original].copied();
    nodes[original].restart().await;
    wait_until("the original is back", || nodes[original].count("word") == 1).await;
    let (term, here) = (nodes[leader].group().term(), nodes[original].address.clone());

    copy.start_elsewhere(Vec::new()).await;
    wait_until("it gives way", || is_a_copy(copy.why_away())).await;
    for count in 2..=10 {
        assert_eq!(say_to_leader(&nodes, "word").await, count);
    }
    wait_until("the original takes part", || nodes[original].count("word") == 10).await;
    let known_at = |nodes: &[TestNode]| nodes[leader].group().nodes().into_iter().map(|(_, node)| node.address);
    assert!(known_at(&nodes).any(|address| address == here) && known_at(&nodes).all(|address| address != copy.address));
    assert!(nodes[leader].is_leading() && nodes[leader].group().term() == term);

    copy.kill().await;
    let refused = copy.try_start(Vec::new()).await.err().unwrap();
    assert!(refused.contains("is a copy") && refused.contains("under a name of its own"), "{refused}");
}

#[tokio::test]
async fn a_copy_that_is_reached_where_the_original_is_gives_way_too() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    say_to_leader(&nodes, "word").await;
    let original = (leader + 1) % 3;
    nodes[original].kill().await;
    let copy = nodes[original].copied();
    nodes[original].restart().await;
    wait_until("the original is back", || nodes[original].count("word") == 1).await;

    // It says that it is where the original is, as a clone of a machine would.
    let node = nodes[original].group().me.clone();
    let candidate = members::Candidate { id: copy.id, node, process: 1, known: true };
    let refused = nodes[leader].group().admit(candidate).await.unwrap_err();
    assert!(matches!(refused, Error::NodeTaken { .. }), "{refused}");
    let own = members::Candidate { process: nodes[original].group().process, ..candidate_of(&nodes[original]) };
    nodes[leader].group().admit(own).await.unwrap();
}

fn candidate_of(node: &TestNode) -> members::Candidate {
    let me = node.group().me.clone();
    members::Candidate { id: node.group().node, node: me, process: 0, known: true }
}

#[tokio::test]
async fn a_node_that_answers_is_not_moved_by_another_process_that_has_its_id() {
    let nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let other = (leader + 1) % 3;
    say_to_leader(&nodes, "word").await;
    wait_until("it answers", || nodes[other].count("word") == 1).await;
    // Of a version that has no number: nobody can be asked.
    let mut moved = candidate_of(&nodes[other]);
    moved.node.address = "127.0.0.1:1".to_owned();
    assert_eq!(nodes[leader].group().admit(moved).await, Err(Error::Busy));
}

#[tokio::test]
async fn a_node_whose_place_its_copy_has_taken_gives_way_to_it() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let original = (leader + 1) % 3;
    nodes[original].kill().await;
    let mut copy = nodes[original].copied();
    copy.start_elsewhere(Vec::new()).await;
    say_to_leader(&nodes, "word").await;
    wait_until("it has moved, as far as anybody knows", || copy.count("word") == 1).await;
    let term = nodes[leader].group().term();
    nodes[original].restart().await;
    wait_until("it gives way", || is_a_copy(nodes[original].why_away())).await;
    assert_eq!(say_to_leader(&nodes, "word").await, 2);
    wait_until("the copy takes part", || copy.count("word") == 2).await;
    assert!(nodes[leader].is_leading() && nodes[leader].group().term() == term);
}
