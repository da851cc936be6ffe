//! Requests, log entries and maps that are nearly what they should be: each is understood or refused, and what is understood can
//! be written down and read again.

use proptest::{collection::vec, prelude::*, sample::Index};
use prost::Message;

use super::{
    database::{bootstrap, make},
    *,
};
use crate::{
    convert::cluster,
    directory::convert,
    pb::{self, storage::directory as disk},
};

/// Changes to bytes, each at a place: another byte, one more, one less.
fn edits() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    vec((any::<Index>(), 0..3_u8, prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(b'/')]), 0..4)
}

fn edited(message: &impl Message, edits: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    for (at, kind, byte) in edits {
        let at = at.index(bytes.len().max(1));
        match kind {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at, *byte),
        }
    }
    bytes
}

/// Reads the edited message, if it still is one, and has a look taken at it.
fn look<M: Message + Default, T>(valid: &M, edits: &[(Index, u8, u8)], look: impl Fn(&M) -> T) -> Option<T> {
    M::decode(edited(valid, edits).as_slice()).ok().map(|message| look(&message))
}

fn an_id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

fn a_time() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 })
}

fn a_commit() -> pb::CommitWritesRequest {
    let commit = pb::WriteCommit {
        write_id: an_id(1),
        group: 2,
        epoch: 3,
        path: "/a/b".to_owned(),
        mode: pb::WriteMode::Patch.into(),
        offset: 4,
        pieces: vec![pb::BlobPiece { blob: an_id(5), length: 6 }, pb::BlobPiece { blob: an_id(7), length: 8 }],
        precondition: Some(pb::Precondition { fencing_token: Some(9), if_version: Some(10) }),
        begin_time: a_time(),
        ..Default::default()
    };
    pb::CommitWritesRequest { server_id: "a".to_owned(), commits: vec![commit] }
}

fn an_update() -> pb::UpdateEntryRequest {
    let paths = ["mode", "owner", "modify_time", "extended_attributes"].map(str::to_owned).into();
    let entry = pb::Entry {
        path: "/a".to_owned(),
        mode: 0o644,
        owner: "owner".to_owned(),
        modify_time: a_time(),
        extended_attributes: [("user.key".to_owned(), vec![1, 2].into())].into(),
        ..Default::default()
    };
    pb::UpdateEntryRequest {
        write_id: an_id(1),
        entry: Some(entry),
        update_mask: Some(prost_types::FieldMask { paths }),
    }
}

fn a_server() -> pb::RegisterServerRequest {
    pb::RegisterServerRequest {
        kind: pb::ServerKind::Fileserver.into(),
        server_id: "a".to_owned(),
        store_id: an_id(2),
        address: "a:1".to_owned(),
        external_address: "[::1]:2".to_owned(),
        incarnations: vec![an_id(3), an_id(4)],
        ..Default::default()
    }
}

fn a_merge() -> pb::MergeExtentsRequest {
    let extent = pb::Extent { group: 1, blob: an_id(1), blob_offset: 2, length: 3 };
    pb::MergeExtentsRequest {
        server_id: "a".to_owned(),
        extents: vec![extent.clone(), extent],
        merged: Some(pb::BlobPiece { blob: an_id(2), length: 6 }),
        begin_time: a_time(),
        ..Default::default()
    }
}

fn a_map() -> pb::ClusterMap {
    let ids = ["a", "b"].map(str::to_owned).to_vec();
    let (primary, leaving, arriving) = ("a".to_owned(), "a".to_owned(), "c".to_owned());
    let group = pb::Group { group: 1, epoch: 2, members: ids.clone(), in_sync: ids, primary, leaving, arriving };
    let server = pb::Server {
        server_id: "a".to_owned(),
        address: "a:1".to_owned(),
        last_seen_time: a_time(),
        ..Default::default()
    };
    pb::ClusterMap {
        map_version: 3,
        cluster_id: an_id(1),
        group_count: 1,
        groups: vec![group],
        servers: vec![server.clone()],
        directory_servers: vec![server],
        ..Default::default()
    }
}

/// Commands of several kinds, some as the requests above come to.
fn some_commands() -> Vec<Command> {
    let mut commands = vec![bootstrap(), make(1, "/a"), convert::update_entry(&an_update()).unwrap()];
    commands.extend(convert::commit_writes(&a_commit()).unwrap().into_iter().map(Result::unwrap));
    commands.push(convert::merge_extents(&a_merge()).unwrap());
    commands.push(Command::RegisterServer { registration: convert::registration(&a_server()).unwrap() });
    let incarnations = [None, Some(Incarnation(Uuid::from_u128(5)))];
    commands.extend(incarnations.map(|incarnation| Command::MarkDown { server: server("a"), incarnation }));
    commands
}

#[test]
fn what_is_edited_is_right_before() {
    assert_eq!(some_commands().len(), 8);
    let map = cluster::cluster_map(&a_map()).unwrap();
    assert_eq!(cluster::cluster_map(&pb::ClusterMap::from(&map)).unwrap(), map);
    let batch = batch_out(Timestamp(7), &some_commands());
    assert_eq!(batch_in(&batch).unwrap(), (Timestamp(7), some_commands()));
}

#[test]
fn a_death_that_an_earlier_version_wrote_down_is_of_whoever_goes_by_the_name() {
    let command = Some(disk::command::Command::MarkDownAny("a".to_owned()));
    let batch = disk::Batch { time: 7, commands: vec![disk::Command { command }] };
    let read = vec![Command::MarkDown { server: server("a"), incarnation: None }];
    assert_eq!(batch_in(&batch.encode_to_vec()).unwrap(), (Timestamp(7), read));
}

proptest! {
    #[test]
    fn a_request_that_is_nearly_right_is_understood_or_refused(edits in edits()) {
        // Everything that is understood goes into the log, and comes out of it as it was.
        let mut understood = Vec::new();
        let commits = look(&a_commit(), &edits, convert::commit_writes).and_then(Result::ok);
        understood.extend(commits.into_iter().flatten().flatten());
        understood.extend(look(&an_update(), &edits, convert::update_entry).and_then(Result::ok));
        understood.extend(look(&a_merge(), &edits, convert::merge_extents).and_then(Result::ok));
        let registration = look(&a_server(), &edits, convert::registration).and_then(Result::ok);
        understood.extend(registration.map(|registration| Command::RegisterServer { registration }));
        let batch = batch_out(Timestamp(7), &understood);
        prop_assert_eq!(batch_in(&batch), Ok((Timestamp(7), understood)));
    }

    #[test]
    fn an_entry_of_the_log_that_is_nearly_right_is_a_batch_or_damage(edits in edits()) {
        let valid = disk::Batch::decode(batch_out(Timestamp(7), &some_commands())).unwrap();
        if let Ok((time, commands)) = batch_in(&edited(&valid, &edits)) {
            prop_assert_eq!(batch_in(&batch_out(time, &commands)), Ok((time, commands)));
        }
    }

    #[test]
    fn a_map_that_is_nearly_right_is_understood_or_refused(edits in edits()) {
        if let Some(Ok(map)) = look(&a_map(), &edits, cluster::cluster_map) {
            prop_assert_eq!(cluster::cluster_map(&pb::ClusterMap::from(&map)), Ok(map));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_understood(bytes in vec(any::<u8>(), 0..80)) {
        let _either = batch_in(&bytes);
        let _either = pb::ClusterMap::decode(bytes.as_slice()).map(|map| cluster::cluster_map(&map));
        let _either = pb::CommitWritesRequest::decode(bytes.as_slice()).map(|request| convert::commit_writes(&request));
        let _either = pb::UpdateEntryRequest::decode(bytes.as_slice()).map(|request| convert::update_entry(&request));
        let _either = pb::RegisterServerRequest::decode(bytes.as_slice()).map(|request| convert::registration(&request));
    }
}
