//! `vmon completions`: prints the completion script of a shell, and answers its requests.
//!
//! At each TAB the script runs vmon with `VMON_COMPLETE` set and the words typed so far. vmon
//! prints the candidates, one a line, from its options and from the record. Without candidates the
//! shell completes file names.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory, ValueEnum};
use vmon::monitor::Labels;
use vmon::registry::{Registry, Run, RunStatus};
use vmon::terminal::Messages;

use super::output::{print, stdout};
use super::run_object::{STATES, labels};
use super::shared_args::default_db;
use super::{Cli, Failure, NOT_ALL_DONE};

/// Set by the script when it requests candidates.
const VARIABLE: &str = "VMON_COMPLETE";

/// Commands that take running sandboxes only.
const OF_RUNNING: [&str; 4] = ["attach", "stop", "kill", "stats"];

/// The signals offered as candidates. Others can be typed.
const SIGNALS: [&str; 10] =
    ["HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH"];

/// Values of `ps --format`, besides templates.
const FORMATS: [&str; 4] = ["table", "json", "names", "openmetrics"];

/// Values of `--run`, besides numbers.
const RUNS: [&str; 2] = ["last", "all"];

/// Commands whose filters are of labels only.
const LABEL_FILTERS: [&str; 2] = ["events", "prune"];

/// bash also splits words at '=' and passes it as a word of its own.
const BASH: &str = r#"_vmon() {
    local IFS=$'\n'
    COMPREPLY=($(VMON_COMPLETE=1 vmon "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _vmon vmon
"#;

const ZSH: &str = r#"#compdef vmon
_vmon() {
    local -a candidates
    candidates=(${(f)"$(VMON_COMPLETE=1 vmon "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#candidates )); then compadd -a candidates; else _files; fi
}
compdef _vmon vmon
"#;

const FISH: &str = r#"function __vmon_complete
    set -l words (commandline -opc) (commandline -ct)
    VMON_COMPLETE=1 vmon $words[2..] 2>/dev/null
end
complete -c vmon -a '(__vmon_complete)'
"#;

/// Print a completion script for a shell
///
/// Names of sandboxes are completed from the record that --state-dir and --db select.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(vmon completions bash)        in ~/.bashrc
  source <(vmon completions zsh)         in ~/.zshrc, after compinit
  vmon completions fish | source         in ~/.config/fish/config.fish
  vmon completions bash >/usr/share/bash-completion/completions/vmon")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// Prints the script.
pub fn completions(args: CompletionsArgs, _: &Messages) -> Result<u8, Failure> {
    print(match args.shell {
        Shell::Bash => BASH,
        Shell::Fish => FISH,
        Shell::Zsh => ZSH,
    })?;
    Ok(0)
}

/// Answers a request of the completion script; `None` if this is not one.
pub fn answer(args: &[OsString]) -> Option<u8> {
    std::env::var_os(VARIABLE)?;
    let words: Vec<String> =
        args.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let mut vmon = Cli::command();
    vmon.build();
    let answer: String = candidates(&vmon, &words).into_iter().map(|word| word + "\n").collect();
    match stdout(answer.as_bytes()) {
        Ok(()) => Some(0),
        Err(_) => Some(NOT_ALL_DONE),
    }
}

/// The candidates for the last word, as the shell has split it.
fn candidates(vmon: &Command, words: &[String]) -> Vec<String> {
    let (words, start) = joined(words);
    let candidates = candidates_of_whole(vmon, &words).into_iter();
    candidates.filter_map(|candidate| Some(candidate.get(start..)?.to_owned())).collect()
}

/// Joins words that bash has split at '='. The part of the last one that bash completes starts at the
/// returned position.
fn joined(words: &[String]) -> (Vec<String>, usize) {
    let mut joined: Vec<String> = Vec::new();
    let mut start = 0;
    let mut is_behind = false;
    for word in words {
        let is_sign = word == "=";
        match joined.last_mut().filter(|_| is_sign || is_behind) {
            Some(last) => {
                start = last.len() + usize::from(is_sign);
                last.push_str(word);
            }
            None => {
                start = 0;
                joined.push(word.clone());
            }
        }
        is_behind = is_sign;
    }
    (joined, start)
}

/// The candidates for the last word.
fn candidates_of_whole(vmon: &Command, words: &[String]) -> Vec<String> {
    let Some((current, before)) = words.split_last() else { return Vec::new() };
    let Some((name, before)) = before.split_first() else {
        return beginning(with_options(vmon, subcommands(vmon), current), current);
    };
    let Some(command) = vmon.find_subcommand(name) else { return Vec::new() };
    if name == "help" {
        let candidates = if before.is_empty() { subcommands(vmon) } else { Vec::new() };
        return beginning(candidates, current);
    }
    match word_kind(command, before) {
        WordKind::Value(option) => beginning(values(command, option), current),
        WordKind::Argument(number) => match current.split_once('=') {
            Some((option, value)) if option.starts_with("--") => {
                let option = option_of(command, option).map(|option| values(command, option));
                let option = beginning(option.unwrap_or_default(), value).into_iter();
                let (before, _) = current.split_at(current.len() - value.len());
                option.map(|value| format!("{before}{value}")).collect()
            }
            _ => {
                let arguments = arguments(vmon, command, number);
                beginning(with_options(command, arguments, current), current)
            }
        },
        WordKind::Positional(number) => beginning(arguments(vmon, command, number), current),
        WordKind::Command => Vec::new(),
    }
}

/// The meaning of the word to complete.
enum WordKind<'a> {
    /// The value of an option.
    Value(&'a Arg),
    /// An option, or the positional argument with this index.
    Argument(usize),
    /// The positional argument with this index, after `--`.
    Positional(usize),
    /// A word of the command to run.
    Command,
}

fn word_kind<'a>(command: &'a Command, before: &[String]) -> WordKind<'a> {
    let mut awaited: Option<&Arg> = None;
    let mut arguments = 0;
    let mut words = before.iter().peekable();
    while let Some(word) = words.next() {
        match awaited.take() {
            Some(_) => {}
            None if word == "--" => {
                let behind = arguments + words.count();
                return if runs(command) {
                    WordKind::Command
                } else {
                    WordKind::Positional(behind)
                };
            }
            None if word.starts_with('-') => {
                awaited = option_of(command, word).filter(|option| takes_value(option));
            }
            None if runs(command) => return WordKind::Command,
            None => arguments += 1,
        }
    }
    awaited.map_or(WordKind::Argument(arguments), WordKind::Value)
}

/// Whether the positional arguments are the command line of another program.
fn runs(command: &Command) -> bool {
    command.get_name() == "run"
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values() && !option.is_require_equals_set()
}

/// The option of this word, `--long` or `-s`.
fn option_of<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|option| match word.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long),
        None => option.get_short().is_some_and(|short| word == format!("-{short}")),
    })
}

fn values(command: &Command, option: &Arg) -> Vec<String> {
    match option.get_id().as_str() {
        "signal" | "stop_signal" => return SIGNALS.map(str::to_owned).into(),
        "format" => return FORMATS.map(str::to_owned).into(),
        "run" => return RUNS.map(str::to_owned).into(),
        "filter" => return filters(!LABEL_FILTERS.contains(&command.get_name())),
        _ => {}
    }
    let values = option.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    values.map(|value| value.get_name().to_owned()).collect()
}

/// The candidates for the positional argument with this index.
fn arguments(vmon: &Command, command: &Command, number: usize) -> Vec<String> {
    let last = command.get_positionals().last();
    let argument = command.get_positionals().nth(number);
    // The last argument can be repeated if it takes several values.
    let argument = argument.or_else(|| {
        last.filter(|last| last.get_num_args().is_some_and(|count| count.max_values() > 1))
    });
    match argument.map(|argument| (argument, argument.get_id().as_str())) {
        Some((_, "names" | "name")) if OF_RUNNING.contains(&command.get_name()) => {
            names(|run| run.status == RunStatus::Running)
        }
        Some((_, "names" | "name")) => names(|_| true),
        Some((_, "command")) if !runs(command) => subcommands(vmon),
        Some((argument, _)) => values(command, argument),
        None => Vec::new(),
    }
}

fn subcommands(vmon: &Command) -> Vec<String> {
    let shown = vmon.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// Adds the options if the current word starts with a dash.
fn with_options(command: &Command, mut candidates: Vec<String>, current: &str) -> Vec<String> {
    if current.starts_with('-') {
        let shown = command.get_arguments().filter(|option| !option.is_hide_set());
        candidates.extend(shown.filter_map(|option| Some(format!("--{}", option.get_long()?))));
    }
    candidates
}

fn beginning(mut candidates: Vec<String>, start: &str) -> Vec<String> {
    candidates.retain(|candidate| candidate.starts_with(start));
    candidates
}

/// The names of the sandboxes with a matching run.
fn names(wanted: impl Fn(&Run) -> bool) -> Vec<String> {
    let pair = |run: &Run| (run.name.clone(), run.config_file.clone());
    let runs = latest();
    let named: Vec<_> = runs.iter().map(pair).collect();
    let mut names: Vec<String> = runs
        .iter()
        .filter(|run| wanted(run))
        .map(|run| match named.iter().filter(|(name, _)| *name == run.name).count() {
            1 => run.name.clone(),
            _ => format!("{}/{}", run.config_file, run.name),
        })
        .filter(|name| needs_no_quotes(name))
        .collect();
    names.sort();
    names
}

/// Filters for the labels on record, and for names and states unless only labels are wanted.
fn filters(also_others: bool) -> Vec<String> {
    let mut filters = BTreeSet::new();
    for run in latest() {
        for (key, value) in labels(&run).into_iter().flat_map(Labels::iter) {
            filters.insert(format!("label={key}"));
            filters.insert(format!("label={key}={value}"));
        }
    }
    if also_others {
        filters.extend(names(|_| true).into_iter().map(|name| format!("name={name}")));
        filters.extend(STATES.map(|it| format!("status={}", it.as_str().to_ascii_lowercase())));
    }
    filters.into_iter().filter(|filter| needs_no_quotes(filter)).collect()
}

/// Whether the shell takes a word as it is. It inserts candidates unquoted, so the others are left out.
fn needs_no_quotes(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || "_.+-/=".contains(c))
}

/// The latest run of each sandbox. An error gives none, and the record is not reconciled.
fn latest() -> Vec<Run> {
    let registry = db().and_then(|db| Registry::open_existing(db).ok().flatten());
    registry.and_then(|registry| registry.latest().ok()).unwrap_or_default()
}

/// The database that the options typed so far select.
fn db() -> Option<PathBuf> {
    let words: Vec<OsString> = std::env::args_os().collect();
    default_db(option(&words, "--state-dir"), option(&words, "--db"))
}

/// The value of an option in an incomplete command line.
fn option(words: &[OsString], name: &str) -> Option<PathBuf> {
    let at = words.iter().position(|word| word == name);
    if let Some(at) = at {
        let mut values = words.iter().skip(at + 1).filter(|word| *word != "=");
        return values.next().map(PathBuf::from);
    }
    words.iter().find_map(|word| {
        let value = word.to_str()?.strip_prefix(name)?.strip_prefix('=')?;
        Some(PathBuf::from(OsStr::new(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(words: &[&str]) -> Vec<String> {
        let mut vmon = Cli::command();
        vmon.build();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        candidates(&vmon, &words)
    }

    #[test]
    fn commands_options_and_values_are_offered() {
        assert_eq!(offered(&["hist"]), ["history"]);
        assert_eq!(offered(&["--vers"]), ["--version"]);
        assert_eq!(offered(&["ps", "--al"]), ["--all"]);
        assert_eq!(offered(&["run", "--tty", "a"]), ["auto", "always"]);
        assert_eq!(offered(&["run", "--tty=al"]), ["--tty=always"]);
        assert_eq!(offered(&["run", "--tty", "=", "al"]), ["always"]);
        assert_eq!(offered(&["run", "--tty", "="]), ["auto", "always", "never"]);
        assert_eq!(offered(&["man", "hist"]), ["history"]);
        assert_eq!(offered(&["help", "hist"]), ["history"]);
        assert_eq!(offered(&["help", "stop", "hist"]), [] as [String; 0]);
        assert_eq!(offered(&["kill", "-s", "H"]), ["HUP"]);
        assert_eq!(offered(&["run", "--stop-signal=H"]), ["--stop-signal=HUP"]);
        assert_eq!(offered(&["ps", "--format", "n"]), ["names"]);
        assert_eq!(
            offered(&["ps", "--filter", "status=r"]),
            ["status=restarting", "status=running"]
        );
        assert_eq!(offered(&["rm", "--filter", "status", "=", "stoppi"]), ["stopping"]);
        assert_eq!(offered(&["rm", "--filter", "=", "status", "=", "stoppi"]), ["stopping"]);
        assert_eq!(offered(&["rm", "--filter=status=stoppi"]), ["--filter=status=stopping"]);
        assert_eq!(offered(&["prune", "--filter", "status=r"]), [] as [String; 0]);
        assert_eq!(offered(&["completions", ""]), ["bash", "fish", "zsh"]);
    }

    #[test]
    fn the_words_of_a_command_to_run_are_left_to_the_shell() {
        for words in [
            &["run", "make", "--al"][..],
            &["run", "--", ""],
            &["run", "--name", "web", "make", ""],
            &["run", "--cwd", ""],
            &["nothing", ""],
            &[],
        ] {
            assert_eq!(offered(words), [] as [String; 0], "{words:?}");
        }
    }
}
