//! The arguments of execve(2), prepared before the child exists, and the search in `PATH` of
//! execvp(3) without its allocations.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::c_char;
use nix::errno::Errno;

use crate::child::Command;

/// The interpreter of a file that the kernel does not recognize (`ENOEXEC`): a script without `#!`.
const SHELL: &CStr = c"/bin/sh";

/// The search path of a child without `PATH`: confstr(3)'s `_CS_PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The longest name of a program that is searched in `PATH` (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// Longer elements of `PATH` are skipped (`PATH_MAX` less the NUL).
const LONGEST_ELEMENT: usize = 4095;

/// A program with its arguments and environment.
pub(super) struct Program {
    /// The paths to try, in order.
    candidates: Vec<CString>,
    /// The error if there is no path to try.
    without_candidates: Errno,
    argv: Strings,
    envp: Strings,
    /// The arguments of [`SHELL`]: its name, the script, the arguments, NULL. The child sets the
    /// script.
    shell_argv: Vec<Cell<*const c_char>>,
}

impl Program {
    pub(super) fn new(command: &Command) -> io::Result<Self> {
        let environment = environment(command);
        let path = environment.iter().find_map(|entry| entry.strip_prefix(b"PATH="));
        let path = path.map_or(OsStr::new(DEFAULT_PATH), OsStr::from_bytes);
        let program = command.get_program();
        let candidates = candidates(program, path)?;
        let words = iter::once(program).chain(command.get_args().iter().map(OsString::as_os_str));
        let argv = Strings::new(words.map(|word| word.as_bytes().to_vec()).collect())?;
        let envp = Strings::new(environment)?;
        let arguments = argv.pointers.iter().skip(1).copied();
        let shell_argv = [SHELL.as_ptr(), ptr::null()].into_iter().chain(arguments);
        Ok(Self {
            shell_argv: shell_argv.map(Cell::new).collect(),
            candidates,
            without_candidates: match program.len() > LONGEST_NAME {
                true => Errno::ENAMETOOLONG,
                false => Errno::ENOENT,
            },
            argv,
            envp,
        })
    }

    /// Executes the program. Returns only on failure, with the error of execvp(3).
    ///
    /// Async-signal-safe.
    pub(super) fn execute(&self) -> Errno {
        let mut error = self.without_candidates;
        let mut denied = false;
        for candidate in &self.candidates {
            error = self.execute_at(candidate);
            match error {
                Errno::EACCES => denied = true,
                // The file or its file system does not exist. The list is glibc's.
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::ESTALE
                | Errno::ENODEV
                | Errno::ETIMEDOUT => {}
                _ => return error,
            }
        }
        if denied { Errno::EACCES } else { error }
    }

    fn execute_at(&self, path: &CStr) -> Errno {
        // SAFETY: the path is NUL-terminated, and both arrays are NULL-terminated and point to
        // NUL-terminated strings that `self` owns.
        unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        let error = Errno::last();
        if error != Errno::ENOEXEC {
            return error;
        }
        if let Some(script) = self.shell_argv.get(1) {
            script.set(path.as_ptr());
        }
        let shell_argv = self.shell_argv.as_ptr().cast::<*const c_char>();
        // SAFETY: as above; a Cell has the layout of its content, and the script's path outlives
        // this call.
        unsafe { libc::execve(SHELL.as_ptr(), shell_argv, self.envp.as_ptr()) };
        Errno::last()
    }
}

/// C strings, and the NULL-terminated array of their addresses.
struct Strings {
    /// The strings that `pointers` points to. They are on the heap, so they do not move.
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    fn new(strings: Vec<Vec<u8>>) -> io::Result<Self> {
        let owned = strings.into_iter().map(c_string).collect::<io::Result<Vec<_>>>()?;
        let pointers = owned.iter().map(|string| string.as_ptr());
        let pointers = pointers.chain(iter::once(ptr::null())).collect();
        Ok(Self { _owned: owned, pointers })
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

pub(super) fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "nul byte found in provided data"))
}

/// The child's environment in the form of execve(2): that of this process, with the changes of the
/// command. Entries without `=`, which std does not return, are left out.
fn environment(command: &Command) -> Vec<Vec<u8>> {
    let entry =
        |key: &OsStr, value: &OsStr| [key.as_bytes(), b"=".as_slice(), value.as_bytes()].concat();
    let mut environment = match command.get_env_clear() {
        true => Vec::new(),
        false => std::env::vars_os().map(|(key, value)| entry(&key, &value)).collect(),
    };
    for (key, value) in command.get_envs() {
        let is_other = |entry: &Vec<u8>| {
            !entry.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
        };
        environment.retain(is_other);
        environment.extend(value.as_ref().map(|value| entry(key, value)));
    }
    environment
}

/// The paths to try for `program`: itself if it has a slash, else its name in each element of
/// `path`. An empty element is the working directory.
fn candidates(program: &OsStr, path: &OsStr) -> io::Result<Vec<CString>> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return Ok(vec![c_string(name)?]);
    }
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Ok(Vec::new());
    }
    let elements = path.as_bytes().split(|&byte| byte == b':');
    let candidate = |element: &[u8]| match element {
        [] => c_string(name),
        _ => c_string([element, b"/", name].concat()),
    };
    elements.filter(|element| element.len() <= LONGEST_ELEMENT).map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str, path: &str) -> Vec<String> {
        let candidates = candidates(program.as_ref(), path.as_ref()).unwrap();
        candidates.into_iter().map(|path| path.into_string().unwrap()).collect()
    }

    #[test]
    fn a_name_without_a_slash_is_searched_in_each_element_of_path() {
        assert_eq!(found("ls", "/bin:/usr/bin"), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(found("ls", ":/bin::rel:"), ["ls", "/bin/ls", "ls", "rel/ls", "ls"]);
        assert_eq!(found("ls", ""), ["ls"]);
        assert_eq!(found("ls", &format!("{}:/bin", "x".repeat(4096))), ["/bin/ls"]);
    }

    #[test]
    fn a_name_with_a_slash_is_the_path_itself() {
        assert_eq!(found("./ls", "/bin"), ["./ls"]);
        assert_eq!(found("/ls", "/bin"), ["/ls"]);
    }

    #[test]
    fn an_invalid_file_name_is_not_searched() {
        let none: [&str; 0] = [];
        assert_eq!(found("", "/bin"), none);
        assert_eq!(found(&"x".repeat(256), "/bin"), none);
        let long = Program::new(&Command::new("x".repeat(256))).unwrap();
        assert_eq!(long.execute(), Errno::ENAMETOOLONG);
        assert_eq!(Program::new(&Command::new("")).unwrap().execute(), Errno::ENOENT);
    }
}
