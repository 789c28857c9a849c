//! Renders docs/commands.md from the definition of the command line, and fails when the committed
//! file differs.
//!
//! After a change of options or help texts, write the file anew:
//!
//! ```sh
//! VMON_UPDATE_DOCS=1 cargo test --bin vmon reference
//! ```

use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::Cli;

/// The text above the generated part.
const HEAD: &str = "\
# Commands and options

<!-- Generated from the definition of the command line. Do not edit: change the help text, then run
     VMON_UPDATE_DOCS=1 cargo test -p vmon-cli --bin vmon reference -->

This page has every command and option. `vmon help`, `vmon SUBCOMMAND --help` and
`vmon man SUBCOMMAND` print the same text.

- In `vmon run`, options come before the command to run.
- NAME is the name of a sandbox, or CONFIG/NAME if several configs have that name.
  A command that takes several names processes all of them. It reports each failure on stderr and
  continues with the next name.
- Before a command reads the record, it closes each run whose supervisor was killed, and ends the
  processes of that run ([Stopping](stopping.md#a-supervisor-that-is-killed)).
- `--sandbox-name` is an alias of `--name`, and `--sandbox-db-path` of `--db`.
  `--forward-output=false` is an alias of `--no-forward`.
- `ps`, `history`, `events`, `stats` and `prune` take `--json`, and `inspect` always prints JSON:
  [JSON output](json.md) has every key.
";

/// Options that are listed once, in a table of their own.
const COMMON: [&str; 4] = ["state_dir", "db", "log_level", "help"];

/// Renders the page.
fn reference() -> String {
    let mut vmon = Cli::command().disable_help_subcommand(true);
    vmon.build();
    let shown = |command: &&Command| !command.is_hide_set();
    let mut page = String::from(HEAD);

    page.push_str("\n| command | purpose |\n| --- | --- |\n");
    for command in vmon.get_subcommands().filter(shown) {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!("| [`{name}`](#vmon-{name}) | {} |\n", text(&about)));
    }

    page.push_str("\n## Common options\n\nAll commands take these options, except where the section of a command says otherwise.\n");
    let ps = vmon.find_subcommand("ps").into_iter();
    let common: Vec<String> =
        ps.flat_map(Command::get_arguments).filter(|arg| is_common(arg)).map(row).collect();
    page.push_str(&table("option", &common));

    for command in vmon.get_subcommands().filter(shown) {
        section(&mut page, command);
    }
    page.push_str("\n## Notes and exit codes\n");
    notes(&mut page, &vmon);
    page
}

fn section(page: &mut String, command: &Command) {
    page.push_str(&format!("\n## vmon {}\n\n", command.get_name()));
    let about = command.get_long_about().or(command.get_about());
    page.push_str(&about.map(|about| text(&about.to_string())).unwrap_or_default());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    page.push_str(&format!("\n\n```text\n{usage}\n```\n"));

    let shown: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set()).collect();
    let rows = |keep: &dyn Fn(&Arg) -> bool| -> Vec<String> {
        shown.iter().filter(|arg| keep(arg) && !is_common(arg)).map(|arg| row(arg)).collect()
    };
    page.push_str(&table("argument", &rows(&Arg::is_positional)));
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in &shown {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        let of_heading = |arg: &Arg| !arg.is_positional() && arg.get_help_heading() == heading;
        page.push_str(&table(heading.unwrap_or("option"), &rows(&of_heading)));
    }
    if shown.iter().filter(|arg| is_common(arg)).count() < COMMON.len() {
        page.push_str("\nOf the common options it takes `--help` only.\n");
    }
    notes(page, command);
}

/// The notes after the options. They keep their line breaks, because they have columns.
fn notes(page: &mut String, command: &Command) {
    if let Some(notes) = command.get_after_help() {
        let notes = notes.to_string();
        let lines: Vec<&str> = notes.lines().map(str::trim_end).collect();
        page.push_str(&format!("\n```text\n{}\n```\n", lines.join("\n")));
    }
}

fn is_common(arg: &Arg) -> bool {
    COMMON.contains(&arg.get_id().as_str())
}

fn table(first: &str, rows: &[String]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("\n| {first} | meaning | default |\n| --- | --- | --- |\n{}", rows.concat())
}

/// An option or argument as a table row.
fn row(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    // Defaults that depend on something are part of the help text.
    let (help, mut default) =
        match help.strip_suffix(']').and_then(|help| help.rsplit_once(" [default: ")) {
            Some((help, default)) => (help.to_owned(), text(default)),
            None => (help, String::new()),
        };
    if let [value, ..] = arg.get_default_values()
        && takes_value(arg)
    {
        default = format!("`{}`", value.to_string_lossy());
    }
    let values: Vec<String> = match takes_value(arg) {
        true => arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
        false => Vec::new(),
    };
    let mut meaning = text(&help);
    if !values.is_empty() {
        meaning.push_str(&format!(". Values: `{}`", values.join("`, `")));
    }
    format!("| {} | {} | {} |\n", syntax(arg), cell(&meaning), cell(&default))
}

/// The syntax on the command line.
fn syntax(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let several = arg.get_num_args().is_some_and(|count| count.max_values() > 1);
    let value = format!("{}{}", value.join(" "), if several { "..." } else { "" });
    let spellings = [
        arg.get_short().map(|short| format!("-{short}")),
        arg.get_long().map(|long| format!("--{long}")),
    ];
    let mut spellings: Vec<String> = spellings.into_iter().flatten().collect();
    match (spellings.last_mut(), takes_value(arg)) {
        (Some(last), true) => last.push_str(&format!(" {value}")),
        (Some(_), false) => {}
        (None, _) => spellings.push(value),
    }
    cell(&format!("`{}`", spellings.join("`, `")))
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Escapes `|`, which would end the cell, in code too.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Help text as Markdown: options, variables and quoted words are code.
fn text(help: &str) -> String {
    let mut markdown = String::new();
    let mut rest = help;
    while let Some(next) = rest.chars().next() {
        let starts_word =
            markdown.chars().next_back().is_none_or(|c| c.is_whitespace() || c == '(');
        let code = if starts_word { code(rest) } else { None };
        let (code, taken) = code.unwrap_or(("", next.len_utf8()));
        match code {
            "" => markdown.push(next),
            code => markdown.push_str(&format!("`{code}`")),
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    markdown
}

/// The code span at the beginning of the text, and its length in the text.
fn code(text: &str) -> Option<(&str, usize)> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let ends = quoted.match_indices('\'').map(|(at, _)| at);
        let mut ends = ends.filter(|at| {
            let after = quoted.get(at + 1..).and_then(|rest| rest.chars().next());
            !after.is_some_and(char::is_alphanumeric)
        });
        let end = ends.next()?;
        return Some((quoted.get(..end)?, end + 2));
    }
    let is_code = |prefix: &str| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(char::is_alphabetic))
    };
    if is_code("--") || is_code("$") {
        let part = |c: char| c.is_ascii_alphanumeric() || "-_$/".contains(c);
        let end = text.find(|c| !part(c)).unwrap_or(text.len());
        return Some((text.get(..end)?, end));
    }
    None
}

#[test]
fn the_reference_of_commands_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    let page = reference();
    if std::env::var_os("VMON_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(committed.lines()).find(|(expected, found)| expected != found);
    assert!(
        page == committed,
        "docs/commands.md is not current: {differs:?}; update it with VMON_UPDATE_DOCS=1 cargo test -p vmon-cli --bin vmon reference"
    );
}

#[test]
fn options_and_quoted_words_of_a_help_text_become_code() {
    assert_eq!(text("see --since and $HOME/x"), "see `--since` and `$HOME/x`");
    assert_eq!(text("run 'zstd -q --rm', or '--'"), "run `zstd -q --rm`, or `--`");
    assert_eq!(
        text("the command's and '-' or the users' own"),
        "the command's and `-` or the users' own"
    );
    assert_eq!(text("(--a) x--b $ -- 'open"), "(`--a`) x--b $ -- 'open");
}
