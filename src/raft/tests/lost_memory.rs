//! A node whose log or vote is damaged never acts as if it remembered.

use std::{fs, path::PathBuf};

use super::{types::StoredMembership, *};

fn log_folder(node: &TestNode) -> PathBuf {
    node.folder.path().join("raft")
}

/// Overturns a byte of what was acknowledged long ago.
fn damage_log(node: &TestNode) {
    let entries = fs::read_dir(log_folder(node)).unwrap().map(|entry| entry.unwrap().path());
    let segment = entries.filter(|path| path.extension().is_some_and(|kind| kind == "log")).min().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[90] ^= 0xff;
    fs::write(segment, bytes).unwrap();
}

fn damage_vote(node: &TestNode) {
    fs::write(log_folder(node).join("VOTE"), "none").unwrap();
}

fn lose_log(node: &TestNode) {
    fs::remove_dir_all(log_folder(node)).unwrap();
}

fn aside(node: &TestNode) -> Vec<String> {
    let names = fs::read_dir(node.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut aside: Vec<String> =
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains("damaged")).collect();
    aside.sort();
    aside
}

async fn make_durable(node: &TestNode) {
    let group = node.group().clone();
    group.raft.trigger().snapshot().await.unwrap();
    wait_until("it is durable", || group.metrics().snapshot.is_some_and(|id| id.index >= 2)).await;
}

/// The nodes, which of them leads, and which is down and has the first word on its disk.
async fn three_nodes_of_which_one_is_down() -> (Vec<TestNode>, usize, usize) {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let broken = (leader + 1) % 3;
    nodes[leader].say("word").await.unwrap();
    make_durable(&nodes[broken]).await;
    nodes[broken].kill().await;
    (nodes, leader, broken)
}

#[tokio::test]
async fn a_node_that_has_lost_its_memory_comes_back_as_a_learner_and_votes_when_it_is_level() {
    for damage in [damage_log, damage_vote, lose_log] {
        let mut nodes = three_nodes().await;
        let leader = leader_of(&nodes).await;
        let broken = (leader + 1) % 3;
        for _ in 0..30 {
            nodes[leader].say("word").await.unwrap();
        }
        wait_until("it has them", || nodes[broken].count("word") == 30).await;
        make_durable(&nodes[broken]).await;
        nodes[broken].kill().await;
        damage(&nodes[broken]);
        nodes[broken].restart().await;
        let term = nodes[leader].group().term();
        let (old, new) = (nodes[broken].id, nodes[broken].group().node);
        assert_ne!(new, old, "nobody votes in the name of the one that has forgotten");
        assert_eq!(nodes[broken].count("word"), 0, "what it had stays aside");
        wait_until("it votes again", || {
            let voters: Vec<NodeId> = nodes[leader].group().metrics().membership_config.voter_ids().collect();
            voters.len() == 3 && voters.contains(&new) && !voters.contains(&old)
        })
        .await;
        let listed = nodes[leader].group().nodes().into_iter().find(|(id, _)| *id == new).unwrap().1;
        assert!(listed.rejoined && listed.server == nodes[broken].name);
        wait_until("it has all", || nodes[broken].count("word") == 30).await;
        assert_eq!(nodes[leader].group().term(), term, "nobody was disturbed");
        assert!(!aside(&nodes[broken]).is_empty());
        // Its new self is what it stays, and counts.
        nodes[broken].kill().await;
        nodes[broken].restart().await;
        assert_eq!(nodes[broken].group().node, new);
        let third = (leader + 2) % 3;
        nodes[third].kill().await;
        assert_eq!(say_to_leader(&nodes, "word").await, 31, "the two are a majority");
    }
}

#[tokio::test]
async fn one_that_has_forgotten_elects_nobody() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    let (forgetful, other) = ((leader + 1) % 3, (leader + 2) % 3);
    nodes[other].kill().await;
    // Acknowledged by the leader and the one that is going to forget it.
    for _ in 0..5 {
        nodes[leader].say("word").await.unwrap();
    }
    nodes[leader].kill().await;
    nodes[forgetful].kill().await;
    damage_log(&nodes[forgetful]);
    nodes[forgetful].restart().await;
    nodes[other].restart().await;
    let led = timeout(Duration::from_secs(3), leader_of(&nodes)).await;
    assert!(led.is_err(), "one that knows and one that forgot are no majority");
    nodes[leader].restart().await;
    assert_eq!(say_to_leader(&nodes, "word").await, 6, "nothing acknowledged is lost");
    wait_until("all vote again", || nodes.iter().all(|node| node.voters() == 3)).await;
    wait_until("it is level", || nodes[forgetful].count("word") == 6).await;
}

#[tokio::test]
async fn a_node_that_was_alone_refuses_and_leaves_everything_as_it_is() {
    for damage in [damage_log, damage_vote] {
        let mut node = TestNode::start("a", 11, Vec::new()).await;
        leader_of(std::slice::from_ref(&node)).await;
        for _ in 0..5 {
            node.say("word").await.unwrap();
        }
        node.kill().await;
        damage(&node);
        let refused = node.try_start(Vec::new()).await.err().unwrap();
        assert!(refused.contains("is damaged") && refused.contains("from a backup"), "{refused}");
        assert!(aside(&node).is_empty());
        assert!(log_folder(&node).join("VOTE").exists());
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_setting_aside_is_gone_on_from() {
    let (mut nodes, leader, broken) = three_nodes_of_which_one_is_down().await;
    damage_log(&nodes[broken]);
    drop(nodes[broken].try_start(Vec::new()).await.unwrap());
    // As if the new log had not got its name yet, nor the old state gone aside.
    let folder = nodes[broken].folder.path().to_owned();
    fs::rename(folder.join("raft"), folder.join("raft.rejoining")).unwrap();
    fs::rename(folder.join("words.redb.damaged-1"), folder.join("words.redb")).unwrap();
    nodes[broken].restart().await;
    assert_ne!(nodes[broken].group().node, nodes[broken].id);
    wait_until("all vote", || nodes[leader].voters() == 3 && nodes[broken].count("word") == 1).await;
    assert_eq!(aside(&nodes[broken]), ["raft.damaged-1", "words.redb.damaged-1"]);
}

#[tokio::test]
async fn a_second_loss_revives_no_earlier_self() {
    let (nodes, leader, broken) = three_nodes_of_which_one_is_down().await;
    let others = vec![nodes[leader].address.clone()];
    let mut selves = vec![nodes[broken].id];
    for _ in 0..3 {
        // The tables are empty from the second time on.
        lose_log(&nodes[broken]);
        let started = nodes[broken].try_start(others.clone()).await.unwrap();
        assert!(!selves.contains(&started.node), "{} of {selves:?}", started.node);
        selves.push(started.node);
        started.stop().await;
    }
}

#[tokio::test]
async fn a_rejoined_voter_whose_log_is_lost_but_not_its_name_is_another_node() {
    let (mut nodes, _, broken) = three_nodes_of_which_one_is_down().await;
    lose_log(&nodes[broken]);
    nodes[broken].restart().await;
    let rejoined = nodes[broken].group().node;
    let votes = |membership: &StoredMembership| membership.voter_ids().any(|voter| voter == rejoined);
    wait_until("it votes and knows it", || {
        votes(&nodes[broken].group().metrics().committed_membership_config) && nodes[broken].voters() == 3
    })
    .await;
    wait_until("it has applied that", || {
        let transaction = nodes[broken].running.as_ref().unwrap().store.begin_read().unwrap();
        votes(&super::super::store::read_applied(&transaction).unwrap().membership)
    })
    .await;
    nodes[broken].kill().await;
    for entry in fs::read_dir(log_folder(&nodes[broken])).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "GROUP") {
            fs::remove_file(path).unwrap();
        }
    }
    nodes[broken].restart().await;
    let now = nodes[broken].group().node;
    assert!(now != rejoined && now != nodes[broken].id);
}
