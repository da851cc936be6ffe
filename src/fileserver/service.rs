//! The handlers of `dfs.v1.FileServer`: parse, one call, answer.

use std::sync::{Arc, atomic::Ordering};

use tonic::{Request, Response, Status, Streaming};

use super::{
    error::Error,
    leave, losses,
    node::Node,
    read,
    replication::{join, receiver},
    scrub,
    write::stream,
};
use crate::{
    convert,
    pb::{self, file_server_server::FileServer},
    status::Failure,
    types::GroupId,
};

const PAGE_DEFAULT: usize = 1000;
const PAGE_MAX: usize = 10_000;

pub struct Service {
    pub node: Arc<Node>,
}

impl Service {
    fn check_running(&self) -> Result<(), Failure> {
        if self.node.shutdown.is_cancelled() { Err(Error::Stopping.into()) } else { Ok(()) }
    }
}

fn check_count(field: &str, count: usize) -> Result<(), Failure> {
    let limit = read::RANGES_MAX;
    if count <= limit { Ok(()) } else { Err(Failure::bad_argument(field, format_args!("more than {limit}"))) }
}

#[tonic::async_trait]
impl FileServer for Service {
    type WriteStream = stream::AnswerStream;
    type ReadStream = read::Answers<pb::ReadResponse>;
    type VerifyBlobsStream = read::Answers<pb::VerifyBlobsResponse>;
    type ScrubStoreStream = read::Answers<pb::ScrubStoreResponse>;
    type RepairBlobsStream = read::Answers<pb::RepairBlobsResponse>;
    type ReplicateStream = receiver::AnswerStream;
    type FetchBlobsStream = read::Answers<pb::FetchBlobsResponse>;
    type JoinGroupStream = join::AnswerStream;

    async fn write(
        &self,
        request: Request<Streaming<pb::WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        self.check_running()?;
        Ok(Response::new(stream::serve(&self.node, request.into_inner())))
    }

    async fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let ranges = request.into_inner().ranges;
        check_count("ranges", ranges.len())?;
        Ok(Response::new(read::read(&self.node, ranges)))
    }

    async fn list_blobs(
        &self,
        request: Request<pb::ListBlobsRequest>,
    ) -> Result<Response<pb::ListBlobsResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.page_size as usize {
            0 => PAGE_DEFAULT,
            size if size <= PAGE_MAX => size,
            _ => return Err(Failure::bad_argument("page_size", format_args!("more than {PAGE_MAX}")).into()),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(convert::blob_id("page_token", token)?),
        };
        let records = self.node.store.blobs(GroupId(request.group), after, limit, request.sealed_only);
        let next_page_token = match records.last() {
            Some(last) if records.len() == limit => last.blob.to_string(),
            _ => String::new(),
        };
        let blobs = records.iter().map(read::info).collect();
        let group = GroupId(request.group);
        // One that has left the group deletes what it has of it.
        let incomplete = self.node.doubt.concerns(group) || !leave::is_member(&self.node, group);
        Ok(Response::new(pb::ListBlobsResponse { blobs, next_page_token, incomplete }))
    }

    async fn verify_blobs(
        &self,
        request: Request<pb::VerifyBlobsRequest>,
    ) -> Result<Response<Self::VerifyBlobsStream>, Status> {
        let pb::VerifyBlobsRequest { ranges, presence_only } = request.into_inner();
        check_count("ranges", ranges.len())?;
        Ok(Response::new(read::verify(&self.node, ranges, presence_only)))
    }

    async fn scrub_store(
        &self,
        request: Request<pb::ScrubStoreRequest>,
    ) -> Result<Response<Self::ScrubStoreStream>, Status> {
        self.check_running()?;
        Ok(Response::new(scrub::scrub(&self.node, request.get_ref())))
    }

    async fn repair_blobs(
        &self,
        request: Request<pb::RepairBlobsRequest>,
    ) -> Result<Response<Self::RepairBlobsStream>, Status> {
        self.check_running()?;
        let blobs = request.into_inner().blobs;
        check_count("blobs", blobs.len())?;
        Ok(Response::new(scrub::repair(&self.node, blobs)))
    }

    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let (status, view) = (self.node.store.status(), self.node.map.now());
        Ok(Response::new(pb::GetStatusResponse {
            server_id: self.node.me.to_string(),
            store_id: self.node.store_id.to_string(),
            cluster_id: view.cluster_id(),
            blob_count: status.blob_count,
            staged_count: status.staged_count,
            segment_count: status.segment_count,
            disk_used_bytes: status.disk_used_bytes,
            disk_total_bytes: status.disk_total_bytes,
            garbage_bytes: status.garbage_bytes,
            read_only_reason: status.read_only.unwrap_or_default(),
            torn_bytes_cut: status.torn_bytes_cut,
            damaged_chunk_count: status.damaged_chunk_count,
            groups: view.groups_of(&self.node.me).map(pb::Group::from).collect(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            store_report: Some(losses::report(&self.node)),
            scrub_read_bytes: status.scrub_read_bytes,
            scrub_total_bytes: status.log_bytes,
            settle_round_count: self.node.settle_rounds.load(Ordering::Relaxed),
        }))
    }

    async fn replicate(
        &self,
        request: Request<Streaming<pb::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        self.check_running()?;
        Ok(Response::new(receiver::serve(&self.node, request.into_inner())))
    }

    async fn fetch_blobs(
        &self,
        request: Request<pb::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let blobs = request.into_inner().blobs;
        check_count("blobs", blobs.len())?;
        Ok(Response::new(read::fetch(&self.node, blobs)))
    }

    async fn join_group(
        &self,
        request: Request<Streaming<pb::JoinGroupRequest>>,
    ) -> Result<Response<Self::JoinGroupStream>, Status> {
        self.check_running()?;
        Ok(Response::new(join::serve(&self.node, request.into_inner())))
    }
}
