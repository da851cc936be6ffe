//! The folder of a local cluster: who runs on it, and what must be the same at the next start.
//!
//! `dev.lock` is held while a cluster is started and for as long as `dev` stays with it, so that two of them never start on
//! one folder. `dev.json` names the processes; the start time beside each process id tells the process from a later one
//! that was given the same id.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{plan::Shape, process::ProcessId};
use crate::durable;

/// What `dev.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub shape: Shape,
    /// File servers at the last start; never fewer than before.
    pub fileservers: u32,
    pub running: Option<Running>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// The `dev` that stays with the servers; none when they were left running.
    pub supervisor: Option<ProcessId>,
    /// Directory first.
    pub servers: Vec<RunningServer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningServer {
    pub name: String,
    pub service: String,
    pub address: String,
    pub log: PathBuf,
    pub process: ProcessId,
}

impl Running {
    pub fn directory(&self) -> &str {
        self.servers.first().map(|server| server.address.as_str()).unwrap_or_default()
    }

    /// Whether anything of it still runs.
    pub fn is_alive(&self) -> bool {
        self.supervisor.iter().chain(self.servers.iter().map(|server| &server.process)).any(ProcessId::is_alive)
    }
}

/// A folder that this process alone may start a cluster on, until this is dropped.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where there is none. `None` when another `dev` has it.
    pub fn lock(path: &Path) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(path.join("logs")).with_context(|| format!("make the folder {}", path.display()))?;
        let path = fs::canonicalize(path).with_context(|| format!("find the folder {}", path.display()))?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("dev.lock"));
        let lock = lock.with_context(|| format!("open {}", path.join("dev.lock").display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// Absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, record: &Record) -> anyhow::Result<()> {
        let path = record_path(&self.path);
        let text = serde_json::to_string_pretty(record).context("encode dev.json")?;
        // Whole or not at all: without it nobody knows which servers to stop.
        durable::atomic_replace(&path, (text + "\n").as_bytes()).with_context(|| format!("write {}", path.display()))
    }
}

/// What is known of the cluster in a folder; none where there never was one.
pub fn read_record(folder: &Path) -> anyhow::Result<Option<Record>> {
    let path = record_path(folder);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    match serde_json::from_str(&text) {
        Ok(record) => Ok(Some(record)),
        Err(error) => bail!(
            "{} is damaged ({error}); make sure that no dfs server runs on this folder, then delete that file: the data does not depend on it",
            path.display()
        ),
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("dev.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_at_a_time() {
        let temp = tempfile::tempdir().expect("a folder");
        let data = temp.path().join("cluster");
        let first = Folder::lock(&data).expect("can lock");
        assert!(first.is_some());
        assert!(Folder::lock(&data).expect("can try").is_none());
        drop(first);
        assert!(Folder::lock(&data).expect("can lock again").is_some());
    }

    #[test]
    fn the_record_comes_back_as_it_was_written() {
        let temp = tempfile::tempdir().expect("a folder");
        assert_eq!(read_record(temp.path()).expect("readable"), None);
        let folder = Folder::lock(temp.path()).expect("can lock").expect("nobody has it");
        let server = RunningServer {
            name: "directory-1".into(),
            service: "dfs.v1.Directory".into(),
            address: "127.0.0.1:7070".into(),
            log: temp.path().join("logs/directory-1.log"),
            process: ProcessId::current().expect("this process"),
        };
        let running = Running { supervisor: None, servers: vec![server] };
        assert!(running.is_alive());
        let record = Record { shape: Shape::new(3), fileservers: 3, running: Some(running) };
        folder.write(&record).expect("writable");
        assert_eq!(read_record(temp.path()).expect("readable"), Some(record));
    }

    #[test]
    fn a_damaged_record_says_what_to_do() {
        let temp = tempfile::tempdir().expect("a folder");
        fs::write(record_path(temp.path()), "{\"shape\":").expect("writable");
        let error = read_record(temp.path()).expect_err("not JSON").to_string();
        assert!(error.contains("dev.json is damaged") && error.contains("delete that file"), "{error}");
    }
}
