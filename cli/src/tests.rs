//! The definition of the command line agrees with itself and with its documentation.

mod reference;

use clap::CommandFactory;

use super::*;

#[test]
fn a_subcommand_alone_has_the_same_help_as_among_the_others() {
    let mut vmon = Cli::command();
    vmon.build();
    for among in vmon.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let name = among.get_name().to_owned();
        let mut alone = Subcommand::alone(&name).unwrap();
        alone.build();
        let alone = alone.find_subcommand_mut(&name).unwrap();
        let (alone, among) = (alone.render_long_help(), among.render_long_help());
        assert_eq!(alone.to_string(), among.to_string());
    }
    assert!(Subcommand::alone("help").is_none());
    assert!(Subcommand::alone("RUN").is_none());
}

#[test]
fn the_help_has_an_example_of_each_command() {
    let mut vmon = Cli::command();
    vmon.build();
    for command in vmon.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(
            name == "help"
                || NOTES.contains(&format!("vmon {name} "))
                || NOTES.contains(&format!("vmon {name}\n")),
            "{name}"
        );
        let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(name == "help" || own.contains("Examples:\n"), "{name}");
    }
}
