//! A node's own care for its place: it asks to be taken in, and whether it is still counted in when no leader speaks to it.
//!
//! Who is removed while it is down hears nothing of it: nobody sends it anything any more, and nobody votes for it. And who is
//! started on a copy of a node's data folder takes itself for that node, which has promised what the copy does not know. Both are
//! told by the leader, and then stand for no election.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{error::Error, group::Group, identity::GroupUid, members::Candidate, role::Role};
use crate::{
    pb, serve,
    status::{Failure, Reason},
};

/// Pause between two tries to be let in, and the time of one.
const JOIN_PAUSE: Duration = Duration::from_millis(200);
const JOIN_DEADLINE: Duration = Duration::from_secs(5);
/// A member to which no leader has spoken for so long asks whether it still is one, and again after as long.
const LEADERLESS: Duration = Duration::from_secs(2);

/// What the group says of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    #[default]
    Counted,
    /// The group goes on without it.
    Away(Error),
}

/// What this node's own log says of it, which may be old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It names no member at all.
    Unknown,
    Member,
    /// A member, at another address.
    Moved,
    /// Others are members.
    Absent,
}

/// Where to ask, in turn, and how often in vain.
#[derive(Default)]
struct Asking {
    others: Vec<String>,
    failures: u32,
    /// How many there are to be asked.
    count: u32,
    /// Whom the last one has named.
    leader: Option<String>,
}

impl Group {
    /// Takes care that this node is a member under its present address. `others`: where it is told to ask to be taken in, which
    /// counts until it has been a member; who is removed after that stays away. Never ends.
    pub async fn become_member(self: Arc<Self>, others: Vec<String>) {
        let others = [others, self.identity.addresses()].concat();
        let mut told_to_join = !others.is_empty();
        let mut asking = Asking { others, ..Asking::default() };
        loop {
            let place = self.place();
            let pause = match place {
                Place::Member if self.is_led() => {
                    told_to_join = false;
                    self.forget_earlier_self().await;
                    self.take_standing(Standing::Counted);
                    JOIN_PAUSE
                }
                // A log that was just opened has told nothing yet; who has heard a leader may hear it again.
                Place::Unknown if !told_to_join => JOIN_PAUSE,
                Place::Member if self.leaderless() < LEADERLESS => JOIN_PAUSE,
                Place::Absent if !told_to_join && self.leaderless() < LEADERLESS => JOIN_PAUSE,
                _ => {
                    let was_removed = place == Place::Absent || self.expect_counted().is_err();
                    let known = place != Place::Unknown && !(was_removed && told_to_join);
                    self.ask(&mut asking, known).await;
                    let asked_all = asking.leader.is_none() && asking.failures.is_multiple_of(asking.count.max(1));
                    match self.expect_counted() {
                        Err(_) if !told_to_join => LEADERLESS,
                        _ if place == Place::Member && asked_all => LEADERLESS,
                        _ => JOIN_PAUSE,
                    }
                }
            };
            if matches!(&*self.standing(), Standing::Away(Error::NodeTaken { .. })) {
                return std::future::pending().await;
            }
            sleep(pause).await;
        }
    }

    fn place(&self) -> Place {
        let metrics = self.metrics();
        let mut nodes = metrics.membership_config.nodes();
        match metrics.membership_config.get_node(&self.node) {
            Some(node) if *node == self.me => Place::Member,
            Some(_) => Place::Moved,
            None if nodes.next().is_some() => Place::Absent,
            None => Place::Unknown,
        }
    }

    fn is_led(&self) -> bool {
        matches!(*self.role().borrow(), Role::Leader { .. } | Role::Other { leader: Some(_) })
    }

    /// For how long no leader has spoken to this node.
    fn leaderless(&self) -> Duration {
        self.heard.elapsed().unwrap_or_else(|| self.started.elapsed())
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses while the group goes on without this node.
    pub(super) fn expect_counted(&self) -> Result<(), Error> {
        match &*self.standing() {
            Standing::Counted => Ok(()),
            Standing::Away(why) => Err(Error::Away(Box::new(why.clone()))),
        }
    }

    /// Who is not counted in stands for no election.
    fn take_standing(&self, now: Standing) {
        let mut standing = self.standing();
        if *standing == now {
            return;
        }
        self.raft.runtime_config().elect(now == Standing::Counted);
        match &now {
            Standing::Counted => tracing::info!("this node is a member of its group again"),
            Standing::Away(why) => tracing::error!(%why, "this node takes no part in its group"),
        }
        *standing = now;
    }

    /// Asks one of the others, or itself if it leads, and takes note of what it hears.
    async fn ask(&self, asking: &mut Asking, known: bool) {
        let nodes = self.nodes().into_iter().map(|(_, node)| node);
        let nodes = nodes.filter(|node| node.server != self.me.server).map(|node| node.address);
        let addresses: Vec<String> = asking.others.iter().cloned().chain(nodes).collect();
        let at = asking.failures as usize % addresses.len().max(1);
        asking.count = addresses.len().try_into().unwrap_or(u32::MAX);
        let address = asking.leader.take().or_else(|| addresses.get(at).cloned());
        let leads = matches!(*self.role().borrow(), Role::Leader { .. });
        let admitted = match address.as_ref().filter(|_| !leads) {
            Some(address) => self.ask_to_join(address, known).await,
            // The leader knows best where it is itself.
            None => self.admit(self.candidate(known)).await.map_err(Failure::from),
        };
        let Err(failure) = admitted else { return };
        asking.leader = failure.metadata.get("leader_address").cloned();
        if asking.failures.is_power_of_two() {
            tracing::warn!(%failure, ?address, "the group has not let this node in yet, or not said whether it is a member still");
        }
        asking.failures = asking.failures.saturating_add(1);
        let server = self.me.server.clone();
        match failure.reason {
            Reason::ServerRemoved => self.take_standing(Standing::Away(Error::Removed { server })),
            Reason::EntryExists if failure.metadata.contains_key("node_id") => self.give_way().await,
            _ => {}
        }
    }

    /// Another process is this node. What this one knows of its promises is not all of them, now and after a restart.
    async fn give_way(&self) {
        let at = self.nodes().into_iter().find(|(id, _)| *id == self.node).map(|(_, node)| node).unwrap_or_default();
        let taken = Error::NodeTaken { server: self.me.server.clone(), address: at.address, node: self.node };
        self.take_standing(Standing::Away(taken));
        let identity = self.identity.clone();
        let marked = tokio::task::spawn_blocking(move || identity.mark_copied()).await;
        if let Err(error) = marked.map_err(std::io::Error::other).flatten() {
            tracing::error!(%error, "the data folder could not be marked as a copy: do not start it again");
        }
    }

    fn candidate(&self, known: bool) -> Candidate {
        Candidate { id: self.node, node: self.me.clone(), process: self.process, known }
    }

    async fn ask_to_join(&self, address: &str, known: bool) -> Result<(), Failure> {
        let channel = serve::channel(address).map_err(|_| Failure::bad_argument("join", "an address is HOST:PORT"))?;
        let request = pb::AddMemberRequest {
            server_id: self.me.server.clone(),
            node_id: self.node,
            address: self.me.address.clone(),
            external_address: self.me.external_address.clone(),
            group_uid: self.identity.to_wire(),
            service: self.identity.service.to_owned(),
            rejoined: self.me.rejoined,
            known,
            process: self.process,
        };
        let mut client = pb::members_client::MembersClient::new(channel);
        match timeout(JOIN_DEADLINE, client.add_member(request)).await {
            Ok(Ok(answer)) => self.belong_to(&answer.into_inner().group_uid).await,
            Ok(Err(status)) => Err(Failure::from(&status)),
            Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "no answer")),
        }
    }

    /// The group that has taken this node in says who it is.
    async fn belong_to(&self, group_uid: &[u8]) -> Result<(), Failure> {
        let group = GroupUid::from_wire(group_uid).map_err(|error| Failure::bad_argument("group_uid", error))?;
        if let Some(compared) = self.identity.compare(group) {
            return compared.map_err(Failure::from);
        }
        let identity = self.identity.clone();
        let learned = tokio::task::spawn_blocking(move || identity.learn(group)).await;
        let learned = learned.map_err(|error| Failure::new(Reason::Internal, error))?;
        learned.map_err(|error| Failure::new(Reason::Internal, error))?;
        tracing::info!(%group, "this node belongs to a group");
        Ok(())
    }

    /// A member that is removed later must not come back by what its earlier self knew.
    async fn forget_earlier_self(&self) {
        if self.identity.addresses().is_empty() {
            return;
        }
        let identity = self.identity.clone();
        let forgotten = tokio::task::spawn_blocking(move || identity.forget_addresses()).await;
        if let Err(error) = forgotten.map_err(std::io::Error::other).flatten() {
            tracing::warn!(%error, "the addresses that an earlier self knew are kept until the next start");
        }
    }
}
