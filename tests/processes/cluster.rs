//! A cluster of real processes, each of which can be killed, stopped, continued and started again.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

const DIRECTORY_PORT: u16 = 7070;
const LOCK_PORT: u16 = 7071;
const FILESERVER_PORT: u16 = 7072;
const FREE_PORT: u16 = 6999;
/// From one node of a service to the next.
const NODE_PORTS: u16 = 100;

/// What one process of the cluster is.
#[derive(Clone, Debug)]
struct Role {
    name: String,
    id: String,
    binary: &'static str,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

/// One process of the cluster; ended with the cluster.
pub struct Process {
    role: Role,
    child: Option<Child>,
}

/// One at a time on this machine: beside another one a pause would be the machine's, not the cluster's.
pub struct Cluster {
    ip: String,
    dir: tempfile::TempDir,
    processes: Vec<Process>,
    directories: String,
    /// Held until all processes have ended.
    _turn: File,
}

impl Cluster {
    /// Starts directory, lock and three file servers, with their data in a new folder, and waits until they listen.
    pub fn start() -> Self {
        Self::start_with(1, 1)
    }

    /// As [`Cluster::start`], with so many nodes of Directory and Lock service.
    pub fn start_with(directories: u16, locks: u16) -> Self {
        Self::start_of(directories, locks, 3)
    }

    /// So many nodes of Directory and Lock service, and so many file servers.
    ///
    /// Groups are made when all file servers are there.
    pub fn start_of(directories: u16, locks: u16, fileservers: u8) -> Self {
        let mut cluster = Self::prepare(directories, locks, fileservers);
        cluster.start_processes();
        cluster
    }

    /// As [`Cluster::start_of`], but nothing runs yet.
    pub fn prepare(directories: u16, locks: u16, fileservers: u8) -> Self {
        let turn = File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/cluster.lock")).expect("a file to lock");
        turn.lock().expect("a turn");
        let dir = tempfile::Builder::new().prefix("dfs-processes-").tempdir().expect("create a folder");
        let ip = own_loopback_address();
        let ports: Vec<u16> = (0..directories).map(|number| DIRECTORY_PORT + number * NODE_PORTS).collect();
        let addresses: Vec<String> = ports.iter().map(|port| format!("{ip}:{port}")).collect();
        let directory = format!("--directory={}", addresses.join(","));
        let mut roles: Vec<Role> = ports
            .iter()
            .enumerate()
            .map(|(index, &port)| Role {
                name: format!("directory-{}", index + 1),
                id: format!("directory-{}", index + 1),
                binary: env!("CARGO_BIN_EXE_dfs-directory"),
                port,
                arguments: match index {
                    0 => vec![format!("--initial-fileservers={fileservers}")],
                    _ => vec![format!("--join={}", addresses[0])],
                },
                environment: Vec::new(),
            })
            .collect();
        for number in 0..locks {
            let join = (number > 0).then(|| format!("--join={ip}:{LOCK_PORT}"));
            roles.push(Role {
                name: format!("lock-{}", number + 1),
                id: format!("lock-{}", number + 1),
                binary: env!("CARGO_BIN_EXE_dfs-lock"),
                port: LOCK_PORT + number * NODE_PORTS,
                arguments: [directory.clone()].into_iter().chain(join).collect(),
                environment: Vec::new(),
            });
        }
        roles.extend((0..fileservers).map(|number| a_fileserver(number, &directory)));
        let processes = roles.into_iter().map(|role| Process { role, child: None }).collect();
        Self { ip, dir, processes, directories: addresses.join(","), _turn: turn }
    }

    /// All of them.
    pub fn start_processes(&mut self) {
        for index in 0..self.processes.len() {
            self.start_process(index);
        }
    }

    /// For the next start of this process.
    pub fn add_arguments(&mut self, index: usize, arguments: &[String]) {
        self.processes[index].role.arguments.extend_from_slice(arguments);
    }

    /// For every later start of this process.
    pub fn set_environment(&mut self, index: usize, environment: Vec<(&'static str, String)>) {
        self.processes[index].role.environment = environment;
    }

    /// Copies a server's data folder, as it is now. The copy goes by the same id, at another address; it does not run yet.
    pub fn add_copy(&mut self, of: usize, name: &str) -> usize {
        let role = Role { name: name.to_owned(), port: FREE_PORT, ..self.processes[of].role.clone() };
        let (from, to) = (self.data_path(&self.processes[of].role.name), self.data_path(name));
        let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("run cp");
        assert!(copied.success(), "cp: {copied}");
        self.processes.push(Process { role, child: None });
        self.processes.len() - 1
    }

    /// One that has ended, and is not missed.
    pub fn remove(&mut self, index: usize) {
        let removed = self.processes.remove(index);
        assert!(removed.child.is_none(), "{} runs", removed.role.name);
    }

    /// The file server is told another address of the Directory.
    pub fn set_directory(&mut self, name: &str, address: &str) {
        let index = self.index(name);
        let arguments = &mut self.processes[index].role.arguments;
        arguments.retain(|argument| !argument.starts_with("--directory="));
        arguments.push(format!("--directory={address}"));
    }

    /// Where this process listens.
    pub fn address(&self, index: usize) -> String {
        format!("{}:{}", self.ip, self.processes[index].role.port)
    }

    /// One that no process of the cluster listens on.
    pub fn free_address(&self) -> String {
        format!("{}:{FREE_PORT}", self.ip)
    }

    /// With commas where there are several.
    pub fn directory_address(&self) -> String {
        self.directories.clone()
    }

    pub fn process_count(&self) -> usize {
        self.processes.len()
    }

    pub fn name(&self, index: usize) -> &str {
        &self.processes[index].role.name
    }

    /// The place of the process of this name.
    pub fn index(&self, name: &str) -> usize {
        let found = self.processes.iter().position(|process| process.role.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub fn pid(&self, index: usize) -> u32 {
        self.processes[index].child.as_ref().expect("it runs").id()
    }

    /// A command that runs `dfs-cli` against this cluster.
    pub fn cli(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-cli"));
        command.env("DFS_DIRECTORY", self.directory_address()).env("DFS_CONFIG", "/dev/null");
        command
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.processes[index].child.take() {
            child.kill().expect("kill a process of ours");
            child.wait().expect("wait for a process of ours");
        }
    }

    /// How a process ended by itself; `None` while it runs.
    pub fn try_ended(&mut self, index: usize) -> Option<ExitStatus> {
        let child = self.processes[index].child.as_mut()?;
        let ended = child.try_wait().expect("ask for a child");
        if ended.is_some() {
            self.processes[index].child = None;
        }
        ended
    }

    /// Starts it again on the same data, and waits until it listens.
    pub fn start_process(&mut self, index: usize) {
        self.begin_process(index);
        self.wait_until_listening(index, &self.address(index));
    }

    /// As [`Cluster::start_process`], but waits for nothing: it may end at once.
    pub fn begin_process(&mut self, index: usize) {
        let role = self.processes[index].role.clone();
        assert!(self.processes[index].child.is_none(), "{} runs already", role.name);
        let log = self.log_path(&role.name);
        let log = File::options().create(true).append(true).open(&log).expect("open a log file");
        let address = self.address(index);
        let child = Command::new(role.binary)
            .arg(format!("--id={}", role.id))
            .arg(format!("--data={}", self.data_path(&role.name).display()))
            .arg(format!("--listen={address}"))
            .args(&role.arguments)
            .envs(role.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", role.binary));
        self.processes[index].child = Some(child);
    }

    /// A further file server, which is there from now on.
    pub fn start_fileserver(&mut self, number: u8) {
        let role = a_fileserver(number, &format!("--directory={}", self.directories));
        self.processes.push(Process { role, child: None });
        self.start_process(self.processes.len() - 1);
    }

    /// `kill -9`, and it never comes back.
    pub fn lose(&mut self, name: &str) {
        let index = self.index(name);
        self.kill(index);
        self.processes.remove(index);
    }

    /// Waits until it has ended by itself, as one does that was removed.
    pub fn wait_until_ended(&mut self, name: &str) {
        let index = self.index(name);
        let deadline = Instant::now() + START_TIMEOUT;
        let has_ended = |child: &mut Child| child.try_wait().expect("ask for a child").is_some();
        while !self.processes[index].child.as_mut().is_none_or(has_ended) {
            assert!(Instant::now() < deadline, "{name} goes on; its log ends:\n{}", self.log_tail(name));
            std::thread::sleep(POLL);
        }
        self.processes.remove(index);
    }

    /// Fails if a process ended that nobody killed.
    pub fn expect_all_running(&mut self) {
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            let ended = process.child.as_mut().is_none_or(|child| child.try_wait().expect("ask for a child").is_some());
            if ended {
                let name = process.role.name.clone();
                panic!("{name} has ended by itself; its log ends:\n{}", self.log_tail(&name));
            }
        }
    }

    /// The end of every process's log, for the message of a failure.
    pub fn log_tails(&self) -> String {
        let tails = self.processes.iter().map(|process| {
            let name = &process.role.name;
            format!("--- {name}\n{}\n", self.log_tail(name))
        });
        tails.collect()
    }

    /// All that a process has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.log_path(name)).expect("its log")
    }

    pub fn data_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn wait_until_listening(&mut self, index: usize, address: &str) {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            self.expect_all_started(index);
            assert!(Instant::now() < deadline, "{address} does not listen\n{}", self.log_tails());
            std::thread::sleep(POLL);
        }
    }

    fn expect_all_started(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if let Some(child) = process.child.as_mut()
            && let Some(status) = child.try_wait().expect("ask for a child")
        {
            let name = process.role.name.clone();
            panic!("{name} ended at once with {status}; its log ends:\n{}", self.log_tail(&name));
        }
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    fn log_tail(&self, name: &str) -> String {
        last_lines(&self.log_path(name), 40)
    }
}

fn a_fileserver(number: u8, directory: &str) -> Role {
    Role {
        name: format!("fileserver-{}", char::from(b'a' + number)),
        id: format!("fileserver-{}", char::from(b'a' + number)),
        binary: env!("CARGO_BIN_EXE_dfs-fileserver"),
        port: FILESERVER_PORT + u16::from(number),
        arguments: vec![directory.to_owned()],
        environment: Vec::new(),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.processes.len() {
            if let Some(mut child) = self.processes[index].child.take() {
                // A failing test must not leave processes behind; there is nobody left to tell that one was gone.
                drop(child.kill());
                drop(child.wait());
            }
        }
        if std::thread::panicking() || std::env::var_os("DFS_KEEP_LOGS").is_some() {
            eprintln!("{}", self.log_tails());
        }
    }
}

/// `SIGSTOP`: the process hangs with its connections open.
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
}

pub fn cont(pid: u32) {
    signal(pid, Signal::CONT);
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    kill_process(pid, signal).expect("signal a process of ours");
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// All of 127.0.0.0/8 is loopback, and outgoing connections use 127.0.0.1: on an address of its own, a cluster finds its
/// ports free whenever one of its processes starts again.
fn own_loopback_address() -> String {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    format!("127.{}.{}.{}", 1 + (pid >> 8) % 250, 1 + pid % 250, 2 + cluster % 250)
}
