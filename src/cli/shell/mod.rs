//! The shell: every command without the program's name, one after the other, at a place in the namespace.
//!
//! On a terminal it has a prompt, history and completion, a failed command is told and the next one asked for. From a pipe
//! it is a script: no banner, and it stops at the first error with its exit code.

mod completion;
pub mod lines;
pub mod typed;
pub mod words;

use std::{io::IsTerminal, pin::Pin, time::Duration};

use clap::Parser;

use self::{
    completion::{Assistant, Place},
    lines::{Kind, Lines, Terminal, Typed},
};
use super::{
    arguments::Line,
    context::Context,
    error::{Error, Result, exit},
    interrupt::{Interrupt, SIGTERM, Signals},
    local::INSTRUCTIONS,
    settings::Flags,
    usage,
};
use crate::{status::Reason, types::Path};

/// The prompt does not wait longer for the cluster: the first command that needs it says what is wrong.
const FIRST_CONTACT: Duration = Duration::from_secs(2);

/// What a line asks for.
#[derive(Debug)]
enum Asked {
    Nothing,
    Quit,
    PrintDirectory,
    ChangeDirectory(String),
    Command(Box<Line>),
    /// `--help` and the like: a text, not a failure.
    Text(String),
}

/// Runs until the end of the input, `quit` or a signal. Sees to the signals itself.
pub async fn run(context: &mut Context) -> Result<()> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let assistant = is_terminal.then(Assistant::new);
    context.lines = Some(match &assistant {
        Some(assistant) => Lines::Terminal(Terminal::start(assistant.clone())?),
        None => Lines::pipe(),
    });
    if is_terminal {
        context.output.say(INSTRUCTIONS)?;
    }
    let terminal = TerminalState::saved();
    let ended = converse(context, assistant.as_ref()).await;
    terminal.restore();
    context.lines = None;
    ended
}

async fn converse(context: &mut Context, assistant: Option<&Assistant>) -> Result<()> {
    let mut signals = Signals::new()?;
    if assistant.is_some() && tokio::time::timeout(FIRST_CONTACT, context.client()).await.is_err() {
        context.output.say("the cluster does not answer yet; `ping` says more")?;
    }
    loop {
        if let Some(assistant) = assistant {
            assistant.move_to(Place { directory: Some(context.directory.clone()), client: context.connected() });
        }
        let prompt = format!("dfs:{}> ", context.directory);
        let Some(lines) = &mut context.lines else { return Ok(()) };
        let typed = tokio::select! {
            typed = lines.next(&prompt, Kind::Command) => typed?,
            signal = signals.next() => match assistant {
                // On a terminal the line editor sees Ctrl-C as a key.
                Some(_) if signal != SIGTERM => continue,
                _ => return Err(Error::Signal { signal }),
            },
        };
        let line = match typed {
            Typed::End => return Ok(()),
            Typed::Interrupted => continue,
            Typed::Line(line) => line,
        };
        context.interrupt = Interrupt::default();
        let (flags, asked) = match parse(&line) {
            Ok(Asked::Quit) => return Ok(()),
            Ok(Asked::Command(line)) => (line.flags.clone(), Ok(Asked::Command(line))),
            Ok(asked) => (Flags::default(), Ok(asked)),
            Err(error) => (Flags::of_nonsense(line.split_whitespace()), Err(error)),
        };
        // What fails is told as its line wants it.
        let usual = context.use_settings(context.settings.overridden(&flags));
        let done = match asked {
            Ok(asked) => perform(context, asked, &mut signals).await,
            Err(error) => Err(error),
        };
        let told = tell(context, done, assistant.is_some());
        context.use_settings(usual);
        told?;
    }
}

/// What became of a line; fails when the shell ends with it.
fn tell(context: &mut Context, done: Result<()>, is_terminal: bool) -> Result<()> {
    match done {
        Ok(()) => Ok(()),
        Err(error @ Error::ThrownAway) => context.output.say(&error.to_string()),
        Err(error @ Error::Signal { signal: SIGTERM }) => Err(error),
        Err(Error::Signal { .. }) if is_terminal => {
            if let Some(lines) = &mut context.lines {
                lines.forget_pasted();
            }
            context.output.say("cancelled")
        }
        Err(error) if error.is_silent() && is_terminal => Ok(()),
        Err(error) if error.is_silent() => Err(error),
        Err(error) => {
            context.output.failure(&error);
            if is_terminal { Ok(()) } else { Err(Error::Silent(error.exit_code())) }
        }
    }
}

fn parse(line: &str) -> Result<Asked> {
    let mut words = words::split(line).map_err(|error| Error::Usage(error.to_string()))?;
    if let Some(first) = words.first_mut() {
        *first = words::command(first).to_owned();
    }
    let [first, rest @ ..] = words.as_slice() else { return Ok(Asked::Nothing) };
    match (first.as_str(), rest) {
        ("quit" | "exit", []) => return Ok(Asked::Quit),
        ("pwd", []) => return Ok(Asked::PrintDirectory),
        ("cd", []) => return Ok(Asked::ChangeDirectory("/".to_owned())),
        ("cd", [directory]) => return Ok(Asked::ChangeDirectory(directory.clone())),
        ("help", []) => return Ok(Asked::Text(INSTRUCTIONS.to_owned())),
        ("quit" | "exit" | "pwd" | "cd", _) => {
            return Err(Error::Usage(format!("too many words for {first}")));
        }
        ("help", command) => {
            let first = command.first().map(|first| words::command(first).to_owned());
            words = first.into_iter().chain(command.iter().skip(1).cloned()).chain(["--help".to_owned()]).collect();
        }
        _ => {}
    }
    match Line::try_parse_from(&words) {
        Ok(line) if !line.command.is_for_the_shell() => {
            Err(Error::Usage("not in the shell; run it as a command of its own".to_owned()))
        }
        Ok(line) => match line.flags.not_for_a_line() {
            Some(flag) => Err(Error::Usage(format!("{flag} is for the shell as a whole: `dfs-cli {flag} … shell`"))),
            None => Ok(Asked::Command(Box::new(line))),
        },
        Err(error) if error.use_stderr() => Err(usage(&error)),
        Err(error) => Ok(Asked::Text(error.render().to_string())),
    }
}

async fn perform(context: &mut Context, asked: Asked, signals: &mut Signals) -> Result<()> {
    match asked {
        Asked::Nothing | Asked::Quit => Ok(()),
        Asked::Text(text) => {
            context.output.line(text.trim_end())?;
            context.output.flush()
        }
        Asked::PrintDirectory => {
            context.output.line(&context.directory.to_string())?;
            context.output.flush()
        }
        Asked::ChangeDirectory(text) => {
            let interrupt = context.interrupt.clone();
            signals.run(&interrupt, change_directory(context, &text)).await
        }
        Asked::Command(line) => {
            let interrupt = context.interrupt.clone();
            // Boxed: a command's future is large, and there is one at a time.
            let command: Pin<Box<dyn Future<Output = Result<()>>>> = Box::pin(line.command.run(context));
            signals.run(&interrupt, command).await
        }
    }
}

async fn change_directory(context: &mut Context, text: &str) -> Result<()> {
    let directory: Path = context.path(text)?;
    if !directory.is_root() {
        let entry = context.client().await?.get(&directory, Default::default()).await?;
        if !entry.is_directory() {
            let failure = crate::status::Failure::new(Reason::NotADirectory, format!("{directory} is not a directory"));
            return Err(failure.into());
        }
    }
    context.directory = directory;
    Ok(())
}

/// How the terminal was: the line editor changes it while it waits for keys, and a signal may end the shell just then.
struct TerminalState(Option<rustix::termios::Termios>);

impl TerminalState {
    fn saved() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }

    fn restore(self) {
        if let Some(state) = self.0
            && let Err(error) =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &state)
        {
            tracing::debug!(%error, "the terminal could not be put back");
        }
    }
}

/// The exit code a shell ends with, for who opens one.
pub fn exit_code(ended: &Result<()>) -> u8 {
    match ended {
        Ok(()) => exit::OK,
        Err(error) => error.exit_code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Command;

    fn command(line: &str) -> Command {
        match parse(line).unwrap() {
            Asked::Command(line) => line.command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_command_may_be_spelled_in_angle_brackets() {
        assert!(matches!(command("<write> notes.txt"), Command::Write(_)));
        assert!(matches!(command("<read> 'a b'"), Command::Read(_)));
        assert!(matches!(command("<list>"), Command::List(_)));
        assert!(matches!(command("<instructions>"), Command::Instructions));
        assert!(matches!(parse("<quit>").unwrap(), Asked::Quit));
    }

    #[test]
    fn the_shell_knows_its_own_words() {
        assert!(matches!(parse("").unwrap(), Asked::Nothing));
        assert!(matches!(parse("# a comment").unwrap(), Asked::Nothing));
        assert!(matches!(parse("exit").unwrap(), Asked::Quit));
        assert!(matches!(parse("pwd").unwrap(), Asked::PrintDirectory));
        assert!(matches!(parse("cd a").unwrap(), Asked::ChangeDirectory(directory) if directory == "a"));
        assert!(matches!(parse("cd").unwrap(), Asked::ChangeDirectory(directory) if directory == "/"));
        for line in ["read --help", "help read", "help <read>"] {
            assert!(matches!(parse(line).unwrap(), Asked::Text(text) if text.contains("--offset")), "{line}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_a_usage_error() {
        for line in [
            "nonsense",
            "read",
            "read 'a",
            "cd a b",
            "shell",
            "ls --no-such-flag",
            "<>",
            "ls --directory a:1",
            "ls --lock a:1",
            "ls --config f",
            "ls -v",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(parse("lock info").unwrap_err().line().ends_with("(see lock info --help)"));
        assert!(parse("nonsense").unwrap_err().line().ends_with("(see instructions)"));
    }

    #[test]
    fn a_line_has_flags_of_its_own() {
        let Asked::Command(line) = parse("-o json ls -l").unwrap() else { panic!("not a command") };
        assert_eq!(line.flags.output, Some(crate::cli::output::Format::Json));
    }
}
