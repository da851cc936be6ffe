//! Looks at the namespace: one entry, one file's extents, a page of a directory, a file's versions.

use std::collections::BTreeSet;

use super::{
    Directory,
    convert::optional_version,
    error::Error,
    model::{Entry, LookedUp},
    view::{FileRef, View},
};
use crate::{
    convert::{as_of, path},
    pb,
    status::Failure,
    types::{AsOf, BlobId, Extent, GroupId, Inode, Path, SEGMENT_LENGTH_MAX, ServerId, Version},
};

/// Entries or versions of one page.
const PAGE_SIZE_MAX: u32 = 1000;
/// A page ends early when it has grown to as much: with the last step, a message stays below the 4 MiB that clients accept.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Entries read at a time: with the largest extended attributes they are 2 MiB.
const STEP_ENTRIES: usize = 32;
/// What an entry takes beside its path and its extended attributes.
const ENTRY_BYTES: usize = 128;

pub async fn get_entry(directory: &Directory, request: &pb::GetEntryRequest) -> Result<pb::GetEntryResponse, Failure> {
    let (path, as_of) = (path("path", &request.path)?, as_of("as_of", request.as_of.as_ref())?);
    let (revision, entry) =
        directory.reader.read(move |view| Ok((view.revision(), view.get_entry(&path, as_of)?))).await?;
    Ok(pb::GetEntryResponse { header: directory.header(revision), entry: Some(entry.into()) })
}

pub async fn lookup_file(
    directory: &Directory,
    request: &pb::LookupFileRequest,
) -> Result<pb::LookupFileResponse, Failure> {
    let file = match &request.file {
        Some(pb::lookup_file_request::File::Path(text)) => FileRef::Path(path("path", text)?),
        Some(pb::lookup_file_request::File::Inode(inode)) => FileRef::Inode(Inode(*inode)),
        None => return Err(Failure::bad_argument("file", "neither a path nor an inode is named")),
    };
    let (version, as_of) = (optional_version(request.version), as_of("as_of", request.as_of.as_ref())?);
    let look = directory.reader.read(move |view| Ok((view.revision(), view.lookup_file(&file, version, as_of)?)));
    let (revision, LookedUp { entry, extents }) = look.await?;
    let (groups, servers) = holders(directory, &extents);
    Ok(pb::LookupFileResponse {
        header: directory.header(revision),
        entry: Some(entry.into()),
        extents: extents.iter().map(Into::into).collect(),
        groups,
        servers,
    })
}

/// The groups that the extents name, and their members.
fn holders(directory: &Directory, extents: &[Extent]) -> (Vec<pb::Group>, Vec<pb::Server>) {
    let map = directory.maps.borrow().clone();
    let groups: BTreeSet<GroupId> = extents.iter().map(|extent| extent.group).collect();
    let groups: Vec<_> = groups.iter().filter_map(|group| map.groups.get(group)).collect();
    let servers: BTreeSet<&ServerId> = groups.iter().flat_map(|group| &group.members).collect();
    let servers = servers.into_iter().filter_map(|server| map.servers.get(server)).map(Into::into);
    (groups.into_iter().map(Into::into).collect(), servers.collect())
}

/// What is known of staged blobs; nothing is abandoned.
pub async fn fates(directory: &Directory, blobs: Vec<BlobId>) -> Result<pb::SettleBlobsResponse, Failure> {
    let look = directory.reader.read(move |view| {
        let fates = blobs.into_iter().map(|blob| Ok((blob, view.fate_of(blob)?)));
        Ok((view.revision(), fates.collect::<Result<Vec<_>, Error>>()?))
    });
    let (revision, fates) = look.await?;
    let fates =
        fates.into_iter().map(|(blob, fate)| pb::BlobFate { blob: blob.to_string(), fate: fate.map(Into::into) });
    Ok(pb::SettleBlobsResponse { header: directory.header(revision), fates: fates.collect() })
}

/// 0 is the most.
fn page_size(field: &str, size: u32) -> Result<usize, Failure> {
    match size {
        0 => Ok(PAGE_SIZE_MAX as usize),
        1..=PAGE_SIZE_MAX => Ok(size as usize),
        _ => Err(Failure::bad_argument(field, format_args!("a page has at most {PAGE_SIZE_MAX}"))),
    }
}

/// The token is the last name of the page before.
fn after_name(token: &str) -> Result<Option<String>, Failure> {
    match token {
        "" => Ok(None),
        name if name.len() <= SEGMENT_LENGTH_MAX && !name.contains(['/', '\0']) => Ok(Some(name.to_owned())),
        _ => Err(Failure::bad_argument("page_token", "is not a token that a page ended with")),
    }
}

pub async fn list_entries(
    directory: &Directory,
    request: &pb::ListEntriesRequest,
) -> Result<pb::ListEntriesResponse, Failure> {
    let (path, as_of) = (path("path", &request.path)?, as_of("as_of", request.as_of.as_ref())?);
    let (limit, after) = (page_size("page_size", request.page_size)?, after_name(&request.page_token)?);
    let read = directory.reader.read(move |view| {
        let (entries, more) = read_page(view, &path, as_of, after, limit)?;
        Ok((view.revision(), entries, more))
    });
    let (revision, entries, more) = read.await?;
    let last = entries.last().filter(|_| more).and_then(|entry| entry.path.name().map(str::to_owned));
    Ok(pb::ListEntriesResponse {
        header: directory.header(revision),
        entries: entries.into_iter().map(Into::into).collect(),
        next_page_token: last.unwrap_or_default(),
    })
}

/// As many entries as were asked for and fit one message, and whether there are more. Read in small steps: a directory
/// whose entries are all large costs no more memory than another.
fn read_page(
    view: &View,
    path: &Path,
    as_of: AsOf,
    mut after: Option<String>,
    limit: usize,
) -> Result<(Vec<Entry>, bool), Error> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    loop {
        let step = STEP_ENTRIES.min(limit - entries.len());
        let page = view.list(path, as_of, after.as_deref(), step)?;
        after = page.items.last().and_then(|entry| entry.path.name().map(str::to_owned));
        bytes += page.items.iter().map(weight).sum::<usize>();
        entries.extend(page.items);
        if !page.more || entries.len() >= limit || bytes >= PAGE_BYTES_MAX {
            return Ok((entries, page.more));
        }
    }
}

/// About how many bytes an entry takes in a message.
fn weight(entry: &Entry) -> usize {
    let attributes = entry.attributes.extended.iter().map(|(name, value)| name.len() + value.len());
    ENTRY_BYTES + entry.path.as_str().len() + attributes.sum::<usize>()
}

pub async fn list_versions(
    directory: &Directory,
    request: &pb::ListVersionsRequest,
) -> Result<pb::ListVersionsResponse, Failure> {
    let path = path("path", &request.path)?;
    let limit = page_size("page_size", request.page_size)?;
    // The token is the last version of the page before.
    let before = match request.page_token.as_str() {
        "" => None,
        token => Some(Version(token.parse().map_err(|error| Failure::bad_argument("page_token", error))?)),
    };
    let (revision, page) =
        directory.reader.read(move |view| Ok((view.revision(), view.versions(&path, before, limit)?))).await?;
    let last = page.items.last().filter(|_| page.more);
    Ok(pb::ListVersionsResponse {
        header: directory.header(revision),
        next_page_token: last.map(|version| version.version.to_string()).unwrap_or_default(),
        versions: page.items.into_iter().map(Into::into).collect(),
    })
}
