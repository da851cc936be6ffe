//! What must hold in every state.

use stateright::Property;

use crate::{
    protocol::Protocol,
    state::{Fate, MIN_IN_SYNC, SERVERS, State},
};

pub const COMMITTED_IS_DURABLE: &str = "what is committed is durable on every member in sync";
pub const MINIMUM_IS_KEPT: &str = "the in-sync set keeps its minimum";
pub const PRIMARY_IS_IN_SYNC: &str = "the primary is in the in-sync set";
pub const LED_ALONE: &str = "who leads an epoch leads it alone";

pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(COMMITTED_IS_DURABLE, |_, state: &State| {
            let mut needed = state.blobs.iter().filter(|blob| blob.fate == Fate::Needed);
            needed.all(|blob| blob.durable.holds_all(state.config.in_sync))
        }),
        Property::always(MINIMUM_IS_KEPT, |_, state: &State| state.config.in_sync.count() >= MIN_IN_SYNC),
        Property::always(PRIMARY_IS_IN_SYNC, |_, state: &State| state.config.in_sync.has(state.config.primary)),
        Property::always(LED_ALONE, |_, state: &State| led_once(state)),
    ]
}

fn led_once(state: &State) -> bool {
    let leads = || (0..SERVERS).filter_map(|server| Some((server, state.servers[server].leads?.epoch)));
    leads().all(|(server, epoch)| leads().all(|(other, its)| its != epoch || other == server))
}
