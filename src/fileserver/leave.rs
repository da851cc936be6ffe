//! Deletes what this server holds of groups that it is no member of any more.
//!
//! Only on the Directory's word: it says which groups were left, and at which epoch, and takes this server into none of
//! them again before it has heard that nothing is held any more. What it says may be old news by the time it is heard: a
//! server that knows of a later epoch at which it is a member keeps everything. Bringing blobs of a group here and deleting
//! them take turns, so that no deletion meets copies of a later membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::MissedTickBehavior};

use super::{error::Error, locked, node::Node};
use crate::types::{BlobId, Epoch, GroupId};

/// Blobs deleted in one step.
const BATCH_MAX: usize = 1000;
/// Between two attempts at what could not be deleted at once.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What the Directory says was left, and how far its deletion is.
#[derive(Debug)]
pub struct Departures {
    told: watch::Sender<BTreeMap<GroupId, Epoch>>,
    emptied: Mutex<BTreeMap<GroupId, Epoch>>,
    /// Groups in which somebody brings or deletes blobs.
    busy: Mutex<BTreeSet<GroupId>>,
}

impl Default for Departures {
    fn default() -> Self {
        Self { told: watch::Sender::new(BTreeMap::new()), emptied: Mutex::default(), busy: Mutex::default() }
    }
}

/// The right to bring or delete blobs of a group; given back when dropped.
pub struct Turn<'d> {
    departures: &'d Departures,
    group: GroupId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        locked(&self.departures.busy).remove(&self.group);
    }
}

impl Departures {
    /// The newest word of the Directory: all groups that this server left and may still hold blobs of.
    pub fn told(&self, left: BTreeMap<GroupId, Epoch>) {
        // What is not told any more has been confirmed.
        locked(&self.emptied).retain(|group, epoch| left.get(group) == Some(epoch));
        self.told.send_if_modified(|told| {
            let changed = *told != left;
            *told = left;
            changed
        });
    }

    /// To be said to the Directory, until it does not ask any more.
    pub fn emptied(&self) -> impl Iterator<Item = (GroupId, Epoch)> + use<> {
        locked(&self.emptied).clone().into_iter()
    }

    /// `None` while somebody else has it.
    pub fn take_turn(&self, group: GroupId) -> Option<Turn<'_>> {
        let is_free = locked(&self.busy).insert(group);
        // Made only if it is had: a turn that is dropped is given back.
        is_free.then(|| Turn { departures: self, group })
    }

    fn is_emptied(&self, group: GroupId, epoch: Epoch) -> bool {
        locked(&self.emptied).get(&group) == Some(&epoch)
    }
}

pub fn is_member(node: &Node, group: GroupId) -> bool {
    node.map.now().group(group).is_some_and(|group| group.members.contains(&node.me))
}

/// Brings blobs of a group here, when it is its turn, and only as long as this server is a member.
pub async fn while_member<T>(
    node: &Node,
    group: GroupId,
    bring: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(_turn) = node.departures.take_turn(group) else { return Err(Error::NotReady) };
    let mut views = node.map.watch();
    let is_over =
        |view: &Arc<super::map::View>| !view.group(group).is_some_and(|group| group.members.contains(&node.me));
    tokio::select! {
        _left = views.wait_for(is_over) => Err(Error::NotReady),
        brought = bring => brought,
    }
}

/// Deletes what was left, until dropped.
pub async fn run(node: Arc<Node>) {
    let mut told = node.departures.told.subscribe();
    let mut retry = tokio::time::interval(RETRY_INTERVAL);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let left = told.borrow_and_update().clone();
        let mut all_done = true;
        for (&group, &epoch) in &left {
            if node.departures.is_emptied(group, epoch) {
                continue;
            }
            match empty(&node, group, epoch).await {
                Ok(true) => drop(locked(&node.departures.emptied).insert(group, epoch)),
                Ok(false) => all_done = false,
                Err(error) => {
                    tracing::warn!(%group, %error, "blobs of a group that was left cannot be deleted yet");
                    all_done = false;
                }
            }
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            _ = retry.tick(), if !all_done => {}
        }
    }
}

/// Whether nothing of the group is held any more. Not the case while blobs are being brought, or while this server does
/// not know yet that it left.
async fn empty(node: &Node, group: GroupId, epoch: Epoch) -> Result<bool, Error> {
    let Some(_turn) = node.departures.take_turn(group) else { return Ok(false) };
    let view = node.map.now();
    let knows = view.group(group).is_some_and(|known| known.epoch >= epoch);
    if !knows || is_member(node, group) {
        return Ok(false);
    }
    let mut count = 0;
    loop {
        let blobs: Vec<BlobId> =
            node.store.blobs(group, None, BATCH_MAX, false).into_iter().map(|record| record.blob).collect();
        if blobs.is_empty() {
            tracing::info!(%group, %epoch, blobs = count, "nothing is held any more of a group that was left");
            return Ok(true);
        }
        {
            let mut replica = locked(&node.replica);
            blobs.iter().for_each(|blob| replica.forget(*blob));
        }
        count += blobs.len();
        // Parts that were still coming in go without a record.
        blobs.iter().for_each(|blob| node.store.discard_open(*blob));
        node.store.delete(blobs).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn what_was_emptied_is_said_until_it_is_not_asked_any_more() {
        let departures = Departures::default();
        departures.told([(GROUP, Epoch(5))].into());
        locked(&departures.emptied).insert(GROUP, Epoch(5));
        departures.told([(GROUP, Epoch(5))].into());
        assert_eq!(departures.emptied().collect::<Vec<_>>(), [(GROUP, Epoch(5))]);
        departures.told([(GROUP, Epoch(9))].into());
        assert_eq!(departures.emptied().count(), 0, "it was a member again, and left again");
        assert!(!departures.is_emptied(GROUP, Epoch(9)));
    }

    #[test]
    fn one_at_a_time_brings_or_deletes() {
        let departures = Departures::default();
        let turn = departures.take_turn(GROUP);
        assert!(turn.is_some() && departures.take_turn(GROUP).is_none());
        assert!(departures.take_turn(GroupId(4)).is_some());
        drop(turn);
        assert!(departures.take_turn(GROUP).is_some());
    }
}
