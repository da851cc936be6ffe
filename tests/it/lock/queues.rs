//! Who has a lock, who is next, and what a client that was cut off finds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dfs::{pb, status::Reason};
use tokio::task::JoinSet;

use super::{LONG, start_pair};
use crate::common::{expect_bad_field, expect_failure, within_deadline};

#[tokio::test]
async fn positions_are_told_and_the_grant_follows_the_release_at_once() {
    let pair = start_pair().await;
    let (a, b, c) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await, pair.lock.open(LONG, "c").await);
    let first = a.acquire("/f").await;
    assert_eq!((first.path.as_str(), first.mode()), ("/f", pb::LockMode::Exclusive));
    let mut second = b.ask("/f").await;
    assert_eq!(second.position().await, pb::QueuePosition { position: 1, waiters: 1, holder: "a".into() });
    let mut third = c.ask("/f").await;
    assert_eq!(third.position().await, pb::QueuePosition { position: 2, waiters: 2, holder: "a".into() });

    let released = Instant::now();
    a.release("/f", first.fencing_token).await.expect("releases");
    let second = second.grant().await;
    assert!(released.elapsed() < Duration::from_secs(1), "nobody polls");
    assert!(second.fencing_token > first.fencing_token);
    assert_eq!(third.position().await, pb::QueuePosition { position: 1, waiters: 1, holder: "b".into() });
    b.close().await.expect("closes");
    assert!(third.grant().await.fencing_token > second.fencing_token);
    pair.stop().await;
}

#[tokio::test]
async fn a_wait_that_is_over_says_who_holds_and_leaves_the_queue() {
    let pair = start_pair().await;
    let (a, b) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await);
    a.acquire("/f").await;
    let failure = expect_failure(b.try_acquire("/f").await, Reason::LockHeld);
    assert_eq!((failure.metadata["holder"].as_str(), failure.metadata["position"].as_str()), ("a", "1"));
    let failure = expect_failure(b.acquire_within("/f", Duration::from_millis(50)).await, Reason::LockHeld);
    assert_eq!((failure.metadata["holder"].as_str(), failure.metadata["position"].as_str()), ("a", "1"));
    assert_eq!(pair.lock.view("/f").await.waiter_count, 0);
    pair.stop().await;
}

#[tokio::test]
async fn only_the_holder_releases_and_only_what_it_holds() {
    let pair = start_pair().await;
    let (holder, stranger) = (pair.lock.open(LONG, "holder").await, pair.lock.open(LONG, "stranger").await);
    let token = holder.acquire("/f").await.fencing_token;
    expect_failure(stranger.release("/f", 0).await, Reason::NotLockHolder);
    expect_failure(stranger.release("/f", token).await, Reason::NotLockHolder);
    expect_failure(holder.release("/f", token ^ 1).await, Reason::NotLockHolder);
    expect_failure(holder.release("/unlocked", 0).await, Reason::NotLockHolder);
    let break_it = |fencing_token| pb::BreakLockRequest { path: "/f".into(), fencing_token };
    expect_failure(pair.lock.lock().break_lock(break_it(token ^ 1)).await, Reason::NotLockHolder);
    assert_eq!(pair.lock.view("/f").await.holders[0].fencing_token, token, "all that changed nothing");
    holder.release("/f", token).await.expect("releases");
    expect_failure(holder.release("/f", token).await, Reason::NotLockHolder);
    pair.stop().await;
}

#[tokio::test]
async fn shared_holders_stand_together_and_queue_fairly() {
    let pair = start_pair().await;
    let sessions = [pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await, pair.lock.open(LONG, "c").await];
    let shared = |index: usize| {
        let session = &sessions[index];
        let request = pb::AcquireLockRequest { mode: pb::LockMode::Shared.into(), ..session.an_acquire("/f", None) };
        (session.lock.clone(), request)
    };
    for index in [0, 1] {
        let (mut lock, request) = shared(index);
        let mut granted = lock.acquire_lock(request).await.expect("may ask").into_inner();
        granted.message().await.expect("granted");
    }
    let upgrade = sessions[0].an_acquire("/f", None);
    expect_bad_field(sessions[0].lock.clone().acquire_lock(upgrade).await.map(|_| ()), "mode");
    let mut exclusive = sessions[2].ask("/f").await;
    exclusive.position().await;
    let late = pair.lock.open(LONG, "late").await;
    let request =
        pb::AcquireLockRequest { mode: pb::LockMode::Shared.into(), ..late.an_acquire("/f", Some(Duration::ZERO)) };
    expect_failure(late.lock.clone().acquire_lock(request).await.map(|_| ()), Reason::LockHeld);
    sessions[0].release("/f", 0).await.expect("releases");
    sessions[1].release("/f", 0).await.expect("releases");
    exclusive.grant().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_client_that_was_cut_off_keeps_its_place() {
    let pair = start_pair().await;
    let (a, b, c) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await, pair.lock.open(LONG, "c").await);
    a.acquire("/f").await;
    let mut cut_off = b.ask("/f").await;
    cut_off.position().await;
    let mut behind = c.ask("/f").await;
    assert_eq!(behind.position().await.position, 2);
    drop(cut_off);
    let mut again = b.ask("/f").await;
    assert_eq!(again.position().await.position, 1);
    a.release("/f", 0).await.expect("releases");
    again.grant().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_client_that_is_gone_loses_its_place_after_a_while() {
    let pair = start_pair().await;
    let (a, b, c) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await, pair.lock.open(LONG, "c").await);
    a.acquire("/f").await;
    let mut gone = b.ask("/f").await;
    gone.position().await;
    let mut behind = c.ask("/f").await;
    assert_eq!(behind.position().await.position, 2);
    drop(gone);
    assert_eq!(behind.position().await.position, 1);
    pair.stop().await;
}

#[tokio::test]
async fn a_grant_that_nobody_received_waits_for_its_client_and_then_passes_on() {
    let pair = start_pair().await;
    let (a, b, c) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await, pair.lock.open(LONG, "c").await);
    for comes_back in [true, false] {
        a.acquire("/f").await;
        drop(b.ask("/f").await);
        let behind = c.ask("/f").await;
        a.release("/f", 0).await.expect("releases");
        if comes_back {
            let grant = b.acquire("/f").await;
            assert_eq!(pair.lock.view("/f").await.holders[0].fencing_token, grant.fencing_token);
            b.release("/f", grant.fencing_token).await.expect("still holds it");
        }
        let grant = behind.grant().await;
        c.release("/f", grant.fencing_token).await.expect("releases");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_received_grant_is_kept_when_its_call_is_long_gone() {
    let pair = start_pair().await;
    let (a, b) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await);
    let grant = a.acquire("/f").await;
    // Longer than the grace of a grant that nobody received.
    expect_failure(b.acquire_within("/f", Duration::from_secs(4)).await, Reason::LockHeld);
    assert_eq!(a.acquire("/f").await, grant);
    pair.stop().await;
}

#[tokio::test]
async fn two_calls_of_one_session_share_the_place() {
    let pair = start_pair().await;
    let (a, b) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await);
    a.acquire("/f").await;
    let mut patient = b.ask("/f").await;
    patient.position().await;
    expect_failure(b.acquire_within("/f", Duration::from_millis(50)).await, Reason::LockHeld);
    a.release("/f", 0).await.expect("releases");
    patient.grant().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_lock_is_watched_and_listed() {
    let pair = start_pair().await;
    let (a, b) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await);
    let mut lock = pair.lock.lock();
    let watch = pb::WatchLockRequest { path: "/dir/f".into() };
    let mut watched = lock.watch_lock(watch).await.expect("watches").into_inner();
    let mut next = async || {
        let message = within_deadline("a change", watched.message()).await.expect("the watch goes on");
        message.expect("the watch goes on").lock.expect("a lock")
    };
    assert_eq!((next().await.holder_count, a.id.is_empty()), (0, false));
    let grant = a.acquire("/dir/f").await;
    let seen = next().await;
    assert_eq!((seen.holders[0].client.as_str(), seen.holders[0].fencing_token), ("a", grant.fencing_token));
    assert!(seen.holders[0].lease_remaining_ms > 100_000 && seen.holders[0].session_id == a.id);
    let mut asking = b.ask("/dir/f").await;
    asking.position().await;
    let seen = next().await;
    assert_eq!((seen.waiters[0].client.as_str(), seen.waiters[0].position, seen.waiter_count), ("b", 1, 1));

    a.acquire("/dir/g").await;
    a.acquire("/else").await;
    let list = |page_token: String| pb::ListLocksRequest { path: "/dir".into(), page_size: 1, page_token };
    let first = lock.list_locks(list(String::new())).await.expect("a page").into_inner();
    assert_eq!(first.locks[0].path, "/dir/f");
    let second = lock.list_locks(list(first.next_page_token)).await.expect("a page").into_inner();
    assert_eq!((second.locks[0].path.as_str(), second.next_page_token.as_str()), ("/dir/g", ""));
    pair.stop().await;
}

/// Many clients, one lock, as fast as they can: nobody is ever in beside another, and tokens rise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_contention_there_is_one_holder_at_a_time() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 25;
    let pair = start_pair().await;
    let inside = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let session = pair.lock.open(LONG, &number.to_string()).await;
        let inside = inside.clone();
        clients.spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..ROUNDS {
                let token = session.acquire("/f").await.fencing_token;
                assert!(!inside.swap(true, Ordering::SeqCst), "two are in");
                tokio::task::yield_now().await;
                tokens.push(token);
                assert!(inside.swap(false, Ordering::SeqCst));
                session.release("/f", token).await.expect("releases");
            }
            tokens
        });
    }
    let mut all = Vec::new();
    while let Some(tokens) = clients.join_next().await {
        let tokens = tokens.expect("no panic");
        assert!(tokens.is_sorted());
        all.extend(tokens);
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), CLIENTS * ROUNDS, "every grant has a token of its own");
    pair.stop().await;
}
