//! Errors keep their cause.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use vmon::child::{ChildIo, Command, Signal};
use vmon::monitor::{
    Claim, Console, Monitor, Observer, Progress, RequestError, Sandbox, Service, ServiceContext,
    StartError, Starting, Transition,
};
use vmon::reactor::{Reactor, Ready};

use crate::common::State;

/// The errno at the end of the chain of sources.
fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error().map(Errno::from_raw),
        None => errno(error.source()?),
    }
}

/// Refuses the claim, or as a service to be opened, with the error of this number.
struct Refusing(Errno);

impl Observer for Refusing {
    fn claim(&mut self, _: &Starting<'_>) -> Claim {
        Claim::Refused(io::Error::from(self.0).into())
    }
    fn transition(&mut self, _: &Transition) -> Progress {
        Progress::Done
    }
}

impl Service for Refusing {
    fn open(&mut self, _: &mut ServiceContext<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err(io::Error::from(self.0).into())
    }
    fn ready(&mut self, _: u32, _: Ready, _: &mut ServiceContext<'_, '_>) {}
    fn timer(&mut self, _: u32, _: &mut ServiceContext<'_, '_>) {}
    fn transition(&mut self, _: &Transition, _: &mut ServiceContext<'_, '_>) {}
    fn is_done(&self) -> bool {
        true
    }
}

#[test]
fn a_failed_start_keeps_the_error_of_the_system_call() {
    let state = State::new();
    let log_dir = state.path().join("log");
    let sandbox = || Sandbox::new("a", &log_dir).unwrap();
    let file = state.path().join("file");
    fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    let below_file = file.join("x");
    let console = Console::listen("x".parse().unwrap(), below_file.clone());
    let build = Monitor::builder;
    let cases = [
        (build(sandbox()), Command::new("/no/such/program"), Errno::ENOENT),
        (build(sandbox()), Command::new(&file), Errno::ENOENT),
        (build(sandbox()), Command::new(state.path()), Errno::EACCES),
        (build(sandbox()), Command::new("true").current_dir(&file), Errno::ENOTDIR),
        (build(sandbox().cgroup(&below_file)), Command::new("true"), Errno::ENOTDIR),
        (build(sandbox().console(console)), Command::new("true"), Errno::ENOTDIR),
        (build(sandbox()).observer(Refusing(Errno::EDQUOT)), Command::new("true"), Errno::EDQUOT),
        (build(sandbox()).service(Refusing(Errno::EMFILE)), Command::new("true"), Errno::EMFILE),
    ];
    let mut reactor = Reactor::new().unwrap();
    for (builder, command, expected) in cases {
        let id = builder.spawn(&mut reactor, command);
        reactor.run().unwrap();
        let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
        let error = end.error().unwrap();
        assert_eq!(errno(error), Some(expected), "{error:?}");
    }
    // A log that can't be opened.
    fs::remove_dir_all(&log_dir).unwrap();
    std::os::unix::fs::symlink("log", &log_dir).unwrap();
    let id = build(sandbox()).spawn(&mut reactor, Command::new("true"));
    reactor.run().unwrap();
    let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
    assert!(matches!(end.error(), Some(StartError::Log(_))), "{end:?}");
    assert_eq!(errno(end.error().unwrap()), Some(Errno::ELOOP), "{end:?}");
}

#[test]
fn a_signal_that_can_not_be_sent_keeps_the_error_of_the_system_call() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
    let command = Command::new("sleep").args(["1000"]);
    let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
    while reactor.get(id).unwrap().pid().is_none() {
        reactor.poll_once(None).unwrap();
    }
    let pid = i32::try_from(reactor.get(id).unwrap().pid().unwrap()).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    let sent = reactor.call(id, |monitor, _| monitor.signal_child(Signal::TERM)).unwrap();
    let error = sent.unwrap_err();
    assert!(matches!(error, RequestError::Signal { signal: Signal::TERM, .. }), "{error:?}");
    assert_eq!(errno(&error), Some(Errno::ECHILD));
    assert_eq!(error.to_string(), "can't send SIGTERM: No child processes (os error 10)");
}

#[test]
fn a_child_that_is_refused_comes_back_with_its_streams() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let number = reader.as_raw_fd();
    let io = ChildIo::Piped { stdin: None, stdout: Some(reader.into()), stderr: None };
    let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
    let error = Monitor::builder(sandbox).start(&mut reactor, 1, io).unwrap_err();
    assert_eq!(error.pid, 1);
    assert_eq!(errno(&error), Some(Errno::ECHILD));
    let ChildIo::Piped { stdin: None, stdout: Some(stdout), stderr: None } = error.io else {
        panic!("{error:?}")
    };
    assert_eq!(stdout.as_raw_fd(), number);
    // It is open still: the writer has a reader.
    nix::unistd::write(&writer, b"x").unwrap();
}
