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
    thread: thread::JoinHandle<Result<(), Error>>,
    proposer: Proposer,
    pub progress: watch::Receiver<Progress>,
    pub map: watch::Receiver<Arc<ClusterMap>>,
}

impl Driver {
    /// Starts the thread. It ends when told to, or after a failure of the tables: then `failed` is cancelled.
    pub fn start(database: Arc<Database>, failed: CancellationToken) -> Result<Self, Error> {
        let view = database.view()?;
        let (progress_sender, progress) = watch::channel(Progress { revision: view.revision(), time: view.time() });
        let (map_sender, map) = watch::channel(Arc::new(map::load(&view)?));
        drop(view);
        let (sender, mailbox) = mpsc::channel(MAILBOX_LENGTH);
        let thread = thread::spawn(move || {
            let ended = Loop { database, mailbox, progress: progress_sender, map: map_sender }.run();
            if ended.is_err() {
                failed.cancel();
            }
            ended
        });
        Ok(Self { thread, proposer: Proposer(sender), progress, map })
    }

    pub fn proposer(&self) -> Proposer {
        self.proposer.clone()
    }

    /// Answers what was proposed before, and ends the thread. Says why, if the tables failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        // A closed mailbox is a thread that has ended already.
        let _ = self.proposer.0.send_timeout(Message::Stop, QUEUE_DEADLINE).await;
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("the thread that applies commands has panicked"))??;
        Ok(())
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
            let _ = answer.send(applied.by_ref().take(count).collect());
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
