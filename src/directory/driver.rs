//! The one proposer of a leading Directory: takes whatever commands are queued, and puts them into the log as one entry.
//!
//! Many callers share an entry, and many entries a sync: that is where the Directory's throughput comes from. What comes
//! while some are under way makes up the next entry, so a lone command waits for nobody. An answer is given when the entry
//! is on stable storage on a majority and applied here, and what the others look at is published before.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    clock,
    command::{Command, Outcome},
    error::Rejected,
    records,
    state::Applied,
};
use crate::{
    metrics::{Counter, Seconds},
    raft::{self, Answer, Group},
    types::Revision,
};

/// Calls that wait for their turn.
const MAILBOX_LENGTH: usize = 4096;
/// Commands of one entry: bounds the time until the first of them is answered.
const BATCH_COMMANDS_MAX: usize = 512;
/// Entries under way.
const ENTRIES_MAX: usize = 4;
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
    #[error(transparent)]
    Group(#[from] raft::Error),
}

type Answered = Result<Vec<Applied>, raft::Error>;

struct Proposal {
    commands: Vec<Command>,
    answer: oneshot::Sender<Answered>,
}

enum Message {
    Propose(Proposal),
    /// Answers what came before, then ends.
    Stop,
}

/// What is counted of proposals; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Commits refused for an old token.
    pub fencing_rejections: Counter,
    /// Until an entry of the log is durable and applied.
    pub propose: Seconds,
}

impl Counts {
    fn applied(&self, applied: &[Applied]) {
        let is_stale = |it: &&Applied| matches!(it.result, Err(Rejected::FencingTokenStale { .. }));
        self.fencing_rejections.inc_by(applied.iter().filter(is_stale).count() as u64);
    }
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
            Ok(Ok(applied)) => Ok(applied?),
            Ok(Err(_)) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::TimedOut),
        }
    }
}

/// The log, as the driver needs it.
pub trait Log: Send + Sync + 'static {
    fn propose(&self, entry: bytes::Bytes) -> impl Future<Output = Result<Answer, raft::Error>> + Send;
}

impl Log for Group {
    async fn propose(&self, entry: bytes::Bytes) -> Result<Answer, raft::Error> {
        Group::propose(self, entry).await
    }
}

/// The running task.
pub struct Driver {
    task: JoinHandle<()>,
    proposer: Proposer,
}

impl Driver {
    /// Starts the task. It ends when told to; when `lost` is cancelled, whoever waits is told that the lead was lost.
    pub fn start<L: Log>(log: Arc<L>, lost: CancellationToken, counts: Counts) -> Self {
        let (sender, mailbox) = mpsc::channel(MAILBOX_LENGTH);
        let task = tokio::spawn(Loop { log, mailbox, lost, counts, under_way: FuturesUnordered::new() }.run());
        Self { task, proposer: Proposer(sender) }
    }

    pub fn proposer(&self) -> Proposer {
        self.proposer.clone()
    }

    /// Answers what was proposed before, and ends the task.
    pub async fn stop(self) -> anyhow::Result<()> {
        let ended = async {
            // A closed mailbox is a task that has ended already.
            let _unheard = self.proposer.0.send(Message::Stop).await;
            self.task.await
        };
        let ended = tokio::time::timeout(ANSWER_DEADLINE, ended).await.context("the disk does not answer")?;
        ended.context("the task that proposes commands has panicked")
    }
}

struct Loop<L> {
    log: Arc<L>,
    mailbox: mpsc::Receiver<Message>,
    lost: CancellationToken,
    counts: Counts,
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl<L: Log> Loop<L> {
    async fn run(mut self) {
        let mut stopping = false;
        while !stopping {
            let lost = self.lost.clone();
            tokio::select! {
                biased;
                () = lost.cancelled() => break,
                Some(()) = self.under_way.next() => {}
                message = self.mailbox.recv(), if self.under_way.len() < ENTRIES_MAX => {
                    let (batch, last) = self.gather(message);
                    stopping = last;
                    self.begin(batch);
                }
            }
        }
        // Who comes now is told at once; who was before is answered, or told that the lead was lost.
        self.mailbox.close();
        while self.under_way.next().await.is_some() {}
    }

    /// The message and what lies behind it; whether that was the last.
    fn gather(&mut self, first: Option<Message>) -> (Vec<Proposal>, bool) {
        let (mut batch, mut count) = (Vec::new(), 0);
        let mut next = first;
        loop {
            match next {
                Some(Message::Propose(proposal)) => {
                    count += proposal.commands.len();
                    batch.push(proposal);
                }
                Some(Message::Stop) | None => return (batch, true),
            }
            if count >= BATCH_COMMANDS_MAX {
                return (batch, false);
            }
            next = match self.mailbox.try_recv() {
                Ok(message) => Some(message),
                Err(_) => return (batch, false),
            };
        }
    }

    /// One entry for all that is still waited for.
    fn begin(&mut self, batch: Vec<Proposal>) {
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        for proposal in batch {
            if !proposal.answer.is_closed() {
                answers.push((proposal.commands.len(), proposal.answer));
                commands.extend(proposal.commands);
            }
        }
        if answers.is_empty() {
            return;
        }
        let entry = records::batch_out(clock::now(), &commands);
        let (log, lost, counts) = (self.log.clone(), self.lost.clone(), self.counts.clone());
        let proposing = async move {
            let start = Instant::now();
            let answered = tokio::select! {
                answered = log.propose(entry) => answered.and_then(applied),
                () = lost.cancelled() => Err(raft::Error::LeadLost { leader: None }),
            };
            if let Ok(applied) = &answered {
                counts.propose.since(start);
                counts.applied(applied);
            }
            tell(answers, answered);
        };
        self.under_way.push(proposing.boxed());
    }
}

fn applied(answer: Answer) -> Answered {
    answer.downcast().map(|applied| *applied).map_err(|_| raft::Error::Ended)
}

fn tell(answers: Vec<(usize, oneshot::Sender<Answered>)>, answered: Answered) {
    match answered {
        Ok(applied) => {
            let mut applied = applied.into_iter();
            for (count, answer) in answers {
                // Who has gone in the meantime asks again under the same write id.
                let _unheard = answer.send(Ok(applied.by_ref().take(count).collect()));
            }
        }
        Err(error) => {
            for (_, answer) in answers {
                let _unheard = answer.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::{
        directory::{command::Settings, machine::DirectoryMachine, state::Database},
        raft::Machine,
        types::{ClusterId, Timestamp, WriteId},
    };

    /// A log of one that forgets: applies what is proposed, unless it is told to fail or to be silent.
    struct Immediate {
        database: Database,
        machine: DirectoryMachine,
        failing: AtomicBool,
        silent: AtomicBool,
    }

    impl Log for Immediate {
        async fn propose(&self, entry: bytes::Bytes) -> Result<Answer, raft::Error> {
            if self.failing.load(Ordering::SeqCst) {
                return Err(raft::Error::NotLeader { leader: None });
            }
            if self.silent.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let transaction = self.database.store().begin_write().unwrap();
            let answer = self.machine.apply(&transaction, &[entry]).unwrap().pop().unwrap();
            transaction.commit().unwrap();
            self.machine.applied(self.database.store()).unwrap();
            Ok(answer)
        }
    }

    struct Setup {
        driver: Driver,
        log: Arc<Immediate>,
        lost: CancellationToken,
    }

    fn a_running_driver() -> Setup {
        let database = Database::open_backend(InMemoryBackend::new()).unwrap();
        let settings = Settings {
            group_count: 1,
            copies: 1,
            min_in_sync: 1,
            initial_fileservers: 1,
            keep_versions: 1,
            keep_for_ms: 0,
            garbage_grace_ms: 0,
            repair_after_ms: 0,
        };
        let bootstrap = Command::Bootstrap { cluster: ClusterId::random(), lock_key: [7; 32], settings };
        database.apply(Timestamp(1), &[bootstrap]).unwrap();
        let machine = DirectoryMachine::new(&database).unwrap();
        let (failing, silent) = (AtomicBool::new(false), AtomicBool::new(false));
        let log = Arc::new(Immediate { database, machine, failing, silent });
        let lost = CancellationToken::new();
        Setup { driver: Driver::start(log.clone(), lost.clone(), Counts::default()), log, lost }
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
        let Setup { driver, log, .. } = a_running_driver();
        let batch = vec![create("/a/b"), create("/a"), create("/a/b"), create("/a")];
        let applied = driver.proposer().propose_all(batch).await.unwrap();
        let accepted: Vec<bool> = applied.iter().map(|applied| applied.result.is_ok()).collect();
        assert_eq!(accepted, [false, true, true, false]);
        let published = log.machine.progress().borrow().revision;
        assert_eq!(published, applied[3].revision, "published before it is answered");
        driver.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_was_proposed_before_the_stop_is_answered_and_nothing_after() {
        let Setup { driver, .. } = a_running_driver();
        let proposer = driver.proposer();
        let calls = (0..100).map(|number| {
            let proposer = proposer.clone();
            async move { proposer.propose(create(&format!("/{number}"))).await }
        });
        let answers = futures::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_ok));
        driver.stop().await.unwrap();
        assert!(matches!(proposer.propose(create("/late")).await, Err(ProposeError::Stopping)));
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_that_the_log_has_refused() {
        let Setup { driver, log, .. } = a_running_driver();
        let proposer = driver.proposer();
        proposer.propose(create("/before")).await.unwrap();
        let before = *log.machine.progress().borrow();
        log.failing.store(true, Ordering::SeqCst);
        let refused = proposer.propose(create("/lost")).await;
        assert!(matches!(refused, Err(ProposeError::Group(raft::Error::NotLeader { .. }))), "{refused:?}");
        assert_eq!(*log.machine.progress().borrow(), before);
        log.failing.store(false, Ordering::SeqCst);
        proposer.propose(create("/after")).await.unwrap();
        driver.stop().await.unwrap();
    }

    #[tokio::test]
    async fn whoever_waits_when_the_lead_is_lost_is_told_at_once() {
        let Setup { driver, log, lost } = a_running_driver();
        log.silent.store(true, Ordering::SeqCst);
        let proposer = driver.proposer();
        let waiting = tokio::spawn({
            let proposer = proposer.clone();
            async move { proposer.propose(create("/a")).await }
        });
        tokio::task::yield_now().await;
        lost.cancel();
        let told = waiting.await.unwrap();
        let expected = matches!(told, Err(ProposeError::Group(raft::Error::LeadLost { .. }) | ProposeError::Stopping));
        assert!(expected, "{told:?}");
        assert!(matches!(proposer.propose(create("/b")).await, Err(ProposeError::Stopping)));
    }
}
