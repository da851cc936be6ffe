//! A model of replication and reconfiguration, small enough to look at every state it can get into.
//!
//! The tests elsewhere show what the code did in the runs that happened. Here the *protocol* is written down once more, as
//! few lines as it takes, and every order of events is tried: messages that are late, lost, copied or overtaken, servers that
//! crash between any two steps, a Directory that suspects whom it likes. What must always hold is checked in every state.
//!
//! A check that cannot fail shows nothing: each rule of the protocol can be left out ([`rules::Rule`]), and without it a
//! property must fail; and what must be possible ([`goals::Goal`]) is out of reach without the steps that it takes.
//!
//! What is absent: paths, locks and preconditions (a commit here is always welcome otherwise), merges, moves of members between
//! groups, groups without a primary, servers that come back without their data, repairs, disks that lose what was synced, news of
//! a configuration that comes late, and time, so that whatever waits for a deadline may happen at once.

mod goals;
mod joining;
mod product;
mod properties;
mod protocol;
mod rules;
mod state;
mod step;
mod symmetry;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use goals::GOALS;
use protocol::{Bounds, Protocol};
use rules::Rule;

/// One write, and the page cache.
const ONE: Bounds = Bounds { blobs: 1, epochs: 4, claims: 2, crashes: 1, page_cache: true, full_disks: false };
/// Two, of which one takes the place of the other.
const TWO: Bounds = Bounds { blobs: 2, epochs: 3, claims: 1, crashes: 0, page_cache: false, full_disks: false };
/// One, and members that are refused because they take no writes.
const FULL: Bounds = Bounds { blobs: 1, epochs: 3, claims: 2, crashes: 0, page_cache: false, full_disks: true };

#[test]
fn everything_that_is_promised_holds_in_every_state() {
    for bounds in [ONE, TWO, FULL] {
        let began = Instant::now();
        let checker = Protocol::whole(bounds).checker().threads(2).spawn_bfs().join();
        println!(
            "{} states, {} steps between them, at most {} in a row, in {:.1} s: {bounds:?}",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            began.elapsed().as_secs_f64()
        );
        assert!(checker.is_done(), "not every state was looked at");
        checker.assert_properties();
    }
}

#[test]
fn no_rule_can_be_left_out() {
    for rule in Rule::ALL {
        let (began, fails) = (Instant::now(), rule.what_fails_without());
        // One thread and breadth first: what is found is nearly as short as can be.
        let finish = HasDiscoveries::AllOf([fails].into());
        let checker = Protocol::without(rule, rule.shown_by()).checker().finish_when(finish).spawn_bfs().join();
        let found = checker.discovery(fails);
        let path = found.unwrap_or_else(|| panic!("without {rule:?} it still holds that {fails}"));
        println!(
            "without {rule:?} it does not hold that {fails}: {} states, {:.1} s\n  {:?}",
            checker.unique_state_count(),
            began.elapsed().as_secs_f64(),
            path.into_actions()
        );
    }
}

#[test]
fn what_must_be_possible_is_reached_and_only_as_it_says() {
    for goal in &GOALS {
        let reached = Protocol::towards(goal).checker().spawn_bfs().join();
        let path = reached.discovery(goal.name).unwrap_or_else(|| panic!("it never happens that {}", goal.name));
        let barred = Protocol::barred_from(goal).checker().spawn_bfs().join();
        assert!(barred.is_done(), "not every state was looked at");
        if let Some(path) = barred.discovery(goal.name) {
            panic!("without what it takes it happens that {}: {:?}", goal.name, path.into_actions());
        }
        let states = barred.unique_state_count();
        println!("{}, and without what it takes in none of {states} states:\n  {:?}", goal.name, path.into_actions());
    }
}
