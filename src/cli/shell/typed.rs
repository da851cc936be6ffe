//! Text typed in the shell: lines until `<end>`, `<cancel>` to throw them away, and what becomes of them when the lease
//! is lost before they are saved.

use bytes::Bytes;

use super::lines::{Kind, Lines, Typed};
use crate::{
    cli::{
        context::Context,
        error::{Error, Result},
        interrupt::Interrupt,
        locking::{Held, acquire},
        source::Source,
        write::{WriteArguments, send},
    },
    client::Receipt,
    status::Reason,
    types::Path,
};

const END: &str = "<end>";
const CANCEL: &str = "<cancel>";
const PROMPT: &str = "  ";
/// It is held in memory.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Reads until `<end>`. From a pipe, the pipe's end is one too.
pub async fn read(context: &mut Context) -> Result<Bytes> {
    let Some(lines) = &mut context.lines else {
        return Err(Error::Here("text can be typed in the shell only".to_owned()));
    };
    if lines.is_terminal() {
        context.output.say(&format!("type lines; {END} saves them, {CANCEL} throws them away"))?;
    }
    let _hold = context.interrupt.hold();
    collect(lines, &context.interrupt).await
}

async fn collect(lines: &mut Lines, interrupt: &Interrupt) -> Result<Bytes> {
    let mut text = String::new();
    loop {
        let typed = tokio::select! {
            typed = lines.next(PROMPT, Kind::Text) => typed?,
            interrupted = interrupt.raised() => return Err(interrupted),
        };
        let line = match typed {
            Typed::Line(line) => line,
            Typed::End if !lines.is_terminal() => break,
            Typed::End | Typed::Interrupted => return Err(Error::ThrownAway),
        };
        match line.trim() {
            END => break,
            CANCEL => return Err(Error::ThrownAway),
            _ => {}
        }
        if text.len() + line.len() > TEXT_BYTES_MAX {
            return Err(Error::Usage(format!("more than {TEXT_BYTES_MAX} bytes were typed; use --from FILE")));
        }
        text.push_str(&line);
        text.push('\n');
    }
    Ok(Bytes::from(text))
}

/// Locks, lets the user type while the session is kept alive, writes.
///
/// A lease that is lost meanwhile does not end the typing, and the text outlives it: it is offered to be saved under a new
/// lock. Other failures are final, but the text is offered then too where the same attempt may succeed later.
pub async fn write(context: &mut Context, path: &Path, arguments: &WriteArguments) -> Result<Receipt> {
    let mut text: Option<Bytes> = None;
    loop {
        let held = Held::new(acquire(context, path, arguments.locking()).await?);
        let written = match &text {
            Some(text) => save(context, &held, path, arguments, text.clone()).await,
            None => {
                context.output.say(&format!("{path} is locked for you"))?;
                match read(context).await {
                    Ok(typed) => {
                        text = Some(typed.clone());
                        save(context, &held, path, arguments, typed).await
                    }
                    Err(error) => Err(error),
                }
            }
        };
        held.finish(&written).await;
        match (written, &text) {
            (Err(error), Some(_)) if may_be_saved_again(&error) && wanted_again(context, &error).await? => {}
            (written, _) => return written,
        }
    }
}

async fn save(
    context: &mut Context,
    held: &Held,
    path: &Path,
    arguments: &WriteArguments,
    text: Bytes,
) -> Result<Receipt> {
    let options = arguments.options(held.precondition()?);
    let interrupt = context.interrupt.clone();
    let _hold = interrupt.hold();
    tokio::select! {
        receipt = send(context, Source::Bytes(text), path, options) => receipt,
        interrupted = interrupt.raised() => Err(interrupted),
    }
}

/// After these the text is still worth saving, and saving it may succeed.
fn may_be_saved_again(error: &Error) -> bool {
    match error {
        Error::LeaseLost(_) => true,
        Error::Failure(error) => matches!(
            error.reason(),
            Reason::SessionExpired
                | Reason::SessionNotFound
                | Reason::NotLockHolder
                | Reason::FencingTokenStale
                | Reason::NotEnoughReplicas
                | Reason::Unavailable
                | Reason::DeadlineExceeded
                | Reason::NotLeader
        ),
        _ => false,
    }
}

/// Only somebody at a terminal can answer.
async fn wanted_again(context: &mut Context, error: &Error) -> Result<bool> {
    let Some(lines) = context.lines.as_mut().filter(|lines| lines.is_terminal()) else { return Ok(false) };
    context.output.failure(error);
    let answer = lines.next("your text is still here: save it under a new lock? [Y/n] ", Kind::Text).await?;
    Ok(match answer {
        Typed::Line(line) => !line.trim().to_lowercase().starts_with('n'),
        Typed::Interrupted | Typed::End => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Failure;

    #[test]
    fn a_lost_lease_is_worth_another_attempt_and_a_bad_path_is_not() {
        let failure = |reason| Error::from(Failure::new(reason, "x"));
        assert!(may_be_saved_again(&Error::LeaseLost(String::new())));
        assert!(may_be_saved_again(&failure(Reason::FencingTokenStale)));
        assert!(!may_be_saved_again(&failure(Reason::IsADirectory)) && !may_be_saved_again(&Error::ThrownAway));
    }
}
