//! Where each setting comes from: a flag, else a `DFS_*` variable, else the configuration file, else the default.
//!
//! The environment is an argument, so that the order is tested without touching the process's own.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    error::{Error, Result},
    output::Format,
};
use crate::config::parse_duration;

/// Where `dev` and the compose file put the Directory.
pub const DEFAULT_DIRECTORY: &str = "127.0.0.1:7070";
/// For one call; streams have a progress timer instead.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether to do a thing that suits a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal
    #[default]
    Auto,
    Always,
    Never,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Flags {
    /// HOST:PORT of the Directory; several with commas [env: DFS_DIRECTORY] [default: 127.0.0.1:7070]
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub directory: Option<Vec<String>>,
    /// HOST:PORT of the Lock service [env: DFS_LOCK] [default: as the Directory says]
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    pub lock: Option<Vec<String>>,
    /// How results are printed [env: DFS_OUTPUT] [default: table]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// How long one call may take [env: DFS_TIMEOUT] [default: 15s]
    #[arg(long, global = true, value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: Option<Duration>,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for every call
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// [env: DFS_COLOR] [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    pub color: Option<When>,
    /// Show the progress of long transfers [env: DFS_PROGRESS] [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    pub progress: Option<When>,
    /// Do what would be asked for
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Configuration file [env: DFS_CONFIG] [default: dfs/config.toml in the XDG folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Flags {
    /// What can be understood of a command line that makes no sense as a whole: how its failure is to be printed.
    pub fn of_nonsense<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut words = words.into_iter().take_while(|word| *word != "--");
        let mut flags = Self::default();
        while let Some(word) = words.next() {
            let value = match word {
                "-o" | "--output" => words.next(),
                _ => word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o")),
            };
            let named =
                value.and_then(|value| <Format as ValueEnum>::from_str(value.trim_start_matches('='), true).ok());
            flags.output = flags.output.or(named);
        }
        flags
    }

    /// A flag that a line of the shell cannot have: it is about the shell as a whole.
    pub fn not_for_a_line(&self) -> Option<&'static str> {
        let given = [
            ("--directory", self.directory.is_some()),
            ("--lock", self.lock.is_some()),
            ("--config", self.config.is_some()),
            ("--verbose", self.verbose > 0),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }
}

/// The configuration file: TOML, every key optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    directory: Option<OneOrMany>,
    lock: Option<OneOrMany>,
    output: Option<String>,
    timeout: Option<String>,
    color: Option<String>,
    progress: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn addresses(self) -> Vec<String> {
        match self {
            Self::One(text) => addresses(&text),
            Self::Many(list) => list,
        }
    }
}

fn addresses(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect()
}

/// Where a setting was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    Flag,
    Environment,
    File,
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// A setting and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    pub value: T,
    pub source: Source,
}

/// What a command runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub directory: Found<Vec<String>>,
    /// Empty: as the Directory says.
    pub lock: Found<Vec<String>>,
    pub output: Found<Format>,
    pub timeout: Found<Duration>,
    pub color: Found<When>,
    pub progress: Found<When>,
    /// The configuration file that was read, if there is one.
    pub file: Option<PathBuf>,
    pub quiet: bool,
    pub verbose: u8,
    pub yes: bool,
}

impl Settings {
    /// Reads the configuration file, if there is one; one that was named must be there.
    pub fn resolve(flags: &Flags, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let (path, file) = read_file(flags, &env)?;
        Ok(Self {
            directory: first(flags.directory.clone(), env("DFS_DIRECTORY").map(|text| addresses(&text)))
                .or_file(file.directory.map(OneOrMany::addresses))
                .or_default(vec![DEFAULT_DIRECTORY.to_owned()]),
            lock: first(flags.lock.clone(), env("DFS_LOCK").map(|text| addresses(&text)))
                .or_file(file.lock.map(OneOrMany::addresses))
                .or_default(Vec::new()),
            output: first(flags.output, choice("DFS_OUTPUT", env("DFS_OUTPUT"))?)
                .or_file(choice("output", file.output)?)
                .or_default(Format::Table),
            timeout: first(flags.timeout, duration("DFS_TIMEOUT", env("DFS_TIMEOUT"))?)
                .or_file(duration("timeout", file.timeout)?)
                .or_default(DEFAULT_TIMEOUT),
            color: first(flags.color, choice("DFS_COLOR", env("DFS_COLOR"))?)
                .or_file(choice("color", file.color)?)
                .or_default(if env("NO_COLOR").is_some() { When::Never } else { When::Auto }),
            progress: first(flags.progress, choice("DFS_PROGRESS", env("DFS_PROGRESS"))?)
                .or_file(choice("progress", file.progress)?)
                .or_default(When::Auto),
            file: path,
            quiet: flags.quiet,
            verbose: flags.verbose,
            yes: flags.yes,
        })
    }

    /// How a failure is told before there are settings, or when they cannot be read: by what can be understood of them.
    pub fn for_failures(flags: &Flags, env: impl Fn(&str) -> Option<String>) -> (Format, When) {
        if let Ok(settings) = Self::resolve(flags, &env) {
            return (settings.output.value, settings.color.value);
        }
        let format = flags.output.or_else(|| choice("DFS_OUTPUT", env("DFS_OUTPUT")).ok().flatten());
        (
            format.unwrap_or_default(),
            flags.color.unwrap_or(if env("NO_COLOR").is_some() { When::Never } else { When::Auto }),
        )
    }

    /// With the flags of one line of the shell on top.
    pub fn overridden(&self, flags: &Flags) -> Self {
        let mut settings = self.clone();
        if let Some(timeout) = flags.timeout {
            settings.timeout = Found { value: timeout, source: Source::Flag };
        }
        if let Some(output) = flags.output {
            settings.output = Found { value: output, source: Source::Flag };
        }
        if let Some(color) = flags.color {
            settings.color = Found { value: color, source: Source::Flag };
        }
        if let Some(progress) = flags.progress {
            settings.progress = Found { value: progress, source: Source::Flag };
        }
        settings.quiet |= flags.quiet;
        settings.yes |= flags.yes;
        settings
    }
}

/// A setting that may have been found already.
struct Search<T>(Option<Found<T>>);

fn first<T>(flag: Option<T>, env: Option<T>) -> Search<T> {
    let flag = flag.map(|value| Found { value, source: Source::Flag });
    Search(flag.or_else(|| env.map(|value| Found { value, source: Source::Environment })))
}

impl<T> Search<T> {
    fn or_file(self, file: Option<T>) -> Self {
        Self(self.0.or_else(|| file.map(|value| Found { value, source: Source::File })))
    }

    fn or_default(self, value: T) -> Found<T> {
        self.0.unwrap_or(Found { value, source: Source::Default })
    }
}

fn choice<T: ValueEnum>(name: &str, text: Option<String>) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    T::from_str(&text, true).map(Some).map_err(|_| {
        let known: Vec<_> =
            T::value_variants().iter().filter_map(T::to_possible_value).map(|v| v.get_name().to_owned()).collect();
        Error::Usage(format!("{name}: `{text}` is none of {}", known.join(", ")))
    })
}

fn duration(name: &str, text: Option<String>) -> Result<Option<Duration>> {
    text.map(|text| parse_duration(&text)).transpose().map_err(|error| Error::Usage(format!("{name}: {error}")))
}

fn read_file(flags: &Flags, env: &impl Fn(&str) -> Option<String>) -> Result<(Option<PathBuf>, File)> {
    let named = flags.config.clone().or_else(|| env("DFS_CONFIG").map(PathBuf::from));
    let must_be_there = named.is_some();
    let Some(path) = named.or_else(|| default_file(env)) else { return Ok((None, File::default())) };
    match fs::read_to_string(&path) {
        Ok(text) => parse_file(&path, &text).map(|file| (Some(path), file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be_there => Ok((None, File::default())),
        Err(error) => Err(Error::local_file(&path)(error)),
    }
}

fn default_file(env: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folder = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(folder.join("dfs").join("config.toml"))
}

fn parse_file(path: &Path, text: &str) -> Result<File> {
    toml::from_str(text).map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
}

/// A moment of the past, as `--at` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Revision(u64),
    /// Milliseconds since the Unix epoch.
    Time(u64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(revision) = text.parse() {
            return Ok(Self::Revision(revision));
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            format!("`{text}` is neither a revision nor a time: use a number, or a time such as 2026-11-21T13:00:00Z")
        })?;
        let millis = u64::try_from(time.as_millisecond()).map_err(|_| format!("`{text}` is before 1970"))?;
        Ok(Self::Time(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn a_file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let (_folder, path) = a_file("directory = \"file:1\"\noutput = \"jsonl\"\ntimeout = \"7s\"\n");
        let variables = [("DFS_CONFIG", path.as_str()), ("DFS_DIRECTORY", "env:1,env:2"), ("DFS_OUTPUT", "json")];
        let flags = Flags { output: Some(Format::Name), ..Flags::default() };

        let settings = Settings::resolve(&flags, env(&variables)).unwrap();

        assert_eq!(settings.output, Found { value: Format::Name, source: Source::Flag });
        let directory = Found { value: vec!["env:1".to_owned(), "env:2".to_owned()], source: Source::Environment };
        assert_eq!(settings.directory, directory);
        assert_eq!(settings.timeout, Found { value: Duration::from_secs(7), source: Source::File });
        assert_eq!(settings.progress, Found { value: When::Auto, source: Source::Default });
    }

    #[test]
    fn without_anything_there_are_defaults() {
        let settings = Settings::resolve(&Flags::default(), env(&[("HOME", "/nowhere")])).unwrap();
        assert_eq!(settings.directory.value, [DEFAULT_DIRECTORY]);
        assert_eq!((settings.output.value, settings.file), (Format::Table, None));
    }

    #[test]
    fn an_empty_variable_is_none() {
        let settings = Settings::resolve(&Flags::default(), env(&[("DFS_DIRECTORY", "")])).unwrap();
        assert_eq!(settings.directory.source, Source::Default);
    }

    #[test]
    fn a_named_file_must_be_there_and_know_its_keys() {
        let flags = Flags { config: Some("/nowhere/config.toml".into()), ..Flags::default() };
        assert!(matches!(Settings::resolve(&flags, env(&[])), Err(Error::Local { .. })));
        let (_folder, path) = a_file("directroy = \"a:1\"\n");
        let error = Settings::resolve(&Flags::default(), env(&[("DFS_CONFIG", &path)])).unwrap_err();
        assert!(error.to_string().contains("directroy"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_bad_variable_is_named() {
        for variable in ["DFS_OUTPUT", "DFS_TIMEOUT", "DFS_COLOR", "DFS_PROGRESS"] {
            let error = Settings::resolve(&Flags::default(), env(&[(variable, "nonsense")])).unwrap_err();
            assert!(error.to_string().starts_with(variable), "{error}");
        }
    }

    #[test]
    fn a_line_of_the_shell_overrides_what_it_names() {
        let settings = Settings::resolve(&Flags::default(), env(&[])).unwrap();
        let timeout = Some(Duration::from_secs(1));
        let flags = Flags { output: Some(Format::Json), timeout, yes: true, quiet: true, ..Flags::default() };
        let line = settings.overridden(&flags);
        assert_eq!((line.output.value, line.yes, line.quiet), (Format::Json, true, true));
        assert_eq!(line.timeout.value, Duration::from_secs(1));
        assert_eq!(line.directory, settings.directory);
    }

    #[test]
    fn the_format_is_found_in_a_line_that_makes_no_sense() {
        let format = |line: &str| Flags::of_nonsense(line.split(' ')).output;
        for line in ["-o json frobnicate", "ls --nonsense -ojson", "--output=json", "ls --output json", "ls -o=JSON"] {
            assert_eq!(format(line), Some(Format::Json), "{line}");
        }
        for line in ["ls", "ls -o", "ls -o xml", "lock run /a -- cc -o json"] {
            assert_eq!(format(line), None, "{line}");
        }
    }

    #[test]
    fn a_moment_is_a_revision_or_a_time() {
        assert_eq!("17".parse(), Ok(Moment::Revision(17)));
        assert_eq!("1970-01-01T00:00:02Z".parse(), Ok(Moment::Time(2000)));
        assert_eq!("1970-01-01T01:00:00+01:00".parse(), Ok(Moment::Time(0)));
        assert!("yesterday".parse::<Moment>().is_err());
        assert!("1960-01-01T00:00:00Z".parse::<Moment>().is_err());
    }
}
