//! The protocol: which steps a state allows, and what they make of it.
//!
//! Where the code waits for a time to pass or chooses the wiser course, the model may do at once and at will whatever is not
//! forbidden: a rule that is only kept because something else is usually quicker is none.

use stateright::{Model, Property};

use crate::{
    properties,
    rules::Rule,
    state::{Admission, Blob, Claim, Fate, Lead, MIN_IN_SYNC, SERVERS, Set, State},
    step::{Step, may_ask},
    symmetry,
};

/// What keeps the states few: all of it could go on for ever.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub blobs: usize,
    pub epochs: u8,
    pub claims: usize,
    pub crashes: u8,
    /// A copy is in the page cache before it is on stable storage, and a crash in between loses it. Without, it is synced in the
    /// step in which it comes: before that nobody but the server itself can tell that it came.
    pub page_cache: bool,
}

pub struct Protocol {
    bounds: Bounds,
    left_out: Option<Rule>,
    steps: Vec<Step>,
}

impl Protocol {
    /// With all its rules.
    pub fn whole(bounds: Bounds) -> Self {
        Self { bounds, left_out: None, steps: Step::all(bounds) }
    }

    pub fn without(rule: Rule, bounds: Bounds) -> Self {
        Self { left_out: Some(rule), ..Self::whole(bounds) }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }

    /// The state after the step; `None` where it cannot happen.
    fn after(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        let happens = match step {
            Step::Begin { blob, primary } => begin(&mut next, blob, primary),
            Step::Receive { blob, server } => self.receive(&mut next, blob, server),
            Step::Sync { blob, server } => sync(&mut next, blob, server),
            Step::AskToCommit { blob } => self.ask_to_commit(&mut next, blob),
            Step::Commit { blob, epoch } => self.commit(&mut next, blob, epoch),
            Step::Learn { server } => learn(&mut next, server),
            Step::Reconfigure { primary, evicted } => reconfigure(&mut next, primary, evicted),
            Step::Admit { primary, member } => admit(&mut next, primary, member),
            Step::List { claim } => list(&mut next, claim),
            Step::Fetch { claim, blob } => self.fetch(&mut next, claim, blob),
            Step::AskToJoin { claim } => ask_to_join(&mut next, claim),
            Step::Join { claim } => join(&mut next, claim),
            Step::Dismiss { claim } => self.dismiss(&mut next, claim),
            Step::Abandon { blob } => abandon(&mut next, blob),
            Step::Collect { blob } => collect(&mut next, blob),
            Step::Discard { blob, server } => self.discard(&mut next, blob, server),
            Step::Crash { server } => crash(&mut next, server),
            Step::Restart { server } => self.restart(&mut next, server),
        };
        let is_within = next.config.epoch <= self.bounds.epochs && next.crashes <= self.bounds.crashes;
        let next = (happens && is_within).then(|| self.tidy(next))?;
        (next != *state).then_some(next)
    }

    fn receive(&self, state: &mut State, blob: usize, server: usize) -> bool {
        let is_up = state.is_up(server);
        let blob = &mut state.blobs[blob];
        // What is to go anyhow may come late, and makes no difference.
        let is_over = matches!(blob.fate, Fate::Deleting | Fate::Abandoned);
        if !is_up || blob.begun_by.is_none() || blob.durable.has(server) || is_over {
            return false;
        }
        self.write(blob, server);
        if !self.keeps(Rule::SyncBeforeAcknowledging) {
            blob.acknowledged = blob.acknowledged.with(server);
        }
        true
    }

    /// A whole copy has come to a server.
    fn write(&self, blob: &mut Blob, server: usize) {
        blob.written = blob.written.with(server);
        if !self.bounds.page_cache {
            blob.sync(server);
        }
    }

    fn ask_to_commit(&self, state: &mut State, blob: usize) -> bool {
        let Some(primary) = state.blobs[blob].begun_by.filter(|_| state.blobs[blob].running) else { return false };
        let Some(lead) = state.lead(primary) else { return false };
        let joiners = self.joiners(state, primary);
        let blob = &mut state.blobs[blob];
        blob.asked_at = blob.asked_at.with(usize::from(lead.epoch));
        may_ask(lead.in_sync, joiners, blob.acknowledged, MIN_IN_SYNC)
    }

    /// The members that a primary's commits wait for though they are not in sync.
    fn joiners(&self, state: &State, primary: usize) -> Set {
        let joiners = state.open_claims().filter(|(_, claim)| claim.primary == primary && claim.counts);
        let counted = joiners.filter(|(_, claim)| claim.asked || self.keeps(Rule::CountBeforeListing));
        Set::of(counted.map(|(_, claim)| claim.member).filter(|_| self.keeps(Rule::WaitForTheJoiner)))
    }

    fn commit(&self, state: &mut State, blob: usize, epoch: u8) -> bool {
        let asked = state.blobs[blob];
        if !asked.asked_at.has(usize::from(epoch)) || !self.may_be_committed(asked.fate) {
            return false;
        }
        let is_lawful = epoch == state.config.epoch && asked.begun_by == Some(state.config.primary);
        if self.keeps(Rule::CommitAtTheEpoch) && !is_lawful {
            return false;
        }
        for before in state.blobs.iter_mut().filter(|blob| blob.fate == Fate::Needed) {
            before.fate = Fate::Garbage;
        }
        state.blobs[blob].fate = Fate::Needed;
        state.unlawful_commit |= !is_lawful;
        true
    }

    fn may_be_committed(&self, fate: Fate) -> bool {
        fate == Fate::Unknown || (fate == Fate::Abandoned && !self.keeps(Rule::RefuseTheAbandoned))
    }

    fn fetch(&self, state: &mut State, number: usize, blob: usize) -> bool {
        let Claim::Open(claim) = state.claims[number] else { return false };
        let both_up = state.is_up(claim.primary) && state.is_up(claim.member);
        let blob_is_listed = claim.lacked.is_some_and(|lacked| lacked.has(blob));
        let blob = &mut state.blobs[blob];
        let can = blob.durable.has(claim.primary) && !blob.durable.has(claim.member);
        self.write(blob, claim.member);
        both_up && blob_is_listed && can
    }

    fn dismiss(&self, state: &mut State, number: usize) -> bool {
        let Claim::Open(claim) = &mut state.claims[number] else { return false };
        let may_go = !claim.asked || !self.keeps(Rule::KeepTheJoinerThatWasAsked);
        let happens = claim.counts && may_go;
        claim.counts = false;
        happens
    }

    fn discard(&self, state: &mut State, blob: usize, server: usize) -> bool {
        let is_up = state.is_up(server);
        let blob = &mut state.blobs[blob];
        let is_settled = matches!(blob.fate, Fate::Deleting | Fate::Abandoned);
        let has_it = blob.durable.has(server);
        // Without asking, whoever is not the primary of the write takes it for dead when its stream has ended.
        let guesses = !self.keeps(Rule::AskBeforeCollecting) && blob.begun_by != Some(server);
        blob.durable = blob.durable.without(server);
        blob.written = blob.written.without(server);
        if !is_settled {
            blob.discarded = blob.discarded.with(server);
        }
        is_up && has_it && (is_settled || guesses)
    }

    fn restart(&self, state: &mut State, server: usize) -> bool {
        let was_down = state.servers[server].down;
        state.servers[server].down = false;
        if state.config.primary == server {
            state.config.epoch += u8::from(self.keeps(Rule::NewEpochAfterRestart));
            learn(state, server);
        }
        was_down
    }

    /// Two states that differ only in what can have no effect any more are one.
    fn tidy(&self, mut state: State) -> State {
        for blob in state.blobs.iter_mut().filter(|blob| !self.may_be_committed(blob.fate)) {
            (blob.running, blob.acknowledged, blob.asked_at) = Default::default();
        }
        let is_over = |asked: u8| asked < state.config.epoch && self.keeps(Rule::CommitAtTheEpoch);
        for blob in &mut state.blobs {
            let over = (1..=self.bounds.epochs).filter(|asked| is_over(*asked));
            blob.asked_at = over.fold(blob.asked_at, |left, asked| left.without(usize::from(asked)));
        }
        for claim in &mut state.claims {
            if let Claim::Open(open) = claim
                && !open.counts
                && (!open.asked || open.epoch < state.config.epoch)
            {
                *claim = Claim::Spent;
            }
        }
        state.claims.sort_unstable();
        // A path to what fails without a rule is easier to follow when everybody keeps their number.
        if self.left_out.is_none() { symmetry::renumbered(&state) } else { state }
    }
}

fn begin(state: &mut State, blob: usize, primary: usize) -> bool {
    let leads = state.lead(primary).is_some();
    // The blobs are alike: the first one first.
    let is_next = state.blobs.iter().position(|blob| blob.begun_by.is_none()) == Some(blob);
    state.blobs[blob].begun_by = Some(primary);
    state.blobs[blob].running = true;
    leads && is_next
}

fn sync(state: &mut State, blob: usize, server: usize) -> bool {
    let is_up = state.is_up(server);
    let blob = &mut state.blobs[blob];
    let was_written = blob.written.has(server);
    blob.sync(server);
    is_up && was_written
}

fn learn(state: &mut State, server: usize) -> bool {
    let leads = state.config.primary == server && state.is_up(server);
    let lead = Lead { epoch: state.config.epoch, in_sync: state.config.in_sync };
    let is_news = state.servers[server].leads != Some(lead);
    state.servers[server].leads = Some(lead);
    // A claim does not outlive the epoch it was made at.
    for claim in &mut state.claims {
        if let Claim::Open(claim) = claim
            && claim.primary == server
        {
            claim.counts &= claim.epoch >= lead.epoch;
        }
    }
    leads && is_news
}

fn reconfigure(state: &mut State, primary: usize, evicted: Option<usize>) -> bool {
    let before = state.config;
    let in_sync = evicted.map_or(before.in_sync, |server| before.in_sync.without(server));
    state.config.in_sync = in_sync;
    state.config.primary = primary;
    state.config.epoch += 1;
    let changes = in_sync != before.in_sync || (evicted.is_none() && primary != before.primary);
    changes && in_sync.has(primary) && in_sync.count() >= MIN_IN_SYNC
}

fn admit(state: &mut State, primary: usize, member: usize) -> bool {
    let Some(lead) = state.lead(primary) else { return false };
    let Some(number) = state.claims.iter().position(|claim| *claim == Claim::Unused) else { return false };
    let is_joining = state.open_claims().any(|(_, claim)| (claim.primary, claim.member) == (primary, member));
    let admission = Admission { primary, member, epoch: lead.epoch, counts: true, lacked: None, asked: false };
    state.claims[number] = Claim::Open(admission);
    member != primary && !lead.in_sync.has(member) && !is_joining && state.is_up(member)
}

fn list(state: &mut State, number: usize) -> bool {
    let Claim::Open(mut claim) = state.claims[number] else { return false };
    let both_up = state.is_up(claim.primary) && state.is_up(claim.member);
    let blobs = state.blobs.iter().enumerate();
    let lacked = blobs.filter(|(_, blob)| blob.durable.has(claim.primary) && !blob.durable.has(claim.member));
    let before = claim.lacked.replace(Set::of(lacked.map(|(blob, _)| blob)));
    state.claims[number] = Claim::Open(claim);
    both_up && before.is_none()
}

fn ask_to_join(state: &mut State, number: usize) -> bool {
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

fn join(state: &mut State, number: usize) -> bool {
    let Claim::Open(claim) = state.claims[number] else { return false };
    let is_current = claim.epoch == state.config.epoch && claim.primary == state.config.primary;
    state.config.in_sync = state.config.in_sync.with(claim.member);
    state.config.epoch += 1;
    claim.asked && is_current
}

fn abandon(state: &mut State, blob: usize) -> bool {
    let asks = (0..SERVERS).any(|server| state.is_up(server) && state.blobs[blob].durable.has(server));
    let blob = &mut state.blobs[blob];
    let was_unknown = blob.fate == Fate::Unknown;
    blob.fate = Fate::Abandoned;
    asks && was_unknown
}

fn collect(state: &mut State, blob: usize) -> bool {
    let was_garbage = state.blobs[blob].fate == Fate::Garbage;
    state.blobs[blob].fate = Fate::Deleting;
    was_garbage
}

fn crash(state: &mut State, server: usize) -> bool {
    let was_up = state.is_up(server);
    state.servers[server].down = true;
    state.servers[server].leads = None;
    for blob in &mut state.blobs {
        blob.written = blob.written.without(server);
        blob.running &= blob.begun_by != Some(server);
    }
    for claim in &mut state.claims {
        if let Claim::Open(ended) = claim {
            ended.counts &= ended.primary != server;
            // A stream that breaks before the member was level ends the claim.
            if ended.member == server && !ended.asked {
                *claim = Claim::Spent;
            }
        }
    }
    state.crashes += 1;
    was_up
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        [Set::of([0, 1, 2]), Set::of([0, 1])]
            .map(|in_sync| self.tidy(State::at_first(in_sync, self.bounds.claims)))
            .into()
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        // Those that cannot happen lead nowhere.
        actions.extend(&self.steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        self.after(state, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = properties::all();
        if self.bounds.blobs > 1 {
            properties.extend(properties::superseding());
        }
        properties
    }
}
