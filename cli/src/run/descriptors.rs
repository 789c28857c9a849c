//! The descriptors of `--preserve-fd`: from the caller of vmon to the command, or to the supervisor of a
//! detached run, which gets them under the same numbers.

use std::collections::BTreeSet;
use std::io;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vmon::child::Command;

use crate::{Failure, inherited};

/// Passes inherited descriptors to the command, under their own numbers.
pub fn pass(numbers: &[i32], command: Command) -> Result<Command, Failure> {
    // One that is named twice is one.
    let numbers: BTreeSet<i32> = numbers.iter().copied().collect();
    numbers.into_iter().try_fold(command, |command, number| {
        let descriptor =
            inherited::descriptor(number).map_err(|_| Failure::NoDescriptor(number))?;
        Ok(command.descriptor(number, descriptor))
    })
}

/// The same for a command of which only the numbers of its descriptors have been handed over.
pub fn pass_missing(command: &mut Command) -> Result<(), Failure> {
    let missing = missing(command);
    if !missing.is_empty() {
        *command = pass(&missing, command.clone())?;
    }
    Ok(())
}

/// The numbers of descriptors that the command lacks.
pub fn missing(command: &Command) -> Vec<i32> {
    let descriptors = command.get_descriptors();
    descriptors.filter(|(_, given)| given.is_none()).map(|(number, _)| number).collect()
}

/// Has the next program that this process executes inherit the command's descriptors.
pub fn let_inherit(command: &Command) -> io::Result<()> {
    command
        .get_descriptors()
        .filter_map(|(_, given)| given)
        .try_for_each(|given| Ok(fcntl(given, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?))
}
