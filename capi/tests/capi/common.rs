//! Compiling and running programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

/// `Libs.private` of vmon.pc.
const SYSTEM_LIBRARIES: [&str; 4] = ["-lpthread", "-lm", "-ldl", "-lgcc_s"];

/// The library as it is installed, and a directory for one test.
pub struct Installed {
    prefix: &'static Path,
    work: TempDir,
}

impl Installed {
    pub fn new() -> Self {
        let work = tempfile::Builder::new().prefix("vmon-capi").tempdir().unwrap();
        Self { prefix: prefix(), work }
    }

    /// A path where the library is installed.
    pub fn path(&self, name: &str) -> PathBuf {
        self.prefix.join(name)
    }

    /// A path for a file or directory of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Compiles a C program of this package with the shared library, and returns its path.
    pub fn compile(&self, source: impl AsRef<Path>) -> PathBuf {
        let search = format!("-Wl,-rpath,{}", self.path("lib").display());
        let directory = format!("-L{}", self.path("lib").display());
        self.build(source.as_ref(), &[directory, "-lvmon".into(), search])
    }

    /// As [`compile`](Self::compile), with the static library.
    pub fn compile_static(&self, source: impl AsRef<Path>) -> PathBuf {
        let library = self.path("lib/libvmon.a").display().to_string();
        let link = [library].into_iter().chain(SYSTEM_LIBRARIES.map(String::from));
        self.build(source.as_ref(), &link.collect::<Vec<_>>())
    }

    fn build(&self, source: &Path, link: &[String]) -> PathBuf {
        let program = self.file("program");
        let mut command = Command::new("cc");
        command.args(strict("c99")).arg("-o").arg(&program).arg(package(source)).args(link);
        succeed(&mut command);
        program
    }
}

/// Where the library is installed, by `capi/install.sh`: what cargo has built beside this test.
fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
        let test = std::env::current_exe().unwrap();
        let built = test.parent().unwrap();
        let mut install = Command::new("sh");
        install.arg(package("install.sh")).arg(&prefix).env_remove("DESTDIR");
        install.env("CARGO_TARGET_DIR", built.parent().unwrap()).env("VMON_PROFILE", "deps");
        succeed(&mut install);
        prefix
    })
}

/// The options that each compiler has to accept the header with.
pub fn strict(standard: &str) -> Vec<String> {
    let include = package("include");
    ["-pedantic", "-Wall", "-Wextra", "-Werror", "-D_POSIX_C_SOURCE=200809L", "-pthread"]
        .map(String::from)
        .into_iter()
        .chain([format!("-std={standard}"), format!("-I{}", include.display())])
        .collect()
}

/// A file of this package.
pub fn package(name: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Whether this program can be run. Otherwise the test is to be skipped, which this says; with the
/// variable `require` set it fails.
pub fn is_there(program: &str, require: &str) -> bool {
    if Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success()) {
        return true;
    }
    let missing = format!("skipped: {program} is not installed");
    assert!(std::env::var_os(require).is_none(), "{missing}");
    eprintln!("{missing}");
    false
}

pub fn cc() -> bool {
    is_there("cc", "VMON_REQUIRE_CC")
}

/// Runs a command, which has to succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{error}", output.status);
    output
}

/// What a command prints.
pub fn printed<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> String {
    let output = succeed(Command::new(program).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}
