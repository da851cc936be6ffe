//! The Lock service with a real Directory behind it: sessions, queues, fences, and what a restart keeps.

mod fences;
mod nodes;
mod queues;
mod restarts;
mod sessions;
mod stalls;

use std::{path::Path, time::Duration};

use tokio::net::TcpListener;

use crate::common::{
    directory::{RunningDirectory, start_directory_at},
    gate::Gate,
    lock::{RunningLock, start_lock},
};

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(120);
/// The shortest lease there is.
pub const SHORT: Duration = Duration::from_secs(1);

/// A Directory, a Lock service, and the gate between them.
pub struct Pair {
    pub folder: tempfile::TempDir,
    pub directory: RunningDirectory,
    pub gate: Gate,
    pub lock: RunningLock,
}

pub async fn start_pair() -> Pair {
    let folder = tempfile::tempdir().expect("a folder");
    let (directory, gate) = start_directory_behind_gate(&folder.path().join("directory")).await;
    let lock = start_lock(&folder.path().join("lock"), &gate.address).await;
    Pair { folder, directory, gate, lock }
}

/// The map says no other way to it.
pub async fn start_directory_behind_gate(data: &Path) -> (RunningDirectory, Gate) {
    let address = free_address().await;
    let gate = Gate::before(&address).await;
    let directory = start_directory_at(&address, data, &["--advertise", &gate.address]).await;
    (directory, gate)
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("the port's address").to_string()
}

impl Pair {
    pub async fn stop(self) {
        self.lock.stop().await;
        self.directory.stop().await;
    }

    /// Stops the Lock service and starts it again with the same data.
    pub async fn restart_lock(self) -> Self {
        let Self { folder, directory, gate, lock } = self;
        lock.stop().await;
        let lock = start_lock(&folder.path().join("lock"), &gate.address).await;
        Self { folder, directory, gate, lock }
    }
}
