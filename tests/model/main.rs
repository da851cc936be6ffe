//! A model of replication and reconfiguration, small enough to look at every state it can get into.
//!
//! The tests elsewhere show what the code did in the runs that happened. Here the *protocol* is written down once more, as
//! few lines as it takes, and every order of events is tried: messages that are late, lost, copied or overtaken, servers that
//! crash between any two steps, a Directory that suspects whom it likes. What must always hold is checked in every state.
//!
//! A check that cannot fail shows nothing: each rule of the protocol can be left out ([`rules::Rule`]), and without it a
//! property must fail.
//!
//! What is absent: paths, locks and preconditions (a commit here is always welcome otherwise), moves of members between groups,
//! disks that lose what was synced, and time, so that whatever waits for a deadline may happen at once.

mod product;
mod properties;
mod protocol;
mod rules;
mod state;
mod step;
mod symmetry;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use protocol::{Bounds, Protocol};
use rules::Rule;

/// One write, and the page cache.
const ONE: Bounds = Bounds { blobs: 1, epochs: 4, claims: 2, crashes: 1, page_cache: true };
/// Two, of which one takes the place of the other.
const TWO: Bounds = Bounds { blobs: 2, epochs: 3, claims: 1, crashes: 0, page_cache: false };

#[test]
fn everything_that_is_promised_holds_in_every_state() {
    for bounds in [ONE, TWO] {
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
        // One thread and breadth first: what is found is as short as can be.
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
