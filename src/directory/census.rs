//! What a view says of the cluster: groups, servers, what each server is to delete, and how much there is of everything.

use redb::ReadableTable;
use uuid::Uuid;

use crate::{
    cluster::Group,
    types::{BlobId, FencingToken, GroupId, Inode, ServerId},
};

use super::{
    command::ServerKind,
    error::StorageError,
    fence,
    model::{Counts, ServerRecord},
    records::server_kind_out,
    tables::{self, read_stored, totals_in},
    view::View,
};

impl View {
    pub fn group(&self, group: GroupId) -> Result<Option<Group>, StorageError> {
        read_stored(&self.transaction, &tables::GROUPS)?.get(group.0)
    }

    /// All groups, by number; none until enough file servers have registered.
    pub fn groups(&self) -> Result<Vec<Group>, StorageError> {
        let rows = read_stored(&self.transaction, &tables::GROUPS)?;
        let groups = rows.table.iter()?.map(|row| {
            let (key, bytes) = row?;
            rows.decode(key.value(), bytes.value())
        });
        groups.collect()
    }

    pub fn server(&self, kind: ServerKind, server: &ServerId) -> Result<Option<ServerRecord>, StorageError> {
        read_stored(&self.transaction, &tables::SERVERS)?.get((server_kind_out(kind), server.as_str()))
    }

    /// All servers that ever registered, by kind and id.
    pub fn servers(&self) -> Result<Vec<ServerRecord>, StorageError> {
        let rows = read_stored(&self.transaction, &tables::SERVERS)?;
        let servers = rows.table.iter()?.map(|row| {
            let (key, bytes) = row?;
            rows.decode(key.value(), bytes.value())
        });
        servers.collect()
    }

    /// The newest fencing token that was seen for any path; 0 if none was.
    pub fn newest_token(&self) -> Result<FencingToken, StorageError> {
        let fences = self.transaction.open_table(tables::FENCES)?;
        Ok(FencingToken(fence::newest(&self.state, &fences)?))
    }

    /// At most `limit` blobs that the server is to delete and has not said to have deleted.
    pub fn blobs_to_delete(&self, server: &ServerId, limit: usize) -> Result<Vec<BlobId>, StorageError> {
        let table = self.transaction.open_table(tables::DELETIONS)?;
        let blobs = table.range((server.as_str(), 0)..=(server.as_str(), u128::MAX))?.take(limit).map(|row| {
            let (key, _) = row?;
            Ok(BlobId(Uuid::from_u128(key.value().1)))
        });
        blobs.collect()
    }

    pub fn counts(&self) -> Result<Counts, StorageError> {
        let table = self.transaction.open_table(tables::TOTALS)?;
        let totals = table.get(Inode::ROOT.0)?.map(|row| totals_in(row.value())).unwrap_or_default();
        Ok(Counts {
            files: totals.files,
            directories: totals.directories,
            blobs: self.state.blob_count,
            garbage_blobs: self.state.garbage_blob_count,
        })
    }
}
