//! The primary's long-lived streams to its peers.
//!
//! There are a few streams to each peer, each on a connection of its own, shared by all groups and writes; a write stays on
//! one of them. What is queued is bounded by the frames' share of the process's memory and by the queue's length: a slow peer
//! slows down its writers and nobody else. A peer that says nothing for a second and a half counts as hung, and so does one that
//! answers pings and takes no frame for a while, as with a disk that hangs: the stream is given up, everything that was on it
//! is lost to its writes, and the peer is suspected.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::SendTimeoutError},
        oneshot, watch,
    },
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Streaming;

use super::{Memory, Progress, Refusal};
use crate::{
    convert,
    fileserver::{error::Error, locked, map::Map, suspicion::Suspicion},
    pb::{
        self, file_server_client::FileServerClient, replicate_request::Message as Request,
        replicate_response::Message as Answer,
    },
    serve,
    status::Failure,
    types::{BlobId, ServerId, WriteId},
};

/// To each peer.
const STREAMS: usize = 2;
/// Frames that wait for one stream.
const QUEUE_FRAMES_MAX: usize = 32;
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A peer answers pings, and says so when it is busy: silent for more intervals than this, it hangs.
const QUIET_MAX: u32 = 2;
/// A peer that takes not one frame for so long hangs, though it may answer: as patient as with one that acknowledges nothing.
const STALL_PATIENCE: Duration = Duration::from_secs(4);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(2);
/// A broken stream that is not back after this makes its peer suspect.
const RECONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// For a peer that was never connected: it may just be starting.
const FIRST_CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const RECONNECT_INTERVAL: Duration = Duration::from_millis(200);

struct Outgoing {
    message: Request,
    /// Given back when the frame has left the queue.
    _memory: Option<Memory>,
}

struct Follower {
    progress: Arc<Progress>,
    wanted: Option<oneshot::Sender<()>>,
}

/// Who is told about which blob; `None` when the connection is gone.
type Followers = Arc<Mutex<Option<HashMap<BlobId, Follower>>>>;

/// The pings of one stream, numbered from 1, and what came back.
#[derive(Default)]
struct Pings {
    sent: AtomicU64,
    /// Somebody wants to know now.
    wanted: Notify,
    answered: watch::Sender<u64>,
}

/// One stream to a peer, from its welcome to its end.
#[derive(Clone)]
pub struct Connection {
    peer: ServerId,
    queue: mpsc::Sender<Outgoing>,
    followers: Followers,
    pings: Arc<Pings>,
}

impl Connection {
    pub fn peer(&self) -> &ServerId {
        &self.peer
    }

    /// From now on the progress is told what the peer says about the blob, and when this connection is lost; `wanted`, when
    /// the peer asks to be sent it. `false`: the connection is gone already.
    pub fn follow(&self, blob: BlobId, progress: &Arc<Progress>, wanted: Option<oneshot::Sender<()>>) -> bool {
        let mut followers = locked(&self.followers);
        let Some(followers) = followers.as_mut() else { return false };
        followers.insert(blob, Follower { progress: progress.clone(), wanted });
        true
    }

    pub fn unfollow(&self, blob: BlobId) {
        if let Some(followers) = locked(&self.followers).as_mut() {
            followers.remove(&blob);
        }
    }

    /// Waits for room in the queue. `false`: the connection is gone; it goes when the peer takes nothing any more, so this wait
    /// has an end.
    pub async fn send(&self, message: Request, memory: Option<Memory>) -> bool {
        self.queue.send(Outgoing { message, _memory: memory }).await.is_ok()
    }

    /// Completes when the peer has answered something that it was sent after the call.
    async fn answers(&self) {
        let mut answered = self.pings.answered.subscribe();
        let before = self.pings.sent.load(Ordering::SeqCst);
        self.pings.wanted.notify_one();
        // The sender lives as long as this connection.
        let _unheard = answered.wait_for(|number| *number > before).await;
    }

    fn on_answer(&self, answer: Answer) -> Result<(), Failure> {
        match answer {
            Answer::Welcome(_) => {}
            Answer::Pong(number) => drop(self.pings.answered.send_replace(number)),
            Answer::Durable(durable) => {
                let blob = convert::blob_id("durable.blob", &durable.blob)?;
                self.tell(blob, |follower| {
                    follower.wanted = None;
                    follower.progress.durable(blob, self.peer.clone());
                });
            }
            Answer::Wanted(wanted) => {
                let blob = convert::blob_id("wanted.blob", &wanted.blob)?;
                self.tell(blob, |follower| {
                    // Nobody listens any more when the push was given up.
                    let _gone = follower.wanted.take().map(|wanted| wanted.send(()));
                });
            }
            Answer::Refused(refused) => {
                let blob = convert::blob_id("refused.blob", &refused.blob)?;
                let failure = convert::required("refused.error", refused.error)?.into();
                let refusal = Refusal { blob, member: self.peer.clone(), failure };
                self.tell(blob, |follower| {
                    follower.wanted = None;
                    follower.progress.refused(refusal);
                });
            }
        }
        Ok(())
    }

    fn tell(&self, blob: BlobId, what: impl FnOnce(&mut Follower)) {
        if let Some(follower) = locked(&self.followers).as_mut().and_then(|followers| followers.get_mut(&blob)) {
            what(follower);
        }
    }

    fn lose(&self) {
        let followers = locked(&self.followers).take();
        for (blob, follower) in followers.into_iter().flatten() {
            follower.progress.lost(blob, &self.peer);
        }
    }
}

type Slot = watch::Sender<Option<Connection>>;

/// The streams to all peers. A handle; clones are the same.
#[derive(Clone)]
pub struct Peers {
    me: ServerId,
    map: Map,
    suspicion: Suspicion,
    slots: Arc<Mutex<HashMap<(ServerId, usize), Slot>>>,
}

impl Peers {
    pub fn new(me: ServerId, map: Map, suspicion: Suspicion) -> Self {
        Self { me, map, suspicion, slots: Arc::default() }
    }

    /// The stream to a peer that a write uses, if it is up.
    pub fn connection(&self, peer: &ServerId, write_id: WriteId) -> Option<Connection> {
        self.slot(peer, stream_of(write_id)).borrow().clone()
    }

    /// Waits until the stream is up.
    pub async fn connected(&self, peer: &ServerId, write_id: WriteId) -> Connection {
        let mut slot = self.slot(peer, stream_of(write_id)).subscribe();
        loop {
            if let Some(connection) = slot.borrow_and_update().clone() {
                return connection;
            }
            if slot.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits, for ever if need be, until all streams to the peer are up and it has answered on each: what is up may be broken and
    /// not known to be.
    pub async fn answer(&self, peer: &ServerId) {
        futures::future::join_all((0..STREAMS).map(|stream| self.answer_on(peer, stream))).await;
    }

    async fn answer_on(&self, peer: &ServerId, stream: usize) {
        let mut slot = self.slot(peer, stream).subscribe();
        loop {
            let connection = slot.borrow_and_update().clone();
            let answered = async {
                match &connection {
                    Some(connection) => connection.answers().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = answered => return,
                // One that is lost answers nothing any more.
                changed = slot.changed() => if changed.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }

    fn slot(&self, peer: &ServerId, stream: usize) -> Slot {
        let mut slots = locked(&self.slots);
        slots.entry((peer.clone(), stream)).or_insert_with(|| watch::Sender::new(None)).clone()
    }

    /// Keeps streams to everyone who shares a group with this server, until the shutdown.
    pub async fn run(self, tasks: TaskTracker, shutdown: CancellationToken) {
        let mut views = self.map.watch();
        let mut links: HashMap<ServerId, CancellationToken> = HashMap::new();
        loop {
            let wanted: BTreeSet<ServerId> = {
                let view = views.borrow_and_update();
                let ours = view.groups().filter(|(_, group)| group.members.contains(&self.me));
                ours.flat_map(|(_, group)| group.members.iter()).filter(|member| **member != self.me).cloned().collect()
            };
            links.retain(|peer, link| {
                let stays = wanted.contains(peer);
                if !stays {
                    link.cancel();
                }
                stays
            });
            for peer in wanted {
                links.entry(peer).or_insert_with_key(|peer| self.start_links(peer, &tasks, &shutdown));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }

    fn start_links(&self, peer: &ServerId, tasks: &TaskTracker, shutdown: &CancellationToken) -> CancellationToken {
        let ended = shutdown.child_token();
        for stream in 0..STREAMS {
            let link = Link { peers: self.clone(), peer: peer.clone(), slot: self.slot(peer, stream) };
            let ended = ended.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = link.run() => {}
                    () = ended.cancelled() => {}
                }
                link.disconnected();
            });
        }
        ended
    }
}

/// The ids are random: their last byte spreads the writes.
fn stream_of(write_id: WriteId) -> usize {
    usize::from(write_id.as_bytes()[15]) % STREAMS
}

struct Link {
    peers: Peers,
    peer: ServerId,
    slot: Slot,
}

impl Link {
    /// Connects, again and again. Runs until dropped.
    async fn run(&self) {
        let mut suspect_at = Instant::now() + FIRST_CONNECT_PATIENCE;
        loop {
            let began = self.peers.map.now();
            let ended = self.session().await;
            if self.disconnected() {
                suspect_at = Instant::now() + RECONNECT_PATIENCE;
                tracing::info!(peer = %self.peer, ?ended, "replication stream ended");
            }
            if matches!(ended, End::Silent | End::Stalled) || Instant::now() >= suspect_at {
                let asked = if ended == End::Unreachable { began } else { self.peers.map.now() };
                self.peers.suspicion.suspect(&self.peer, asked);
                suspect_at = Instant::now() + RECONNECT_PATIENCE;
            }
            tokio::time::sleep(RECONNECT_INTERVAL).await;
        }
    }

    /// Whether it was connected before.
    fn disconnected(&self) -> bool {
        let before = self.slot.send_replace(None);
        before.map(|connection| connection.lose()).is_some()
    }

    async fn session(&self) -> End {
        let Some(address) = self.peers.map.now().server(&self.peer).map(|server| server.address.clone()) else {
            return End::Unreachable;
        };
        let (to_wire, outgoing) = mpsc::channel(2);
        let opened = tokio::time::timeout(WELCOME_TIMEOUT, self.open(&address, &to_wire, outgoing)).await;
        let answers = match opened {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, address, %error, "replication stream cannot be opened");
                return End::Unreachable;
            }
            Err(_) => return End::Unreachable,
        };
        let (queue, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
        let followers = Arc::new(Mutex::new(Some(HashMap::new())));
        let connection = Connection { peer: self.peer.clone(), queue, followers, pings: Arc::default() };
        self.slot.send_replace(Some(connection.clone()));
        tokio::select! {
            end = pump(frames, &to_wire) => end,
            () = ping(&connection.pings, &to_wire) => End::Broken,
            end = listen(&connection, answers) => end,
        }
    }

    async fn open(
        &self,
        address: &str,
        to_wire: &mpsc::Sender<pb::ReplicateRequest>,
        outgoing: mpsc::Receiver<pb::ReplicateRequest>,
    ) -> Result<Streaming<pb::ReplicateResponse>, Error> {
        let channel = serve::channel(address).map_err(|_| Error::NotReady)?;
        let cluster_id = self.peers.map.now().cluster_id();
        let hello = pb::ReplicateHello { server_id: self.peers.me.to_string(), cluster_id };
        to_wire.send(request(Request::Hello(hello))).await.map_err(|_| Error::Stopping)?;
        let outgoing = ReceiverStream::new(outgoing);
        let mut answers = FileServerClient::new(channel).replicate(outgoing).await?.into_inner();
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(Answer::Welcome(welcome)) if welcome.server_id == self.peer.as_str() => Ok(answers),
            _ => Err(Error::NotReady),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Unreachable,
    Broken,
    Silent,
    Stalled,
}

fn request(message: Request) -> pb::ReplicateRequest {
    pb::ReplicateRequest { message: Some(message) }
}

/// The queue is kept apart from what the transport holds, so that all of it is given back at once when the stream ends.
async fn pump(mut frames: mpsc::Receiver<Outgoing>, to_wire: &mpsc::Sender<pb::ReplicateRequest>) -> End {
    while let Some(frame) = frames.recv().await {
        match to_wire.send_timeout(request(frame.message), STALL_PATIENCE).await {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => return End::Stalled,
            Err(SendTimeoutError::Closed(_)) => return End::Broken,
        }
    }
    End::Broken
}

async fn ping(pings: &Pings, to_wire: &mpsc::Sender<pb::ReplicateRequest>) {
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = pings.wanted.notified() => {}
        }
        let number = pings.sent.fetch_add(1, Ordering::SeqCst) + 1;
        if to_wire.send(request(Request::Ping(number))).await.is_err() {
            return;
        }
    }
}

async fn listen(connection: &Connection, mut answers: Streaming<pb::ReplicateResponse>) -> End {
    let mut quiet = 0;
    loop {
        let answer = match tokio::time::timeout(PING_INTERVAL, answers.message()).await {
            // Counted, not measured: when this process itself was stopped for a while, that is one interval.
            Err(_) if quiet < QUIET_MAX => {
                quiet += 1;
                continue;
            }
            Err(_) => return End::Silent,
            Ok(Ok(Some(answer))) => answer.message,
            Ok(Ok(None) | Err(_)) => return End::Broken,
        };
        quiet = 0;
        if let Some(Err(failure)) = answer.map(|answer| connection.on_answer(answer)) {
            tracing::warn!(peer = %connection.peer, %failure, "peer sent an answer that makes no sense");
            return End::Broken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_frame() -> Outgoing {
        Outgoing { message: Request::Discard(pb::ReplicateDiscard::default()), _memory: None }
    }

    /// Fills the queue behind a wire of two frames, and pumps.
    async fn pump_until_the_end(take: impl AsyncFn(&mut mpsc::Receiver<pb::ReplicateRequest>)) -> (End, Duration) {
        let (queue, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
        for _ in 0..QUEUE_FRAMES_MAX {
            queue.try_send(a_frame()).unwrap_or_else(|_| panic!("there is room"));
        }
        let (to_wire, mut wire) = mpsc::channel(2);
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = pump(frames, &to_wire) => ended,
            () = async { take(&mut wire).await; std::future::pending().await } => End::Unreachable,
        };
        (ended, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (ended, after) = pump_until_the_end(async |_| {}).await;
        assert_eq!((ended, after.as_secs()), (End::Stalled, STALL_PATIENCE.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_slow_is_waited_for() {
        const TAKEN: usize = 10;
        let pause = STALL_PATIENCE - Duration::from_secs(1);
        let slowly = async |wire: &mut mpsc::Receiver<pb::ReplicateRequest>| {
            for _ in 0..TAKEN {
                tokio::time::sleep(pause).await;
                wire.recv().await;
            }
        };
        let (ended, after) = pump_until_the_end(slowly).await;
        assert_eq!((ended, after), (End::Stalled, pause * TAKEN as u32 + STALL_PATIENCE));
    }
}
