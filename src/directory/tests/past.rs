//! Looks at the past, by revision and by time.

use super::*;
use crate::directory::error::Error;

fn rejected<T: std::fmt::Debug>(result: Result<T, Error>) -> Rejected {
    match result {
        Err(Error::Rejected(rejected)) => rejected,
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn the_past_is_seen_as_it_was() {
    let mut world = World::new();
    world.mkdir("/d");
    world.write("/d/a", b"one");
    let first = (AsOf::Revision(world.revision()), AsOf::Time(world.now));
    world.pass(SECOND);
    world.write("/d/a", b"two");
    world.write("/d/b", b"b");
    world.rename("/d", "/e");
    let second = (AsOf::Revision(world.revision()), AsOf::Time(world.now.plus_millis(999)));
    world.pass(SECOND);
    world.delete("/e/a");
    world.mkdir("/e/a");
    world.delete("/e");
    for as_of in [first.0, first.1] {
        assert_eq!(world.names("/", as_of), ["d"]);
        assert_eq!(world.names("/d", as_of), ["a"]);
        assert_eq!(world.read_version("/d/a", 1, as_of), b"one");
        let too_new = world.view().lookup_file(&FileRef::Path(path("/d/a")), Some(Version(2)), as_of);
        assert_eq!(rejected(too_new), Rejected::VersionNotFound { path: path("/d/a"), version: Version(2) });
        assert_eq!(rejected(world.view().get_entry(&path("/e"), as_of)), Rejected::EntryNotFound { path: path("/e") });
    }
    for as_of in [second.0, second.1] {
        assert_eq!(world.names("/e", as_of), ["a", "b"]);
        assert_eq!(world.read_version("/e/a", 2, as_of), b"two");
        assert_eq!(world.read_version("/e/a", 1, as_of), b"one");
    }
    assert_eq!(world.names("/", AsOf::Now), [""; 0]);
}

#[test]
fn a_file_is_found_by_its_inode_where_it_was_then() {
    let mut world = World::new();
    world.mkdir("/a");
    let inode = world.write("/a/f", b"x").inode;
    let before = world.revision();
    world.rename("/a/f", "/g");
    let moved = world.revision();
    world.delete("/g");
    let at = |revision| {
        let found = world.view().lookup_file(&FileRef::Inode(inode), None, AsOf::Revision(revision));
        found.map(|found| found.entry.path.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(at(before), Ok("/a/f".to_owned()));
    assert_eq!(at(moved), Ok("/g".to_owned()));
    assert!(at(world.revision()).is_err());
}

#[test]
fn an_old_version_comes_with_its_own_size_checksum_and_time() {
    let mut world = World::new();
    let first = world.write("/f", b"one");
    world.pass(SECOND);
    world.write("/f", b"longer");
    let found = world.view().lookup_file(&FileRef::Path(path("/f")), Some(Version(1)), AsOf::Now).unwrap();
    let entry = &found.entry;
    assert_eq!((entry.version, entry.size, entry.checksum), (Version(1), 3, first.checksum));
    assert_eq!((entry.revision, entry.attributes.modify_time), (first.revision, first.commit_time));
}

#[test]
fn a_moment_outside_of_the_kept_past_is_refused() {
    let mut world = World::new();
    world.write("/f", b"one");
    let (revision, time) = (world.revision(), world.now);
    let newer = Revision(revision.0 + 1);
    let not_yet = Rejected::NotYet { revision: newer, newest: revision };
    assert_eq!(rejected(world.view().get_entry(&path("/f"), AsOf::Revision(newer))), not_yet);
    assert!(world.view().get_entry(&path("/f"), AsOf::Time(time.plus_millis(HOUR))).is_ok());

    world.pass(12 * HOUR);
    world.write("/f", b"two");
    world.pass(13 * HOUR);
    world.collect();
    let oldest = world.view().horizon();
    assert_eq!(oldest, revision);
    assert!(world.view().get_entry(&path("/f"), AsOf::Revision(oldest)).is_ok());
    assert!(world.view().get_entry(&path("/f"), AsOf::Time(time.plus_millis(HOUR))).is_ok());
    let too_long_ago = Rejected::TooLongAgo { oldest };
    let earlier = AsOf::Revision(Revision(oldest.0 - 1));
    assert_eq!(rejected(world.view().get_entry(&path("/f"), earlier)), too_long_ago);
    let earlier = AsOf::Time(Timestamp(time.0 - 1));
    assert_eq!(rejected(world.view().get_entry(&path("/f"), earlier)), too_long_ago);
}

#[test]
fn a_time_means_after_the_last_change_up_to_it() {
    let mut world = World::new();
    let begin = world.now;
    for step in 0..40u64 {
        world.mkdir(&format!("/d{step:02}"));
        // Two changes share a time, and some commands in between are no changes of the namespace.
        if step % 2 == 1 {
            let blob = BlobId(world.draw());
            world.expect(Command::SettleBlob { group: GroupId(0), blob });
            world.pass(10);
        }
    }
    for (after, count) in [(0, 2), (9, 2), (10, 4), (95, 20), (189, 38), (190, 40), (500, 40)] {
        let names = world.names("/", AsOf::Time(begin.plus_millis(after)));
        assert_eq!(names.len(), count, "{after} ms in");
    }
    assert_eq!(world.names("/", AsOf::Time(Timestamp(begin.0 - 1))), [""; 0]);
}

#[test]
fn time_stands_still_behind_a_clock_that_was_set_back_and_the_past_is_as_it_was() {
    let mut world = World::new();
    let begin = world.now;
    world.write("/f", b"one");
    // Less than what makes a write expire that began by the other clock.
    world.pass(40 * MINUTE);
    world.write("/f", b"two");
    let newest = world.now;
    world.now = begin;
    world.write("/f", b"three");
    world.mkdir("/d");
    // Its time again, and it goes on.
    world.now = newest.plus_millis(SECOND);
    world.write("/f", b"four");

    let mut page = world.view().versions(&path("/f"), None, 10).unwrap().items;
    page.reverse();
    let times: Vec<Timestamp> = page.iter().map(|version| version.create_time).collect();
    assert_eq!(times, [begin, newest, newest, newest.plus_millis(SECOND)], "equal, never back");
    // A time is the state after all that happened at it: exactly one of the revisions.
    let seen = |at: Timestamp| {
        let entry = world.view().get_entry(&path("/f"), AsOf::Time(at)).unwrap();
        (entry.version.0, world.names("/", AsOf::Time(at)).len())
    };
    assert_eq!(seen(begin), (1, 1));
    assert_eq!(seen(Timestamp(newest.0 - 1)), (1, 1));
    assert_eq!(seen(newest), (3, 2));
    assert_eq!(seen(newest.plus_millis(SECOND - 1)), (3, 2));
    assert_eq!(seen(newest.plus_millis(SECOND)), (4, 2));
    for version in &page {
        let at = world.view().get_entry(&path("/f"), AsOf::Revision(version.revision)).unwrap();
        assert_eq!(at.version, version.version, "revisions tell apart what shares a time");
    }
}

fn walked(world: &World, at: &str, as_of: AsOf, recursive: bool, limit: usize) -> Vec<String> {
    let mut walk = world.view().walk(&path(at), as_of, recursive, true).unwrap();
    let mut seen = Vec::new();
    loop {
        let page = world.view().walk_on(&mut walk, limit).unwrap();
        assert!(page.items.len() <= limit);
        seen.extend(page.items.iter().map(|found| found.entry.path.to_string()));
        for file in page.items.iter().filter(|found| found.entry.version > Version(0)) {
            world.bytes(file);
        }
        if !page.more {
            return seen;
        }
    }
}

#[test]
fn a_walk_goes_depth_first_in_the_order_of_names_whatever_its_pages() {
    let mut world = World::new();
    for at in ["/t/b/x", "/t/a/y/z", "/t/c"] {
        world.mkdir(at);
    }
    for at in ["/t/a/f", "/t/b/x/g", "/t/d"] {
        world.write(at, b"bytes");
    }
    let whole = ["/t/a", "/t/a/f", "/t/a/y", "/t/a/y/z", "/t/b", "/t/b/x", "/t/b/x/g", "/t/c", "/t/d"];
    for limit in 1..=whole.len() + 1 {
        assert_eq!(walked(&world, "/t", AsOf::Now, true, limit), whole, "pages of {limit}");
    }
    assert_eq!(walked(&world, "/t", AsOf::Now, false, 2), ["/t/a", "/t/b", "/t/c", "/t/d"]);
    assert!(world.view().walk(&path("/t/d"), AsOf::Now, true, false).is_err());
}

#[test]
fn a_walk_stays_at_its_moment_while_the_tree_changes() {
    let mut world = World::new();
    for at in ["/t/a/x", "/t/b"] {
        world.mkdir(at);
    }
    let mut walk = world.view().walk(&path("/t"), AsOf::Now, true, false).unwrap();
    let first = world.view().walk_on(&mut walk, 1).unwrap();
    assert_eq!(first.items[0].entry.path, path("/t/a"));
    world.mkdir("/t/a/new");
    world.delete("/t/b");
    world.rename("/t/a", "/t/z");
    let rest = world.view().walk_on(&mut walk, 10).unwrap();
    let paths: Vec<_> = rest.items.iter().map(|found| found.entry.path.as_str()).collect();
    assert_eq!(paths, ["/t/a/x", "/t/b"]);
    assert!(!rest.more);
}

#[test]
fn a_walk_slower_than_the_past_is_kept_is_told() {
    let mut world = World::new();
    world.mkdir("/t/a");
    let mut walk = world.view().walk(&path("/t"), AsOf::Now, true, false).unwrap();
    world.mkdir("/t/b");
    world.pass(25 * HOUR);
    world.collect();
    assert!(matches!(rejected(world.view().walk_on(&mut walk, 10)), Rejected::TooLongAgo { .. }));
}

#[test]
fn names_that_came_and_went_are_seen_at_their_moments_alone() {
    let mut world = World::new();
    world.mkdir("/d");
    let mut seen: Vec<(Revision, Vec<String>)> = Vec::new();
    for step in 0..12u8 {
        // One name lives again and again, others once, some stay.
        let name = ["/d/again", "/d/b", "/d/z"][usize::from(step) % 3].to_owned() + ["", "x"][usize::from(step) / 6];
        match world.look(&name) {
            Some(_) => drop(world.delete(&name)),
            None => drop(world.write(&name, &[step])),
        }
        seen.push((world.revision(), world.names("/d", AsOf::Now)));
        let again = world.write("/d/again", &[step]);
        seen.push((again.revision, world.names("/d", AsOf::Now)));
        world.delete("/d/again");
        seen.push((world.revision(), world.names("/d", AsOf::Now)));
    }
    for (revision, names) in &seen {
        let at = AsOf::Revision(*revision);
        assert_eq!(&world.names("/d", at), names, "as of {revision}");
        for name in names {
            let behind = world.view().list(&path("/d"), at, Some(name), 100).unwrap().items;
            assert_eq!(behind.len(), names.iter().filter(|other| *other > name).count(), "behind {name}");
        }
    }
}
