//! `@runtime`: the OCI runtime that conmon calls, as far as conmon needs one.
//!
//! `create` starts what the bundle's file `command` names, and `exec` what the file of the process
//! does, on the streams that conmon has prepared, writes its pid where conmon looks for it, and
//! leaves. The rest it allows and ignores.

use std::path::Path;
use std::process::Command;

use super::ORPHAN;
use crate::Result;

/// The file of the bundle with the command, one word a line. That of a process has the same form.
pub const COMMAND: &str = "command";

pub fn run(args: &[String]) -> Result<()> {
    let asked = |subcommand: &str| args.iter().any(|arg| arg == subcommand);
    let file = match (asked("create"), asked("exec")) {
        (true, _) => Path::new(value(args, "--bundle")?).join(COMMAND),
        (_, true) => value(args, "--process")?.into(),
        _ => return Ok(()),
    };
    let words = std::fs::read_to_string(file)?;
    let mut words = words.lines();
    let program = words.next().ok_or("an empty command")?;
    // Its parent is this process, which is about to end; conmon takes it over as subreaper.
    let child =
        Command::new(program).args(words).env(ORPHAN, std::process::id().to_string()).spawn()?;
    std::fs::write(value(args, "--pid-file")?, child.id().to_string())?;
    Ok(())
}

fn value<'a>(args: &'a [String], option: &str) -> Result<&'a str> {
    let at = args.iter().position(|arg| arg == option);
    let value = at.and_then(|at| args.get(at + 1));
    Ok(value.ok_or_else(|| format!("no {option}"))?)
}
