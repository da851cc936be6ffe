//! What happened once, however often it was asked for or told.
//!
//! A client that hears nothing repeats a write under the same id, and a store that knows the id answers what it answered
//! before. A client that asks for a lock which it has is told its token once more. Neither happened twice.

use std::collections::BTreeMap;

use super::{
    history::{Call, Moment, Operation, Outcome},
    search::Timed,
};
use crate::types::FencingToken;

/// One or more calls that stand for one thing that happened, or may have.
#[derive(Clone, Debug)]
pub struct Act<'a> {
    /// By invocation; never empty.
    pub calls: Vec<&'a Call>,
    pub client: u32,
    pub operation: &'a Operation,
    /// The first to be told.
    pub outcome: &'a Outcome,
    pub invoked: Moment,
    /// When the outcome was first told. `None`: it never was.
    pub returned: Option<Moment>,
}

/// A question and its answer: what a model of a file looks at.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    pub operation: &'a Operation,
    pub outcome: &'a Outcome,
}

/// Calls with the same are one act.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    /// By its id. A refused attempt stands for itself: it says nothing of those before and after it.
    Write(&'a str),
    /// To one client. Told again after it was released, a token was granted twice.
    Grant { client: u32, token: FencingToken, is_released: bool },
}

/// Of the calls on one path, which must come by invocation.
pub fn acts<'a>(calls: &[&'a Call]) -> Vec<Act<'a>> {
    let released = released(calls);
    let mut places = BTreeMap::new();
    let mut acts: Vec<Act<'a>> = Vec::new();
    for &call in calls {
        let place = key(call, &released).map(|key| *places.entry(key).or_insert(acts.len()));
        match place.and_then(|place| acts.get_mut(place)).filter(|act| act.may_be(call)) {
            Some(act) => act.add(call),
            None => acts.push(Act::of(call)),
        }
    }
    acts
}

/// When a client first knew that it had given a token back.
fn released(calls: &[&Call]) -> BTreeMap<(u32, FencingToken), Moment> {
    let mut released = BTreeMap::new();
    for call in calls {
        if let (&Operation::Release { token }, Outcome::Done) = (&call.operation, &call.outcome) {
            let moment = released.entry((call.client, token)).or_insert(call.returned);
            *moment = call.returned.min(*moment);
        }
    }
    released
}

fn key<'a>(call: &'a Call, released: &BTreeMap<(u32, FencingToken), Moment>) -> Option<Key<'a>> {
    match (&call.operation, &call.outcome) {
        (Operation::Acquire { .. }, &Outcome::Granted { token }) => {
            let is_released = released.get(&(call.client, token)).is_some_and(|&moment| moment < call.invoked);
            Some(Key::Grant { client: call.client, token, is_released })
        }
        (_, Outcome::Refused { .. }) => None,
        (operation, _) => {
            operation.condition()?;
            call.write_id.as_deref().map(Key::Write)
        }
    }
}

impl<'a> Act<'a> {
    fn of(call: &'a Call) -> Self {
        let Call { client, operation, outcome, invoked, .. } = call;
        Self { calls: vec![call], client: *client, operation, outcome, invoked: *invoked, returned: told(call) }
    }

    /// Whether a call of the same key is of this act.
    fn may_be(&self, call: &Call) -> bool {
        matches!(call.operation, Operation::Acquire { .. }) || *self.operation == call.operation
    }

    fn add(&mut self, call: &'a Call) {
        self.calls.push(call);
        if let Some(told) = told(call).filter(|&told| self.returned.is_none_or(|first| told < first)) {
            (self.outcome, self.returned) = (&call.outcome, Some(told));
        }
        if call.operation == (Operation::Acquire { shared: false }) {
            // Who has a lock for itself alone may be told so when it asks for less.
            self.operation = &call.operation;
        }
    }

    pub fn exchange(&self) -> Exchange<'a> {
        Exchange { operation: self.operation, outcome: self.outcome }
    }

    pub fn timed(&self) -> Timed<Exchange<'a>> {
        Timed { operation: self.exchange(), invoked: self.invoked, returned: self.returned }
    }

    /// The first call that was told what happened, and one that was told something else.
    pub fn contradiction(&self) -> Option<[&'a Call; 2]> {
        let mut told = self.calls.iter().filter(|call| told(call).is_some());
        let first = *told.next()?;
        let other = *told.find(|call| call.outcome != first.outcome)?;
        Some([first, other])
    }
}

fn told(call: &Call) -> Option<Moment> {
    (!matches!(call.outcome, Outcome::Unknown { .. })).then_some(call.returned)
}
