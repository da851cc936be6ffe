//! A member that is not in sync brings itself level with the primary, group by group, and is taken in again.
//!
//! First everything that the primary lists and this server lacks is fetched, with nobody waiting. Then it claims its place
//! ([`super::join`] is the other end): from `prepared` on the group's commits wait for this server, the little that came
//! meanwhile is fetched, and `level` is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::fetch::Fetcher;
use crate::{
    convert,
    fileserver::{error::Error, map::View, node::Node},
    pb::{
        self, file_server_client::FileServerClient, join_group_request::Message as Request,
        join_group_response::Message as Answer,
    },
    serve,
    status::Failure,
    types::{Epoch, GroupId, ServerId},
};

/// Groups that are brought level at a time.
const GROUPS_MAX: usize = 4;
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const LIST_PAGE: u32 = 1000;
/// Blobs asked for in one call.
const FETCH_BATCH: usize = 64;
/// For any one answer of the primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// While the primary itself is still sending what is missing.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(20);
const LEVEL_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks for groups in which this server is out of sync, until the shutdown.
pub async fn run(node: Arc<Node>) {
    let mut running: JoinSet<(GroupId, Result<(), Error>)> = JoinSet::new();
    let mut busy: BTreeSet<GroupId> = BTreeSet::new();
    let mut retry_at: BTreeMap<GroupId, Instant> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            _ = look.tick() => {}
            Some(ended) = running.join_next(), if !running.is_empty() => if let Ok((group, result)) = ended {
                busy.remove(&group);
                if let Err(error) = result {
                    tracing::debug!(%group, %error, "not level yet");
                    retry_at.insert(group, Instant::now() + RETRY_INTERVAL);
                }
            },
        }
        retry_at.retain(|_, at| *at > Instant::now());
        let lagging = lagging(&node.map.now(), &node.me);
        // Without a store that takes writes it would be taken in only to fail the next one.
        if lagging.is_empty() || node.store.status().read_only.is_some() {
            continue;
        }
        for (group, epoch, primary) in lagging {
            if running.len() < GROUPS_MAX && !retry_at.contains_key(&group) && busy.insert(group) {
                let node = node.clone();
                running.spawn(async move { (group, bring_level(&node, group, epoch, &primary).await) });
            }
        }
    }
}

/// Groups whose member this server is, without being in sync, and who leads them.
fn lagging(view: &View, me: &ServerId) -> Vec<(GroupId, Epoch, ServerId)> {
    let lags = view.groups().filter(|(_, group)| group.members.contains(me) && !group.in_sync.contains(me));
    lags.filter_map(|(id, group)| Some((id, group.epoch, group.primary.clone()?))).collect()
}

async fn bring_level(node: &Arc<Node>, group: GroupId, epoch: Epoch, primary: &ServerId) -> Result<(), Error> {
    let view = node.map.now();
    let address = view.server(primary).map(|server| server.address.clone()).ok_or(Error::NotReady)?;
    let channel = serve::channel(&address).map_err(|_| Error::NotReady)?;
    let mut client = FileServerClient::new(channel);
    let mut fetcher = Fetcher::new(node.clone());

    // Until little is missing: what comes while it is fetched is fetched in the next round.
    while fetch_missing(node, &mut client, &mut fetcher, group).await? > FETCH_BATCH {}

    let (requests, outgoing) = mpsc::channel(2);
    let start = pb::JoinStart { group: group.0, epoch: epoch.0, server_id: node.me.to_string() };
    tell(&requests, Request::Start(start)).await?;
    let opened = tokio::time::timeout(ANSWER_TIMEOUT, client.join_group(ReceiverStream::new(outgoing))).await;
    let mut answers = opened.map_err(|_| Error::Idle(ANSWER_TIMEOUT))??.into_inner();
    let Answer::Prepared(_) = answer(&mut answers).await? else { return Err(Error::NotReady) };

    let deadline = Instant::now() + LEVEL_TIMEOUT;
    while fetch_missing(node, &mut client, &mut fetcher, group).await? > 0 {
        if Instant::now() > deadline {
            return Err(Error::Idle(LEVEL_TIMEOUT));
        }
        tokio::time::sleep(ARRIVAL_INTERVAL).await;
    }
    tell(&requests, Request::Level(true)).await?;
    let Answer::JoinedEpoch(joined) = answer(&mut answers).await? else { return Err(Error::NotReady) };
    tracing::debug!(%group, epoch = joined, %primary, "in sync again");
    node.refresh_map().await
}

async fn tell(requests: &mpsc::Sender<pb::JoinGroupRequest>, message: Request) -> Result<(), Error> {
    requests.send(pb::JoinGroupRequest { message: Some(message) }).await.map_err(|_| Error::Stopping)
}

async fn answer(answers: &mut Streaming<pb::JoinGroupResponse>) -> Result<Answer, Error> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.message()).await;
    let answer = answer.map_err(|_| Error::Idle(ANSWER_TIMEOUT))??;
    answer.and_then(|answer| answer.message).ok_or(Error::EndedEarly)
}

/// Fetches what the peer has whole and this server has not. Answers how many blobs were missing.
pub async fn fetch_missing(
    node: &Node,
    client: &mut FileServerClient<Channel>,
    fetcher: &mut Fetcher,
    group: GroupId,
) -> Result<usize, Error> {
    let mut missing_count = 0;
    let mut page_token = String::new();
    loop {
        let request = pb::ListBlobsRequest { group: group.0, page_size: LIST_PAGE, page_token, sealed_only: true };
        let page = tokio::time::timeout(ANSWER_TIMEOUT, client.list_blobs(request)).await;
        let page = page.map_err(|_| Error::Idle(ANSWER_TIMEOUT))??.into_inner();
        let mut missing = Vec::new();
        for info in &page.blobs {
            if !has(node, info).map_err(Error::Refused)? {
                missing.push(info.blob.clone());
            }
        }
        missing_count += missing.len();
        for batch in missing.chunks(FETCH_BATCH) {
            fetcher.fetch(client, batch.to_vec()).await?;
        }
        if page.next_page_token.is_empty() {
            return Ok(missing_count);
        }
        page_token = page.next_page_token;
    }
}

/// Whether the blob is whole here, so that a damaged one is fetched again. What the peer knows about its version is not
/// taken over: see [`super::fetch`].
fn has(node: &Node, info: &pb::BlobInfo) -> Result<bool, Failure> {
    let blob = convert::blob_id("blobs.blob", &info.blob)?;
    Ok(node.store.blob(blob).is_some_and(|record| record.sealed && !record.damaged))
}
