//! Stand-ins for VMMs: this test program, started with a console of the requested kind, at which it
//! answers requests.
//!
//! A module that uses it has a test named `stand_in` that is ignored and calls [`stand_in`].

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::own_test;

/// The arguments that make this program a stand-in whose console is what `kind` and `path` say:
///
/// - `listen`: a socket that it listens at, a new connection after each reset;
/// - `connect`: one that it connects to, again after each reset;
/// - `pty`: a PTY of its own, with a link to it at `path`, another after each reset;
/// - `open`: the file at the path, opened again after each reset.
///
/// `module` is the `module_path!()` of the test `stand_in`.
pub fn arguments(module: &str, kind: &str, path: &str) -> Vec<String> {
    let program = own_test(module, "stand_in");
    let program = std::iter::once(program.get_program()).chain(program.get_args());
    let program = program.map(|word| word.to_str().unwrap().to_owned());
    let script = r#"export VMM_KIND=$1 VMM_PATH=$2; shift 2; exec "$@" >/dev/null"#;
    ["sh", "-c", script, "sh", kind, path].map(str::to_owned).into_iter().chain(program).collect()
}

/// What ends a dialogue.
enum Next {
    Reset,
    Quit,
}

/// Is the stand-in, where this process was started as one.
pub fn stand_in() {
    let (Ok(kind), Ok(path)) = (std::env::var("VMM_KIND"), std::env::var("VMM_PATH")) else {
        return;
    };
    eprintln!("the vmm begins");
    let path = PathBuf::from(path);
    match kind.as_str() {
        "listen" => {
            let listener = UnixListener::bind(&path).unwrap();
            until_quit(|| listener.accept().unwrap().0);
        }
        "connect" => until_quit(|| {
            loop {
                match UnixStream::connect(&path) {
                    Ok(stream) => break stream,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
                }
            }
        }),
        "pty" => until_quit(|| own_pty(&path)),
        "open" => until_quit(|| File::options().read(true).write(true).open(&path).unwrap()),
        // As Firecracker's serial output, which has no input.
        "write" => {
            let mut file = File::options().write(true).open(&path).unwrap();
            file.write_all(&flood()).unwrap();
        }
        _ => panic!("{kind}"),
    }
    eprintln!("the vmm ends");
    std::process::exit(0);
}

fn until_quit<C: Read + Write>(mut open: impl FnMut() -> C) {
    while let Next::Reset = dialogue(open()) {}
}

/// Greets, and answers each line.
fn dialogue(console: impl Read + Write) -> Next {
    let mut console = BufReader::new(console);
    console.get_mut().write_all(b"login: ").unwrap();
    loop {
        let mut line = Vec::new();
        match console.read_until(b'\n', &mut line) {
            Ok(0) => return Next::Reset,
            Ok(_) => {}
            // Nobody has the other side of our PTY open yet, or any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(_) => return Next::Reset,
        }
        let answer = match line.as_slice() {
            b"reset\n" => return Next::Reset,
            b"quit\n" => return Next::Quit,
            b"flood\n" => {
                console.get_mut().write_all(&flood()).unwrap();
                return Next::Quit;
            }
            line => [b"got ", line].concat(),
        };
        console.get_mut().write_all(&answer).unwrap();
    }
}

/// More than any pipe, socket or terminal holds.
pub fn flood() -> Vec<u8> {
    (0..60_000).flat_map(|line| format!("{line:07}\n").into_bytes()).collect()
}

/// The master of a new PTY, with a link to it in its place.
fn own_pty(link: &Path) -> File {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname_r(&master).unwrap();
    let mut options = File::options();
    let options = options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let slave = options.open(&path).unwrap();
    let mut modes = tcgetattr(&slave).unwrap();
    cfmakeraw(&mut modes);
    tcsetattr(&slave, SetArg::TCSANOW, &modes).unwrap();
    let _ = fs::remove_file(link);
    symlink(path, link).unwrap();
    // As QEMU does: it keeps the other side of its own PTY.
    std::mem::forget(slave);
    let master: std::os::fd::OwnedFd = master.into();
    master.into()
}
