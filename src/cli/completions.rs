//! `vmon completions`: what a shell has to load, and the answers to its questions.
//!
//! The shell's script is short: at each TAB it runs vmon with `VMON_COMPLETE` set, and vmon answers
//! from its own options and from the record.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{CommandFactory, ValueEnum};
use clap_complete::CompletionCandidate;
use clap_complete::env::{Bash, CompleteEnv, Elvish, EnvCompleter, Fish, Zsh};
use vmon::registry::{Registry, Run, Status};
use vmon::terminal::Messages;

use super::output::print;
use super::shared::default_db;
use super::{Cli, Failure, NOT_ALL_DONE, OWN_FAILURE, reason, tell};

/// Set by the script when it asks.
const VARIABLE: &str = "VMON_COMPLETE";

/// Print what a shell loads so that commands, options and names complete
///
/// Names come from the record, also with --state-dir or --db on the command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(vmon completions bash)                      in ~/.bashrc
  source <(vmon completions zsh)                       in ~/.zshrc, after compinit
  vmon completions fish | source                       in ~/.config/fish/config.fish
  vmon completions bash >/usr/share/bash-completion/completions/vmon")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Zsh,
}

impl Shell {
    fn completer(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &Bash,
            Self::Elvish => &Elvish,
            Self::Fish => &Fish,
            Self::Zsh => &Zsh,
        }
    }
}

/// Prints the script.
pub fn completions(args: CompletionsArgs, _: &Messages) -> Result<u8, Failure> {
    let mut script = Vec::new();
    // A Vec takes everything.
    let written =
        args.shell.completer().write_registration(VARIABLE, "vmon", "vmon", "vmon", &mut script);
    written.map_err(|error| Failure::Output(reason(&error)))?;
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Answers a shell's question; `None` where nobody asks.
pub fn answer(args: &[OsString], messages: &Messages) -> Option<u8> {
    std::env::var_os(VARIABLE)?;
    let asked = CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    let directory = std::env::current_dir().ok();
    match asked.try_complete(args.iter().cloned(), directory.as_deref()) {
        Ok(true) => Some(0),
        Ok(false) => None,
        Err(error) => match error.kind() {
            clap::error::ErrorKind::Io => Some(NOT_ALL_DONE),
            _ => {
                tell::failure(messages, &error.to_string());
                Some(OWN_FAILURE)
            }
        },
    }
}

/// Every sandbox on record.
pub fn all_names() -> Vec<CompletionCandidate> {
    names(|_| true)
}

/// The sandboxes that run.
pub fn running_names() -> Vec<CompletionCandidate> {
    names(|run| run.status == Status::Running)
}

/// The sandboxes with a run that is wanted. Whatever is wrong with the record, a TAB is not the
/// moment to tell it; and nothing is reconciled for one.
fn names(wanted: impl Fn(&Run) -> bool) -> Vec<CompletionCandidate> {
    let Some(registry) = db().and_then(|db| Registry::open_existing(db).ok().flatten()) else {
        return Vec::new();
    };
    let mut pairs: Vec<(String, String)> =
        registry.runs().unwrap_or_default().into_iter().filter(wanted).map(pair).collect();
    pairs.sort();
    pairs.dedup();
    let candidate = |(name, config_file): &(String, String)| {
        let alone = pairs.iter().filter(|(other, _)| other == name).count() == 1;
        let text = if alone { name.clone() } else { format!("{config_file}/{name}") };
        // It is put on a command line: one that would not come back the same is left out.
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-/".contains(c);
        text.chars().all(plain).then(|| CompletionCandidate::new(text))
    };
    pairs.iter().filter_map(candidate).collect()
}

fn pair(run: Run) -> (String, String) {
    (run.name, run.config_file)
}

/// The database that the command line so far is about.
fn db() -> Option<PathBuf> {
    let words: Vec<OsString> = std::env::args_os().collect();
    default_db(option(&words, "--state-dir"), option(&words, "--db"))
}

/// The value of an option in a command line that need not be complete.
fn option(words: &[OsString], name: &str) -> Option<PathBuf> {
    words.iter().enumerate().find_map(|(at, word)| {
        if word == name {
            return words.get(at + 1).map(PathBuf::from);
        }
        let value = word.to_str()?.strip_prefix(name)?.strip_prefix('=')?;
        Some(PathBuf::from(OsStr::new(value)))
    })
}
