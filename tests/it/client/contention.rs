//! Many at once: nothing is lost, nothing is torn, nothing is done twice.

use std::{collections::BTreeMap, time::Duration};

use dfs::client::{Client, Error, LockMode, ReadOptions, Version, WriteOptions};
use futures::{
    TryStreamExt,
    future::{join_all, try_join_all},
};

use super::{path, read, read_with, start_world};

const ROUNDS: usize = 100;
const WAIT: Duration = Duration::from_secs(60);

/// Token, version, and what the version must say.
type Written = (u64, Version, String);

/// Locks, writes, releases, again and again; answers what was written, and how often a place in the queue was told.
async fn write_under_the_lock(client: Client, name: &str) -> Result<(Vec<Written>, u32), Error> {
    let file = path("/contended");
    let session = client.open_session(Default::default()).await?;
    let (mut written, mut places) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let guard = session.acquire(&file, LockMode::Exclusive, Some(WAIT), |_| places += 1).await?;
        let content = format!("{name} {round} ").repeat(20);
        let options = WriteOptions::replace(guard.precondition()?);
        let receipt = client.write_bytes(&file, options, content.clone()).await?;
        written.push((guard.token().0, receipt.version, content));
        guard.release().await?;
    }
    session.close().await?;
    Ok((written, places))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_queue_for_one_file_lose_nothing_in_200_writes() {
    let world = start_world().await;
    let (one, other) = tokio::join!(
        write_under_the_lock(world.another_client().await, "one"),
        write_under_the_lock(world.another_client().await, "other"),
    );
    let ((one, places_of_one), (other, places_of_other)) = (one.unwrap(), other.unwrap());
    assert!(places_of_one > 0 && places_of_other > 0, "each had to queue, and was told its place");
    let mut by_token: Vec<_> = one.into_iter().chain(other).collect();
    by_token.sort_unstable();
    let versions: Vec<Version> = by_token.iter().map(|&(_, version, _)| version).collect();
    assert_eq!(versions, (1..=2 * ROUNDS as u64).map(Version).collect::<Vec<_>>(), "in the order of their tokens");
    assert!(by_token.windows(2).all(|pair| pair[0].0 < pair[1].0), "no token twice");
    for (_, version, content) in &by_token {
        let options = ReadOptions { version: Some(*version), ..Default::default() };
        assert_eq!(read_with(&world.client, "/contended", options).await.unwrap(), content.as_bytes());
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_appenders_lose_no_line_and_write_none_twice() {
    let world = start_world().await;
    let clients = join_all((0..16).map(|_| world.another_client())).await;
    let appenders = clients.into_iter().enumerate().map(|(who, client)| {
        tokio::spawn(async move {
            for line in 0..20 {
                let text = format!("{who} {line} {}\n", "x".repeat(who * 7));
                client.write_bytes(&path("/log"), WriteOptions::append(), text).await.unwrap();
            }
        })
    });
    try_join_all(appenders).await.unwrap();
    let log = String::from_utf8(read(&world.client, "/log").await.unwrap()).unwrap();
    let mut next: BTreeMap<usize, usize> = BTreeMap::new();
    for text in log.lines() {
        let mut words = text.split(' ');
        let mut number = || words.next().unwrap().parse::<usize>().unwrap();
        let (who, line) = (number(), number());
        assert_eq!(words.next().unwrap().len(), who * 7, "whole");
        let expected = next.entry(who).or_default();
        assert_eq!(line, *expected, "each in its own order, once");
        *expected += 1;
    }
    assert_eq!(next, (0..16).map(|who| (who, 20)).collect());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_count_right_although_others_write_without_the_lock() {
    let world = start_world().await;
    let edits = (0..4).map(|_| {
        let (client, file) = (world.client.clone(), path("/counter"));
        tokio::spawn(async move {
            for _ in 0..5 {
                let counted = client.edit(&file, Default::default(), |content, _| async move {
                    let count: u64 = String::from_utf8_lossy(&content).trim_end_matches('+').parse().unwrap_or(0);
                    Ok((count + 1).to_string().into())
                });
                counted.await.unwrap();
            }
        })
    });
    try_join_all(edits).await.unwrap();
    assert_eq!(read(&world.client, "/counter").await.unwrap(), b"20");
    let locks: Vec<_> = world.client.locks(&path("/")).try_collect().await.unwrap();
    assert!(locks.is_empty(), "nothing is left locked: {locks:?}");

    // Somebody appends between the read and the write of an edit: the edit is done again on top of it.
    let (mut rounds, file) = (0, path("/counter"));
    let edited = world.client.edit(&file, Default::default(), |content, version| {
        rounds += 1;
        let (client, first) = (world.client.clone(), rounds == 1);
        async move {
            if first {
                client.write_bytes(&path("/counter"), WriteOptions::append(), "+").await?;
            }
            Ok([&content[..], format!(" at {version}").as_bytes()].concat().into())
        }
    });
    edited.await.unwrap();
    assert_eq!((rounds, read(&world.client, "/counter").await.unwrap()), (2, b"20+ at 21".to_vec()));
    world.stop().await;
}
