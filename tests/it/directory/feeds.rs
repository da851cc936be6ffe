//! The change feed and the cluster map's: resumable, and ended by a stop.

use dfs::{
    pb,
    status::{Failure, Reason},
};
use tonic::Streaming;

use super::namespace::{create_directory, fresh_id};
use crate::common::{
    directory::{RunningDirectory, start_directory},
    expect_failure,
    fake_fileserver::{FakePrimary, start_three},
    within_deadline,
};

async fn watch(running: &RunningDirectory, path: &str, after: Option<u64>) -> Streaming<pb::WatchEntriesResponse> {
    let request = pb::WatchEntriesRequest { path: path.into(), after_revision: after };
    running.directory().watch_entries(request).await.expect("a watch").into_inner()
}

/// As many changes as are expected, in short.
async fn take(feed: &mut Streaming<pb::WatchEntriesResponse>, count: usize) -> Vec<(pb::ChangeKind, String)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let message = within_deadline("a change", feed.message()).await.expect("the feed goes on").expect("it goes on");
        taken.extend(message.changes.into_iter().map(|change| (change.kind(), change.path)));
    }
    taken
}

#[tokio::test]
async fn a_watch_shows_every_change_below_its_path_and_resumes_by_revision() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let _servers = start_three(&running).await;
    let mut primary = FakePrimary::new(&running).await;
    let mut client = running.directory();
    create_directory(&mut client, "/before").await;

    let mut feed = watch(&running, "/d", None).await;
    let begun = within_deadline("the beginning", feed.message()).await.expect("goes on").expect("goes on");
    assert!(begun.changes.is_empty());
    let begin = begun.header.expect("a header").revision;

    create_directory(&mut client, "/d").await;
    create_directory(&mut client, "/elsewhere").await;
    primary.write("/d/file", b"1", 0).await;
    primary.write("/d/file", b"2", 1).await;
    let delete =
        pb::DeleteEntryRequest { write_id: fresh_id(), path: "/d/file".into(), force: false, precondition: None };
    client.delete_entry(delete).await.expect("deletes");

    use pb::ChangeKind::{Created, Deleted, Written};
    let first = take(&mut feed, 2).await;
    assert_eq!(first[0], (Created, "/d".to_owned()));
    let expected: Vec<_> =
        [(Created, "/d"), (Created, "/d/file"), (Written, "/d/file"), (Deleted, "/d/file")].map(own).to_vec();
    let mut resumed = watch(&running, "/d", Some(begin)).await;
    assert_eq!(take(&mut resumed, expected.len()).await, expected);

    let future = pb::WatchEntriesRequest { path: "/d".into(), after_revision: Some(u64::MAX) };
    let mut feed = client.watch_entries(future).await.expect("a stream").into_inner();
    expect_failure(feed.message().await, Reason::BadArgument);
    running.stop().await;
}

fn own((kind, path): (pb::ChangeKind, &str)) -> (pb::ChangeKind, String) {
    (kind, path.to_owned())
}

#[tokio::test]
async fn a_watcher_that_reads_late_misses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let mut feed = watch(&running, "/", Some(1)).await;
    let mut client = running.directory();
    let mut expected = Vec::new();
    for number in 0..700 {
        let path = format!("/{number}");
        create_directory(&mut client, &path).await;
        expected.push((pb::ChangeKind::Created, path));
    }
    assert_eq!(take(&mut feed, expected.len()).await, expected);
    running.stop().await;
}

#[tokio::test]
async fn every_stream_ends_when_the_directory_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start_directory(folder.path(), &[]).await;
    let servers = start_three(&running).await;
    let mut feed = watch(&running, "/", None).await;
    feed.message().await.expect("begins");
    let mut maps =
        running.directory().watch_cluster_map(pb::WatchClusterMapRequest {}).await.expect("a watch").into_inner();
    maps.message().await.expect("begins");

    running.stop().await;
    let ended = async {
        let feed = loop {
            match feed.message().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        let maps = loop {
            match maps.message().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        (feed, maps)
    };
    let (feed, maps) = within_deadline("the end of the streams", ended).await;
    for status in [feed.expect_err("says why"), maps.expect_err("says why")] {
        assert_eq!(Failure::from(&status).reason, Reason::Unavailable);
    }
    drop(servers);
}
