//! What a restart keeps: everything that was acknowledged, and the rise of the tokens.

use dfs::pb;

use super::{LONG, SHORT, start_pair};
use crate::common::{
    lock::{Session, start_lock},
    wait_until,
};

/// The same session, on a connection to the service that was started again.
fn after_restart(session: &Session, lock: &crate::common::lock::RunningLock) -> Session {
    Session { lock: lock.lock(), id: session.id.clone() }
}

#[tokio::test]
async fn holders_places_and_tokens_survive() {
    let pair = start_pair().await;
    let (a, b, c) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await, pair.lock.open(LONG, "c").await);
    let grant = a.acquire("/f").await;
    let mut asking = b.ask("/f").await;
    asking.position().await;
    let mut behind = c.ask("/f").await;
    behind.position().await;
    let pair = pair.restart_lock().await;
    assert!(asking.event().await.is_err() && behind.event().await.is_err(), "their streams have ended");

    let [a, b, c] = [a, b, c].map(|session| after_restart(&session, &pair.lock));
    assert_eq!(a.acquire("/f").await, grant);
    // The one behind comes back first, and is still behind.
    let mut behind = c.ask("/f").await;
    assert_eq!(behind.position().await.position, 2);
    let mut asking = b.ask("/f").await;
    assert_eq!(asking.position().await.position, 1);
    a.release("/f", grant.fencing_token).await.expect("releases");
    let second = asking.grant().await;
    assert!(second.fencing_token > grant.fencing_token);
    b.close().await.expect("closes");
    assert!(behind.grant().await.fencing_token > second.fencing_token);
    pair.stop().await;
}

#[tokio::test]
async fn a_fence_that_was_pending_is_raised_after_the_restart() {
    let pair = start_pair().await;
    let expiring = pair.lock.open(SHORT, "expiring").await;
    let lost = expiring.acquire("/f").await.fencing_token;
    pair.gate.shut();
    wait_until("expired", || async { pair.lock.view("/f").await.pending_fence != 0 }).await;
    let pair = pair.restart_lock().await;
    let next = pair.lock.open(LONG, "next").await;
    let mut asking = next.ask("/f").await;
    assert_eq!(asking.position().await.position, 1);
    let fence = pair.lock.view("/f").await.pending_fence;
    assert!(fence > lost);
    pair.gate.open();
    assert!(asking.grant().await.fencing_token > fence);
    pair.stop().await;
}

#[tokio::test]
async fn who_does_not_come_back_loses_the_place_and_a_silent_session_its_locks() {
    let pair = start_pair().await;
    let silent = pair.lock.open(SHORT, "silent").await;
    silent.acquire("/f").await;
    let gone = pair.lock.open(LONG, "gone").await;
    drop(gone.ask("/f").await);
    pair.lock.wait_until_waiting("/f", 1).await;
    let pair = pair.restart_lock().await;
    let last = pair.lock.open(LONG, "last").await;
    last.acquire("/f").await;
    pair.stop().await;
}

#[tokio::test]
async fn a_service_that_lost_its_folder_grants_tokens_above_those_that_the_directory_has_seen() {
    let pair = start_pair().await;
    let session = pair.lock.open(LONG, "before").await;
    for number in 0..5 {
        session.acquire(&format!("/{number}")).await;
    }
    let request = pb::BreakLockRequest { path: "/4".to_owned(), ..Default::default() };
    let fence = pair.lock.lock().break_lock(request).await.expect("broken").into_inner().fencing_token;

    let super::Pair { folder, directory, gate, lock } = pair;
    lock.stop().await;
    let data = folder.path().join("lock");
    std::fs::remove_dir_all(&data).expect("wiped");
    let lock = start_lock(&data, &gate.address).await;
    let granted = lock.open(LONG, "after").await.acquire("/4").await.fencing_token;
    assert!(granted > fence, "{granted} would be refused: {fence} has been seen");
    super::Pair { folder, directory, gate, lock }.stop().await;
}
