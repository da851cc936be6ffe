//! Several things in one command: what fails is told, the others go on, and the exit code says which of the two it was.

use std::fs;

use serde_json::{Value, json};

use crate::common::cli::{Ended, World, start_world};

/// The objects that programs find on stderr, a line each.
fn told(ended: &Ended) -> Vec<Value> {
    ended.words.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{ended:?}"))).collect()
}

async fn programs(world: &World, arguments: &[&str]) -> Ended {
    world.run(&[&["-o", "json"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_among_many_is_told_and_the_others_go_on() {
    let world = start_world().await;
    for file in ["/a", "/b", "/c", "/d"] {
        world.done(&["write", file, "--text", file]).await;
    }
    let read = world.run(&["read", "/a", "/none", "/b"]).await;
    assert_eq!((read.code, read.out.as_str()), (9, "/a/b"), "{read:?}");
    assert!(read.words.starts_with("dfs-cli: ENTRY_NOT_FOUND: /none does not exist"), "{read:?}");
    assert!(read.words.contains("\ndfs-cli: PARTIAL: 1 of 3 could not be done"), "{read:?}");

    let sums = programs(&world, &["checksum", "/none", "/a", "/b"]).await;
    let rows: Value = serde_json::from_str(&sums.out).expect("a list");
    assert_eq!((sums.code, rows.as_array().map(Vec::len)), (9, Some(2)), "{sums:?}");
    let told_of = told(&sums);
    assert_eq!((&told_of[0]["subject"], &told_of[0]["exitCode"]), (&json!("/none"), &json!(3)));
    assert_eq!(told_of[1]["reason"], "PARTIAL");

    let made = programs(&world, &["mkdir", "/a", "/x", "/none/y"]).await;
    assert_eq!(made.code, 9, "{made:?}");
    assert_eq!(serde_json::from_str::<Value>(&made.out).expect("a list")[0]["path"], "/x");

    let deleted = programs(&world, &["rm", "/none", "/a", "/b"]).await;
    assert_eq!(deleted.code, 9, "{deleted:?}");
    let expected = json!([{"path": "/a", "entries": 1}, {"path": "/b", "entries": 1}]);
    assert_eq!(serde_json::from_str::<Value>(&deleted.out).expect("a list"), expected);

    let asked = world.run(&["rm", "-r", "/c", "/x"]).await;
    assert_eq!(asked.code, 2, "nobody can be asked: {asked:?}");
    world.done(&["read", "/c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_of_many_fail_the_code_is_theirs() {
    let world = start_world().await;
    for command in ["read", "checksum", "rm"] {
        let ended = world.run(&[command, "/no", "/nothing"]).await;
        assert_eq!((ended.code, ended.out.as_str()), (3, ""), "{command}: {ended:?}");
        assert_eq!(ended.words.lines().count(), 2, "{command}: {ended:?}");
    }
    assert_eq!(world.run(&["mkdir", "/no/a", "/no/b"]).await.code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_go_on_without_a_source_that_is_not_there() {
    let world = start_world().await;
    fs::write(world.folder.path().join("one"), "1").expect("a file");
    let put = programs(&world, &["put", "none", "one", "/into/"]).await;
    assert_eq!(put.code, 9, "{put:?}");
    let tally = json!({"files": 1, "directories": 0, "bytes": 1, "failed": 1});
    assert_eq!(serde_json::from_str::<Value>(&put.out).expect("a tally"), tally);
    fs::create_dir(world.folder.path().join("back")).expect("a folder");
    let got = programs(&world, &["get", "/none", "/into/one", "back"]).await;
    assert_eq!(got.code, 9, "{got:?}");
    assert_eq!(serde_json::from_str::<Value>(&got.out).expect("a tally"), tally);
    assert_eq!(fs::read_to_string(world.folder.path().join("back/one")).expect("the file"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_has_one_shape_for_programs_however_many_files_it_has() {
    let world = start_world().await;
    fs::write(world.folder.path().join("one"), "1").expect("a file");
    fs::write(world.folder.path().join("two"), "22").expect("a file");
    let one = world.json(&["put", "one", "/one"]).await;
    assert_eq!(one, json!({"files": 1, "directories": 0, "bytes": 1, "failed": 0}));
    assert_eq!(world.done(&["put", "-o", "name", "one", "two", "/into/"]).await, "/into/one\n/into/two\n");
    let said = world.run(&["put", "-f", "one", "/one"]).await;
    assert!(said.words.starts_with("put /one: version 2, 1 B, on stable storage on 3 servers: "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_name_is_no_text_is_put_under_one_that_is() {
    use std::os::unix::ffi::OsStrExt;
    let world = start_world().await;
    let name = std::ffi::OsStr::from_bytes(b"bad\xff");
    fs::write(world.folder.path().join(name), "content").expect("a file");
    let put = world.command(&["put"]).arg(name).arg("/good").output().await.expect("an end");
    assert!(put.status.success(), "{put:?}");
    assert_eq!(world.done(&["read", "/good"]).await, "content");
    let unnamed = world.command(&["put"]).arg(name).arg("/").output().await.expect("an end");
    assert_eq!(unnamed.status.code(), Some(2), "{unnamed:?}");
}
