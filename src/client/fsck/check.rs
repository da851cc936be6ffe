//! One batch of versions: asks every server at once for all that it should have of them, and looks again at what is not as it
//! should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};

use super::{Finding, FsckOptions, FsckSummary, Problem, is_gone};
use crate::{
    client::{
        Client, Error, Located,
        verify::{Found, Member, judge, members},
    },
    cluster::ClusterMap,
    status::Reason,
    types::{BlobId, Extent, GroupId, ServerId},
};

/// Servers asked at once.
const SERVERS_AT_ONCE: usize = 8;
/// Before each further look at what seemed wrong.
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// A version that is looked at. Its groups and servers are those of the map when it was listed, or none yet.
#[derive(Clone, Debug)]
pub struct Subject {
    pub located: Located,
}

/// Servers that could not be asked, and how many copies of versions that concerns.
#[derive(Debug, Default)]
pub struct Unchecked {
    servers: BTreeMap<ServerId, (u64, String)>,
}

impl Unchecked {
    fn add(&mut self, server: &ServerId, error: &Error) {
        let entry = self.servers.entry(server.clone()).or_insert_with(|| (0, error.to_string()));
        entry.0 += 1;
    }

    fn contains(&self, server: &ServerId) -> bool {
        self.servers.contains_key(server)
    }

    pub fn findings(self) -> impl Iterator<Item = Finding> {
        self.servers.into_iter().map(|(server, (copies, error))| Finding {
            problem: Problem::Unreachable,
            path: None,
            version: None,
            server: Some(server),
            blobs: Vec::new(),
            group: None,
            detail: format!("{copies} copies of versions were not checked: {error}"),
        })
    }
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Checked {
    versions: u64,
    extents: u64,
    bytes: u64,
    copies: u64,
    copies_good: u64,
    bytes_read: u64,
    looked_again: u64,
    pub findings: Vec<Finding>,
}

impl Checked {
    pub fn count(&self, summary: &mut FsckSummary) {
        summary.versions += self.versions;
        summary.extents += self.extents;
        summary.bytes += self.bytes;
        summary.copies += self.copies;
        summary.copies_good += self.copies_good;
        summary.bytes_read += self.bytes_read;
        summary.looked_again += self.looked_again;
    }
}

pub async fn batch(
    client: &Client,
    options: FsckOptions,
    subjects: Vec<Subject>,
    unchecked: &mut Unchecked,
) -> Result<Checked, Error> {
    let map = client.cluster_map();
    let mut checked = Checked::default();
    let subjects: Vec<Located> = subjects.into_iter().map(|subject| placed(subject.located, &map)).collect();
    let answers = ask(client, &subjects, options.deep).await;
    for located in &subjects {
        checked.versions += 1;
        checked.extents += located.extents.len() as u64;
        checked.bytes += located.entry.size;
        let copies = evaluate(located, &answers, options.deep);
        let suspicious = copies.iter().any(|copy| !copy.is_good && !unchecked.contains(&copy.server));
        let copies = match suspicious {
            false => copies,
            true => match look_again(client, options, located).await? {
                Looked::Gone => {
                    checked.looked_again += 1;
                    continue;
                }
                Looked::At { located, copies } => {
                    checked.looked_again += u64::from(copies.iter().all(|copy| copy.is_good));
                    checked.findings.extend(findings(client, &located, &copies, options).await);
                    copies
                }
            },
        };
        for copy in &copies {
            checked.copies += copy.extents;
            match &copy.unreachable {
                Some(error) => unchecked.add(&copy.server, error),
                None => {
                    checked.copies_good += copy.good_extents;
                    checked.bytes_read += if options.deep { copy.bytes } else { 0 };
                }
            }
        }
    }
    Ok(checked)
}

/// With the groups of the extents as the map has them, and of their members those in sync: theirs are the copies that count.
fn placed(located: Located, map: &ClusterMap) -> Located {
    let named: BTreeSet<GroupId> = located.extents.iter().map(|extent| extent.group).collect();
    let groups: Vec<_> = named.iter().filter_map(|group| map.groups.get(group)).cloned().collect();
    let in_sync: BTreeSet<&ServerId> = groups.iter().flat_map(|group| &group.in_sync).collect();
    let servers = in_sync.into_iter().filter_map(|id| map.servers.get(id)).cloned().collect();
    let groups =
        groups.iter().map(|group| crate::cluster::Group { members: group.in_sync.clone(), ..group.clone() }).collect();
    Located { groups, servers, ..located }
}

/// What servers say of extents, by server and extent.
type Answers = BTreeMap<ServerId, BTreeMap<Piece, Found>>;

/// Blob, offset and length.
type Piece = (BlobId, u64, u64);

fn key(extent: &Extent) -> Piece {
    (extent.blob, extent.blob_offset, extent.length)
}

/// Asks each server once for everything; what several versions share is asked for once.
async fn ask(client: &Client, subjects: &[Located], deep: bool) -> Answers {
    let mut wanted: BTreeMap<ServerId, (String, BTreeMap<Piece, Extent>)> = BTreeMap::new();
    for located in subjects {
        for member in members(located) {
            let (_, extents) = wanted
                .entry(member.server.server.clone())
                .or_insert_with(|| (client.address_of(member.server), BTreeMap::new()));
            extents.extend(member.extents.iter().filter_map(|&at| located.extents.get(at)).map(|it| (key(it), *it)));
        }
    }
    let mut each: Vec<(ServerId, String, Vec<Extent>)> = Vec::new();
    for (server, (address, extents)) in wanted {
        each.push((server, address, extents.into_values().collect()));
    }
    let client = client.clone();
    let asked = stream::iter(each).map(move |(server, address, extents): (ServerId, String, Vec<Extent>)| {
        let client = client.clone();
        async move {
            let found = client.verify_at(&address, &extents, !deep).await;
            (server, extents.iter().map(key).zip(found).collect())
        }
    });
    asked.buffered(SERVERS_AT_ONCE).boxed().collect().await
}

/// A server's copy of a version.
struct Copy {
    server: ServerId,
    is_good: bool,
    extents: u64,
    good_extents: u64,
    bytes: u64,
    /// What it refused, and whether it has it at all.
    bad: Vec<(Extent, Problem)>,
    /// It did not answer.
    unreachable: Option<Error>,
}

fn evaluate(located: &Located, answers: &Answers, deep: bool) -> Vec<Copy> {
    let members = members(located);
    let found: Vec<Vec<Found>> = members.iter().map(|member| of_member(located, member, answers)).collect();
    let complete = |member: &Member<'_>, found: &[Found]| {
        member.extents.iter().zip(found).all(|(&at, found)| {
            let wanted = located.extents.get(at).map(|extent| extent.length);
            found.as_ref().is_ok_and(|&(length, _)| Some(length) == wanted)
        })
    };
    let good: Vec<bool> = match deep {
        true => judge(located, &members, &found),
        false => members.iter().zip(&found).map(|(member, found)| complete(member, found)).collect(),
    };
    let copies = members.iter().zip(found).zip(good);
    copies.map(|((member, found), is_good)| copy(located, member, found, is_good)).collect()
}

fn of_member(located: &Located, member: &Member<'_>, answers: &Answers) -> Vec<Found> {
    let said = answers.get(&member.server.server);
    let of = |extent: &Extent| {
        let found = said.and_then(|said| said.get(&key(extent))).cloned();
        found.unwrap_or_else(|| Err(Error::malformed("the server did not answer for all that it was asked")))
    };
    member.extents.iter().filter_map(|&at| located.extents.get(at)).map(of).collect()
}

fn copy(located: &Located, member: &Member<'_>, found: Vec<Found>, is_good: bool) -> Copy {
    let mut copy = Copy {
        server: member.server.server.clone(),
        is_good,
        extents: found.len() as u64,
        good_extents: found.iter().filter(|found| found.is_ok()).count() as u64,
        bytes: found.iter().flatten().map(|(length, _)| length).sum(),
        bad: Vec::new(),
        unreachable: None,
    };
    for (&at, found) in member.extents.iter().zip(&found) {
        let Some(extent) = located.extents.get(at) else { continue };
        match found {
            Ok(_) => {}
            Err(error) => match error.reason() {
                Reason::VersionNotFound => copy.bad.push((*extent, Problem::Missing)),
                Reason::ChecksumMismatch | Reason::OffsetOutOfRange => copy.bad.push((*extent, Problem::Damaged)),
                _ => copy.unreachable = Some(error.clone()),
            },
        }
    }
    if !is_good && copy.bad.is_empty() && copy.unreachable.is_none() {
        // Every piece matches its own checksum, and together they are not the file.
        copy.bad =
            member.extents.iter().filter_map(|&at| located.extents.get(at)).map(|&it| (it, Problem::Damaged)).collect();
        copy.good_extents = 0;
    }
    copy
}

enum Looked {
    /// The version is not there any more.
    Gone,
    At {
        located: Box<Located>,
        copies: Vec<Copy>,
    },
}

/// Looks one version up again, and asks again, until it is good or stays as it is.
async fn look_again(client: &Client, options: FsckOptions, before: &Located) -> Result<Looked, Error> {
    let mut last = None;
    for pause in LOOK_AGAIN {
        tokio::time::sleep(pause).await;
        let entry = &before.entry;
        let map = client.refresh_map().await?;
        let located = match client.lookup_inode(entry.inode, Some(entry.version), options.as_of).await {
            Ok(located) => placed(located, &map),
            Err(error) if is_gone(&error) => return Ok(Looked::Gone),
            Err(error) => return Err(error),
        };
        let answers = ask(client, std::slice::from_ref(&located), options.deep).await;
        let copies = evaluate(&located, &answers, options.deep);
        let is_good = copies.iter().all(|copy| copy.is_good);
        last = Some(Looked::At { located: Box::new(located), copies });
        if is_good {
            break;
        }
    }
    Ok(last.unwrap_or(Looked::Gone))
}

async fn findings(client: &Client, located: &Located, copies: &[Copy], options: FsckOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let finding = |problem, server: Option<&ServerId>, blobs: Vec<(GroupId, BlobId)>, detail| Finding {
        problem,
        path: Some(located.entry.path.clone()),
        version: Some(located.entry.version),
        server: server.cloned(),
        blobs,
        group: None,
        detail,
    };
    for copy in copies {
        for problem in [Problem::Missing, Problem::Damaged] {
            let bad = || copy.bad.iter().filter(|(_, it)| *it == problem).map(|(extent, _)| extent);
            let blobs: BTreeSet<(GroupId, BlobId)> = bad().map(|extent| (extent.group, extent.blob)).collect();
            if !blobs.is_empty() {
                let bytes: u64 = bad().map(|extent| extent.length).sum();
                let detail = format!("{} blobs with {bytes} bytes of it", blobs.len());
                findings.push(finding(problem, Some(&copy.server), blobs.into_iter().collect(), detail));
            }
        }
    }
    if !findings.is_empty() && is_lost(client, copies, options).await {
        let detail = "no server has all of it any more".to_owned();
        findings.insert(0, finding(Problem::Lost, None, Vec::new(), detail));
    }
    findings
}

/// Whether some piece is good nowhere, members that are not in sync included. Nobody knows while one of them is away.
async fn is_lost(client: &Client, copies: &[Copy], options: FsckOptions) -> bool {
    if copies.iter().any(|copy| copy.unreachable.is_some()) {
        return false;
    }
    let bad: BTreeMap<Piece, Extent> =
        copies.iter().flat_map(|copy| &copy.bad).map(|(extent, _)| (key(extent), *extent)).collect();
    let map = client.cluster_map();
    for extent in bad.values() {
        let Some(group) = map.groups.get(&extent.group) else { continue };
        let mut is_somewhere = false;
        for server in group.members.iter().filter_map(|id| map.servers.get(id)) {
            let address = client.address_of(server);
            let found = client.verify_at(&address, std::slice::from_ref(extent), !options.deep).await;
            is_somewhere |= match found.first() {
                Some(Ok(_)) => true,
                Some(Err(error)) => !matches!(
                    error.reason(),
                    Reason::VersionNotFound | Reason::ChecksumMismatch | Reason::OffsetOutOfRange
                ),
                None => true,
            };
            if is_somewhere {
                break;
            }
        }
        if !is_somewhere {
            return true;
        }
    }
    false
}
