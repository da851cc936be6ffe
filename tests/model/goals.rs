//! What must be possible: a model in which it is not would promise everything, and show nothing.
//!
//! Each goal is looked for twice. With all steps it must be reached; without the steps that it takes it must not, or it would be
//! reached by something else than what it says.

use crate::{
    protocol::{Bounds, Protocol},
    state::{Answer, Blob, Fate, State, Work},
    step::Step,
};

pub struct Goal {
    pub name: &'static str,
    /// What is enough to reach it. Server 0 leads first, and servers 0 and 1 are in sync then.
    pub bounds: Bounds,
    pub is_reached: fn(&Protocol, &State) -> bool,
    /// Whether a step, from this state, is one without which it is out of reach.
    pub takes: fn(&State, Step) -> bool,
}

const LEAST: Bounds = Bounds { blobs: 1, epochs: 1, claims: 0, crashes: 0, page_cache: false, full_disks: false };

pub static GOALS: [Goal; 7] = [
    Goal {
        name: "a member that lacked what was committed gets in",
        bounds: Bounds { epochs: 2, claims: 1, ..LEAST },
        is_reached: |_, state| {
            let mut claims = state.open_claims().filter(|(_, claim)| claim.lacked_committed);
            claims.any(|(_, claim)| state.config.in_sync.has(claim.member))
        },
        takes: |state, step| matches!(step, Step::List { .. }) && needed(state).next().is_some(),
    },
    Goal {
        name: "a member that was refused is not waited for any more",
        bounds: Bounds { claims: 1, full_disks: true, ..LEAST },
        is_reached: |_, state| state.open_claims().any(|(_, claim)| claim.asked && !claim.counts),
        takes: |_, step| matches!(step, Step::RefuseJoin { .. }),
    },
    Goal {
        name: "another primary takes over and commits",
        bounds: Bounds { epochs: 2, ..LEAST },
        is_reached: |_, state| needed(state).any(|blob| blob.begun_by != Some(0)),
        takes: |_, step| matches!(step, Step::Reconfigure { primary, .. } if primary != 0),
    },
    Goal {
        name: "a version is committed without a member that was given up",
        bounds: Bounds { epochs: 2, ..LEAST },
        // While it was in sync nothing was committed without it.
        is_reached: |_, state| needed(state).any(|blob| !blob.durable.has(1)),
        takes: |_, step| matches!(step, Step::Reconfigure { evicted: Some(_), .. }),
    },
    Goal {
        name: "a write whose commit was refused is given up",
        bounds: Bounds { epochs: 2, ..LEAST },
        is_reached: |_, state| {
            state.blobs.iter().any(|blob| blob.work == Work::GivenUp && blob.answer == Answer::Refused)
        },
        takes: |_, step| matches!(step, Step::RefuseCommit { .. }),
    },
    Goal {
        name: "an abandoned blob is gone everywhere",
        bounds: LEAST,
        is_reached: |_, state| is_gone(state, Fate::Abandoned),
        takes: |_, step| matches!(step, Step::Discard { .. }),
    },
    Goal {
        name: "a superseded blob is gone everywhere",
        bounds: Bounds { blobs: 2, ..LEAST },
        is_reached: |_, state| is_gone(state, Fate::Deleting),
        takes: |_, step| matches!(step, Step::Discard { .. }),
    },
];

fn needed(state: &State) -> impl Iterator<Item = &Blob> {
    state.blobs.iter().filter(|blob| blob.fate == Fate::Needed)
}

/// Nobody has a copy of a blob that somebody had.
fn is_gone(state: &State, fate: Fate) -> bool {
    state.blobs.iter().any(|blob| blob.fate == fate && blob.durable.union(blob.written).count() == 0)
}
