//! Locks by hand: take, release, look at, follow, break; and `lock run`, which does it for a command.

mod run;
mod view;

use std::time::Duration;

use clap::Subcommand;
use futures::StreamExt;

use self::view::{BrokenView, GrantView, LockLine, LockView};
use super::{
    context::Context,
    error::{Error, Result},
    interrupt::Hold,
    locking::{self, Locking, TTL, acquire},
    output::Format,
    table,
};
use crate::{
    client::{LockGuard, LockMode},
    config::parse_duration,
    types::{FencingToken, Path, SessionId},
};

/// The lease of a lock that nobody keeps alive.
const TTL_UNATTENDED: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command while holding a lock; it sees DFS_LOCK_TOKEN, and its exit code is passed on
    Run(run::Arguments),
    /// Take a lock and print its token and session
    Acquire(AcquireArguments),
    /// Give a lock back
    Release(ReleaseArguments),
    /// Locks that are held or waited for, at a path and below
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Who holds a lock, who waits, and for how long
    Info(PathArguments),
    /// Follow what happens to a lock
    Watch(PathArguments),
    /// Take a lock from its holder, who can write no more
    Break(BreakArguments),
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct HowArguments {
    /// The lease: how long others wait for a holder that vanished [default: 10s, or 60s when nobody keeps it alive]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// How long to queue [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Share it with others who share; gives no right to write
    #[arg(long)]
    shared: bool,
}

impl HowArguments {
    fn locking(&self, ttl: Duration) -> Locking {
        let mode = if self.shared { LockMode::Shared } else { LockMode::Exclusive };
        Locking { mode, ttl: self.ttl.unwrap_or(ttl), wait: self.wait }
    }
}

#[derive(Debug, clap::Args)]
pub struct AcquireArguments {
    path: String,
    #[command(flatten)]
    how: HowArguments,
    /// Keep the lease alive until Ctrl-C, then release
    #[arg(long)]
    hold: bool,
}

#[derive(Debug, clap::Args)]
pub struct ReleaseArguments {
    path: String,
    /// The session that holds it, as `lock acquire` printed it
    #[arg(long, value_name = "ID")]
    session: SessionId,
    /// Only if this is its token
    #[arg(long, value_name = "TOKEN")]
    token: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct ListArguments {
    #[arg(default_value = "/")]
    path: String,
}

#[derive(Debug, clap::Args)]
pub struct PathArguments {
    path: String,
}

#[derive(Debug, clap::Args)]
pub struct BreakArguments {
    path: String,
    /// Only if this is its token
    #[arg(long, value_name = "TOKEN")]
    token: Option<u64>,
}

pub async fn run(context: &mut Context, command: Command) -> Result<()> {
    match command {
        Command::Run(arguments) => run::run(context, arguments).await,
        Command::Acquire(arguments) => take(context, arguments).await,
        Command::Release(arguments) => give_back(context, arguments).await,
        Command::Ls(arguments) => list(context, arguments).await,
        Command::Info(arguments) => info(context, arguments).await,
        Command::Watch(arguments) => watch(context, arguments).await,
        Command::Break(arguments) => break_lock(context, arguments).await,
    }
}

async fn take(context: &mut Context, arguments: AcquireArguments) -> Result<()> {
    let path = context.path(&arguments.path)?;
    let ttl = if arguments.hold { TTL } else { TTL_UNATTENDED };
    let guard = acquire(context, &path, arguments.how.locking(ttl)).await?;
    let _hold: Hold = context.interrupt.hold();
    context.output.details(&GrantView::from(&guard))?;
    if arguments.hold {
        return keep(context, guard, &path).await;
    }
    drop(guard);
    context.output.say("the lease runs from now on; `lock acquire --hold` keeps it alive")
}

async fn keep(context: &mut Context, guard: LockGuard, path: &Path) -> Result<()> {
    context.output.say("held until Ctrl-C")?;
    let interrupt = context.interrupt.clone();
    tokio::select! {
        lost = guard.session().lost() => {
            Err(Error::LeaseLost(format!("the lease on {path} was lost: {}", lost.failure().message)))
        }
        _ = interrupt.raised() => {
            locking::release(guard).await;
            context.output.say(&format!("released {path}"))
        }
    }
}

async fn give_back(context: &mut Context, arguments: ReleaseArguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    client.release_lock(arguments.session, &path, arguments.token.map(FencingToken)).await?;
    context.output.say(&format!("released {path}"))
}

async fn list(context: &mut Context, arguments: ListArguments) -> Result<()> {
    let client = context.client().await?;
    let mut locks = client.locks(&context.path(&arguments.path)?);
    let mut rows = context.output.rows();
    while let Some(lock) = locks.next().await {
        rows.push(&LockView::from(lock?))?;
    }
    rows.finish()
}

async fn info(context: &mut Context, arguments: PathArguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let lock = LockView::from(client.lock_info(&path).await?);
    if !matches!(context.output.format(), Format::Table | Format::Wide) {
        return context.output.done(&lock, path.as_str(), "");
    }
    if lock.is_free() {
        return context.output.say(&format!("nobody holds {path} or waits for it"));
    }
    context.output.all(LockLine::of(&lock))?;
    match lock.pending_fence {
        Some(token) => context.output.say(&format!("passes on once the Directory has recorded token {token}")),
        None => Ok(()),
    }
}

async fn watch(context: &mut Context, arguments: PathArguments) -> Result<()> {
    let client = context.client().await?;
    let mut changes = client.watch_lock(&context.path(&arguments.path)?);
    while let Some(lock) = changes.next().await {
        let lock = LockView::from(lock?);
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        match context.output.format() {
            // It has no end, so it is one object a line.
            Format::Json | Format::Jsonl => context.output.object_line(&lock)?,
            _ => context.output.line(&format!("{}  {}", table::short_time(now), lock.sentence()))?,
        }
        context.output.flush()?;
    }
    Ok(())
}

async fn break_lock(context: &mut Context, arguments: BreakArguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let token = client.break_lock(&path, arguments.token.map(FencingToken)).await?;
    let view = BrokenView { path: path.to_string(), fencing_token: token.0 };
    let sentence = format!("broke the lock of {path}: tokens older than {token} write no more");
    context.output.done(&view, path.as_str(), &sentence)
}
