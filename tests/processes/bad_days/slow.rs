//! A file server that is slow and not dead: it stands still for half of the time, a little at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dfs::client::Client;

use super::Day;
use crate::cluster;

/// How long it is looked at.
const LENGTH: Duration = Duration::from_secs(8);
/// A server may be taken out of all its groups and in again so often meanwhile. Once would be right for one that is too slow, and
/// twice for one that is so now and then; one that comes and goes with every stop would have done it ten times and more.
const ROUNDS_MAX: u64 = 2;
/// A server that leaves a group raises its epoch, and so does one that joins it again.
const EPOCHS_A_ROUND: u64 = 2;

/// Of all groups together: higher with every change of any of them.
async fn epochs(client: &Client) -> (u64, u64) {
    let map = client.refresh_map().await.expect("the cluster map");
    (map.groups.values().map(|group| group.epoch.0).sum(), map.groups.len() as u64)
}

async fn stand_still_half_of_the_time(period: Duration) {
    let mut day = Day::begin(1, 1).await;
    let slow = day.a_leading_file_server().await;
    let pid = day.cluster.pid(slow);
    let is_over = Arc::new(AtomicBool::new(false));
    let (before, groups) = epochs(&day.client).await;
    day.history.begin_watch();
    let stopper = tokio::task::spawn_blocking({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed) {
                cluster::stop(pid);
                std::thread::sleep(period);
                cluster::cont(pid);
                std::thread::sleep(period);
            }
        }
    });
    day.clients.during(tokio::time::sleep(LENGTH)).await;
    day.wait_until_watched_writers_go_on().await;
    let (after, _) = epochs(&day.client).await;
    let watched = day.history.watched();
    is_over.store(true, Ordering::Relaxed);
    stopper.await.expect("continued");
    println!("{period:?}: {} epochs of {groups} groups, {watched:?}", after - before);
    day.expect_short_pause();
    let most = ROUNDS_MAX * EPOCHS_A_ROUND * groups;
    assert!(after - before <= most, "{} epochs\n{}", after - before, day.cluster.log_tails());
    day.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_beside_a_file_server_that_stands_still_a_little_at_a_time() {
    stand_still_half_of_the_time(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_beside_a_file_server_that_stands_still_for_longer_at_a_time() {
    stand_still_half_of_the_time(Duration::from_millis(300)).await;
}
