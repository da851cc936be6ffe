//! Groups that move, seen by an operator who waits for them.

use dfs::pb;

use crate::common::{cli::start_world, fake_fileserver::wait_for_map};

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_the_reason_when_nothing_goes_on_and_when_all_is_done() {
    let mut world = start_world().await;
    for (id, left) in [("fileserver-b", 2), ("fileserver-c", 1)] {
        world.cluster.stop_server(id).await;
        let up = |map: &pb::ClusterMap| {
            map.servers.iter().filter(|server| server.state() != pb::ServerState::Down).count() == left
        };
        wait_for_map(&world.cluster.directory, "a server that is down", up).await;
    }
    // It cannot be spared, and there is nobody to replace it.
    let remove = ["servers", "rm", "fileserver-c", "--lost", "--wait"];
    let ended = world.run(&[&remove[..], &["--patience", "600ms"]].concat()).await;
    let says = |words| assert!(ended.words.contains(words), "{ended:?}");
    assert_eq!(ended.code, 10, "{ended:?}");
    says("fileserver-c: 4 groups left to replace it in, and nothing has gone on for 600ms. NO_SPARE_SERVER: ");
    says("add a file server");

    world.cluster.start_server("fileserver-d").await;
    world.done(&remove).await;
    let servers = world.json(&["servers", "ls"]).await;
    assert!(!servers.to_string().contains("fileserver-c"), "{servers}");
    assert_eq!(world.run(&["rebalance", "--patience", "1s"]).await.code, 2, "patience is for waiting");
}
