//! Repairs what this server's disk has lost, from the copies of other in-sync members.
//!
//! A blob of which a chunk was found damaged is fetched again whole. When recovery found a region in which no record could
//! be read, nobody can say what was in it: then every group is compared with another member once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, timeout};
use tonic::transport::Channel;

use crate::{
    fileserver::{
        error::Error,
        node::Node,
        replication::{catch_up, fetch::Fetcher},
    },
    pb::file_server_client::FileServerClient,
    serve,
    types::{BlobId, GroupId},
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
    let mut to_compare: BTreeSet<GroupId> = BTreeSet::new();
    if node.store.status().damaged_region_count > 0 {
        to_compare = node.map.now().groups_of(&node.me).map(|group| group.group).collect();
    }
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = repair_damaged(&node) => {}
        }
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = compare(&node, &mut to_compare) => {}
        }
    }
}

async fn repair_damaged(node: &Arc<Node>) {
    let damaged: BTreeSet<(GroupId, BlobId)> =
        node.store.damaged().into_iter().map(|chunk| (chunk.group, chunk.blob)).collect();
    let groups: BTreeSet<GroupId> = damaged.iter().map(|(group, _)| *group).collect();
    for group in groups {
        let blobs: Vec<String> =
            damaged.iter().filter(|(of, _)| *of == group).take(BATCH_MAX).map(|(_, blob)| blob.to_string()).collect();
        let count = blobs.len();
        match timeout(STEP_TIMEOUT, fetch(node, group, blobs)).await {
            Ok(Ok(())) => tracing::warn!(%group, blobs = count, "damaged blobs were fetched anew"),
            Ok(Err(error)) => tracing::warn!(%group, blobs = count, %error, "damaged blobs not repaired yet"),
            Err(_) => tracing::warn!(%group, blobs = count, "damaged blobs not repaired yet: no time left"),
        }
    }
}

/// From the first member that has them.
async fn fetch(node: &Arc<Node>, group: GroupId, blobs: Vec<String>) -> Result<(), Error> {
    let mut result = Err(Error::NotReady);
    for mut peer in peers(node, group) {
        result = Fetcher::new(node.clone()).fetch(&mut peer, blobs.clone()).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn compare(node: &Arc<Node>, to_compare: &mut BTreeSet<GroupId>) {
    for group in to_compare.clone() {
        for mut peer in peers(node, group) {
            let mut fetcher = Fetcher::new(node.clone());
            let fetched = timeout(STEP_TIMEOUT, catch_up::fetch_missing(node, &mut peer, &mut fetcher, group)).await;
            match fetched {
                Ok(Ok(missing)) => {
                    tracing::warn!(%group, missing, "compared with another member after damage");
                    to_compare.remove(&group);
                    break;
                }
                Ok(Err(error)) => tracing::warn!(%group, %error, "cannot compare with a member yet"),
                Err(_) => tracing::warn!(%group, "comparing takes too long"),
            }
        }
    }
}

/// Other in-sync members.
fn peers(node: &Node, group: GroupId) -> Vec<FileServerClient<Channel>> {
    let view = node.map.now();
    let in_sync = view.group(group).into_iter().flat_map(|group| &group.in_sync);
    let others = in_sync.filter(|member| **member != node.me).filter_map(|member| view.server(member));
    others.filter_map(|server| serve::channel(&server.address).ok()).map(FileServerClient::new).collect()
}
