//! One disk of several hangs, fails, or is full.

use super::{Day, strace, strace::Strace};

/// Longer than a test takes: it ends when strace lets go.
const HANG: &str = "fdatasync,fsync:delay_enter=60000000";
const SYNC_FAILS: &str = "fdatasync,fsync:error=EIO";
const NO_SPACE: &str = "pwritev,pwrite64,fallocate:error=ENOSPC";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_when_a_file_servers_disk_hangs_and_it_is_back_when_the_disk_is() {
    if !strace::is_there() {
        return;
    }
    let mut day = Day::begin(1, 1).await;
    let hung = day.a_leading_file_server().await;
    day.history.begin_watch();
    let strace = Strace::attach(day.cluster.pid(hung), &[HANG]);
    let told = day.wait_until_told("SERVER_READ_ONLY").await;
    assert!(told.contains("the disk does not answer") && told.contains("fileserver-a"), "{told}");
    // Who was acknowledged before the fault was felt has shown nothing.
    day.history.count_anew();
    day.wait_until_watched_writers_go_on().await;
    day.expect_short_pause();
    day.expect_no_copies_on("fileserver-a").await;
    drop(strace);
    day.wait_until_level().await;
    let log = day.cluster.log("fileserver-a");
    assert!(log.contains("the disk does not answer") && log.contains("the disk answers again"), "{log}");
    day.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_server_whose_sync_failed_takes_no_more_writes_until_it_is_restarted() {
    if !strace::is_there() {
        return;
    }
    let mut day = Day::begin(1, 1).await;
    let failed = day.a_leading_file_server().await;
    day.history.begin_watch();
    let strace = Strace::attach(day.cluster.pid(failed), &[SYNC_FAILS]);
    let told = day.wait_until_told("SERVER_READ_ONLY").await;
    // Syncs would succeed again: that must change nothing.
    drop(strace);
    assert!(told.contains("fileserver-a/blobs/") && told.contains(".segment failed: Input/output error"), "{told}");
    assert!(told.contains("replace the disk if it fails, then start the server again"), "{told}");
    // Who was acknowledged before the fault was felt has shown nothing.
    day.history.count_anew();
    day.wait_until_watched_writers_go_on().await;
    day.expect_short_pause();
    day.expect_no_copies_on("fileserver-a").await;
    assert_eq!(day.wait_until_told("SERVER_READ_ONLY").await, told);
    day.cluster.expect_all_running();
    tokio::task::block_in_place(|| {
        day.cluster.kill(failed);
        day.cluster.start_process(failed);
    });
    day.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_server_whose_disk_has_no_room_is_gone_on_without_and_is_back_when_there_is_some() {
    if !strace::is_there() {
        return;
    }
    let mut day = Day::begin(1, 1).await;
    let full = day.a_leading_file_server().await;
    day.history.begin_watch();
    let strace = Strace::attach(day.cluster.pid(full), &[NO_SPACE]);
    let told = day.wait_until_told("SERVER_READ_ONLY").await;
    assert!(told.contains("fileserver-a") && told.contains("for lack of room"), "{told}");
    // Who was acknowledged before the fault was felt has shown nothing.
    day.history.count_anew();
    day.wait_until_watched_writers_go_on().await;
    day.expect_short_pause();
    day.expect_no_copies_on("fileserver-a").await;
    drop(strace);
    day.end().await;
}
