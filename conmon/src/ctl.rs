//! The control FIFO of a container, `BUNDLE/ctl`: window sizes, and the order to open the log again.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, mkfifo, unlinkat};
use tracing::warn;
use vmon::monitor::{RequestError, Service, ServiceContext};
use vmon::reactor::{Interest, Ready, SourceId};
use vmon::terminal::WindowSize;

use crate::failure::Failure;

/// The name of the FIFO in the bundle.
const NAME: &str = "ctl";

/// The longest line. The rest of a longer one is skipped.
const LONGEST: usize = 256;

/// How many orders are carried out in one turn of the loop.
const AT_ONCE: usize = 16;

/// The largest number that is taken.
const MOST: i64 = 1000;

/// A line of the FIFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `1 ROWS COLUMNS`: the size of the terminal's window.
    Resize { rows: u16, columns: u16 },
    /// `2 N N`: the log has been moved away.
    Reopen,
}

/// A line that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("it has no three numbers")]
    Form,
    #[error("its numbers are not all from 0 to {MOST}")]
    Range,
    #[error("there is no order {0}")]
    Unknown(i64),
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
}

/// Reads a line without its newline: three decimal numbers as `%d` of scanf(3) takes them. What
/// follows them is ignored.
pub fn parse(line: &[u8]) -> Result<Order, OrderError> {
    let mut rest = line;
    let mut number = || {
        let (number, after) = leading_number(rest).ok_or(OrderError::Form)?;
        rest = after;
        Ok(number)
    };
    let (order, first, second) = (number()?, number()?, number()?);
    let size = |number: i64| {
        let in_range = Some(number).filter(|it| (0..=MOST).contains(it));
        in_range.and_then(|it| u16::try_from(it).ok()).ok_or(OrderError::Range)
    };
    let (rows, columns) = (size(first)?, size(second)?);
    match order {
        1 => Ok(Order::Resize { rows, columns }),
        2 => Ok(Order::Reopen),
        _ => Err(OrderError::Unknown(order)),
    }
}

/// Blanks, a sign and decimal digits; and what follows them.
fn leading_number(text: &[u8]) -> Option<(i64, &[u8])> {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at_checked(end).filter(|(digits, _)| !digits.is_empty())?;
    let value = digits.iter().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    Some((if negative { -value } else { value }, rest))
}

/// Puts lines together from the reads of a FIFO.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line.
    begun: Vec<u8>,
    /// Whether the line is too long.
    too_long: bool,
}

impl Lines {
    /// Adds bytes; each line that they end goes to `orders`, or into a warning.
    fn add(&mut self, bytes: &[u8], orders: &mut VecDeque<Order>) {
        let mut pieces = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.begun.len() + piece.len() > LONGEST {
                self.too_long = true;
                self.begun.clear();
            } else {
                self.begun.extend_from_slice(piece);
            }
            if pieces.peek().is_some() {
                self.end(orders);
            }
        }
    }

    fn end(&mut self, orders: &mut VecDeque<Order>) {
        let line = std::mem::take(&mut self.begun);
        let order = match std::mem::take(&mut self.too_long) {
            true => Err(OrderError::TooLong),
            false => parse(&line),
        };
        match order {
            Ok(order) => orders.push_back(order),
            Err(error) => {
                warn!(
                    "the line {:?} of {NAME} is ignored: {error}",
                    String::from_utf8_lossy(&line)
                );
            }
        }
    }
}

/// The FIFO, open for reading and writing: with a writer of its own it never reports a hang-up. It
/// stays when the program ends; the engine removes it.
#[derive(Debug)]
pub struct Ctl {
    fifo: File,
    lines: Lines,
    orders: VecDeque<Order>,
    source: Option<SourceId>,
}

impl Ctl {
    /// Makes the FIFO in the bundle, in the place of an earlier one.
    ///
    /// # Errors
    ///
    /// It can't be made or opened.
    pub fn create(bundle: &Path) -> Result<Self, Failure> {
        let path = bundle.join(NAME);
        let make = || {
            match unlinkat(nix::fcntl::AT_FDCWD, &path, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
            mkfifo(&path, Mode::from_bits_truncate(0o660))?;
            let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            open(&path, flags, Mode::empty())
        };
        let fifo =
            make().map_err(Failure::of(format!("can't make the FIFO {}", path.display())))?;
        Ok(Self {
            fifo: fifo.into(),
            lines: Lines::default(),
            orders: VecDeque::new(),
            source: None,
        })
    }

    /// The next order that has been given; `None` if there is none now. Never waits.
    pub fn next_order(&mut self) -> Option<Order> {
        let mut buffer = [0; 4096];
        while self.orders.is_empty() {
            let count = match self.fifo.read(&mut buffer) {
                // Only with a writer is there no end of file, and this process is one.
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    warn!("can't read {NAME}: {error}");
                    return None;
                }
            };
            self.lines.add(buffer.get(..count).unwrap_or_default(), &mut self.orders);
        }
        self.orders.pop_front()
    }
}

impl AsFd for Ctl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

impl Service for Ctl {
    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.source = Some(cx.register(&self.fifo, Interest::READ, 0)?);
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, cx: &mut ServiceContext<'_, '_>) {
        for _ in 0..AT_ONCE {
            match self.next_order() {
                // A container without a terminal has no size.
                Some(Order::Resize { rows, columns }) => {
                    let _ = cx.resize_terminal(WindowSize::new(rows, columns));
                }
                Some(Order::Reopen) => reopen(cx),
                None => {
                    self.source.into_iter().for_each(|it| cx.would_block(it, Interest::READ));
                    return;
                }
            }
        }
    }
}

fn reopen(cx: &mut ServiceContext<'_, '_>) {
    if let Err(error @ RequestError::Log(_)) = cx.reopen_log() {
        warn!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn resize(rows: u16, columns: u16) -> Result<Order, OrderError> {
        Ok(Order::Resize { rows, columns })
    }

    #[test]
    fn an_order_is_three_decimal_numbers() {
        assert_eq!(parse(b"1 24 80"), resize(24, 80));
        assert_eq!(parse(b"  1\t024   +80 "), resize(24, 80));
        assert_eq!(parse(b"1 2 2 3"), resize(2, 2));
        assert_eq!(parse(b"1 2 3x"), resize(2, 3));
        assert_eq!(parse(b"1 2 3.5"), resize(2, 3));
        assert_eq!(parse(b"1 0 1000"), resize(0, 1000));
        assert_eq!(parse(b"2 0 0"), Ok(Order::Reopen));
        assert_eq!(parse(b"2 7 1000 x"), Ok(Order::Reopen));
    }

    #[test]
    fn another_line_is_refused() {
        for line in
            ["", "1", "1 2", "a", "1 a 2", "1 2 a", "1 0x10 0x20", "1 10.5 20.3", "1,2,3", "1 - 2"]
        {
            assert_eq!(parse(line.as_bytes()), Err(OrderError::Form), "{line:?}");
        }
        for line in ["1 -1 2", "1 2 -2", "1 1001 2", "2 0 1001", "1 99999999999999999999 1"] {
            assert_eq!(parse(line.as_bytes()), Err(OrderError::Range), "{line:?}");
        }
        assert_eq!(parse(b"3 1 1"), Err(OrderError::Unknown(3)));
        assert_eq!(parse(b"-1 1 1"), Err(OrderError::Unknown(-1)));
    }

    #[test]
    fn lines_are_put_together_over_reads_and_a_long_one_is_skipped() {
        let mut lines = Lines::default();
        let mut orders = VecDeque::new();
        for bytes in ["1 2", "4 8", "0\n2 0 0\n1 5 6", "\n", "bad\n"] {
            lines.add(bytes.as_bytes(), &mut orders);
        }
        lines.add(&[b'1'; 65_000], &mut orders);
        lines.add(b" 7 7\n1 9 9\n", &mut orders);
        let expected = [
            Order::Resize { rows: 24, columns: 80 },
            Order::Reopen,
            Order::Resize { rows: 5, columns: 6 },
            Order::Resize { rows: 9, columns: 9 },
        ];
        assert_eq!(orders, expected);
    }

    #[test]
    fn the_fifo_has_a_reader_at_once_and_replaces_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        mkfifo(&directory.path().join(NAME), Mode::S_IRWXU).unwrap();
        let mut ctl = Ctl::create(directory.path()).unwrap();
        assert_eq!(ctl.next_order(), None);
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
        let mut writer: File =
            open(&directory.path().join(NAME), flags, Mode::empty()).unwrap().into();
        writer.write_all(b"1 3 4\n2 0 0\n").unwrap();
        drop(writer);
        assert_eq!(ctl.next_order(), Some(Order::Resize { rows: 3, columns: 4 }));
        assert_eq!(ctl.next_order(), Some(Order::Reopen));
        assert_eq!(ctl.next_order(), None);
    }
}
