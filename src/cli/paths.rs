//! Paths as people type them: relative to where they are, with `.`, `..` and a slash too many.
//!
//! The servers take none of that: a path on the wire is absolute and has one spelling.

use super::error::{Error, Result};
use crate::types::{BadPath, Path};

/// What `text` names, seen from `directory`. `..` at the root stays there.
pub fn resolve(directory: &Path, text: &str) -> Result<Path> {
    if text.is_empty() {
        return Err(Error::Usage("an empty path names nothing".to_owned()));
    }
    if text.contains('\0') {
        return Err(BadPath::Nul.into());
    }
    let mut segments: Vec<&str> = if text.starts_with('/') { Vec::new() } else { directory.segments().collect() };
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    Ok(format!("/{}", segments.join("/")).parse()?)
}

/// The entry of that name in a directory, for a name that came from this machine.
pub fn join(directory: &Path, name: &str) -> Result<Path> {
    Ok(directory.join(name)?)
}

/// Whether the text can only mean a directory.
pub fn names_a_directory(text: &str) -> bool {
    text.ends_with('/') || matches!(text.rsplit('/').next(), Some("." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_where_one_is() {
        let here: Path = "/a/b".parse().unwrap();
        for (text, path) in [
            ("c", "/a/b/c"),
            ("./c/", "/a/b/c"),
            ("../c", "/a/c"),
            ("../../../..", "/"),
            (".", "/a/b"),
            ("/", "/"),
            ("//x//y/", "/x/y"),
            ("/x/../y/.", "/y"),
            ("...", "/a/b/..."),
        ] {
            assert_eq!(resolve(&here, text).unwrap().as_str(), path, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_path_is_refused_with_its_reason() {
        let root = Path::root();
        assert_eq!(resolve(&root, &"n".repeat(256)).unwrap_err().exit_code(), 2);
        assert_eq!(resolve(&root, "a\0b").unwrap_err().line(), "BAD_PATH: a path has no NUL");
        assert_eq!(resolve(&root, "").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_trailing_slash_means_a_directory() {
        assert!(names_a_directory("a/") && names_a_directory(".") && names_a_directory("a/.."));
        assert!(!names_a_directory("a") && !names_a_directory("a.") && !names_a_directory("/a/..b"));
    }
}
