//! What every command is given: settings, the streams, the way to the cluster, and where relative paths start.

use std::io::{BufRead, IsTerminal, Write};

use super::{
    error::{Error, Result},
    interrupt::Interrupt,
    output::Output,
    paths,
    progress::Progress,
    settings::{Found, Settings, Source},
    shell::lines::{Kind, Lines, Typed},
    table::printable,
};
use crate::{
    client::{Client, Options},
    types::{FencingToken, Path},
};

/// A lock that another process holds for this one, as `lock run` hands it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lent {
    pub token: FencingToken,
    /// The path it is good for; `None`: whatever path is written.
    pub path: Option<Path>,
}

/// The variables by which `lock run` lends its lock.
pub const LOCK_TOKEN: &str = "DFS_LOCK_TOKEN";
pub const LOCK_PATH: &str = "DFS_LOCK_PATH";

impl Lent {
    fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let Some(token) = env(LOCK_TOKEN).filter(|text| !text.is_empty()) else { return Ok(None) };
        let token = token.parse().map_err(|_| Error::Usage(format!("{LOCK_TOKEN}: `{token}` is not a token")))?;
        let path = match env(LOCK_PATH).filter(|text| !text.is_empty()) {
            Some(path) => Some(paths::resolve(&Path::root(), &path)?),
            None => None,
        };
        Ok(Some(Self { token: FencingToken(token), path }))
    }
}

pub struct Context {
    pub settings: Settings,
    pub output: Output,
    pub progress: Progress,
    /// Where relative paths start; the root outside of the shell.
    pub directory: Path,
    pub interrupt: Interrupt,
    /// In the shell: where typed lines come from.
    pub lines: Option<Lines>,
    lent: Option<Lent>,
    client: Option<Client>,
}

impl Context {
    pub fn new(settings: Settings, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Self {
            output: Output::standard(settings.output.value, settings.quiet, settings.color.value),
            progress: Progress::new(settings.progress.value, settings.quiet),
            directory: Path::root(),
            interrupt: Interrupt::default(),
            lines: None,
            lent: Lent::from_env(env)?,
            client: None,
            settings,
        })
    }

    /// With other settings for a while; the former ones come back.
    pub fn use_settings(&mut self, settings: Settings) -> Settings {
        self.output = Output::standard(settings.output.value, settings.quiet, settings.color.value);
        self.progress = Progress::new(settings.progress.value, settings.quiet);
        std::mem::replace(&mut self.settings, settings)
    }

    /// The cluster's client, connected at its first use.
    pub async fn client(&mut self) -> Result<Client> {
        let timeout = self.settings.timeout.value;
        if let Some(client) = &self.client {
            return Ok(client.with_timeout(timeout));
        }
        let mut options = Options::new(self.settings.directory.value.clone());
        options.lock = Some(self.settings.lock.value.clone()).filter(|addresses| !addresses.is_empty());
        options.timeout = timeout;
        let client = Client::connect(options).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The client, if a command has needed one.
    pub fn connected(&self) -> Option<Client> {
        self.client.clone()
    }

    /// Another cluster than the settings say.
    pub fn use_directory(&mut self, address: String) {
        self.settings.directory = Found { value: vec![address], source: Source::Flag };
        self.settings.lock = Found { value: Vec::new(), source: Source::Flag };
        self.client = None;
    }

    pub fn path(&self, text: &str) -> Result<Path> {
        paths::resolve(&self.directory, text)
    }

    /// The token to write `path` with, if another process holds its lock for this one.
    pub fn lent_token(&self, path: &Path) -> Option<FencingToken> {
        self.lent.as_ref().filter(|lent| lent.path.as_ref().is_none_or(|lent| lent == path)).map(|lent| lent.token)
    }

    /// Fails where nobody could answer a question and `-y` does not either.
    pub fn must_be_able_to_ask(&self, question: &str) -> Result<()> {
        if self.settings.yes || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Ok(());
        }
        Err(Error::Usage(format!("{question} Give -y to say yes, or -n to see what would be done")))
    }

    /// Asks before something that cannot be undone. Off a terminal nobody can answer, so `-y` must have.
    pub async fn confirm(&mut self, question: &str) -> Result<()> {
        self.must_be_able_to_ask(question)?;
        if self.settings.yes {
            return Ok(());
        }
        self.output.flush()?;
        let prompt = format!("{} [y/N] ", printable(question));
        let answer = match &mut self.lines {
            Some(lines) => lines.next(&prompt, Kind::Text).await?,
            None => Typed::Line(ask(prompt).await?),
        };
        match answer {
            Typed::Line(line) if matches!(line.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
            Typed::Line(_) | Typed::Interrupted | Typed::End => Err(Error::Here("nothing was deleted".to_owned())),
        }
    }
}

/// On a thread that may block, so that Ctrl-C is seen meanwhile.
async fn ask(prompt: String) -> Result<String> {
    let asked = tokio::task::spawn_blocking(move || {
        let mut stderr = std::io::stderr();
        write!(stderr, "{prompt}")?;
        stderr.flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(answer)
    });
    let answered = asked.await.map_err(|error| Error::Here(format!("the question was not answered: {error}")))?;
    answered.map_err(Error::local("the terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lent(variables: &[(&str, &str)]) -> Result<Option<Lent>> {
        Lent::from_env(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_lent_lock_is_for_its_path() {
        assert_eq!(lent(&[]).unwrap(), None);
        let with_path = lent(&[(LOCK_TOKEN, "77"), (LOCK_PATH, "/a")]).unwrap().unwrap();
        assert_eq!(with_path, Lent { token: FencingToken(77), path: Some("/a".parse().unwrap()) });
        assert_eq!(lent(&[(LOCK_TOKEN, "77")]).unwrap().unwrap().path, None);
        assert_eq!(lent(&[(LOCK_TOKEN, "mine")]).unwrap_err().exit_code(), 2);
    }
}
