//! The command line of dfs; everything is in [`dfs::cli`].

use std::{process::ExitCode, time::Duration};

/// What may still be in a call that cannot be cancelled, such as a read of the terminal, is left to the system.
const LINGER: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dfs-cli: LOCAL: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(dfs::cli::run(std::env::args_os()));
    runtime.shutdown_timeout(LINGER);
    ExitCode::from(code)
}
