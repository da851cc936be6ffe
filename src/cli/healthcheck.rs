//! `healthcheck`: one question to one server, for containers and scripts, with the exit codes of grpc_health_probe.
//!
//! It needs no Directory: the server that is asked may be the only one that runs.

use std::time::Duration;

use super::{
    context::Context,
    error::{Error, Result},
};
use crate::{
    client::{HealthPatience, NoHealth, Serving, ask_health},
    config::parse_duration,
};

const CONNECTION_FAILED: u8 = 2;
const CALL_FAILED: u8 = 3;
const NOT_SERVING: u8 = 4;
const INVALID: u8 = 1;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server to ask [default: the Directory of --directory]
    #[arg(value_name = "HOST:PORT")]
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

/// Asks the Directory when nobody else is named.
pub async fn run(context: &Context, arguments: Arguments) -> Result<()> {
    let named = arguments.address.as_ref().or(arguments.addr.as_ref());
    let Some(address) = named.or(context.settings.directory.value.first()) else {
        return Err(failed(INVALID, "no address".to_owned()));
    };
    let patience = HealthPatience { connect: arguments.connect_timeout, answer: arguments.rpc_timeout };
    match ask_health(address, &arguments.service, patience).await {
        Ok(Serving::Yes) => Ok(()),
        Ok(Serving::No) => Err(failed(NOT_SERVING, format!("{address}: NOT_SERVING"))),
        Ok(Serving::Unknown) => Err(failed(NOT_SERVING, format!("{address}: UNKNOWN"))),
        Err(error @ NoHealth::BadAddress { .. }) => Err(failed(INVALID, error.to_string())),
        Err(error @ NoHealth::NotConnected { .. }) => Err(failed(CONNECTION_FAILED, error.to_string())),
        Err(error @ NoHealth::NotAnswered { .. }) => Err(failed(CALL_FAILED, error.to_string())),
    }
}

fn failed(code: u8, message: String) -> Error {
    Error::Probe { code, message }
}

/// A command line that makes no sense: if it is one of ours, 2 would say that the server cannot be reached.
pub fn with_code_of_probe(error: Error, words: &[&str]) -> Error {
    const WITH_VALUE: [&str; 8] =
        ["--directory", "--lock", "-o", "--output", "--timeout", "--color", "--progress", "--config"];
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(word) {
            words.next();
        } else if !word.starts_with('-') {
            return if *word == "healthcheck" { failed(INVALID, error.to_string()) } else { error };
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::settings::{Flags, Settings};

    async fn code_of(line: &[&str]) -> u8 {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let settings = Settings::resolve(&Flags::default(), |_| None).unwrap();
        let context = Context::new(settings, |_| None).unwrap();
        let arguments = Line::try_parse_from([&["healthcheck"], line].concat()).unwrap().arguments;
        run(&context, arguments).await.map_or_else(|error| error.exit_code(), |()| 0)
    }

    #[tokio::test]
    async fn nobody_there_is_a_failed_connection() {
        // Bound and closed again: nobody listens.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(code_of(&["--addr", &free.to_string()]).await, CONNECTION_FAILED);
    }

    #[tokio::test]
    async fn a_bad_address_is_an_invalid_argument() {
        assert_eq!(code_of(&["not an address"]).await, INVALID);
    }
}
