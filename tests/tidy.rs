//! Keeps what is easily lost by accident: who imports whom, one home for syncs, and the table of errors in the docs.
//!
//! It reads the source as text. That is crude, quick, and enough: what it is to find is a line that somebody wrote without
//! thinking of the layers, not somebody who hides one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use dfs::{
    cli::OwnReason,
    status::{Reason, Retry},
};

/// What a module of the crate may import of the crate. A service may import itself; services meet in the contract alone.
const MAY_IMPORT: [(&str, &[&str]); 20] = [
    ("types", &[]),
    ("pb", &[]),
    ("durable", &["types"]),
    ("telemetry", &[]),
    ("token", &["types"]),
    ("cluster", &["types"]),
    ("config", &["types", "telemetry"]),
    ("metrics", &[]),
    ("serve", &["config", "metrics", "pb", "status"]),
    ("convert", &["types", "pb", "cluster", "status"]),
    ("status", &["types", "pb", "directory", "lock", "fileserver", "raft"]),
    ("raft", &["types", "pb", "durable", "metrics", "serve", "status"]),
    (
        "directory",
        &["types", "pb", "cluster", "config", "convert", "durable", "metrics", "raft", "serve", "status", "token"],
    ),
    (
        "lock",
        &["types", "pb", "cluster", "config", "convert", "durable", "metrics", "raft", "serve", "status", "token"],
    ),
    ("fileserver", &["types", "pb", "cluster", "config", "convert", "durable", "metrics", "serve", "status"]),
    ("client", &["types", "pb", "cluster", "convert", "serve", "status"]),
    ("check", &["types"]),
    ("cli", &["types", "check", "client", "cluster", "config", "durable", "status", "telemetry"]),
    ("bin", &["cli", "config", "telemetry", "serve", "directory", "lock", "fileserver"]),
    ("lib", &[]),
];

/// Files and folders that decide: they run the same in the simulator as in a server.
const CORES: [&str; 30] = [
    "check",
    "directory/blobs",
    "directory/census",
    "directory/command",
    "directory/commit",
    "directory/content",
    "directory/copy",
    "directory/edit",
    "directory/feed",
    "directory/fence",
    "directory/group",
    "directory/membership",
    "directory/merge",
    "directory/names",
    "directory/namespace",
    "directory/placement",
    "directory/retention",
    "directory/state",
    "directory/view",
    "directory/walk",
    "directory/writes",
    "fileserver/in_sync",
    "fileserver/patch",
    "fileserver/replica",
    "lock/clock",
    "lock/command",
    "lock/session",
    "lock/state",
    "lock/wait_queue",
    "token",
];

/// What would make a core depend on when, where or by whom it is run.
const FOREIGN_TO_CORES: [&str; 8] = [
    "tokio::",
    "tokio_util::",
    "tonic::",
    "rand::",
    "getrandom::",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
];

#[test]
fn modules_import_only_what_their_layer_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let own = source.module();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == own) else {
            wrong.push(format!("{}: no rule for module `{own}`", source.name));
            continue;
        };
        for imported in imports(&source.code).into_iter().filter(|imported| *imported != own) {
            if !allowed.contains(&imported.as_str()) {
                wrong.push(format!("{}: `{own}` may not import `{imported}`", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cores_know_no_clock_no_network_and_no_chance() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is_core()) {
        wrong.extend(foreign(&source.code).map(|foreign| format!("{}: a core that says `{foreign}`", source.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the code of a core may not say but does. What is on the wire is foreign too, however it is imported.
fn foreign(code: &str) -> impl Iterator<Item = &'static str> {
    let said = FOREIGN_TO_CORES.into_iter().filter(|foreign| code.contains(foreign));
    said.chain(imports(code).contains("pb").then_some("crate::pb"))
}

#[test]
fn what_is_foreign_to_a_core_is_found_in_every_spelling() {
    let found = |code| foreign(code).collect::<Vec<_>>();
    for code in ["use crate::pb::Blob;", "use crate::{pb, types};", "use crate::{types::{Path, Version}, pb::Blob};"] {
        assert_eq!(found(code), ["crate::pb"], "{code}");
    }
    assert_eq!(found("let now = Instant::now();"), ["Instant::now"]);
    assert!(found("use crate::types::pb_like;").is_empty());
}

#[test]
fn every_core_named_here_exists() {
    let sources = sources();
    let gone: Vec<_> = CORES.iter().filter(|core| !sources.iter().any(|source| source.is_below(core))).collect();
    assert!(gone.is_empty(), "no such files: {gone:?}");
}

#[test]
fn only_durable_syncs_and_renames() {
    let calls = [".sync_all(", ".sync_data(", "fs::rename(", "fdatasync(", "fsync("];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "durable") {
        wrong.extend(
            calls.iter().filter(|call| source.code.contains(**call)).map(|call| format!("{}: {call}", source.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_warning_is_silenced_and_no_test_is_left_out() {
    let marks = ["#[allow(", "#![allow(", "#[expect(", "#![expect(", "#[ignore", "todo!(", "unimplemented!("];
    let mut wrong = Vec::new();
    // What is generated has a style of its own.
    for source in sources().iter().filter(|source| source.module() != "pb") {
        wrong.extend(
            marks.iter().filter(|mark| source.whole.contains(**mark)).map(|mark| format!("{}: {mark}", source.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tables_of_errors_in_the_docs_are_those_in_the_code() {
    let docs = fs::read_to_string(root().join("docs/errors.md")).expect("docs/errors.md");
    let (of_servers, of_cli) = docs.split_once("## Reasons of dfs-cli").expect("two tables");

    let rows = rows_of(of_servers);
    let written: Vec<_> = rows.iter().map(|row| row[..4].join(" | ")).collect();
    let expected: Vec<_> = Reason::ALL.iter().map(|&reason| row(reason)).collect();
    assert_eq!(written, expected, "docs/errors.md and src/status differ");
    assert!(rows.iter().all(|row| row.len() == 5 && !row[4].is_empty()), "every reason says what it means");

    let rows = rows_of(of_cli);
    let written: Vec<_> = rows.iter().map(|row| (row[0], row[1].parse().ok())).collect();
    let expected: Vec<_> = OwnReason::ALL.iter().map(|own| (own.as_str(), own.exit_code())).collect();
    assert_eq!(written, expected, "docs/errors.md and src/cli/own_reason.rs differ");
    assert!(rows.iter().all(|row| row.len() == 3 && !row[2].is_empty()), "every reason says what it means");
}

/// The rows of a table whose first cell is code, cell by cell.
fn rows_of(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

fn row(reason: Reason) -> String {
    let retry = match reason.retry() {
        Retry::Never => "no",
        Retry::Redo => "redo",
        Retry::Later => "later",
        Retry::AfterRefresh => "refresh",
    };
    let code: String = format!("{:?}", reason.code())
        .chars()
        .flat_map(|letter| letter.is_uppercase().then_some('_').into_iter().chain([letter.to_ascii_uppercase()]))
        .collect();
    format!("{reason} | {} | {retry} | {}", code.trim_matches('_'), reason.exit_code())
}

/// A file of `src`.
struct Source {
    /// Below `src`, with `/`.
    name: String,
    whole: String,
    /// Without comments and without the tests at the end.
    code: String,
}

impl Source {
    fn module(&self) -> String {
        let first = self.name.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs").to_owned()
    }

    fn is_core(&self) -> bool {
        CORES.iter().any(|core| self.is_below(core))
    }

    /// The file `core.rs` or anything in the folder `core`.
    fn is_below(&self, core: &str) -> bool {
        self.name.strip_prefix(core).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    fn is_test(&self) -> bool {
        self.name.contains("/tests") || self.name.ends_with("_tests.rs") || self.name.contains("/testing")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 10, "the sources are not where they are looked for");
    let read = |file: PathBuf| {
        let whole = fs::read_to_string(&file).expect("readable");
        let name = file.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        Source { name, code: without_tests_and_comments(&whole), whole }
    };
    files.into_iter().map(read).filter(|source| !source.is_test()).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn without_tests_and_comments(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that the code names: `crate::a::b`, `crate::{a, b::c}`, `dfs::a`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for prefix in ["crate::", "use dfs::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(first_names(group)),
                None => found.extend(leading_name(rest)),
            }
        }
    }
    found
}

/// The first names of `a::b, c::{d, e}}…`, up to the brace that closes.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut begins) = (0, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            letter if begins && !letter.is_whitespace() => {
                names.extend(leading_name(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
    // A type of the crate's root, or a macro's own `$crate::`, is no module.
    (!name.is_empty()).then_some(name)
}

#[test]
fn imports_are_found_in_every_spelling() {
    let code = "use crate::pb;\nuse crate::{\n    convert::{self, cluster},\n    types::Path,\n};\nlet x = crate::status::f();\nuse dfs::cli::run;";
    let found: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(found, ["cli", "convert", "pb", "status", "types"]);
}
