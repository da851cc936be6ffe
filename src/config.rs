//! The options of each server process, as flags and `DFS_*` variables; parsed in `bin`, passed down, logged once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

use crate::{
    telemetry::LogFormat,
    types::{BLOB_LENGTH_MAX, CHUNK_LENGTH_MAX, ServerId},
};

/// The map of all groups is one message, and a gRPC client takes 4 MiB unless told otherwise.
const GROUPS_MAX: i64 = 4096;

/// How far the port of the metrics is from the server's own, when nothing else is said.
const METRICS_PORT_OFFSET: u16 = 2000;

/// What every server is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Name of this server in the cluster: a DNS label
    #[arg(long, env = "DFS_ID")]
    pub id: ServerId,
    /// Folder that holds everything this server keeps
    #[arg(long, env = "DFS_DATA", value_name = "DIR")]
    pub data: PathBuf,
    /// Address to listen on
    #[arg(long, env = "DFS_LISTEN", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// HOST:PORT by which the cluster's servers reach this one [default: the address listened on]
    #[arg(long, env = "DFS_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// HOST:PORT by which clients outside of the cluster's network reach this one [default: as --advertise]
    #[arg(long, env = "DFS_ADVERTISE_EXTERNAL", value_name = "HOST:PORT")]
    pub advertise_external: Option<String>,
    /// Address for /metrics, /livez and /readyz, or `off` [default: as --listen, 2000 ports higher]
    #[arg(long, env = "DFS_METRICS_LISTEN", value_parser = parse_metrics_address, value_name = "ADDR:PORT|off")]
    pub metrics_listen: Option<MetricsAddress>,
    /// How log lines look
    #[arg(long, env = "DFS_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Stop cleanly when standard input, a pipe, closes: whoever started this server held the other end, and is gone
    #[arg(long, hide = true)]
    pub stop_with_parent: bool,
}

/// Where metrics are served, as the flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    Off,
    At(SocketAddr),
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsListen {
    pub address: SocketAddr,
    /// Somebody chose it.
    pub is_given: bool,
}

impl Common {
    /// `None` when switched off, or when the server's own port leaves no room above.
    pub fn metrics_listen(&self) -> Option<MetricsListen> {
        match self.metrics_listen {
            Some(MetricsAddress::Off) => None,
            Some(MetricsAddress::At(address)) => Some(MetricsListen { address, is_given: true }),
            None => {
                let port = match self.listen.port() {
                    0 => 0,
                    port => port.checked_add(METRICS_PORT_OFFSET)?,
                };
                Some(MetricsListen { address: SocketAddr::new(self.listen.ip(), port), is_given: false })
            }
        }
    }

    /// The address to be reached at, given the one that was bound.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| bound.to_string())
    }

    pub fn advertised_external(&self, bound: SocketAddr) -> String {
        self.advertise_external.clone().unwrap_or_else(|| self.advertised(bound))
    }
}

/// How a node takes part in its group, the Directory's or the Lock service's
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GroupOptions {
    /// HOST:PORT of any node of the group to join, several with commas; without it a new node makes a group of its own.
    /// One that is a member already goes on as such
    #[arg(long, env = "DFS_JOIN", value_delimiter = ',', value_name = "HOST:PORT")]
    pub join: Vec<String>,
    /// HOST:PORT of the other nodes, several with commas: a node without --join whose data folder is empty asks them first, and
    /// joins their group if they have one, so that a founder that has lost its disk does not make a second cluster
    #[arg(long, env = "DFS_PEERS", value_delimiter = ',', value_name = "HOST:PORT")]
    pub peers: Vec<String>,
}

/// The Directory: the namespace, the versions, and the one place where a write is committed
#[derive(Clone, Debug, Parser)]
#[command(name = "dfs-directory", version)]
pub struct DirectoryOptions {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub group: GroupOptions,
    /// Replica groups; fixed when the cluster is made
    #[arg(long, env = "DFS_GROUPS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=GROUPS_MAX))]
    pub groups: u32,
    /// Copies of every byte; fixed when the cluster is made
    #[arg(long, env = "DFS_COPIES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub copies: u32,
    /// A write is acknowledged only when at least this many servers have it on stable storage
    #[arg(long, env = "DFS_MIN_IN_SYNC", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub min_in_sync: u32,
    /// Groups are made when this many file servers have registered [default: as --copies]
    #[arg(long, env = "DFS_INITIAL_FILESERVERS")]
    pub initial_fileservers: Option<u32>,
    /// Newest versions of a file that are kept whatever their age
    #[arg(long, env = "DFS_KEEP_VERSIONS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_versions: u64,
    /// What is younger than this is kept whatever its number
    #[arg(long, env = "DFS_KEEP_FOR", default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
    pub keep_for: Duration,
    /// A blob that no version needs is deleted only after this, so that readers under way can finish
    #[arg(long, env = "DFS_GARBAGE_GRACE", default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    pub garbage_grace: Duration,
    /// A file server that has been down for as long gives up its places: others make the copies that it held
    #[arg(long, env = "DFS_REPAIR_AFTER", default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    pub repair_after: Duration,
}

/// The Lock service: sessions, leases, queues and fencing tokens
#[derive(Clone, Debug, Parser)]
#[command(name = "dfs-lock", version)]
pub struct LockOptions {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub group: GroupOptions,
    /// HOST:PORT of the Directory; several with commas
    #[arg(long, env = "DFS_DIRECTORY", value_delimiter = ',', required = true)]
    pub directory: Vec<String>,
}

/// A file server: keeps the bytes, and replicates what it is primary for
#[derive(Clone, Debug, Parser)]
#[command(name = "dfs-fileserver", version)]
pub struct FileServerOptions {
    #[command(flatten)]
    pub common: Common,
    /// HOST:PORT of the Directory; several with commas
    #[arg(long, env = "DFS_DIRECTORY", value_delimiter = ',', required = true)]
    pub directory: Vec<String>,
    /// Copies of a group are kept in different zones when there are enough
    #[arg(long, env = "DFS_ZONE", default_value = "")]
    pub zone: String,
    /// Size at which a segment of the log is closed and the next begun, in bytes
    #[arg(long, env = "DFS_SEGMENT_BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(4 << 20..=1 << 30))]
    pub segment_bytes: u64,
    /// A write longer than this becomes several blobs, in bytes; a file has at most 1024 pieces
    #[arg(long, env = "DFS_BLOB_BYTES", default_value_t = BLOB_LENGTH_MAX, value_parser = clap::value_parser!(u64).range(CHUNK_LENGTH_MAX as u64..=BLOB_LENGTH_MAX))]
    pub blob_bytes: u64,
    /// Writes are refused while less than this is free on the disk, in bytes
    #[arg(long, env = "DFS_RESERVE_BYTES", default_value_t = 512 << 20)]
    pub reserve_bytes: u64,
    /// Everything on the disk is read again and again, to find damage while there are copies to repair it from, no faster than
    /// this, in bytes per second
    #[arg(long, env = "DFS_SCRUB_RATE", default_value_t = 8 << 20, value_parser = clap::value_parser!(u64).range(1 << 10..))]
    pub scrub_rate: u64,
    /// MiB a second that this server fetches at most for groups that move to it; what a member needs that comes back is not held up
    #[arg(long, env = "DFS_REPAIR_RATE", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20), value_name = "MIB")]
    pub repair_rate: u64,
    /// A write that was begun and never committed is settled after this
    #[arg(long, env = "DFS_STAGED_TTL", default_value = "60s", value_parser = parse_duration, value_name = "DURATION")]
    pub staged_ttl: Duration,
}

fn parse_metrics_address(text: &str) -> Result<MetricsAddress, String> {
    match text {
        "off" => Ok(MetricsAddress::Off),
        _ => text.parse().map(MetricsAddress::At).map_err(|_| format!("`{text}` is neither ADDR:PORT nor `off`")),
    }
}

/// `1500ms`, `30s`, `10m`, `24h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration: use a number and ms, s, m, h or d, such as 30s");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let unit_ms: u64 = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_two_thousand_ports_higher_unless_something_else_is_said() {
        let listen = |arguments: &[&str]| {
            let fixed = ["dfs-lock", "--id", "a", "--data", "d", "--directory", "b:1"];
            let options = LockOptions::try_parse_from(fixed.iter().chain(arguments)).unwrap();
            options.common.metrics_listen().map(|it| (it.address.to_string(), it.is_given))
        };
        let at = |address: &str, is_given| Some((address.to_owned(), is_given));
        assert_eq!(listen(&["--listen", "10.0.0.1:7071"]), at("10.0.0.1:9071", false));
        assert_eq!(listen(&["--listen", "127.0.0.1:0"]), at("127.0.0.1:0", false));
        assert_eq!(listen(&["--listen", "127.0.0.1:65000"]), None);
        assert_eq!(listen(&["--listen", "[::1]:7071", "--metrics-listen", "off"]), None);
        let given = ["--listen", "127.0.0.1:1", "--metrics-listen", "0.0.0.0:9"];
        assert_eq!(listen(&given), at("0.0.0.0:9", true));
        assert!(parse_metrics_address("9090").is_err());
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "10", "s", "-1s", "1w", "99999999999999999999s", "300000000000000d"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
