//! `lock run`: a command that runs only while its lock is held.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::HowArguments;
use crate::cli::{
    context::{Context, LOCK_PATH, LOCK_TOKEN},
    error::{Error, Result, exit},
    interrupt::CHILD_END,
    locking::{TTL, acquire, release},
};
use crate::{client::LockGuard, status::Reason};

/// As a shell has them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    path: String,
    #[command(flatten)]
    how: HowArguments,
    /// The command and its arguments, after --
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let path = context.path(&arguments.path)?;
    let guard = acquire(context, &path, arguments.how.locking(TTL)).await?;
    let _hold = context.interrupt.hold();
    // The terminal's Ctrl-C reaches the child by itself; how it ends is up to the child.
    let _deaf = context.interrupt.deafen();
    let mut child = match start(&arguments.command, &guard, context) {
        Ok(child) => child,
        Err(error) => {
            release(guard).await;
            return Err(error);
        }
    };
    let interrupt = context.interrupt.clone();
    let ended = tokio::select! {
        status = child.wait() => status.map_err(Error::local("wait for the command"))?,
        lost = guard.session().lost() => {
            end(&mut child).await;
            let text = format!("the lease on {path} was lost, the command was ended: {}", lost.failure().message);
            return Err(Error::LeaseLost(text));
        }
        interrupted = interrupt.raised() => {
            end(&mut child).await;
            drop(guard);
            return Err(interrupted);
        }
    };
    if leaves_nothing_under_way(code(ended)) {
        release(guard).await;
    } else {
        // The lease runs out, which fences what is still under way.
        drop(guard);
    }
    match code(ended) {
        exit::OK => Ok(()),
        code => Err(Error::Silent(code)),
    }
}

/// Whether a command that ended so has no write of unknown fate. A `dfs-cli` in it may not have heard whether its write was
/// committed (1, 6), and what died by a signal, in a shell or not, may have been in the middle of one.
fn leaves_nothing_under_way(code: u8) -> bool {
    code < exit::SIGNAL_BASE && code != exit::OTHER && code != Reason::Unavailable.exit_code()
}

fn start(command: &[String], guard: &LockGuard, context: &Context) -> Result<Child> {
    let [program, arguments @ ..] = command else { return Err(Error::Usage("no command to run".to_owned())) };
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env(LOCK_TOKEN, guard.token().to_string())
        .env(LOCK_PATH, guard.path().as_str())
        .env("DFS_LOCK_SESSION", guard.session().id().to_string())
        .env("DFS_DIRECTORY", context.settings.directory.value.join(","))
        .kill_on_drop(true);
    // The lines of a script are the shell's, not the child's.
    if context.lines.as_ref().is_some_and(|lines| !lines.is_terminal()) {
        child.stdin(Stdio::null());
    }
    child.spawn().map_err(|error| Error::HereWithCode {
        code: if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE },
        message: format!("{program}: {error}"),
    })
}

/// Tells the child that it must stop, waits for it a moment, then ends it.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::debug!(%error, "the command has ended by itself");
    }
    if tokio::time::timeout(CHILD_END, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!(%error, "the command could not be ended");
    }
}

/// As a shell tells it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| i32::from(exit::SIGNAL_BASE) + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_childs() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }
}
