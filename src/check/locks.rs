//! Locks as their clients see them: one holder at a time, and tokens that rise from holder to holder.
//!
//! That somebody still holds a lock is known from the moments at which the client's own clock said that the lease ran:
//! from the grant's arrival until the last of them it held the lock, whatever the Lock service thinks. All moments are of one
//! clock, so no search is needed. A lock that an administrator broke is beyond this: its holder is not told.

use std::collections::BTreeMap;

use super::{
    act::Act,
    history::{Call, Moment, Operation, Outcome},
};
use crate::types::FencingToken;

/// Two holders that cannot both be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict<'a> {
    pub kind: ConflictKind,
    /// The grants, and the last proof that each was held.
    pub calls: Vec<&'a Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// Both held the lock at one moment.
    TwoHolders,
    /// The later one has the older token.
    TokenWentBack,
}

/// From the grant's arrival to the last proof.
#[derive(Clone, Copy)]
struct Hold<'a> {
    grant: &'a Call,
    proof: &'a Call,
    token: FencingToken,
    is_shared: bool,
}

impl<'a> Hold<'a> {
    fn begin(&self) -> Moment {
        self.grant.returned
    }

    fn end(&self) -> Moment {
        self.proof.invoked
    }

    fn conflict(&self, later: &Self, kind: ConflictKind) -> Conflict<'a> {
        let mut calls = vec![self.grant, self.proof, later.grant, later.proof];
        calls.sort_by_key(|call| (call.invoked, call.number));
        Conflict { kind, calls }
    }
}

/// The holder that ends last, and the one with the newest token, of those that began so far.
#[derive(Clone, Copy, Default)]
struct Before<'a> {
    last: Option<Hold<'a>>,
    newest: Option<Hold<'a>>,
}

impl<'a> Before<'a> {
    fn add(&mut self, hold: Hold<'a>) {
        if self.last.is_none_or(|last| last.end() < hold.end()) {
            self.last = Some(hold);
        }
        if self.newest.is_none_or(|newest| newest.token < hold.token) {
            self.newest = Some(hold);
        }
    }

    fn conflict(&self, hold: &Hold<'a>) -> Option<Conflict<'a>> {
        // At the very same moment one may have ended and the other begun.
        let overlaps = self.last.filter(|last| hold.begin() < last.end().min(hold.end()));
        let newer = self.newest.filter(|newest| newest.token >= hold.token);
        let overlaps = overlaps.map(|last| last.conflict(hold, ConflictKind::TwoHolders));
        overlaps.or_else(|| newer.map(|newest| newest.conflict(hold, ConflictKind::TokenWentBack)))
    }
}

/// The first conflict among what happened on one path, if there is one.
pub fn check<'a>(acts: &[Act<'a>]) -> Option<Conflict<'a>> {
    let mut holds = holds(acts);
    holds.sort_by_key(|hold| (hold.begin(), hold.token));
    let (mut exclusive, mut all) = (Before::default(), Before::default());
    for hold in &holds {
        // Shared holders exclude no shared ones.
        let before = if hold.is_shared { &exclusive } else { &all };
        if let Some(conflict) = before.conflict(hold) {
            return Some(conflict);
        }
        all.add(*hold);
        if !hold.is_shared {
            exclusive.add(*hold);
        }
    }
    None
}

/// Those that were ever proven.
fn holds<'a>(acts: &[Act<'a>]) -> Vec<Hold<'a>> {
    let mut proofs: BTreeMap<(u32, FencingToken), &Call> = BTreeMap::new();
    for &call in acts.iter().flat_map(|act| &act.calls) {
        if let (&Operation::Hold { token }, Outcome::Done) = (&call.operation, &call.outcome) {
            let proof = proofs.entry((call.client, token)).or_insert(call);
            if proof.invoked < call.invoked {
                *proof = call;
            }
        }
    }
    let granted = |act: &Act<'a>| {
        let (&Operation::Acquire { shared }, &Outcome::Granted { token }) = (act.operation, act.outcome) else {
            return None;
        };
        let grant = *act.calls.iter().min_by_key(|call| call.returned)?;
        let proof = proofs.get(&(act.client, token))?;
        Some(Hold { grant, proof, token, is_shared: shared })
    };
    acts.iter().filter_map(granted).collect()
}
