//! The tools that vmon is measured beside: which of them this machine has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::options::Options;

/// A tool of another project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// coreutils' `cat`.
    Cat,
    /// coreutils' `tee`.
    Tee,
    /// util-linux's `script`.
    Script,
    /// `tini`.
    Tini,
    /// s6's logger.
    S6Log,
    /// s6's supervisor.
    S6Supervise,
    /// runit's logger.
    Svlogd,
    /// daemontools' logger.
    Multilog,
    /// The container engines' monitor.
    Conmon,
    /// `dtach`.
    Dtach,
    /// `tmux`.
    Tmux,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Cat,
        Self::Tee,
        Self::Script,
        Self::Tini,
        Self::S6Log,
        Self::S6Supervise,
        Self::Svlogd,
        Self::Multilog,
        Self::Conmon,
        Self::Dtach,
        Self::Tmux,
    ];

    /// The program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Cat => "cat",
            Self::Tee => "tee",
            Self::Script => "script",
            Self::Tini => "tini",
            Self::S6Log => "s6-log",
            Self::S6Supervise => "s6-supervise",
            Self::Svlogd => "svlogd",
            Self::Multilog => "multilog",
            Self::Conmon => "conmon",
            Self::Dtach => "dtach",
            Self::Tmux => "tmux",
        }
    }
}

/// What is installed.
pub struct Peers {
    found: BTreeMap<Peer, PathBuf>,
    /// The command that this benchmark is about.
    pub vmon: PathBuf,
    /// The same, linked statically; `None` while it is not known, or not wanted.
    pub static_vmon: Option<PathBuf>,
    /// The monitor of containers; `None` while it is not known, or not wanted.
    pub vmon_conmon: Option<PathBuf>,
    /// The same, linked statically.
    pub static_vmon_conmon: Option<PathBuf>,
}

impl Peers {
    /// Looks in `PATH`, and where daemons lie.
    pub fn find(options: &Options) -> Self {
        let find = |peer: Peer| {
            let path = match (peer, &options.conmon) {
                (Peer::Conmon, Some(path)) => path.clone(),
                _ => in_path(peer.program())?,
            };
            Some((peer, path))
        };
        Self {
            found: Peer::ALL.into_iter().filter_map(find).collect(),
            vmon: env!("CARGO_BIN_EXE_vmon").into(),
            static_vmon: options.static_vmon.given(),
            vmon_conmon: options.vmon_conmon.given(),
            static_vmon_conmon: options.static_vmon_conmon.given(),
        }
    }

    /// Where a tool is.
    pub fn path(&self, peer: Peer) -> Option<&Path> {
        self.found.get(&peer).map(PathBuf::as_path)
    }

    /// The programs that are not there.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = Peer::ALL.into_iter().filter(|peer| !self.found.contains_key(peer));
        missing.map(Peer::program).collect()
    }

    /// The installed programs, with the versions of their packages where dpkg has them.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        let version = |(peer, path): (&Peer, &PathBuf)| (peer.program(), package_version(path));
        self.found.iter().map(version).collect()
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(more);
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

fn package_version(path: &Path) -> String {
    let ask = || {
        // Merged /usr: dpkg may know it by either name.
        let other = Path::new("/").join(path.strip_prefix("/usr").ok()?);
        let owner = [path, &other].into_iter().find_map(|path| {
            let answer = output(Command::new("dpkg-query").arg("-S").arg(path))?;
            Some(answer.split(':').next()?.to_owned())
        })?;
        output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", &owner]))
    };
    ask().unwrap_or_else(|| "version unknown".to_owned())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
