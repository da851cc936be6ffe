//! Repairs what this server's disk has lost, from the copies of other members.
//!
//! A blob of which a chunk was found damaged is fetched again whole, or put together from the pieces that members still have
//! ([`mend`]). When a stretch of the log cannot be read, whether a start
//! or the scrub found it, nobody can say what was in it: then every group is compared with another member, and until that is
//! done the group is [in doubt](super::doubt) here. A member that is in doubt itself is no measure: if there is no other, all
//! that any member has is fetched, and that is all there is.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, timeout};
use tonic::transport::Channel;

use crate::{
    cluster::ServerState,
    fileserver::{
        error::Error,
        leave,
        mend::{self, Mended},
        node::Node,
        replication::{
            catch_up::{self, Pass},
            fetch::Fetcher,
        },
    },
    pb::file_server_client::FileServerClient,
    serve,
    types::{BlobId, Epoch, GroupId, ServerId},
};

const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Blobs asked for in one call.
const BATCH_MAX: usize = 64;
/// For one batch, or for comparing one group.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);

/// Looks for damage, until the shutdown.
pub async fn run(node: Arc<Node>) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = compare_doubtful(&node) => {}
        }
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = repair_damaged(&node) => {}
        }
    }
}

async fn repair_damaged(node: &Arc<Node>) {
    let damaged: BTreeSet<(GroupId, BlobId)> =
        node.store.damaged().into_iter().map(|chunk| (chunk.group, chunk.blob)).collect();
    node.losses.keep(&damaged);
    let now = Instant::now();
    let hopeful: Vec<(GroupId, BlobId)> =
        damaged.into_iter().filter(|(_, blob)| !node.losses.is_hopeless(*blob, now)).collect();
    let groups: BTreeSet<GroupId> = hopeful.iter().map(|(group, _)| *group).collect();
    for group in groups {
        // Of a group that this server left, nothing is brought back.
        let Some(_turn) = node.departures.take_turn(group).filter(|_| leave::is_member(node, group)) else { continue };
        let blobs: Vec<BlobId> =
            hopeful.iter().filter(|(of, _)| *of == group).take(BATCH_MAX).map(|(_, blob)| *blob).collect();
        let (count, fetched) = (blobs.len(), blobs.clone());
        match timeout(STEP_TIMEOUT, fetch(node, group, blobs)).await {
            Ok(Ok(())) => tracing::warn!(%group, blobs = count, "damaged blobs were fetched anew"),
            Ok(Err(error)) => tracing::warn!(%group, blobs = count, %error, "damaged blobs not repaired yet"),
            Err(_) => tracing::warn!(%group, blobs = count, "damaged blobs not repaired yet: no time left"),
        }
        for blob in fetched {
            mend_damaged(node, group, blob).await;
        }
    }
}

/// What no single member has whole may be whole in pieces.
async fn mend_damaged(node: &Arc<Node>, group: GroupId, blob: BlobId) {
    let Some(record) = node.store.blob(blob).filter(|record| record.damaged) else { return };
    match timeout(STEP_TIMEOUT, mend::mend(node, group, blob)).await {
        Ok(Ok(Mended::Repaired | Mended::Whole)) => tracing::warn!(%group, %blob, "a damaged blob is mended"),
        // What was never committed is nobody's loss: it is settled.
        Ok(Ok(Mended::Lost | Mended::Unknown)) if record.published.is_some() => {
            if node.losses.lost(blob, Instant::now()) {
                tracing::error!(%group, %blob, "no member of the group has this blob whole: it is lost");
            }
        }
        Ok(Ok(Mended::Lost | Mended::Unknown)) => {}
        Ok(Err(error)) => tracing::warn!(%group, %blob, %error, "a damaged blob is not mended yet"),
        Err(_) => tracing::warn!(%group, %blob, "a damaged blob is not mended yet: no time left"),
    }
}

/// From the first member that has them all.
async fn fetch(node: &Arc<Node>, group: GroupId, blobs: Vec<BlobId>) -> Result<(), Error> {
    let mut result = Err(Error::NotReady);
    for peer in peers(node, group).into_iter().filter(|peer| peer.in_sync) {
        let Some(mut client) = peer.client() else { continue };
        result = match Fetcher::new(node.clone()).fetch(&mut client, &blobs).await {
            Ok(unfetched) => match unfetched.refused.into_iter().next() {
                None => return Ok(()),
                Some((_, failure)) => Err(Error::Refused(failure)),
            },
            Err(error) => Err(error),
        };
    }
    result
}

async fn compare_doubtful(node: &Arc<Node>) {
    let view = node.map.now();
    let found = node.store.losses_found();
    if found == 0 || !view.is_known() {
        return;
    }
    let groups: Vec<GroupId> = view.groups_of(&node.me).map(|group| group.group).collect();
    for &group in &groups {
        let Some(_turn) = node.departures.take_turn(group).filter(|_| leave::is_member(node, group)) else { continue };
        if node.doubt.concerns(group) && compare(node, group).await {
            node.doubt.settle(group, found);
        }
    }
    let in_doubt = groups.iter().any(|group| node.doubt.concerns(*group));
    if !in_doubt && node.store.status().damaged_region_count > 0 {
        node.store.set_compared(found);
    }
}

/// Fetches what others have and this server has not. Whether that settles the matter: it does when one member that is in
/// sync, and not in doubt itself, had all of it; or when every one that may know more was asked.
///
/// Not if the group has changed meanwhile: a member that left it deletes what it has, and lists and gives less and less.
async fn compare(node: &Arc<Node>, group: GroupId) -> bool {
    let began = epoch(node, group);
    let mut all_asked = true;
    for peer in peers(node, group) {
        match timeout(STEP_TIMEOUT, compare_with(node, group, &peer)).await {
            Ok(Ok(pass)) => {
                let (missing, is_measure) = (pass.missing_count, !pass.incomplete && pass.refused.is_none());
                tracing::warn!(%group, peer = %peer.server, missing, is_measure, "compared with a member after damage");
                if is_measure && peer.in_sync {
                    return is_unchanged(node, group, began).await;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%group, peer = %peer.server, %error, "cannot compare with a member yet");
                all_asked &= !(peer.in_sync || peer.is_up);
            }
            Err(_) => {
                tracing::warn!(%group, peer = %peer.server, "comparing takes too long");
                all_asked = false;
            }
        }
    }
    let settled = all_asked && is_unchanged(node, group, began).await;
    if settled {
        tracing::error!(%group, "no member is known to have all that this server lost: what none of them has is lost");
    }
    settled
}

fn epoch(node: &Node, group: GroupId) -> Option<Epoch> {
    node.map.now().group(group).map(|group| group.epoch)
}

/// Whether the group is as it began by what the Directory says now. While it cannot say, nothing is settled.
async fn is_unchanged(node: &Node, group: GroupId, began: Option<Epoch>) -> bool {
    let heard = node.refresh_map().await;
    let unchanged = heard.is_ok() && began.is_some() && epoch(node, group) == began;
    if !unchanged {
        tracing::warn!(%group, "the group has changed while it was compared: it is compared again");
    }
    unchanged
}

async fn compare_with(node: &Arc<Node>, group: GroupId, peer: &Peer) -> Result<Pass, Error> {
    let mut client = peer.client().ok_or(Error::NotReady)?;
    catch_up::fetch_missing(node, &mut client, &mut Fetcher::new(node.clone()), group).await
}

/// Another member of a group.
pub struct Peer {
    server: ServerId,
    address: Option<String>,
    in_sync: bool,
    is_up: bool,
}

impl Peer {
    pub fn client(&self) -> Option<FileServerClient<Channel>> {
        serve::channel(self.address.as_ref()?).ok().map(FileServerClient::new)
    }
}

/// Those in sync first.
pub fn peers(node: &Node, group: GroupId) -> Vec<Peer> {
    let view = node.map.now();
    let Some(configuration) = view.group(group) else { return Vec::new() };
    let mut peers: Vec<Peer> = configuration
        .members
        .iter()
        .filter(|member| **member != node.me)
        .map(|member| {
            let server = view.server(member);
            Peer {
                server: member.clone(),
                address: server.map(|server| server.address.clone()),
                in_sync: configuration.in_sync.contains(member),
                is_up: server.is_some_and(|server| server.state != ServerState::Down),
            }
        })
        .collect();
    peers.sort_by_key(|peer| !peer.in_sync);
    peers
}
