//! The change feed.

use super::*;
use crate::directory::{error::Error, model::ChangeKind};

fn changes(world: &World, after: Revision, at: &str) -> Vec<(ChangeKind, String)> {
    let changes = world.view().changes(after, &path(at), 1000).unwrap();
    assert_eq!((changes.through, changes.more), (world.revision(), false));
    changes.changes.iter().map(|change| (change.kind, change.path.to_string())).collect()
}

#[test]
fn the_feed_tells_what_happened_with_the_paths_of_that_moment() {
    use ChangeKind::*;
    let mut world = World::new();
    let begin = world.revision();
    world.mkdir("/a/b");
    world.write("/a/b/f", b"x");
    world.append("/a/b/f", b"y");
    world.rename("/a", "/c");
    world.delete("/c");
    let told = changes(&world, begin, "/");
    let expected =
        [(Created, "/a"), (Created, "/a/b"), (Created, "/a/b/f"), (Written, "/a/b/f"), (Moved, "/c"), (Deleted, "/c")];
    assert_eq!(told, expected.map(|(kind, at)| (kind, at.to_owned())));
    let moved = world.view().changes(begin, &path("/"), 1000).unwrap().changes[4].clone();
    assert_eq!((moved.from_path, moved.time), (Some(path("/a")), world.now));
}

#[test]
fn a_path_hears_of_itself_of_what_is_below_and_of_what_takes_it_away() {
    use ChangeKind::*;
    let mut world = World::new();
    world.mkdir("/a/b");
    world.write("/a/x", b"x");
    let begin = world.revision();
    world.write("/a/b/f", b"x");
    world.mkdir("/a/bc");
    world.write("/a/x", b"y");
    world.rename("/a/x", "/a/b/x");
    world.rename("/a/b/x", "/y");
    world.rename("/a", "/z");
    world.delete("/z");
    let told = changes(&world, begin, "/a/b");
    let expected = [(Created, "/a/b/f"), (Moved, "/a/b/x"), (Moved, "/y"), (Moved, "/z")];
    assert_eq!(told, expected.map(|(kind, at)| (kind, at.to_owned())));
}

#[test]
fn the_feed_is_resumed_where_it_was_left() {
    let mut world = World::new();
    let begin = world.revision();
    world.mkdir("/a/b/c");
    for step in 0..5 {
        world.mkdir(&format!("/d{step}"));
    }
    let mut after = begin;
    let mut told = Vec::new();
    loop {
        let page = world.view().changes(after, &path("/"), 2).unwrap();
        told.extend(page.changes.iter().map(|change| change.path.to_string()));
        after = page.through;
        if !page.more {
            break;
        }
    }
    assert_eq!(told, ["/a", "/a/b", "/a/b/c", "/d0", "/d1", "/d2", "/d3", "/d4"]);
    assert_eq!(after, world.revision());
    assert_eq!(world.view().changes(after, &path("/"), 2).unwrap().changes, []);
}

#[test]
fn the_feed_says_when_it_does_not_reach_back() {
    let mut world = World::new();
    let begin = world.revision();
    world.mkdir("/a");
    let ahead = world.view().changes(Revision(99), &path("/"), 2);
    assert!(matches!(ahead, Err(Error::Rejected(Rejected::NotYet { .. }))));
    world.pass(25 * HOUR);
    world.collect();
    let behind = world.view().changes(begin, &path("/"), 2);
    assert!(matches!(behind, Err(Error::Rejected(Rejected::TooLongAgo { .. }))));
}
