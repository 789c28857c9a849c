//! The child's own stdio: what a command gets as its streams, and the channel that relays them.

use std::io;

use nix::pty::Winsize;

use super::channel::backend::{Backend, Opened};
use super::channel::{Channel, HostTerminal};
use super::keys::{ChannelId, OutputId, Source, SourceKey, Sources};
use super::sandbox::{Forward, Input, Sandbox};
use crate::child::{ChildIo, Command, SpawnIo};
use crate::logfile::Stream;
use crate::relay::{Kind, Log, LogTarget, Overflow, Sink};
use crate::terminal::{self, Direction, Handle, Terminal, WindowSize};

/// The size of a PTY if the host has no terminal.
pub(super) const DEFAULT_SIZE: Winsize =
    Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// The streams of a command, by the sandbox and the host's terminal.
pub(super) fn spawn_io(
    sandbox: &Sandbox,
    command: &Command,
    terminal: Option<&Terminal>,
) -> SpawnIo {
    let input = sandbox.stdio_input() != Input::Null;
    if !command.get_pty() {
        return SpawnIo::Pipes { input };
    }
    let given = command.get_pty_size().map(WindowSize::winsize);
    let size = given.or_else(|| terminal.and_then(Terminal::window_size));
    SpawnIo::Pty {
        input,
        size: size.unwrap_or(DEFAULT_SIZE),
        // In the background the terminal has the modes of the foreground process, such as those of
        // a shell's line editor.
        modes: terminal.filter(|it| it.is_foreground()).map(|terminal| terminal.modes().clone()),
    }
}

/// The host's terminal, if this sandbox uses the host's stdio.
///
/// # Errors
///
/// No descriptor is available.
pub(super) fn open_terminal(sandbox: &Sandbox, pty: bool) -> io::Result<Option<Terminal>> {
    let uses_stdio = pty || sandbox.input == Input::Forward || sandbox.forward != Forward::Off;
    if uses_stdio { Terminal::open() } else { Ok(None) }
}

/// The channel of the child's own stdio, open. `terminal` is the host's.
///
/// # Errors
///
/// No descriptor or no room in the poller is available. Nothing is relayed then, and what the log
/// writes to is returned.
pub(super) fn channel(
    sandbox: &Sandbox,
    log: Log,
    io: ChildIo,
    terminal: Option<Terminal>,
    sources: &mut Sources<'_>,
) -> Result<Channel, (io::Error, Box<LogTarget>)> {
    let streams = match streams(sandbox, io) {
        Ok(streams) => streams,
        Err(error) => return Err((error, Box::new(log.into_target()))),
    };
    let Streams { backend, opened, sinks } = streams;
    let host = HostTerminal::new(terminal, sandbox.stdio_input() == Input::Forward);
    let mut channel = Channel::new(ChannelId::STDIO, backend, log, host, sinks, sandbox);
    match channel.open(opened, sources) {
        Ok(()) => Ok(channel),
        Err(error) => {
            channel.discard(sources);
            Err((error, Box::new(channel.into_log())))
        }
    }
}

/// What the channel of the child's own stdio is made of.
struct Streams {
    backend: Backend,
    opened: Opened,
    sinks: Vec<(Stream, Option<Sink<Handle, SourceKey>>)>,
}

fn streams(sandbox: &Sandbox, io: ChildIo) -> io::Result<Streams> {
    let input = sandbox.stdio_input();
    let (backend, opened) = match io {
        ChildIo::Piped { stdin, stdout, stderr } => {
            let streams = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
            let mut outputs = Vec::with_capacity(2);
            for (stream, source) in streams {
                if let Some(source) = source {
                    let kind = Kind::of(&source)?;
                    outputs.push((stream, source, kind));
                }
            }
            let backend = Backend::Pipes { input_lasts: input == Input::Attached };
            (backend, Opened { outputs, input: stdin })
        }
        ChildIo::Tty { master } => {
            // Two descriptors of one open file description: each can be registered by itself.
            let target = (input == Input::Forward).then(|| master.try_clone()).transpose()?;
            let outputs = vec![(Stream::Tty, master, Kind::RawTerminal)];
            (Backend::Pty, Opened { outputs, input: target })
        }
    };
    let mut sinks = Vec::with_capacity(opened.outputs.len());
    for (stream, ..) in &opened.outputs {
        let id = OutputId { channel: ChannelId::STDIO, stream: *stream };
        sinks.push((*stream, host_sink(id, sandbox.stdio_forward())?));
    }
    Ok(Streams { backend, opened, sinks })
}

/// The host's stdout or stderr as the sink of an output; `None` if that is closed or nothing is
/// forwarded.
///
/// # Errors
///
/// The system's.
pub(super) fn host_sink(
    output: OutputId,
    forward: Forward,
) -> io::Result<Option<Sink<Handle, SourceKey>>> {
    let overflow = match forward {
        Forward::Off => return Ok(None),
        Forward::Block => Overflow::Block,
        Forward::Drop => Overflow::Drop,
    };
    let stream = match output.stream {
        Stream::Stderr => terminal::stderr(),
        Stream::Stdout | Stream::Tty | Stream::Notice => terminal::stdout(),
    };
    let handle = Handle::open(stream, Direction::Write)?;
    Ok(handle.map(|handle| Sink::new(handle, Source::Sink(output).key(), overflow)))
}
