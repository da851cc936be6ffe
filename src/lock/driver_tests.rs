//! The driver over a disk that counts its syncs and can be broken.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use redb::{Database, StorageBackend, backends::InMemoryBackend};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    command::{IfHeld, Membership},
    driver::Driver,
    error::Error,
    fence::Directories,
    handle::{Handle, Progress, Wait},
    tables::Store,
};
use crate::types::{ClusterId, FencingToken, LockMode, Path, SessionId};

#[derive(Clone, Debug, Default)]
struct Switches {
    broken: Arc<AtomicBool>,
    syncs: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    switches: Switches,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.memory.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.switches.syncs.fetch_add(1, Ordering::SeqCst);
        if self.switches.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

struct Running {
    handle: Handle,
    switches: Switches,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn a_running_driver() -> Running {
    let switches = Switches::default();
    let disk = Disk { memory: InMemoryBackend::new(), switches: switches.clone() };
    let (store, state) = Store::of(Database::builder().create_with_backend(disk).unwrap()).unwrap();
    let nowhere = Directories::new(&["127.0.0.1:1".to_owned()]).unwrap();
    let (driver, handle) = Driver::new(state, store, Arc::new(nowhere));
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(driver.run(shutdown.clone()));
    handle.join(Membership { cluster: ClusterId::random(), key: [1; 32] }, FencingToken(0)).await.unwrap();
    Running { handle, switches, shutdown, task }
}

impl Running {
    async fn a_session(&self) -> SessionId {
        let session = SessionId::random();
        self.handle.open_session(session, 60_000, String::new()).await.unwrap();
        session
    }

    async fn acquire(&self, session: SessionId, path: &str) -> Result<Wait, Error> {
        self.handle.acquire(session, at(path), LockMode::Exclusive, IfHeld::Queue).await
    }
}

fn at(path: &str) -> Path {
    path.parse().unwrap()
}

#[tokio::test]
async fn nobody_is_told_what_the_disk_did_not_take() {
    let running = a_running_driver().await;
    let (holder, waiter) = (running.a_session().await, running.a_session().await);
    let granted = running.acquire(holder, "/f").await.unwrap();
    assert!(matches!(*granted.progress.borrow(), Progress::Granted(_)));
    let mut waiting = running.acquire(waiter, "/f").await.unwrap();
    assert!(matches!(*waiting.progress.borrow_and_update(), Progress::Waiting { position: 1, .. }));
    let revision = running.handle.revision();

    running.switches.broken.store(true, Ordering::SeqCst);
    assert_eq!(running.handle.release(holder, at("/f"), None).await, Err(Error::Stopping));
    assert!(waiting.progress.changed().await.is_err(), "the wait ends, and not with a grant");
    assert!(matches!(*waiting.progress.borrow(), Progress::Waiting { .. }));
    assert_eq!(running.handle.revision(), revision);
    assert!(running.task.await.unwrap().is_err(), "the service ends");
}

#[tokio::test]
async fn what_is_asked_together_is_one_commit() {
    const TOGETHER: usize = 200;
    let running = a_running_driver().await;
    let session = running.a_session().await;
    let before = running.switches.syncs.load(Ordering::SeqCst);
    let asked = (0..TOGETHER).map(|number| {
        let (running, path) = (&running, format!("/{number}"));
        async move { running.acquire(session, &path).await }
    });
    let granted = join_all(asked).await;
    assert!(granted.iter().all(|wait| wait.as_ref().is_ok_and(|wait| wait.ticket.is_none())));
    let syncs = running.switches.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs <= 20, "{syncs} syncs for {TOGETHER} grants");
    running.shutdown.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn asking_again_and_renewing_cost_no_commit() {
    let running = a_running_driver().await;
    let session = running.a_session().await;
    let first = running.acquire(session, "/f").await.unwrap();
    let (syncs, revision) = (running.switches.syncs.load(Ordering::SeqCst), running.handle.revision());
    let again = running.acquire(session, "/f").await.unwrap();
    assert_eq!(*again.progress.borrow(), *first.progress.borrow());
    assert_eq!(running.handle.renew(session).await, Ok(Duration::from_secs(60)));
    assert_eq!((running.switches.syncs.load(Ordering::SeqCst), running.handle.revision()), (syncs, revision));
    running.shutdown.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn watchers_are_told_and_forgotten() {
    let running = a_running_driver().await;
    let session = running.a_session().await;
    let mut changes = running.handle.watch(at("/f")).await.unwrap();
    let before = *changes.borrow_and_update();
    running.acquire(session, "/elsewhere").await.unwrap();
    running.acquire(session, "/f").await.unwrap();
    timeout(Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    assert_eq!(*changes.borrow(), running.handle.revision());
    assert!(*changes.borrow() > before);
    drop(changes);
    let again = running.handle.watch(at("/f")).await.unwrap();
    assert_eq!(*again.borrow(), running.handle.revision());
    running.shutdown.cancel();
    running.task.await.unwrap().unwrap();
}
