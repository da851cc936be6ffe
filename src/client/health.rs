//! gRPC health: the one question that every server answers, also when there is no cluster yet.

use std::time::Duration;

use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Yes,
    No,
    /// It does not know.
    Unknown,
}

/// Why a server said nothing.
#[derive(Debug, thiserror::Error)]
pub enum NoHealth {
    #[error("`{address}` is not HOST:PORT: {why}")]
    BadAddress { address: String, why: String },
    #[error("{address}: {why}")]
    NotConnected { address: String, why: String },
    #[error("{address}: {why}")]
    NotAnswered { address: String, why: String },
}

/// How long one question may take.
#[derive(Clone, Copy, Debug)]
pub struct HealthPatience {
    pub connect: Duration,
    pub answer: Duration,
}

/// Asks the server at `host:port` for `service`, over a connection of its own; the empty name asks for the process.
pub async fn ask_health(address: &str, service: &str, patience: HealthPatience) -> Result<Serving, NoHealth> {
    let address = || address.to_owned();
    let endpoint = Endpoint::from_shared(format!("http://{}", address()))
        .map_err(|error| NoHealth::BadAddress { address: address(), why: error.to_string() })?;
    let not_connected = |why| NoHealth::NotConnected { address: address(), why };
    let channel = match tokio::time::timeout(patience.connect, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return Err(not_connected(causes(&error))),
        Err(_) => return Err(not_connected("no connection in time".to_owned())),
    };
    let not_answered = |why| NoHealth::NotAnswered { address: address(), why };
    match tokio::time::timeout(patience.answer, check(channel, Request::new(request(service)))).await {
        Ok(Ok(answer)) => Ok(serving(answer.get_ref())),
        Ok(Err(status)) => Err(not_answered(format!("{}: {}", status.code(), status.message()))),
        Err(_) => Err(not_answered("no answer in time".to_owned())),
    }
}

pub(super) fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

pub(super) async fn check(
    channel: Channel,
    request: Request<HealthCheckRequest>,
) -> Result<Response<HealthCheckResponse>, Status> {
    HealthClient::new(channel).check(request).await
}

pub(super) fn serving(answer: &HealthCheckResponse) -> Serving {
    match answer.status() {
        ServingStatus::Serving => Serving::Yes,
        ServingStatus::NotServing => Serving::No,
        ServingStatus::Unknown | ServingStatus::ServiceUnknown => Serving::Unknown,
    }
}

/// The transport's own words say only that it failed; some of its layers say the same.
fn causes(error: &dyn std::error::Error) -> String {
    let mut causes: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    causes.dedup();
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: HealthPatience = HealthPatience { connect: Duration::from_secs(1), answer: Duration::from_secs(1) };

    #[tokio::test]
    async fn who_is_not_there_and_what_is_no_address_are_told_apart() {
        // Bound and closed again: nobody listens.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert!(matches!(ask_health(&free, "", PATIENCE).await, Err(NoHealth::NotConnected { .. })));
        assert!(matches!(ask_health("no address", "", PATIENCE).await, Err(NoHealth::BadAddress { .. })));
    }
}
