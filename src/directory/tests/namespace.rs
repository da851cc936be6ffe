//! Directories, moves, deletions, attributes.

use super::*;
use crate::{
    directory::{command::AttributeChanges, model::EntryKind},
    types::{Inode, PATH_LENGTH_MAX},
};

#[test]
fn nothing_is_done_before_the_cluster_is_made() {
    let mut world = World::unmade();
    let command =
        Command::CreateDirectory { write_id: world.write_id(), path: path("/a"), parents: false, mode: 0o755 };
    assert_eq!(world.try_apply(command), Err(Rejected::NotBootstrapped));
}

#[test]
fn a_directory_is_made_where_its_parent_is() {
    let mut world = World::new();
    let make = |world: &mut World, at: &str, parents| {
        let write_id = world.write_id();
        world.try_apply(Command::CreateDirectory { write_id, path: path(at), parents, mode: 0o700 })
    };
    assert_eq!(make(&mut world, "/a/b/c", false), Err(Rejected::EntryNotFound { path: path("/a/b") }));
    assert!(make(&mut world, "/a/b/c", true).is_ok());
    assert_eq!(make(&mut world, "/a/b", false), Err(Rejected::EntryExists { path: path("/a/b") }));
    let revision = world.revision();
    assert!(make(&mut world, "/a/b", true).is_ok(), "with parents, an existing directory will do");
    assert_eq!(world.revision(), revision, "and nothing has changed");
    assert_eq!(make(&mut world, "/", false), Err(Rejected::EntryExists { path: Path::root() }));
    world.write("/a/file", b"x");
    assert_eq!(make(&mut world, "/a/file", true), Err(Rejected::EntryExists { path: path("/a/file") }));
    assert_eq!(make(&mut world, "/a/file/d", true), Err(Rejected::NotADirectory { path: path("/a/file") }));
    let entry = world.view().get_entry(&path("/a/b/c"), AsOf::Now).unwrap();
    assert_eq!((entry.kind, entry.attributes.mode, entry.version), (EntryKind::Directory, 0o700, Version(0)));
}

#[test]
fn a_look_up_says_what_is_in_its_way() {
    let mut world = World::new();
    world.mkdir("/d");
    world.write("/f", b"x");
    let view = world.view();
    let get = |at: &str| view.get_entry(&path(at), AsOf::Now).map_err(|error| error.to_string());
    assert_eq!(get("/").unwrap().inode, Inode::ROOT);
    assert_eq!(get("/d/x"), Err(Rejected::EntryNotFound { path: path("/d/x") }.to_string()));
    assert_eq!(get("/f/x"), Err(Rejected::NotADirectory { path: path("/f") }.to_string()));
    let file = |file| view.lookup_file(&file, None, AsOf::Now).map_err(|error| error.to_string());
    assert_eq!(file(FileRef::Path(path("/d"))), Err(Rejected::IsADirectory { path: path("/d") }.to_string()));
    assert_eq!(file(FileRef::Inode(Inode(99))), Err(Rejected::InodeNotFound { inode: 99 }.to_string()));
    assert!(view.list(&path("/f"), AsOf::Now, None, 10).is_err());
    assert!(view.versions(&path("/d"), None, 10).is_err());
}

#[test]
fn a_listing_comes_in_pages_in_the_order_of_names() {
    let mut world = World::new();
    for name in ["b", "a", "ä", "a b", "B", "a.b"] {
        world.mkdir(&format!("/d/{name}"));
    }
    world.mkdir("/e");
    let view = world.view();
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = view.list(&path("/d"), AsOf::Now, after.as_deref(), 2).unwrap();
        names.extend(page.items.iter().map(|entry| entry.path.name().unwrap().to_owned()));
        after = names.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(names, ["B", "a", "a b", "a.b", "b", "ä"]);
}

#[test]
fn a_move_of_a_directory_takes_along_all_below_and_keeps_inodes() {
    let mut world = World::new();
    world.mkdir("/a/b/c");
    world.write("/a/b/c/f", b"bytes");
    world.mkdir("/x");
    let inode = world.look("/a/b/c/f").unwrap().entry.inode;
    let moved = world.rename("/a/b", "/x/y");
    assert_eq!((moved.path.as_str(), moved.revision), ("/x/y", world.revision()));
    assert_eq!(world.read("/x/y/c/f"), b"bytes");
    assert!(world.look("/a/b/c/f").is_none());
    let found = world.view().lookup_file(&FileRef::Inode(inode), None, AsOf::Now).unwrap();
    assert_eq!(found.entry.path, path("/x/y/c/f"));
    assert_eq!(world.names("/a", AsOf::Now), [""; 0]);
}

#[test]
fn a_directory_does_not_move_into_itself() {
    let mut world = World::new();
    world.mkdir("/a/b");
    world.mkdir("/ab");
    for to in ["/a/b/c", "/a/x"] {
        let command = world.a_move("/a", to);
        assert_eq!(world.try_apply(command), Err(Rejected::MoveIntoItself { from: path("/a"), to: path(to) }));
    }
    let command = world.a_move("/a", "/a");
    assert_eq!(world.try_apply(command), Err(Rejected::EntryExists { path: path("/a") }));
    world.rename("/a", "/ab/a");
    assert_eq!(world.names("/ab/a", AsOf::Now), ["b"]);
}

#[test]
fn a_move_replaces_a_file_by_a_file_only_and_only_when_asked_with_a_precondition() {
    let mut world = World::new();
    world.mkdir("/d");
    world.mkdir("/e");
    let old = world.write("/old", b"old");
    let new = world.write("/new", b"new");
    let replacing = |world: &mut World, from, to, replace, precondition: Precondition| match world.a_move(from, to) {
        Command::MoveEntry { write_id, from, to, from_precondition, .. } => {
            let to_precondition = precondition;
            world.try_apply(Command::MoveEntry { write_id, from, to, replace, from_precondition, to_precondition })
        }
        _ => unreachable!(),
    };
    let (none, one) = (Precondition::default(), if_version(1));
    let (at_old, at_d) = (path("/old"), path("/d"));
    let cases = [
        ("/new", "/old", false, one, Rejected::EntryExists { path: at_old.clone() }),
        ("/new", "/old", true, none, Rejected::LockRequired { path: at_old.clone() }),
        ("/new", "/d", true, one, Rejected::IsADirectory { path: at_d.clone() }),
        ("/e", "/d", true, one, Rejected::IsADirectory { path: at_d }),
        ("/e", "/old", true, one, Rejected::NotADirectory { path: at_old.clone() }),
        (
            "/new",
            "/old",
            true,
            if_version(2),
            Rejected::VersionMismatch { path: at_old, expected: Version(2), current: Version(1) },
        ),
        ("/none", "/old", true, one, Rejected::EntryNotFound { path: path("/none") }),
        ("/new", "/none/x", true, one, Rejected::EntryNotFound { path: path("/none") }),
        ("/", "/x", true, one, Rejected::IsTheRoot),
        ("/new", "/", true, one, Rejected::IsTheRoot),
    ];
    for (from, to, replace, precondition, rejected) in cases {
        assert_eq!(replacing(&mut world, from, to, replace, precondition), Err(rejected), "{from} to {to}");
    }
    assert!(replacing(&mut world, "/new", "/old", true, one).is_ok());
    assert_eq!((world.read("/old"), world.look("/old").unwrap().entry.inode), (b"new".to_vec(), new.inode));
    assert!(world.look("/new").is_none());
    assert!(world.view().lookup_file(&FileRef::Inode(old.inode), None, AsOf::Now).is_err());
    assert_eq!(world.view().counts().unwrap().files, 1);
}

#[test]
fn a_directory_with_entries_is_deleted_by_force_alone_and_the_count_is_exact() {
    let mut world = World::new();
    for at in ["/t/a/b", "/t/c", "/keep"] {
        world.mkdir(at);
    }
    for at in ["/t/f", "/t/a/f", "/t/a/b/f"] {
        world.write(at, b"x");
    }
    let none = Precondition::default();
    let not_empty = Err(Rejected::DirectoryNotEmpty { path: path("/t") });
    assert_eq!(world.try_delete("/t", false, none), not_empty);
    assert_eq!(world.try_delete("/t/c", false, none), Ok(Outcome::Deleted { count: 1 }));
    assert_eq!(world.delete("/t"), 6);
    assert_eq!(world.names("/", AsOf::Now), ["keep"]);
    assert!(world.look("/t/a/f").is_none());
    let counts = world.view().counts().unwrap();
    assert_eq!((counts.files, counts.directories), (0, 1));
    assert_eq!(world.try_delete("/t", true, none), Err(Rejected::EntryNotFound { path: path("/t") }));
    assert_eq!(world.try_delete("/", true, none), Err(Rejected::IsTheRoot));
}

#[test]
fn a_file_below_a_deleted_directory_is_gone_by_its_inode_too() {
    let mut world = World::new();
    world.mkdir("/t/a");
    let file = world.write("/t/a/f", b"x");
    world.delete("/t");
    let found = world.view().lookup_file(&FileRef::Inode(file.inode), None, AsOf::Now);
    assert_eq!(found.unwrap_err().to_string(), Rejected::InodeNotFound { inode: file.inode.0 }.to_string());
}

#[test]
fn a_delete_checks_what_it_is_given() {
    let mut world = World::new();
    world.write("/f", b"x");
    world.mkdir("/d");
    let mismatch = Rejected::VersionMismatch { path: path("/f"), expected: Version(2), current: Version(1) };
    assert_eq!(world.try_delete("/f", false, if_version(2)), Err(mismatch));
    assert_eq!(world.try_delete("/d", false, if_version(0)), Err(Rejected::IsADirectory { path: path("/d") }));
    let forged = token(&path("/d"), 5);
    let rejected = Rejected::FencingTokenForged { path: path("/f"), given: forged };
    assert_eq!(world.try_delete("/f", false, with_token(forged)), Err(rejected));
    assert!(world.try_delete("/f", false, if_version(1)).is_ok());
}

#[test]
fn attributes_change_without_a_version_and_keep_what_is_not_named() {
    let mut world = World::new();
    world.write("/f", b"x");
    let update = |world: &mut World, at: &str, changes| {
        let write_id = world.write_id();
        world.try_apply(Command::UpdateEntry { write_id, path: path(at), changes })
    };
    let extended = BTreeMap::from([("user.tag".to_owned(), b"blue".to_vec())]);
    let changes = AttributeChanges {
        owner: Some("ann".to_owned()),
        extended_attributes: Some(extended.clone()),
        ..Default::default()
    };
    assert!(update(&mut world, "/f", changes).is_ok());
    let changes = AttributeChanges { mode: Some(0o600), ..Default::default() };
    assert!(update(&mut world, "/f", changes.clone()).is_ok());
    let revision = world.revision();
    assert!(update(&mut world, "/f", changes.clone()).is_ok());
    assert_eq!(world.revision(), revision, "nothing was new");
    assert!(update(&mut world, "/", changes.clone()).is_ok(), "the root has attributes too");
    let entry = world.view().get_entry(&path("/f"), AsOf::Now).unwrap();
    assert_eq!((entry.version, entry.attributes.mode, entry.attributes.owner.as_str()), (Version(1), 0o600, "ann"));
    assert_eq!(entry.attributes.extended, extended);
    assert_eq!(update(&mut world, "/g", changes), Err(Rejected::EntryNotFound { path: path("/g") }));
    let large = BTreeMap::from([("n".to_owned(), vec![0; 64 << 10])]);
    let changes = AttributeChanges { extended_attributes: Some(large), ..Default::default() };
    let rejected = Rejected::AttributesTooLarge { size: 65_537, limit: 65_536 };
    assert_eq!(update(&mut world, "/f", changes), Err(rejected));
}

#[test]
fn a_move_that_would_make_a_path_too_long_is_refused() {
    let mut world = World::new();
    let deep = "/n".repeat(1000);
    world.mkdir(&format!("/a{deep}"));
    let name = "x".repeat(255);
    let long = format!("/{name}").repeat(8);
    world.mkdir(&long);
    let to = format!("{long}/a");
    assert!(to.len() + deep.len() > PATH_LENGTH_MAX - 50 && to.len() + deep.len() <= PATH_LENGTH_MAX);
    world.rename("/a", &to);
    world.rename(&to, "/a");
    let to = format!("{long}/{}", "y".repeat(100));
    let command = world.a_move("/a", &to);
    assert_eq!(world.try_apply(command), Err(Rejected::PathTooLong { path: path(&to) }));
}

#[test]
fn a_retry_is_answered_as_the_first_time_and_another_request_with_its_id_is_refused() {
    let mut world = World::new();
    let write_id = world.write_id();
    let make = Command::CreateDirectory { write_id, path: path("/d"), parents: false, mode: 0o755 };
    let first = world.expect(make.clone());
    let revision = world.revision();
    assert_eq!(world.expect(make.clone()), first);
    assert_eq!(world.revision(), revision);
    world.delete("/d");
    assert_eq!(world.expect(make.clone()), first, "whatever happened since");
    let other = Command::CreateDirectory { write_id, path: path("/e"), parents: false, mode: 0o755 };
    assert_eq!(world.try_apply(other), Err(Rejected::WriteIdReused));
    let precondition = Precondition::default();
    let other = Command::DeleteEntry { write_id, path: path("/d"), force: false, precondition };
    assert_eq!(world.try_apply(other), Err(Rejected::WriteIdReused));
    world.pass(59 * MINUTE);
    world.collect();
    assert_eq!(world.expect(make.clone()), first);
    world.pass(MINUTE);
    world.collect();
    assert!(world.expect(make) != first, "after an hour it is a new request");
}

#[test]
fn a_rejected_request_is_judged_anew_when_it_comes_again() {
    let mut world = World::new();
    let write_id = world.write_id();
    let make = Command::CreateDirectory { write_id, path: path("/a/b"), parents: false, mode: 0o755 };
    assert!(world.try_apply(make.clone()).is_err());
    world.mkdir("/a");
    assert!(world.try_apply(make).is_ok());
}

#[test]
fn the_deepest_path_is_made_at_once_and_counted() {
    let mut world = World::new();
    let deepest = "/n".repeat(PATH_LENGTH_MAX / 2);
    world.mkdir(&deepest);
    assert_eq!(world.view().counts().unwrap().directories, 2048);
    world.mkdir("/n/n/m/l");
    assert_eq!(world.view().get_entry(&path("/n/n/m"), AsOf::Now).unwrap().path, path("/n/n/m"));
    assert_eq!(world.delete("/n/n"), 2047 + 2);
    assert_eq!(world.delete("/n"), 1);
    assert_eq!(world.view().counts().unwrap().directories, 0);
}
