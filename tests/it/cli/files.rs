//! The story of a file: written, read, replaced, compared, brought back, and its copies looked at.

use std::fs;

use serde_json::json;

use crate::common::cli::start_world;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_versions_that_can_be_read_compared_and_restored() {
    let world = start_world().await;
    let receipt = world.json(&["write", "/f", "--text", "one\n"]).await;
    assert_eq!((&receipt["version"], &receipt["size"], &receipt["path"]), (&json!(1), &json!(4), &json!("/f")));
    assert_eq!(receipt["servers"].as_array().map(Vec::len), Some(3));
    let ended = world.run(&["write", "/f", "--text", "two\n"]).await;
    assert!(ended.words.starts_with("wrote /f: version 2, 4 B, on stable storage on 3 servers: "), "{ended:?}");

    assert_eq!(world.done(&["read", "/f"]).await, "two\n");
    assert_eq!(world.done(&["read", "/f", "--version", "1"]).await, "one\n");
    assert_eq!(world.done(&["read", "/f", "--offset", "1", "--length", "2"]).await, "wo");
    let diff = world.done(&["diff", "/f"]).await;
    assert!(diff.contains("\n-one\n+two\n"), "{diff}");

    world.done(&["write", "/tabs", "--text", "\tone\r\n"]).await;
    world.done(&["write", "/tabs", "--text", "\ttwo\r\n"]).await;
    let diff = world.done(&["diff", "/tabs"]).await;
    assert!(diff.contains("\n-\tone\r\n+\ttwo\r\n"), "as it is: {diff:?}");

    let restored = world.json(&["restore", "/f", "--version", "1"]).await;
    assert_eq!(restored["version"], 3);
    assert_eq!(world.done(&["cat", "/f"]).await, "one\n");
    let versions = world.json(&["versions", "/f"]).await;
    let numbers: Vec<_> =
        versions.as_array().expect("a list").iter().map(|version| version["version"].clone()).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(versions[0]["checksum"], versions[2]["checksum"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copies_are_read_from_each_disk() {
    let world = start_world().await;
    let receipt = world.json(&["write", "/f", "--text", "whole"]).await;
    let copies = world.json(&["explain", "/f"]).await;
    assert_eq!((&copies["goodCount"], &copies["checksum"]), (&json!(3), &receipt["checksum"]));
    let replicas = copies["replicas"].as_array().expect("a list");
    assert_eq!(replicas.len(), 3);
    for replica in replicas {
        assert_eq!((&replica["checksum"], &replica["size"]), (&receipt["checksum"], &json!(5)));
    }
    assert_eq!(replicas.iter().filter(|replica| replica["primary"] == true).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_has_no_copies_to_compare_and_says_so() {
    let world = start_world().await;
    world.done(&["write", "/f", "--text", ""]).await;
    let ended = world.run(&["replicas", "/f"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
    assert!(ended.words.contains("an empty file has no bytes"), "{ended:?}");
    assert_eq!(world.json(&["replicas", "/f"]).await["extentCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_says_what_it_is_based_on_or_waits_for_the_lock() {
    let world = start_world().await;
    world.done(&["write", "/f", "--text", "one", "--if-version", "0"]).await;
    let error = world.failure(&["write", "/f", "--text", "two", "--if-version", "0"], 4).await;
    assert_eq!((&error["reason"], &error["metadata"]["current"]), (&json!("VERSION_MISMATCH"), &json!("1")));
    assert_eq!(world.failure(&["write", "/no/f", "--text", "x"], 3).await["reason"], "ENTRY_NOT_FOUND");
    world.done(&["write", "-p", "/no/f", "--text", "x"]).await;
    assert_eq!(world.failure(&["write", "/no", "--text", "x"], 4).await["reason"], "IS_A_DIRECTORY");
    world.done(&["write", "/f", "--offset", "1", "--text", "NE!"]).await;
    world.done(&["append", "/f", "--text", "!"]).await;
    assert_eq!(world.done(&["read", "/f"]).await, "oNE!!");
    assert_eq!(
        world.failure(&["write", "/f", "--offset", "9", "--text", "x"], 2).await["reason"],
        "OFFSET_OUT_OF_RANGE"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn content_comes_from_a_pipe_or_a_file_and_goes_into_one() {
    let world = start_world().await;
    let ended = world.run_with(&["write", "/f"], "from a pipe\n").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let long: String = (0..300_000).map(|line| format!("{line}\n")).collect();
    fs::write(world.folder.path().join("long"), &long).expect("a file");
    world.done(&["write", "/f", "--from", "long"]).await;
    world.done(&["read", "/f", "--out", "copy"]).await;
    assert_eq!(fs::read_to_string(world.folder.path().join("copy")).expect("the copy"), long);
    assert_eq!(world.done(&["read", "/f", "--version", "1"]).await, "from a pipe\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_works_under_the_lock_and_on_what_was_read() {
    let world = start_world().await;
    world.done(&["write", "/f", "--text", "one\n"]).await;
    let edit = |editor: &'static str| world.command(&["edit", "/f"]).env("EDITOR", editor).output();
    assert!(edit("sed -i s/one/two/").await.expect("an end").status.success());
    assert_eq!(world.done(&["read", "/f"]).await, "two\n");
    let unchanged = edit("true").await.expect("an end");
    assert_eq!(String::from_utf8_lossy(&unchanged.stderr), "nothing was changed\n");
    assert_eq!(edit("false").await.expect("an end").status.code(), Some(1));
    assert_eq!(world.json(&["stat", "/f"]).await["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_put_and_got_whole_and_nothing_is_replaced_unasked() {
    let world = start_world().await;
    let tree = world.folder.path().join("tree");
    fs::create_dir_all(tree.join("a/empty")).expect("folders");
    fs::write(tree.join("one"), "1").expect("a file");
    fs::write(tree.join("a/two"), "22").expect("a file");

    let put = world.json(&["put", "-r", "tree", "/"]).await;
    assert_eq!(put, json!({"files": 2, "directories": 3, "bytes": 3, "failed": 0}));
    let again = world.run(&["put", "-r", "tree", "/"]).await;
    assert_eq!(again.code, 9, "{again:?}");
    assert!(again.words.contains("dfs-cli: ENTRY_EXISTS: /tree/one exists already"), "{again:?}");
    world.done(&["put", "-r", "-f", "tree", "/"]).await;
    assert_eq!(world.json(&["stat", "/tree/one"]).await["version"], 2);

    world.done(&["get", "-r", "/tree", "back"]).await;
    let back = world.folder.path().join("back");
    assert_eq!(fs::read_to_string(back.join("a/two")).expect("the file"), "22");
    assert!(back.join("a/empty").is_dir());
    assert_eq!(world.failure(&["get", "/tree/one", "back/one"], 4).await["reason"], "ENTRY_EXISTS");
    assert_eq!(world.failure(&["put", "tree", "/"], 2).await["reason"], "USAGE");
}
