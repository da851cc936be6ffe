//! The protocol: which steps a state allows, and what they make of it.
//!
//! Where the code waits for a time to pass or chooses the wiser course, the model may do at once and at will whatever is not
//! forbidden: a rule that is only kept because something else is usually quicker is none.

use stateright::{Model, Property};

use crate::{
    goals::Goal,
    joining::{admit, ask_to_join, join, list, refuse_join, take_no_writes},
    properties,
    rules::Rule,
    state::{Answer, BLOBS, Blob, Claim, Fate, Lead, MIN_IN_SYNC, SERVERS, Set, State, Work},
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
    /// Stores come to take no writes, and take them again.
    pub full_disks: bool,
}

pub struct Protocol {
    bounds: Bounds,
    left_out: Option<Rule>,
    /// What is looked for, instead of what must always hold.
    goal: Option<&'static Goal>,
    /// Steps that do not happen.
    barred: fn(&State, Step) -> bool,
    steps: Vec<Step>,
}

impl Protocol {
    /// With all its rules.
    pub fn whole(bounds: Bounds) -> Self {
        Self { bounds, left_out: None, goal: None, barred: |_, _| false, steps: Step::all(bounds) }
    }

    pub fn without(rule: Rule, bounds: Bounds) -> Self {
        Self { left_out: Some(rule), ..Self::whole(bounds) }
    }

    pub fn towards(goal: &'static Goal) -> Self {
        Self { goal: Some(goal), ..Self::whole(goal.bounds) }
    }

    /// Without the steps that lead there.
    pub fn barred_from(goal: &'static Goal) -> Self {
        Self { barred: goal.takes, ..Self::towards(goal) }
    }

    pub fn keeps(&self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }

    /// The state after the step; `None` where it cannot happen.
    fn after(&self, state: &State, step: Step) -> Option<State> {
        if (self.barred)(state, step) {
            return None;
        }
        let mut next = *state;
        let happens = match step {
            Step::Begin { blob, primary } => begin(&mut next, blob, primary),
            Step::Receive { blob, server } => self.receive(&mut next, blob, server),
            Step::Sync { blob, server } => sync(&mut next, blob, server),
            Step::AskToCommit { blob } => self.ask_to_commit(&mut next, blob),
            Step::Commit { blob, epoch } => self.commit(&mut next, blob, epoch),
            Step::RefuseCommit { blob } => refuse_commit(&mut next, blob),
            Step::GiveUp { blob } => self.give_up(&mut next, blob),
            Step::Learn { server } => learn(&mut next, server),
            Step::Reconfigure { primary, evicted } => self.reconfigure(&mut next, primary, evicted),
            Step::Admit { primary, member } => admit(&mut next, primary, member),
            Step::List { claim } => list(&mut next, claim),
            Step::Fetch { claim, blob } => self.fetch(&mut next, claim, blob),
            Step::AskToJoin { claim } => ask_to_join(&mut next, claim),
            Step::Join { claim } => join(&mut next, claim),
            Step::RefuseJoin { claim } => refuse_join(&mut next, claim),
            Step::Dismiss { claim } => self.dismiss(&mut next, claim),
            Step::Abandon { blob } => abandon(&mut next, blob),
            Step::Collect { blob } => collect(&mut next, blob),
            Step::TakeNoWrites { server } => take_no_writes(&mut next, server),
            Step::TakeWrites { server } => self.take_writes(&mut next, server),
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
    pub fn write(&self, blob: &mut Blob, server: usize) {
        blob.written = blob.written.with(server);
        if !self.bounds.page_cache {
            blob.sync(server);
        }
    }

    fn ask_to_commit(&self, state: &mut State, blob: usize) -> bool {
        let Some(primary) = state.blobs[blob].begun_by.filter(|_| state.blobs[blob].is_running()) else { return false };
        let Some(lead) = state.lead(primary) else { return false };
        let joiners = self.joiners(state, primary);
        let blob = &mut state.blobs[blob];
        blob.asked_at = blob.asked_at.with(usize::from(lead.epoch));
        blob.answer = Answer::Missing;
        may_ask(lead.in_sync, joiners, blob.acknowledged, MIN_IN_SYNC)
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
        true
    }

    fn may_be_committed(&self, fate: Fate) -> bool {
        fate == Fate::Unknown || (fate == Fate::Abandoned && !self.keeps(Rule::RefuseTheAbandoned))
    }

    fn give_up(&self, state: &mut State, blob: usize) -> bool {
        let blob = &mut state.blobs[blob];
        let was_running = blob.is_running();
        let is_certain = blob.answer != Answer::Missing || !self.keeps(Rule::AwaitAnswersBeforeDiscarding);
        blob.work = Work::GivenUp;
        was_running && is_certain
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
        is_up && has_it && (is_settled || guesses || blob.work == Work::GivenUp)
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

    fn reconfigure(&self, state: &mut State, primary: usize, evicted: Option<usize>) -> bool {
        let before = state.config;
        let in_sync = evicted.map_or(before.in_sync, |server| before.in_sync.without(server));
        state.config.in_sync = in_sync;
        state.config.primary = primary;
        state.config.epoch += u8::from(self.keeps(Rule::NewEpochAtEachChange));
        let changes = in_sync != before.in_sync || (evicted.is_none() && primary != before.primary);
        let leads_from_the_set = in_sync.has(primary) || !self.keeps(Rule::LeadFromTheSet);
        let keeps_the_minimum = in_sync.count() >= MIN_IN_SYNC || !self.keeps(Rule::KeepTheMinimum);
        changes && leads_from_the_set && keeps_the_minimum
    }

    /// No version is made of it, nor will be: whoever still has it may as well have thrown it away.
    fn is_dead(&self, blob: &Blob) -> bool {
        let is_over = !blob.is_running() && blob.begun_by.is_some() && blob.asked_at.count() == 0;
        let is_nobodys = matches!(blob.fate, Fate::Unknown | Fate::Abandoned | Fate::Deleting);
        is_over && is_nobodys
    }

    /// Two states that differ only in what can have no effect any more are one.
    fn tidy(&self, mut state: State) -> State {
        for blob in state.blobs.iter_mut().filter(|blob| !self.may_be_committed(blob.fate)) {
            (blob.asked_at, blob.answer) = Default::default();
            if blob.is_running() || matches!(blob.fate, Fate::Deleting | Fate::Abandoned) {
                blob.work = Work::None;
            }
        }
        let is_over = |asked: u8| asked < state.config.epoch && self.keeps(Rule::CommitAtTheEpoch);
        for blob in &mut state.blobs {
            let over = (1..=self.bounds.epochs).filter(|asked| is_over(*asked));
            blob.asked_at = over.fold(blob.asked_at, |left, asked| left.without(usize::from(asked)));
            if !blob.is_running() {
                blob.acknowledged = Set::default();
            }
            if self.goal.is_none() && (!blob.is_running() || blob.answer == Answer::Refused) {
                blob.answer = Answer::Unasked;
            }
        }
        let dead = Set::of((0..BLOBS).filter(|blob| self.goal.is_none() && self.is_dead(&state.blobs[*blob])));
        for blob in dead.members() {
            state.blobs[blob] = Blob { begun_by: Some(state.config.primary), fate: Fate::Deleting, ..Blob::default() };
        }
        for claim in &mut state.claims {
            let Claim::Open(open) = claim else { continue };
            open.lacked = open.lacked.map(|lacked| dead.members().fold(lacked, Set::without));
            open.refused &= open.counts;
            open.lacked_committed &= self.goal.is_some();
            if !open.counts && (!open.asked || open.epoch < state.config.epoch) {
                *claim = Claim::Spent;
            }
        }
        state.claims.sort_unstable();
        // A path is easier to follow, and a goal easier to say, when everybody keeps their number.
        if self.left_out.is_none() && self.goal.is_none() { symmetry::renumbered(&state) } else { state }
    }
}

fn begin(state: &mut State, blob: usize, primary: usize) -> bool {
    let leads = state.lead(primary).is_some();
    // The blobs are alike: the first one first.
    let is_next = state.blobs.iter().position(|blob| blob.begun_by.is_none()) == Some(blob);
    state.blobs[blob].begun_by = Some(primary);
    state.blobs[blob].work = Work::Running;
    leads && is_next
}

fn sync(state: &mut State, blob: usize, server: usize) -> bool {
    let is_up = state.is_up(server);
    let blob = &mut state.blobs[blob];
    let was_written = blob.written.has(server);
    blob.sync(server);
    is_up && was_written
}

fn refuse_commit(state: &mut State, blob: usize) -> bool {
    let blob = &mut state.blobs[blob];
    // What may still be met is not forgotten, and what was committed is never refused.
    let is_refused = blob.fate == Fate::Unknown && blob.asked_at.count() == 0;
    let before = std::mem::replace(&mut blob.answer, Answer::Refused);
    blob.is_running() && is_refused && before == Answer::Missing
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
        if blob.begun_by == Some(server) && blob.is_running() {
            blob.work = Work::None;
        }
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
        match self.goal {
            Some(goal) => vec![Property::sometimes(goal.name, goal.is_reached)],
            None => properties::all(),
        }
    }
}
