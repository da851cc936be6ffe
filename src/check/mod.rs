//! Whether what clients were told can be true: a checker of histories, for our own tests and for users.
//!
//! It holds a history of calls and returns against the promises: each file behaves as a single copy would, a lock has one
//! holder at a time, tokens rise, no write happens under a token older than one that was granted, and a write that is
//! repeated under its id happens once. It needs nothing but the history; that a call's end is unknown is part of it, and
//! never held against the store. A history that cannot be decided within [`Bounds`] is said to be undecided, never to be good.
//!
//! Deliberately absent: any knowledge of how the store works, and any clock or network. Not looked at: whether calls
//! succeed at all (a store that fails every read breaks no promise here; [`Report::failed_read_count`] tells), reads of a
//! version or a moment that is named, folders, and what ties paths together, such as moves and copies.
//!
//! The modules, in reading order:

pub mod history;
mod line;

mod act;
mod search;
mod timeline;

mod content;
mod register;

mod locks;

mod cuts;
mod shrink;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

pub use self::search::Bounds;
use self::{
    act::{Act, acts},
    history::{Call, Operation, Outcome},
    locks::ConflictKind,
    register::{Register, is_checked},
    search::{Found, Model, search},
    shrink::{Excerpt, find_piece, shrink},
};
use crate::types::Path;

/// What became of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths that were looked at, each by itself.
    pub path_count: usize,
    /// Reads without an answer, or whose answer was an error: nothing is known from them.
    pub failed_read_count: usize,
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
        /// Whatever was there before the first of the calls.
        is_from_any_state: bool,
    },
    TwoHolders,
    TokenWentBack,
    /// Attempts of one write were told different things.
    TwoAnswers,
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
            Self::TwoAnswers => "TWO_ANSWERS",
        }
    }
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrder { is_from_any_state: true } => {
                f.write_str("no order of these calls explains their answers, whatever the file was before")
            }
            Self::NoOrder { is_from_any_state: false } => f.write_str("no order of these calls explains their answers"),
            Self::TwoHolders => f.write_str("two clients held the lock at one moment"),
            Self::TokenWentBack => f.write_str("the later holder of the lock has the older token"),
            Self::TwoAnswers => f.write_str("one write was answered in two ways"),
        }
    }
}

/// Checks a history that began when none of its paths existed. Calls may be in any order. The bounds hold for each search.
///
/// Calls that are not in the history look like the store's mistakes. So leave out each path that anyone else writes, or
/// that is moved, copied to or restored, and each whose lock an administrator breaks; or else be told of a violation that
/// is none, as `TWO_HOLDERS` of a lock that was broken while its holder still had its lease.
pub fn check(calls: &[Call], bounds: Bounds) -> Report {
    let mut paths: BTreeMap<&Path, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        paths.entry(&call.path).or_default().push(call);
    }
    let failed_read_count = calls.iter().filter(|call| is_failed_read(call)).count();
    let mut report = Report { path_count: paths.len(), failed_read_count, ..Report::default() };
    for (path, mut calls) in paths {
        calls.sort_by_key(|call| (call.invoked, call.number));
        let acts = acts(&calls);
        check_answers(path, &acts, &mut report);
        check_locks(path, &acts, &mut report);
        check_file(path, &acts, bounds, &mut report);
    }
    report
}

fn is_failed_read(call: &Call) -> bool {
    call.operation == Operation::Read && matches!(call.outcome, Outcome::Refused { .. } | Outcome::Unknown { .. })
}

fn check_answers(path: &Path, acts: &[Act<'_>], report: &mut Report) {
    if let Some(calls) = acts.iter().find_map(Act::contradiction) {
        let (kind, calls) = (ViolationKind::TwoAnswers, calls.map(Call::clone).into());
        report.violations.push(Violation { path: path.clone(), kind, calls });
    }
}

fn check_locks(path: &Path, acts: &[Act<'_>], report: &mut Report) {
    if let Some(conflict) = locks::check(acts) {
        let kind = match conflict.kind {
            ConflictKind::TwoHolders => ViolationKind::TwoHolders,
            ConflictKind::TokenWentBack => ViolationKind::TokenWentBack,
        };
        let calls = conflict.calls.into_iter().cloned().collect();
        report.violations.push(Violation { path: path.clone(), kind, calls });
    }
}

fn check_file(path: &Path, acts: &[Act<'_>], bounds: Bounds, report: &mut Report) {
    let acts: Vec<_> = acts.iter().filter(|act| is_checked(act)).collect();
    let timed: Vec<_> = acts.iter().map(|act| act.timed()).collect();
    let register = Register::new(&acts);
    if let Some(piece) = find_piece(&register, &timed, bounds) {
        report.violations.push(violation(path, &acts, piece));
        return;
    }
    match search(&register, register.initial(), &timed, bounds) {
        Found::Order => {}
        Found::Undecided => report.undecided.push(path.clone()),
        Found::NoOrder { .. } => {
            report.violations.push(violation(path, &acts, shrink(&register, &timed, bounds)));
        }
    }
}

fn violation(path: &Path, acts: &[&Act<'_>], Excerpt { calls, is_from_any_state }: Excerpt) -> Violation {
    let shown = calls.into_iter().filter_map(|place| acts.get(place));
    let mut calls: Vec<Call> = shown.flat_map(|act| &act.calls).map(|&call| call.clone()).collect();
    calls.sort_by_key(|call| (call.invoked, call.number));
    Violation { path: path.clone(), kind: ViolationKind::NoOrder { is_from_any_state }, calls }
}
