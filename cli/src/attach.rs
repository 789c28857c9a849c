//! `vmon attach`: connects the terminal or the standard streams to a running sandbox.
//!
//! Runs an event loop of its own on one thread. The sandbox never waits for this client: when the
//! client reads too slowly, the supervisor drops output and writes a notice in its place.

mod attachment;
mod flow;
mod keys;
mod tail;

use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tracing::info;
use tracing::level_filters::LevelFilter;
use vmon::control::Client;
use vmon::monitor::{Attach, AttachTo, Reason, SessionId, command_signals};
use vmon::reactor::Reactor;
use vmon::terminal::{Messages, Modes, Terminal};

use super::args::ConsoleChoice;
use super::live::{self, Endings, LiveError};
use super::messages;
use super::outcome::Outcome;
use super::record::{Record, Recorded, Selector};
use super::shared_args::SharedArgs;
use super::{Failure, signalled};
use attachment::{AttachEnd, Attachment, InputMode};
use keys::{Keys, Search};
use tail::{CONTEXT, Tail};

/// Timeout of the request that reports the window size to the supervisor.
const RESIZE_TIMEOUT: Duration = Duration::from_secs(2);

/// Attach the terminal to a running sandbox
///
/// Several clients can be attached at the same time. A command that runs on a PTY gets the window
/// size of the client that typed or was resized last. Detaching, or the end of the input, does not
/// stop the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
KEYS is a comma-separated list. Each key is one character, or ctrl- followed by one of a-z, @, [,
\\, ], ^ and _. The empty string disables detaching by keys. The sequence is recognized on a terminal
only; input from a pipe is passed on unchanged. If the command runs on pipes, your terminal stays in
line mode: a sequence that does not end with a control character needs Enter, and Ctrl-C detaches.

SIZE is whole bytes or a number with KiB, MiB or GiB (short: K, M, G).

Examples:
  vmon attach web                    detach with Ctrl-P Ctrl-Q
  vmon attach web --tail 4KiB        print the end of the log first
  vmon attach web --read-only        watch without sending input; Ctrl-C detaches
  vmon attach vm --console hvc0      a console of a VM
  echo status | vmon attach monitor  send one line, then print output until the sandbox stops")]
pub struct AttachArgs {
    /// Sandbox: NAME, or CONFIG/NAME if several configs have that name
    #[arg(value_name = "NAME")]
    name: Selector,

    /// Console to attach to, or stdio for the command's own streams [default: the one that
    /// 'vmon run --interactive' selects]
    #[arg(long, value_name = "CONSOLE")]
    console: Option<ConsoleChoice>,

    /// Do not send input; Ctrl-C detaches
    #[arg(long)]
    read_only: bool,

    /// Key sequence for detaching; an empty string disables it
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: Keys,

    /// Do not attach stdin: the key sequence has no effect, and Ctrl-C detaches
    #[arg(long)]
    no_stdin: bool,

    /// Print this many bytes from the end of the log first
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = vmon::values::size)]
    tail: u64,
}

/// The connections to the streams of one sandbox.
struct Streams {
    /// The terminal or console; without one, stdout and stdin.
    main: UnixStream,
    stderr: Option<UnixStream>,
    session: SessionId,
    tty: bool,
    /// The sequences that set the modes of the sandbox's terminal.
    modes: String,
    /// The filter for the end of the log, if it is for a terminal.
    tail: Option<Tail>,
}

/// Attaches until the sandbox stops or the client detaches. Returns the exit code.
pub fn attach(args: AttachArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = Record::latest(shared)?;
    let Some(sandbox) = outcome.ok(record.find(&args.name)) else { return Ok(()) };
    let end = match connect(&args, sandbox) {
        Ok(streams) => {
            // For messages that only a user at a terminal needs.
            let says = io::stderr().is_terminal() && shared.log_level >= LevelFilter::WARN;
            let user = says.then_some(&outcome.messages);
            let end = relay(&args, sandbox, streams, user)?;
            report_end(end, &record, sandbox, user)
        }
        Err(error) => Err(error),
    };
    match end {
        Ok(code) => outcome.code = code,
        Err(error) => outcome.failed(&format!("can't attach to {sandbox}: {error}")),
    }
    Ok(())
}

fn connect(args: &AttachArgs, sandbox: &Recorded) -> Result<Streams, LiveError> {
    let to = args.console.as_ref().map(|console| match console {
        ConsoleChoice::Stdio => AttachTo::Stdout,
        ConsoleChoice::Named(name) => AttachTo::Console(name.clone()),
    });
    let filtered = args.tail > 0 && io::stdout().is_terminal();
    let tail = if filtered { args.tail.saturating_add(CONTEXT) } else { args.tail };
    let main = Attach::default().to(to).read_only(args.read_only).tail(tail);
    let (attached, main) =
        live::connect(sandbox)?.attach(&main).map_err(|error| match (error.name(), &main.to) {
            (Some("NoSuchConsole"), Some(AttachTo::Console(name))) => {
                LiveError::NoSuchConsole { name: name.clone(), others: consoles(sandbox) }
            }
            _ => error.into(),
        })?;
    // Consoles are treated as terminals: the guest has the line discipline.
    let tty = matches!(attached.to, AttachTo::Tty | AttachTo::Console(_));
    let filtered = filtered && attached.tail > 0;
    let tail = filtered.then(|| Tail::new(attached.tail, args.tail, &attached.modes));
    let stderr = if tty { None } else { connect_stderr(sandbox)? };
    Ok(Streams { main, stderr, session: attached.session, tty, modes: attached.modes, tail })
}

/// The names of the sandbox's consoles, for the error message.
fn consoles(sandbox: &Recorded) -> String {
    let status = live::connect(sandbox).and_then(|mut client| Ok(client.status()?));
    let consoles = status.map(|status| status.consoles).unwrap_or_default();
    let names: Vec<&str> = consoles.iter().map(|console| console.name.as_str()).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// `None` if the sandbox has no stderr stream, as a child of a host may not.
fn connect_stderr(sandbox: &Recorded) -> Result<Option<UnixStream>, LiveError> {
    let stderr = Attach::default().to(AttachTo::Stderr).read_only(true);
    match live::connect(sandbox)?.attach(&stderr) {
        Ok((_, stderr)) => Ok(Some(stderr)),
        Err(error) if error.name() == Some("NoSuchStream") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reports the keys that detach, unless the message would be on an alternate screen, which the
/// program draws.
fn say_how_to_leave(args: &AttachArgs, sandbox: &Recorded, streams: &Streams, messages: &Messages) {
    let mut modes = Modes::default();
    modes.scan(streams.modes.as_bytes());
    if modes.alternate_screen() {
        return;
    }
    let keys = match (&args.detach_keys, args.no_stdin || args.read_only || !streams.tty) {
        (keys, false) if keys.is_empty() => {
            return messages::failure(messages, &format!("attached to {sandbox}; no keys detach"));
        }
        (keys, true) if args.no_stdin || keys.is_empty() => "ctrl-c".to_owned(),
        (keys, true) => format!("ctrl-c, or {keys}"),
        (keys, false) => keys.to_string(),
    };
    messages::failure(messages, &format!("attached to {sandbox}; detach with {keys}"));
}

fn relay(
    args: &AttachArgs,
    sandbox: &Recorded,
    streams: Streams,
    user: Option<&Messages>,
) -> Result<AttachEnd, Failure> {
    let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
    reactor.watch_signals(command_signals()).map_err(Failure::SetUp)?;
    let at_terminal = io::stdin().is_terminal();
    if let Some(messages) = user.filter(|_| at_terminal) {
        say_how_to_leave(args, sandbox, &streams, messages);
    }
    let mode = match streams.tty {
        true => Some(InputMode::Raw),
        false if at_terminal => args.detach_keys.line_end().map(InputMode::Lines),
        false => None,
    };
    let terminal = match mode {
        Some(mode) => Terminal::open().map_err(Failure::SetUp)?.map(|terminal| (terminal, mode)),
        None => None,
    };
    let size = SizeReport {
        socket: sandbox.running().and_then(|run| run.socket.clone()),
        session: streams.session,
        counts: streams.tty && !args.read_only,
    };
    let search = at_terminal.then(|| Search::new(args.detach_keys.clone()));
    let attachment = Attachment::new(streams.main, streams.stderr, terminal, size)
        .reading(!args.no_stdin, search)
        .read_only(args.read_only)
        .beginning(streams.modes, streams.tail);
    let id = reactor.add(attachment);
    reactor.run().map_err(Failure::Loop)?;
    // Removing the session restores the terminal; messages are printed after that.
    let end = reactor.remove(id).map_or(Err(Failure::NoEnd), Attachment::into_end);
    // No loop handles signals from here on, and the record may be waited for.
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        let always = Arc::new(AtomicBool::new(true));
        let _ = signal_hook::flag::register_conditional_default(signal, always);
    }
    end
}

/// Reports how the attachment ended. Returns the exit code.
fn report_end(
    end: AttachEnd,
    record: &Record,
    sandbox: &Recorded,
    user: Option<&Messages>,
) -> Result<u8, LiveError> {
    let say = |text: &str| {
        if let Some(messages) = user {
            // The cursor may be in the middle of a line of output.
            messages::on_new_line(messages, text);
        } else {
            info!("{text}");
        }
    };
    match end {
        AttachEnd::Left => say(&format!("detached from {sandbox}, which keeps running")),
        AttachEnd::Signalled(signal) => {
            say(&format!("detached from {sandbox}, which keeps running"));
            return Ok(signalled(signal));
        }
        AttachEnd::Unwritten => return Ok(1),
        AttachEnd::Ended => {
            let ended = match live::connect(sandbox).and_then(|mut client| Ok(client.status()?)) {
                Ok(_) => Ok(()),
                Err(error) => Endings::new(record).lost(sandbox, error).and_then(|run| {
                    let reason = run.and_then(|run| run.reason);
                    let lost = reason == Some(Reason::SupervisorLost);
                    if lost { Err(LiveError::Lost) } else { Ok(()) }
                }),
            };
            ended?;
            say(&format!("{sandbox} has stopped"));
        }
    }
    Ok(0)
}

/// Reports the window size of the terminal to the supervisor.
struct SizeReport {
    socket: Option<std::path::PathBuf>,
    session: SessionId,
    counts: bool,
}

impl SizeReport {
    /// Sends the current size. If the command's terminal has it already, the supervisor makes the
    /// command draw its screen again. Uses a connection of its own. Errors are logged only.
    fn send(&self, terminal: &Terminal) {
        let (true, Some(socket), Some(size)) = (self.counts, &self.socket, terminal.size()) else {
            return;
        };
        let result = Client::connect(socket)
            .and_then(|client| client.timeout(RESIZE_TIMEOUT).resize(self.session, size));
        if let Err(error) = result {
            info!("can't report the window size: {error}");
        }
    }
}
