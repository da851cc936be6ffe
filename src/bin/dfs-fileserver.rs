//! A file server's process: parse the options, then run until told to stop.

use anyhow::Context;
use clap::Parser;
use dfs::{config::FileServerOptions, fileserver, serve, telemetry};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = FileServerOptions::parse();
    telemetry::init(options.common.log_format);
    tracing::info!(?options, "starting");
    let shutdown = serve::shutdown_on_signal(&options.common)?;
    let listen = options.common.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    fileserver::run(options, listener, shutdown).await
}
