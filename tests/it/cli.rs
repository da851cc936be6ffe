//! The command line as a user and a script see it: real processes, exit codes, JSON, a piped shell.

mod entries;
mod files;
mod health;
mod locks;
mod many;
mod moves;
mod shell;
