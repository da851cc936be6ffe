//! Whether what clients were told can be true: a checker of histories, for our own tests and for users.
//!
//! It holds a history of calls and returns against the promises: each file behaves as a single copy would, a lock has one
//! holder at a time, tokens rise, and no write happens under a token older than one that was granted. It needs nothing but
//! the history; that a call's end is unknown is part of it, and never held against the store. A history that cannot be decided within
//! [`Bounds`] is said to be undecided, never to be good.
//!
//! Deliberately absent: any knowledge of how the store works, and any clock or network.
//!
//! The modules, in reading order:

pub mod history;

mod search;
mod timeline;

mod content;
mod register;

mod locks;
mod shrink;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

pub use self::search::Bounds;
use self::{
    history::Call,
    locks::ConflictKind,
    register::{Register, is_checked},
    search::{Found, Model, Timed, search},
    shrink::{Excerpt, find_piece, shrink},
};
use crate::types::Path;

/// What became of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths that were looked at, each by itself.
    pub path_count: usize,
    /// At most one a path and kind.
    pub violations: Vec<Violation>,
    /// Paths whose search hit a bound.
    pub undecided: Vec<Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Nothing bad was found, and not all was decided.
    Undecided,
    Violated,
}

/// A promise that was not kept, and the few calls that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub path: Path,
    pub kind: ViolationKind,
    /// By invocation.
    pub calls: Vec<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// No order of the calls explains their answers.
    NoOrder {
        /// Until the call of this number returned, there was one.
        last: u64,
        /// Whatever was there before the first of the calls.
        is_from_any_state: bool,
    },
    TwoHolders,
    TokenWentBack,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        match (self.violations.is_empty(), self.undecided.is_empty()) {
            (false, _) => Verdict::Violated,
            (true, false) => Verdict::Undecided,
            (true, true) => Verdict::Good,
        }
    }
}

impl ViolationKind {
    /// Stable, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoOrder { .. } => "NO_ORDER",
            Self::TwoHolders => "TWO_HOLDERS",
            Self::TokenWentBack => "TOKEN_WENT_BACK",
        }
    }
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrder { is_from_any_state: true, .. } => {
                f.write_str("no order of these calls explains their answers, whatever the file was before")
            }
            Self::NoOrder { is_from_any_state: false, .. } => {
                f.write_str("no order of these calls explains their answers")
            }
            Self::TwoHolders => f.write_str("two clients held the lock at one moment"),
            Self::TokenWentBack => f.write_str("the later holder of the lock has the older token"),
        }
    }
}

/// Checks a history that began when none of its paths existed. Calls may be in any order. The bounds hold for each search.
pub fn check(calls: &[Call], bounds: Bounds) -> Report {
    let mut paths: BTreeMap<&Path, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        paths.entry(&call.path).or_default().push(call);
    }
    let mut report = Report { path_count: paths.len(), ..Report::default() };
    for (path, mut calls) in paths {
        calls.sort_by_key(|call| (call.invoked, call.number));
        check_locks(path, &calls, &mut report);
        check_file(path, &calls, bounds, &mut report);
    }
    report
}

fn check_locks(path: &Path, calls: &[&Call], report: &mut Report) {
    if let Some(conflict) = locks::check(calls) {
        let kind = match conflict.kind {
            ConflictKind::TwoHolders => ViolationKind::TwoHolders,
            ConflictKind::TokenWentBack => ViolationKind::TokenWentBack,
        };
        let calls = conflict.calls.into_iter().cloned().collect();
        report.violations.push(Violation { path: path.clone(), kind, calls });
    }
}

fn check_file(path: &Path, calls: &[&Call], bounds: Bounds, report: &mut Report) {
    let timed: Vec<_> = calls.iter().filter(|call| is_checked(call)).map(|&call| timed(call)).collect();
    let found = find_piece(&Register, &timed, bounds).map_or_else(
        || match search(&Register, Register.initial(), &timed, bounds) {
            Found::Order => Ok(None),
            Found::Undecided => Err(path.clone()),
            Found::NoOrder { .. } => Ok(Some(shrink(&Register, &timed, bounds))),
        },
        |piece| Ok(Some(piece)),
    );
    match found {
        Ok(None) => {}
        Ok(Some(excerpt)) => report.violations.push(violation(path, &timed, excerpt)),
        Err(path) => report.undecided.push(path),
    }
}

fn violation(path: &Path, timed: &[Timed<Call>], Excerpt { calls, last, is_from_any_state }: Excerpt) -> Violation {
    let call = |place: usize| timed.get(place).map(|timed| timed.operation.clone());
    let last = call(last).map_or(0, |call| call.number);
    let kind = ViolationKind::NoOrder { last, is_from_any_state };
    Violation { path: path.clone(), kind, calls: calls.into_iter().filter_map(call).collect() }
}

fn timed(call: &Call) -> Timed<Call> {
    let is_known = !matches!(call.outcome, history::Outcome::Unknown { .. });
    Timed { operation: call.clone(), invoked: call.invoked, returned: is_known.then_some(call.returned) }
}
