//! What needs no cluster that is there already: instructions, settings, version, completion scripts, `dev`.

use std::time::Duration;

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use super::{
    arguments,
    context::Context,
    dev,
    error::{Error, Result, exit},
    output::Row,
    settings::{Found, Source, When},
    shell,
    table::Column,
};

/// Printed by `instructions`, and once by the shell on a terminal.
pub const INSTRUCTIONS: &str = "\
dfs stores files on several servers. A write is acknowledged once it is on stable storage on every in-sync copy.

  <list> [DIR]              what is in a directory            list -l, list -r, tree, stat PATH
  <read> FILE               print a file                      read FILE --version 2
  <write> FILE              write a file: waits for its lock, then type lines;
                            <end> saves them, <cancel> throws them away
  append FILE --text TEXT   add to the end                    edit FILE opens your editor under the lock
  put LOCAL PATH            copy into the store               get PATH LOCAL copies out of it; -r for trees
  cp, mv, rm, mkdir         as elsewhere                      rm -r DIR, mkdir -p DIR
  versions FILE             the versions that are kept        diff FILE, restore FILE --version 1
  replicas FILE             its copies, read from each server's own disk
  lock info FILE            who holds it, and who waits       lock ls, lock run FILE -- COMMAND
  status                    how the cluster is                servers ls, groups, ping
  cd, pwd                   where relative paths start (in the shell)
  <instructions>            this again                        COMMAND --help says all of a command
  <quit>                    leaves the shell                  so does Ctrl-D; Ctrl-C cancels a command

Every command works as `dfs-cli COMMAND` too, and in the shell with or without the angle brackets.
-o json prints for programs; errors are `REASON: text`, and each kind of reason has its exit code.";

#[derive(Debug, clap::Args)]
pub struct CompletionArguments {
    /// Which shell it is for
    #[arg(value_enum)]
    shell: Shell,
}

pub fn instructions(context: &mut Context) -> Result<()> {
    context.output.line(INSTRUCTIONS)?;
    context.output.flush()
}

pub fn completion(context: &mut Context, arguments: CompletionArguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut arguments::Arguments::command(), "dfs-cli", &mut script);
    context.output.raw(&script)?;
    context.output.flush()
}

/// A cluster of this machine, and the shell on it.
pub async fn dev(context: &mut Context, arguments: dev::DevArgs) -> Result<()> {
    let ended = dev::run(arguments, async |directory| {
        context.use_directory(directory);
        let ended = shell::run(context).await;
        if let Err(error) = &ended
            && !error.is_silent()
        {
            context.output.failure(error);
        }
        Ok(shell::exit_code(&ended))
    })
    .await;
    match ended {
        Ok(dev::Outcome::Ended(exit::OK)) => Ok(()),
        Ok(dev::Outcome::Ended(code)) => Err(Error::Silent(code)),
        Ok(dev::Outcome::NothingRuns(message)) => Err(Error::HereWithCode { code: exit::NOT_FOUND, message }),
        Ok(dev::Outcome::Servers(servers)) => {
            let (total, serving) = (servers.len(), servers.iter().filter(|server| server.is_serving).count());
            context.output.all(servers)?;
            match serving == total {
                true => Ok(()),
                false => Err(Error::Unhealthy(format!("{serving} of {total} servers serve"))),
            }
        }
        Err(error) => Err(Error::Here(format!("{error:#}"))),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgramVersion {
    version: &'static str,
}

pub fn version(context: &mut Context) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if !context.output.format().is_json() {
        context.output.line(&format!("dfs-cli {version}"))?;
        return context.output.flush();
    }
    context.output.done(&ProgramVersion { version }, version, "")
}

/// One setting in force.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Setting {
    name: &'static str,
    value: String,
    source: Source,
}

impl Row for Setting {
    const COLUMNS: &'static [Column] = &[Column::left("SETTING"), Column::left("VALUE"), Column::left("FROM")];

    fn cells(&self) -> Vec<String> {
        vec![self.name.to_owned(), self.value.clone(), self.source.to_string()]
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }
}

pub fn config(context: &mut Context) -> Result<()> {
    let settings = &context.settings;
    let addresses = |found: &Found<Vec<String>>, none: &str| {
        if found.value.is_empty() { none.to_owned() } else { found.value.join(",") }
    };
    let rows = vec![
        Setting { name: "directory", value: addresses(&settings.directory, "none"), source: settings.directory.source },
        Setting {
            name: "lock",
            value: addresses(&settings.lock, "as the Directory says"),
            source: settings.lock.source,
        },
        Setting { name: "output", value: possible(settings.output.value), source: settings.output.source },
        Setting { name: "timeout", value: duration(settings.timeout.value), source: settings.timeout.source },
        Setting { name: "color", value: possible::<When>(settings.color.value), source: settings.color.source },
        Setting {
            name: "progress",
            value: possible::<When>(settings.progress.value),
            source: settings.progress.source,
        },
    ];
    let file = match &settings.file {
        Some(file) => format!("configuration file: {}", file.display()),
        None => "no configuration file".to_owned(),
    };
    context.output.all(rows)?;
    context.output.say(&file)
}

/// As it can be given.
fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

/// The name by which a choice is given.
fn possible<T: clap::ValueEnum>(value: T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instructions_fit_a_terminal_and_name_the_shell_spellings() {
        assert!(INSTRUCTIONS.lines().count() <= 24);
        assert!(INSTRUCTIONS.lines().all(|line| line.chars().count() <= 120));
        for spelling in ["<write>", "<read>", "<list>", "<instructions>", "<quit>", "<end>", "<cancel>"] {
            assert!(INSTRUCTIONS.contains(spelling), "{spelling}");
        }
    }

    #[test]
    fn every_shell_has_a_completion_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut arguments::Arguments::command(), "dfs-cli", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("versions"), "{shell}");
        }
    }
}
