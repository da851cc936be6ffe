//! The one proposer: takes whatever commands are queued, applies them in one durable step, then answers them all.
//!
//! The state machine blocks on the disk, so it has a thread of its own, and the mailbox is the only way to it. Many
//! callers share one sync: that is where the Directory's throughput comes from. What the others look at, the revision
//! and the cluster map, is published before the answers go out, so that nobody is told of a change that a look a moment
//! later does not show.
//!
//! When the tables fail, nothing more is applied and the service ends: what a failed sync has left behind is only known
//! after the database was opened again.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    clock,
    command::{Command, Outcome},
    error::{Error, Rejected},
    map,
    state::{Applied, Database},
};
use crate::{
    cluster::ClusterMap,
    types::{Revision, Timestamp},
};

/// Calls that wait for their turn.
const MAILBOX_LENGTH: usize = 4096;
/// Commands of one durable step: bounds the time until the first of them is answered.
const BATCH_COMMANDS_MAX: usize = 4096;
/// How long a call waits for a place in the mailbox.
const QUEUE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a call waits for its answer; a disk that hangs for longer leaves the outcome unknown.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("the Directory has more to do than it can")]
    Overloaded,
    #[error("the Directory is stopping")]
    Stopping,
    #[error("the Directory's disk did not answer in time; the change may or may not have happened")]
    TimedOut,
}

/// The newest durable state, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub revision: Revision,
    /// Of the last command; the Directory's time never goes back behind it.
    pub time: Timestamp,
}

struct Proposal {
    commands: Vec<Command>,
    answer: oneshot::Sender<Vec<Applied>>,
}

enum Message {
    Propose(Proposal),
    /// Answers what came before, then ends.
    Stop,
}

/// Where commands are proposed.
#[derive(Clone)]
pub struct Proposer(mpsc::Sender<Message>);

impl Proposer {
    /// Applies one command; when this returns, its outcome is durable.
    pub async fn propose(&self, command: Command) -> Result<(Revision, Outcome), ProposeError> {
        let applied = self.propose_all(vec![command]).await?.pop().ok_or(ProposeError::Stopping)?;
        Ok((applied.revision, applied.result?))
    }

    /// Applies the commands in this order, with nothing between them and in one durable step. Each is accepted or
    /// rejected by itself.
    pub async fn propose_all(&self, commands: Vec<Command>) -> Result<Vec<Applied>, ProposeError> {
        let (answer, answered) = oneshot::channel();
        let message = Message::Propose(Proposal { commands, answer });
        self.0.send_timeout(message, QUEUE_DEADLINE).await.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => ProposeError::Overloaded,
            mpsc::error::SendTimeoutError::Closed(_) => ProposeError::Stopping,
        })?;
        match tokio::time::timeout(ANSWER_DEADLINE, answered).await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(_)) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::TimedOut),
        }
    }
}

/// The running thread, and what it publishes.
pub struct Driver {
    /// How the thread ended; nothing if it panicked.
    result: oneshot::Receiver<Result<(), Error>>,
    proposer: Proposer,
    pub progress: watch::Receiver<Progress>,
    pub map: watch::Receiver<Arc<ClusterMap>>,
}

impl Driver {
    /// Starts the thread. It ends when told to, or after a failure of the tables; `ended` is cancelled then.
    pub fn start(database: Arc<Database>, ended: CancellationToken) -> Result<Self, Error> {
        let view = database.view()?;
        let (progress_sender, progress) = watch::channel(Progress { revision: view.revision(), time: view.time() });
        let (map_sender, map) = watch::channel(Arc::new(map::load(&view)?));
        drop(view);
        let (sender, mailbox) = mpsc::channel(MAILBOX_LENGTH);
        let (result_sender, result) = oneshot::channel();
        thread::spawn(move || {
            // However the thread ends, also by a panic.
            let _ended = ended.drop_guard();
            let result = Loop { database, mailbox, progress: progress_sender, map: map_sender }.run();
            if let Err(Err(error)) = result_sender.send(result) {
                // Nobody waits for it where the start has failed.
                tracing::error!(error = &error as &dyn std::error::Error, "the tables have failed");
            }
        });
        Ok(Self { result, proposer: Proposer(sender), progress, map })
    }

    pub fn proposer(&self) -> Proposer {
        self.proposer.clone()
    }

    /// Answers what was proposed before, and ends the thread. Says why, if the tables failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        let ended = async {
            // A closed mailbox is a thread that has ended already, and has said how.
            let _ended = self.proposer.0.send(Message::Stop).await;
            self.result.await
        };
        let ended = tokio::time::timeout(ANSWER_DEADLINE, ended).await.context("the disk does not answer")?;
        ended.context("the thread that applies commands has panicked")?.context("the tables have failed")
    }
}

struct Loop {
    database: Arc<Database>,
    mailbox: mpsc::Receiver<Message>,
    progress: watch::Sender<Progress>,
    map: watch::Sender<Arc<ClusterMap>>,
}

impl Loop {
    fn run(mut self) -> Result<(), Error> {
        let mut stopping = false;
        while !stopping {
            let Some(first) = self.mailbox.blocking_recv() else { break };
            let mut batch = Vec::new();
            let mut next = Some(first);
            let mut count = 0;
            while let Some(message) = next {
                match message {
                    Message::Propose(proposal) => {
                        count += proposal.commands.len();
                        batch.push(proposal);
                    }
                    Message::Stop => {
                        stopping = true;
                        break;
                    }
                }
                next = (count < BATCH_COMMANDS_MAX).then(|| self.mailbox.try_recv().ok()).flatten();
            }
            self.apply(batch)?;
        }
        Ok(())
    }

    /// One durable step for all that is still waited for; then the answers.
    fn apply(&self, batch: Vec<Proposal>) -> Result<(), Error> {
        let mut commands = Vec::new();
        let mut answers = Vec::new();
        for proposal in batch {
            if !proposal.answer.is_closed() {
                answers.push((proposal.commands.len(), proposal.answer));
                commands.extend(proposal.commands);
            }
        }
        let mut applied = self.database.apply(clock::now(), &commands)?.into_iter();
        self.publish()?;
        for (count, answer) in answers {
            // Who has gone in the meantime asks again under the same write id.
            let _unheard = answer.send(applied.by_ref().take(count).collect());
        }
        Ok(())
    }

    fn publish(&self) -> Result<(), Error> {
        let view = self.database.view()?;
        let map_version = self.map.borrow().map_version;
        if view.map_version() != map_version {
            self.map.send_replace(Arc::new(map::load(&view)?));
        }
        let newest = Progress { revision: view.revision(), time: view.time() };
        self.progress.send_if_modified(|progress| std::mem::replace(progress, newest) != newest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicBool, Ordering},
    };

    use redb::{StorageBackend, backends::InMemoryBackend};

    use super::*;
    use crate::{
        directory::command::Settings,
        types::{ClusterId, WriteId},
    };

    /// Memory that can be told to fail its syncs.
    #[derive(Debug, Default)]
    struct Disk {
        memory: InMemoryBackend,
        broken: Arc<AtomicBool>,
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
            if self.broken.load(Ordering::SeqCst) {
                return Err(io::Error::other("the disk is broken"));
            }
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.memory.write(offset, data)
        }
    }

    struct Setup {
        driver: Driver,
        broken: Arc<AtomicBool>,
        ended: CancellationToken,
    }

    fn a_running_driver() -> Setup {
        let disk = Disk::default();
        let broken = disk.broken.clone();
        let database = Database::open_backend(disk).unwrap();
        let settings = Settings {
            group_count: 1,
            copies: 1,
            min_in_sync: 1,
            initial_fileservers: 1,
            keep_versions: 1,
            keep_for_ms: 0,
            garbage_grace_ms: 0,
        };
        let bootstrap = Command::Bootstrap { cluster: ClusterId::random(), lock_key: [7; 32], settings };
        database.apply(Timestamp(1), &[bootstrap]).unwrap();
        let ended = CancellationToken::new();
        let driver = Driver::start(Arc::new(database), ended.clone()).unwrap();
        Setup { driver, broken, ended }
    }

    fn create(path: &str) -> Command {
        Command::CreateDirectory {
            write_id: WriteId::random(),
            path: path.parse().unwrap(),
            parents: false,
            mode: 0o755,
        }
    }

    #[tokio::test]
    async fn a_batch_is_applied_in_order_and_each_command_is_answered_by_itself() {
        let Setup { driver, .. } = a_running_driver();
        let batch = vec![create("/a/b"), create("/a"), create("/a/b"), create("/a")];
        let applied = driver.proposer().propose_all(batch).await.unwrap();
        let accepted: Vec<bool> = applied.iter().map(|applied| applied.result.is_ok()).collect();
        assert_eq!(accepted, [false, true, true, false]);
        assert_eq!(driver.progress.borrow().revision, applied[3].revision, "published before it is answered");
        driver.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_was_proposed_before_the_stop_is_answered_and_nothing_after() {
        let Setup { driver, ended, .. } = a_running_driver();
        let proposer = driver.proposer();
        let calls = (0..100).map(|number| {
            let proposer = proposer.clone();
            async move { proposer.propose(create(&format!("/{number}"))).await }
        });
        let answers = futures::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_ok));
        driver.stop().await.unwrap();
        ended.cancelled().await;
        assert!(matches!(proposer.propose(create("/late")).await, Err(ProposeError::Stopping)));
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_that_could_not_be_synced() {
        let Setup { driver, broken, ended } = a_running_driver();
        let proposer = driver.proposer();
        proposer.propose(create("/before")).await.unwrap();
        let before = *driver.progress.borrow();
        broken.store(true, Ordering::SeqCst);
        assert!(matches!(proposer.propose(create("/lost")).await, Err(ProposeError::Stopping)));
        ended.cancelled().await;
        broken.store(false, Ordering::SeqCst);
        assert!(matches!(proposer.propose(create("/after")).await, Err(ProposeError::Stopping)), "no second try");
        assert_eq!(*driver.progress.borrow(), before);
        assert!(driver.stop().await.is_err());
    }
}
