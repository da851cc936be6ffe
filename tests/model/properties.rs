//! What must hold in every state, and what must happen in some, so that the former says anything.

use stateright::Property;

use crate::{
    protocol::Protocol,
    state::{BLOBS, Blob, Fate, MIN_IN_SYNC, SERVERS, State},
};

pub const COMMITTED_IS_DURABLE: &str = "what is committed is durable on every member in sync";
pub const ONLY_THE_PRIMARY_COMMITS: &str = "only the primary of the present epoch commits";
pub const NOTHING_NEEDED_IS_COLLECTED: &str = "no copy that a version needs is thrown away";

/// Of a group with two writes.
pub fn superseding() -> Vec<Property<Protocol>> {
    let collected = |_: &Protocol, state: &State| is_gone(state, Fate::Deleting);
    vec![Property::sometimes("a superseded blob is gone everywhere", collected)]
}

pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(COMMITTED_IS_DURABLE, |_, state: &State| {
            needed(state).all(|blob| holds_everywhere(state, blob))
        }),
        Property::always(ONLY_THE_PRIMARY_COMMITS, |_, state: &State| !state.unlawful_commit),
        Property::always(NOTHING_NEEDED_IS_COLLECTED, |_, state: &State| {
            needed(state).all(|blob| blob.discarded.count() == 0)
        }),
        Property::always("the in-sync set keeps its minimum, and the primary is in it", |_, state: &State| {
            state.config.in_sync.count() >= MIN_IN_SYNC && state.config.in_sync.has(state.config.primary)
        }),
        Property::always("who leads an epoch leads it alone", |_, state: &State| led_once(state)),
        Property::sometimes("a member that lacked what is committed gets in", |_, state: &State| {
            state.open_claims().any(|(_, claim)| {
                let is_in = claim.asked && state.config.in_sync.has(claim.member);
                let lacked = claim.lacked.unwrap_or_default();
                is_in && (0..BLOBS).any(|blob| lacked.has(blob) && state.blobs[blob].fate == Fate::Needed)
            })
        }),
        Property::sometimes("an abandoned blob is gone everywhere", |_, state: &State| is_gone(state, Fate::Abandoned)),
        Property::sometimes("another primary takes over and commits", |_, state: &State| {
            needed(state).any(|blob| state.config.epoch > 1 && blob.begun_by == Some(state.config.primary))
        }),
        Property::sometimes("a version is committed without a member that was given up", |_, state: &State| {
            needed(state).any(|blob| state.config.in_sync.count() == blob.durable.count())
        }),
    ]
}

fn holds_everywhere(state: &State, blob: &Blob) -> bool {
    blob.durable.holds_all(state.config.in_sync)
}

fn led_once(state: &State) -> bool {
    let leads = || (0..SERVERS).filter_map(|server| Some((server, state.servers[server].leads?.epoch)));
    leads().all(|(server, epoch)| leads().all(|(other, its)| its != epoch || other == server))
}

fn needed(state: &State) -> impl Iterator<Item = &Blob> {
    state.blobs.iter().filter(|blob| blob.fate == Fate::Needed)
}

/// Nobody has a copy of a blob that somebody had.
fn is_gone(state: &State, fate: Fate) -> bool {
    state.blobs.iter().any(|blob| blob.fate == fate && blob.durable.and(blob.written).count() == 0)
}
