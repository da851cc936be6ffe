//! Whether everything that the Directory says is there is where it should be, on every server that should have it.
//!
//! Walks the namespace, and asks each member in sync of each version's groups for its copy: whether it knows of it, or, deep, to
//! read it from its disk. Runs on a live cluster: what looks wrong is looked up again before it is told, since files change and
//! groups move meanwhile. Memory is bounded whatever the number of files.
//!
//! What it does not look at: versions of files that were deleted (ask as of a moment before), and blobs that no version needs,
//! which servers settle with the Directory by themselves.

mod check;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, future::ready, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::check::{Subject, Unchecked};
use super::{Client, Entry, Error, Listed, Located, WalkOptions, channels::Purpose};
use crate::{
    cluster::{ClusterMap, Group, ServerState},
    pb::{self, file_server_client::FileServerClient},
    status::Reason,
    types::{AsOf, BlobId, GroupId, Path, ServerId, Version},
};

/// Extents that are asked for together.
const BATCH_EXTENTS: usize = 2000;
/// Files whose versions are looked up at once.
const FILES_AT_ONCE: usize = 8;
/// Servers asked at once for what they should not have.
const ASKED_AT_ONCE: usize = 8;
/// Events that nobody has taken yet.
const EVENTS_MAX: usize = 64;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Every chunk is read from every disk and compared with the checksums, also with that of the whole file.
    pub deep: bool,
    /// Older versions are left out.
    pub newest_only: bool,
    /// The files of an earlier moment, each in the version that it had then.
    pub as_of: AsOf,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// No server has the version whole.
    Lost,
    /// A server in sync has some of it damaged.
    Damaged,
    /// A server in sync does not have some of it.
    Missing,
    /// A server in sync could not be asked: its copies were not checked.
    Unreachable,
    /// A group has fewer live members in sync than members.
    UnderReplicated,
    /// A server has blobs of a group that it is no member of. Harmless: it is told to delete them, a few at a time.
    Extra,
}

impl Problem {
    /// Whether data has fewer good copies than it should, or may have.
    pub fn is_harmful(self) -> bool {
        self != Self::Extra
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    pub problem: Problem,
    /// Of a version: of which file.
    pub path: Option<Path>,
    pub version: Option<Version>,
    /// Whose copy it is.
    pub server: Option<ServerId>,
    /// What is missing or damaged there.
    pub blobs: Vec<(GroupId, BlobId)>,
    /// Of a group.
    pub group: Option<GroupId>,
    /// For people.
    pub detail: String,
}

/// What was looked at so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckSummary {
    pub files: u64,
    pub versions: u64,
    /// Pieces of versions; one that several versions share counts for each.
    pub extents: u64,
    /// Bytes of all versions together.
    pub bytes: u64,
    /// Copies of extents that were asked for, and that are good.
    pub copies: u64,
    pub copies_good: u64,
    /// Bytes of those that were read from disks; 0 unless deep.
    pub bytes_read: u64,
    /// Looked wrong and was found to have changed meanwhile.
    pub looked_again: u64,
    pub findings: BTreeMap<Problem, u64>,
}

impl FsckSummary {
    /// Nothing is wrong that concerns data.
    pub fn is_clean(&self) -> bool {
        !self.findings.keys().any(|problem| problem.is_harmful())
    }
}

#[derive(Clone, Debug)]
pub enum FsckEvent {
    Finding(Finding),
    Progress(FsckSummary),
    /// The last one.
    Done(FsckSummary),
}

/// A comparison under way; dropping it ends it.
pub struct Fsck {
    events: mpsc::Receiver<Result<FsckEvent, Error>>,
    _task: AbortOnDropHandle<()>,
}

impl Fsck {
    /// `None` after [`FsckEvent::Done`] or an error.
    pub async fn next(&mut self) -> Option<Result<FsckEvent, Error>> {
        self.events.recv().await
    }
}

impl Client {
    /// Compares what the Directory says of a file, or of everything below a directory, with what servers have.
    ///
    /// Fails where the Directory cannot be asked; a file server that cannot is a finding.
    pub fn fsck(&self, path: &Path, options: FsckOptions) -> Fsck {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (client, path) = (self.clone(), path.clone());
        let task = tokio::spawn(async move {
            let mut run = Run {
                client,
                options,
                events: sender.clone(),
                summary: FsckSummary::default(),
                unchecked: Unchecked::default(),
            };
            let last = run.all(&path).await.map(|()| FsckEvent::Done(run.summary));
            // Who has gone wants no end.
            let _unheard = sender.send(last).await;
        });
        Fsck { events, _task: AbortOnDropHandle::new(task) }
    }

    /// Has a file server fetch what it lacks or has damaged, from other members; in the order asked. True: it was fetched;
    /// false: it was whole already.
    pub async fn repair_blobs(
        &self,
        server: &ServerId,
        blobs: &[(GroupId, BlobId)],
    ) -> Result<Vec<Result<bool, Error>>, Error> {
        const BLOB_TIMEOUT: Duration = Duration::from_secs(120);
        let address = self.file_server_address(server)?;
        let mut file_server = FileServerClient::new(self.inner.channels.get(&address, Purpose::Control)?);
        let name = |(group, blob): &(GroupId, BlobId)| pb::BlobName { group: group.0, blob: blob.to_string() };
        let request = pb::RepairBlobsRequest { blobs: blobs.iter().map(name).collect() };
        let call = |request| async move { file_server.repair_blobs(request).await };
        let mut answers = super::call::attempt("repair", ASK_TIMEOUT, request, call).await?;
        let mut repaired = Vec::with_capacity(blobs.len());
        while repaired.len() < blobs.len() {
            let next = tokio::time::timeout(BLOB_TIMEOUT, answers.message()).await;
            let answer = next.map_err(|_| Error::silence(BLOB_TIMEOUT, "repair"))??;
            let answer = super::convert::required("answer", answer)?;
            repaired.push(match super::convert::required("result", answer.result)? {
                pb::repair_blobs_response::Result::Repaired(repaired) => Ok(repaired),
                pb::repair_blobs_response::Result::Error(error) => Err(error.into()),
            });
        }
        Ok(repaired)
    }

    /// Where this client reaches a file server; [`Reason::ServerNotFound`] if there is none of that name.
    pub(super) fn file_server_address(&self, server: &ServerId) -> Result<String, Error> {
        let map = self.cluster_map();
        let not_found = || crate::status::Failure::new(Reason::ServerNotFound, format!("no file server {server}"));
        Ok(self.address_of(map.servers.get(server).ok_or_else(not_found)?))
    }
}

struct Run {
    client: Client,
    options: FsckOptions,
    events: mpsc::Sender<Result<FsckEvent, Error>>,
    summary: FsckSummary,
    unchecked: Unchecked,
}

impl Run {
    async fn all(&mut self, path: &Path) -> Result<(), Error> {
        self.client.refresh_map().await?;
        let root = self.client.get(path, self.options.as_of).await?;
        if root.is_directory() {
            self.tree(path).await?;
        } else {
            let subjects = subjects_of_file(self.client.clone(), root, None, self.options).await?;
            self.summary.files += 1;
            self.check(subjects).await?;
        }
        for finding in std::mem::take(&mut self.unchecked).findings() {
            self.find(finding).await;
        }
        let map = self.client.refresh_map().await?;
        for finding in map.groups.values().filter_map(|group| under_replicated(&map, group)) {
            self.find(finding).await;
        }
        for finding in self.extra(&map).await? {
            self.find(finding).await;
        }
        Ok(())
    }

    async fn tree(&mut self, path: &Path) -> Result<(), Error> {
        let options = WalkOptions { extents: true, as_of: self.options.as_of };
        let (client, how) = (self.client.clone(), self.options);
        let files = client.walk(path, options).await?.try_filter(|listed| ready(listed.entry.is_file()));
        let subjects = files.map(move |listed: Result<Listed, Error>| {
            let client = client.clone();
            async move {
                let listed = listed?;
                subjects_of_file(client, listed.entry, Some(listed.extents), how).await
            }
        });
        let mut subjects = subjects.buffered(FILES_AT_ONCE).boxed();
        let (mut batch, mut extents) = (Vec::new(), 0);
        while let Some(file) = subjects.try_next().await? {
            self.summary.files += 1;
            for subject in file {
                extents += subject.located.extents.len();
                batch.push(subject);
            }
            if extents >= BATCH_EXTENTS || batch.len() >= BATCH_EXTENTS {
                self.check(std::mem::take(&mut batch)).await?;
                extents = 0;
            }
        }
        self.check(batch).await
    }

    /// One batch, and how far that is.
    async fn check(&mut self, batch: Vec<Subject>) -> Result<(), Error> {
        let checked = check::batch(&self.client, self.options, batch, &mut self.unchecked).await?;
        checked.count(&mut self.summary);
        for finding in checked.findings {
            self.find(finding).await;
        }
        self.tell(FsckEvent::Progress(self.summary.clone())).await;
        Ok(())
    }

    async fn find(&mut self, finding: Finding) {
        *self.summary.findings.entry(finding.problem).or_default() += 1;
        self.tell(FsckEvent::Finding(finding)).await;
    }

    async fn tell(&self, event: FsckEvent) {
        // Who has gone has dropped this task too.
        let _unheard = self.events.send(Ok(event)).await;
    }

    /// Servers that have blobs of groups that are not theirs.
    async fn extra(&self, map: &Arc<ClusterMap>) -> Result<Vec<Finding>, Error> {
        let mut strangers: Vec<(ServerId, String, GroupId)> = Vec::new();
        for server in map.servers.values().filter(|server| server.state != ServerState::Down) {
            let address = self.client.address_of(server);
            let others = map.groups.values().filter(|group| !group.is_member(&server.server));
            strangers.extend(others.map(|group| (server.server.clone(), address.clone(), group.group)));
        }
        let client = self.client.clone();
        let asked = stream::iter(strangers).map(move |(server, address, group): (ServerId, String, GroupId)| {
            let client = client.clone();
            async move { client.has_blobs_of(&address, group).await.unwrap_or(false).then_some((server, group)) }
        });
        let found: Vec<(ServerId, GroupId)> = asked.buffered(ASKED_AT_ONCE).filter_map(ready).boxed().collect().await;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        // One that was becoming a member is no stranger any more.
        let now = self.client.refresh_map().await?;
        let is_member =
            |server: &ServerId, group: &GroupId| now.groups.get(group).is_some_and(|it| it.is_member(server));
        let strangers = found.into_iter().filter(|(server, group)| !is_member(server, group));
        Ok(strangers.map(|(server, group)| extra(server, group)).collect())
    }
}

fn extra(server: ServerId, group: GroupId) -> Finding {
    let detail = format!("{server} has blobs of group {group}, which it is no member of: they are deleted by and by");
    Finding {
        problem: Problem::Extra,
        path: None,
        version: None,
        server: Some(server),
        blobs: Vec::new(),
        group: Some(group),
        detail,
    }
}

fn under_replicated(map: &ClusterMap, group: &Group) -> Option<Finding> {
    let is_live = |id: &&ServerId| map.servers.get(*id).is_some_and(|server| server.state != ServerState::Down);
    let live = group.in_sync.iter().filter(is_live).count();
    (live < group.place_count()).then(|| Finding {
        problem: Problem::UnderReplicated,
        path: None,
        version: None,
        server: None,
        blobs: Vec::new(),
        group: Some(group.group),
        detail: format!("{live} of {} members are live and in sync", group.place_count()),
    })
}

/// The versions of a file that are to be looked at.
async fn subjects_of_file(
    client: Client,
    entry: Entry,
    extents: Option<Vec<crate::types::Extent>>,
    options: FsckOptions,
) -> Result<Vec<Subject>, Error> {
    let newest = match extents {
        Some(extents) => Located { entry, extents, groups: Vec::new(), servers: Vec::new() },
        None => client.lookup_inode(entry.inode, Some(entry.version), options.as_of).await?,
    };
    let (inode, path, version) = (newest.entry.inode, newest.entry.path.clone(), newest.entry.version);
    let mut subjects = vec![Subject { located: newest }];
    if options.newest_only || options.as_of != AsOf::Now {
        return Ok(subjects);
    }
    let mut older = client.versions(&path);
    while let Some(info) = older.next().await {
        let info = match info {
            Ok(info) if info.version == version => continue,
            Ok(info) => info,
            // Deleted, moved or replaced since it was listed.
            Err(error) if is_gone(&error) => break,
            Err(error) => return Err(error),
        };
        match client.lookup_inode(inode, Some(info.version), AsOf::Now).await {
            Ok(located) => subjects.push(Subject { located }),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(subjects)
}

/// Whether the file or the version is not there any more.
fn is_gone(error: &Error) -> bool {
    matches!(
        error.reason(),
        Reason::EntryNotFound | Reason::VersionNotFound | Reason::IsADirectory | Reason::NotADirectory
    )
}

impl Client {
    /// Whether a server has any blob of a group.
    async fn has_blobs_of(&self, address: &str, group: GroupId) -> Result<bool, Error> {
        let mut server = FileServerClient::new(self.inner.channels.get(address, Purpose::Control)?);
        let request = pb::ListBlobsRequest { group: group.0, page_size: 1, sealed_only: true, ..Default::default() };
        let call = |request| async move { server.list_blobs(request).await };
        let page = super::call::attempt("list blobs", ASK_TIMEOUT, request, call).await?;
        Ok(!page.blobs.is_empty())
    }
}
