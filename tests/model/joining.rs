//! How a member gets into the in-sync set, at the primary, at the member and at the Directory.

use crate::{
    protocol::Protocol,
    rules::Rule,
    state::{Admission, Claim, Config, Fate, Set, State},
};

impl Protocol {
    /// The members that a primary's commits wait for though they are not in sync.
    pub fn joiners(&self, state: &State, primary: usize) -> Set {
        let joiners = state.open_claims().filter(|(_, claim)| claim.primary == primary && claim.counts);
        let counted = joiners.filter(|(_, claim)| claim.asked || self.keeps(Rule::CountBeforeListing));
        Set::of(counted.map(|(_, claim)| claim.member).filter(|_| self.keeps(Rule::WaitForTheJoiner)))
    }

    pub fn fetch(&self, state: &mut State, number: usize, blob: usize) -> bool {
        let Claim::Open(claim) = state.claims[number] else { return false };
        let both_up = state.is_up(claim.primary) && state.is_up(claim.member);
        let blob_is_listed = claim.lacked.is_some_and(|lacked| lacked.has(blob));
        let blob = &mut state.blobs[blob];
        let can = blob.durable.has(claim.primary) && !blob.durable.has(claim.member);
        self.write(blob, claim.member);
        both_up && blob_is_listed && can
    }

    pub fn dismiss(&self, state: &mut State, number: usize) -> bool {
        let config = state.config;
        let Claim::Open(claim) = &mut state.claims[number] else { return false };
        // A request that is stale is refused whenever it comes.
        let is_refused = claim.refused || !is_current(&config, claim);
        let may_go = !claim.asked || is_refused || !self.keeps(Rule::KeepTheJoinerThatWasAsked);
        let happens = claim.counts && may_go;
        claim.counts = false;
        happens
    }

    /// The store of a member takes writes again.
    pub fn take_writes(&self, state: &mut State, server: usize) -> bool {
        let was_unwritable = state.config.unwritable.has(server);
        state.config.unwritable = state.config.unwritable.without(server);
        state.config.epoch += u8::from(self.keeps(Rule::NewEpochForTheWritable));
        was_unwritable
    }
}

/// Of a member in sync nothing is at stake: it holds what it holds, and another step may go on without it.
pub fn take_no_writes(state: &mut State, server: usize) -> bool {
    let was_writable = !state.config.unwritable.has(server);
    state.config.unwritable = state.config.unwritable.with(server);
    was_writable && !state.config.in_sync.has(server)
}

pub fn admit(state: &mut State, primary: usize, member: usize) -> bool {
    let Some(lead) = state.lead(primary) else { return false };
    let Some(number) = state.claims.iter().position(|claim| *claim == Claim::Unused) else { return false };
    let is_same = |claim: Admission| claim.counts && (claim.primary, claim.member) == (primary, member);
    let is_joining = state.open_claims().any(|(_, claim)| is_same(claim));
    let admission = Admission { primary, member, epoch: lead.epoch, counts: true, ..Admission::default() };
    state.claims[number] = Claim::Open(admission);
    member != primary && !lead.in_sync.has(member) && !is_joining && state.is_up(member)
}

pub fn list(state: &mut State, number: usize) -> bool {
    let Claim::Open(mut claim) = state.claims[number] else { return false };
    let both_up = state.is_up(claim.primary) && state.is_up(claim.member);
    let lacked = |blob: &usize| {
        let durable = state.blobs[*blob].durable;
        durable.has(claim.primary) && !durable.has(claim.member)
    };
    let blobs = Set::of((0..state.blobs.len()).filter(lacked));
    claim.lacked_committed =
        (0..state.blobs.len()).any(|blob| blobs.has(blob) && state.blobs[blob].fate == Fate::Needed);
    let before = claim.lacked.replace(blobs);
    state.claims[number] = Claim::Open(claim);
    both_up && before.is_none()
}

pub fn ask_to_join(state: &mut State, number: usize) -> bool {
    let Claim::Open(mut claim) = state.claims[number] else { return false };
    let Some(lacked) = claim.lacked else { return false };
    // What is gone at the primary was not needed.
    let blobs = state.blobs.iter().enumerate().filter(|(blob, _)| lacked.has(*blob));
    let is_level = blobs.map(|(_, blob)| blob.durable).all(|at| at.has(claim.member) || !at.has(claim.primary));
    let is_current = state.lead(claim.primary).is_some_and(|lead| lead.epoch == claim.epoch);
    let is_up = state.is_up(claim.member);
    let was_asked = std::mem::replace(&mut claim.asked, true);
    state.claims[number] = Claim::Open(claim);
    is_up && is_level && is_current && claim.counts && !was_asked
}

pub fn join(state: &mut State, number: usize) -> bool {
    let Claim::Open(claim) = state.claims[number] else { return false };
    let is_welcome = is_welcome(state, &claim);
    state.config.in_sync = state.config.in_sync.with(claim.member);
    state.config.epoch += 1;
    claim.asked && is_welcome
}

pub fn refuse_join(state: &mut State, number: usize) -> bool {
    let Claim::Open(mut claim) = state.claims[number] else { return false };
    let is_welcome = is_welcome(state, &claim);
    let was_refused = std::mem::replace(&mut claim.refused, true);
    state.claims[number] = Claim::Open(claim);
    claim.asked && is_current(&state.config, &claim) && !is_welcome && !was_refused
}

fn is_welcome(state: &State, claim: &Admission) -> bool {
    is_current(&state.config, claim) && !state.config.unwritable.has(claim.member)
}

fn is_current(config: &Config, claim: &Admission) -> bool {
    (claim.epoch, claim.primary) == (config.epoch, config.primary)
}
