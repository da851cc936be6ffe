//! Belonging to a cluster: each node registers with the Directory, and beats so that clients find it in the cluster map.
//!
//! Nodes of one Lock service register under its id, and the Directory takes no other service's while one of them lives. The
//! first registration of the node that leads brings the key that tokens are sealed with; it is stored, so that later
//! starts need no Directory. A node registers anew when it begins to lead: then what the Directory has seen of
//! tokens counts for it. Nothing else hangs on this: a Directory that is away costs a place in the map, and delays
//! grants behind a fence.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    convert,
    durable::DataDir,
    lock::{
        command::Membership,
        error::Error,
        fence::{Directories, Stamped, pause, worth_a_word},
        handle::Handle,
        machine::Progress,
        part::{Door, Place},
    },
    pb::{self, cluster_client::ClusterClient},
    raft::{Group, GroupUid, Role},
    status::{Failure, Reason},
    types::{FencingToken, ServerId},
};

const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Bounds of what the Directory may ask for.
const BEAT_MIN: Duration = Duration::from_millis(50);
const BEAT_MAX: Duration = Duration::from_secs(10);
/// Beats without an answer, after which the stream counts as broken.
const SILENT_BEATS_MAX: u32 = 6;

pub(super) struct Member {
    pub group: Arc<Group>,
    pub progress: watch::Receiver<Progress>,
    pub door: Door,
    pub directories: Arc<Directories>,
    pub folder: DataDir,
    pub server: ServerId,
    /// For servers of the cluster, and for clients outside of its network.
    pub address: String,
    pub external_address: String,
}

/// What a registration settles.
struct Admission {
    membership: Membership,
    /// The newest token that the Directory has seen.
    newest: FencingToken,
    beat: Duration,
}

impl Member {
    /// Until `shutdown`, or until it turns out that the data folder belongs to another cluster.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            // Under which lead it registers, if any.
            let lead = self.door.lead();
            let failure = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                admission = self.register() => match admission {
                    Err(failure) => {
                        self.heed(&failure);
                        failure
                    }
                    Ok(admission) => match self.join(&admission, lead.as_ref()).await? {
                        Some(failure) => failure,
                        None => {
                            failures = 0;
                            tokio::select! {
                                () = shutdown.cancelled() => return Ok(()),
                                _ = self.door.next_lead(lead.as_ref()) => continue,
                                () = self.told_of_cluster() => continue,
                                failure = self.beat(admission.beat) => failure,
                            }
                        }
                    },
                },
            };
            if worth_a_word(failures) {
                tracing::warn!(%failure, failures, "not registered with the Directory; trying again");
            }
            self.directories.turn(&failure);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(pause(failures)) => failures += 1,
            }
        }
    }

    /// A service that the Directory has replaced by another one grants nothing any more.
    fn heed(&self, failure: &Failure) {
        if failure.reason == Reason::LockServiceTaken && self.door.place() != Place::Lost {
            tracing::error!(%failure, "another Lock service has this one's place: this one stands still until that one is gone");
            self.door.set_place(Place::Lost);
        }
    }

    fn client(&self) -> Result<ClusterClient<Stamped>, Failure> {
        let channel = self.directories.current();
        channel.map(ClusterClient::new).ok_or_else(|| Failure::new(Reason::Unavailable, "no address of the Directory"))
    }

    /// A node that no group has taken in yet waits until one has.
    async fn register(&self) -> Result<Admission, Failure> {
        let mut role = self.group.role();
        let taken_in = role.wait_for(|role| !matches!(role, Role::Other { leader: None })).await.is_ok();
        let service = self.group.uid().filter(|uid| taken_in && *uid != GroupUid::NONE);
        let service =
            service.ok_or_else(|| Failure::new(Reason::Unavailable, "no Lock service has taken this node in"))?;
        let request = pb::RegisterServerRequest {
            kind: pb::ServerKind::Lock.into(),
            server_id: self.server.to_string(),
            store_id: self.folder.store_id().to_string(),
            cluster_id: self.folder.cluster_id().map_or_else(String::new, |cluster| cluster.to_string()),
            address: self.address.clone(),
            external_address: self.external_address.clone(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            lock_service_id: service.to_string(),
            ..Default::default()
        };
        let mut client = self.client()?;
        let response = in_time(client.register_server(request)).await?.into_inner();
        self.learn(response.cluster_map.as_ref());
        let header = convert::required("header", response.header)?;
        let key = response.lock_key.as_ref().try_into();
        let key = key.map_err(|_| Failure::bad_argument("lock_key", "the Directory sent no key of 32 bytes"))?;
        let membership = Membership { cluster: convert::cluster_id("cluster_id", &header.cluster_id)?, key };
        let beat = Duration::from_millis(response.heartbeat_interval_ms).clamp(BEAT_MIN, BEAT_MAX);
        Ok(Admission { membership, newest: FencingToken(response.newest_fencing_token), beat })
    }

    /// Takes up what the Directory said, by the lead if this node has it; or says why not yet. A contradiction to what is
    /// stored ends the node: its sessions and tokens mean nothing to another cluster.
    async fn join(&mut self, admission: &Admission, lead: Option<&Handle>) -> anyhow::Result<Option<Failure>> {
        let Admission { membership, newest, .. } = *admission;
        if self.door.place() == Place::Lost {
            self.door.set_place(Place::Regained);
        }
        if self.known().is_some_and(|known| known != membership) {
            anyhow::bail!("the Directory's cluster or lock key is not the one in the data folder");
        }
        match lead.map(|lead| lead.join(membership, newest)) {
            None => {}
            Some(joining) => match joining.await {
                Ok(()) => self.door.set_place(Place::Ours),
                Err(Error::OtherCluster) => {
                    anyhow::bail!("the Directory's cluster or lock key is not the one in the data folder")
                }
                // The lead is lost, or this node stops: nothing that the Directory has to do with.
                Err(error) => return Ok(Some(Failure::new(Reason::Unavailable, error))),
            },
        }
        if self.known().is_some() {
            // Once in a life, and nobody waits for it: the sync may block this thread.
            self.folder.set_cluster_id(membership.cluster).context("join the Directory's cluster")?;
            self.directories.belong_to(membership.cluster);
        }
        tracing::info!(cluster = %membership.cluster, leads = lead.is_some(), "registered with the Directory");
        Ok(None)
    }

    /// What this node's group says that it belongs to.
    fn known(&self) -> Option<Membership> {
        self.progress.borrow().membership
    }

    /// Completes when a node that was registered before its group belonged to a cluster hears to which.
    async fn told_of_cluster(&self) {
        if self.folder.cluster_id().is_some() {
            return std::future::pending().await;
        }
        let mut progress = self.progress.clone();
        // The sender outlives this.
        let _unheard = progress.wait_for(|progress| progress.membership.is_some()).await;
    }

    /// Where else the Directory is.
    fn learn(&self, map: Option<&pb::ClusterMap>) {
        if let Some(map) = map {
            let listed = map.directory_servers.iter().map(|server| server.address.clone());
            self.directories.learn(&listed.collect::<Vec<_>>());
        }
    }

    /// Beats for as long as the Directory answers.
    async fn beat(&self, every: Duration) -> Failure {
        match self.beat_on(every).await {
            Ok(()) => Failure::new(Reason::Unavailable, "the Directory ended the heartbeat"),
            Err(failure) => failure,
        }
    }

    async fn beat_on(&self, every: Duration) -> Result<(), Failure> {
        let mut client = self.client()?;
        let (beats, outgoing) = mpsc::channel(1);
        let beat = || pb::HeartbeatRequest {
            server_id: self.server.to_string(),
            store_id: self.folder.store_id().to_string(),
            leads: matches!(*self.group.role().borrow(), Role::Leader { .. }),
            ..Default::default()
        };
        // The first beat lies ready: a server may want to see it before it answers the call.
        let sent = beats.try_send(beat());
        sent.map_err(|_| Failure::new(Reason::Internal, "the first heartbeat finds no room"))?;
        let mut answers = in_time(client.heartbeat(ReceiverStream::new(outgoing))).await?.into_inner();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        loop {
            tokio::select! {
                answer = answers.message() => match answer.map_err(|status| Failure::from(&status))? {
                    Some(answer) => {
                        silent = 0;
                        self.learn(answer.cluster_map.as_ref());
                    }
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    silent += 1;
                    if silent > SILENT_BEATS_MAX {
                        return Err(Failure::new(Reason::Unavailable, "the Directory does not answer heartbeats"));
                    }
                    // A beat that still waits says the same as the next one would.
                    drop(beats.try_send(beat()));
                }
            }
        }
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(result) => result.map_err(|status| Failure::from(&status)),
        Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "the Directory does not answer")),
    }
}
