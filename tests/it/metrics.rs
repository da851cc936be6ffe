//! What servers tell those who watch them: the families of the docs, and whether they are ready.

use std::collections::BTreeMap;

use clap::Parser;
use dfs::{config::FileServerOptions, pb};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::common::{
    cluster::{Cluster, Settings, replace},
    directory::start_directory,
    http::{free_address, get, metric},
    lock::start_lock_with,
    wait_until,
};

const ALONE: [&str; 4] = ["--copies", "1", "--min-in-sync", "1"];

/// Names and types of the families on a page.
fn families(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect()
}

/// Those of the docs.
fn documented() -> BTreeMap<String, String> {
    let docs = include_str!("../../docs/metrics.md");
    let rows = docs.lines().filter(|line| line.starts_with("| `dfs_") || line.starts_with("| `grpc_"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')));
    let read = |mut cells: Box<dyn Iterator<Item = &str>>| {
        let (name, kind) = (cells.next().expect("a name"), cells.next().expect("a type"));
        assert!(cells.next().is_some_and(|meaning| !meaning.is_empty()), "{name} says what it means");
        (name.to_owned(), kind.to_owned())
    };
    cells.map(|cells| read(Box::new(cells))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_families_that_are_served_are_those_of_the_docs() {
    let folder = TempDir::new().expect("a folder");
    let (of_directory, of_lock) = (free_address().await, free_address().await);
    let options = [&ALONE[..], &["--metrics-listen", &of_directory]].concat();
    let directory = start_directory(&folder.path().join("directory-1"), &options).await;
    let lock =
        start_lock_with(&folder.path().join("lock-1"), &directory.address, &["--metrics-listen", &of_lock]).await;
    let mut cluster = Cluster::without_servers(folder, directory, Settings::default());
    let of_server = cluster.start_measured_server("fs-a").await;
    cluster.wait_until_in_sync(1).await;
    cluster.write(replace("/a", 0), b"counted").await;

    let mut served = BTreeMap::new();
    for address in [&of_directory, &of_lock, &of_server] {
        wait_until("readiness", || async { get(address, "/readyz").await.is_some_and(|(status, _)| status == 200) })
            .await;
        assert_eq!(get(address, "/livez").await.map(|(status, _)| status), Some(200));
        assert_eq!(get(address, "/elsewhere").await.map(|(status, _)| status), Some(404));
        let (_, page) = get(address, "/metrics").await.expect("a page");
        assert!(page.ends_with("# EOF\n"), "{page}");
        served.extend(families(&page));
    }
    assert_eq!(served, documented());

    assert_eq!(metric(&of_directory, "dfs_raft_has_leader").await, Some(1.0));
    assert_eq!(metric(&of_directory, "dfs_cluster_servers{state=\"up\"}").await, Some(1.0));
    assert_eq!(metric(&of_directory, "dfs_cluster_groups{state=\"full\"}").await, Some(4.0));
    assert_eq!(metric(&of_server, "dfs_fileserver_replicate_seconds_count").await, Some(1.0));
    assert_eq!(metric(&of_server, "dfs_fileserver_read_only").await, Some(0.0));
    assert!(metric(&of_server, "dfs_fileserver_fsync_seconds_count").await > Some(0.0));
    assert!(metric(&of_directory, "dfs_directory_revision").await > Some(0.0));
    // A stream that its client has left is counted too.
    let writes = "grpc_type=\"bidi_stream\",grpc_service=\"dfs.v1.FileServer\",grpc_method=\"Write\"";
    assert_eq!(metric(&of_server, &format!("grpc_server_started_total{{{writes}}}")).await, Some(1.0));
    cluster.server("fs-a").get_status(pb::GetStatusRequest {}).await.expect("a status");
    let statuses = "grpc_type=\"unary\",grpc_service=\"dfs.v1.FileServer\",grpc_method=\"GetStatus\",grpc_code=\"OK\"";
    let handled = format!("grpc_server_handled_total{{{statuses}}}");
    wait_until("the call's end", || async { metric(&of_server, &handled).await == Some(1.0) }).await;
    lock.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_directory_lives_and_is_not_ready() {
    let folder = TempDir::new().expect("a folder");
    let metrics = free_address().await;
    let data = folder.path().to_str().expect("a path of text");
    let fixed = ["dfs-fileserver", "--id", "fs-a", "--listen", "127.0.0.1:0", "--data", data];
    let more = ["--directory", "127.0.0.1:1", "--metrics-listen", &metrics];
    let options = FileServerOptions::parse_from(fixed.into_iter().chain(more));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(dfs::fileserver::run(options.clone(), listener, shutdown.clone()));
    wait_until("life", || async { get(&metrics, "/livez").await.is_some_and(|(status, _)| status == 200) }).await;
    assert_eq!(get(&metrics, "/readyz").await.map(|(status, _)| status), Some(503));
    shutdown.cancel();
    server.await.expect("no panic").expect("a clean end");

    // An address that was asked for and is taken is told at once.
    let _taken = TcpListener::bind(&metrics).await.expect("free again");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = dfs::fileserver::run(options, listener, CancellationToken::new()).await.expect_err("it is taken");
    assert!(format!("{refused:#}").contains(&metrics), "{refused:#}");
}
