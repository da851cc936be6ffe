//! Tells the Directory of members that fail this primary, so that writes can go on without them.
//!
//! The Directory decides: it takes the member out of the in-sync sets that can spare it, and answers with the map after
//! that. A member that is only joining is not the Directory's yet; this primary stops waiting for it by itself.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    convert,
    fileserver::{directory_link::DirectoryLink, error::Error, map::Map},
    pb,
    types::ServerId,
};

/// Reports about one member are at least this far apart.
const REPORT_INTERVAL: Duration = Duration::from_millis(400);
const QUEUE_MAX: usize = 64;

/// A handle; clones are the same.
#[derive(Clone)]
pub struct Suspicion {
    queue: mpsc::Sender<ServerId>,
}

/// The end of it that reports.
pub struct Reporter {
    pub me: ServerId,
    pub map: Map,
    pub directory: DirectoryLink,
    queue: mpsc::Receiver<ServerId>,
}

impl Suspicion {
    pub fn new(me: ServerId, map: Map, directory: DirectoryLink) -> (Self, Reporter) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { queue: sender }, Reporter { me, map, directory, queue })
    }

    /// The member does not do its part. Reported soon; whoever waits for it sees the map change.
    pub fn suspect(&self, member: &ServerId) {
        // A full queue holds a report about this member already, or will have room when it is suspected again.
        if self.queue.try_send(member.clone()).is_err() {
            tracing::debug!(peer = %member, "suspicion not queued");
        }
    }
}

impl Reporter {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut last: std::collections::HashMap<ServerId, Instant> = std::collections::HashMap::new();
        loop {
            let suspect = tokio::select! {
                () = shutdown.cancelled() => return,
                suspect = self.queue.recv() => match suspect { Some(suspect) => suspect, None => return },
            };
            if last.get(&suspect).is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
                continue;
            }
            last.insert(suspect.clone(), Instant::now());
            self.map.dismiss_everywhere(&suspect);
            tokio::select! {
                () = shutdown.cancelled() => return,
                reported = self.report(&suspect) => match reported {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(peer = %suspect, %error, "suspicion could not be reported"),
                }
            }
        }
    }

    async fn report(&self, suspect: &ServerId) -> Result<(), Error> {
        let view = self.map.now();
        let ours = view.groups().filter(|(_, group)| group.is_led_by(&self.me) && group.in_sync.contains(suspect));
        let groups: Vec<pb::GroupEpoch> =
            ours.map(|(id, group)| pb::GroupEpoch { group: id.0, epoch: group.epoch.0 }).collect();
        if groups.is_empty() {
            return Ok(());
        }
        tracing::warn!(peer = %suspect, groups = groups.len(), "replica does not answer: reporting it");
        let request =
            pb::ReportSuspectRequest { suspect_id: suspect.to_string(), reporter_id: self.me.to_string(), groups };
        let answer = self.directory.answer(self.directory.cluster()?.report_suspect(request)).await?;
        let map = convert::required("cluster_map", answer.cluster_map).map_err(Error::Refused)?;
        self.map.offer(convert::cluster::cluster_map(&map).map_err(Error::Refused)?);
        Ok(())
    }
}
