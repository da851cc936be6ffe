//! Sessions and locks as a program sees them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dfs::client::{LockMode, Reason, SessionOptions, WriteOptions};
use futures::TryStreamExt;

use super::{expect_reason, path, start_world};
use crate::common::{wait_until, within_deadline};

fn a_session(ttl_ms: u64) -> SessionOptions {
    SessionOptions { ttl: Duration::from_millis(ttl_ms), client: "tester".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_as_long_as_it_is_held_and_ends_when_it_is_closed() {
    let world = start_world().await;
    let client = &world.client;
    let file = path("/kept");
    let session = client.open_session(a_session(1000)).await.unwrap();
    let guard = session.acquire(&file, LockMode::Exclusive, None, |_| {}).await.unwrap();
    // Renewed well past its first lease.
    let begun = Instant::now();
    wait_until("three leases", || async { begun.elapsed() > Duration::from_secs(3) }).await;
    guard.precondition().unwrap();
    let info = client.lock_info(&file).await.unwrap();
    assert_eq!((info.holders.len(), info.holders[0].client.as_str()), (1, "tester"));
    assert_eq!((info.holders[0].token, info.holders[0].session), (guard.token(), session.id()));

    session.clone().close().await.unwrap();
    assert!(client.lock_info(&file).await.unwrap().holders.is_empty());
    expect_reason(guard.precondition(), Reason::SessionNotFound);
    expect_reason(guard.release().await, Reason::SessionNotFound);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_is_known_before_the_next_write_and_stays_lost() {
    let mut world = start_world().await;
    let session = world.client.open_session(a_session(1000)).await.unwrap();
    let guard = session.acquire(&path("/lost"), LockMode::Exclusive, None, |_| {}).await.unwrap();
    world.lock.take().expect("it runs").stop().await;
    let error = within_deadline("the loss of the lease", session.lost()).await;
    assert_eq!((error.reason(), error.exit_code()), (Reason::SessionExpired, 5));
    assert_eq!(session.remaining(), Duration::ZERO);
    expect_reason(guard.precondition(), Reason::SessionExpired);
    expect_reason(session.check(), Reason::SessionExpired);
    drop((guard, session));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_its_place_and_is_served_in_turn() {
    let world = start_world().await;
    let file = path("/queue");
    let holder = world.client.open_session(a_session(5000)).await.unwrap();
    let guard = holder.acquire(&file, LockMode::Exclusive, None, |_| {}).await.unwrap();

    let waiting = world.another_client().await.open_session(a_session(5000)).await.unwrap();
    let refused = waiting.acquire(&file, LockMode::Exclusive, Some(Duration::ZERO), |_| {}).await;
    let error = expect_reason(refused, Reason::LockHeld);
    assert_eq!(error.exit_code(), 5);

    let places = Arc::new(Mutex::new(Vec::new()));
    let (told, queue) = (places.clone(), file.clone());
    let acquiring = tokio::spawn(async move {
        let guard = waiting.acquire(&queue, LockMode::Exclusive, None, |place| told.lock().unwrap().push(place)).await;
        (guard.map(|guard| guard.token()), waiting)
    });
    wait_until("a place in the queue", || async { !places.lock().unwrap().is_empty() }).await;
    assert_eq!(world.client.lock_info(&file).await.unwrap().waiters.len(), 1);
    let token = guard.token();
    guard.release().await.unwrap();
    let (granted, waiting) = acquiring.await.unwrap();
    assert!(granted.unwrap() > token);
    assert_eq!(places.lock().unwrap()[0].position, 1);
    assert_eq!(places.lock().unwrap()[0].holder, "tester");
    waiting.close().await.unwrap();
    holder.close().await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_holder_cannot_write_and_a_watcher_sees_it() {
    let world = start_world().await;
    let client = &world.client;
    let file = path("/broken");
    let mut watched = client.watch_lock(&file);
    assert!(within_deadline("a first look", watched.try_next()).await.unwrap().unwrap().holders.is_empty());
    let session = client.open_session(a_session(10_000)).await.unwrap();
    let guard = session.acquire(&file, LockMode::Exclusive, None, |_| {}).await.unwrap();
    let seen = async { while watched.try_next().await.unwrap().unwrap().holders.is_empty() {} };
    within_deadline("the holder", seen).await;

    let options = WriteOptions::replace(guard.precondition().unwrap());
    client.write_bytes(&file, options, "before").await.unwrap();
    assert!(client.break_lock(&file, Some(guard.token())).await.unwrap() > guard.token());
    expect_reason(client.write_bytes(&file, options, "after").await, Reason::FencingTokenStale);
    expect_reason(guard.release().await, Reason::NotLockHolder);
    assert_eq!(super::read(client, "/broken").await.unwrap(), b"before");
    session.close().await.unwrap();
    drop(watched);
    world.stop().await;
}
