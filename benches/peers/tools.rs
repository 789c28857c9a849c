//! How each tool is called for one run in a directory, and where its log then is.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::modes;
use crate::scratch::files;
use crate::{Error, Result};

/// The size at which logs are rotated, in bytes.
pub const ROTATE_AT: u64 = 10 << 20;

/// More generations than any flood makes.
const ALL: &str = "100000";

/// `vmon run` of a child, under a name, with its state in `dir`.
pub fn vmon(vmon: &Path, dir: &Path, name: &str, options: &[&str], child: &[OsString]) -> Command {
    let mut command = Command::new(vmon);
    command.args(["run", "--name", name, "--state-dir"]).arg(dir);
    command.args(options).arg("--").args(child);
    command
}

/// The options of vmon that keep this many generations; `None` for all.
pub fn vmon_keeps(generations: Option<u32>) -> [String; 4] {
    let kept = generations.map_or_else(|| ALL.to_owned(), |it| it.to_string());
    ["--log-max-size".to_owned(), ROTATE_AT.to_string(), "--log-max-files".to_owned(), kept]
}

/// vmon's log of a sandbox: all generations, oldest first.
pub fn vmon_log(dir: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let logs = dir.join("log/Sandboxfile");
    let prefix = format!("{name}.log.");
    let mut paths = files(&logs, |file| file.starts_with(&prefix) && !file.ends_with(".idx"))?;
    paths.push(logs.join(format!("{name}.log")));
    Ok(paths)
}

/// A tool that reads what it logs from its stdin.
pub struct Filter {
    /// How it is called.
    pub command: Command,
    /// Where its log is when it has ended.
    pub log: Box<dyn Fn() -> Result<Vec<PathBuf>>>,
}

/// `cat > file`.
pub fn cat(cat: &Path, dir: &Path) -> Result<Filter> {
    let log = dir.join("log");
    let mut command = Command::new(cat);
    command.stdout(File::create(&log)?);
    Ok(one_file(command, log))
}

/// `tee file > /dev/null`, unless the caller sends its output elsewhere.
pub fn tee(tee: &Path, dir: &Path) -> Result<Filter> {
    let log = dir.join("log");
    let mut command = Command::new(tee);
    command.arg(&log).stdout(Stdio::null());
    Ok(one_file(command, log))
}

/// The bare loop, with a pause of this many milliseconds after a short read.
pub fn floor(dir: &Path, pause: u32) -> Result<Filter> {
    let log = dir.join("log");
    let words = modes::words("floor-pipe", &[text(&log)?, pause.to_string()])?;
    Ok(one_file(command(&words), log))
}

/// `s6-log`, which keeps all generations.
pub fn s6_log(s6_log: &Path, dir: &Path) -> Result<Filter> {
    let mut command = Command::new(s6_log);
    command.arg(format!("n{ALL}")).arg(format!("s{ROTATE_AT}")).arg(dir.join("log"));
    Ok(archive(command, dir.join("log")))
}

/// `svlogd`, which keeps all generations.
pub fn svlogd(svlogd: &Path, dir: &Path) -> Result<Filter> {
    let log = dir.join("log");
    fs::create_dir(&log)?;
    fs::write(log.join("config"), format!("s{ROTATE_AT}\nn0\n"))?;
    let mut command = Command::new(svlogd);
    command.arg(&log);
    Ok(archive(command, log))
}

/// `multilog`, which keeps all generations.
pub fn multilog(multilog: &Path, dir: &Path) -> Result<Filter> {
    let log = dir.join("log");
    let mut command = Command::new(multilog);
    command.arg(format!("s{ROTATE_AT}")).arg(format!("n{ALL}")).arg(&log);
    Ok(archive(command, log))
}

fn one_file(command: Command, log: PathBuf) -> Filter {
    Filter { command, log: Box::new(move || Ok(vec![log.clone()])) }
}

/// `@TIME.s` for each full log, in the order of time, and `current`.
fn archive(mut command: Command, dir: PathBuf) -> Filter {
    command.stdout(Stdio::null());
    let log = move || {
        let mut paths = files(&dir, |name| name.starts_with('@'))?;
        paths.push(dir.join("current"));
        Ok(paths)
    };
    Filter { command, log: Box::new(log) }
}

/// `script` of a child, with its typescript.
pub fn script(script: &Path, typescript: &Path, child: &[OsString]) -> Result<Command> {
    let mut command = Command::new(script);
    // Its shell is gone before the child runs.
    let line = format!("exec {}", shell_words(child)?);
    command.env("SHELL", "/bin/sh").args(["-q", "-e", "-c"]).arg(line).arg(typescript);
    Ok(command)
}

/// `tini` of a child. `-s`: as elsewhere than at pid 1.
pub fn tini(tini: &Path, child: &[OsString]) -> Command {
    let mut command = Command::new(tini);
    command.args(["-s", "--"]).args(child);
    command
}

/// `s6-supervise` of a service directory whose `run` is the child.
pub fn s6_supervise(s6_supervise: &Path, dir: &Path, child: &[OsString]) -> Result<Command> {
    fs::create_dir_all(dir)?;
    let run = dir.join("run");
    fs::write(&run, format!("#!/bin/sh\nexec {}\n", shell_words(child)?))?;
    fs::set_permissions(&run, Permissions::from_mode(0o755))?;
    let mut command = Command::new(s6_supervise);
    command.arg(dir);
    Ok(command)
}

/// What conmon does with its log when the child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtTheEnd {
    /// As by itself.
    Fsync,
    /// As all others do.
    NoFsync,
}

/// `conmon` of a child, with this program as its runtime and a Kubernetes log.
pub fn conmon(conmon: &Path, dir: &Path, end: AtTheEnd, child: &[OsString]) -> Result<Command> {
    let mut command = container(conmon, dir, child)?;
    // --sync: it remains our child.
    command.args(["--sync", "--log-size-max", &ROTATE_AT.to_string()]);
    if end == AtTheEnd::NoFsync {
        command.arg("--no-sync-log");
    }
    Ok(command)
}

/// A monitor of containers of a child, with this program as its runtime and a Kubernetes log, which
/// is `log` in the directory.
pub fn container(monitor: &Path, dir: &Path, child: &[OsString]) -> Result<Command> {
    let mut command = oci(monitor, dir, child)?;
    command.arg("--bundle").arg(dir).arg("--socket-dir-path").arg(dir);
    Ok(command)
}

/// A monitor of containers of a child that runs in a container which is there already, as CRI-O
/// calls it for a probe.
pub fn exec(monitor: &Path, dir: &Path, child: &[OsString]) -> Result<Command> {
    let mut command = oci(monitor, dir, child)?;
    command.args(["--sync", "--exec", "--exec-process-spec"]).arg(dir.join(modes::COMMAND));
    Ok(command)
}

fn oci(monitor: &Path, dir: &Path, child: &[OsString]) -> Result<Command> {
    fs::create_dir_all(dir)?;
    let words = child.iter().map(|word| text(word)).collect::<Result<Vec<_>>>()?;
    fs::write(dir.join(modes::COMMAND), words.join("\n"))?;
    let mut command = Command::new(monitor);
    command
        .args(["--cid", "peers", "--name", "peers", "--cuuid", "peers"])
        .args(["--runtime-arg", "@runtime", "--runtime"])
        .arg(std::env::current_exe()?)
        .arg("--container-pidfile")
        .arg(dir.join("pid"))
        .arg("--log-path")
        .arg(format!("k8s-file:{}", text(dir.join("log"))?));
    Ok(command)
}

/// `dtach`, which passes everything on, keys of its own excepted.
pub fn dtach(dtach: &Path, dir: &Path, child: &[OsString]) -> Command {
    let mut command = Command::new(dtach);
    command.arg("-A").arg(dir.join("socket")).args(["-E", "-z", "-r", "none"]).args(child);
    command
}

/// `tmux` with one window and nothing around it.
pub fn tmux(tmux: &Path, dir: &Path, child: &[OsString]) -> Result<Command> {
    let config = dir.join("tmux.conf");
    fs::write(&config, "set -g status off\nset -sg escape-time 0\n")?;
    let mut command = Command::new(tmux);
    command.arg("-S").arg(dir.join("socket")).arg("-f").arg(config);
    command.env_remove("TMUX").env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    command.arg("new-session").arg(shell_words(child)?);
    Ok(command)
}

/// These words as a command.
pub fn command(words: &[OsString]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Without a stdin, and with nothing of its output to be seen.
pub fn silent(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn text(word: impl AsRef<OsStr>) -> Result<String> {
    let word = word.as_ref();
    let text = word.to_str().filter(|text| !text.contains('\n'));
    text.map(str::to_owned).ok_or_else(|| -> Error { format!("{word:?} is no plain word").into() })
}

/// Each word quoted for a shell.
fn shell_words(words: &[OsString]) -> Result<String> {
    let quote = |word: &OsString| Ok(format!("'{}'", text(word)?.replace('\'', r"'\''")));
    Ok(words.iter().map(quote).collect::<Result<Vec<_>>>()?.join(" "))
}
