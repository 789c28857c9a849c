//! `vmon attach`: our terminal, or our streams, at a sandbox that runs.
//!
//! A loop of its own on the library's reactor, with one thread. The sandbox never waits for us; what
//! we are too slow for its supervisor leaves out, and says so.

mod flow;
mod keys;
mod session;

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tracing::info;
use vmon::control::Client;
use vmon::monitor::{Attach, AttachTo, SessionId, command_signals};
use vmon::reactor::Reactor;
use vmon::terminal::{Messages, Terminal};

use super::args::ConsoleChoice;
use super::live::{self, Endings, LiveError};
use super::select::{Record, Recorded, Selector, Tally};
use super::shared::SharedArgs;
use super::tell::{self, LogLevel};
use super::{Failure, signalled};
use keys::{Keys, Search};
use session::{Outcome, Session, Typing};

/// How long the supervisor may take to be told our window's size.
const RESIZE_TIMEOUT: Duration = Duration::from_secs(2);

/// Use a sandbox that runs: its output comes here, and what you type goes there
///
/// Any number of people can be attached at once. A command with a terminal gets the size of
/// yours. The command goes on when you leave, and when your input ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
KEYS is a list such as ctrl-p,ctrl-q: each a character, or ctrl- and one of a-z, @, [, \\, ], ^, _.
The empty list is never typed. Keys count at a terminal. That still edits lines where the command
is on pipes: keys whose last is no control character need Enter there, and Ctrl-C leaves too. What
comes through a pipe is the command's, whatever it is.

Examples:
  vmon attach web                    leave with Ctrl-P Ctrl-Q
  vmon attach web --tail 4KiB        see first what came last
  vmon attach web --read-only        look on; Ctrl-C leaves too
  vmon attach vm --console hvc0      at that console of a VM
  echo status | vmon attach monitor  send a line, and read until the sandbox ends")]
pub struct AttachArgs {
    /// The sandbox, as NAME, or as CONFIG/NAME where several configs have that name
    #[arg(value_name = "NAME")]
    name: Selector,

    /// This console, or stdio for the command's own streams [default: where the terminal of its
    /// 'vmon run' was, or would have been]
    #[arg(long, value_name = "CONSOLE")]
    console: Option<ConsoleChoice>,

    /// Send nothing
    #[arg(long)]
    read_only: bool,

    /// The keys that leave; the empty string for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: Keys,

    /// Do not read our stdin at all: the keys have no effect, and Ctrl-C leaves
    #[arg(long)]
    no_stdin: bool,

    /// How much of the log's end comes first, in bytes
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = vmon::values::size)]
    tail: u64,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// The streams of one sandbox.
struct Streams {
    /// The terminal's, or stdout and what goes to stdin.
    main: UnixStream,
    stderr: Option<UnixStream>,
    session: SessionId,
    tty: bool,
}

/// Attaches until the sandbox ends or we leave.
pub fn attach(args: AttachArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    let sandbox = match record.find(&args.name) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            tally.failed(&error.to_string());
            return Ok(tally.code());
        }
    };
    let outcome = match connect(&args, sandbox) {
        Ok(streams) => {
            let outcome = relay(&args, sandbox, streams)?;
            told(outcome, &args, &record, sandbox, messages)
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(code) => return Ok(code),
        Err(error) => tally.failed(&format!("can't attach to {sandbox}: {error}")),
    }
    Ok(tally.code())
}

fn connect(args: &AttachArgs, sandbox: &Recorded) -> Result<Streams, LiveError> {
    let to = args.console.as_ref().map(|console| match console {
        ConsoleChoice::Stdio => AttachTo::Stdout,
        ConsoleChoice::Named(name) => AttachTo::Console(name.clone()),
    });
    let main = Attach { to, read_only: args.read_only, tail: args.tail };
    let (attached, main) =
        live::connect(sandbox)?.attach(&main).map_err(|error| match (error.name(), &main.to) {
            (Some("NoSuchConsole"), Some(AttachTo::Console(name))) => {
                LiveError::NoSuchConsole { name: name.clone(), others: consoles(sandbox) }
            }
            _ => error.into(),
        })?;
    // What is at the other end of a console is a terminal's line.
    let tty = matches!(attached.to, AttachTo::Tty | AttachTo::Console(_));
    let stderr = if tty { None } else { connect_stderr(sandbox)? };
    Ok(Streams { main, stderr, session: attached.session, tty })
}

/// What can be named instead.
fn consoles(sandbox: &Recorded) -> String {
    let status = live::connect(sandbox).and_then(|mut client| Ok(client.status()?));
    let consoles = status.map(|status| status.consoles).unwrap_or_default();
    let names: Vec<&str> = consoles.iter().map(|console| console.name.as_str()).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// `None` where a host's child has no such pipe.
fn connect_stderr(sandbox: &Recorded) -> Result<Option<UnixStream>, LiveError> {
    let stderr = Attach { to: Some(AttachTo::Stderr), read_only: true, tail: 0 };
    match live::connect(sandbox)?.attach(&stderr) {
        Ok((_, stderr)) => Ok(Some(stderr)),
        Err(error) if error.name() == Some("NoSuchStream") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn relay(args: &AttachArgs, sandbox: &Recorded, streams: Streams) -> Result<Outcome, Failure> {
    let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
    reactor.watch_signals(command_signals()).map_err(Failure::SetUp)?;
    let at_terminal = io::stdin().is_terminal();
    let typing = match streams.tty {
        true => Some(Typing::Raw),
        false if at_terminal => args.detach_keys.line_end().map(Typing::Lines),
        false => None,
    };
    let terminal = typing.and_then(|typing| Some((Terminal::open()?, typing)));
    let size = Size {
        socket: sandbox.running().and_then(|run| run.socket.clone()),
        session: streams.session,
        counts: streams.tty && !args.read_only,
    };
    let search = at_terminal.then(|| Search::new(args.detach_keys.clone()));
    let session = Session::new(streams.main, streams.stderr, terminal, size)
        .reading(!args.no_stdin, search)
        .read_only(args.read_only);
    let id = reactor.add(session);
    reactor.run().map_err(Failure::Loop)?;
    // Dropped before anything is told: the terminal is back by then.
    reactor.remove(id).map_or(Err(Failure::NoEnd), Session::into_outcome)
}

/// Says how it ended; the exit code.
fn told(
    outcome: Outcome,
    args: &AttachArgs,
    record: &Record,
    sandbox: &Recorded,
    messages: &Messages,
) -> Result<u8, LiveError> {
    let say = |text: &str| {
        if io::stderr().is_terminal() && args.shared.log_level >= LogLevel::Warn {
            // Where the cursor is nobody knows.
            tell::on_new_line(messages, text);
        } else {
            info!("{text}");
        }
    };
    match outcome {
        Outcome::Left => say(&format!("left {sandbox}, which goes on")),
        Outcome::Signalled(signal) => {
            say(&format!("left {sandbox}, which goes on"));
            return Ok(signalled(signal));
        }
        Outcome::Unwritten => return Ok(1),
        Outcome::Ended => {
            let ended = match live::connect(sandbox).and_then(|mut client| Ok(client.status()?)) {
                Ok(_) => Ok(()),
                Err(error) => Endings::new(record).lost(sandbox, error).and_then(|run| {
                    let reason = run.and_then(|run| run.reason);
                    let lost = reason.as_deref() == Some("supervisor-lost");
                    if lost { Err(LiveError::Lost) } else { Ok(()) }
                }),
            };
            ended?;
            say(&format!("{sandbox} has ended"));
        }
    }
    Ok(0)
}

/// How the sandbox's terminal learns of our window's size.
struct Size {
    socket: Option<std::path::PathBuf>,
    session: SessionId,
    counts: bool,
}

impl Size {
    /// Tells it. A courtesy: nothing fails for it.
    fn tell(&self, terminal: &Terminal) {
        if let Some((rows, columns)) = terminal.size() {
            self.resize(rows, columns);
        }
    }

    /// Tells it so that a program which has filled the screen fills ours, also if the size is what
    /// it was: a terminal tells its program of changes only (SIGWINCH, tty_ioctl(4)).
    fn tell_anew(&self, terminal: &Terminal) {
        if let Some((rows, columns)) = terminal.size() {
            self.resize(rows, columns.saturating_add(1));
            self.resize(rows, columns);
        }
    }

    /// On a connection of its own.
    fn resize(&self, rows: u16, columns: u16) {
        let (true, Some(socket)) = (self.counts, &self.socket) else { return };
        let told = Client::connect(socket)
            .and_then(|client| client.timeout(RESIZE_TIMEOUT).resize(self.session, rows, columns));
        if let Err(error) = told {
            info!("can't tell the window's size: {error}");
        }
    }
}
