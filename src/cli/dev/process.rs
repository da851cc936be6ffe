//! Processes by their id: whether one still runs, and ending it in time.
//!
//! An id alone may have been given to another process since; with the time the process started it is unique, and a
//! pidfd makes the check and the signal speak of the same process.

use std::{fs, time::Duration};

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

/// How often the end of a process that is not our child is looked for.
const POLL: Duration = Duration::from_millis(20);
/// After SIGKILL a process is gone as soon as the kernel has taken it down.
const KILLED_WAIT: Duration = Duration::from_secs(5);

/// One process of this boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks from the boot to the start of the process.
    pub start_ticks: u64,
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was not there any more.
    WasGone,
    /// It ended when it was asked to.
    Clean,
    /// It had to be killed.
    Killed,
}

impl ProcessId {
    pub fn current() -> anyhow::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get()).context("this process is not in /proc")
    }

    /// None when no such process runs.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|start_ticks| Self { pid, start_ticks })
    }

    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// False when the process is gone.
    fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("open process {}", self.pid)),
        };
        // Asked after the pidfd was opened: what is alive now is what the pidfd speaks of.
        if !self.is_alive() {
            return Ok(false);
        }
        match pidfd_send_signal(&fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("signal process {}", self.pid)),
        }
    }

    /// Whether it was gone before the time was over.
    pub async fn wait_gone(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }
}

/// SIGTERM to all at once, `patience` for them to end, then SIGKILL to those that did not. In the order given.
pub async fn end_all(processes: &[ProcessId], patience: Duration) -> anyhow::Result<Vec<Ending>> {
    let mut endings = Vec::with_capacity(processes.len());
    for process in processes {
        endings.push(if process.signal(Signal::TERM)? { Ending::Clean } else { Ending::WasGone });
    }
    let deadline = Instant::now() + patience;
    for (process, ending) in processes.iter().zip(&mut endings) {
        if !process.wait_gone(deadline.saturating_duration_since(Instant::now())).await
            && process.signal(Signal::KILL)?
        {
            *ending = Ending::Killed;
        }
    }
    for process in processes {
        if !process.wait_gone(KILLED_WAIT).await {
            anyhow::bail!("process {} does not end even when killed", process.pid);
        }
    }
    Ok(endings)
}

/// The start time out of `/proc/PID/stat`; none for a process that has ended and only waits to be collected.
fn parse_stat(stat: &str) -> Option<u64> {
    // The name is in parentheses, and may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn stat(state: &str) -> String {
        let zeros = "0 ".repeat(18);
        format!("42 (a) name (x) {state} {zeros}777 1 2 3")
    }

    #[test]
    fn the_start_time_is_found_behind_a_name_with_parentheses() {
        assert_eq!(parse_stat(&stat("S")), Some(777));
        assert_eq!(parse_stat(&stat("Z")), None, "ended, not collected");
        assert_eq!(parse_stat("42 (short) S 1"), None);
    }

    #[test]
    fn a_process_is_told_from_another_with_the_same_id() {
        let this = ProcessId::current().expect("in /proc");
        assert!(this.is_alive());
        assert!(!ProcessId { start_ticks: this.start_ticks + 1, ..this }.is_alive());
    }

    #[tokio::test]
    async fn a_process_that_ends_when_asked_is_not_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let process = ProcessId::of(child.id().try_into().expect("fits")).expect("runs");
        assert_eq!(end_all(&[process], Duration::from_secs(10)).await.expect("ends"), [Ending::Clean]);
        assert!(!child.wait().expect("collected").success());
        assert_eq!(end_all(&[process], Duration::ZERO).await.expect("nothing to do"), [Ending::WasGone]);
    }

    #[tokio::test]
    async fn a_process_that_does_not_listen_is_killed() {
        use std::io::Read;
        let script = "trap '' TERM; echo ready; while :; do read -r _ || exec sleep 600; done";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut ready = [0; 6];
        child.stdout.take().expect("piped").read_exact(&mut ready).expect("says it is ready");
        let process = ProcessId::of(child.id().try_into().expect("fits")).expect("runs");
        assert_eq!(end_all(&[process], Duration::from_millis(50)).await.expect("ends"), [Ending::Killed]);
        assert!(!child.wait().expect("collected").success());
    }
}
