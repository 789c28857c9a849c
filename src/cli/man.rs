//! `vmon man`: the manual pages, from the same words as the help.

use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
use vmon::terminal::Messages;

use super::output::print;
use super::{Cli, Failure, reason};

/// Print a manual page, of vmon or of one of its commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon man | man -l -
  vmon man run | man -l -
  vmon man --out-dir /usr/local/share/man/man1    all of them, as vmon.1, vmon-run.1 ...")]
pub struct ManArgs {
    /// The command whose page is wanted [default: vmon itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,

    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out_dir: Option<PathBuf>,
}

/// Prints or writes the pages.
pub fn man(args: ManArgs, _: &Messages) -> Result<u8, Failure> {
    let vmon = vmon();
    if let Some(directory) = &args.out_dir {
        write(directory, &vmon)?;
        return Ok(0);
    }
    let command = match args.command {
        None => &vmon,
        Some(name) => vmon.find_subcommand(&name).ok_or(Failure::NoSuchCommand(name))?,
    };
    print(&page(command))?;
    Ok(0)
}

/// The command with the names of its subcommands' pages in it.
fn vmon() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write(directory: &Path, vmon: &Command) -> Result<(), Failure> {
    let visible = vmon.get_subcommands().filter(|command| !command.is_hide_set());
    for command in std::iter::once(vmon).chain(visible) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, page(command)).map_err(|error| Failure::Directory {
            what: "directory of the pages",
            path: directory.to_owned(),
            reason: reason(&error),
            option: "--out-dir",
        })?;
    }
    Ok(())
}

/// One page. What follows the options in the help keeps its lines: it has columns.
fn page(command: &Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = format!(
        ".TH {} 1 \"\" \"vmon {}\" \"vmon\"\n.SH NAME\n{} \\- {}\n",
        text(name),
        env!("CARGO_PKG_VERSION"),
        text(name),
        text(&about),
    );
    let usage = command.clone().render_usage().to_string();
    section(&mut page, "SYNOPSIS", usage.trim_start_matches("Usage:").trim());
    let described = command.get_long_about().map(ToString::to_string).unwrap_or(about);
    section(&mut page, "DESCRIPTION", &described);
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    let mut headings: Vec<&str> = shown().map(heading).collect();
    headings.sort_by_key(|heading| !["ARGUMENTS", "OPTIONS"].contains(heading));
    headings.dedup();
    let mut seen = Vec::new();
    for name in headings {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        page.push_str(&format!(".SH {}\n", text(&name.to_uppercase())));
        shown().filter(|arg| heading(arg) == name).for_each(|arg| page.push_str(&entry(arg)));
    }
    if command.has_subcommands() {
        page.push_str(".SH COMMANDS\n");
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_display_name().unwrap_or(command.get_name());
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            page.push_str(&format!(".TP\n\\fB{}\\fR(1)\n{}\n", text(name), text(&about)));
        }
    }
    if let Some(notes) = command.get_after_help() {
        page.push_str(".SH NOTES\n.nf\n");
        notes.to_string().lines().for_each(|line| page.push_str(&(text(line) + "\n")));
        page.push_str(".fi\n");
    }
    page
}

/// Paragraphs under a head.
fn section(page: &mut String, head: &str, paragraphs: &str) {
    page.push_str(&format!(".SH {head}\n"));
    let paragraphs: Vec<String> = paragraphs.split("\n\n").map(text).collect();
    page.push_str(&paragraphs.join("\n.PP\n"));
    page.push('\n');
}

fn heading(arg: &Arg) -> &str {
    match arg.get_help_heading() {
        Some(heading) => heading,
        None if arg.is_positional() => "ARGUMENTS",
        None => "OPTIONS",
    }
}

/// An option or an argument, as the help has it.
fn entry(arg: &Arg) -> String {
    let mut entry = ".TP\n".to_owned();
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let spellings: Vec<String> = [short, long]
        .into_iter()
        .flatten()
        .map(|word| format!("\\fB{}\\fR", text(&word)))
        .collect();
    entry.push_str(&spellings.join(", "));
    let takes_value = arg.get_action().takes_values() && !arg.is_require_equals_set();
    for value in arg.get_value_names().unwrap_or_default().iter().filter(|_| takes_value) {
        let gap = if arg.is_positional() { "" } else { " " };
        entry.push_str(&format!("{gap}\\fI{}\\fR", text(value)));
    }
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    entry.push_str(&format!("\n{}\n", text(&help)));
    let list = |values: Vec<String>| text(&values.join(", "));
    let shown = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    let values: Vec<String> = shown.map(|value| value.get_name().to_owned()).collect();
    if takes_value && !values.is_empty() {
        entry.push_str(&format!(".br\nOne of: {}\n", list(values)));
    }
    let defaults = arg.get_default_values().iter();
    let defaults: Vec<String> =
        defaults.map(|value| value.to_string_lossy().into_owned()).collect();
    if takes_value && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        entry.push_str(&format!(".br\nDefault: {}\n", list(defaults)));
    }
    entry
}

/// What roff takes as text, character for character: no request, no escape, no byte beyond ASCII.
fn text(words: &str) -> String {
    let mut text = String::with_capacity(words.len() + 8);
    for (at, line) in words.lines().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        if line.starts_with(['.', '\'']) {
            text.push_str("\\&");
        }
        for character in line.chars() {
            match character {
                '\\' => text.push_str("\\e"),
                '-' => text.push_str("\\-"),
                '\'' => text.push_str("\\(aq"),
                ascii if ascii.is_ascii() => text.push(ascii),
                other => text.push_str(&format!("\\[u{:04X}]", u32::from(other))),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_a_request_or_an_escape() {
        assert_eq!(text(".SH x\n'y\\z -a…"), "\\&.SH x\n\\&\\(aqy\\ez \\-a\\[u2026]");
    }
}
