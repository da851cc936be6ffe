//! What a peer may say at all.
//!
//! The consensus library believes its peers, and ends the process where what they say breaks its own rules. Whoever reaches
//! the port could do that with one message, so what no node that follows the protocol can send is refused before.

use super::{
    convert::{Malformed, term_of},
    types::{Entry, LogId, Vote},
};

/// A term rises by one with each election: no node is ahead by so many.
const TERM_STEP_MAX: u64 = 1 << 32;

/// `current`: this node's own term.
pub fn vote(vote: &Vote, current: u64) -> Result<(), Malformed> {
    match vote.leader_id.term <= current.saturating_add(TERM_STEP_MAX) {
        true => Ok(()),
        false => Err(Malformed("a term that no election can have reached")),
    }
}

/// A leader sends nothing from after its own term, and entries one behind the other.
pub fn entries(vote: &Vote, previous: Option<LogId>, entries: &[Entry]) -> Result<(), Malformed> {
    within(vote, previous)?;
    let mut last = previous;
    for entry in entries {
        let id = entry.log_id;
        within(vote, Some(id))?;
        let follows = id.index == last.map_or(0, |last| last.index.saturating_add(1));
        let older = last.is_some_and(|last| term_of(&id) < term_of(&last));
        if !follows || older {
            return Err(Malformed("entries that do not follow one another"));
        }
        last = Some(id);
    }
    Ok(())
}

/// A snapshot reaches no further than its leader's term, and does not contradict what is committed here.
pub fn snapshot(
    vote: &Vote,
    last: Option<LogId>,
    membership: Option<LogId>,
    committed: Option<LogId>,
) -> Result<(), Malformed> {
    within(vote, last)?;
    if membership > last {
        return Err(Malformed("a snapshot with members from after its end"));
    }
    match (last, committed) {
        (Some(last), Some(committed)) if last > committed && last.index <= committed.index => {
            Err(Malformed("a snapshot that contradicts what is committed"))
        }
        _ => Ok(()),
    }
}

/// An entry's id is none from after the term of whoever sends it.
pub fn within(vote: &Vote, id: Option<LogId>) -> Result<(), Malformed> {
    match id.is_none_or(|id| term_of(&id) <= vote.leader_id.term) {
        true => Ok(()),
        false => Err(Malformed("an entry from after its leader's term")),
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::{RaftLeaderId, RaftVote};

    use super::*;
    use crate::raft::{
        convert::log_id,
        types::{LeaderId, Payload},
    };

    fn a_vote(term: u64) -> Vote {
        Vote::from_leader_id(LeaderId::new(term, 1), true)
    }

    fn some_entries(ids: &[(u64, u64)]) -> Vec<Entry> {
        ids.iter().map(|(term, index)| Entry { log_id: log_id(*term, *index), payload: Payload::Blank }).collect()
    }

    #[test]
    fn a_term_that_would_leave_no_later_one_is_refused() {
        assert!(vote(&a_vote(8), 3).is_ok());
        assert!(vote(&a_vote(2), 3).is_ok());
        assert!(vote(&a_vote(u64::MAX), 3).is_err());
        assert!(vote(&a_vote(u64::MAX), u64::MAX).is_ok(), "it is there already");
    }

    #[test]
    fn entries_follow_one_another_and_none_is_newer_than_its_leader() {
        let at = |term, index| Some(log_id(term, index));
        assert!(entries(&a_vote(3), None, &some_entries(&[(0, 0), (1, 1), (3, 2)])).is_ok());
        assert!(entries(&a_vote(3), at(2, 7), &some_entries(&[(2, 8), (3, 9)])).is_ok());
        assert!(entries(&a_vote(3), at(2, 7), &[]).is_ok());
        let bad: [(_, &[(u64, u64)]); 5] = [
            (at(2, 7), &[(3, 9)]),
            (at(2, 7), &[(3, 8), (3, 10)]),
            (at(2, 7), &[(1, 8)]),
            (at(2, 7), &[(4, 8)]),
            (None, &[(1, 1)]),
        ];
        for (previous, ids) in bad {
            assert!(entries(&a_vote(3), previous, &some_entries(ids)).is_err(), "{previous:?} {ids:?}");
        }
        assert!(entries(&a_vote(3), at(4, 7), &[]).is_err());
        assert!(entries(&a_vote(3), at(1, u64::MAX), &some_entries(&[(1, 0)])).is_err());
    }

    #[test]
    fn a_snapshot_fits_its_leader_and_what_is_committed() {
        let at = |term, index| Some(log_id(term, index));
        assert!(snapshot(&a_vote(3), at(3, 9), at(1, 4), at(2, 7)).is_ok());
        assert!(snapshot(&a_vote(3), at(1, 2), None, at(2, 7)).is_ok(), "an old one does no harm");
        assert!(snapshot(&a_vote(3), at(4, 9), None, None).is_err());
        assert!(snapshot(&a_vote(3), at(3, 9), at(3, 10), None).is_err());
        assert!(snapshot(&a_vote(3), at(3, 7), None, at(2, 7)).is_err());
        assert!(snapshot(&a_vote(3), at(3, 6), None, at(2, 7)).is_err());
    }
}
