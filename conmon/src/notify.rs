//! The proxy of sd_notify(3): what the container says of its state goes to the service manager,
//! without what must not come from a container.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::{debug, warn};
use vmon::monitor::{Service, ServiceContext};
use vmon::reactor::{Interest, Ready, SourceId};

use crate::failure::Failure;

/// The directory below the bundle, which the engine has made and mounts in the container.
const DIRECTORY: &str = "notify";

/// The socket in it.
const NAME: &str = "notify.sock";

/// The longest message of a container. The rest of a longer one is lost.
const LONGEST: usize = 4096;

/// How many messages are passed on in one turn of the loop.
const AT_ONCE: usize = 16;

/// The lines that are passed on as they are.
const LINES: [&[u8]; 5] =
    [b"READY=1", b"RELOADING=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger"];

/// The beginnings of the other lines that are passed on. `MAINPID` is the engine's to send.
const BEGINNINGS: [&[u8]; 4] = [b"STATUS=", b"ERRNO=", b"BUSERROR=", b"MONOTONIC_USEC="];

/// The socket of the container, and the address of the service manager's.
#[derive(Debug)]
pub struct NotifyProxy {
    socket: UnixDatagram,
    host: PathBuf,
    source: Option<SourceId>,
}

impl NotifyProxy {
    /// Makes the socket, in the place of an earlier one. Messages wait in it until the container is
    /// monitored.
    ///
    /// # Errors
    ///
    /// It can't be made.
    pub fn listen(bundle: &Path, host: &Path) -> Result<Self, Failure> {
        let path = bundle.join(DIRECTORY).join(NAME);
        let listen = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Through the directory's descriptor: its path may be longer than a socket's address.
            let directory = File::open(bundle.join(DIRECTORY))?;
            let address = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd());
            let socket = UnixDatagram::bind(address)?;
            // Any user of the container may send.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket =
            listen().map_err(Failure::of(format!("can't make the socket {}", path.display())))?;
        Ok(Self { socket, host: host.to_owned(), source: None })
    }

    fn pass_on(&self, message: &[u8]) {
        let lines = passed_on(message);
        if lines.is_empty() {
            return;
        }
        let sent = UnixDatagram::unbound().and_then(|unbound| {
            unbound.set_nonblocking(true)?;
            unbound.send_to(&lines, &self.host)
        });
        if let Err(error) = sent {
            warn!("can't notify {}: {error}", self.host.display());
        }
    }
}

/// The lines of a message that are passed on, joined by newlines.
fn passed_on(message: &[u8]) -> Vec<u8> {
    let lines = message.split(|byte| matches!(byte, b'\n' | b'\r'));
    let is_passed_on = |line: &&[u8]| {
        LINES.contains(line) || BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
    };
    lines.filter(is_passed_on).collect::<Vec<_>>().join(&b'\n')
}

impl Service for NotifyProxy {
    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.source = Some(cx.register(&self.socket, Interest::READ, 0)?);
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, cx: &mut ServiceContext<'_, '_>) {
        let mut message = [0; LONGEST];
        for _ in 0..AT_ONCE {
            match self.socket.recv(&mut message) {
                Ok(count) => self.pass_on(message.get(..count).unwrap_or_default()),
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        debug!("can't receive a notification: {error}");
                    }
                    self.source.into_iter().for_each(|it| cx.would_block(it, Interest::READ));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_a_container_may_send_are_passed_on() {
        let text = |message: &str| String::from_utf8(passed_on(message.as_bytes())).unwrap();
        assert_eq!(text("READY=1"), "READY=1");
        assert_eq!(text("MAINPID=7\nREADY=1\rSTATUS=up: 1\n"), "READY=1\nSTATUS=up: 1");
        assert_eq!(text("READY=10\nREADY=0\nFDSTORE=1\n\n"), "");
        let all = "RELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger\nERRNO=2\nBUSERROR=x\n\
                   MONOTONIC_USEC=5";
        assert_eq!(text(all), all);
        assert_eq!(text("WATCHDOG=2\n STATUS=x"), "");
    }

    #[test]
    fn the_socket_is_open_to_all_and_a_message_goes_on() {
        let scratch = tempfile::tempdir().unwrap();
        // Longer than the address of a socket.
        let bundle = scratch.path().join("b".repeat(200));
        fs::create_dir_all(bundle.join(DIRECTORY)).unwrap();
        let host_path = scratch.path().join("host");
        let host = UnixDatagram::bind(&host_path).unwrap();
        let proxy = NotifyProxy::listen(&bundle, &host_path).unwrap();
        let path = bundle.join(DIRECTORY).join(NAME);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o777);
        proxy.pass_on(b"X=1");
        proxy.pass_on(b"X=1\nREADY=1");
        let mut received = [0; 100];
        let count = host.recv(&mut received).unwrap();
        assert_eq!(&received[..count], b"READY=1");
    }
}
