//! Asks a server over gRPC health whether it serves, and quotes its log when it does not.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use crate::client::{HealthPatience, NoHealth, Serving, ask_health};

/// For one question.
const PATIENCE: HealthPatience = HealthPatience { connect: Duration::from_secs(1), answer: Duration::from_secs(1) };
/// Lines of a log that are quoted, and how far back they are looked for.
const LOG_LINES: usize = 12;
const LOG_BYTES: u64 = 16 << 10;

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Serving,
    NotServing,
    /// Nobody listens.
    Silent,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serving => "serving",
            Self::NotServing => "not serving",
            Self::Silent => "silent",
        })
    }
}

/// Asks once.
pub async fn ask(address: &str, service: &str) -> Answer {
    match ask_health(address, service, PATIENCE).await {
        Ok(Serving::Yes) => Answer::Serving,
        // A service it does not know yet included.
        Ok(Serving::No | Serving::Unknown) | Err(NoHealth::NotAnswered { .. }) => Answer::NotServing,
        Err(NoHealth::BadAddress { .. } | NoHealth::NotConnected { .. }) => Answer::Silent,
    }
}

/// The last lines that a server wrote after `from`, for people.
pub fn last_log_lines(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "  (it wrote nothing)".to_owned(),
        Ok(text) => {
            let lines: Vec<_> = text.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            lines.iter().skip(from).map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("  (cannot read {}: {error})", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_of_this_start_are_quoted() {
        let temp = tempfile::tempdir().expect("a folder");
        let log = temp.path().join("server.log");
        let before = "of an earlier start\n";
        let now: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&log, format!("{before}{now}")).expect("writable");
        let quoted = last_log_lines(&log, before.len() as u64);
        assert_eq!(quoted.lines().count(), LOG_LINES);
        assert!(quoted.starts_with("  | line 9\n") && quoted.ends_with("  | line 20"), "{quoted}");
        assert_eq!(last_log_lines(&log, (before.len() + now.len()) as u64), "  (it wrote nothing)");
    }

    #[tokio::test]
    async fn nobody_there_is_silent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        assert_eq!(ask(&address, "dfs.v1.Directory").await, Answer::Silent);
    }
}
