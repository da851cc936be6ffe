//! From a history without an order to the few calls of it that have none: what a person must look at.
//!
//! Not every subset will do: without a write, whoever read it looks wrong. Each step here makes the history weaker, so that
//! what is wrong with the rest is wrong with the whole:
//!
//! - the end is left out: what had not returned by then is of unknown end;
//! - the beginning is left out: the state there may be anything;
//! - a call that changes nothing is left out;
//! - an answer is left out: the call is of unknown end;
//! - a call of unknown end without which no fewer answers can be explained is left out.

use super::{
    cuts::Cuts,
    history::Moment,
    search::{Bounds, Found, Model, Timed, search},
};

/// Some calls of a history that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Their places in the history, by invocation.
    pub calls: Vec<usize>,
    /// Whatever the state was before the first of them, there is no order.
    pub is_from_any_state: bool,
}

/// Calls beyond which no single one is tried to be left out: it would take too long.
const SINGLES_MAX: usize = 300;

/// Of each of the many searches here; what they cannot decide stays in, or is left to the search of the whole.
const STEPS_MAX: u64 = 5_000;
/// Calls of a piece that is looked at by itself, and by how many the next is further on.
const PIECE_CALLS: usize = 64;
const PIECE_STRIDE: usize = 32;

/// Looks for a piece of the history that nothing explains, whatever was before: found so, a violation costs little, where
/// to look for an order of the whole would try every explanation of all that was before. None found says nothing.
pub fn find_piece<M: Model>(model: &M, calls: &[Timed<M::Operation>], bounds: Bounds) -> Option<Excerpt> {
    let cuts = Cuts::new(calls);
    let mut returns: Vec<_> = calls.iter().filter_map(|call| Some((call.returned?, call.invoked))).collect();
    returns.sort_unstable();
    let piece = |last: usize| {
        let begin = returns.get((last + 1).saturating_sub(PIECE_CALLS)..=last)?.iter().map(|&(_, invoked)| invoked);
        let (begin, (end, _)) = (begin.min()?, *returns.get(last)?);
        let near = cuts.between(begin, end).into_iter().filter_map(|place| Some((place, *calls.get(place)?)));
        let mut piece = Kept { start: Start::Anything, ..Kept::new(model, near.collect(), bounds) };
        piece.calls = piece.until(end);
        piece.calls = piece.from(begin);
        piece.has_no_order(&piece.calls, Start::Anything).then_some(piece)
    };
    let lasts = (PIECE_STRIDE..returns.len()).step_by(PIECE_STRIDE).chain(returns.len().checked_sub(1));
    Some(lasts.filter_map(piece).next()?.shrunk(calls))
}

/// Shortens a history for which [`search`] found no order.
pub fn shrink<M: Model>(model: &M, calls: &[Timed<M::Operation>], bounds: Bounds) -> Excerpt {
    Kept::new(model, calls.iter().copied().enumerate().collect(), bounds).shrunk(calls)
}

/// What was there before the first call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Nothing,
    Anything,
}

/// What is left of the history, with where each call was in it; always without an order.
struct Kept<'a, M: Model> {
    model: &'a M,
    bounds: Bounds,
    calls: Vec<(usize, Timed<M::Operation>)>,
    start: Start,
}

impl<'a, M: Model> Kept<'a, M> {
    fn new(model: &'a M, calls: Vec<(usize, Timed<M::Operation>)>, bounds: Bounds) -> Self {
        let bounds = Bounds { steps_max: bounds.steps_max.min(STEPS_MAX), ..bounds };
        Self { model, bounds, calls, start: Start::Nothing }
    }

    fn shrunk(mut self, calls: &[Timed<M::Operation>]) -> Excerpt {
        self.leave_out_end();
        self.leave_out_beginning();
        if self.calls.len() <= SINGLES_MAX {
            self.leave_out_unchanging();
            self.leave_out_answers();
        }
        self.leave_out_never_right();
        if self.calls.len() <= SINGLES_MAX {
            self.leave_out_no_help();
        }
        let mut places: Vec<_> = self.calls.iter().map(|&(place, _)| place).collect();
        places.sort_by_key(|&place| calls.get(place).map(|call| call.invoked));
        Excerpt { calls: places, is_from_any_state: self.start == Start::Anything }
    }

    fn search(&self, calls: &[(usize, Timed<M::Operation>)], start: Start) -> Found {
        let initial = match start {
            Start::Nothing => self.model.initial(),
            Start::Anything => self.model.anything(),
        };
        let calls: Vec<_> = calls.iter().map(|&(_, call)| call).collect();
        search(self.model, initial, &calls, self.bounds)
    }

    fn has_no_order(&self, calls: &[(usize, Timed<M::Operation>)], start: Start) -> bool {
        matches!(self.search(calls, start), Found::NoOrder { .. })
    }

    /// Cuts after the first return up to which there is no order.
    fn leave_out_end(&mut self) {
        let mut returns: Vec<_> = self.calls.iter().filter_map(|(_, call)| call.returned).collect();
        returns.sort_unstable();
        let bad = returns.partition_point(|&end| !self.has_no_order(&self.until(end), self.start));
        let Some(&end) = returns.get(bad).or(returns.last()) else { return };
        let until = self.until(end);
        // With a bound in the way the cut may be too early.
        if self.has_no_order(&until, self.start) {
            self.calls = until;
        }
    }

    fn until(&self, end: Moment) -> Vec<(usize, Timed<M::Operation>)> {
        let before = |(place, call): &(usize, Timed<M::Operation>)| match call.returned {
            _ if call.invoked > end => None,
            Some(returned) if returned > end => Some((*place, self.without_answer(call)?)),
            _ => Some((*place, *call)),
        };
        self.calls.iter().filter_map(before).collect()
    }

    /// Cuts before the last invocation from which on there is no order, from any state.
    fn leave_out_beginning(&mut self) {
        let mut begins: Vec<_> = self.calls.iter().map(|(_, call)| call.invoked).collect();
        begins.sort_unstable();
        begins.dedup();
        let good = begins.partition_point(|&begin| self.has_no_order(&self.from(begin), Start::Anything));
        if let Some(&begin) = good.checked_sub(1).and_then(|bad| begins.get(bad)) {
            let from = self.from(begin);
            if self.has_no_order(&from, Start::Anything) {
                self.calls = from;
                self.start = Start::Anything;
            }
        }
    }

    fn from(&self, begin: Moment) -> Vec<(usize, Timed<M::Operation>)> {
        let after = |(place, call): &(usize, Timed<M::Operation>)| match call.returned {
            Some(returned) if returned < begin => None,
            Some(_) if call.invoked < begin => Some((*place, self.without_answer(call)?)),
            _ => Some((*place, *call)),
        };
        self.calls.iter().filter_map(after).collect()
    }

    /// The call of unknown end; `None` for one that changes nothing.
    fn without_answer(&self, call: &Timed<M::Operation>) -> Option<Timed<M::Operation>> {
        let operation = self.model.without_answer(&call.operation);
        let has_effect = self.model.has_effect(&call.operation);
        has_effect.then_some(Timed { operation, invoked: call.invoked, returned: None })
    }

    fn leave_out_unchanging(&mut self) {
        let mut at = 0;
        while let Some((_, call)) = self.calls.get(at) {
            let mut fewer = self.calls.clone();
            fewer.remove(at);
            if !self.model.has_effect(&call.operation) && self.has_no_order(&fewer, self.start) {
                self.calls = fewer;
            } else {
                at += 1;
            }
        }
    }

    fn leave_out_answers(&mut self) {
        for at in 0..self.calls.len() {
            let mut weaker = self.calls.clone();
            let Some((_, call)) = weaker.get_mut(at).filter(|(_, call)| call.returned.is_some()) else { continue };
            let Some(unknown) = self.without_answer(call) else { continue };
            *call = unknown;
            if self.has_no_order(&weaker, self.start) {
                self.calls = weaker;
            }
        }
    }

    fn leave_out_never_right(&mut self) {
        if let Found::NoOrder { was_right, .. } = self.search(&self.calls, self.start) {
            let mut was_right = was_right.into_iter();
            self.calls.retain(|(_, call)| was_right.next() == Some(true) || call.returned.is_some());
        }
    }

    fn leave_out_no_help(&mut self) {
        let explained = |found| match found {
            Found::NoOrder { explained_max, .. } => Some(explained_max),
            Found::Order | Found::Undecided => None,
        };
        let most = explained(self.search(&self.calls, self.start));
        let mut at = 0;
        while let Some((_, call)) = self.calls.get(at) {
            let mut fewer = self.calls.clone();
            fewer.remove(at);
            let is_known = call.returned.is_some();
            if !is_known && most.is_some() && explained(self.search(&fewer, self.start)) == most {
                self.calls = fewer;
            } else {
                at += 1;
            }
        }
    }
}
