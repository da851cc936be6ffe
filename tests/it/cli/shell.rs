//! The shell as a script sees it: commands through a pipe.

use crate::common::cli::start_world;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_writes_reads_and_lists_at_a_place() {
    let world = start_world().await;
    let script = "mkdir /docs\ncd docs\npwd\n<write> 'my notes'\nline one\n  \"two\"\n<end>\n<read> 'my notes'\n\
                  <list>\nappend \"my notes\"\nthree\n<end>\nversions 'my notes' -o name\n# a comment\n\n<quit>\nread /never\n";
    let ended = world.run_with(&["shell"], script).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let listed = "NAME      SIZE\nmy notes  17 B\n";
    assert_eq!(ended.out, format!("/docs\nline one\n  \"two\"\n{listed}2\n1\n"));
    assert!(
        ended.words.contains("/docs/my notes is locked for you\nwrote /docs/my notes: version 1, 17 B"),
        "{ended:?}"
    );
    assert!(!ended.words.contains("<instructions>"), "no banner: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_stops_at_its_first_error_with_its_code() {
    let world = start_world().await;
    let ended = world.run_with(&["shell"], "mkdir /a\nread /nothing\nmkdir /b\n").await;
    assert_eq!(ended.code, 3, "{ended:?}");
    assert_eq!(world.done(&["ls", "-o", "name"]).await, "a\n");
    assert_eq!(world.run_with(&["shell"], "ls 'open\n").await.code, 2);
    assert_eq!(world.run_with(&["shell"], "cd /nowhere\n").await.code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_thrown_away_is_not_written_and_the_lock_is_free() {
    let world = start_world().await;
    let ended = world.run_with(&["shell"], "write /f\nnot this\n<cancel>\nlock ls -o name\nwrite /f\nthis\n").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
    assert_eq!(world.done(&["read", "/f"]).await, "this\n");
    assert_eq!(world.json(&["stat", "/f"]).await["version"], 1);
}
