//! System calls of a running process that fail or take long, by `strace`: no code of ours has a part in it.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Whether the tool is there and may do its work. Where everything is checked it must; elsewhere a test that needs it is skipped, and
/// says so.
pub fn is_there() -> bool {
    let found = Command::new("strace").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_demanded = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let lack = if !found.is_ok_and(|status| status.success()) {
        "strace, which is not here; install it with `apt-get install strace`, or run scripts/ci/tools"
    } else if !may_attach() {
        "strace to attach to processes, which is not allowed here: `sysctl kernel.yama.ptrace_scope=0`, or a container with \
         `--cap-add SYS_PTRACE`"
    } else {
        return true;
    };
    assert!(!is_demanded, "this test needs {lack}");
    eprintln!("SKIPPED: this test needs {lack}");
    false
}

/// Tried on a process that, as those of a cluster, is none of strace's own.
fn may_attach() -> bool {
    let mut idle = Command::new("sleep").arg("60").spawn().expect("start sleep");
    let strace = Strace::try_attach(idle.id(), &["fsync:delay_enter=0"]);
    let may = strace.is_some();
    drop(strace);
    idle.kill().expect("end sleep");
    idle.wait().expect("the end of sleep");
    may
}

/// Holds a process as long as it lives; the process goes on untouched afterwards.
pub struct Strace(Child);

impl Strace {
    /// Attaches to every thread of the process. `injections` is in strace's words, without `inject=`.
    pub fn attach(pid: u32, injections: &[&str]) -> Self {
        Self::try_attach(pid, injections).expect("strace may attach, as it has shown")
    }

    /// `None` if it may not.
    fn try_attach(pid: u32, injections: &[&str]) -> Option<Self> {
        let calls: Vec<&str> = injections.iter().filter_map(|it| it.split_once(':')).map(|(calls, _)| calls).collect();
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string(), "-e", &format!("trace={}", calls.join(","))])
            .args(injections.iter().flat_map(|it| ["-e".to_owned(), format!("inject={it}")]))
            .stdin(Stdio::null())
            .spawn()
            .expect("start strace");
        let mut strace = Self(child);
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        while !is_traced(pid) {
            if strace.0.try_wait().expect("ask for a child").is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "strace does not attach");
            std::thread::sleep(POLL);
        }
        Some(strace)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It lets go of the process first. One that ended with its process is waited for all the same.
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            kill_process(pid, Signal::TERM).ok();
        }
        self.0.wait().ok();
    }
}

/// Whether all threads of the process are held.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        // A thread that has ended meanwhile has no status.
        !status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() == "0"))
    })
}
