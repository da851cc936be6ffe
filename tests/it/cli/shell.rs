//! The shell as a script sees it: commands through a pipe.

use crate::common::{
    cli::{World, end_of, start_world},
    terminal::Terminal,
};

async fn start_at_terminal(world: &World) -> Terminal {
    let terminal = Terminal::start(world.command(&["shell"]));
    terminal.wait_until_shown("dfs:/> ").await;
    terminal
}

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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pasted_at_once_is_all_taken() {
    let world = start_world().await;
    let long: String = (0..500).map(|line| format!("line {line}\r")).collect();
    let mut terminal = start_at_terminal(&world).await;
    terminal.press(&format!("write /f\rone\r\ttwo\r{long}<end>\rmkdir /d\rquit\r"));
    let ended = terminal.end().await;
    assert_eq!(ended.code, 0, "{}", ended.out);
    assert_eq!(world.done(&["read", "/f"]).await, format!("one\n\ttwo\n{}", long.replace('\r', "\n")));
    assert_eq!(world.done(&["ls", "-o", "name"]).await, "d\nf\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_terminal_marks_as_pasted_is_taken_line_by_line() {
    let world = start_world().await;
    let mut terminal = start_at_terminal(&world).await;
    terminal.press("\x1b[200~mkdir /d\rwrite /d/f\rone\r\ttwo\r<end>\rmkdir /e\x1b[201~\r");
    terminal.wait_until_shown("made /e").await;
    terminal.press("quit\r");
    let ended = terminal.end().await;
    assert_eq!(ended.code, 0, "{}", ended.out);
    assert_eq!(world.done(&["read", "/d/f"]).await, "one\n\ttwo\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flags_of_a_line_hold_for_that_line() {
    let world = start_world().await;
    let ended = world.run_with(&["shell"], "mkdir /d -q\nls -o name\nls\n").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "d\nNAME  SIZE\nd/       -\n"), "{ended:?}");
    assert_eq!(ended.words, "", "quiet");

    let failed = world.run_with(&["shell"], "read /none -o json\n").await;
    let error: serde_json::Value = serde_json::from_str(&failed.words).unwrap_or_else(|_| panic!("{failed:?}"));
    assert_eq!((failed.code, &error["reason"]), (3, &"ENTRY_NOT_FOUND".into()));
    let nonsense = world.run_with(&["shell"], "ls -o json --nonsense\n").await;
    assert!(serde_json::from_str::<serde_json::Value>(&nonsense.words).is_ok(), "{nonsense:?}");

    let other = world.run_with(&["shell"], "ls --directory 127.0.0.1:1\n").await;
    assert_eq!(other.code, 2, "{other:?}");
    assert!(other.words.contains("--directory is for the shell as a whole"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_patience_of_a_line_is_its_own() {
    let world = start_world().await;
    let script = "pwd\nlock info /f --timeout 300ms\n";
    // Nobody listens there: what it fails after is the patience of the line.
    let mut command = world.command(&["shell", "--lock", "127.0.0.1:1", "--timeout", "1h"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("dfs-cli");
    let mut stdin = child.stdin.take().expect("a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, script.as_bytes()).await.expect("the script");
    drop(stdin);
    let ended = end_of(child).await;
    assert_eq!((ended.code, ended.out.as_str()), (6, "/\n"), "{ended:?}");
}
