//! `dfs-cli dev` with the real programs as real processes: what no test inside one process can show.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// A start, a stop or a recovery takes a second or two; this is for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder and ports for one cluster; whatever still runs there is ended with it.
struct Place {
    folder: tempfile::TempDir,
    base_port: u16,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), base_port: free_ports() }
    }

    /// Above the ports of all others, which are next to each other: the further nodes' are 100 and 200 higher.
    fn with_further_nodes() -> Self {
        let spread = u16::try_from(std::process::id() % 100).expect("small") * 5;
        Self { folder: tempfile::tempdir().expect("a folder"), base_port: 30_100 + spread }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-cli"));
        command
            .args(arguments)
            .env("DFS_DEV_DATA", self.folder.path())
            .env("DFS_DEV_BASE_PORT", self.base_port.to_string())
            .env("DFS_DIRECTORY", format!("127.0.0.1:{}", self.base_port))
            .env("DFS_CONFIG", "/dev/null")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("dfs-cli starts")
    }

    #[track_caller]
    fn expect(&self, exit: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {}", text(&output));
        text(&output)
    }

    /// The process id of a server, as `dev.json` has it.
    fn pid(&self, server: &str) -> i32 {
        let record = fs::read_to_string(self.folder.path().join("dev.json")).expect("dev.json");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        let servers = record["running"]["servers"].as_array().expect("servers");
        let found = servers.iter().find(|each| each["name"] == server).expect("the server");
        i32::try_from(found["process"]["pid"].as_i64().expect("a pid")).expect("fits")
    }

    /// `dev` in the foreground, its shell fed by a pipe, once all serve.
    fn start_foreground(&self) -> Child {
        let child = self.command(&["dev"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("dfs-cli starts");
        wait_until("all serve", || {
            assert_eq!(child.try_wait().expect("can ask"), None, "`dev` ended by itself");
            self.run(&["dev", "status"]).status.code() == Some(0)
        });
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["dev", "stop"]);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The first of five ports that nobody has.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 1000).expect("small") * 10;
    loop {
        let base = 18_000 + (spread + NEXT.fetch_add(5, Ordering::Relaxed)) % 12_000;
        if (base..base + 5).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return base;
        }
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("can kill");
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_highly_available_cluster_goes_on_without_the_nodes_that_made_it() {
    let place = Place::with_further_nodes();
    place.expect(0, &["dev", "--ha", "--detach"]);
    let nodes: Vec<String> = [0, 100, 200].map(|step| format!("127.0.0.1:{}", place.base_port + step)).into();
    let directory = format!("--directory={}", nodes.join(","));
    let voters_of = |service| {
        let output = place.run(&["members", "ls", "--service", service, "-o", "json", &directory]);
        let members: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let count = |members: &Vec<serde_json::Value>| members.iter().filter(|each| each["role"] != "learner").count();
        members.as_array().map_or(0, count)
    };
    let voters = || voters_of("directory");
    wait_until("three voters of each", || voters() == 3 && voters_of("lock") == 3);
    place.expect(0, &["mkdir", "/before", &directory]);
    kill(place.pid("directory-1"));
    place.expect(0, &["mkdir", "/after", &directory]);
    place.expect(0, &["stat", "/before", &directory]);
    kill(place.pid("lock-1"));
    place.expect(0, &["lock", "run", "/before/x", &directory, "--", "true"]);
    place.expect(0, &["members", "remove", "directory-1", &directory]);
    wait_until("two voters", || voters() == 2);
    place.expect(0, &["dev", "stop"]);
}

#[test]
fn a_detached_cluster_is_seen_used_stopped_and_found_again() {
    let place = Place::new();
    place.expect(0, &["dev", "--detach"]);
    place.expect(0, &["dev", "status"]);
    let status = place.run(&["dev", "status", "-o", "json"]);
    let servers: serde_json::Value = serde_json::from_slice(&status.stdout).expect("a list");
    let states = servers.as_array().expect("a list").iter().map(|server| server["state"].clone());
    assert_eq!(states.collect::<Vec<_>>(), ["serving"; 5]);
    place.expect(0, &["write", "/hello", "--text", "first"]);

    let second = place.expect(1, &["dev", "--detach"]);
    assert!(second.contains("already") && second.contains("dev stop"), "{second}");

    place.expect(0, &["dev", "stop"]);
    place.expect(3, &["dev", "status"]);
    place.expect(0, &["dev", "--detach"]);
    assert!(place.expect(0, &["read", "/hello"]).contains("first"));
}

#[test]
fn a_server_that_ended_is_told_of() {
    let place = Place::new();
    place.expect(0, &["dev", "--detach"]);
    kill(place.pid("fileserver-b"));
    wait_until("the status tells", || {
        let status = place.run(&["dev", "status"]);
        status.status.code() == Some(10)
            && text(&status).lines().any(|line| line.contains("fileserver-b") && line.contains("ended"))
    });
}

#[test]
fn a_taken_port_stops_the_start_and_nothing_runs() {
    let place = Place::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, place.base_port + 1)).expect("was free");
    let error = place.expect(1, &["dev", "--detach"]);
    assert!(error.contains(&format!("{} (lock-1)", place.base_port + 1)) && error.contains("--base-port"), "{error}");
    place.expect(3, &["dev", "status"]);
    drop(taken);
}

#[test]
fn the_servers_end_with_the_shell() {
    let place = Place::new();
    let mut dev = place.start_foreground();
    let pids = ["directory-1", "lock-1", "fileserver-a", "fileserver-b", "fileserver-c"].map(|name| place.pid(name));
    assert!(pids.iter().all(|&pid| runs(pid)));
    dev.stdin.take().expect("piped").write_all(b"mkdir /made-in-the-shell\nquit\n").expect("the shell reads");
    assert!(dev.wait().expect("ends").success());
    assert!(!pids.iter().any(|&pid| runs(pid)), "a server outlived `dev`");
    place.expect(3, &["dev", "status"]);
}

#[test]
fn the_servers_do_not_outlive_a_dev_that_was_killed() {
    let place = Place::new();
    let mut dev = place.start_foreground();
    let pids = ["directory-1", "lock-1", "fileserver-a", "fileserver-b", "fileserver-c"].map(|name| place.pid(name));
    dev.kill().expect("can kill");
    dev.wait().expect("ends");
    wait_until("all servers ended", || !pids.iter().any(|&pid| runs(pid)));
    place.expect(0, &["dev", "--detach"]);
}

#[test]
fn a_damaged_note_of_who_runs_says_what_to_do() {
    let place = Place::new();
    fs::write(Path::new(place.folder.path()).join("dev.json"), "{").expect("writable");
    let error = place.expect(1, &["dev", "--detach"]);
    assert!(error.contains("dev.json is damaged"), "{error}");
}
