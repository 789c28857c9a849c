//! The errors of the command line as clap finds them, in one line.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::Cli;

/// Reduces clap's message to one line: the problem, then its suggestion or how to get help.
pub fn one_line(error: &clap::Error, args: &[OsString]) -> String {
    let subcommand = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default();
    match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return "nothing to do: give a subcommand, such as 'run' or 'ps'; see 'vmon --help'"
                .to_owned();
        }
        ErrorKind::MissingRequiredArgument if subcommand == "run" => return no_command(args),
        _ => {}
    }
    let rendered = error.render().to_string();
    let mut paragraphs = without_usage(&rendered).split("\n\n").map(joined);
    let problem = paragraphs.next().unwrap_or_default();
    let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
    // The tip to pass an unknown option as a value after `--` is right only for an option of the
    // command.
    let tips = paragraphs.find(|text| text.starts_with("tip: ")).unwrap_or_default();
    match tips.split("tip: ").find(|tip| !tip.is_empty() && !tip.starts_with("to pass ")) {
        Some(tip) => format!("{problem}; {}", tip.trim_end()),
        None if lists_values(error.kind(), problem) => problem.to_owned(),
        None => format!("{problem}; see '{} --help'", command_name(subcommand)),
    }
}

/// Joins the lines of a paragraph.
fn joined(paragraph: &str) -> String {
    paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// Whether the message itself lists the accepted values.
fn lists_values(kind: ErrorKind, problem: &str) -> bool {
    kind == ErrorKind::ValueValidation || problem.contains("[possible values:")
}

fn command_name(subcommand: &str) -> String {
    match Cli::command().find_subcommand(subcommand) {
        Some(command) => format!("vmon {}", command.get_name()),
        None => "vmon".to_owned(),
    }
}

/// Removes the last paragraphs of clap's message. Searches from the end, because the message can
/// quote an argument with any text.
fn without_usage(rendered: &str) -> &str {
    ["\n\nFor more information", "\n\nUsage:"]
        .iter()
        .fold(rendered, |text, end| text.rsplit_once(end).map_or(text, |(before, _)| before))
}

fn no_command(args: &[OsString]) -> String {
    let layers = |arg: &OsString| arg.to_string_lossy().starts_with("--overlayfs-layer");
    let hint =
        if args.iter().any(layers) { " ('--' ends the paths of --overlayfs-layer)" } else { "" };
    format!("no command to run: vmon run [OPTIONS] [--] COMMAND [ARG]...{hint}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn error_of(args: &[&str]) -> String {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        one_line(&Cli::try_parse_from(&args).unwrap_err(), &args)
    }

    #[test]
    fn a_usage_error_is_one_line_with_a_suggestion() {
        assert_eq!(
            error_of(&["vmon", "run", "--nmae", "x", "true"]),
            "unexpected argument '--nmae' found; a similar argument exists: '--name'"
        );
        assert_eq!(
            error_of(&["vmon", "run", "--qqq", "true"]),
            "unexpected argument '--qqq' found; see 'vmon run --help'"
        );
        assert_eq!(
            error_of(&["vmon", "run", "--tty", "maybe", "true"]),
            "invalid value 'maybe' for '--tty <WHEN>' [possible values: auto, always, never]"
        );
        assert_eq!(
            error_of(&["vmon", "run", "--b\nUsage: x", "true"]),
            "unexpected argument '--b Usage: x' found; see 'vmon run --help'"
        );
        assert_eq!(
            error_of(&["vmon"]),
            "nothing to do: give a subcommand, such as 'run' or 'ps'; see 'vmon --help'"
        );
    }

    #[test]
    fn a_missing_command_is_reported_with_the_syntax() {
        let line = error_of(&["vmon", "run"]);
        assert_eq!(line, "no command to run: vmon run [OPTIONS] [--] COMMAND [ARG]...");
        let line = error_of(&["vmon", "run", "--overlayfs-layer", "/a", "true"]);
        assert!(line.ends_with("('--' ends the paths of --overlayfs-layer)"), "{line}");
    }
}
