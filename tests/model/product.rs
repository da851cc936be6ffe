//! Where the model decides as the code does, it is compared with the code.

use std::collections::BTreeSet;

use dfs::{
    fileserver::in_sync::{Copies, Effect, Group},
    types::{BlobId, Epoch, ServerId},
};

use crate::{
    state::{MIN_IN_SYNC, SERVERS, Set},
    step::may_ask,
};

fn servers(set: Set) -> BTreeSet<ServerId> {
    (0..SERVERS).filter(|server| set.has(*server)).map(name).collect()
}

fn name(server: usize) -> ServerId {
    ["a", "b", "c"][server].parse().expect("a server's name")
}

/// Whether the file server asks for the commit of a write with one blob.
fn product_asks(in_sync: Set, joiners: Set, acknowledged: Set) -> bool {
    let blob = BlobId::from_bytes([1; 16]);
    let mut copies = Copies::new(name(0));
    copies.add(blob);
    copies.complete();
    for member in servers(acknowledged) {
        copies.durable(blob, member);
    }
    let group = Group {
        epoch: Epoch(1),
        members: servers(Set::of(0..SERVERS)),
        in_sync: servers(in_sync),
        primary: Some(name(0)),
        joiners: servers(joiners),
        min_in_sync: MIN_IN_SYNC as usize,
    };
    copies.advance(&group).contains(&Effect::Commit { epoch: Epoch(1) })
}

#[test]
fn a_primary_asks_for_a_commit_exactly_when_the_model_does() {
    let sets = || (0..1 << SERVERS).map(Set);
    let mut asked = 0;
    for in_sync in sets() {
        for joiners in sets() {
            for acknowledged in sets() {
                let expected = may_ask(in_sync, joiners, acknowledged, MIN_IN_SYNC);
                asked += usize::from(expected);
                assert_eq!(
                    product_asks(in_sync, joiners, acknowledged),
                    expected,
                    "in sync {in_sync:?}, joining {joiners:?}, acknowledged {acknowledged:?}"
                );
            }
        }
    }
    println!("{asked} of 512 cases are asked for");
    assert!(asked > 0);
}
