//! A data folder is copied, and a server started on each of the two, under one id.

use dfs::types::ServerId;

use super::{Day, POLL, TIMEOUT};
use crate::cluster;

const ORIGINAL: &str = "fileserver-b";
const COPY: &str = "copy";

/// Of how many groups the server is out of sync.
async fn count_out_of_sync(day: &Day) -> usize {
    let id: ServerId = ORIGINAL.parse().expect("a good id");
    let map = day.client.refresh_map().await.expect("the cluster map");
    map.groups.values().filter(|group| !group.is_in_sync(&id)).count()
}

/// Waits until one of the two ends, as one that has failed.
async fn the_one_that_ends(day: &mut Day, of: [usize; 2]) -> usize {
    let watched = async {
        loop {
            for index in of {
                if let Some(status) = day.cluster.try_ended(index) {
                    assert!(!status.success(), "{} ended well: {status}", day.cluster.name(index));
                    return index;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let ended = day.clients.during(tokio::time::timeout(TIMEOUT, watched)).await;
    ended.unwrap_or_else(|_| panic!("both go on\n{}", day.cluster.log_tails()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_on_copies_of_one_folder_the_first_takes_part_and_the_other_ends() {
    let mut day = Day::begin(1, 1).await;
    let original = day.cluster.index(ORIGINAL);
    day.cluster.kill(original);
    let copy = day.cluster.add_copy(original, COPY);
    day.cluster.begin_process(original);
    day.cluster.begin_process(copy);
    let ended = the_one_that_ends(&mut day, [original, copy]).await;
    let name = day.cluster.name(ended).to_owned();
    let log = day.cluster.log(&name);
    assert!(log.contains("gone on without this data folder") || log.contains("a copy of its data folder"), "{log}");
    println!("{name} ended");
    day.wait_until_level().await;

    // Whoever is refused once goes on to be, also when the other is gone.
    let other = if ended == original { copy } else { original };
    day.cluster.kill(other);
    day.cluster.begin_process(ended);
    day.wait_until_ended(ended).await;
    let log = day.cluster.log(&name);
    assert!(log.contains("gone on without this data folder"), "{log}");
    day.cluster.start_process(other);
    day.cluster.remove(ended);
    day.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_not_disturbed_by_another_on_a_copy_that_was_made_while_it_ran() {
    let mut day = Day::begin(1, 1).await;
    let original = day.cluster.index(ORIGINAL);
    let pid = day.cluster.pid(original);
    cluster::stop(pid);
    let copy = day.cluster.add_copy(original, COPY);
    cluster::cont(pid);
    day.wait_until_level().await;
    day.watch_for_a_while().await;
    assert_eq!(count_out_of_sync(&day).await, 0);
    day.cluster.begin_process(copy);
    day.wait_until_ended(copy).await;
    assert_eq!(count_out_of_sync(&day).await, 0, "{}", day.cluster.log_tails());
    let log = day.cluster.log(COPY);
    assert!(log.contains("a second process on a copy of its data folder takes no part"), "{log}");
    day.cluster.remove(copy);
    day.end().await;
}
