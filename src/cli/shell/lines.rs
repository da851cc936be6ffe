//! Where the shell's lines come from: an editor on a terminal, or a pipe.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Write},
    path::PathBuf,
};

use rustyline::{CompletionType, Config, Editor, error::ReadlineError, history::FileHistory};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin},
    sync::{mpsc, oneshot},
};

use super::completion::Assistant;
use crate::cli::{
    error::{Error, Result},
    table::printable,
};

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

    /// Whoever cancels a command does not want the rest of what was pasted with it.
    pub fn forget_pasted(&mut self) {
        if let Self::Terminal(terminal) = self {
            terminal.forget_pasted = true;
        }
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
    forget_pasted: bool,
    answer: oneshot::Sender<Result<Typed>>,
}

/// The line editor blocks, so it has a thread of its own, which ends when this is dropped.
pub struct Terminal {
    asks: mpsc::Sender<Ask>,
    forget_pasted: bool,
}

impl Terminal {
    pub fn start(assistant: Assistant) -> Result<Self> {
        let history = history_file();
        let editor = editor(assistant, history.as_deref()).map_err(terminal_error)?;
        let mut typist = Typist { editor, history, pasted: VecDeque::new() };
        let (asks, mut asked) = mpsc::channel::<Ask>(1);
        let thread = std::thread::Builder::new().name("line-editor".to_owned());
        // Detached: when the shell ends by a signal it may be waiting for a key that never comes.
        thread
            .spawn(move || {
                while let Some(ask) = asked.blocking_recv() {
                    let typed = typist.next(&ask);
                    if ask.answer.send(typed).is_err() {
                        tracing::debug!("nobody waits for this line any more");
                    }
                }
            })
            .map_err(Error::local("start the line editor"))?;
        Ok(Self { asks, forget_pasted: false })
    }

    async fn next(&mut self, prompt: &str, kind: Kind) -> Result<Typed> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Error::Here("the line editor has ended".to_owned());
        let forget_pasted = std::mem::take(&mut self.forget_pasted);
        let ask = Ask { prompt: prompt.to_owned(), kind, forget_pasted, answer };
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

/// What the line editor's thread holds.
struct Typist {
    editor: LineEditor,
    history: Option<PathBuf>,
    /// A paste comes as one text, and is given out line by line.
    pasted: VecDeque<String>,
}

impl Typist {
    fn next(&mut self, ask: &Ask) -> Result<Typed> {
        if ask.forget_pasted {
            self.pasted.clear();
        }
        if let Some(assistant) = self.editor.helper_mut() {
            assistant.assist(ask.kind == Kind::Command);
        }
        let line = match self.pasted.pop_front() {
            Some(line) => {
                if ask.kind == Kind::Command {
                    // Among the output of the commands before it, it would not be seen which command this is.
                    tell(&format!("{}{}", ask.prompt, printable(&line)));
                }
                line
            }
            None => match self.read(&ask.prompt)? {
                Typed::Line(text) => {
                    let mut lines = text.split('\n').map(str::to_owned);
                    let first = lines.next().unwrap_or_default();
                    self.pasted.extend(lines);
                    first
                }
                other => return Ok(other),
            },
        };
        if ask.kind == Kind::Command && !line.trim().is_empty() {
            self.remember(&line);
        }
        Ok(Typed::Line(line))
    }

    fn read(&mut self, prompt: &str) -> Result<Typed> {
        loop {
            return match self.editor.readline(prompt) {
                Ok(text) => Ok(Typed::Line(text)),
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    tell("\nthat was not UTF-8: the line was dropped, type it again");
                    continue;
                }
                Err(error) => Err(terminal_error(error)),
            };
        }
    }

    /// A history that cannot be kept is no reason to stop.
    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line).and_then(|_| match &self.history {
            Some(history) => self.editor.append_history(history),
            None => Ok(()),
        });
        if let Err(error) = added {
            tracing::debug!(%error, "the history was not kept");
        }
    }
}

/// On the terminal. When that is gone, the next line that is asked for says so.
fn tell(words: &str) {
    drop(writeln!(std::io::stderr(), "{words}"));
}

/// In the XDG folder for state.
fn history_file() -> Option<PathBuf> {
    xdg::BaseDirectories::with_prefix("dfs").place_state_file("history").ok()
}

fn terminal_error(error: ReadlineError) -> Error {
    Error::Here(format!("the terminal: {error}"))
}
