//! Locks from the command line: lent to a command, taken and given back, waited for, broken.

use serde_json::json;

use crate::common::{
    cli::{World, end_of, start_world},
    wait_until,
};

/// What Ctrl-C sends.
fn interrupt(process: &tokio::process::Child) {
    let pid = rustix::process::Pid::from_raw(process.id().expect("it runs") as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_under_a_lock_that_is_lent_to_it() {
    let world = start_world().await;
    let script = format!("'{}' write /f --text lent && exit 7", env!("CARGO_BIN_EXE_dfs-cli"));
    let ended = world.run(&["lock", "run", "/f", "--", "sh", "-c", &script]).await;
    assert_eq!(ended.code, 7, "the command's own code: {ended:?}");
    assert_eq!(world.done(&["read", "/f"]).await, "lent");
    let lock = world.json(&["lock", "info", "/f"]).await;
    assert_eq!((&lock["holderCount"], &lock["waiterCount"]), (&json!(0), &json!(0)), "given back: {lock}");
    assert_eq!(world.failure(&["lock", "run", "/f", "--", "no-such-program"], 127).await["reason"], "LOCAL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_taken_by_hand_and_only_its_session_releases_it() {
    let world = start_world().await;
    let grant = world.json(&["lock", "acquire", "/f", "--ttl", "60s"]).await;
    let (session, token) = (grant["session"].as_str().expect("a session"), grant["fencingToken"].to_string());

    let error = world.failure(&["write", "/f", "--text", "x", "--wait", "0s"], 5).await;
    assert_eq!(error["reason"], "LOCK_HELD");
    let written = world.command(&["write", "/f", "--text", "mine"]).env("DFS_LOCK_TOKEN", &token).output().await;
    assert!(written.expect("an end").status.success());
    let stranger = "11111111-2222-4333-8444-555555555555";
    assert_eq!(world.run(&["lock", "release", "/f", "--session", stranger]).await.code, 3);
    let locks = world.json(&["lock", "ls"]).await;
    assert_eq!((&locks[0]["path"], &locks[0]["holders"][0]["session"]), (&json!("/f"), &json!(session)));

    world.done(&["lock", "release", "/f", "--session", session, "--token", &token]).await;
    assert_eq!(world.json(&["lock", "ls"]).await, json!([]));
    world.done(&["write", "/f", "--text", "free", "--wait", "0s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lock_writes_no_more() {
    let world = start_world().await;
    let token = world.json(&["lock", "acquire", "/f"]).await["fencingToken"].to_string();
    let broken = world.json(&["lock", "break", "/f"]).await;
    assert!(broken["fencingToken"].as_u64() > token.parse().ok());
    let written = world.command(&["write", "/f", "--text", "late"]).env("DFS_LOCK_TOKEN", &token).output().await;
    let written = written.expect("an end");
    assert_eq!(written.status.code(), Some(5), "{written:?}");
    assert!(String::from_utf8_lossy(&written.stderr).starts_with("dfs-cli: FENCING_TOKEN_STALE: "), "{written:?}");
    assert_eq!(world.run(&["lock", "break", "/f"]).await.code, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_waits_in_line_and_says_where() {
    let world = start_world().await;
    let grant = world.json(&["lock", "acquire", "/f", "--ttl", "60s"]).await;
    let waiting = world.command(&["write", "/f", "--text", "at last"]).spawn().expect("dfs-cli");
    world.lock.wait_until_waiting("/f", 1).await;
    world.done(&["lock", "release", "/f", "--session", grant["session"].as_str().expect("a session")]).await;
    let ended = end_of(waiting).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.words.starts_with("waiting for the lock: position 1 of 1, held by tester@"), "{ended:?}");
    assert_eq!(world.done(&["read", "/f"]).await, "at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_waiting_leaves_the_line_at_once() {
    let world = start_world().await;
    world.done(&["lock", "acquire", "/f", "--ttl", "60s"]).await;
    let waiting = world.command(&["write", "/f", "--text", "never"]).spawn().expect("dfs-cli");
    world.lock.wait_until_waiting("/f", 1).await;
    interrupt(&waiting);
    assert_eq!(end_of(waiting).await.code, 130);
    assert_eq!(world.json(&["lock", "info", "/f"]).await["waiterCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_ended_when_its_lease_is_lost() {
    let world = start_world().await;
    let command = [
        "lock",
        "run",
        "--ttl",
        "1s",
        "/f",
        "--",
        "sh",
        "-c",
        "trap 'echo told; exit 3' TERM; while :; do sleep 0.05; done",
    ];
    let running = world.command(&command).spawn().expect("dfs-cli");
    wait_until("the lock", || async { world.lock.view("/f").await.holder_count == 1 }).await;
    let World { lock, cluster: _cluster, .. } = world;
    lock.stop().await;
    let ended = end_of(running).await;
    assert_eq!((ended.code, ended.out.as_str()), (5, "told\n"), "{ended:?}");
    assert!(ended.words.contains("dfs-cli: SESSION_EXPIRED: the lease on /f was lost"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_works_under_a_lock_that_is_lent_to_it() {
    let world = start_world().await;
    world.done(&["write", "/f", "--text", "one"]).await;
    let edit = format!("EDITOR='sed -i s/one/two/' '{}' edit /f --wait 0s", env!("CARGO_BIN_EXE_dfs-cli"));
    world.done(&["lock", "run", "/f", "--", "sh", "-c", &edit]).await;
    assert_eq!(world.done(&["read", "/f"]).await, "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_waits_in_line_can_be_given_up() {
    let world = start_world().await;
    world.done(&["lock", "acquire", "/f", "--ttl", "60s"]).await;
    let waiting = world.command(&["edit", "/f"]).env("EDITOR", "true").spawn().expect("dfs-cli");
    world.lock.wait_until_waiting("/f", 1).await;
    interrupt(&waiting);
    assert_eq!(end_of(waiting).await.code, 130);
    assert_eq!(world.json(&["lock", "info", "/f"]).await["waiterCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_that_runs_is_not_ended_by_the_terminals_signal() {
    let world = start_world().await;
    let started = world.folder.path().join("started");
    let script = "sh -c 'echo typed > \"$0\"; touch started; while [ -e started ]; do sleep 0.05; done'";
    let editing = world.command(&["edit", "/f"]).env("EDITOR", script).spawn().expect("dfs-cli");
    wait_until("the editor", || async { started.exists() }).await;
    interrupt(&editing);
    std::fs::remove_file(&started).expect("the editor's file");
    assert_eq!(end_of(editing).await.code, 0);
    assert_eq!(world.done(&["read", "/f"]).await, "typed\n");
}
