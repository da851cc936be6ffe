//! A terminal, and a program that believes that somebody sits at it.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tokio::process::{Child, Command};

use super::{cli::Ended, wait_until, within_deadline};

pub struct Terminal {
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    /// Starts the program at a terminal of its own.
    pub fn start(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&ours).expect("a terminal");
        unlockpt(&ours).expect("a terminal");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let theirs = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let theirs = rustix::fs::open(theirs, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let theirs = theirs.expect("the program's side");
        let stream = |side: &OwnedFd| Stdio::from(side.try_clone().expect("a stream"));
        command.env("TERM", "xterm").stdin(stream(&theirs)).stdout(stream(&theirs)).stderr(stream(&theirs));
        let child = command.spawn().expect("the program");
        let keys = File::from(ours);
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut screen, kept) = (keys.try_clone().expect("a stream"), shown.clone());
        // Ends with an error when the program has ended.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                kept.lock().expect("whole").extend_from_slice(&bytes[..count]);
            }
        });
        Self { keys, shown, child }
    }

    /// Everything at once, as a terminal hands on what is pasted.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal");
    }

    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("whole")).into_owned()
    }

    pub async fn wait_until_shown(&self, text: &str) {
        wait_until(&format!("`{text}` on the terminal"), || async { self.shown().contains(text) }).await;
    }

    /// How the program ended; all that was shown counts as its output.
    pub async fn end(mut self) -> Ended {
        let status = within_deadline("the end of a command", self.child.wait()).await.expect("its status");
        Ended { code: status.code().unwrap_or(-1), out: self.shown(), words: String::new() }
    }
}
