//! The header: compilers, and what is said of each function.

use std::fs;
use std::process::Command;

use crate::common::{cc, is_there, package, strict, succeed};

/// The declarations of the header's functions, each on one line with single spaces, in its order.
pub fn prototypes() -> Vec<String> {
    let header = fs::read_to_string(package("include/vmon.h")).unwrap();
    let mut code = String::new();
    let mut rest = &*header;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let declarations = code.lines().filter(|line| !line.trim_start().starts_with('#'));
    let declarations = declarations.collect::<Vec<_>>().join(" ");
    let declarations = declarations.split(';').map(str::split_whitespace);
    let declarations = declarations.map(|words| words.collect::<Vec<_>>().join(" "));
    declarations.filter(|it| it.contains("vmon_") && it.ends_with(')')).collect()
}

/// The name of a declared function.
pub fn name(prototype: &str) -> &str {
    let before = prototype.split_once('(').unwrap().0;
    before.rsplit([' ', '*']).next().unwrap()
}

#[test]
fn compilers_of_c_and_cxx_accept_the_header() {
    if !cc() {
        return;
    }
    for (compiler, language, standard, require) in [
        ("cc", "c", "c99", "VMON_REQUIRE_CC"),
        ("c++", "c++", "c++11", "VMON_REQUIRE_CC"),
        ("clang", "c", "c99", "VMON_REQUIRE_CLANG"),
        ("clang", "c++", "c++11", "VMON_REQUIRE_CLANG"),
    ] {
        if is_there(compiler, require) {
            let mut command = Command::new(compiler);
            command.args(["-x", language, "-fsyntax-only"]).args(strict(standard));
            succeed(command.arg(package("tests/c/abi.c")));
        }
    }
}

#[test]
fn the_test_program_uses_every_function() {
    let program = fs::read_to_string(package("tests/c/every.c")).unwrap();
    let prototypes = prototypes();
    assert!(prototypes.len() > 40, "{prototypes:#?}");
    for prototype in prototypes {
        let name = name(&prototype);
        assert!(program.contains(&format!("{name}(")), "{name} is not used");
    }
}
