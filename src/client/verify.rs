//! Whether every copy of a file is what was written, told by the servers from their own disks: no data moves.
//!
//! Each member checks the extents that its groups hold; the checksums of the pieces combine into the file's, which is
//! compared with the one that the Directory committed.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};

use super::{Client, Entry, Error, Located, call::attempt, channels::Purpose, convert::required, ranges::RANGES_MAX};
use crate::{
    cluster::{Group, Server},
    pb::{self, file_server_client::FileServerClient, verify_blobs_response},
    types::{AsOf, Extent, GroupId, Path, ServerId, Version, crc32c_combine},
};

/// Servers asked at once.
const SERVERS_AT_ONCE: usize = 8;
/// For a server to begin.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for one extent: a blob at the speed of a slow disk.
const EXTENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What every server that should hold a version says of its copy.
#[derive(Clone, Debug)]
pub struct Verification {
    /// Size, version and checksum are those of the version looked at.
    pub entry: Entry,
    pub extents: Vec<Extent>,
    pub replicas: Vec<ReplicaReport>,
}

impl Verification {
    /// Copies that are what was written.
    pub fn good_count(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.good).count()
    }
}

/// What one server says of its copy.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    pub server: ServerId,
    pub address: String,
    /// The groups of the version that it is a member of.
    pub groups: Vec<GroupId>,
    /// Whether it is the primary of one of them.
    pub primary: bool,
    /// Whether its acknowledgement counts in all of them.
    pub in_sync: bool,
    /// Whether it should hold all of the file, rather than the extents of some groups.
    pub whole: bool,
    /// Bytes found.
    pub size: u64,
    /// CRC32C of all that it should hold, in file order; `None` if some of it is missing.
    pub checksum: Option<u32>,
    /// All is there and is what was written.
    pub good: bool,
    /// What kept it from being good, where there is more to say than another checksum.
    pub error: Option<Error>,
}

/// Length and CRC32C of one extent, from a server's disk.
pub(super) type Found = Result<(u64, u32), Error>;

impl Client {
    /// Has every member of a version's groups check its copy. `None`: the newest version.
    pub async fn verify(&self, path: &Path, version: Option<Version>) -> Result<Verification, Error> {
        let located = self.lookup(path, version, AsOf::Now).await?;
        let members = members(&located);
        let found = stream::iter(members.iter().map(|member| async {
            let address = self.address_of(member.server);
            let asked: Vec<Extent> = member.extents.iter().filter_map(|&at| located.extents.get(at)).copied().collect();
            self.verify_at(&address, &asked, false).await
        }));
        let found: Vec<Vec<Found>> = found.buffered(SERVERS_AT_ONCE).collect().await;
        let good = judge(&located, &members, &found);
        let reports = members.iter().zip(found).zip(good).map(|((member, found), good)| ReplicaReport {
            server: member.server.server.clone(),
            address: self.address_of(member.server),
            groups: member.groups.iter().map(|group| group.group).collect(),
            primary: member.groups.iter().any(|group| group.is_primary(&member.server.server)),
            in_sync: member.groups.iter().all(|group| group.is_in_sync(&member.server.server)),
            whole: member.extents.len() == located.extents.len(),
            size: found.iter().flatten().map(|&(length, _)| length).sum(),
            checksum: combined(&found),
            good,
            error: found.into_iter().find_map(Result::err),
        });
        let replicas = reports.collect();
        Ok(Verification { entry: located.entry.clone(), extents: located.extents.clone(), replicas })
    }

    /// What one server finds of each extent, on its disk or, `presence_only`, in its index alone (then without checksums). After the first failure that is not about an extent, all the rest have it.
    pub(super) async fn verify_at(&self, address: &str, extents: &[Extent], presence_only: bool) -> Vec<Found> {
        let mut found = Vec::with_capacity(extents.len());
        for part in extents.chunks(RANGES_MAX) {
            let asked = found.len();
            if let Err(error) = self.verify_part(address, part, presence_only, &mut found).await {
                found.resize(asked + part.len(), Err(error));
            }
        }
        found
    }

    async fn verify_part(
        &self,
        address: &str,
        extents: &[Extent],
        presence_only: bool,
        found: &mut Vec<Found>,
    ) -> Result<(), Error> {
        let timeout = OPEN_TIMEOUT.min(self.timeout);
        let mut client = FileServerClient::new(self.inner.channels.get(address, Purpose::Control)?);
        let range = |extent: &Extent| pb::BlobRange {
            blob: extent.blob.to_string(),
            offset: extent.blob_offset,
            length: extent.length,
        };
        let request = pb::VerifyBlobsRequest { ranges: extents.iter().map(range).collect(), presence_only };
        let call = |request| async move { client.verify_blobs(request).await };
        let mut answers = attempt("verify", timeout, request, call).await?;
        for index in 0..extents.len() {
            let next = tokio::time::timeout(EXTENT_TIMEOUT, answers.message()).await;
            let answer = next.map_err(|_| Error::silence(EXTENT_TIMEOUT, "verify"))??;
            let answer = required("answer", answer)?;
            if answer.range_index as usize != index {
                return Err(Error::malformed("ranges are not in order"));
            }
            found.push(match required("result", answer.result)? {
                verify_blobs_response::Result::Verified(verified) => Ok((verified.length, verified.checksum)),
                verify_blobs_response::Result::Error(error) => Err(error.into()),
            });
        }
        Ok(())
    }
}

/// A server, and what of the file it should hold.
pub(super) struct Member<'a> {
    pub server: &'a Server,
    groups: Vec<&'a Group>,
    /// Their places in the file.
    pub extents: Vec<usize>,
}

/// In the order of their ids.
pub(super) fn members(located: &Located) -> Vec<Member<'_>> {
    let mut members: BTreeMap<&ServerId, Member<'_>> = BTreeMap::new();
    for server in &located.servers {
        let groups: Vec<&Group> = located.groups.iter().filter(|group| group.is_member(&server.server)).collect();
        let holds = |extent: &Extent| groups.iter().any(|group| group.group == extent.group);
        let extents =
            located.extents.iter().enumerate().filter(|(_, extent)| holds(extent)).map(|(at, _)| at).collect();
        if !groups.is_empty() {
            members.insert(&server.server, Member { server, groups, extents });
        }
    }
    members.into_values().collect()
}

/// The checksum of all extents together; `None` if one is missing.
fn combined(found: &[Found]) -> Option<u32> {
    found.iter().try_fold(0, |sum, found| {
        let &(length, checksum) = found.as_ref().ok()?;
        Some(crc32c_combine(sum, checksum, length))
    })
}

/// Which members have what was written.
///
/// One that holds the whole file is judged by the committed checksum alone. One that holds some extents (a file whose
/// path moved to another group lies in several) is compared with extents that together have the committed checksum.
pub(super) fn judge(located: &Located, members: &[Member<'_>], found: &[Vec<Found>]) -> Vec<bool> {
    let complete = |member: &Member<'_>, found: &[Found]| {
        let right = |(&at, found): (&usize, &Found)| {
            let wanted = located.extents.get(at).map(|extent| extent.length);
            found.as_ref().is_ok_and(|&(length, _)| Some(length) == wanted)
        };
        found.len() == member.extents.len() && member.extents.iter().zip(found).all(right)
    };
    let at = |place: usize| {
        let votes = members.iter().zip(found).filter_map(move |(member, found)| {
            let index = member.extents.iter().position(|&at| at == place)?;
            found.get(index)?.as_ref().ok().copied()
        });
        votes.fold(BTreeMap::<(u64, u32), usize>::new(), |mut counts, vote| {
            *counts.entry(vote).or_default() += 1;
            counts
        })
    };
    let likeliest = |place| at(place).into_iter().max_by_key(|&(_, count)| count).map(|(vote, _)| vote);
    let reference: Option<Vec<(u64, u32)>> = (0..located.extents.len()).map(likeliest).collect();
    let reference = reference.filter(|reference| {
        let sum = reference.iter().fold(0, |sum, &(length, checksum)| crc32c_combine(sum, checksum, length));
        sum == located.entry.checksum
    });
    let agrees = |member: &Member<'_>, found: &[Found]| {
        let whole = member.extents.len() == located.extents.len();
        let like_reference = |reference: &Vec<(u64, u32)>| {
            let same = |(&at, found): (&usize, &Found)| found.as_ref().ok() == reference.get(at);
            member.extents.iter().zip(found).all(same)
        };
        if whole {
            combined(found) == Some(located.entry.checksum)
        } else {
            reference.as_ref().is_some_and(like_reference)
        }
    };
    members.iter().zip(found).map(|(member, found)| complete(member, found) && agrees(member, found)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::EntryKind,
        cluster::ServerState,
        status::Reason,
        types::{BlobId, Epoch, Inode, Revision, Timestamp, crc32c},
    };

    fn a_group(group: u32, members: &[&str]) -> Group {
        let members: Vec<ServerId> = members.iter().map(|id| id.parse().unwrap()).collect();
        let primary = members.first().cloned();
        Group { group: GroupId(group), epoch: Epoch(1), in_sync: members.clone(), members, primary, replacement: None }
    }

    fn a_server(id: &str) -> Server {
        Server {
            server: id.parse().unwrap(),
            state: ServerState::Up,
            address: String::new(),
            external_address: String::new(),
            zone: String::new(),
            disk_used_bytes: 0,
            disk_total_bytes: 0,
            blob_count: 0,
            last_seen: None,
            software_version: String::new(),
            read_only_reason: String::new(),
            stored_bytes: 0,
            draining: false,
            down_since: None,
            group_count: 0,
            lead_count: 0,
        }
    }

    /// A file of these parts, each in the group named.
    fn a_file(parts: &[(u32, &[u8])], groups: Vec<Group>, servers: &[&str]) -> Located {
        let whole: Vec<u8> = parts.iter().flat_map(|&(_, part)| part.to_vec()).collect();
        let extent = |&(group, part): &(u32, &[u8])| Extent {
            group: GroupId(group),
            blob: BlobId::random(),
            blob_offset: 0,
            length: part.len() as u64,
        };
        let entry = Entry {
            inode: Inode(2),
            path: Path::root(),
            kind: EntryKind::File,
            size: whole.len() as u64,
            version: Version(1),
            checksum: crc32c(&whole),
            revision: Revision(1),
            create_time: Timestamp(0),
            modify_time: Timestamp(0),
            mode: 0,
            owner: String::new(),
            owning_group: String::new(),
            extended_attributes: BTreeMap::new(),
            target: String::new(),
        };
        Located {
            entry,
            extents: parts.iter().map(extent).collect(),
            groups,
            servers: servers.iter().map(|id| a_server(id)).collect(),
        }
    }

    fn found(part: &[u8]) -> Found {
        Ok((part.len() as u64, crc32c(part)))
    }

    #[test]
    fn a_whole_copy_is_judged_by_the_committed_checksum_not_by_the_majority() {
        let file = a_file(&[(0, b"ab"), (0, b"cd")], vec![a_group(0, &["a", "b", "c"])], &["a", "b", "c"]);
        let members = members(&file);
        let damaged = || vec![found(b"ab"), found(b"xx")];
        let good = vec![found(b"ab"), found(b"cd")];
        assert_eq!(combined(&good), Some(crc32c(b"abcd")));
        assert_eq!(judge(&file, &members, &[damaged(), good, damaged()]), [false, true, false]);
    }

    #[test]
    fn missing_and_short_extents_are_not_good() {
        let file = a_file(&[(0, b"ab"), (0, b"cd")], vec![a_group(0, &["a", "b"])], &["a", "b"]);
        let members = members(&file);
        let missing = vec![found(b"ab"), Err(Error::new(Reason::VersionNotFound, ""))];
        let short = vec![found(b"abc"), found(b"d")];
        assert_eq!(combined(&missing), None);
        assert_eq!(combined(&short), Some(file.entry.checksum), "but cut elsewhere");
        assert_eq!(judge(&file, &members, &[missing, short]), [false, false]);
    }

    #[test]
    fn a_file_in_two_groups_is_judged_piece_by_piece() {
        let groups = vec![a_group(0, &["a", "b"]), a_group(1, &["b", "c", "d"])];
        let file = a_file(&[(0, b"ab"), (1, b"cd")], groups, &["a", "b", "c", "d"]);
        let members = members(&file);
        assert_eq!(
            members.iter().map(|member| member.extents.clone()).collect::<Vec<_>>(),
            [vec![0], vec![0, 1], vec![1], vec![1]]
        );
        let answers = [vec![found(b"ab")], vec![found(b"ab"), found(b"cd")], vec![found(b"cx")], vec![found(b"cd")]];
        assert_eq!(judge(&file, &members, &answers), [true, true, false, true]);
    }

    #[test]
    fn an_empty_file_is_good_everywhere() {
        let file = a_file(&[], vec![], &[]);
        assert!(members(&file).is_empty());
        assert_eq!(combined(&[]), Some(0));
    }
}
