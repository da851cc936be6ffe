//! The one task that changes the lock state while this node leads: takes what is in the mailbox, decides, has the rows that
//! come of it committed, tells everybody.
//!
//! What is queued is decided in one turn and committed as one entry of the log: nobody is answered, granted or moved up
//! before that is on stable storage on a majority and applied here. What needs no entry, such as a renewal, is answered after
//! making sure that this node still leads. An entry that may not have been taken ends the driver, for its state is ahead of the
//! tables then: whoever leads next, this node or another, makes a driver anew from the tables. So what a deposed leader
//! has decided is never told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant as TokioInstant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    lock::{
        clock::{RunningClock, TICK},
        command::{Command, Effect, Key, Outcome},
        entry::Entry,
        error::Error,
        fan_out::{Claim, FanOut},
        fence::{Directories, Fences},
        handle::{End, Handle, MAILBOX, Progress, Read, Reply, Request, Sighting, Wait},
        machine::{self, Verdict},
        session::Leases,
        state::{LockView, Standing, State},
        tables::rows,
    },
    raft::{self, Answer as Applied, Group, LeadOver},
    types::{FencingToken, LeadId, Path, Revision, Timestamp},
};

/// Sessions and forsaken places that one turn ends at most: the rest is due in the next.
const ENDED_AT_ONCE: usize = 256;
/// However busy it is, leases are looked at so often.
const SWEEP_LATEST: Duration = Duration::from_secs(1);

/// The log, as the driver needs it.
pub(super) trait Log: Send + Sync + 'static {
    /// Answers with a [`Verdict`] once it is committed and applied here.
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<Applied, raft::Error>> + Send;

    /// Whether nobody else can have begun to lead since this lead began. It is not enough that this node leads: another
    /// one may have led between.
    fn confirm(&self, lead: LeadId) -> impl Future<Output = Result<(), raft::Error>> + Send;
}

/// The group's log, and what this node has applied of it.
pub(super) struct GroupLog {
    pub group: Arc<Group>,
    pub progress: watch::Receiver<machine::Progress>,
}

impl Log for GroupLog {
    async fn propose(&self, entry: Bytes) -> Result<Applied, raft::Error> {
        self.group.propose(entry).await
    }

    async fn confirm(&self, lead: LeadId) -> Result<(), raft::Error> {
        // Everything that was committed before is applied here then, the beginning of another lead too.
        self.group.confirm_lead().await?;
        match self.progress.borrow().lead == Some(lead) {
            true => Ok(()),
            false => Err(raft::Error::NotLeader { leader: None }),
        }
    }
}

pub(super) struct Driver<L> {
    /// Ahead of the tables while an entry is under way.
    state: State,
    log: Arc<L>,
    lead: LeadId,
    requests: mpsc::Receiver<Request>,
    leases: Leases,
    fan_out: FanOut,
    fences: Fences,
    /// Who broke a lock and waits for its fence.
    breaks: HashMap<Path, Vec<Reply<FencingToken>>>,
    started: Instant,
    clock: RunningClock,
    /// By the running clock.
    now: Duration,
    swept: Duration,
}

/// What one turn has decided, and what is neither committed nor told yet.
#[derive(Default)]
struct Batch {
    changed: BTreeSet<Key>,
    effects: Vec<Effect>,
    answers: Vec<Answer>,
}

/// What a request is answered after the commit, from the state as it is then.
enum Answer {
    Renewed { result: Result<Duration, Error>, reply: Reply<Duration> },
    Outcome { result: Result<Outcome, Error>, reply: Reply<Outcome> },
    Acquire { claim: Claim, fresh: Result<bool, Error>, reply: Reply<Wait> },
    Break { path: Path, result: Result<Outcome, Error>, reply: Reply<FencingToken> },
    Read(Read),
}

impl Answer {
    fn refuse(self, error: Error) {
        match self {
            Self::Renewed { reply, .. } => hand(reply, Err(error)),
            Self::Outcome { reply, .. } => hand(reply, Err(error)),
            Self::Acquire { reply, .. } => hand(reply, Err(error)),
            Self::Break { reply, .. } => hand(reply, Err(error)),
            Self::Read(read) => read.refuse(error),
        }
    }
}

impl<L: Log> Driver<L> {
    /// For a lead that has begun. Takes up the leases, each at its full length, and the fences of the state that the tables hold.
    pub fn new(state: State, log: Arc<L>, lead: LeadId, directories: Arc<Directories>, end: End) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(MAILBOX);
        let mut driver = Self {
            fan_out: FanOut::after_restart(&state, Duration::ZERO),
            log,
            lead,
            requests,
            leases: Leases::default(),
            fences: Fences::new(directories),
            breaks: HashMap::new(),
            started: Instant::now(),
            clock: RunningClock::default(),
            now: Duration::ZERO,
            swept: Duration::ZERO,
            state,
        };
        for effect in driver.state.resume() {
            driver.carry_out(effect);
        }
        (driver, Handle::new(sender, Arc::new(end)))
    }

    /// Until `served`, or until the lead is `lost`: then whoever still waits is told.
    pub async fn run(mut self, lost: CancellationToken, served: CancellationToken) -> LeadOver {
        let ended = self.take_turns(&lost, &served).await;
        if ended == LeadOver::Lost {
            self.requests.close();
            while let Some(request) = self.requests.recv().await {
                request.refuse(Error::Group(raft::Error::NotLeader { leader: None }));
            }
            for reply in std::mem::take(&mut self.breaks).into_values().flatten() {
                hand(reply, Err(Error::Group(raft::Error::LeadLost { leader: None })));
            }
        }
        ended
    }

    async fn take_turns(&mut self, lost: &CancellationToken, served: &CancellationToken) -> LeadOver {
        let mut requests = Vec::with_capacity(MAILBOX);
        loop {
            let mut commands = Vec::new();
            let wake = self.wake_at();
            tokio::select! {
                () = lost.cancelled() => return LeadOver::Lost,
                () = served.cancelled() => return LeadOver::Stopped,
                received = self.requests.recv_many(&mut requests, MAILBOX) => if received == 0 { return LeadOver::Stopped },
                (path, token) = self.fences.next_raised() => commands.push(Command::FenceRaised { path, token }),
                gone = self.fan_out.next_gone() => self.fan_out.drop_gone(gone, &self.state, self.now),
                () = sleep_until(wake) => {}
            }
            while requests.len() < MAILBOX
                && let Ok(request) = self.requests.try_recv()
            {
                requests.push(request);
            }
            let batch = self.decide_all(commands, &mut requests);
            let is_ahead = !batch.changed.is_empty();
            let settled = tokio::select! {
                settled = settle(&*self.log, self.lead, self.entries(&batch), !batch.answers.is_empty()) => settled,
                () = lost.cancelled() => Err(raft::Error::LeadLost { leader: None }),
            };
            match settled {
                Ok(()) => self.tell(batch),
                Err(error) => {
                    for answer in batch.answers {
                        answer.refuse(Error::Group(error.clone()));
                    }
                    if is_ahead {
                        return LeadOver::Lost;
                    }
                }
            }
        }
    }

    /// The next deadline, or the next look at the clock.
    fn wake_at(&self) -> TokioInstant {
        let next = [self.leases.next_expiry(), self.fan_out.next_grace()].into_iter().flatten().min();
        let pause = next.map_or(TICK, |at| at.saturating_sub(self.now).min(TICK));
        TokioInstant::now() + pause
    }

    fn decide_all(&mut self, commands: Vec<Command>, requests: &mut Vec<Request>) -> Batch {
        let reading = self.clock.observe(self.started.elapsed());
        self.now = reading.now;
        if !reading.stalled.is_zero() {
            tracing::warn!(stalled_ms = reading.stalled.as_millis() as u64, "stood still; leases run on by as much");
        }
        let drained = requests.len() < MAILBOX;
        let mut batch = Batch::default();
        // Whoever has renewed in time must not expire because others were served first.
        let renewals = requests.extract_if(.., |request| matches!(request, Request::Renew { .. }));
        for request in renewals {
            self.decide(request, &mut batch);
        }
        if drained || self.now.saturating_sub(self.swept) > SWEEP_LATEST {
            self.sweep(&mut batch);
        }
        for command in commands {
            self.apply_own(command, &mut batch);
        }
        for request in requests.drain(..) {
            self.decide(request, &mut batch);
        }
        batch
    }

    /// Ends what time has ended.
    fn sweep(&mut self, batch: &mut Batch) {
        self.swept = self.now;
        for session in self.leases.expired(self.now, ENDED_AT_ONCE) {
            tracing::info!(%session, "lease ran out");
            self.leases.end(session);
            self.apply_own(Command::ExpireSession { session }, batch);
        }
        for ((session, path), standing) in self.fan_out.given_up(&self.state, self.now, ENDED_AT_ONCE) {
            tracing::debug!(%session, %path, "nobody came back for a place in the queue or a grant");
            self.apply_own(
                match standing {
                    Standing::Waits(ticket) => Command::GiveUp { session, path, ticket },
                    Standing::Holds(grant) => Command::Release { session, path, token: Some(grant.token) },
                },
                batch,
            );
        }
    }

    fn apply(&mut self, command: &Command, batch: &mut Batch) -> Result<Outcome, Error> {
        let revision = Revision(self.state.revision().0 + 1);
        let applied = self.state.apply(revision, wall_clock(), command)?;
        batch.changed.extend(applied.changed);
        batch.effects.extend(applied.effects);
        Ok(applied.outcome)
    }

    /// A command that nobody asked for, and nobody is told the outcome of.
    fn apply_own(&mut self, command: Command, batch: &mut Batch) {
        if let Err(error) = self.apply(&command, batch) {
            tracing::debug!(?command, %error, "what was due is no more");
        }
    }

    fn decide(&mut self, request: Request, batch: &mut Batch) {
        let answer = match request {
            Request::Renew { session, reply } => {
                let renewed = self.leases.renew(session, self.now);
                Answer::Renewed { result: renewed.ok_or_else(|| self.state.missing(session)), reply }
            }
            Request::Propose { command, reply } => Answer::Outcome { result: self.apply(&command, batch), reply },
            Request::Acquire { session, path, mode, if_held, reply } => {
                let command = Command::Acquire { session, path: path.clone(), mode, if_held };
                let result = self.apply(&command, batch);
                let fresh = result.map(|outcome| matches!(outcome, Outcome::Granted { fresh: true, .. }));
                Answer::Acquire { claim: (session, path), fresh, reply }
            }
            Request::GiveUp { session, path, ticket, reply } => {
                let claim = (session, path);
                let result = match self.fan_out.is_shared(&claim) {
                    // Another call of the session waits on: the place stays.
                    true => Ok(Outcome::GaveUp(self.state.told_in_vain(&claim.1, ticket))),
                    false => self.apply(&Command::GiveUp { session, path: claim.1, ticket }, batch),
                };
                Answer::Outcome { result, reply }
            }
            Request::Break { path, token, reply } => {
                let result = self.apply(&Command::Break { path: path.clone(), token }, batch);
                Answer::Break { path, result, reply }
            }
            Request::Read(read) => Answer::Read(read),
        };
        batch.answers.push(answer);
    }

    /// What is to be committed of what was decided.
    fn entries(&self, batch: &Batch) -> Vec<Entry> {
        if batch.changed.is_empty() {
            return Vec::new();
        }
        Entry::of_rows(self.lead, rows(&self.state, &batch.changed))
    }

    /// What was decided is committed: carries it out, then answers.
    fn tell(&mut self, batch: Batch) {
        let mut moved: BTreeMap<Path, usize> = BTreeMap::new();
        for effect in batch.effects {
            match effect {
                Effect::Changed { path, first_moved } => {
                    let first = moved.entry(path).or_insert(first_moved);
                    *first = first_moved.min(*first);
                }
                effect => self.carry_out(effect),
            }
        }
        for (path, first_moved) in moved {
            self.fan_out.moved(&self.state, &path, first_moved);
            self.fan_out.changed(&path, self.state.revision());
        }
        for answer in batch.answers {
            self.answer(answer);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::LeaseBegan { session, ttl_ms } => {
                self.leases.begin(session, Duration::from_millis(ttl_ms), self.now);
            }
            Effect::LeaseEnded { session } => self.leases.end(session),
            Effect::Granted { session, path, grant } => self.fan_out.granted((session, path), grant, self.now),
            Effect::WaitEnded { session, path, error } => self.fan_out.ended(&(session, path), error),
            Effect::Changed { path, first_moved } => self.fan_out.moved(&self.state, &path, first_moved),
            Effect::RaiseFence { path, token } => {
                tracing::info!(%path, %token, "the lock passes on once the Directory has its fence");
                self.fences.raise(path, token);
            }
            Effect::FenceRaised { path, token } => {
                for reply in self.breaks.remove(&path).into_iter().flatten() {
                    hand(reply, Ok(token));
                }
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Renewed { result, reply } => hand(reply, result),
            Answer::Outcome { result, reply } => hand(reply, result),
            Answer::Acquire { claim, fresh, reply } => {
                let wait = fresh.and_then(|fresh| self.wait(claim, fresh));
                hand(reply, wait);
            }
            Answer::Break { path, result, reply } => match result {
                Ok(Outcome::Broken { token, .. }) if self.state.fence(&path) == Some(token) => {
                    let waiting = self.breaks.entry(path).or_default();
                    waiting.retain(|reply| !reply.is_closed());
                    waiting.push(reply);
                }
                Ok(Outcome::Broken { token, .. }) => hand(reply, Ok(token)),
                Ok(_) => hand(reply, Err(Error::NotHeld { path })),
                Err(error) => hand(reply, Err(error)),
            },
            Answer::Read(read) => self.read(read),
        }
    }

    /// What a call that asked for a lock listens to: how it stands *now*, since the same batch may have gone on.
    fn wait(&mut self, claim: Claim, fresh: bool) -> Result<Wait, Error> {
        match self.state.standing(claim.0, &claim.1) {
            Some(Standing::Holds(grant)) => Ok(self.fan_out.hand_over(claim, grant, fresh)),
            Some(Standing::Waits(ticket)) => {
                let progress = Progress::Waiting {
                    position: self.state.position(&claim.1, ticket),
                    waiters: self.state.waiter_count(&claim.1) as u32,
                    holder: self.state.holder_name(&claim.1),
                };
                Ok(self.fan_out.await_grant(claim, ticket, progress))
            }
            None => Err(Error::WaitGivenUp { path: claim.1 }),
        }
    }

    fn read(&mut self, read: Read) {
        match read {
            Read::View { path, reply } => hand(reply, Ok(self.sight(self.state.view(&path)))),
            Read::List { under, after, limit, reply } => {
                let (views, more) = self.state.list(&under, after.as_ref(), limit);
                hand(reply, Ok((views.into_iter().map(|view| self.sight(view)).collect(), more)));
            }
            Read::Watch { path, reply } => hand(reply, Ok(self.fan_out.watch(path, self.state.revision()))),
        }
    }

    fn sight(&self, view: LockView) -> Sighting {
        let leases = view.holders.iter().map(|holder| self.leases.remaining(holder.session, self.now)).collect();
        Sighting { view, leases, time: wall_clock() }
    }
}

/// Has the entries committed. Where there are none, but something is to be told: makes sure that it is not out of date.
async fn settle(log: &impl Log, lead: LeadId, entries: Vec<Entry>, is_told: bool) -> Result<(), raft::Error> {
    if entries.is_empty() && is_told {
        return log.confirm(lead).await;
    }
    for entry in entries {
        let answer = log.propose(entry.encode()).await?;
        match answer.downcast_ref() {
            Some(Verdict::Counted) => {}
            Some(Verdict::Outdated) => return Err(raft::Error::NotLeader { leader: None }),
            None => return Err(raft::Error::Ended),
        }
    }
    Ok(())
}

/// Whoever asked may be gone; then nobody is told.
fn hand<T>(reply: Reply<T>, result: Result<T, Error>) {
    drop(reply.send(result));
}

fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}
