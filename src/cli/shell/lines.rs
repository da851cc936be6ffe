//! Where the shell's lines come from: an editor on a terminal, or a pipe.

use std::path::PathBuf;

use rustyline::{CompletionType, Config, Editor, error::ReadlineError, history::FileHistory};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin},
    sync::{mpsc, oneshot},
};

use super::completion::Assistant;
use crate::cli::error::{Error, Result};

/// Longer lines are somebody's binary file.
const LINE_BYTES_MAX: u64 = 1 << 20;
const HISTORY_LINES_MAX: usize = 5000;

/// What came when a line was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the pipe's end.
    End,
}

/// Whether a line is worth remembering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Command,
    /// Text of a file.
    Text,
}

pub enum Lines {
    Terminal(Terminal),
    Pipe(BufReader<Stdin>),
}

impl Lines {
    pub fn pipe() -> Self {
        Self::Pipe(BufReader::new(tokio::io::stdin()))
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line, without its end. From a pipe there is no prompt.
    pub async fn next(&mut self, prompt: &str, kind: Kind) -> Result<Typed> {
        match self {
            Self::Terminal(terminal) => terminal.next(prompt, kind).await,
            Self::Pipe(pipe) => {
                let mut line = Vec::new();
                let read = pipe.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).await;
                read.map_err(Error::local("standard input"))?;
                if line.len() as u64 > LINE_BYTES_MAX {
                    return Err(Error::Usage(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
                }
                if line.is_empty() {
                    return Ok(Typed::End);
                }
                if line.ends_with(b"\n") {
                    line.pop();
                }
                let line = String::from_utf8(line).map_err(|_| Error::Usage("a line is not UTF-8".to_owned()))?;
                Ok(Typed::Line(line))
            }
        }
    }
}

struct Ask {
    prompt: String,
    kind: Kind,
    answer: oneshot::Sender<Result<Typed>>,
}

/// The line editor blocks, so it has a thread of its own, which ends when this is dropped.
pub struct Terminal {
    asks: mpsc::Sender<Ask>,
}

impl Terminal {
    pub fn start(assistant: Assistant) -> Result<Self> {
        let history = history_file();
        let mut editor = editor(assistant, history.as_deref()).map_err(terminal_error)?;
        let (asks, mut asked) = mpsc::channel::<Ask>(1);
        let thread = std::thread::Builder::new().name("line-editor".to_owned());
        // Detached: when the shell ends by a signal it may be waiting for a key that never comes.
        thread
            .spawn(move || {
                while let Some(ask) = asked.blocking_recv() {
                    let typed = read(&mut editor, &ask, history.as_deref());
                    if ask.answer.send(typed).is_err() {
                        tracing::debug!("nobody waits for this line any more");
                    }
                }
            })
            .map_err(Error::local("start the line editor"))?;
        Ok(Self { asks })
    }

    async fn next(&mut self, prompt: &str, kind: Kind) -> Result<Typed> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Error::Here("the line editor has ended".to_owned());
        let ask = Ask { prompt: prompt.to_owned(), kind, answer };
        self.asks.send(ask).await.map_err(|_| Error::Here("the line editor has ended".to_owned()))?;
        answered.await.map_err(gone)?
    }
}

type LineEditor = Editor<Assistant, FileHistory>;

fn editor(assistant: Assistant, history: Option<&std::path::Path>) -> rustyline::Result<LineEditor> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES_MAX)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = LineEditor::with_config(config)?;
    editor.set_helper(Some(assistant));
    if let Some(history) = history
        && let Err(error) = editor.load_history(history)
    {
        tracing::debug!(%error, "no history yet");
    }
    Ok(editor)
}

fn read(editor: &mut LineEditor, ask: &Ask, history: Option<&std::path::Path>) -> Result<Typed> {
    if let Some(assistant) = editor.helper_mut() {
        assistant.assist(ask.kind == Kind::Command);
    }
    match editor.readline(&ask.prompt) {
        Ok(line) => {
            if ask.kind == Kind::Command && !line.trim().is_empty() {
                remember(editor, &line, history);
            }
            Ok(Typed::Line(line))
        }
        Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
        Err(ReadlineError::Eof) => Ok(Typed::End),
        Err(error) => Err(terminal_error(error)),
    }
}

/// A history that cannot be kept is no reason to stop.
fn remember(editor: &mut LineEditor, line: &str, history: Option<&std::path::Path>) {
    let added = editor.add_history_entry(line).and_then(|_| match history {
        Some(history) => editor.append_history(history),
        None => Ok(()),
    });
    if let Err(error) = added {
        tracing::debug!(%error, "the history was not kept");
    }
}

/// In the XDG folder for state.
fn history_file() -> Option<PathBuf> {
    xdg::BaseDirectories::with_prefix("dfs").place_state_file("history").ok()
}

fn terminal_error(error: ReadlineError) -> Error {
    Error::Here(format!("the terminal: {error}"))
}
