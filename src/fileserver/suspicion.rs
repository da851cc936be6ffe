//! Tells the Directory of members that fail this primary, so that writes can go on without them.
//!
//! The Directory decides: it takes the member out of the in-sync sets that can spare it, and answers with the map after
//! that. A member that is only joining is not the Directory's yet; this primary stops waiting for it by itself.
//!
//! What is found wrong may be out of date when it is reported: a member that has restarted and was taken in meanwhile has
//! done its part since. So a suspicion holds for the groups as they were when the member was asked.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    convert,
    fileserver::{
        directory_link::DirectoryLink,
        error::Error,
        in_sync::Group,
        map::{Map, View},
    },
    pb,
    types::ServerId,
};

/// Reports about one member are at least this far apart.
const REPORT_INTERVAL: Duration = Duration::from_millis(400);
/// What has waited for so long behind reports of others says little by now: who still fails is suspected again.
const OUT_OF_DATE: Duration = Duration::from_secs(1);
const QUEUE_MAX: usize = 64;

struct Suspect {
    server: ServerId,
    raised: Instant,
    /// As it was when the member was asked for what it did not do.
    asked: Arc<View>,
}

/// A handle; clones are the same.
#[derive(Clone)]
pub struct Suspicion {
    queue: mpsc::Sender<Suspect>,
}

/// The end of it that reports.
pub struct Reporter {
    pub me: ServerId,
    pub map: Map,
    pub directory: DirectoryLink,
    queue: mpsc::Receiver<Suspect>,
}

impl Suspicion {
    pub fn new(me: ServerId, map: Map, directory: DirectoryLink) -> (Self, Reporter) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        (Self { queue: sender }, Reporter { me, map, directory, queue })
    }

    /// The member does not do its part, for which it was asked when the map was `asked`. Reported soon; whoever waits for it
    /// sees the map change.
    pub fn suspect(&self, member: &ServerId, asked: Arc<View>) {
        // There will be room when it is suspected again.
        if self.queue.try_send(Suspect { server: member.clone(), raised: Instant::now(), asked }).is_err() {
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
            let is_repeated = last.get(&suspect.server).is_some_and(|last| last.elapsed() < REPORT_INTERVAL);
            if is_repeated || suspect.raised.elapsed() >= OUT_OF_DATE {
                continue;
            }
            self.map.dismiss_everywhere(&suspect.server, &suspect.asked);
            let groups = failed_groups(&self.me, &suspect, &self.map.now());
            if groups.is_empty() {
                continue;
            }
            last.insert(suspect.server.clone(), Instant::now());
            tokio::select! {
                () = shutdown.cancelled() => return,
                reported = self.report(&suspect.server, groups) => match reported {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(peer = %suspect.server, %error, "suspicion could not be reported"),
                }
            }
        }
    }

    async fn report(&self, suspect: &ServerId, groups: Vec<pb::GroupEpoch>) -> Result<(), Error> {
        tracing::warn!(peer = %suspect, groups = groups.len(), "replica does not answer: reporting it");
        let request =
            pb::ReportSuspectRequest { suspect_id: suspect.to_string(), reporter_id: self.me.to_string(), groups };
        let answer = self.directory.answer(self.directory.cluster()?.report_suspect(request)).await?;
        let map = convert::required("cluster_map", answer.cluster_map).map_err(Error::Refused)?;
        self.map.offer(convert::cluster::cluster_map(&map).map_err(Error::Refused)?);
        Ok(())
    }
}

/// Those led here that counted on the member when it was asked, and do now.
fn failed_groups(me: &ServerId, suspect: &Suspect, now: &View) -> Vec<pb::GroupEpoch> {
    let counts_on = |group: &Group| group.is_led_by(me) && group.in_sync.contains(&suspect.server);
    let did = |id| suspect.asked.group(id).is_some_and(|group| group.in_sync.contains(&suspect.server));
    let failed = now.groups().filter(|(id, group)| counts_on(group) && did(*id));
    failed.map(|(id, group)| pb::GroupEpoch { group: id.0, epoch: group.epoch.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fileserver::map::tests::{a_map, server};

    #[test]
    fn a_group_that_has_taken_the_member_in_since_it_was_asked_is_not_reported() {
        let (me, map) = (server("a"), Map::default());
        let suspect = |name, map: &Map| Suspect { server: server(name), raised: Instant::now(), asked: map.now() };
        let mut without = a_map(1, 4, "a");
        without.groups.values_mut().for_each(|group| group.in_sync = vec![server("a")]);
        map.offer(without);
        let before = suspect("b", &map);
        map.offer(a_map(2, 5, "a"));
        let after = suspect("b", &map);
        map.offer(a_map(3, 6, "a"));

        assert_eq!(failed_groups(&me, &before, &map.now()), []);
        assert_eq!(failed_groups(&me, &after, &map.now()), [pb::GroupEpoch { group: 0, epoch: 6 }]);
        assert_eq!(failed_groups(&me, &suspect("c", &map), &map.now()), [], "it is no member");
        assert_eq!(failed_groups(&server("b"), &after, &map.now()), [], "another one leads");
    }
}
