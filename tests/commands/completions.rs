//! Shell completion and manual pages.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{State, wait};

/// Loads the completion script like a user, and calls it like bash at a TAB.
const ASK: &str = r#"
source <(vmon completions bash) || exit
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
function=$(complete -p vmon)
function=${function#* -F }
"${function%% *}" vmon "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

fn with_vmon_in_path(command: &mut Command) -> &mut Command {
    let directory = Path::new(env!("CARGO_BIN_EXE_vmon")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", directory.display()))
}

/// The candidates of bash for the last word.
fn offered(state: &State, words: &[&str]) -> Vec<String> {
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", ASK, "bash"]).args(words).env("VMON_STATE_DIR", state.path());
    let output = with_vmon_in_path(&mut bash).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn ran(state: &State, config: &str, name: &str) {
    assert!(
        wait(&mut state.run(name, &["--config-file", config], "true").spawn().unwrap()).success()
    );
}

#[test]
fn bash_completes_commands_options_and_values() {
    let state = State::new();
    assert_eq!(offered(&state, &["vmon", "hi"]), ["history"]);
    assert_eq!(offered(&state, &["vmon", "ps", "--al"]), ["--all"]);
    assert_eq!(offered(&state, &["vmon", "run", "--tty", "al"]), ["always"]);
    assert_eq!(offered(&state, &["vmon", "completions", "b"]), ["bash"]);
}

#[test]
fn bash_completes_names_of_the_record() {
    let state = State::new();
    assert!(!offered(&state, &["vmon", "history", "w"]).contains(&"web".to_owned()));
    ran(&state, "a", "web");
    ran(&state, "a", "db");
    assert_eq!(offered(&state, &["vmon", "history", "w"]), ["web"]);
    ran(&state, "b", "web");
    assert_eq!(offered(&state, &["vmon", "history", "a"]), ["a/web"]);
    assert_eq!(offered(&state, &["vmon", "history", "db", "b"]), ["b/web"]);
}

#[test]
fn bash_completes_filters_with_the_labels_of_the_record() {
    let state = State::new();
    state.ran("web", &["--label", "app=shop", "--label", "x=two words"], "true");
    let filters = ["label=app", "label=app=shop", "label=x", "name=web"];
    let all = offered(&state, &["vmon", "rm", "--filter", ""]);
    assert_eq!(all[..4], filters, "{all:?}");
    // bash has split the word.
    let words = ["vmon", "prune", "--filter", "label", "=", "a"];
    assert_eq!(offered(&state, &words), ["app", "app=shop"]);
    let words = ["vmon", "events", "--filter", "=", "label", "=", "app", "="];
    assert_eq!(offered(&state, &words), ["shop"]);
}

#[test]
fn names_are_those_of_the_state_directory_on_the_command_line() {
    let (state, other) = (State::new(), State::new());
    ran(&other, "a", "elsewhere");
    let directory = other.path().to_str().unwrap();
    let words = ["vmon", "history", "--state-dir", directory, "else"];
    assert_eq!(offered(&state, &words), ["elsewhere"]);
}

#[test]
fn every_supported_shell_has_a_script_and_others_are_a_usage_error() {
    let state = State::new();
    for shell in ["bash", "fish", "zsh"] {
        let output = state.vmon().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("VMON_COMPLETE"), "{shell}");
    }
    let output = state.vmon().args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}

/// The page, and the messages of roff if it is installed.
fn page(state: &State, args: &[&str]) -> (String, Option<Output>) {
    let output = state.vmon().arg("man").args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = state.file("page.1");
    std::fs::write(&file, &output.stdout).unwrap();
    let roff = Command::new("groff").args(["-man", "-ww", "-Tutf8"]).arg(file).output().ok();
    (String::from_utf8(output.stdout).unwrap(), roff)
}

#[test]
fn every_command_has_a_page_without_roff_warnings() {
    let state = State::new();
    let pages = state.file("pages");
    std::fs::create_dir(&pages).unwrap();
    assert!(state.vmon().arg("man").arg("--out-dir").arg(&pages).status().unwrap().success());
    let mut names: Vec<String> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.contains(&"vmon.1".to_owned()) && names.contains(&"vmon-run.1".to_owned()));
    for name in &names {
        let command = name.strip_suffix(".1").unwrap().strip_prefix("vmon").unwrap();
        let args: Vec<&str> = command.strip_prefix('-').into_iter().collect();
        let (text, roff) = page(&state, &args);
        assert_eq!(text, std::fs::read_to_string(pages.join(name)).unwrap(), "{name}");
        assert!(text.contains("Examples:"), "{name} has no example");
        if let Some(roff) = roff {
            assert_eq!(String::from_utf8_lossy(&roff.stderr), "", "{name}");
            assert!(!roff.stdout.is_empty());
        }
    }
}

#[test]
fn a_page_of_an_unknown_command_is_a_usage_error() {
    let output = State::new().vmon().args(["man", "frobnicate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8(output.stderr).unwrap().contains("frobnicate"));
}
