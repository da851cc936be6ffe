//! Registers this server with the Directory and keeps its lease; what comes back on the heartbeats is the cluster map, the
//! Directory's time, and blobs to delete.
//!
//! Beats never wait for a disk: deletions are done aside, and confirmed in a later beat.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    convert,
    fileserver::{error::Error, leave, locked, losses, node::Node},
    pb,
    status::{Failure, Reason},
    types::{BlobId, ClusterId, Epoch, GroupId},
};

const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// When the Directory says none.
const BEAT_INTERVAL_DEFAULT: Duration = Duration::from_millis(500);
/// Without any answer for this long the stream is opened anew.
const SILENCE: Duration = Duration::from_secs(3);
/// Directives that wait for the disk; the Directory repeats what is not confirmed.
const DELETIONS_MAX: usize = 4;
/// Confirmations in one beat, as the contract says.
const CONFIRMATIONS_MAX: usize = 10_000;
const CONFIRMATIONS_QUEUE_MAX: usize = 100_000;
/// As many as there can be.
const LEFT_GROUPS_MAX: usize = 65_536;

/// One whose predecessor is said to run for as long has a copy of its data folder. That of a machine that lost its power is said to
/// run until its lease is over, which is seconds.
const RIVAL_PATIENCE: Duration = Duration::from_secs(10);

/// A write that takes as long is an upload, which may be more than its client can send again.
const UPLOAD: Duration = Duration::from_secs(1);

/// How this server presents itself.
#[derive(Clone, Debug)]
pub struct Presence {
    pub address: String,
    pub external_address: String,
    pub zone: String,
    pub cluster: Option<ClusterId>,
}

/// Registers, again and again until it is accepted. The answer says how often to beat.
pub async fn register(node: &Node, presence: &Presence) -> Result<pb::RegisterServerResponse, Error> {
    let status = node.store.status();
    let request = pb::RegisterServerRequest {
        kind: pb::ServerKind::Fileserver.into(),
        server_id: node.me.to_string(),
        store_id: node.store_id.to_string(),
        cluster_id: presence.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
        address: presence.address.clone(),
        external_address: presence.external_address.clone(),
        zone: presence.zone.clone(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        disk_used_bytes: status.disk_used_bytes,
        disk_total_bytes: status.disk_total_bytes,
        blob_count: status.blob_count,
        incarnations: node.incarnations.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let mut said = String::new();
    let mut strangers = 0;
    let mut rival_since = None;
    loop {
        let answer = node.directory.answer(node.directory.cluster()?.register_server(request.clone())).await;
        match answer {
            Ok(answer) => return take_registration(node, answer),
            // An address that is none, or a server that was removed: waiting does not help.
            Err(Error::Refused(failure)) if matches!(failure.reason, Reason::BadArgument | Reason::ServerRemoved) => {
                return Err(Error::Refused(failure));
            }
            Err(Error::Refused(failure)) if is_copied(&failure) => return Err(Error::Refused(failure)),
            Err(error) => {
                let is_rival = matches!(&error, Error::Refused(failure) if is_rival(failure));
                rival_since = is_rival.then(|| rival_since.unwrap_or_else(Instant::now));
                if rival_since.is_some_and(|since| since.elapsed() >= RIVAL_PATIENCE) {
                    return Err(error);
                }
                // Nor does it where all that are known are another cluster's.
                let is_stranger = matches!(&error, Error::Refused(failure) if failure.reason == Reason::OtherCluster);
                strangers = if is_stranger { strangers + 1 } else { 0 };
                if strangers >= node.directory.count() {
                    return Err(error);
                }
                let reason = error.to_string();
                if reason != said {
                    tracing::warn!(%error, "cannot register with the Directory yet");
                    said = reason;
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// The data folder has gone on without this copy of it.
fn is_copied(failure: &Failure) -> bool {
    is_rival(failure) && failure.metadata.contains_key("incarnation")
}

/// Another process has a data folder of the same origin.
fn is_rival(failure: &Failure) -> bool {
    failure.reason == Reason::EntryExists && failure.metadata.contains_key("address")
}

fn take_registration(node: &Node, answer: pb::RegisterServerResponse) -> Result<pb::RegisterServerResponse, Error> {
    if let Some(map) = &answer.cluster_map {
        node.hear_map(map)?;
    }
    hear_time(node, answer.directory_time.as_ref())?;
    Ok(answer)
}

fn hear_time(node: &Node, time: Option<&prost_types::Timestamp>) -> Result<(), Error> {
    if let Some(time) = convert::optional_timestamp("directory_time", time).map_err(Error::Refused)? {
        node.heard_time(time);
    }
    Ok(())
}

/// Beats until the shutdown; registers anew whenever the stream is lost.
pub async fn run(node: Arc<Node>, presence: Presence, registered: pb::RegisterServerResponse) {
    let (deletions, orders) = mpsc::channel(DELETIONS_MAX);
    let (confirmations, mut confirmed) = mpsc::channel(CONFIRMATIONS_QUEUE_MAX);
    let deleter = delete_as_told(node.clone(), orders, confirmations);
    let leaver = leave::run(node.clone());
    let beats = async {
        let mut registered = registered;
        loop {
            let asked = node.directory.asked();
            let ended = tokio::select! {
                ended = beat(&node, &registered, &deletions, &mut confirmed) => ended,
                // However it was found that another leads: it is to hear of this server before it wonders.
                () = elsewhere(&node, &asked) => Err(Error::EndedEarly),
            };
            match ended {
                Err(Error::Refused(failure)) => {
                    tracing::warn!(%failure, "heartbeat stream ended");
                    node.directory.heed(&asked, &failure);
                }
                ended => {
                    tracing::warn!(error = ?ended.err().map(|error| error.to_string()), "heartbeat stream ended");
                    let silent = Failure::new(Reason::Unavailable, "the Directory is silent");
                    node.directory.heed(&asked, &silent);
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
            match register(&node, &presence).await {
                Ok(answer) => registered = answer,
                Err(Error::Refused(failure)) if failure.reason == Reason::ServerRemoved => {
                    tracing::error!(%failure, "this server stops");
                    return node.shutdown.cancel();
                }
                Err(Error::Refused(failure)) if is_rival(&failure) => {
                    tracing::error!(%failure, "this server stops");
                    node.deposed.get_or_init(|| failure);
                    return node.shutdown.cancel();
                }
                Err(error) => tracing::warn!(%error, "the answer to a registration makes no sense"),
            }
        }
    };
    tokio::select! {
        () = node.shutdown.cancelled() => {}
        () = deleter => {}
        () = leaver => {}
        () = beats => {}
    }
}

/// Completes when calls go to another node of the Directory than `asked`.
async fn elsewhere(node: &Node, asked: &str) {
    while node.directory.asked() == asked {
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn beat(
    node: &Node,
    registered: &pb::RegisterServerResponse,
    deletions: &mpsc::Sender<Vec<BlobId>>,
    confirmed: &mut mpsc::Receiver<BlobId>,
) -> Result<(), Error> {
    let interval = match registered.heartbeat_interval_ms {
        0 => BEAT_INTERVAL_DEFAULT,
        ms => Duration::from_millis(ms),
    };
    let (beats, outgoing) = mpsc::channel(4);
    // The Directory has others lead while it is heard and we are not.
    let heard = AtomicU64::new(0);
    let first = next_beat(node, &heard, confirmed);
    beats.try_send(first).map_err(|_| Error::Stopping)?;
    let asked = node.directory.asked();
    let opened = node.directory.answer(node.directory.cluster()?.heartbeat(ReceiverStream::new(outgoing))).await;
    let mut answers = opened?;
    let send = async {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Ok(room) = beats.reserve().await else { return Err(Error::EndedEarly) };
            room.send(next_beat(node, &heard, confirmed));
        }
    };
    let listen = async {
        loop {
            let answer = tokio::select! {
                answer = timeout(SILENCE, answers.message()) => answer.map_err(|_| Error::Idle(SILENCE))??,
                () = node.directory.superseded(&asked) => return Err(Error::EndedEarly),
            };
            heard.fetch_add(1, Ordering::Relaxed);
            on_answer(node, answer.ok_or(Error::EndedEarly)?, deletions)?;
        }
    };
    tokio::select! {
        ended = send => ended,
        ended = listen => ended,
    }
}

fn next_beat(node: &Node, heard: &AtomicU64, confirmed: &mut mpsc::Receiver<BlobId>) -> pb::HeartbeatRequest {
    let status = node.store.status();
    let deleted = std::iter::from_fn(|| confirmed.try_recv().ok()).take(CONFIRMATIONS_MAX);
    pb::HeartbeatRequest {
        server_id: node.me.to_string(),
        store_id: node.store_id.to_string(),
        incarnation: node.incarnations.first().map(ToString::to_string).unwrap_or_default(),
        disk_used_bytes: status.disk_used_bytes,
        disk_total_bytes: status.disk_total_bytes,
        blob_count: status.blob_count,
        stored_bytes: status.stored_bytes,
        emptied_groups: node
            .departures
            .emptied()
            .map(|(group, epoch)| pb::GroupEpoch { group: group.0, epoch: epoch.0 })
            .collect(),
        deleted_blobs: deleted.map(|blob| blob.to_string()).collect(),
        read_only_reason: status.read_only.unwrap_or_default(),
        store_report: Some(losses::report(node)),
        heard_answers: Some(heard.load(Ordering::Relaxed)),
        uploading_groups: node.in_flight.lasting(UPLOAD, Instant::now()).into_iter().map(|group| group.0).collect(),
        ..Default::default()
    }
}

fn on_answer(node: &Node, answer: pb::HeartbeatResponse, deletions: &mpsc::Sender<Vec<BlobId>>) -> Result<(), Error> {
    hear_time(node, answer.directory_time.as_ref())?;
    if let Some(map) = &answer.cluster_map {
        node.hear_map(map)?;
    }
    let left = answer.left_groups.iter().map(|left| (GroupId(left.group), Epoch(left.epoch)));
    node.departures.told(left.take(LEFT_GROUPS_MAX).collect());
    if !answer.delete_blobs.is_empty() {
        let blobs = answer.delete_blobs.iter().map(|blob| convert::blob_id("delete_blobs", blob));
        let blobs = blobs.collect::<Result<Vec<_>, _>>().map_err(Error::Refused)?;
        if deletions.try_send(blobs).is_err() {
            tracing::debug!("deletions put off: the disk is busy with others");
        }
    }
    Ok(())
}

async fn delete_as_told(node: Arc<Node>, mut orders: mpsc::Receiver<Vec<BlobId>>, confirmations: mpsc::Sender<BlobId>) {
    while let Some(blobs) = orders.recv().await {
        {
            let mut replica = locked(&node.replica);
            blobs.iter().for_each(|blob| replica.forget(*blob));
        }
        match node.store.delete(blobs.clone()).await {
            Ok(()) => {
                tracing::debug!(blobs = blobs.len(), "deleted as told");
                for blob in blobs {
                    if confirmations.send(blob).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, blobs = blobs.len(), "blobs cannot be deleted"),
        }
    }
}
