//! The memory cgroup of a process, and its count of OOM kills, in cgroup v1 and v2: cgroups(7), and
//! the kernel's documents `cgroup-v1/memory.rst` and `cgroup-v2.rst`.
//!
//! Nothing is cached: a count costs six system calls where cgroups are mounted at the usual places.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::{is_cgroup, value};

/// Which hierarchy has the memory controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Version {
    fn usual_mount(self) -> &'static Path {
        Path::new(match self {
            Self::V1 => "/sys/fs/cgroup/memory",
            Self::V2 => "/sys/fs/cgroup",
        })
    }

    /// The file that reports OOM events.
    pub(crate) fn events(self) -> &'static str {
        match self {
            Self::V1 => "memory.oom_control",
            Self::V2 => "memory.events",
        }
    }
}

/// The place of a process in the hierarchy with the memory controller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemoryCgroup {
    pub(crate) version: Version,
    /// Relative to the root of the cgroup namespace of this process (cgroup_namespaces(7)).
    path: String,
}

/// A file with a count of OOM kills, and its value.
pub(crate) type OomKillCount = (PathBuf, u64);

impl MemoryCgroup {
    /// The memory cgroup of a process, or of this one; `None` if the kernel has no cgroups.
    ///
    /// For a zombie, the path in v1 is the root: the kernel has taken it out of its cgroup.
    ///
    /// # Errors
    ///
    /// `/proc/PID/cgroup` can't be read.
    pub(crate) fn of(pid: Option<u32>) -> io::Result<Option<Self>> {
        let list = match pid {
            Some(pid) => read(Path::new(&format!("/proc/{pid}/cgroup")))?,
            None => read(Path::new("/proc/self/cgroup"))?,
        };
        Ok(Self::parse(&list))
    }

    fn parse(list: &str) -> Option<Self> {
        let lines = list.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let mut found = None;
        for (controllers, path) in lines {
            // Where v1 has the controller, v2 does not (a hybrid).
            if controllers.split(',').any(|controller| controller == "memory") {
                return Some(Self { version: Version::V1, path: path.to_owned() });
            }
            if controllers.is_empty() {
                found = Some(Self { version: Version::V2, path: path.to_owned() });
            }
        }
        found
    }

    /// Calls `probe` with the directory of the cgroup: that below the usual mount point, and if it
    /// does not exist, those below the mount points of `/proc/self/mountinfo`.
    pub(crate) fn find<T>(&self, probe: impl Fn(&Path) -> Option<T>) -> Option<T> {
        let usual = below(self.version.usual_mount(), Path::new("/"), &self.path);
        if let Some(usual) = usual {
            match probe(&usual) {
                None if usual.is_dir() => return None,
                None => {}
                found => return found,
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounts = mounts.lines().filter_map(|line| mount(line, self.version));
        let mut directories = mounts.filter_map(|(root, at)| below(&at, &root, &self.path));
        directories.find_map(|directory| probe(&directory))
    }

    /// The count of members that an OOM kill has ended; `None` if there is none or it can't be
    /// read, as for a root cgroup of v2.
    pub(crate) fn oom_kills(&self) -> Option<OomKillCount> {
        self.find(|directory| match self.version {
            Version::V1 => count(directory.join(Version::V1.events())),
            Version::V2 => oom_kills_in(directory),
        })
    }
}

/// The count of OOM kills of the processes in this cgroup v2.
///
/// A cgroup without the memory controller is accounted for in its nearest ancestor with it.
pub(crate) fn oom_kills_in(directory: &Path) -> Option<OomKillCount> {
    // Since Linux 5.2, and without the victims in cgroups below.
    count(directory.join("memory.events.local"))
        .or_else(|| count(directory.join(Version::V2.events())))
        .or_else(|| oom_kills_in(directory.parent().filter(|parent| is_cgroup(parent))?))
}

/// `oom_kill` of a file with OOM events; `None` if it can't be read.
pub(crate) fn oom_kills_of(file: &Path) -> Option<u64> {
    value(&read(file).ok()?, "oom_kill")
}

fn count(file: PathBuf) -> Option<OomKillCount> {
    let kills = oom_kills_of(&file)?;
    Some((file, kills))
}

/// As [`fs::read_to_string`], with three system calls for a file below 4 KiB: the kernel returns
/// such a file of `/proc` or of a cgroup with one read(2).
pub(crate) fn read(file: &Path) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let count = File::open(file)?.read(&mut buffer)?;
    match buffer.get(..count).filter(|text| text.len() < buffer.len()) {
        Some(text) => String::from_utf8(text.to_vec()).map_err(io::Error::other),
        None => fs::read_to_string(file),
    }
}

/// The directory of `path` below a mount of the cgroup `root`; `None` for a path outside of it.
fn below(mount: &Path, root: &Path, path: &str) -> Option<PathBuf> {
    let inside = Path::new(path).strip_prefix(root).ok()?;
    // `/..` stands for a cgroup outside of the cgroup namespace.
    let is_outside = inside.components().any(|part| part == Component::ParentDir);
    (!is_outside).then(|| mount.join(inside))
}

/// The root and the mount point of a line of proc_pid_mountinfo(5), if it mounts the hierarchy with
/// the memory controller.
fn mount(line: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let is_wanted = match version {
        Version::V1 => name == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => name == "cgroup2",
    };
    let mut fields = mount.split(' ').skip(3).map(unescape);
    is_wanted.then_some((fields.next()?, fields.next()?))
}

/// Space, tab, newline and backslash are octal there: `\040`.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.split_at_checked(3).map(|(code, rest)| (u8::from_str_radix(code, 8), rest)) {
            Some((Ok(byte), rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest.as_bytes());
            }
            _ => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Option<(Version, String)> {
        MemoryCgroup::parse(list).map(|found| (found.version, found.path))
    }

    #[test]
    fn a_hierarchy_of_v1_with_memory_goes_before_v2() {
        let hybrid = "9:name=systemd:/init\n4:cpu,memory:/a:b/web\n0::/unified\n";
        assert_eq!(parsed(hybrid), Some((Version::V1, "/a:b/web".into())));
        let v2 = "1:name=memory:/x\n0::/web\n";
        assert_eq!(parsed(v2), Some((Version::V2, "/web".into())));
        assert_eq!(parsed("3:cpu:/web\n"), None);
        assert_eq!(parsed(""), None);
    }

    #[test]
    fn a_bind_mount_shows_only_what_is_below_its_root() {
        let line = "35 31 0:32 /docker/1 /mnt/me\\040mory rw - cgroup cgroup rw,memory";
        let (root, at) = mount(line, Version::V1).unwrap();
        assert_eq!((root.to_str(), at.to_str()), (Some("/docker/1"), Some("/mnt/me mory")));
        assert_eq!(below(&at, &root, "/docker/1/web"), Some("/mnt/me mory/web".into()));
        assert_eq!(below(&at, &root, "/docker/1"), Some("/mnt/me mory/".into()));
        assert_eq!(below(&at, &root, "/docker/12"), None);
        assert_eq!(mount(line, Version::V2), None);
        let v2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(mount(v2, Version::V2), Some(("/".into(), "/sys/fs/cgroup".into())));
    }

    #[test]
    fn a_cgroup_outside_of_the_namespace_is_not_found() {
        let at = Path::new("/sys/fs/cgroup");
        assert_eq!(below(at, Path::new("/"), "/../web"), None);
        // A mount made outside of the namespace.
        assert_eq!(below(at, Path::new("/.."), "/../web"), Some("/sys/fs/cgroup/web".into()));
    }

    #[test]
    fn an_escape_that_is_none_is_kept() {
        assert_eq!(unescape("/a\\134b\\9x\\é"), PathBuf::from("/a\\b\\9x\\é"));
    }

    #[test]
    fn the_count_without_descendants_goes_before_that_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert_eq!(oom_kills_in(at), None);
        fs::write(at.join("memory.events"), "low 0\noom 9\noom_kill 7\n").unwrap();
        assert_eq!(oom_kills_in(at), Some((at.join("memory.events"), 7)));
        fs::write(at.join("memory.events.local"), "oom 2\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert_eq!(oom_kills_in(at), Some((at.join("memory.events.local"), 2)));
    }

    #[test]
    fn a_file_of_any_size_is_read_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for size in [0, 4095, 4096, 4097, 20_000] {
            fs::write(&file, "x".repeat(size)).unwrap();
            assert_eq!(read(&file).unwrap().len(), size);
        }
    }
}
