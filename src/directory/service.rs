//! The `Directory` service: parses a request, makes one call, answers.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Door, convert, lookups, mutations, tree, watch};
use crate::pb;

pub struct DirectoryService(pub Door);

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl pb::directory_server::Directory for DirectoryService {
    type StreamEntriesStream = Messages<pb::StreamEntriesResponse>;
    type WatchEntriesStream = Messages<pb::WatchEntriesResponse>;
    type WatchClusterMapStream = Messages<pb::WatchClusterMapResponse>;

    async fn get_entry(&self, request: Request<pb::GetEntryRequest>) -> Answer<pb::GetEntryResponse> {
        Ok(Response::new(lookups::get_entry(&*self.0.enter()?, request.get_ref()).await?))
    }

    async fn lookup_file(&self, request: Request<pb::LookupFileRequest>) -> Answer<pb::LookupFileResponse> {
        Ok(Response::new(lookups::lookup_file(&*self.0.enter()?, request.get_ref()).await?))
    }

    async fn list_entries(&self, request: Request<pb::ListEntriesRequest>) -> Answer<pb::ListEntriesResponse> {
        Ok(Response::new(lookups::list_entries(&*self.0.enter()?, request.get_ref()).await?))
    }

    async fn stream_entries(&self, request: Request<pb::StreamEntriesRequest>) -> Answer<Self::StreamEntriesStream> {
        Ok(Response::new(tree::stream(&self.0.enter()?, request.get_ref())?))
    }

    async fn list_versions(&self, request: Request<pb::ListVersionsRequest>) -> Answer<pb::ListVersionsResponse> {
        Ok(Response::new(lookups::list_versions(&*self.0.enter()?, request.get_ref()).await?))
    }

    async fn create_directory(
        &self,
        request: Request<pb::CreateDirectoryRequest>,
    ) -> Answer<pb::CreateDirectoryResponse> {
        let (header, entry) =
            mutations::entry(&*self.0.enter()?, convert::create_directory(request.get_ref())?).await?;
        Ok(Response::new(pb::CreateDirectoryResponse { header, entry }))
    }

    async fn update_entry(&self, request: Request<pb::UpdateEntryRequest>) -> Answer<pb::UpdateEntryResponse> {
        let (header, entry) = mutations::entry(&*self.0.enter()?, convert::update_entry(request.get_ref())?).await?;
        Ok(Response::new(pb::UpdateEntryResponse { header, entry }))
    }

    async fn move_entry(&self, request: Request<pb::MoveEntryRequest>) -> Answer<pb::MoveEntryResponse> {
        let (header, entry) = mutations::entry(&*self.0.enter()?, convert::move_entry(request.get_ref())?).await?;
        Ok(Response::new(pb::MoveEntryResponse { header, entry }))
    }

    async fn copy_entry(&self, request: Request<pb::CopyEntryRequest>) -> Answer<pb::CopyEntryResponse> {
        let (header, entry) = mutations::entry(&*self.0.enter()?, convert::copy_entry(request.get_ref())?).await?;
        Ok(Response::new(pb::CopyEntryResponse { header, entry }))
    }

    async fn delete_entry(&self, request: Request<pb::DeleteEntryRequest>) -> Answer<pb::DeleteEntryResponse> {
        let (header, deleted_count) =
            mutations::deleted(&*self.0.enter()?, convert::delete_entry(request.get_ref())?).await?;
        Ok(Response::new(pb::DeleteEntryResponse { header, deleted_count }))
    }

    async fn restore_version(&self, request: Request<pb::RestoreVersionRequest>) -> Answer<pb::RestoreVersionResponse> {
        let (header, entry) = mutations::entry(&*self.0.enter()?, convert::restore_version(request.get_ref())?).await?;
        Ok(Response::new(pb::RestoreVersionResponse { header, entry }))
    }

    async fn watch_entries(&self, request: Request<pb::WatchEntriesRequest>) -> Answer<Self::WatchEntriesStream> {
        Ok(Response::new(watch::entries(&self.0.enter()?, request.get_ref())?))
    }

    async fn get_cluster_map(&self, _: Request<pb::GetClusterMapRequest>) -> Answer<pb::GetClusterMapResponse> {
        let directory = self.0.enter()?;
        let cluster_map = Some((&directory.cluster_map()).into());
        Ok(Response::new(pb::GetClusterMapResponse { header: directory.header_now(), cluster_map }))
    }

    async fn watch_cluster_map(&self, _: Request<pb::WatchClusterMapRequest>) -> Answer<Self::WatchClusterMapStream> {
        Ok(Response::new(watch::cluster_map(&self.0.enter()?)?))
    }

    async fn commit_writes(&self, request: Request<pb::CommitWritesRequest>) -> Answer<pb::CommitWritesResponse> {
        let commands = convert::commit_writes(request.get_ref())?;
        Ok(Response::new(mutations::commit_writes(&*self.0.enter()?, commands).await?))
    }

    async fn merge_extents(&self, request: Request<pb::MergeExtentsRequest>) -> Answer<pb::MergeExtentsResponse> {
        let header = mutations::done(&*self.0.enter()?, convert::merge_extents(request.get_ref())?).await?;
        Ok(Response::new(pb::MergeExtentsResponse { header }))
    }

    async fn settle_blobs(&self, request: Request<pb::SettleBlobsRequest>) -> Answer<pb::SettleBlobsResponse> {
        let (directory, request) = (self.0.enter()?, request.get_ref());
        let staged = convert::settle_blobs(request)?;
        Ok(Response::new(match request.keep_unknown {
            true => lookups::fates(&directory, staged.into_iter().map(|(blob, _)| blob).collect()).await?,
            false => mutations::settle_blobs(&directory, staged).await?,
        }))
    }

    async fn raise_fence(&self, request: Request<pb::RaiseFenceRequest>) -> Answer<pb::RaiseFenceResponse> {
        let header = mutations::done(&*self.0.enter()?, convert::raise_fence(request.get_ref())?).await?;
        Ok(Response::new(pb::RaiseFenceResponse { header }))
    }
}
