//! One file as a single copy would behave: each write makes the next version of what is there, a read tells the newest.
//!
//! The lock's grants are in it too. From the moment that a token is granted no write under an older one may happen: who was
//! told "you hold it" and who writes under an older token are put into one order, and that order must exist. So the
//! model holds the promise about fencing, and that tokens of a path rise.

use super::{
    content::Content,
    history::{Call, Condition, Data, Digest, Operation, Outcome},
    search::Model,
};
use crate::types::{FencingToken, Revision, Version};

/// A file and its lock, at one path.
pub struct Register;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// 0: there is no file. `None`: not known.
    version: Option<Version>,
    /// Of that version.
    content: Content,
    /// Of the newest change that was told; every later one has a higher.
    revision: Revision,
    /// The newest token that was granted or used.
    fence: FencingToken,
}

/// Whether what an answer says has to do with the order of calls.
pub fn is_checked(call: &Call) -> bool {
    match (&call.operation, &call.outcome) {
        (Operation::Hold { .. } | Operation::Release { .. }, _) => false,
        (Operation::Read | Operation::Acquire { .. }, Outcome::Unknown { .. }) => false,
        // What it did not find is an observation; other refusals tell nothing of the file.
        (_, Outcome::Refused { current, .. }) => current.is_some(),
        _ => true,
    }
}

impl Model for Register {
    type Operation = Call;
    type State = State;

    fn initial(&self) -> State {
        State { version: Some(Version(0)), ..self.anything() }
    }

    fn anything(&self) -> State {
        State { version: None, content: Content::default(), revision: Revision(0), fence: FencingToken(0) }
    }

    fn step(&self, state: &State, call: &Call) -> Option<State> {
        let Call { operation, outcome, .. } = call;
        match (operation, outcome) {
            (_, Outcome::Refused { current: Some(current), .. }) => refused(state, operation, *current),
            (Operation::Read, &Outcome::Found { version, revision, size, crc32c }) => {
                found(state, version, revision, Digest { size, crc32c })
            }
            (Operation::Read, Outcome::Absent) => state.with_version(Version(0)),
            (Operation::Replace { data, condition }, _) => {
                let is_blind = condition.if_version.is_none() && condition.token.is_none();
                let new = Content::of(data);
                if is_blind { None } else { written(state, condition, outcome, |_| Some((new, Some(0)))) }
            }
            (Operation::Append { data, condition }, _) => {
                written(state, condition, outcome, |old| Some(appended(old, data)))
            }
            (Operation::Patch { offset, data, condition }, _) => patched(state, condition, outcome, (*offset, data)),
            (Operation::Delete { condition }, Outcome::Done | Outcome::Unknown { .. }) => deleted(state, condition),
            (Operation::Acquire { .. }, &Outcome::Granted { token }) => {
                (token > state.fence).then(|| State { fence: token, ..state.clone() })
            }
            _ => None,
        }
    }

    fn rank(&self, call: &Call) -> Option<u64> {
        match &call.outcome {
            Outcome::Written { revision, .. } | Outcome::Found { revision, .. } => Some(revision.0),
            _ => None,
        }
    }

    /// Versions tell. Until the next one that was told no other write is known, so a write explains something if it leads
    /// towards that one, towards the version that a refusal saw, or makes a file whose deletion was told; a delete, if a version
    /// that was told lies before the present one.
    fn explains<'a>(
        &self,
        (before, after): (&State, &State),
        next: Option<&'a Call>,
        others: impl Iterator<Item = &'a Call> + Clone,
    ) -> bool {
        let (Some(old), Some(new)) = (before.version, after.version) else {
            // What was anything is anything still.
            return false;
        };
        let told = next.filter(|next| version_needed(next) != after.version || self.step(after, next).is_some());
        let mut needed = told.and_then(version_needed).into_iter().chain(others.clone().filter_map(version_needed));
        let mut deletes = others.clone().filter_map(|call| match &call.operation {
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

    fn has_effect(&self, call: &Call) -> bool {
        let is_write = matches!(
            call.operation,
            Operation::Replace { .. } | Operation::Append { .. } | Operation::Patch { .. } | Operation::Delete { .. }
        );
        is_write && !matches!(call.outcome, Outcome::Refused { .. })
    }

    fn without_answer(&self, call: &Call) -> Call {
        Call { outcome: Outcome::Unknown { reason: String::new() }, ..call.clone() }
    }
}

fn is_unknown(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Unknown { .. })
}

/// The version that must be there for the answer to be right, where it tells.
fn version_needed(call: &Call) -> Option<Version> {
    match (&call.operation, &call.outcome) {
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
            Some(token) => Some(Self { fence: token, ..state }),
            None => Some(state),
        }
    }
}

fn found(state: &State, version: Version, revision: Revision, digest: Digest) -> Option<State> {
    let state = state.with_version(version)?;
    if version == Version(0) || revision < state.revision {
        return None;
    }
    Some(State { content: state.content.clone().seen_as(digest)?, revision, ..state })
}

/// A write that expected another version than there was.
fn refused(state: &State, operation: &Operation, current: Version) -> Option<State> {
    let condition = match operation {
        Operation::Replace { condition, .. }
        | Operation::Append { condition, .. }
        | Operation::Patch { condition, .. }
        | Operation::Delete { condition } => condition,
        Operation::Read | Operation::Acquire { .. } | Operation::Hold { .. } | Operation::Release { .. } => {
            return None;
        }
    };
    if condition.if_version == Some(current) { None } else { state.with_version(current) }
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
    let next = state.version.map(|version| Version(version.0 + 1));
    match outcome {
        Outcome::Unknown { .. } => Some(State { version: next, content, ..state }),
        &Outcome::Written { version, revision, size, crc32c, offset } => {
            let is_right = next.is_none_or(|next| next == version)
                && version > Version(0)
                && revision > state.revision
                && begin.is_none_or(|begin| begin == offset);
            let content = content.seen_as(Digest { size, crc32c })?;
            is_right.then_some(State { version: Some(version), content, revision, ..state })
        }
        _ => None,
    }
}

fn appended(old: &State, data: &Data) -> (Content, Option<u64>) {
    if old.version == Some(Version(0)) {
        return (Content::of(data), Some(0));
    }
    // Of a file that may not be there nothing is known either.
    (old.content.append(data), old.content.size())
}

fn patched(state: &State, condition: &Condition, outcome: &Outcome, (offset, data): (u64, &Data)) -> Option<State> {
    let is_blind = condition.if_version.is_none() && condition.token.is_none();
    let state = state.under(condition)?;
    if is_blind || state.version == Some(Version(0)) {
        return None;
    }
    written(&state, condition, outcome, |old| Some((old.content.patch(offset, data)?, Some(offset))))
}

fn deleted(state: &State, condition: &Condition) -> Option<State> {
    let state = state.under(condition)?;
    let is_there = state.version != Some(Version(0));
    is_there.then(|| State { version: Some(Version(0)), content: Content::default(), ..state })
}
