//! `healthcheck`: one question to one server, for containers and scripts, with the exit codes of grpc_health_probe.
//!
//! It needs no Directory: the server that is asked may be the only one that runs.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::error::{Error, Result};
use crate::config::parse_duration;

const CONNECTION_FAILED: u8 = 2;
const CALL_FAILED: u8 = 3;
const NOT_SERVING: u8 = 4;
const INVALID: u8 = 1;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// HOST:PORT of the server to ask
    #[arg(value_name = "HOST:PORT", required_unless_present = "addr")]
    address: Option<String>,
    /// The same, as grpc_health_probe spells it
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "address")]
    addr: Option<String>,
    /// Of this gRPC service, such as dfs.v1.Directory [default: of the server as a whole]
    #[arg(long, value_name = "SERVICE", default_value = "", hide_default_value = true)]
    service: String,
    /// How long a connection may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    connect_timeout: Duration,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    rpc_timeout: Duration,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let Some(address) = arguments.address.or(arguments.addr) else {
        return Err(failed(INVALID, "no address".to_owned()));
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| failed(INVALID, format!("`{address}` is not HOST:PORT: {error}")))?;
    let channel = match tokio::time::timeout(arguments.connect_timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return Err(failed(CONNECTION_FAILED, format!("{address}: {}", causes(&error)))),
        Err(_) => return Err(failed(CONNECTION_FAILED, format!("{address}: no connection in time"))),
    };
    let mut client = HealthClient::new(channel);
    let request = HealthCheckRequest { service: arguments.service };
    match tokio::time::timeout(arguments.rpc_timeout, client.check(request)).await {
        Ok(Ok(response)) => match response.get_ref().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(failed(NOT_SERVING, format!("{address}: {}", other.as_str_name()))),
        },
        Ok(Err(status)) => Err(failed(CALL_FAILED, format!("{address}: {}: {}", status.code(), status.message()))),
        Err(_) => Err(failed(CALL_FAILED, format!("{address}: no answer in time"))),
    }
}

fn failed(code: u8, message: String) -> Error {
    Error::Probe { code, message }
}

/// The transport's own words say only that it failed.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(address: &str) -> Arguments {
        Arguments {
            address: Some(address.to_owned()),
            addr: None,
            service: String::new(),
            connect_timeout: Duration::from_secs(1),
            rpc_timeout: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn nobody_there_is_a_failed_connection() {
        // Bound and closed again: nobody listens.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(run(asking(&free.to_string())).await.unwrap_err().exit_code(), CONNECTION_FAILED);
    }

    #[tokio::test]
    async fn a_bad_address_is_an_invalid_argument() {
        assert_eq!(run(asking("not an address")).await.unwrap_err().exit_code(), INVALID);
    }
}
