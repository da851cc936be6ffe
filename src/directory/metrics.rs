//! What a node of the Directory is watched by. Of the cluster tells the node that leads.

use super::{Directory, Door, damage, driver, health, open::Node};
use crate::{
    cluster::{ClusterMap, ServerState},
    metrics::{Metrics, Samples},
};

/// Registers the families of this node.
pub fn register(metrics: &Metrics, node: &Node, door: &Door) {
    node.group.register(metrics);
    let driver::Counts { fencing_rejections, propose } = &node.counts;
    let help = "Writes refused because a newer fencing token had been seen, while this node led";
    metrics.counter("dfs_lock_fencing_rejections_total", help, fencing_rejections);
    let help = "Time from a proposal to its being durable on a majority and applied, once for many commands";
    metrics.seconds("dfs_directory_propose_seconds", help, propose);
    let (progress, door) = (node.machine.progress(), door.clone());
    metrics.sampled(move |samples| {
        let revision = progress.borrow().revision.0 as f64;
        samples.gauge("dfs_directory_revision", "Newest revision that this node has applied", revision);
        // Who does not lead knows nothing of the cluster.
        tell_cluster(samples, door.enter().ok().as_deref());
    });
}

fn tell_cluster(samples: &mut Samples<'_>, directory: Option<&Directory>) {
    let map = directory.map(Directory::cluster_map);
    let counts = directory.and_then(|directory| directory.reader.glance().ok());
    let (servers, groups) = (map.iter().flat_map(servers), map.iter().flat_map(groups));
    samples.gauges("dfs_cluster_servers", "File servers, by state", "state", servers);
    samples.gauges("dfs_cluster_groups", "Replica groups, by state", "state", groups);
    let reports = directory.map(|directory| directory.leases().reports());
    let short = reports.as_ref().map(|reports| damage::under_replicated_blobs(reports) as f64);
    let help = "Blobs of which fewer live servers in sync have a copy than should";
    samples.gauge("dfs_cluster_blobs_under_replicated", help, short);
    let lost = reports.as_ref().map(|reports| damage::lost_blobs(reports) as f64);
    samples.gauge("dfs_cluster_blobs_missing", "Blobs that no server has whole", lost);
    let files = counts.map(|counts| counts.files as f64);
    samples.gauge("dfs_cluster_files", "Files that exist", files);
    let blobs = counts.map(|counts| counts.blobs as f64);
    samples.gauge("dfs_cluster_blobs", "Blobs that a retained version refers to", blobs);
    let garbage = counts.map(|counts| counts.garbage_blobs as f64);
    samples.gauge("dfs_cluster_garbage_blobs", "Blobs that wait to be deleted everywhere", garbage);
}

fn servers(map: &ClusterMap) -> [(&'static str, f64); 3] {
    let count = |state| map.servers.values().filter(|server| server.state == state).count() as f64;
    [("up", count(ServerState::Up)), ("down", count(ServerState::Down)), ("draining", count(ServerState::Draining))]
}

fn groups(map: &ClusterMap) -> [(&'static str, f64); 4] {
    let states: Vec<health::GroupState> = map.groups.values().map(|group| health::state_of(map, group)).collect();
    let count = |state| states.iter().filter(|it| **it == state).count() as f64;
    [
        ("full", count(health::GroupState::Full)),
        ("short", count(health::GroupState::Short)),
        ("below_minimum", count(health::GroupState::BelowMinimum)),
        ("without_primary", count(health::GroupState::WithoutPrimary)),
    ]
}
