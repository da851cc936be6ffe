//! What must hold when the faults are over, whatever they were.

use std::collections::HashMap;

use dfs::{client::Client, status::Reason, types::Path};
use futures::{StreamExt, stream};

use crate::{history::History, payload::Payload, workload};

const CHECKS_AT_ONCE: usize = 16;

/// Everything acknowledged is there, whole and once, every copy is the same, and what clients were told has an explanation. The
/// cluster is level.
pub async fn expect_promises(client: &Client, history: &History, writers: u64) {
    expect_acknowledged_writes(client, history).await;
    expect_acknowledged_lines(client, history).await;
    expect_equal_copies(client, history, writers).await;
    history.recording.expect_explained();
}

async fn expect_acknowledged_writes(client: &Client, history: &History) {
    let checks = history.writes().into_iter().map(async |(path, version, payload)| {
        let bytes = workload::read_version(client, &path, version).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{path} version {version}: {error}"));
        assert_eq!(Payload::parse(&bytes), Ok(payload), "{path} version {version}");
    });
    stream::iter(checks).buffer_unordered(CHECKS_AT_ONCE).collect::<()>().await;
}

/// Every acknowledged line is there once; a line of unknown fate at most once; nothing else.
async fn expect_acknowledged_lines(client: &Client, history: &History) {
    for (path, lines) in history.lines() {
        let (_, bytes) = workload::read_newest(client, &path).await.expect("read a log");
        let text = String::from_utf8(bytes).expect("lines are text");
        let mut found: HashMap<&str, u32> = HashMap::new();
        for line in text.split_inclusive('\n') {
            assert!(line.starts_with("worker ") && line.ends_with('\n'), "{path} has a torn line {line:?}");
            *found.entry(line).or_default() += 1;
        }
        assert!(found.values().all(|count| *count == 1), "{path} has a line twice");
        for line in &lines {
            assert!(found.contains_key(line.as_str()), "{path} lost {line:?}");
        }
    }
}

/// Each server's own disk has the same bytes, of every file.
async fn expect_equal_copies(client: &Client, history: &History, writers: u64) {
    let own = (0..writers).map(workload::own_file);
    let shared = (0..workload::SHARED_FILES).map(workload::shared_file);
    let logs = (0..workload::LOGS).map(workload::log_file);
    for path in own.chain(shared).chain(logs).collect::<Vec<Path>>() {
        match client.verify(&path, None).await {
            Ok(verified) => assert_eq!(verified.good_count(), 3, "{path}: {verified:?}"),
            Err(error) if error.reason() == Reason::EntryNotFound => history.not_found(&path, history.newest(&path)),
            Err(error) => panic!("{path}: {error}"),
        }
    }
}
