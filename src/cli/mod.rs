//! `dfs-cli`: the commands of a user and of an operator, and a shell for them.
//!
//! Thin on purpose: everything it does to a cluster is a call of [`crate::client`]. What is its own is the command line,
//! how results and failures are told to people and to programs, and how a lock is held around a piece of work.
//!
//! The modules, in reading order:

mod arguments;
mod context;
mod error;
mod interrupt;
mod own_reason;
mod settings;

mod output;
mod palette;
mod progress;
mod receipt;
mod table;
mod tried;

mod locking;
mod paths;
mod source;

mod list;
mod read;
mod stat;
mod tree;
mod write;

mod copy;
mod edit;
mod remove;

mod download;
mod transfer;

mod diff;
mod versions;

mod locks;
mod members;

mod administer;
mod cluster;
mod fsck;
mod replicas;
mod scrub;
mod watch;

mod diagnose;
mod doctor;
mod healthcheck;
mod local;

mod shell;

pub mod dev;

pub use self::own_reason::OwnReason;

use std::{ffi::OsString, io::IsTerminal};

use clap::{Parser, error::ErrorKind};

use self::{
    arguments::{Arguments, Command},
    context::Context,
    error::{Error, Result, exit},
    interrupt::Signals,
    output::{Format, Output},
    settings::{Flags, Settings, When},
};
use crate::telemetry::{self, LogFormat};

/// Runs one command line to its end; answers with the exit code of the process.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let env = |name: &str| std::env::var(name).ok();
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() => {
            let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
            let error = healthcheck::with_code_of_probe(usage(&error), &words);
            return told(&error, Settings::for_failures(&Flags::of_nonsense(words), env));
        }
        // `--help` and `--version`. A reader that has gone has seen enough.
        Err(text) => return text.print().map_or(exit::OK, |()| exit::OK),
    };
    let begun = Settings::resolve(&parsed.flags, env).and_then(|settings| Context::new(settings, env));
    let mut context = match begun {
        Ok(context) => context,
        Err(error) => return told(&error, Settings::for_failures(&parsed.flags, env)),
    };
    telemetry::init_with(LogFormat::Text, filter(context.settings.verbose));
    let done = perform(&mut context, parsed.command).await;
    let done = done.and_then(|()| context.output.flush());
    match done {
        Ok(()) => exit::OK,
        Err(error) => {
            if !error.is_silent() {
                context.output.failure(&error);
            }
            error.exit_code()
        }
    }
}

async fn perform(context: &mut Context, command: Option<Command>) -> Result<()> {
    let command = match command {
        Some(command) => command,
        None if std::io::stdin().is_terminal() => Command::Shell,
        None => return Err(Error::Usage("no command (see dfs-cli --help; `dfs-cli shell` reads commands)".to_owned())),
    };
    if command.sees_to_signals() {
        return command.run(context).await;
    }
    let mut signals = Signals::new()?;
    let interrupt = context.interrupt.clone();
    signals.run(&interrupt, Box::pin(command.run(context))).await
}

/// What the program says of itself while it runs, `DFS_LOG` aside.
fn filter(verbose: u8) -> &'static str {
    match verbose {
        0 => "error",
        1 => "warn,dfs=info",
        _ => "info,dfs=debug",
    }
}

/// A failure from before there is an output.
fn told(error: &Error, (format, color): (Format, When)) -> u8 {
    Output::standard(format, false, color).failure(error);
    error.exit_code()
}

/// clap's message in one line, as all of ours are, and where to read on.
fn usage(error: &clap::Error) -> Error {
    let rendered = error.render().to_string();
    let synopsis = rendered.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("dfs-cli");
    let command: Vec<&str> = synopsis.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect();
    // In the shell commands have no program before them.
    let help = match command.as_slice() {
        ["dfs"] => "instructions".to_owned(),
        ["dfs", command @ ..] => format!("{} --help", command.join(" ")),
        command => format!("{} --help", command.join(" ")),
    };
    let text: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let text = match error.kind() {
        // What it prints then is the help.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "one of its commands must follow".to_owned(),
        _ => text.join(" "),
    };
    Error::Usage(format!("{} (see {help})", text.strip_prefix("error: ").unwrap_or(&text)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("dfs-cli").chain(line.split(' ')))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
        arguments::Line::command().debug_assert();
    }

    #[test]
    fn commands_have_their_other_names() {
        for (line, other) in [("ls /a", "list /a"), ("cat /a", "read /a"), ("explain /a", "replicas /a")] {
            let names = |line| format!("{:?}", parsed(line).unwrap().command);
            assert_eq!(names(line), names(other));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "write /a --text x --from f",
            "write /a --if-version 1 --wait 1s",
            "read /a --version 1 --at 5",
            "read /a --version 0",
            "read",
            "cp /a /b -f --if-version 1",
            "rm -r /a --if-version 1",
            "lock run /a",
            "lock release /a",
            "lock release /a --session nonsense",
            "put a",
            "ls -q -v",
            "ls -o xml",
            "ls --timeout 5",
            "watch --after x",
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.use_stderr(), "{line}");
            assert_eq!(usage(&error).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_health_check_that_makes_no_sense_has_the_code_of_the_probe() {
        for (line, code) in [
            ("healthcheck a:1 --addr b:1", 1),
            ("-o json healthcheck --nonsense", 1),
            ("healthcheck --rpc-timeout soon", 1),
            ("ls healthcheck --nonsense", 2),
        ] {
            let words: Vec<&str> = std::iter::once("dfs-cli").chain(line.split(' ')).collect();
            let error = healthcheck::with_code_of_probe(usage(&parsed(line).expect_err(line)), &words);
            assert_eq!(error.exit_code(), code, "{line}");
            assert!(error.line().starts_with("USAGE: "), "{}", error.line());
        }
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        for line in ["-o json --directory a:1,b:2 ls /a", "ls /a -o json --directory a:1,b:2"] {
            let flags = parsed(line).unwrap().flags;
            assert_eq!(flags.output, Some(output::Format::Json));
            assert_eq!(flags.directory, Some(vec!["a:1".to_owned(), "b:2".to_owned()]));
        }
    }

    #[test]
    fn a_command_under_a_lock_keeps_its_own_flags() {
        assert!(parsed("lock run /a --wait 5s -- ls -l -r").is_ok());
    }

    #[test]
    fn a_command_without_its_own_says_so() {
        let line = usage(&parsed("servers").unwrap_err()).line();
        assert_eq!(line, "USAGE: one of its commands must follow (see dfs-cli servers --help)");
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let error = usage(&parsed("lock info --nonsense").unwrap_err());
        let line = error.line();
        assert!(line.starts_with("USAGE: unexpected argument '--nonsense' found") && !line.contains('\n'), "{line}");
        assert!(line.ends_with("(see dfs-cli lock info --help)"), "{line}");
    }
}
