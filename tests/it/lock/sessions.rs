//! Sessions: what they cost a client that does not renew, and what is no session.

use std::time::Duration;

use dfs::{
    pb,
    status::{Failure, Reason},
    types::{Path, SessionId},
};

use super::{LONG, SHORT, start_pair};
use crate::common::{
    directory::start_directory,
    expect_bad_field, expect_failure,
    gate::Gate,
    lock::{Session, start_lock, start_lock_unready},
    wait_until,
};

#[tokio::test]
async fn it_is_ready_once_it_belongs_to_a_cluster_and_then_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = start_directory(&folder.path().join("directory"), &[]).await;
    let gate = Gate::before(&directory.address).await;
    gate.shut();
    let data = folder.path().join("lock");
    let lock = start_lock_unready(&data, &gate.address).await;
    let open = |client: &str| pb::OpenSessionRequest {
        session_id: SessionId::random().to_string(),
        ttl_ms: 0,
        client: client.to_owned(),
    };
    // Until it leads itself it says that.
    let refused = || async {
        let opened = lock.lock().open_session(open("early")).await;
        Failure::from(&opened.expect_err("it belongs to no cluster")).reason
    };
    wait_until("leading itself", || async { refused().await != Reason::NotLeader }).await;
    assert_eq!(refused().await, Reason::Unavailable);
    assert!(!lock.is_serving().await);

    gate.open();
    wait_until("serving", || async { lock.is_serving().await }).await;
    let opened = lock.lock().open_session(open("in time")).await.expect("opens").into_inner();
    assert_eq!(opened.ttl_ms, 10_000, "the default");
    let map = directory.directory().get_cluster_map(pb::GetClusterMapRequest {}).await.expect("a map").into_inner();
    let map = map.cluster_map.expect("a map");
    assert_eq!(opened.header.expect("a header").cluster_id, map.cluster_id);
    assert_eq!(
        map.lock_servers.iter().map(|server| server.address.as_str()).collect::<Vec<_>>(),
        [lock.address.as_str()]
    );
    lock.stop().await;

    gate.shut();
    let again = start_lock(&data, &gate.address).await;
    again.open(LONG, "without the Directory").await.acquire("/f").await;
    again.stop().await;
    directory.stop().await;
}

#[tokio::test]
async fn a_session_lives_by_its_renewals() {
    let pair = start_pair().await;
    let (renewed, silent) = (pair.lock.open(SHORT, "renewed").await, pair.lock.open(SHORT, "silent").await);
    let grant = renewed.acquire("/renewed").await;
    silent.acquire("/silent").await;
    for _ in 0..8 {
        tokio::time::sleep(SHORT / 4).await;
        assert_eq!(renewed.renew().await.expect("renews"), 1000);
    }
    assert_eq!(renewed.acquire("/renewed").await, grant, "renewal never changes the token");
    expect_failure(silent.renew().await, Reason::SessionExpired);
    expect_failure(silent.try_acquire("/other").await, Reason::SessionExpired);
    expect_failure(silent.release("/silent", 0).await, Reason::SessionExpired);
    expect_failure(silent.close().await, Reason::SessionExpired);
    renewed.close().await.expect("closes");
    expect_failure(renewed.renew().await, Reason::SessionNotFound);
    pair.stop().await;
}

#[tokio::test]
async fn a_waiting_session_that_expires_is_told_so() {
    let pair = start_pair().await;
    pair.lock.open(LONG, "holder").await.acquire("/f").await;
    let waiting = pair.lock.open(SHORT, "waiting").await;
    let mut asking = waiting.ask("/f").await;
    assert_eq!(asking.position().await.position, 1);
    expect_failure(asking.event().await, Reason::SessionExpired);
    assert_eq!(pair.lock.view("/f").await.waiter_count, 0);
    pair.stop().await;
}

#[tokio::test]
async fn what_is_no_session_is_refused() {
    let pair = start_pair().await;
    let mut lock = pair.lock.lock();
    let good = pb::OpenSessionRequest { session_id: SessionId::random().to_string(), ttl_ms: 5000, client: "c".into() };
    for ttl_ms in [999, 600_001, u64::MAX] {
        expect_bad_field(lock.open_session(pb::OpenSessionRequest { ttl_ms, ..good.clone() }).await, "ttl_ms");
    }
    let client = "n".repeat(256);
    expect_bad_field(lock.open_session(pb::OpenSessionRequest { client, ..good.clone() }).await, "client");
    for session_id in ["", "not a uuid", "00000000-0000-0000-0000-000000000000"] {
        let session_id = session_id.to_owned();
        expect_bad_field(lock.open_session(pb::OpenSessionRequest { session_id, ..good.clone() }).await, "session_id");
    }
    let unknown = Session { lock: lock.clone(), id: SessionId::random().to_string() };
    expect_failure(unknown.renew().await, Reason::SessionNotFound);
    expect_failure(unknown.try_acquire("/f").await, Reason::SessionNotFound);
    expect_failure(unknown.release("/f", 0).await, Reason::SessionNotFound);
    expect_failure(unknown.close().await, Reason::SessionNotFound);
    pair.stop().await;
}

#[tokio::test]
async fn what_is_no_path_mode_or_page_is_refused() {
    let pair = start_pair().await;
    let session = pair.lock.open(LONG, "a").await;
    let mut lock = pair.lock.lock();
    for path in ["", "f", "/f/", "/../f", "/\0", &format!("/{}", "n".repeat(256))] {
        assert!(path.parse::<Path>().is_err());
        expect_bad_field(session.try_acquire(path).await, "path");
        expect_bad_field(session.release(path, 0).await, "path");
        expect_bad_field(lock.get_lock(pb::GetLockRequest { path: path.into() }).await, "path");
        expect_bad_field(lock.watch_lock(pb::WatchLockRequest { path: path.into() }).await.map(|_| ()), "path");
        let list = pb::ListLocksRequest { path: path.into(), ..Default::default() };
        expect_bad_field(lock.list_locks(list).await, "path");
        let broken = pb::BreakLockRequest { path: path.into(), fencing_token: 0 };
        expect_bad_field(lock.break_lock(broken).await, "path");
    }
    for mode in [0, 3, -1] {
        let acquire = pb::AcquireLockRequest { mode, ..session.an_acquire("/f", Some(Duration::ZERO)) };
        expect_bad_field(lock.acquire_lock(acquire).await.map(|_| ()), "mode");
    }
    let list = pb::ListLocksRequest { path: "/".into(), page_size: 1, page_token: "no path".into() };
    expect_bad_field(lock.list_locks(list).await, "page_token");
    pair.stop().await;
}
