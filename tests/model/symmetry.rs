//! Servers have no characters: states that differ only in who is who are one, which leaves half of them.

use crate::state::{Admission, Claim, SERVERS, Set, State};

/// The state with its servers in an order that does not depend on their numbers.
///
/// Servers that only differ in what they do to each other may keep two orders: then a state is looked at twice, which costs
/// time and hides nothing.
pub fn renumbered(state: &State) -> State {
    let mut order: [usize; SERVERS] = std::array::from_fn(|server| server);
    order.sort_by_cached_key(|server| character(state, *server));
    let mut numbers = [0; SERVERS];
    for (number, server) in order.into_iter().enumerate() {
        numbers[server] = number;
    }
    if numbers == [0, 1, 2] { *state } else { with_numbers(state, numbers) }
}

/// What can be said of a server without naming another.
fn character(state: &State, server: usize) -> u64 {
    let process = state.servers[server];
    let lead = process.leads.map_or(0, |lead| u64::from(lead.epoch) * 8 + u64::from(lead.in_sync.count()));
    let mut said = Said(lead);
    said.say(state.config.primary == server).say(state.config.in_sync.has(server)).say(process.down);
    said.say(state.config.unwritable.has(server));
    for blob in &state.blobs {
        said.say(blob.begun_by == Some(server)).say(blob.written.has(server)).say(blob.durable.has(server));
        said.say(blob.acknowledged.has(server));
    }
    for claim in &state.claims {
        if let Claim::Open(claim) = claim {
            said.say(claim.primary == server).say(claim.member == server);
        }
    }
    said.0
}

struct Said(u64);

impl Said {
    fn say(&mut self, holds: bool) -> &mut Self {
        self.0 = self.0 << 1 | u64::from(holds);
        self
    }
}

fn with_numbers(state: &State, numbers: [usize; SERVERS]) -> State {
    let set = |set: Set| {
        (0..SERVERS).fold(Set(0), |new, server| if set.has(server) { new.with(numbers[server]) } else { new })
    };
    let mut next = *state;
    next.config.primary = numbers[state.config.primary];
    next.config.in_sync = set(state.config.in_sync);
    next.config.unwritable = set(state.config.unwritable);
    for (server, number) in numbers.into_iter().enumerate() {
        next.servers[number] = state.servers[server];
        if let Some(lead) = &mut next.servers[number].leads {
            lead.in_sync = set(lead.in_sync);
        }
    }
    for blob in &mut next.blobs {
        blob.begun_by = blob.begun_by.map(|server| numbers[server]);
        for copies in [&mut blob.written, &mut blob.durable, &mut blob.acknowledged] {
            *copies = set(*copies);
        }
    }
    for claim in &mut next.claims {
        if let Claim::Open(Admission { primary, member, .. }) = claim {
            (*primary, *member) = (numbers[*primary], numbers[*member]);
        }
    }
    next
}
