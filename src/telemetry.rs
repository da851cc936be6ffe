//! The subscriber of every process: words on stderr, one line an event, `DFS_LOG` chooses what is said.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Events of our own from info on, of libraries from warn on. The consensus library warns ten times a second of a node that is
/// down; we say it once.
const DEFAULT_FILTER: &str = "warn,dfs=info,openraft=error";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Sets the process's subscriber; a second call in one process (a test) changes nothing.
pub fn init(format: LogFormat) {
    init_with(format, DEFAULT_FILTER);
}

/// As [`init`], with another filter where `DFS_LOG` names none.
pub fn init_with(format: LogFormat, default_filter: &str) {
    let filter = EnvFilter::try_from_env("DFS_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    if set.is_err() {
        tracing::debug!("a subscriber is set already");
    }
}
