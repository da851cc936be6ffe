//! The real `dfs-cli`, as a process, against a whole cluster in this one.

use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::{
    cluster::{Cluster, start_cluster},
    lock::{RunningLock, start_lock},
    within_deadline,
};

pub struct World {
    pub cluster: Cluster,
    pub lock: RunningLock,
    /// Where the commands run, and what they find at home.
    pub folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub words: String,
}

pub async fn start_world() -> World {
    let cluster = start_cluster().await;
    let folder = TempDir::new().expect("a folder");
    let lock = start_lock(&folder.path().join("lock-1"), &cluster.directory.address).await;
    World { cluster, lock, folder }
}

impl World {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-cli"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("USER", "tester")
            .env("DFS_DIRECTORY", &self.cluster.directory.address)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, "").await
    }

    /// With this on its standard input, through a pipe.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Ended {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("dfs-cli");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command that does not read ends before all is written.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        end_of(child).await
    }

    /// The output of a command that must succeed.
    pub async fn done(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.out
    }

    /// What a command that must succeed prints for programs.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let out = self.done(&[&["-o", "json"], arguments].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// The failure of a command that must fail with this code, as programs see it.
    pub async fn failure(&self, arguments: &[&str], code: i32) -> Value {
        let ended = self.run(&[&["-o", "json"], arguments].concat()).await;
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{arguments:?}: {ended:?}");
        let error: Value = serde_json::from_str(&ended.words).unwrap_or_else(|_| panic!("{arguments:?}: {ended:?}"));
        assert_eq!(error["exitCode"], code);
        error
    }
}

pub async fn end_of(child: Child) -> Ended {
    let output = within_deadline("the end of a command", child.wait_with_output()).await.expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), words: text(output.stderr) }
}
