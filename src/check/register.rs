//! One file as a single copy would behave: each write makes the next version of what is there, a read tells the newest.
//!
//! The lock's grants are in it too. From the moment that a token is granted no write under an older one may happen: who was
//! told "you hold it" and who writes under an older token are put into one order, and that order must exist. So the
//! model holds the promise about fencing, and that tokens of a path rise.

use std::marker::PhantomData;

use super::{
    act::{Act, Exchange},
    content::Content,
    history::{Condition, Data, Digest, Operation, Outcome},
    search::Model,
};
use crate::types::{FencingToken, Revision, Version};

/// Of a content, at most; a longer one is known by what identifies it.
const CONTENT_BYTES_MAX: usize = 64 << 10;
/// Of all the contents that a search keeps, one a call.
const SEARCH_BYTES_MAX: usize = 128 << 20;

/// A file and its lock, at one path.
pub struct Register<'a> {
    bytes_max: usize,
    acts: PhantomData<&'a Act<'a>>,
}

impl Register<'_> {
    /// To look at these, or some of them.
    pub fn new(acts: &[&Act<'_>]) -> Self {
        // Without a patch what identifies a content says all.
        let is_patched = acts.iter().any(|act| matches!(act.operation, Operation::Patch { .. }));
        let share = SEARCH_BYTES_MAX / acts.len().max(1);
        Self { bytes_max: if is_patched { share.min(CONTENT_BYTES_MAX) } else { 0 }, acts: PhantomData }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// 0: there is no file. `None`: not known.
    version: Option<Version>,
    /// Of that version.
    content: Content,
    /// Whatever is told of what is there now has this one or a higher.
    revision: Revision,
    /// The newest token that was granted or used: no write is under an older one.
    fence: FencingToken,
    /// The newest of those that was not shared: every later grant is above it.
    exclusive: FencingToken,
}

/// What was asked for when the answer never came.
static UNANSWERED: Outcome = Outcome::Unknown { reason: String::new() };

/// Whether what an answer says has to do with the order of calls.
pub fn is_checked(act: &Act<'_>) -> bool {
    match (act.operation, act.outcome) {
        (Operation::Hold { .. } | Operation::Release { .. }, _) => false,
        (Operation::Read | Operation::Acquire { .. }, Outcome::Unknown { .. }) => false,
        // What it did not find is an observation; other refusals tell nothing of the file.
        (_, Outcome::Refused { current, .. }) => current.is_some(),
        _ => true,
    }
}

impl<'a> Model for Register<'a> {
    type Operation = Exchange<'a>;
    type State = State;

    fn initial(&self) -> State {
        State { version: Some(Version(0)), ..self.anything() }
    }

    fn anything(&self) -> State {
        let (fence, exclusive) = (FencingToken(0), FencingToken(0));
        State { version: None, content: Content::default(), revision: Revision(0), fence, exclusive }
    }

    fn step(&self, state: &State, &Exchange { operation, outcome }: &Exchange<'a>) -> Option<State> {
        match (operation, outcome) {
            (_, Outcome::Refused { current: Some(current), .. }) => refused(state, operation, *current),
            (Operation::Read, &Outcome::Found { version, revision, size, crc32c }) => {
                found(state, version, revision, Digest { size, crc32c })
            }
            (Operation::Read, Outcome::Absent) => state.with_version(Version(0)),
            (Operation::Replace { data, condition }, _) => {
                let is_blind = condition.if_version.is_none() && condition.token.is_none();
                let new = Content::of(data, self.bytes_max);
                if is_blind { None } else { written(state, condition, outcome, |_| Some((new, Some(0)))) }
            }
            (Operation::Append { data, condition }, _) => {
                written(state, condition, outcome, |old| self.appended(old, data))
            }
            (Operation::Patch { offset, data, condition }, _) => {
                self.patched(state, condition, outcome, (*offset, data))
            }
            (Operation::Delete { condition }, Outcome::Done | Outcome::Unknown { .. }) => deleted(state, condition),
            (Operation::Acquire { shared: false }, &Outcome::Granted { token }) => {
                (token > state.fence).then(|| State { fence: token, exclusive: token, ..state.clone() })
            }
            // Those who share a lock may hear of their grants in another order than they were made in.
            (Operation::Acquire { shared: true }, &Outcome::Granted { token }) => {
                (token > state.exclusive).then(|| State { fence: token.max(state.fence), ..state.clone() })
            }
            _ => None,
        }
    }

    fn rank(&self, exchange: &Exchange<'a>) -> Option<u64> {
        match exchange.outcome {
            Outcome::Written { revision, .. } | Outcome::Found { revision, .. } => Some(revision.0),
            _ => None,
        }
    }

    /// Versions tell. Until the next one that was told no other write is known, so a write explains something if it leads
    /// towards that one, towards the version that a refusal saw, or makes a file whose deletion was told; a delete, if a version
    /// that was told lies before the present one.
    fn explains<'b>(
        &self,
        (before, after): (&State, &State),
        next: Option<&'b Exchange<'a>>,
        others: impl Iterator<Item = &'b Exchange<'a>> + Clone,
    ) -> bool
    where
        'a: 'b,
    {
        let (Some(old), Some(new)) = (before.version, after.version) else {
            // What was anything is anything still.
            return false;
        };
        let told = next.filter(|next| version_needed(next) != after.version || self.step(after, next).is_some());
        let mut needed = told.and_then(version_needed).into_iter().chain(others.clone().filter_map(version_needed));
        let mut deletes = others.clone().filter_map(|call| match call.operation {
            Operation::Delete { condition } if version_needed(call).is_none() => Some((condition, is_unknown(call))),
            _ => None,
        });
        if new > old {
            return needed.any(|version| version >= new)
                || deletes.any(|(condition, is_unknown)| match condition.if_version {
                    Some(version) => version >= new,
                    None => old == Version(0) && !is_unknown,
                });
        }
        // After a delete, as many versions as there are writes of unknown end may follow.
        let unknown = others.filter(|call| is_unknown(call) && !matches!(call.operation, Operation::Delete { .. }));
        let reach = Version(unknown.count() as u64);
        let may_follow = |version: Version| version < old || version <= reach;
        needed.any(may_follow) || deletes.any(|(condition, _)| condition.if_version.is_some_and(may_follow))
    }

    fn has_effect(&self, exchange: &Exchange<'a>) -> bool {
        exchange.operation.condition().is_some() && !matches!(exchange.outcome, Outcome::Refused { .. })
    }

    fn without_answer(&self, exchange: &Exchange<'a>) -> Exchange<'a> {
        Exchange { outcome: &UNANSWERED, ..*exchange }
    }
}

impl Register<'_> {
    /// The new content, and where the data begins.
    fn appended(&self, old: &State, data: &Data) -> Option<(Content, Option<u64>)> {
        if old.version == Some(Version(0)) {
            return Some((Content::of(data, self.bytes_max), Some(0)));
        }
        // Of a file that may not be there nothing is known either.
        Some((old.content.append(data, self.bytes_max)?, old.content.size()))
    }

    fn patched(
        &self,
        state: &State,
        condition: &Condition,
        outcome: &Outcome,
        (offset, data): (u64, &Data),
    ) -> Option<State> {
        let is_blind = condition.if_version.is_none() && condition.token.is_none();
        let state = state.under(condition)?;
        if is_blind || state.version == Some(Version(0)) {
            return None;
        }
        let change = |old: &State| Some((old.content.patch(offset, data, self.bytes_max)?, Some(offset)));
        written(&state, condition, outcome, change)
    }
}

fn is_unknown(exchange: &Exchange<'_>) -> bool {
    matches!(exchange.outcome, Outcome::Unknown { .. })
}

/// The version that must be there for the answer to be right, where it tells.
fn version_needed(exchange: &Exchange<'_>) -> Option<Version> {
    match (exchange.operation, exchange.outcome) {
        (_, Outcome::Refused { current, .. }) => *current,
        (_, Outcome::Written { version, .. }) => Some(Version(version.0.saturating_sub(1))),
        (_, Outcome::Found { version, .. }) => Some(*version),
        (Operation::Read, Outcome::Absent) => Some(Version(0)),
        _ => None,
    }
}

impl State {
    /// If the version can be this one.
    fn with_version(&self, version: Version) -> Option<Self> {
        let can_be = self.version.is_none_or(|known| known == version);
        let content = || if version == Version(0) { Content::default() } else { self.content.clone() };
        can_be.then(|| Self { version: Some(version), content: content(), ..self.clone() })
    }

    /// If what a write asks for holds. Its token fences older ones from then on.
    fn under(&self, condition: &Condition) -> Option<Self> {
        let state = match condition.if_version {
            Some(version) => self.with_version(version)?,
            None => self.clone(),
        };
        match condition.token {
            Some(token) if token < state.fence => None,
            Some(token) => Some(Self { fence: token, exclusive: token.max(state.exclusive), ..state }),
            None => Some(state),
        }
    }

    /// The lowest revision that another change after this one can have.
    fn next_revision(&self) -> Option<Revision> {
        Some(Revision(self.revision.0.checked_add(1)?))
    }
}

fn found(state: &State, version: Version, revision: Revision, digest: Digest) -> Option<State> {
    let state = state.with_version(version)?;
    if version == Version(0) || revision < state.revision {
        return None;
    }
    Some(State { content: state.content.clone().seen_as(digest)?, revision, ..state })
}

/// A write that expected another version than there was, or any at all.
fn refused(state: &State, operation: &Operation, current: Version) -> Option<State> {
    let condition = operation.condition()?;
    let needs_file = matches!(operation, Operation::Patch { .. } | Operation::Delete { .. });
    let is_as_expected = condition.if_version == Some(current) && !(needs_file && current == Version(0));
    if is_as_expected { None } else { state.with_version(current) }
}

/// The next version, if what the receipt says of it is so; `change` answers the new content and where the data begins.
fn written(
    state: &State,
    condition: &Condition,
    outcome: &Outcome,
    change: impl FnOnce(&State) -> Option<(Content, Option<u64>)>,
) -> Option<State> {
    let state = state.under(condition)?;
    let (content, begin) = change(&state)?;
    let lowest = state.next_revision()?;
    let next = match state.version {
        Some(version) => Some(Version(version.0.checked_add(1)?)),
        None => None,
    };
    match outcome {
        Outcome::Unknown { .. } => Some(State { version: next, content, revision: lowest, ..state }),
        &Outcome::Written { version, revision, size, crc32c, offset } => {
            let is_right = next.is_none_or(|next| next == version)
                && version > Version(0)
                && revision >= lowest
                && begin.is_none_or(|begin| begin == offset);
            let content = content.seen_as(Digest { size, crc32c })?;
            is_right.then_some(State { version: Some(version), content, revision, ..state })
        }
        _ => None,
    }
}

fn deleted(state: &State, condition: &Condition) -> Option<State> {
    let state = state.under(condition)?;
    if state.version == Some(Version(0)) {
        return None;
    }
    let revision = state.next_revision()?;
    Some(State { version: Some(Version(0)), content: Content::default(), revision, ..state })
}

#[cfg(test)]
impl State {
    /// How many bytes of content it keeps in memory.
    pub fn kept(&self) -> usize {
        self.content.kept()
    }
}
