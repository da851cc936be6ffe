//! What a file server is watched by.

use std::sync::Arc;

use super::node::Node;
use crate::metrics::{Metrics, Seconds};

/// What the server counts beside its store; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// From the end of a write's data to its being durable on every member in sync.
    pub replicate: Seconds,
}

/// Registers the families of this server.
pub fn register(metrics: &Metrics, node: &Arc<Node>) {
    let store = node.store.counts();
    metrics.seconds("dfs_fileserver_fsync_seconds", "Time to sync the log, once for many writes", &store.fsync);
    let help = "Time from the end of a write's data to its being durable on every member in sync";
    metrics.seconds("dfs_fileserver_replicate_seconds", help, &node.counts.replicate);
    let sources = [("read", &store.found_by_read), ("scrub", &store.found_by_scrub), ("write", &store.refused)];
    let help = "Chunks that did not match their checksum, by where that was seen";
    metrics.counters("dfs_fileserver_checksum_errors_total", help, "source", sources);
    metrics.counter("dfs_fileserver_scrubbed_bytes_total", "Bytes that the scrub has read", &store.scrubbed_bytes);
    // The page must not keep a store open.
    let node = Arc::downgrade(node);
    metrics.sampled(move |samples| {
        let node = node.upgrade();
        let lost = node.as_ref().map(|node| node.losses.count() as f64);
        samples.gauge("dfs_fileserver_lost_blobs", "Blobs here that no member of their group has whole", lost);
        let status = node.map(|node| node.store.status());
        let status = status.as_ref();
        let used = status.map(|status| status.disk_used_bytes as f64);
        samples.gauge("dfs_fileserver_disk_used_bytes", "Bytes used on the disk, by whatever", used);
        let total = status.map(|status| status.disk_total_bytes as f64);
        samples.gauge("dfs_fileserver_disk_total_bytes", "Bytes of the disk", total);
        let garbage = status.map(|status| status.garbage_bytes as f64);
        samples.gauge("dfs_fileserver_garbage_bytes", "Bytes of the log that compaction could give back", garbage);
        let blobs = status.map(|status| status.blob_count as f64);
        samples.gauge("dfs_fileserver_blobs", "Blobs on the disk", blobs);
        let read_only = status.map(|status| f64::from(u8::from(status.read_only.is_some())));
        samples.gauge("dfs_fileserver_read_only", "1 if the store takes no writes, or its disk no data", read_only);
        let damaged = status.map(|status| status.damaged_chunk_count as f64);
        samples.gauge("dfs_fileserver_damaged_chunks", "Chunks that are damaged now and not served", damaged);
        let repaired = status.map_or(0, |status| status.repaired_chunk_count);
        samples.count("dfs_fileserver_repaired_chunks_total", "Damaged chunks that were replaced", repaired);
        let read = status.map(|status| status.scrub_read_bytes as f64);
        samples.gauge("dfs_fileserver_scrub_read_bytes", "Bytes that the scrub has read of its present pass", read);
        let log = status.map(|status| status.log_bytes as f64);
        samples.gauge("dfs_fileserver_log_bytes", "Bytes of the log, which is what the scrub reads", log);
        let ended = status.filter(|status| status.scrub_ended_ms > 0).map(|status| status.scrub_ended_ms as f64 / 1e3);
        let help = "When the scrub last came to its end, in seconds since 1970";
        samples.gauge("dfs_fileserver_scrub_last_pass_timestamp_seconds", help, ended);
    });
}
