//! The clock of one machine is an hour ahead, and then an hour behind.

use std::{fs, process::Command, time::Duration};

use dfs::{
    client::{SessionOptions, WriteOptions},
    types::{AsOf, LockMode, Path, Timestamp, Version, WriteId},
};
use futures::TryStreamExt;

use super::Day;
use crate::workload::read_newest;

/// Much less than what the clocks jump, and more than a restart takes.
const LEASE: Duration = Duration::from_secs(15);
const ROLES: [&str; 3] = ["directory-1", "lock-1", "fileserver-a"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_written_twice_or_out_of_order_when_a_clock_jumps() {
    let Some(library) = library() else { return };
    let mut day = Day::begin(1, 1).await;
    let options = SessionOptions { ttl: LEASE, client: "held through all jumps".to_owned() };
    let session = day.client.open_session(options).await.expect("a session");
    let held: Path = "/held".parse().expect("a good path");
    let guard = session.acquire(&held, LockMode::Exclusive, Some(LEASE), |_| {}).await.expect("a lock that is free");
    let once: Path = "/once".parse().expect("a good path");
    let append = WriteOptions::append().write_id(WriteId::random());
    let first = day.client.write_bytes(&once, append, "once").await.expect("written");
    let times: Path = "/times".parse().expect("a good path");
    append_to(&day, &times).await;
    for role in ROLES {
        for (offset, told) in [("+3600s", "nothing is forgotten for an hour"), ("-3600s", "behind the newest command")]
        {
            restart_at(&mut day, role, offset, &library).await;
            if role == "directory-1" {
                // Whoever tries again is told the same, though an hour has passed by the Directory's time.
                day.watch_for_a_while().await;
                let again = day.client.write_bytes(&once, append, "once").await.expect("written before");
                assert_eq!((again.version, again.revision), (first.version, first.revision), "{offset}");
                let log = day.cluster.log(role);
                assert!(log.contains(told), "{told}: {log}");
            }
            append_to(&day, &times).await;
            session.check().unwrap_or_else(|error| panic!("{role} at {offset}: {error}"));
        }
    }
    let precondition = guard.precondition().expect("a lock that is held still");
    let receipt = day.client.write_bytes(&held, WriteOptions::replace(precondition), "held").await;
    assert_eq!(receipt.expect("written under the lock").version, Version(1));
    guard.release().await.expect("released");
    let (entry, bytes) = read_newest(&day.client, &once).await.expect("read");
    assert_eq!((entry.version, bytes), (Version(1), b"once".to_vec()));
    expect_times_in_order(&day, &times).await;
    day.end().await;
}

async fn append_to(day: &Day, path: &Path) {
    for _ in 0..3 {
        day.client.write_bytes(path, WriteOptions::append(), "line\n").await.expect("appended");
    }
}

/// `kill -9`, and a start with another clock.
async fn restart_at(day: &mut Day, role: &str, offset: &str, library: &str) {
    let index = day.cluster.index(role);
    let environment = [
        ("LD_PRELOAD", library),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        // Times of files are true.
        ("NO_FAKE_STAT", "1"),
    ];
    day.cluster.set_environment(index, environment.map(|(name, value)| (name, value.to_owned())).to_vec());
    day.history.begin_watch();
    tokio::task::block_in_place(|| {
        day.cluster.kill(index);
        day.cluster.start_process(index);
    });
    let maps =
        fs::read_to_string(format!("/proc/{}/maps", day.cluster.pid(index))).expect("what the process has loaded");
    assert!(maps.contains("libfaketime"), "{role} has a true clock");
    day.wait_until_watched_writers_go_on().await;
    println!("{role} at {offset}");
    day.expect_short_pause();
    day.wait_until_level().await;
}

/// No version is older than the one before it, and a look at a time shows the last version of that time.
async fn expect_times_in_order(day: &Day, path: &Path) {
    let mut versions: Vec<_> = day.client.versions(path).try_collect().await.expect("its versions");
    versions.sort_unstable_by_key(|version| version.version);
    let mut last_of_times: Vec<(Timestamp, Version)> = Vec::new();
    for version in &versions {
        match last_of_times.last_mut() {
            Some((time, last)) if *time == version.create_time => *last = version.version,
            Some((time, last)) => {
                assert!(*time < version.create_time, "{path}: version {} is older than {last}", version.version);
                last_of_times.push((version.create_time, version.version));
            }
            None => last_of_times.push((version.create_time, version.version)),
        }
    }
    let newest = last_of_times.pop().expect("a file that was written");
    assert!(!last_of_times.is_empty(), "{path} was written at one time only: {newest:?}");
    for (time, version) in last_of_times {
        let entry = day.client.get(path, AsOf::Time(time)).await.expect("an entry of the past");
        assert_eq!(entry.version, version, "{path} as of {time:?}");
    }
}

/// What gives a process another clock. Where everything is checked it must be there; elsewhere the test is skipped, and says so.
fn library() -> Option<String> {
    let asked = Command::new("faketime").args(["-m", "-f", "+0s", "printenv", "LD_PRELOAD"]).output().ok();
    let found = asked.filter(|asked| asked.status.success()).and_then(|asked| String::from_utf8(asked.stdout).ok());
    let is_demanded = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        found.is_some() || !is_demanded,
        "no faketime here: install it with `apt-get install faketime`, or run scripts/ci/tools"
    );
    if found.is_none() {
        eprintln!("SKIPPED: this test needs faketime, which is not here; install it with `apt-get install faketime`");
    }
    found.map(|path| path.trim().to_owned())
}
