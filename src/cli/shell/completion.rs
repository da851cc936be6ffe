//! What the Tab key offers: commands, then paths of the store, asked for within a deadline.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::CommandFactory;
use futures::StreamExt;
use rustyline::{
    Context, Helper, completion::Completer, completion::Pair, highlight::Highlighter, hint::Hinter, validate::Validator,
};
use tokio::runtime::Handle;

use super::words;
use crate::{
    cli::{arguments, paths},
    client::{AsOf, Client},
    types::Path,
};

/// Whoever presses Tab does not wait longer.
const DEADLINE: Duration = Duration::from_millis(700);
/// Entries looked through, and offered.
const SCANNED_MAX: usize = 5000;
const OFFERED_MAX: usize = 200;
/// Known to the shell alone.
pub const OWN_COMMANDS: [&str; 5] = ["cd", "pwd", "help", "quit", "exit"];

/// What the line editor's thread knows of the shell.
#[derive(Clone)]
pub struct Assistant {
    place: Arc<Mutex<Place>>,
    assists: Arc<AtomicBool>,
    commands: Arc<[String]>,
    runtime: Handle,
}

/// Where the shell is.
#[derive(Clone, Default)]
pub struct Place {
    pub directory: Option<Path>,
    pub client: Option<Client>,
}

impl Assistant {
    /// To be called inside of the runtime.
    pub fn new() -> Self {
        let command = arguments::Line::command();
        let known = command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut commands: Vec<String> =
            known.flat_map(clap::Command::get_name_and_visible_aliases).map(str::to_owned).collect();
        commands.extend(OWN_COMMANDS.map(str::to_owned));
        commands.sort();
        Self {
            place: Arc::default(),
            assists: Arc::new(AtomicBool::new(true)),
            commands: commands.into(),
            runtime: Handle::current(),
        }
    }

    pub fn move_to(&self, place: Place) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// In the text of a file the Tab key is a tab.
    pub fn assist(&self, on: bool) {
        self.assists.store(on, Ordering::Relaxed);
    }

    fn commands(&self, begun: &str) -> Vec<Pair> {
        let bare = begun.strip_prefix('<');
        let spelled = |name: &str| if bare.is_some() { format!("<{name}>") } else { name.to_owned() };
        let matching = self.commands.iter().filter(|name| name.starts_with(bare.unwrap_or(begun)));
        matching.map(|name| Pair { display: spelled(name), replacement: spelled(name) + " " }).collect()
    }

    fn paths(&self, begun: &str) -> Vec<Pair> {
        let Place { directory, client } = self.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(directory), Some(client)) = (directory, client) else { return Vec::new() };
        let (typed, name) =
            begun.rsplit_once('/').map_or(("", begun), |(_, name)| (&begun[..begun.len() - name.len()], name));
        let Ok(listed) = paths::resolve(&directory, if typed.is_empty() { "." } else { typed }) else {
            return Vec::new();
        };
        let found = self.runtime.block_on(async {
            let mut found = Vec::new();
            let mut entries = client.list(&listed, AsOf::Now).take(SCANNED_MAX);
            // What has come by the deadline is offered.
            let all = async {
                while let Some(Ok(entry)) = entries.next().await {
                    let matching = entry.path.name().filter(|found| found.starts_with(name));
                    if let Some(matching) = matching {
                        found.push((matching.to_owned(), entry.is_directory()));
                    }
                    if found.len() >= OFFERED_MAX {
                        break;
                    }
                }
            };
            let in_time = tokio::time::timeout(DEADLINE, all).await;
            tracing::trace!(in_time = in_time.is_ok(), found = found.len(), "completed a path");
            found
        });
        found.into_iter().map(|(name, is_directory)| offer(typed, &name, is_directory)).collect()
    }
}

fn offer(typed: &str, name: &str, is_directory: bool) -> Pair {
    let slash = if is_directory { "/" } else { "" };
    let end = if is_directory { "" } else { " " };
    Pair { display: format!("{name}{slash}"), replacement: words::quote(&format!("{typed}{name}{slash}")) + end }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..position).unwrap_or(line);
        if !self.assists.load(Ordering::Relaxed) {
            return Ok((position, vec![Pair { display: "\t".to_owned(), replacement: "\t".to_owned() }]));
        }
        let (before, last) = words::unfinished(typed);
        let offered = if before.is_empty() { self.commands(&last.text) } else { self.paths(&last.text) };
        Ok((last.begin, offered))
    }
}

impl Helper for Assistant {}
impl Highlighter for Assistant {}
impl Validator for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacements(pairs: &[Pair]) -> Vec<&str> {
        pairs.iter().map(|pair| pair.replacement.as_str()).collect()
    }

    #[tokio::test]
    async fn commands_are_offered_in_both_spellings() {
        let assistant = Assistant::new();
        assert_eq!(replacements(&assistant.commands("vers")), ["version ", "versions "]);
        assert_eq!(replacements(&assistant.commands("<rea")), ["<read> ", "<ready> "]);
        assert_eq!(replacements(&assistant.commands("qu")), ["quit "]);
        assert!(assistant.commands("nonsense").is_empty());
    }

    #[tokio::test]
    async fn without_a_cluster_no_paths_are_offered() {
        assert!(Assistant::new().paths("/a").is_empty());
    }

    #[test]
    fn a_directory_can_be_typed_on_and_a_name_is_quoted() {
        assert_eq!(offer("docs/", "sub", true).replacement, "docs/sub/");
        assert_eq!(offer("", "a b", false).replacement, "'a b' ");
        assert_eq!(offer("", "a b", false).display, "a b");
    }
}
