//! Changes of the members by hand.

use super::*;

async fn remove(from: &TestNode, name: &str) -> Result<(), Failure> {
    let mut client = MembersClient::new(serve::channel(&from.address).unwrap());
    let removed = client.remove_member(pb::RemoveMemberRequest { server_id: name.to_owned() }).await;
    removed.map(|_| ()).map_err(|status| Failure::from(&status))
}

#[tokio::test]
async fn a_leader_can_be_removed_and_another_one_goes_on() {
    let mut nodes = three_nodes().await;
    let leader = leader_of(&nodes).await;
    nodes[leader].say("word").await.unwrap();
    remove(&nodes[leader], nodes[leader].name).await.unwrap();
    let (began, stalls) = (std::time::Instant::now(), Stalls::watch());
    let removed = nodes.remove(leader);
    assert_eq!(say_to_leader(&nodes, "word").await, 2);
    assert!(began.elapsed() < Duration::from_secs(3) + stalls.longest() * 4, "{:?}", began.elapsed());
    wait_until("two are left", || nodes.iter().all(|node| node.voters() == 2)).await;
    wait_until("it leads no more", || !removed.is_leading()).await;
    assert!(removed.say("word").await.is_err());
    let term = nodes[leader_of(&nodes).await].group().term();
    wait_until("it is told", || removed.group().expect_counted().is_err()).await;
    assert_eq!(say_to_leader(&nodes, "word").await, 3);
    assert_eq!(nodes[leader_of(&nodes).await].group().term(), term);
}

#[tokio::test]
async fn a_group_shrinks_to_one_and_the_last_one_stays() {
    let mut nodes = three_nodes().await;
    for (count, left) in [(1, 2), (2, 1)] {
        assert_eq!(say_to_leader(&nodes, "word").await, count);
        let leader = leader_of(&nodes).await;
        let other = (leader + 1) % nodes.len();
        remove(&nodes[leader], nodes[other].name).await.unwrap();
        wait_until("one less votes", || nodes[leader].voters() == left).await;
        nodes[other].kill().await;
        nodes.remove(other);
    }
    let refused = remove(&nodes[0], nodes[0].name).await.unwrap_err();
    assert_eq!(refused.reason, Reason::BadArgument);
    assert!(refused.message.contains("the only voter"), "{refused}");
    assert_eq!(say_to_leader(&nodes, "word").await, 3);
    nodes[0].kill().await;
    nodes[0].restart().await;
    assert_eq!(say_to_leader(&nodes, "word").await, 4, "it goes on alone");
}

#[tokio::test]
async fn a_learner_that_is_not_level_is_not_promoted_and_the_reason_is_said() {
    let node = TestNode::start("a", 11, Vec::new()).await;
    leader_of(std::slice::from_ref(&node)).await;
    node.say("word").await.unwrap();
    // Nobody listens there.
    let absent = Node { server: "b".to_owned(), address: "127.0.0.1:1".to_owned(), ..Default::default() };
    let candidate = members::Candidate { id: 12, node: absent, process: 1, known: false };
    node.group().admit(candidate).await.unwrap();
    let refused = node.group().promote("b", Duration::from_millis(1)).await.unwrap_err();
    let last = node.group().metrics().last_log_index.unwrap();
    // On a machine that was away for so long it counts as silent by now.
    if node.group().led_for().is_some_and(|led| led < Duration::from_secs(2)) {
        assert_eq!(refused, Error::NotLevel { server: "b".to_owned(), lacks: last + 1 });
    }
    assert_eq!(Failure::from(refused).reason, Reason::Unavailable);
    wait_until("it counts as silent", || node.group().led_for().is_some_and(|led| led > Duration::from_secs(2))).await;
    let refused = node.group().promote("b", Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(refused, Error::NotAnswering { server: "b".to_owned() });
    assert_eq!(node.voters(), 1);
    let unknown = node.group().promote("c", Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(unknown, Error::UnknownMember { server: "c".to_owned() });
    assert_eq!(node.say("word").await.unwrap(), 2, "the group goes on");
}
