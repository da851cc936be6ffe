//! A member that is not in sync brings itself level with the primary, group by group, and is taken in again.
//!
//! First everything that the primary lists and this server lacks is fetched, with nobody waiting. Then it claims its place
//! ([`super::join`] is the other end): from `prepared` on the group's commits wait for this server's copies too. It lists once
//! more, fetches the little that came meanwhile, and says `level`. However busy the group is, that comes to an end: what is
//! written after `prepared` comes here by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::fetch::Fetcher;
use crate::{
    convert,
    fileserver::{error::Error, leave, map::View, node::Node},
    pb::{
        self, file_server_client::FileServerClient, join_group_request::Message as Request,
        join_group_response::Message as Answer,
    },
    serve,
    status::Failure,
    types::{BlobId, Epoch, GroupId, ServerId},
};

/// Groups that are brought level at a time. Most lack little or nothing, and then each is a few messages.
const GROUPS_MAX: usize = 64;
/// Of those, so many fetch at a time: that is what takes memory, and the others' disks.
const FETCHES_MAX: usize = 4;
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// After a failed attempt at a group: from the first wait, doubling, to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
const LIST_PAGE: u32 = 1000;
/// Blobs asked for in one call.
const FETCH_BATCH: usize = 64;
/// For any one answer of the primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// While the primary itself is still sending what is missing.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(20);
const LEVEL_TIMEOUT: Duration = Duration::from_secs(30);
/// When no more than this came during a round of fetching, the member claims its place: the rest takes a moment.
const LITTLE_BLOBS: usize = 5000;
const LITTLE_BYTES: u64 = 64 << 20;
/// Before it gives up for now.
const ROUNDS_MAX: usize = 64;

/// Looks for groups in which this server is out of sync, until the shutdown.
pub async fn run(node: Arc<Node>) {
    let mut running: JoinSet<(GroupId, Result<Epoch, Error>)> = JoinSet::new();
    let mut busy: BTreeSet<GroupId> = BTreeSet::new();
    let mut waits = Waits::default();
    let mut primaries = Primaries::default();
    let mut views = node.map.watch();
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            _ = look.tick() => {}
            () = sleep_until(waits.next(now).unwrap_or(now + LOOK_INTERVAL)) => {}
            changed = views.changed() => if changed.is_err() { return },
            Some(ended) = running.join_next(), if !running.is_empty() => if let Ok((group, result)) = ended {
                busy.remove(&group);
                match result {
                    Ok(joined) => waits.joined(group, joined),
                    Err(error) => {
                        tracing::debug!(%group, %error, "not level yet");
                        waits.failed(group, Instant::now());
                    }
                }
            },
        }
        let view = views.borrow_and_update().clone();
        let lagging = lagging(&view, &node.me);
        if lagging.is_empty() {
            (waits, primaries) = Default::default();
            continue;
        }
        // Without a store that takes writes it would be taken in only to fail the next one.
        if node.store.status().read_only.is_some() {
            continue;
        }
        for (group, epoch, primary) in lagging {
            let due = running.len() < GROUPS_MAX && waits.are_over(group, epoch, Instant::now());
            let Some(at) = primaries.reach(&view, &primary).filter(|_| due) else { continue };
            if busy.insert(group) {
                let node = node.clone();
                running.spawn(async move {
                    let brought = leave::while_member(&node, group, bring_level(&node, group, epoch, at)).await;
                    (group, brought)
                });
            }
        }
    }
}

/// Which groups are not tried just now.
#[derive(Default)]
struct Waits {
    retries: BTreeMap<GroupId, (Instant, Duration)>,
    /// The primary has said that this server is in sync as of that epoch; the map does not show it yet.
    joined: BTreeMap<GroupId, Epoch>,
}

impl Waits {
    fn joined(&mut self, group: GroupId, epoch: Epoch) {
        self.retries.remove(&group);
        self.joined.insert(group, epoch);
    }

    fn failed(&mut self, group: GroupId, now: Instant) {
        let wait = self.retries.get(&group).map_or(RETRY_FIRST, |(_, wait)| (*wait * 2).min(RETRY_MAX));
        self.retries.insert(group, (now + wait, wait));
    }

    fn are_over(&self, group: GroupId, epoch: Epoch, now: Instant) -> bool {
        self.retries.get(&group).is_none_or(|(at, _)| *at <= now)
            && self.joined.get(&group).is_none_or(|joined| epoch >= *joined)
    }

    /// When the next of them is over.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.retries.values().map(|(at, _)| *at).filter(|at| *at > now).min()
    }
}

/// One connection to each primary, shared by all groups that it leads, and the turns of those that fetch.
struct Primaries {
    channels: BTreeMap<String, Channel>,
    fetches: Arc<Semaphore>,
}

impl Default for Primaries {
    fn default() -> Self {
        Self { channels: BTreeMap::new(), fetches: Arc::new(Semaphore::new(FETCHES_MAX)) }
    }
}

/// A primary, as one attempt uses it.
struct Primary {
    client: FileServerClient<Channel>,
    fetches: Arc<Semaphore>,
}

impl Primaries {
    fn reach(&mut self, view: &View, primary: &ServerId) -> Option<Primary> {
        let address = &view.server(primary)?.address;
        if !self.channels.contains_key(address) {
            self.channels.insert(address.clone(), serve::channel(address).ok()?);
        }
        let client = FileServerClient::new(self.channels.get(address)?.clone());
        Some(Primary { client, fetches: self.fetches.clone() })
    }
}

/// Groups whose member this server is, without being in sync, and who leads them.
fn lagging(view: &View, me: &ServerId) -> Vec<(GroupId, Epoch, ServerId)> {
    let lags = view.groups().filter(|(_, group)| group.members.contains(me) && !group.in_sync.contains(me));
    lags.filter_map(|(id, group)| Some((id, group.epoch, group.primary.clone()?))).collect()
}

/// Answers the epoch as of which this server is in sync.
async fn bring_level(node: &Arc<Node>, group: GroupId, epoch: Epoch, primary: Primary) -> Result<Epoch, Error> {
    let Primary { mut client, fetches } = primary;
    let mut fetcher = Fetcher::in_turn(node.clone(), fetches);

    // Until little is missing: what comes while it is fetched is fetched in the next round.
    let mut rounds = 0;
    loop {
        let pass = fetch_missing(node, &mut client, &mut fetcher, group).await?;
        if pass.missing_count <= LITTLE_BLOBS && pass.missing_bytes <= LITTLE_BYTES {
            break;
        }
        rounds += 1;
        if rounds >= ROUNDS_MAX {
            tracing::warn!(%group, bytes = pass.missing_bytes, "the group is written to faster than it can be fetched");
            return Err(Error::NotReady);
        }
    }

    let (requests, outgoing) = mpsc::channel(2);
    let start = pb::JoinStart { group: group.0, epoch: epoch.0, server_id: node.me.to_string() };
    tell(&requests, Request::Start(start)).await?;
    let opened = tokio::time::timeout(ANSWER_TIMEOUT, client.join_group(ReceiverStream::new(outgoing))).await;
    let mut answers = opened.map_err(|_| Error::Idle(ANSWER_TIMEOUT))??.into_inner();
    let Answer::Prepared(_) = answer(&mut answers).await? else { return Err(Error::NotReady) };

    let became_level = tokio::time::timeout(LEVEL_TIMEOUT, become_level(node, &mut client, &mut fetcher, group)).await;
    became_level.map_err(|_| Error::Idle(LEVEL_TIMEOUT))??;
    tell(&requests, Request::Level(true)).await?;
    let Answer::JoinedEpoch(joined) = answer(&mut answers).await? else { return Err(Error::NotReady) };
    tracing::debug!(%group, epoch = joined, "in sync again");
    Ok(Epoch(joined))
}

/// What the primary lists now is to be whole here. One listing is enough: whatever becomes whole at the primary after it said
/// `prepared` is not committed before this server has it too.
async fn become_level(
    node: &Node,
    client: &mut FileServerClient<Channel>,
    fetcher: &mut Fetcher,
    group: GroupId,
) -> Result<(), Error> {
    let mut pass = fetch_missing(node, client, fetcher, group).await?;
    loop {
        if let Some(failure) = pass.refused {
            return Err(Error::Refused(failure));
        }
        let arriving = std::mem::take(&mut pass.arriving);
        let left: Vec<BlobId> = arriving.into_iter().filter(|blob| !is_whole(node, *blob)).collect();
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(ARRIVAL_INTERVAL).await;
        fetch_all(node, client, fetcher, left, &mut pass).await?;
    }
}

async fn tell(requests: &mpsc::Sender<pb::JoinGroupRequest>, message: Request) -> Result<(), Error> {
    requests.send(pb::JoinGroupRequest { message: Some(message) }).await.map_err(|_| Error::Stopping)
}

async fn answer(answers: &mut Streaming<pb::JoinGroupResponse>) -> Result<Answer, Error> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.message()).await;
    let answer = answer.map_err(|_| Error::Idle(ANSWER_TIMEOUT))??;
    answer.and_then(|answer| answer.message).ok_or(Error::EndedEarly)
}

/// What one listing of a peer came to.
#[derive(Debug, Default)]
pub struct Pass {
    /// Listed, and not whole here at the time.
    pub missing_count: usize,
    pub missing_bytes: u64,
    /// Not fetched, because the primary is sending them.
    arriving: Vec<BlobId>,
    /// The first that the peer has and could not give.
    pub refused: Option<Failure>,
    /// The peer may lack blobs itself.
    pub incomplete: bool,
}

/// Lists once, and fetches what the peer has whole and this server has not.
pub async fn fetch_missing(
    node: &Node,
    client: &mut FileServerClient<Channel>,
    fetcher: &mut Fetcher,
    group: GroupId,
) -> Result<Pass, Error> {
    let mut pass = Pass::default();
    let mut page_token = String::new();
    loop {
        let request = pb::ListBlobsRequest { group: group.0, page_size: LIST_PAGE, page_token, sealed_only: true };
        let page = tokio::time::timeout(ANSWER_TIMEOUT, client.list_blobs(request)).await;
        let page = page.map_err(|_| Error::Idle(ANSWER_TIMEOUT))??.into_inner();
        pass.incomplete |= page.incomplete;
        let mut missing = Vec::new();
        for info in &page.blobs {
            let blob = convert::blob_id("blobs.blob", &info.blob).map_err(Error::Refused)?;
            if !is_whole(node, blob) {
                missing.push(blob);
                pass.missing_bytes += info.length;
            }
        }
        pass.missing_count += missing.len();
        fetch_all(node, client, fetcher, missing, &mut pass).await?;
        if page.next_page_token.is_empty() {
            return Ok(pass);
        }
        page_token = page.next_page_token;
    }
}

/// Fetches what nobody is bringing already. What is gone at the peer is not missing any more.
async fn fetch_all(
    node: &Node,
    client: &mut FileServerClient<Channel>,
    fetcher: &mut Fetcher,
    blobs: Vec<BlobId>,
    pass: &mut Pass,
) -> Result<(), Error> {
    let (coming, wanted): (Vec<BlobId>, Vec<BlobId>) = blobs.into_iter().partition(|blob| fetcher.is_coming(*blob));
    pass.arriving.extend(coming);
    for batch in wanted.chunks(FETCH_BATCH) {
        let unfetched = fetcher.fetch(client, batch).await?;
        let refused: BTreeSet<BlobId> = unfetched.refused.iter().map(|(blob, _)| *blob).collect();
        let settled = |blob: &BlobId| unfetched.gone.contains(blob) || refused.contains(blob) || is_whole(node, *blob);
        pass.arriving.extend(batch.iter().filter(|blob| !settled(blob)));
        // What is here and known to be damaged is no less than what a member in sync may have: it is repaired from whoever can,
        // and never served. Where no good copy is left the group is not to be short of members for it.
        let first = unfetched.refused.into_iter().find(|(blob, _)| !is_known(node, *blob)).map(|(_, failure)| failure);
        pass.refused = pass.refused.take().or(first);
    }
    Ok(())
}

/// Whether the blob was whole here, and is whole or known to be damaged.
fn is_known(node: &Node, blob: BlobId) -> bool {
    node.store.blob(blob).is_some_and(|record| record.sealed)
}

/// Whether the blob is whole here; a damaged one is fetched again. What the peer knows about its version is not taken over:
/// see [`super::fetch`].
fn is_whole(node: &Node, blob: BlobId) -> bool {
    node.store.blob(blob).is_some_and(|record| record.sealed && !record.damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);

    #[test]
    fn a_failed_group_waits_twice_as_long_each_time_and_not_for_ever() {
        let (mut waits, mut now) = (Waits::default(), Instant::now());
        assert!(waits.are_over(GROUP, Epoch(1), now));
        for expected in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            waits.failed(GROUP, now);
            assert_eq!(waits.next(now), Some(now + expected));
            assert!(!waits.are_over(GROUP, Epoch(1), now + expected - Duration::from_millis(1)));
            now += expected;
            assert!(waits.are_over(GROUP, Epoch(1), now));
            assert_eq!(waits.next(now), None, "nothing wakes for what is over");
        }
        waits.joined(GROUP, Epoch(2));
        waits.failed(GROUP, now);
        assert_eq!(waits.next(now), Some(now + RETRY_FIRST), "a success ends the series");
    }

    #[test]
    fn a_group_that_was_joined_is_not_joined_again_before_the_map_has_it() {
        let (mut waits, now) = (Waits::default(), Instant::now());
        waits.joined(GROUP, Epoch(5));
        assert!(!waits.are_over(GROUP, Epoch(4), now), "the map is older");
        assert!(waits.are_over(GROUP, Epoch(5), now), "out again since");
        assert!(waits.are_over(GroupId(8), Epoch(4), now));
    }
}
