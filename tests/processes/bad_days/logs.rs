//! The disk of the node that leads the Directory or the Lock service fails.

use std::time::Duration;

use dfs::client::{Client, GroupKind};

use super::{Day, strace, strace::Strace};

const NODES: u16 = 3;
/// The log syncs with the one, what stands beside it with the other.
const SYNC_FAILS: &str = "fdatasync,fsync:error=EIO";

/// All nodes vote, and those who must know hear of each of them.
async fn is_whole(client: &Client, group: GroupKind) -> bool {
    let members = client.members(group).await.unwrap_or_default();
    let hears = |silence: Option<Duration>| silence.is_some_and(|silence| silence < Duration::from_secs(1));
    // Any node of the Lock service answers for its members; of whom is heard, the Directory says.
    let is_lock = matches!(group, GroupKind::Lock);
    let voters = members.iter().filter(|node| node.is_voter && (is_lock || node.is_leader || hears(node.silence)));
    let told = client.status().await.is_ok_and(|status| !status.checks.iter().any(|it| it.code.starts_with("LOCK_")));
    voters.count() == usize::from(NODES) && told
}

async fn leader(client: &Client, group: GroupKind) -> Option<String> {
    let members = client.members(group).await.unwrap_or_default();
    members.into_iter().find(|node| node.is_leader).map(|node| node.server)
}

/// The process ends: what a failed sync has left on the disk is only known after a start.
async fn lose_the_leaders_disk(directories: u16, locks: u16, group: GroupKind) {
    if !strace::is_there() {
        return;
    }
    let mut day = Day::begin(directories, locks).await;
    day.wait_until("all nodes vote", async |client| is_whole(client, group).await).await;
    let leader = leader(&day.client, group).await.expect("somebody leads");
    let index = day.cluster.index(&leader);
    day.history.begin_watch();
    let strace = Strace::attach(day.cluster.pid(index), &[SYNC_FAILS]);
    day.wait_until_ended(index).await;
    drop(strace);
    let log = day.cluster.log(&leader);
    assert!(log.contains("Input/output error") && log.contains(&format!("{leader}/")), "{log}");
    assert!(log.contains("see to the disk, then start this node again"), "{log}");
    day.wait_until_watched_writers_go_on().await;
    day.expect_short_pause();
    tokio::task::block_in_place(|| day.cluster.start_process(index));
    day.wait_until("all nodes vote", async |client| is_whole(client, group).await).await;
    day.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_the_leading_directory_cannot_sync_its_log() {
    lose_the_leaders_disk(NODES, 1, GroupKind::Directory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_the_leading_lock_node_cannot_sync_its_log() {
    lose_the_leaders_disk(1, NODES, GroupKind::Lock).await;
}
