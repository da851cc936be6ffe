//! The server processes of a local cluster: started together, waited for, watched, and ended in order.

use std::{
    env,
    fs::{self, OpenOptions},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use futures::future::{join_all, select_all};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep},
};

use super::{
    folder::RunningServer,
    plan::{Plan, ServerPlan},
    probe::{self, Answer},
    process::{Ending, ProcessId, end_all},
};

/// From the start of the processes until all of them serve; recovery of a large store is part of it.
pub const START_WAIT: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// A server drains for 5 s; past this it is killed.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// A log that is larger than this at a start begins afresh.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// Would make every server tell the same address; what else there is in the environment is overruled by flags.
const NOT_INHERITED: [&str; 3] = ["DFS_ADVERTISE", "DFS_ADVERTISE_EXTERNAL", "DFS_JOIN"];

/// Whether the servers end with this process or outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    EndWithUs,
    Outlive,
}

/// The processes, as long as this one stays with them.
pub struct Cluster {
    servers: Vec<Server>,
}

struct Server {
    running: RunningServer,
    /// Length of its log before it was started.
    log_from: u64,
    /// None once its end has been seen.
    child: Option<Child>,
    /// The end of the pipe whose closing tells the server that we are gone.
    _bond: Option<ChildStdin>,
}

/// A server that ended by itself.
#[derive(Debug)]
pub struct Died {
    pub name: String,
    pub status: String,
    pub log: PathBuf,
    pub last_lines: String,
}

impl Cluster {
    /// Starts the processes; none of them is waited for. Ends those that did start when one does not.
    pub async fn start(plan: &Plan, bond: Bond) -> anyhow::Result<Self> {
        let mut cluster = Self { servers: Vec::with_capacity(plan.servers.len()) };
        for server in &plan.servers {
            match spawn(server, bond) {
                Ok(server) => cluster.servers.push(server),
                Err(error) => {
                    cluster.stop().await?;
                    return Err(error);
                }
            }
        }
        Ok(cluster)
    }

    pub fn running(&self) -> Vec<RunningServer> {
        self.servers.iter().map(|server| server.running.clone()).collect()
    }

    /// Until every server says that it serves. An error when one ends first, or when the time is over.
    pub async fn wait_serving(&mut self) -> anyhow::Result<()> {
        let servers = self.running();
        let serving = join_all(servers.iter().map(wait_serving));
        tokio::select! {
            biased;
            died = self.next_death() => bail!(
                "{} ended while it was started ({}); the end of {}:\n{}",
                died.name, died.status, died.log.display(), died.last_lines
            ),
            _ = serving => return Ok(()),
            () = sleep(START_WAIT) => {}
        }
        let mut late = format!("not every server serves after {} s:", START_WAIT.as_secs());
        for server in &self.servers {
            let answer = probe::ask(&server.running.address, &server.running.service).await;
            if answer != Answer::Serving {
                let lines = probe::last_log_lines(&server.running.log, server.log_from);
                late += &format!(
                    "\n{} is {answer}; the end of {}:\n{lines}",
                    server.running.name,
                    server.running.log.display()
                );
            }
        }
        bail!(late)
    }

    /// The next server that ends by itself; for ever while none does. May be given up and asked again.
    pub async fn next_death(&mut self) -> Died {
        if self.servers.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.servers.iter_mut().map(|server| Box::pin(server.death()))).await.0
    }

    /// Ends all of them; the names of those that had to be killed.
    pub async fn stop(mut self) -> anyhow::Result<Vec<String>> {
        let killed = stop_servers(&self.running()).await?;
        for child in self.servers.iter_mut().filter_map(|server| server.child.as_mut()) {
            child.wait().await.context("collect a server that ended")?;
        }
        Ok(killed)
    }
}

impl Server {
    /// Its end, once; for ever afterwards.
    async fn death(&mut self) -> Died {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        let status = child.wait().await;
        self.child = None;
        Died {
            name: self.running.name.clone(),
            status: status.map_or_else(|error| error.to_string(), describe),
            log: self.running.log.clone(),
            last_lines: probe::last_log_lines(&self.running.log, self.log_from),
        }
    }
}

/// Ends servers that may be no children of this process: the Directory last, since the others report to it.
pub async fn stop_servers(servers: &[RunningServer]) -> anyhow::Result<Vec<String>> {
    let mut killed = Vec::new();
    let (directories, others): (Vec<_>, Vec<_>) =
        servers.iter().partition(|server| server.service == "dfs.v1.Directory");
    for wave in [others, directories] {
        let processes: Vec<ProcessId> = wave.iter().map(|server| server.process).collect();
        let endings = end_all(&processes, STOP_WAIT).await?;
        let of_wave = wave.iter().zip(endings).filter(|(_, ending)| *ending == Ending::Killed);
        killed.extend(of_wave.map(|(server, _)| server.name.clone()));
    }
    Ok(killed)
}

/// The ports that somebody listens on already.
pub fn taken(plan: &Plan) -> Vec<&ServerPlan> {
    plan.servers.iter().filter(|server| !is_free(server.address)).collect()
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Beside this binary, or else on PATH.
pub fn find_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("find the path of this program")?;
    let beside = own.parent().map(Path::to_path_buf);
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let found = beside.iter().chain(&on_path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is neither beside {} nor on PATH; build all programs with `cargo build --release` (`cargo run` builds only one)",
            own.display()
        )
    })
}

fn spawn(plan: &ServerPlan, bond: Bond) -> anyhow::Result<Server> {
    let program = find_program(plan.program)?;
    let log_from = fs::metadata(&plan.log).map_or(0, |metadata| metadata.len());
    let fresh = log_from > LOG_BYTES_MAX;
    let log = OpenOptions::new().create(true).append(!fresh).write(true).truncate(fresh).open(&plan.log);
    let log = log.with_context(|| format!("open the log {}", plan.log.display()))?;

    let mut command = Command::new(&program);
    command.args(&plan.arguments);
    for variable in NOT_INHERITED {
        command.env_remove(variable);
    }
    match bond {
        Bond::EndWithUs => command.arg("--stop-with-parent").stdin(Stdio::piped()),
        Bond::Outlive => command.stdin(Stdio::null()),
    };
    let errors = log.try_clone().with_context(|| format!("open the log {}", plan.log.display()))?;
    // A group of its own: Ctrl-C on the terminal is for the shell, not for the servers.
    let spawned = command.stdout(log).stderr(errors).process_group(0).spawn();
    let mut child = spawned.with_context(|| format!("start {}", program.display()))?;

    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    // A child that has ended already is still in /proc until it is waited for, but no longer as a running process.
    let process = pid.map(|pid| ProcessId::of(pid).unwrap_or(ProcessId { pid, start_ticks: 0 }));
    let running = RunningServer {
        name: plan.name.clone(),
        service: plan.service.to_owned(),
        address: plan.address.to_string(),
        log: plan.log.clone(),
        process: process.with_context(|| format!("{} has no process id", plan.name))?,
    };
    let bond = child.stdin.take();
    Ok(Server { running, log_from: if fresh { 0 } else { log_from }, child: Some(child), _bond: bond })
}

async fn wait_serving(server: &RunningServer) {
    while probe::ask(&server.address, &server.service).await != Answer::Serving {
        sleep(PROBE_INTERVAL).await;
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Waits for the end of servers whose own `dev` was killed: they notice, and stop by themselves.
pub async fn wait_all_gone(servers: &[RunningServer]) -> bool {
    let deadline = Instant::now() + STOP_WAIT;
    for server in servers {
        if !server.process.wait_gone(deadline.saturating_duration_since(Instant::now())).await {
            return false;
        }
    }
    true
}
