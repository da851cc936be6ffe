//! The namespace: what is there, was there, and the changes to it that move no data.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{
    Client, Entry, Error, Listed, Located, VersionInfo,
    call::directory_client,
    convert::{self, required},
};
use crate::{
    convert::as_of_to_pb,
    pb::{self, lookup_file_request::File},
    types::{AsOf, Inode, Path, Precondition, Timestamp, Version, WriteId},
};

/// Entries asked for at once: the most that the Directory gives.
const PAGE_SIZE: u32 = 1000;
/// Longest silence of a stream under way.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a walk tells of each entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalkOptions {
    /// Tell where each file's bytes are, so that it can be read without a look-up.
    pub extents: bool,
    pub as_of: AsOf,
}

/// How a directory is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateDirectory {
    /// Make missing parents too, and be content if the directory exists.
    pub parents: bool,
    /// Permission bits; `None`: 0755.
    pub mode: Option<u32>,
}

/// New attributes of an entry; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub mode: Option<u32>,
    pub owner: Option<String>,
    pub owning_group: Option<String>,
    pub modify_time: Option<Timestamp>,
    /// All of them: those not named are removed.
    pub extended_attributes: Option<BTreeMap<String, Bytes>>,
}

/// How an entry is moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Move {
    /// A file may replace a file; needs `to`.
    pub replace: bool,
    /// What must hold for the source.
    pub from: Precondition,
    /// What must hold for the target.
    pub to: Precondition,
}

/// How a file is copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copy {
    /// `None`: the newest.
    pub version: Option<Version>,
    /// The copy may become a new version of an existing file; needs `to`.
    pub replace: bool,
    /// What must hold for the target.
    pub to: Precondition,
}

/// How an entry is deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delete {
    /// A directory goes with all below it.
    pub force: bool,
    pub precondition: Precondition,
}

/// A precondition that asks for nothing is not sent.
fn sent(precondition: Precondition) -> Option<pb::Precondition> {
    (!precondition.is_none()).then(|| precondition.into())
}

impl Client {
    /// One entry, now or at an earlier moment.
    pub async fn get(&self, path: &Path, as_of: AsOf) -> Result<Entry, Error> {
        let request = pb::GetEntryRequest { path: path.to_string(), as_of: as_of_to_pb(as_of) };
        let call = |channel, request| async move { directory_client(channel).get_entry(request).await };
        let answer = self.directory("get the entry", request, call).await?;
        convert::entry(required("entry", answer.entry)?)
    }

    /// One version of a file and where its bytes are. `None`: the newest, or what was the newest then.
    pub async fn lookup(&self, path: &Path, version: Option<Version>, as_of: AsOf) -> Result<Located, Error> {
        self.lookup_file(File::Path(path.to_string()), version, as_of).await
    }

    /// As [`Client::lookup`], of a file that may have been renamed.
    pub async fn lookup_inode(&self, inode: Inode, version: Option<Version>, as_of: AsOf) -> Result<Located, Error> {
        self.lookup_file(File::Inode(inode.0), version, as_of).await
    }

    async fn lookup_file(&self, file: File, version: Option<Version>, as_of: AsOf) -> Result<Located, Error> {
        let version = version.unwrap_or_default().0;
        let request = pb::LookupFileRequest { file: Some(file), version, as_of: as_of_to_pb(as_of) };
        let call = |channel, request| async move { directory_client(channel).lookup_file(request).await };
        convert::located(self.directory("look the file up", request, call).await?)
    }

    /// The entries of one directory in the order of their names, a page at a time underneath.
    pub fn list(&self, path: &Path, as_of: AsOf) -> BoxStream<'static, Result<Entry, Error>> {
        let client = self.clone();
        let first = pb::ListEntriesRequest {
            path: path.to_string(),
            page_size: PAGE_SIZE,
            page_token: String::new(),
            as_of: as_of_to_pb(as_of),
        };
        let pages = stream::try_unfold(Some(first), move |next| {
            let client = client.clone();
            async move {
                let Some(mut request) = next else { return Ok::<_, Error>(None) };
                let call = |channel, request| async move { directory_client(channel).list_entries(request).await };
                let answer = client.directory("list the directory", request.clone(), call).await?;
                request.page_token = answer.next_page_token;
                let more = (!request.page_token.is_empty()).then_some(request);
                Ok(Some((stream::iter(answer.entries.into_iter().map(convert::entry)), more)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// All that is below a path, depth first in the order of the names, in bounded memory.
    pub async fn walk(
        &self,
        path: &Path,
        options: WalkOptions,
    ) -> Result<BoxStream<'static, Result<Listed, Error>>, Error> {
        let request = pb::StreamEntriesRequest {
            path: path.to_string(),
            recursive: true,
            with_extents: options.extents,
            as_of: as_of_to_pb(options.as_of),
        };
        let call = |channel, request| async move { directory_client(channel).stream_entries(request).await };
        let entries = self.directory("walk the tree", request, call).await?;
        let messages = stream::try_unfold(entries, |mut entries| async move {
            let next = tokio::time::timeout(STREAM_SILENCE_MAX, entries.message());
            match next.await.map_err(|_| Error::silence(STREAM_SILENCE_MAX, "walk the tree"))?? {
                Some(message) => Ok(Some((stream::iter(message.entries.into_iter().map(convert::listed)), entries))),
                None => Ok::<_, Error>(None),
            }
        });
        Ok(messages.try_flatten().boxed())
    }

    pub async fn create_directory(&self, path: &Path, options: CreateDirectory) -> Result<Entry, Error> {
        let request = pb::CreateDirectoryRequest {
            write_id: WriteId::random().to_string(),
            path: path.to_string(),
            parents: options.parents,
            mode: options.mode.unwrap_or_default(),
        };
        let call = |channel, request| async move { directory_client(channel).create_directory(request).await };
        let answer = self.directory("create the directory", request, call).await?;
        convert::entry(required("entry", answer.entry)?)
    }

    /// Changes attributes; makes no version.
    pub async fn update(&self, path: &Path, update: Update) -> Result<Entry, Error> {
        let mut paths = Vec::new();
        let mut named = |given: bool, name: &str| {
            if given {
                paths.push(name.to_owned());
            }
        };
        named(update.mode.is_some(), "mode");
        named(update.owner.is_some(), "owner");
        named(update.owning_group.is_some(), "owning_group");
        named(update.modify_time.is_some(), "modify_time");
        named(update.extended_attributes.is_some(), "extended_attributes");
        let entry = pb::Entry {
            path: path.to_string(),
            mode: update.mode.unwrap_or_default(),
            owner: update.owner.unwrap_or_default(),
            owning_group: update.owning_group.unwrap_or_default(),
            modify_time: update.modify_time.map(Into::into),
            extended_attributes: update.extended_attributes.unwrap_or_default().into_iter().collect(),
            ..pb::Entry::default()
        };
        let request = pb::UpdateEntryRequest {
            write_id: WriteId::random().to_string(),
            entry: Some(entry),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let call = |channel, request| async move { directory_client(channel).update_entry(request).await };
        let answer = self.directory("update the entry", request, call).await?;
        convert::entry(required("entry", answer.entry)?)
    }

    /// Moves a file or a directory, at once and whole.
    pub async fn move_entry(&self, from: &Path, to: &Path, options: Move) -> Result<Entry, Error> {
        let request = pb::MoveEntryRequest {
            write_id: WriteId::random().to_string(),
            from_path: from.to_string(),
            to_path: to.to_string(),
            replace: options.replace,
            from_precondition: sent(options.from),
            to_precondition: sent(options.to),
        };
        let call = |channel, request| async move { directory_client(channel).move_entry(request).await };
        let answer = self.directory("move the entry", request, call).await?;
        convert::entry(required("entry", answer.entry)?)
    }

    /// Copies a file without moving its data.
    pub async fn copy(&self, from: &Path, to: &Path, options: Copy) -> Result<Entry, Error> {
        let request = pb::CopyEntryRequest {
            write_id: WriteId::random().to_string(),
            from_path: from.to_string(),
            to_path: to.to_string(),
            from_version: options.version.unwrap_or_default().0,
            replace: options.replace,
            to_precondition: sent(options.to),
        };
        let call = |channel, request| async move { directory_client(channel).copy_entry(request).await };
        let answer = self.directory("copy the file", request, call).await?;
        convert::entry(required("entry", answer.entry)?)
    }

    /// Answers how many entries went. They can be read as of an earlier moment while their versions are retained.
    pub async fn delete(&self, path: &Path, options: Delete) -> Result<u64, Error> {
        let request = pb::DeleteEntryRequest {
            write_id: WriteId::random().to_string(),
            path: path.to_string(),
            force: options.force,
            precondition: sent(options.precondition),
        };
        let call = |channel, request| async move { directory_client(channel).delete_entry(request).await };
        Ok(self.directory("delete the entry", request, call).await?.deleted_count)
    }

    /// The retained versions of a file, the newest first.
    pub fn versions(&self, path: &Path) -> BoxStream<'static, Result<VersionInfo, Error>> {
        let client = self.clone();
        let first = pb::ListVersionsRequest { path: path.to_string(), page_size: PAGE_SIZE, page_token: String::new() };
        let pages = stream::try_unfold(Some(first), move |next| {
            let client = client.clone();
            async move {
                let Some(mut request) = next else { return Ok::<_, Error>(None) };
                let call = |channel, request| async move { directory_client(channel).list_versions(request).await };
                let answer = client.directory("list the versions", request.clone(), call).await?;
                request.page_token = answer.next_page_token;
                let more = (!request.page_token.is_empty()).then_some(request);
                Ok(Some((stream::iter(answer.versions.into_iter().map(convert::version_info)), more)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// Makes the content of a retained version the newest version, without moving data.
    ///
    /// Overwrites, so it needs a fencing token or `if_version`; else [`super::Reason::LockRequired`].
    pub async fn restore(&self, path: &Path, version: Version, precondition: Precondition) -> Result<Entry, Error> {
        let request = pb::RestoreVersionRequest {
            write_id: WriteId::random().to_string(),
            path: path.to_string(),
            version: version.0,
            precondition: sent(precondition),
        };
        let call = |channel, request| async move { directory_client(channel).restore_version(request).await };
        let answer = self.directory("restore the version", request, call).await?;
        convert::entry(required("entry", answer.entry)?)
    }
}
