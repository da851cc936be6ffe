//! The `Cluster` service: who belongs to the cluster, and how it is.

use std::{collections::BTreeSet, time::Instant};

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Directory, Door, clock,
    command::{Command, Registration, ServerKind},
    convert,
    error::Rejected,
    health::{self, Health},
    heartbeat,
    lease::{HEARTBEAT_INTERVAL, LEASE, Process, Stats},
    mover, mutations,
    probe::Verdict,
    report,
    view::View,
};
use crate::{
    cluster::{Group, Server, ServerState},
    convert::{cluster_id, server_id},
    pb,
    status::Failure,
    types::{FencingToken, ServerId},
};

pub struct ClusterService(pub Door);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::cluster_server::Cluster for ClusterService {
    type HeartbeatStream = ReceiverStream<Result<pb::HeartbeatResponse, Status>>;

    async fn register_server(&self, request: Request<pb::RegisterServerRequest>) -> Answer<pb::RegisterServerResponse> {
        Ok(Response::new(register(&*self.0.enter()?, request.get_ref()).await?))
    }

    async fn heartbeat(&self, request: Request<Streaming<pb::HeartbeatRequest>>) -> Answer<Self::HeartbeatStream> {
        let directory = self.0.enter()?;
        let beats = request.into_inner();
        let streams = directory.streams.clone();
        Ok(Response::new(streams.start(|sink| heartbeat::serve(directory, beats, sink))?))
    }

    async fn get_cluster_status(
        &self,
        _: Request<pb::GetClusterStatusRequest>,
    ) -> Answer<pb::GetClusterStatusResponse> {
        Ok(Response::new(status(&*self.0.enter()?).await?))
    }

    async fn list_servers(&self, _: Request<pb::ListServersRequest>) -> Answer<pb::ListServersResponse> {
        let directory = self.0.enter()?;
        let map = directory.cluster_map();
        let list = |servers: &[Server]| servers.iter().map(Into::into).collect();
        Ok(Response::new(pb::ListServersResponse {
            header: directory.header_now(),
            servers: map.servers.values().map(Into::into).collect(),
            lock_servers: list(&map.lock_servers),
            directory_servers: list(&map.directory_servers),
        }))
    }

    async fn list_groups(&self, _: Request<pb::ListGroupsRequest>) -> Answer<pb::ListGroupsResponse> {
        let directory = self.0.enter()?;
        let groups = directory.cluster_map().groups.values().map(Into::into).collect();
        Ok(Response::new(pb::ListGroupsResponse { header: directory.header_now(), groups }))
    }

    async fn report_suspect(&self, request: Request<pb::ReportSuspectRequest>) -> Answer<pb::ReportSuspectResponse> {
        let directory = self.0.enter()?;
        report::decide(&directory, report::Report::try_from(request.get_ref())?).await?;
        let cluster_map = Some((&directory.cluster_map()).into());
        Ok(Response::new(pb::ReportSuspectResponse { header: directory.header_now(), cluster_map }))
    }

    async fn add_in_sync(&self, request: Request<pb::AddInSyncRequest>) -> Answer<pb::AddInSyncResponse> {
        let directory = self.0.enter()?;
        let group = crate::types::GroupId(request.get_ref().group);
        let header = mutations::done(&directory, convert::add_in_sync(request.get_ref())?).await?;
        let group = directory.cluster_map().groups.get(&group).map(Into::into);
        Ok(Response::new(pb::AddInSyncResponse { header, group }))
    }

    async fn drain_server(&self, request: Request<pb::DrainServerRequest>) -> Answer<pb::DrainServerResponse> {
        let directory = self.0.enter()?;
        let request = request.get_ref();
        let server = server_id("server_id", &request.server_id)?;
        let moves = mover::drain(&directory, server, request.validate_only).await?;
        Ok(Response::new(pb::DrainServerResponse { header: directory.header_now(), moves }))
    }

    async fn resume_server(&self, request: Request<pb::ResumeServerRequest>) -> Answer<pb::ResumeServerResponse> {
        let directory = self.0.enter()?;
        mover::resume(&directory, server_id("server_id", &request.get_ref().server_id)?).await?;
        Ok(Response::new(pb::ResumeServerResponse { header: directory.header_now() }))
    }

    async fn remove_server(&self, request: Request<pb::RemoveServerRequest>) -> Answer<pb::RemoveServerResponse> {
        let directory = self.0.enter()?;
        let request = request.get_ref();
        let server = server_id("server_id", &request.server_id)?;
        let remaining_group_count = mover::remove(&directory, server, request.lost).await?;
        Ok(Response::new(pb::RemoveServerResponse { header: directory.header_now(), remaining_group_count }))
    }

    async fn rebalance_servers(
        &self,
        request: Request<pb::RebalanceServersRequest>,
    ) -> Answer<pb::RebalanceServersResponse> {
        let directory = self.0.enter()?;
        let moves = mover::rebalance(&directory, request.get_ref().validate_only).await?;
        Ok(Response::new(pb::RebalanceServersResponse { header: directory.header_now(), moves }))
    }
}

async fn register(
    directory: &Directory,
    request: &pb::RegisterServerRequest,
) -> Result<pb::RegisterServerResponse, Failure> {
    let registration = convert::registration(request)?;
    if !request.cluster_id.is_empty() && cluster_id("cluster_id", &request.cluster_id)? != directory.cluster {
        return Err(Rejected::OtherCluster.into());
    }
    let (kind, server, store) = (registration.kind, registration.server.clone(), registration.store);
    if kind == ServerKind::Directory {
        return Err(Failure::bad_argument("kind", "a Directory does not register with another"));
    }
    if directory.is_of_other_kind(&server, kind) {
        return Err(Rejected::ServerIdTaken { server }.into());
    }
    check_no_rival(directory, &registration).await?;
    let process = Process::of(&registration);
    let lock_servers = || directory.cluster_map().lock_servers.into_iter().map(|known| known.server);
    let before: Vec<ServerId> = lock_servers().collect();
    if directory.leases().is_replaced(&server, store) && !directory.is_down(&server) {
        // The process with the old folder is gone, or this one could not use its name: no need to wait for its lease.
        directory.proposer.propose(Command::MarkDown { server: server.clone(), incarnation: None }).await?;
    }
    let (revision, _) = directory.proposer.propose(Command::RegisterServer { registration }).await?;
    let mut newest_token = FencingToken(0);
    if kind == ServerKind::Lock {
        let after: BTreeSet<ServerId> = lock_servers().collect();
        before.iter().filter(|known| !after.contains(known)).for_each(|gone| directory.leases().forget(gone));
        newest_token = directory.reader.read(|view| Ok(view.newest_token()?)).await?;
    }
    let stats = Stats {
        disk_used_bytes: request.disk_used_bytes,
        disk_total_bytes: request.disk_total_bytes,
        blob_count: request.blob_count,
        // Its first beat says.
        stored_bytes: 0,
        read_only_reason: String::new(),
        uploading: BTreeSet::new(),
        leads: false,
        store: Default::default(),
    };
    directory.leases().registered(server.clone(), process, stats, clock::now(), Instant::now());
    tracing::info!(%server, ?kind, address = request.address, "a server has registered");
    Ok(pb::RegisterServerResponse {
        header: directory.header(revision),
        heartbeat_interval_ms: HEARTBEAT_INTERVAL.as_millis() as u64,
        lease_ms: LEASE.as_millis() as u64,
        cluster_map: Some((&directory.cluster_map()).into()),
        lock_key: match kind {
            ServerKind::Lock => directory.lock_key.to_vec().into(),
            ServerKind::Directory | ServerKind::FileServer => Default::default(),
        },
        directory_time: Some(directory.time().into()),
        newest_fencing_token: newest_token.0,
    })
}

/// The name is free, or whoever had it is gone.
async fn check_no_rival(directory: &Directory, registration: &Registration) -> Result<(), Failure> {
    let server = registration.server.clone();
    let Some(rival) = directory.leases().rival(&server, Process::of(registration), Instant::now()) else {
        return Ok(());
    };
    if rival.process.store != registration.store {
        return if rival.is_connected { Err(Rejected::ServerIdTaken { server }.into()) } else { Ok(()) };
    }
    // A folder that went on elsewhere is refused for good, by the state.
    let Some(known) = directory.find_server(&server).filter(|_| registration.follows(rival.process.incarnation)) else {
        return Ok(());
    };
    // One that has just lost its connection, or has not found a new leader yet, is asked itself.
    let lives = rival.is_connected
        || known.address != registration.address
            && directory.prober.probe(&server, &known.address).await == Verdict::Alive;
    if lives { Err(Rejected::ServerRuns { server, address: known.address }.into()) } else { Ok(()) }
}

async fn status(directory: &Directory) -> Result<pb::GetClusterStatusResponse, Failure> {
    let look = |view: &View| Ok((view.counts()?, view.settings().cloned(), view.is_rebalancing()));
    let (counts, settings, rebalancing) = directory.reader.read(look).await?;
    let settings = settings.ok_or(Rejected::NotBootstrapped)?;
    let obstacles = mover::obstacles(directory).await?;
    let map = directory.cluster_map();
    let stores = directory.leases().reports();
    let facts = health::Facts {
        initial_fileservers: settings.initial_fileservers,
        garbage_blobs: counts.garbage_blobs,
        stores,
        lock_is_led: directory.leases().is_led(map.lock_servers.iter().map(|server| &server.server), Instant::now()),
        obstacles,
        now: directory.time(),
    };
    let mut checks = health::checks(&map, &facts);
    let learners = directory.group.learners().into_iter();
    checks.extend(health::learning(learners.map(|node| (node.server, node.rejoined))));
    let is_full = |group: &&Group| group.in_sync.len() >= health::copies_due(&map, group);
    let is_up = |server: &&Server| server.state != ServerState::Down;
    Ok(pb::GetClusterStatusResponse {
        header: directory.header_now(),
        health: health_to_pb(health::overall(&checks)).into(),
        checks: checks.into_iter().map(Into::into).collect(),
        file_count: counts.files,
        directory_count: counts.directories,
        blob_count: counts.blobs,
        garbage_blob_count: counts.garbage_blobs,
        server_count: map.servers.len() as u32,
        server_up_count: map.servers.values().filter(is_up).count() as u32,
        group_count: map.group_count,
        group_full_count: map.groups.values().filter(is_full).count() as u32,
        moving_group_count: map.groups.values().filter(|group| group.replacement.is_some()).count() as u32,
        rebalancing,
        copies: map.copies,
        min_in_sync: map.min_in_sync,
    })
}

fn health_to_pb(health: Health) -> pb::Health {
    match health {
        Health::Ok => pb::Health::Ok,
        Health::Warn => pb::Health::Warn,
        Health::Error => pb::Health::Error,
    }
}

impl From<health::Check> for pb::HealthCheck {
    fn from(check: health::Check) -> Self {
        Self {
            code: check.code.to_owned(),
            health: health_to_pb(check.health).into(),
            summary: check.summary,
            hint: check.hint.to_owned(),
            subjects: check.subjects,
        }
    }
}
