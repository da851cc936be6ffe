//! Directories, listings, moves, deletes, and what is said about the cluster.

use serde_json::json;

use crate::common::cli::start_world;

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_listed_moved_copied_and_deleted() {
    let world = start_world().await;
    world.done(&["mkdir", "-p", "/a/b"]).await;
    world.done(&["write", "/a/f", "--text", "12345"]).await;
    let listed = world.json(&["ls", "-r", "/"]).await;
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["a", "a/b", "a/f"]);
    assert_eq!((&listed[2]["size"], &listed[2]["kind"], &listed[2]["version"]), (&json!(5), &json!("file"), &json!(1)));
    assert!(listed[2]["modifyTime"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(world.done(&["ls", "/a"]).await, "NAME  SIZE\nb/       -\nf      5 B\n");
    assert_eq!(world.done(&["tree", "/a"]).await, "/a\n  b/\n  f  5 B\n");
    assert_eq!(world.done(&["ls", "/a", "-o", "name"]).await, "b\nf\n");
    assert_eq!(world.run(&["tree", "/a/f"]).await.out, "", "a file is no tree");

    world.done(&["cp", "/a/f", "/a/b"]).await;
    assert_eq!(world.failure(&["mv", "/a/f", "/a/b/f"], 4).await["reason"], "ENTRY_EXISTS");
    world.done(&["mv", "-f", "/a/f", "/a/b/f"]).await;
    assert_eq!(world.failure(&["read", "/a/f"], 3).await["reason"], "ENTRY_NOT_FOUND");
    assert_eq!(world.failure(&["mv", "/a", "/a/b"], 2).await["reason"], "BAD_ARGUMENT");

    assert_eq!(world.failure(&["rm", "/a"], 4).await["reason"], "DIRECTORY_NOT_EMPTY");
    assert_eq!(world.failure(&["rm", "-r", "/a"], 2).await["reason"], "USAGE");
    world.done(&["rm", "-r", "-n", "/a"]).await;
    let deleted = world.json(&["rm", "-r", "-y", "/a"]).await;
    assert_eq!(deleted, json!([{"path": "/a", "entries": 3}]));
    assert_eq!(world.json(&["ls"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_can_be_looked_at() {
    let world = start_world().await;
    let first = world.json(&["write", "/f", "--text", "one"]).await;
    world.done(&["write", "/f", "--text", "two"]).await;
    world.done(&["rm", "/f"]).await;
    let revision = first["revision"].to_string();
    assert_eq!(world.done(&["read", "/f", "--at", &revision]).await, "one");
    assert_eq!(world.json(&["ls", "--at", &revision]).await[0]["name"], "f");
    let changes = world.done(&["watch", "/", "--after", "0", "--count", "3", "-o", "jsonl"]).await;
    let kinds: Vec<String> = changes
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object")["kind"].to_string())
        .collect();
    assert_eq!(kinds, ["\"created\"", "\"written\"", "\"deleted\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_says_how_it_is() {
    let world = start_world().await;
    let status = world.json(&["status"]).await;
    // How full this machine's disk is makes it a warning, and is nothing that a test can ask for.
    assert_ne!(status["health"], "ERROR", "{status}");
    assert_eq!(
        (&status["serverUpCount"], &status["groupFullCount"], &status["copies"]),
        (&json!(3), &json!(4), &json!(3))
    );
    let servers = world.json(&["servers", "ls"]).await;
    let kinds: Vec<_> = servers.as_array().expect("a list").iter().map(|server| server["kind"].clone()).collect();
    assert_eq!(kinds, ["directory", "lock", "fileserver", "fileserver", "fileserver"]);
    assert_eq!(world.json(&["groups"]).await.as_array().map(Vec::len), Some(4));
    assert_eq!(world.json(&["groups", "--short"]).await, json!([]));
    let pings = world.json(&["ping"]).await;
    assert!(pings.as_array().expect("a list").iter().all(|ping| ping["millis"].is_number()), "{pings}");
    world.done(&["ready", "--wait", "10s"]).await;
    world.done(&["healthcheck", &world.cluster.directory.address, "--service", "dfs.v1.Directory"]).await;
    let unknown = world.run(&["healthcheck", "--addr", &world.lock.address, "--service", "dfs.v1.Directory"]).await;
    assert_eq!(unknown.code, 3, "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_command_is_in_its_exit_code() {
    let world = start_world().await;
    for (arguments, code, reason) in [
        (&["read"][..], 2, "USAGE"),
        (&["frobnicate"], 2, "USAGE"),
        (&["read", &format!("/{}", "n".repeat(256))], 2, "BAD_PATH"),
        (&["read", "/f"], 3, "ENTRY_NOT_FOUND"),
        (&["versions", "/"], 4, "IS_A_DIRECTORY"),
        (&["--timeout", "300ms", "--directory", "127.0.0.1:1", "ls"], 6, "UNAVAILABLE"),
        (&["ready", "--directory", "127.0.0.1:1", "--timeout", "300ms"], 10, "UNHEALTHY"),
    ] {
        let ended = world.run(arguments).await;
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert!(ended.words.starts_with(&format!("dfs-cli: {reason}: ")), "{arguments:?}: {ended:?}");
        assert_eq!(ended.words.lines().count(), 1, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_told_of_mistakes_in_json_too() {
    let world = start_world().await;
    for arguments in [
        &["frobnicate", "-o", "json"][..],
        &["read", "--output=json"],
        &["ls", "-o", "json", "--timeout", "soon"],
        &["ls", "-o", "json", "--config", "no-such-file"],
    ] {
        let ended = world.run(arguments).await;
        let error: serde_json::Value = serde_json::from_str(&ended.words).unwrap_or_else(|_| panic!("{ended:?}"));
        assert_eq!(error["exitCode"], ended.code, "{ended:?}");
        assert_ne!(ended.code, 0);
    }
    let by_variable = world.command(&["frobnicate"]).env("DFS_OUTPUT", "json").output().await.expect("an end");
    assert!(serde_json::from_slice::<serde_json::Value>(&by_variable.stderr).is_ok(), "{by_variable:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_ready_is_not_waited_for() {
    let world = start_world().await;
    let error = world.failure(&["ready", "--wait", "1h", "--directory", "no host"], 2).await;
    assert_eq!(error["reason"], "BAD_ARGUMENT");
    world.done(&["healthcheck"]).await;
    assert_eq!(world.run(&["healthcheck", "--nonsense"]).await.code, 1);
}
