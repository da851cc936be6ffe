//! `dfs-cli dev`: a whole local cluster as separate processes, for trying dfs out and for developing against it.
//!
//! The processes are the very binaries of a real cluster, with their data, logs and a note of who runs (`dev.json`) under
//! one folder, `./.dfs` unless told otherwise: it is where the user is, easy to see and easy to delete. In the foreground
//! the servers live no longer than `dev` does, even when it is killed; with `--detach` they are left running until
//! `dev stop`. A server that ends by itself is reported and not started again: hiding a crash helps no developer.

mod cluster;
mod folder;
mod plan;
mod probe;
mod process;
mod status;

use std::{future::Future, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use self::{
    cluster::{Bond, Cluster, stop_servers, taken, wait_all_gone},
    folder::{Folder, Record, Running, read_record},
    plan::{FILESERVERS_MAX, Plan, Shape},
    process::{ProcessId, end_all},
    status::ServerStatus,
};

const FILESERVERS_DEFAULT: u32 = 3;
/// A `dev` that was told to stop has this long to end its servers.
const SUPERVISOR_WAIT: Duration = Duration::from_secs(30);
/// Where other ports are looked for when those wanted are taken.
const PORT_STEP: u16 = 100;
const EXIT_OK: u8 = 0;

/// Start a whole local cluster as separate processes, then open the shell
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// Folder that holds the data and the logs of all servers
    #[arg(long, env = "DFS_DEV_DATA", value_name = "DIR", default_value = ".dfs", global = true)]
    data: PathBuf,
    /// File servers to start [default: as at the last start, else 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(FILESERVERS_MAX)))]
    fileservers: Option<u32>,
    /// Three nodes each of Directory and Lock service, of which any one may die; a cluster that was made so stays so
    #[arg(long)]
    ha: bool,
    /// Port of the Directory; the Lock service and the file servers take the ones after it
    #[arg(long, env = "DFS_DEV_BASE_PORT", value_name = "PORT", default_value_t = 7070, value_parser = clap::value_parser!(u16).range(1..))]
    base_port: u16,
    /// Leave the servers running and return; `dev status` and `dev stop` are for these
    #[arg(long)]
    detach: bool,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum DevCommand {
    /// Tell which servers of the folder's cluster run and serve
    Status,
    /// End the servers of the folder's cluster; its data stays
    Stop,
}

/// What `dev` came to.
pub enum Outcome {
    /// With this exit code.
    Ended(u8),
    Servers(Vec<ServerStatus>),
    /// There is no status to tell, and why.
    NothingRuns(String),
}

/// Runs `dev`; `shell` is opened with the Directory's address once the cluster serves, and its exit code is ours.
pub async fn run<S>(args: DevArgs, shell: impl FnOnce(String) -> S) -> anyhow::Result<Outcome>
where
    S: Future<Output = anyhow::Result<u8>>,
{
    match args.command {
        Some(DevCommand::Status) => Ok(match status::of_folder(&args.data).await? {
            Some(servers) => Outcome::Servers(servers),
            None => Outcome::NothingRuns(format!(
                "no cluster runs on {}; start one with `dfs-cli dev{}`",
                args.data.display(),
                args.data_flag()
            )),
        }),
        Some(DevCommand::Stop) => stop(&args).await.map(Outcome::Ended),
        None if args.detach => start_detached(&args).await.map(Outcome::Ended),
        None => start_and_stay(&args, shell).await.map(Outcome::Ended),
    }
}

async fn start_detached(args: &DevArgs) -> anyhow::Result<u8> {
    let start = Start::prepare(args).await?;
    let cluster = start.run(Bond::Outlive).await?;
    start.folder.write(&start.record(Some(Running { supervisor: None, servers: cluster.running() })))?;
    let flag = args.data_flag();
    eprintln!(
        "it keeps running; see `dfs-cli dev status{flag}`, end it with `dfs-cli dev stop{flag}`{}",
        args.directory_hint(&start.plan)
    );
    Ok(EXIT_OK)
}

async fn start_and_stay<S>(args: &DevArgs, shell: impl FnOnce(String) -> S) -> anyhow::Result<u8>
where
    S: Future<Output = anyhow::Result<u8>>,
{
    // Before anything is started: a signal that comes in between must not leave servers without `dev`.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let start = Start::prepare(args).await?;
    let mut cluster = start.run(Bond::EndWithUs).await?;
    let supervisor = Some(ProcessId::current()?);
    start.folder.write(&start.record(Some(Running { supervisor, servers: cluster.running() })))?;

    let mut shell = std::pin::pin!(shell(start.plan.directory()));
    let outcome = loop {
        tokio::select! {
            outcome = &mut shell => break outcome,
            _ = terminate.recv() => break Ok(143),
            _ = hang_up.recv() => break Ok(129),
            died = cluster.next_death() => eprintln!(
                "dfs-cli: {} ended ({}); the others go on without it; start `dev` again to have it back; the end of {}:\n{}",
                died.name, died.status, died.log.display(), died.last_lines
            ),
        }
    };
    eprintln!("stopping the servers; the data stays in {}", args.data.display());
    report_killed(&cluster.stop().await?);
    start.folder.write(&start.record(None))?;
    outcome
}

async fn stop(args: &DevArgs) -> anyhow::Result<u8> {
    let running = read_record(&args.data)?.and_then(|record| record.running).filter(Running::is_alive);
    let Some(running) = running else {
        eprintln!("no cluster runs on {}", args.data.display());
        return Ok(EXIT_OK);
    };
    // A `dev` that is there ends its servers itself; those that it left behind, or that never had one, are ended here.
    end_all(running.supervisor.as_slice(), SUPERVISOR_WAIT).await?;
    let folder =
        Folder::lock(&args.data)?.with_context(|| format!("another `dev` is at work on {}", args.data.display()))?;
    report_killed(&stop_servers(&running.servers).await?);
    if let Some(record) = read_record(folder.path())? {
        folder.write(&Record { running: None, ..record })?;
    }
    eprintln!("stopped; the data stays in {}", args.data.display());
    Ok(EXIT_OK)
}

fn report_killed(names: &[String]) {
    if !names.is_empty() {
        eprintln!("dfs-cli: killed, because it did not stop in time: {}", names.join(", "));
    }
}

/// A start that nothing stands in the way of.
struct Start {
    folder: Folder,
    shape: Shape,
    fileservers: u32,
    plan: Plan,
}

impl Start {
    async fn prepare(args: &DevArgs) -> anyhow::Result<Self> {
        let Some(folder) = Folder::lock(&args.data)? else {
            bail!(already_running(args, read_record(&args.data)?.and_then(|record| record.running).as_ref()));
        };
        let before = read_record(folder.path())?;
        if let Some(running) = before.as_ref().and_then(|record| record.running.as_ref()).filter(|it| it.is_alive()) {
            // Without its `dev`, which held the lock: left on purpose, or about to stop because it was killed.
            if running.supervisor.is_none() {
                bail!(already_running(args, Some(running)));
            }
            eprintln!("waiting for the servers of an earlier `dev` to stop");
            if !wait_all_gone(&running.servers).await {
                report_killed(&stop_servers(&running.servers).await?);
            }
        }
        let (shape, fileservers) = shape(args, before.as_ref())?;
        let too_high = || format!("--base-port {} leaves no room for {fileservers} file servers", args.base_port);
        let plan = Plan::new(folder.path(), args.base_port, shape, fileservers).with_context(too_high)?;
        let start = Self { folder, shape, fileservers, plan };
        start.check_ports()?;
        Ok(start)
    }

    fn check_ports(&self) -> anyhow::Result<()> {
        let taken = taken(&self.plan);
        let Some(first) = taken.first() else { return Ok(()) };
        let names: Vec<_> = taken.iter().map(|server| format!("{} ({})", server.address.port(), server.name)).collect();
        let base = first.address.port();
        let free = (1..20u16).filter_map(|step| base.checked_add(step.checked_mul(PORT_STEP)?)).find(|&base| {
            Plan::new(self.folder.path(), base, self.shape, self.fileservers)
                .is_some_and(|plan| cluster::taken(&plan).is_empty())
        });
        let hint = free.map_or_else(String::new, |base| format!(", for example with --base-port {base}"));
        bail!("somebody listens already on port {}; end that program, or choose other ports{hint}", names.join(", "))
    }

    /// Starts all servers and waits until they serve; ends them again when that fails.
    async fn run(&self, bond: Bond) -> anyhow::Result<Cluster> {
        let began = Instant::now();
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut cluster = Cluster::start(&self.plan, bond).await?;
        // Noted before they serve: whoever comes next can see and end them even if this process is killed now.
        let supervisor = Some(ProcessId::current()?);
        self.folder.write(&self.record(Some(Running { supervisor, servers: cluster.running() })))?;
        let started = tokio::select! {
            started = cluster.wait_serving() => started,
            _ = interrupt.recv() => Err(anyhow!("interrupted while the servers were started")),
            _ = terminate.recv() => Err(anyhow!("told to stop while the servers were started")),
        };
        if let Err(error) = started {
            report_killed(&cluster.stop().await?);
            self.folder.write(&self.record(None))?;
            return Err(error);
        }
        for server in cluster.running() {
            eprintln!("{:<14}  {}  pid {}", server.name, server.address, server.process.pid);
        }
        let (copies, min_in_sync) = (self.shape.copies, self.shape.min_in_sync);
        eprintln!(
            "serving after {:.1} s; {copies} copies, {min_in_sync} before a write is acknowledged; data and logs in {}",
            began.elapsed().as_secs_f64(),
            self.folder.path().display()
        );
        Ok(cluster)
    }

    fn record(&self, running: Option<Running>) -> Record {
        Record { shape: self.shape, fileservers: self.fileservers, running }
    }
}

/// What the cluster was made with holds for ever; file servers may be added.
fn shape(args: &DevArgs, before: Option<&Record>) -> anyhow::Result<(Shape, u32)> {
    let Some(before) = before else {
        let fileservers = args.fileservers.unwrap_or(FILESERVERS_DEFAULT);
        return Ok((available(args, Shape::new(fileservers)), fileservers));
    };
    let fileservers = args.fileservers.unwrap_or(before.fileservers);
    if fileservers < before.fileservers {
        bail!(
            "{} has data on {known} file servers, and {fileservers} would leave some of it behind; start with --fileservers {known}, or choose another folder with --data",
            args.data.display(),
            known = before.fileservers
        );
    }
    Ok((available(args, before.shape), fileservers))
}

/// A service of one node can get two more at any time.
fn available(args: &DevArgs, shape: Shape) -> Shape {
    if args.ha { shape.highly_available() } else { shape }
}

fn already_running(args: &DevArgs, running: Option<&Running>) -> String {
    let at = running.map(|running| format!(" (Directory at {})", running.directory())).unwrap_or_default();
    let flag = args.data_flag();
    format!(
        "a cluster runs on {} already{at}; use it with `dfs-cli shell`, see `dfs-cli dev status{flag}`, end it with `dfs-cli dev stop{flag}`, or start another one with --data and --base-port",
        args.data.display()
    )
}

impl DevArgs {
    fn data_flag(&self) -> String {
        if self.data.as_os_str() == ".dfs" { String::new() } else { format!(" --data {}", self.data.display()) }
    }

    fn directory_hint(&self, plan: &Plan) -> String {
        if self.base_port == 7070 && !self.ha {
            String::new()
        } else {
            format!("; for other commands set DFS_DIRECTORY={}", plan.directory())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn args(line: &[&str]) -> DevArgs {
        Line::try_parse_from([&["dev"], line].concat()).expect("a command line").dev
    }

    fn made_with(initial: u32, fileservers: u32) -> Record {
        Record { shape: Shape::new(initial), fileservers, running: None }
    }

    #[test]
    fn a_new_cluster_has_three_file_servers_unless_told_otherwise() {
        assert_eq!(shape(&args(&[]), None).expect("valid"), (Shape::new(3), 3));
        assert_eq!(shape(&args(&["--fileservers", "5"]), None).expect("valid"), (Shape::new(5), 5));
    }

    #[test]
    fn a_later_start_keeps_what_the_cluster_was_made_with() {
        assert_eq!(shape(&args(&[]), Some(&made_with(2, 4))).expect("valid"), (Shape::new(2), 4));
        assert_eq!(shape(&args(&["--fileservers", "5"]), Some(&made_with(2, 4))).expect("valid"), (Shape::new(2), 5));
        let fewer = shape(&args(&["--fileservers", "3"]), Some(&made_with(2, 4))).expect_err("leaves one behind");
        assert!(fewer.to_string().contains("start with --fileservers 4"), "{fewer}");
    }

    #[test]
    fn a_cluster_becomes_highly_available_when_asked_and_stays_so() {
        let made = shape(&args(&["--ha"]), None).expect("valid");
        assert_eq!(made, (Shape::new(3).highly_available(), 3));
        let before = Record { shape: made.0, fileservers: 3, running: None };
        assert_eq!(shape(&args(&[]), Some(&before)).expect("valid"), made);
        let grown = shape(&args(&["--ha"]), Some(&made_with(2, 4))).expect("valid");
        assert_eq!(grown, (Shape::new(2).highly_available(), 4));
    }

    #[test]
    fn the_folder_can_be_named_before_and_after_the_subcommand() {
        for line in [&["--data", "/d", "stop"], &["stop", "--data", "/d"]] {
            assert_eq!(args(line).data, PathBuf::from("/d"));
        }
    }

    #[test]
    fn a_taken_port_is_named_with_a_way_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let base_port = listener.local_addr().expect("an address").port();
        let temp = tempfile::tempdir().expect("a folder");
        let folder = Folder::lock(temp.path()).expect("can lock").expect("nobody has it");
        let plan = Plan::new(temp.path(), base_port, Shape::new(1), 1).expect("two more ports");
        let start = Start { folder, shape: Shape::new(1), fileservers: 1, plan };
        let error = start.check_ports().expect_err("taken").to_string();
        assert!(error.contains(&format!("{base_port} (directory-1)")) && error.contains("--base-port"), "{error}");
    }

    #[tokio::test]
    async fn a_second_start_on_a_folder_is_refused_with_what_to_do() {
        let temp = tempfile::tempdir().expect("a folder");
        let held = Folder::lock(temp.path()).expect("can lock").expect("nobody has it");
        let args = args(&["--data", &temp.path().to_string_lossy()]);
        let error = Start::prepare(&args).await.err().expect("refused").to_string();
        assert!(error.contains("runs on") && error.contains("dev stop --data"), "{error}");
        drop(held);
    }
}
