//! How handlers reach the driver: a bounded mailbox, and an answer that comes once the change is on stable storage.
//!
//! A handle is good for one lead. When that is over, whoever still waits is told, and no later answer comes.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    lock::{
        command::{Command, Grant, IfHeld, Membership, Outcome, Ticket},
        error::Error,
        state::LockView,
    },
    raft,
    types::{FencingToken, LockMode, Path, Revision, SessionId, Timestamp},
};

/// Requests that wait for the driver at most; who comes later waits before the mailbox.
pub(super) const MAILBOX: usize = 1024;
/// How long a request waits for the driver and its disk.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a break waits for the Directory on top.
const FENCE_DEADLINE: Duration = Duration::from_secs(30);

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(super) enum Request {
    Propose {
        command: Command,
        reply: Reply<Outcome>,
    },
    Renew {
        session: SessionId,
        reply: Reply<Duration>,
    },
    Acquire {
        session: SessionId,
        path: Path,
        mode: LockMode,
        if_held: IfHeld,
        reply: Reply<Wait>,
    },
    /// The wait with this ticket is over.
    GiveUp {
        session: SessionId,
        path: Path,
        ticket: Ticket,
        reply: Reply<Outcome>,
    },
    Break {
        path: Path,
        token: Option<FencingToken>,
        reply: Reply<FencingToken>,
    },
    Read(Read),
}

impl Request {
    /// Nothing was done for it.
    pub fn refuse(self, error: Error) {
        // Whoever asked may be gone; then nobody is told.
        match self {
            Self::Propose { reply, .. } | Self::GiveUp { reply, .. } => drop(reply.send(Err(error))),
            Self::Renew { reply, .. } => drop(reply.send(Err(error))),
            Self::Acquire { reply, .. } => drop(reply.send(Err(error))),
            Self::Break { reply, .. } => drop(reply.send(Err(error))),
            Self::Read(read) => read.refuse(error),
        }
    }
}

/// Answered from what is committed, after what stood before it in the mailbox.
pub(super) enum Read {
    View {
        path: Path,
        reply: Reply<Sighting>,
    },
    List {
        under: Path,
        after: Option<Path>,
        limit: usize,
        reply: Reply<(Vec<Sighting>, bool)>,
    },
    /// Tells the revision of each change of the path's lock.
    Watch {
        path: Path,
        reply: Reply<watch::Receiver<Revision>>,
    },
}

impl Read {
    pub fn refuse(self, error: Error) {
        match self {
            Self::View { reply, .. } => drop(reply.send(Err(error))),
            Self::List { reply, .. } => drop(reply.send(Err(error))),
            Self::Watch { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// A lock as it was at a moment.
pub struct Sighting {
    pub view: LockView,
    /// Of its holders, in the view's order.
    pub leases: Vec<Duration>,
    pub time: Timestamp,
}

/// How a wait stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Waiting {
        /// 1 is next.
        position: u32,
        waiters: u32,
        /// Empty while nobody holds the lock.
        holder: String,
    },
    Granted(Grant),
    Ended(Error),
}

/// One call's wait for a lock. Dropping it is the sign that the client is gone.
pub struct Wait {
    /// `None` once granted.
    pub ticket: Option<Ticket>,
    pub progress: watch::Receiver<Progress>,
    pub(super) delivered: Arc<AtomicBool>,
}

impl Wait {
    /// The grant is on its way to the client. One that never was is given up a while after the wait was dropped.
    pub fn set_delivered(&self) {
        self.delivered.store(true, Ordering::Release);
    }
}

/// The end of a handle's time.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Streams end with it.
    over: CancellationToken,
    lead_lost: OnceLock<()>,
}

impl End {
    /// It comes with that of `parent`.
    pub fn with(parent: &CancellationToken) -> Self {
        Self { over: parent.child_token(), lead_lost: OnceLock::new() }
    }

    /// Another node leads now.
    pub fn lose_lead(&self) {
        self.lead_lost.get_or_init(|| ());
        self.over.cancel();
    }
}

/// A handler's end of the mailbox.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    end: Arc<End>,
}

impl Handle {
    pub(super) fn new(requests: mpsc::Sender<Request>, end: Arc<End>) -> Self {
        Self { requests, end }
    }

    pub(super) fn end(&self) -> Arc<End> {
        self.end.clone()
    }

    /// Whether both are of the same lead.
    pub fn is_same(&self, other: &Self) -> bool {
        self.requests.same_channel(&other.requests)
    }

    /// Completes when calls that go on must end, with why.
    pub async fn over(&self) -> Error {
        self.end.over.cancelled().await;
        self.refusal()
    }

    /// Why nothing is taken any more.
    pub fn refusal(&self) -> Error {
        match self.end.lead_lost.get() {
            Some(()) => Error::Group(raft::Error::NotLeader { leader: None }),
            None => Error::Stopping,
        }
    }

    /// What was taken was never answered.
    fn silence(&self) -> Error {
        match self.end.lead_lost.get() {
            Some(()) => Error::Group(raft::Error::LeadLost { leader: None }),
            None => Error::Group(raft::Error::Ended),
        }
    }

    /// `newest`: the newest token that the Directory has seen.
    pub async fn join(&self, membership: Membership, newest: FencingToken) -> Result<(), Error> {
        self.propose(Command::Join { membership, newest }).await.map(|_| ())
    }

    /// The lease's length in ms.
    pub async fn open_session(&self, session: SessionId, ttl_ms: u64, client: String) -> Result<u64, Error> {
        match self.propose(Command::OpenSession { session, ttl_ms, client }).await? {
            Outcome::Opened { ttl_ms } => Ok(ttl_ms),
            Outcome::Done
            | Outcome::Granted { .. }
            | Outcome::Queued { .. }
            | Outcome::GaveUp(_)
            | Outcome::Broken { .. } => Err(Error::SessionNotFound { session }),
        }
    }

    pub async fn close_session(&self, session: SessionId) -> Result<(), Error> {
        self.propose(Command::CloseSession { session }).await.map(|_| ())
    }

    pub async fn release(&self, session: SessionId, path: Path, token: Option<FencingToken>) -> Result<(), Error> {
        self.propose(Command::Release { session, path, token }).await.map(|_| ())
    }

    async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        self.ask(|reply| Request::Propose { command, reply }).await
    }

    /// The lease now runs so long.
    pub async fn renew(&self, session: SessionId) -> Result<Duration, Error> {
        self.ask(|reply| Request::Renew { session, reply }).await
    }

    pub async fn acquire(
        &self,
        session: SessionId,
        path: Path,
        mode: LockMode,
        if_held: IfHeld,
    ) -> Result<Wait, Error> {
        self.ask(|reply| Request::Acquire { session, path, mode, if_held, reply }).await
    }

    /// Ends a wait; a grant that came before stands. [`Error::Held`] is what the client is told.
    pub async fn give_up(&self, session: SessionId, path: Path, ticket: Ticket) -> Result<Grant, Error> {
        match self.ask(|reply| Request::GiveUp { session, path: path.clone(), ticket, reply }).await? {
            Outcome::Granted { grant, .. } => Ok(grant),
            Outcome::GaveUp(told) => Err(told),
            Outcome::Done | Outcome::Opened { .. } | Outcome::Queued { .. } | Outcome::Broken { .. } => {
                Err(Error::WaitGivenUp { path })
            }
        }
    }

    /// Answers when the Directory refuses what is older than the token.
    pub async fn break_lock(&self, path: Path, token: Option<FencingToken>) -> Result<FencingToken, Error> {
        let pending = Error::FencePending { path: path.clone() };
        let (reply, answer) = oneshot::channel();
        self.send(Request::Break { path, token, reply }).await?;
        match timeout(FENCE_DEADLINE, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(self.silence())),
            Err(_) => Err(pending),
        }
    }

    pub async fn view(&self, path: Path) -> Result<Sighting, Error> {
        self.ask(|reply| Request::Read(Read::View { path, reply })).await
    }

    /// A page, and whether there is more behind it.
    pub async fn list(&self, under: Path, after: Option<Path>, limit: usize) -> Result<(Vec<Sighting>, bool), Error> {
        self.ask(|reply| Request::Read(Read::List { under, after, limit, reply })).await
    }

    pub async fn watch(&self, path: Path) -> Result<watch::Receiver<Revision>, Error> {
        self.ask(|reply| Request::Read(Read::Watch { path, reply })).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        match timeout(DEADLINE, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(self.silence())),
            Err(_) => Err(Error::TooBusy),
        }
    }

    async fn send(&self, request: Request) -> Result<(), Error> {
        match timeout(DEADLINE, self.requests.send(request)).await {
            Ok(sent) => sent.map_err(|_| self.refusal()),
            Err(_) => Err(Error::TooBusy),
        }
    }
}
