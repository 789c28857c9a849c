//! `vmon man`: renders manual pages from the help texts.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use vmon::terminal::Messages;

use super::output::print;
use super::{Cli, Failure};

/// Print the manual page of vmon or of one of its commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon man | man -l -
  vmon man run | man -l -
  vmon man --out-dir /usr/local/share/man/man1    write all pages: vmon.1, vmon-run.1 ...")]
pub struct ManArgs {
    /// Subcommand whose page is printed [default: vmon itself]
    #[arg(value_name = "SUBCOMMAND")]
    command: Option<String>,

    /// Write the pages of all commands to this directory
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

/// The definition of the command line, with the display names of subcommands.
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
        let failed = Failure::directory("directory of the pages", directory, "--out-dir");
        std::fs::write(&path, page(command)).map_err(failed)?;
    }
    Ok(())
}

/// Renders one page. The notes after the options keep their line breaks, because they have columns.
fn page(command: &Command) -> String {
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let version = concat!("vmon ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(version).manual("vmon").section("1");
    let mut page = Vec::new();
    // Writing to a Vec does not fail.
    let _ = man.render_title(&mut page);
    let _ = man.render_name_section(&mut page);
    let _ = man.render_synopsis_section(&mut page);
    let _ = man.render_description_section(&mut page);
    let _ = man.render_options_section(&mut page);
    if command.has_subcommands() {
        let _ = man.render_subcommands_section(&mut page);
    }
    let mut page = String::from_utf8_lossy(&page).into_owned();
    if !notes.is_empty() {
        page.push_str(".SH NOTES\n.nf\n");
        for line in notes.lines() {
            page.push_str(&escaped(line));
            page.push('\n');
        }
        page.push_str(".fi\n");
    }
    ascii(&page)
}

/// Escapes a line so that roff prints it literally.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// Escapes other characters by code point: roff reads bytes in an encoding of its own.
fn ascii(page: &str) -> String {
    let mut ascii = String::with_capacity(page.len());
    for character in page.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            ascii.push_str(&format!("\\[u{:04X}]", u32::from(character)));
        }
    }
    ascii
}
