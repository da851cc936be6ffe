//! A lock that the storage enforces: what a holder that lost its lock can still commit (nothing).

use std::time::Duration;

use dfs::{
    pb,
    status::{Failure, Reason},
};

use super::{LONG, SHORT, start_pair};
use crate::common::{
    directory::start_directory,
    expect_failure,
    fake_fileserver::{FakePrimary, start_three},
    lock::start_lock,
    wait_until, within_deadline,
};

/// What a write under this token is refused for; `None` if it is committed.
async fn commit(primary: &mut FakePrimary, path: &str, token: u64) -> Option<Failure> {
    let precondition = Some(pb::Precondition { fencing_token: Some(token), if_version: None });
    let commit = pb::WriteCommit { precondition, ..primary.a_commit(path, b"data") };
    primary.commit(commit).await.err().map(Failure::from)
}

#[tokio::test]
async fn once_the_next_is_granted_an_expired_holder_commits_nothing() {
    let pair = start_pair().await;
    let _servers = start_three(&pair.directory).await;
    let mut primary = FakePrimary::new(&pair.directory).await;
    let expiring = pair.lock.open(SHORT, "expiring").await;
    let lost = expiring.acquire("/f").await.fencing_token;
    assert_eq!(commit(&mut primary, "/f", lost).await, None);
    let next = pair.lock.open(LONG, "next").await;
    let granted = next.acquire("/f").await.fencing_token;
    let refused = commit(&mut primary, "/f", lost).await.expect("the new holder has written nothing yet");
    assert_eq!(refused.reason, Reason::FencingTokenStale, "{refused}");
    assert_eq!(commit(&mut primary, "/f", granted).await, None);
    pair.stop().await;
}

#[tokio::test]
async fn a_grant_behind_an_expiry_waits_for_the_directory() {
    let pair = start_pair().await;
    let expiring = pair.lock.open(SHORT, "expiring").await;
    let lost = expiring.acquire("/f").await.fencing_token;
    let next = pair.lock.open(LONG, "next").await;
    let mut asking = next.ask("/f").await;
    assert_eq!(asking.position().await.holder, "expiring");
    pair.gate.shut();
    assert_eq!(asking.position().await, pb::QueuePosition { position: 1, waiters: 1, holder: String::new() });
    let view = pair.lock.view("/f").await;
    assert!(view.pending_fence > lost && view.holder_count == 0);
    let early = tokio::time::timeout(Duration::from_millis(300), asking.event()).await;
    assert!(early.is_err(), "granted without the fence: {early:?}");
    pair.gate.open();
    assert!(asking.grant().await.fencing_token > view.pending_fence);
    assert_eq!(pair.lock.view("/f").await.pending_fence, 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_clean_release_needs_no_directory() {
    let pair = start_pair().await;
    let (a, b) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await);
    a.acquire("/f").await;
    let mut asking = b.ask("/f").await;
    asking.position().await;
    pair.gate.shut();
    a.release("/f", 0).await.expect("releases");
    asking.grant().await;
    pair.gate.open();
    pair.stop().await;
}

#[tokio::test]
async fn a_break_answers_when_the_broken_holder_can_commit_nothing() {
    let pair = start_pair().await;
    let _servers = start_three(&pair.directory).await;
    let mut primary = FakePrimary::new(&pair.directory).await;
    let (a, b) = (pair.lock.open(LONG, "a").await, pair.lock.open(LONG, "b").await);
    let lost = a.acquire("/f").await.fencing_token;
    let mut asking = b.ask("/f").await;
    asking.position().await;
    let request = pb::BreakLockRequest { path: "/f".into(), fencing_token: lost };
    let broken = pair.lock.lock().break_lock(request.clone()).await.expect("breaks").into_inner();
    assert!(broken.fencing_token > lost);
    let refused = commit(&mut primary, "/f", lost).await.expect("fenced");
    assert_eq!(refused.reason, Reason::FencingTokenStale, "{refused}");
    assert!(asking.grant().await.fencing_token > broken.fencing_token);
    expect_failure(a.release("/f", lost).await, Reason::NotLockHolder);
    expect_failure(pair.lock.lock().break_lock(request).await, Reason::NotLockHolder);
    assert_eq!(a.renew().await.expect("the session goes on"), LONG.as_millis() as u64);
    pair.stop().await;
}

#[tokio::test]
async fn a_break_does_not_answer_before_the_directory_has_it() {
    let pair = start_pair().await;
    let a = pair.lock.open(LONG, "a").await;
    a.acquire("/f").await;
    pair.gate.shut();
    let mut lock = pair.lock.lock();
    let breaking =
        tokio::spawn(
            async move { lock.break_lock(pb::BreakLockRequest { path: "/f".into(), fencing_token: 0 }).await },
        );
    wait_until("broken", || async { pair.lock.view("/f").await.pending_fence != 0 }).await;
    assert_eq!(pair.lock.view("/f").await.holder_count, 0, "the holder is out");
    assert!(!breaking.is_finished());
    pair.gate.open();
    let broken = within_deadline("the break", breaking).await.expect("no panic").expect("breaks").into_inner();
    assert!(broken.fencing_token > 0);
    let nothing = pb::BreakLockRequest { path: "/f".into(), fencing_token: 0 };
    expect_failure(pair.lock.lock().break_lock(nothing).await, Reason::NotLockHolder);
    pair.stop().await;
}

/// A wrong address in the configuration must not let anybody in.
#[tokio::test]
async fn the_directory_of_another_cluster_cannot_let_a_lock_pass_on() {
    let pair = start_pair().await;
    let other = start_directory(&pair.folder.path().join("other"), &[]).await;
    pair.lock.stop().await;
    let lost = start_lock(&pair.folder.path().join("lock"), &other.address).await;
    lost.open(SHORT, "expiring").await.acquire("/f").await;
    let mut asking = lost.open(LONG, "next").await.ask("/f").await;
    assert_eq!(asking.position().await.holder, "expiring");
    assert_eq!(asking.position().await.holder, "");
    let early = tokio::time::timeout(Duration::from_millis(500), asking.event()).await;
    assert!(early.is_err(), "granted on a stranger's word: {early:?}");
    let map = other.directory().get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map").into_inner();
    assert_eq!(map.cluster_map.expect("a map").lock_servers, []);
    lost.stop().await;
    other.stop().await;
    pair.directory.stop().await;
}
