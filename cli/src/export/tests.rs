use std::os::unix::ffi::OsStringExt;

use vmon::logfile::RunEnd;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::from_nanoseconds(1000 * SECOND + milliseconds * 1_000_000)
}

fn about() -> About {
    About { title: "a/web".to_owned(), command: Some("sh -c 'x y'".to_owned()) }
}

fn bytes(milliseconds: u64, stream: Stream, bytes: &[u8]) -> Entry<'_> {
    Entry::Bytes { time: Some(at(milliseconds)), stream: Some(stream), bytes }
}

fn start(milliseconds: u64) -> Entry<'static> {
    Entry::Mark { time: at(milliseconds), mark: Mark::Start { pid: 1 } }
}

fn size(milliseconds: u64, columns: u16, rows: u16) -> Entry<'static> {
    Entry::Mark { time: at(milliseconds), mark: Mark::Resize { columns, rows } }
}

fn exported(mut exporter: Exporter, entries: &[Entry<'_>]) -> (String, String) {
    let mut out = Script::default();
    for entry in entries {
        exporter.entry(entry, &mut out);
    }
    exporter.finish(&mut out);
    (String::from_utf8(out.script).unwrap(), String::from_utf8(out.timing).unwrap())
}

fn cast(entries: &[Entry<'_>]) -> Vec<String> {
    let (cast, _) = exported(Exporter::Asciicast(Asciicast::new(about())), entries);
    cast.lines().map(str::to_owned).collect()
}

#[test]
fn an_asciicast_has_the_window_size_the_times_and_the_command() {
    let end = Entry::Mark { time: at(9000), mark: Mark::Stop(RunEnd::Exited(0)) };
    let entries = [
        start(0),
        size(1, 100, 40),
        bytes(500, Stream::Tty, b"a\r\n\x1b[1m"),
        size(600, 100, 40),
        size(700, 90, 30),
        end,
    ];
    assert_eq!(
        cast(&entries),
        [
            r#"{"command":"sh -c 'x y'","height":40,"timestamp":1000,"title":"a/web","version":2,"width":100}"#,
            r#"[0.500000, "o", "a\r\n\u001b[1m"]"#,
            r#"[0.700000, "r", "90x30"]"#,
        ]
    );
}

#[test]
fn an_empty_asciicast_has_its_head() {
    assert_eq!(
        cast(&[]),
        [r#"{"command":"sh -c 'x y'","height":24,"title":"a/web","version":2,"width":80}"#]
    );
}

#[test]
fn an_asciicast_splits_no_character_and_replaces_invalid_bytes() {
    let euro = "€".as_bytes(); // e2 82 ac
    let entries = [
        bytes(0, Stream::Tty, b"1\xe2"),
        bytes(1, Stream::Stderr, &euro[..2]),
        bytes(2, Stream::Tty, &euro[1..2]),
        bytes(3, Stream::Tty, b"\xac2\xff3\xf0\x9f4"),
        bytes(4, Stream::Stderr, &euro[2..]),
        bytes(5, Stream::Tty, b"\xf0"),
    ];
    assert_eq!(
        cast(&entries)[1..],
        [
            r#"[0.000000, "o", "1"]"#,
            "[0.003000, \"o\", \"€2\u{fffd}3\u{fffd}4\"]",
            r#"[0.004000, "o", "€"]"#,
            "[0.005000, \"o\", \"\u{fffd}\"]",
        ]
    );
}

#[test]
fn an_asciicast_of_pipes_has_a_carriage_return_at_each_line_end() {
    let entries = [
        bytes(0, Stream::Stdout, b"a\n\nb\r\nc\r"),
        bytes(1, Stream::Stderr, b"\n"),
        bytes(2, Stream::Stdout, b"\nd\n"),
        bytes(3, Stream::Tty, b"raw\n"),
    ];
    assert_eq!(
        cast(&entries)[1..],
        [
            r#"[0.000000, "o", "a\r\n\r\nb\r\nc\r"]"#,
            r#"[0.001000, "o", "\r\n"]"#,
            r#"[0.002000, "o", "\nd\r\n"]"#,
            r#"[0.003000, "o", "raw\n"]"#,
        ]
    );
}

#[test]
fn bytes_without_a_time_get_the_time_of_those_before_them() {
    let unknown = Entry::Bytes { time: None, stream: None, bytes: b"?" };
    let entries =
        [unknown, bytes(100, Stream::Stdout, b"a"), bytes(300, Stream::Stdout, b"b"), unknown];
    let times: Vec<String> = cast(&entries)[1..].iter().map(|line| line[..9].to_owned()).collect();
    assert_eq!(times, ["[0.000000", "[0.000000", "[0.200000", "[0.200000"]);
}

#[test]
fn the_pause_between_two_runs_is_left_out() {
    let entries = [
        start(0),
        bytes(100, Stream::Tty, b"a"),
        start(9_000_000),
        bytes(9_000_050, Stream::Tty, b"b"),
    ];
    assert_eq!(cast(&entries)[1..], [r#"[0.100000, "o", "a"]"#, r#"[0.150000, "o", "b"]"#]);
}

#[test]
fn a_script_has_a_header_line_before_the_bytes_and_a_file_of_times() {
    let entries = [
        start(0),
        size(0, 100, 40),
        bytes(1500, Stream::Tty, b"ab\r\n"),
        size(1550, 100, 40),
        size(1600, 90, 30),
        bytes(1600, Stream::Stderr, b"c"),
        bytes(61_600, Stream::Stdout, b"d"),
    ];
    let (script, timing) = exported(Exporter::Script(Recording::new(about())), &entries);
    assert_eq!(script, "Script started on 1970-01-01 00:16:40+00:00 [a/web]\nab\r\ncd");
    assert_eq!(
        timing,
        "H 0.000000 START_TIME 1970-01-01 00:16:40+00:00\n\
         H 0.000000 COLUMNS 100\n\
         H 0.000000 LINES 40\n\
         H 0.000000 COMMAND sh -c 'x y'\n\
         O 1.500000 4\n\
         S 0.100000 SIGWINCH ROWS=30 COLS=90\n\
         O 0.000000 1\n\
         O 60.000000 1\n"
    );
}

#[test]
fn rounding_errors_of_a_scripts_delays_do_not_add_up() {
    let entries: Vec<Entry<'_>> = (0..3000)
        .map(|third| Entry::Bytes {
            time: Some(Timestamp::from_nanoseconds(third * SECOND / 3000)),
            stream: None,
            bytes: b"x",
        })
        .collect();
    let (_, timing) = exported(Exporter::Script(Recording::new(about())), &entries);
    let delays = timing.lines().filter_map(|line| line.strip_prefix("O 0.")?.split(' ').next());
    let sum: u64 = delays.map(|delay| delay.parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 999_666);
}

#[test]
fn records_without_a_time_get_the_last_known_one_and_end_with_their_run() {
    let exporter = Exporter::Records { encoder: Encoder::new(Format::Cri), time: at(5) };
    let unknown = Entry::Bytes { time: None, stream: None, bytes: b"?\n" };
    let entries = [
        unknown,
        bytes(7, Stream::Stderr, b"a"),
        start(9),
        bytes(10, Stream::Tty, b"b\n"),
        unknown,
    ];
    let (records, _) = exported(exporter, &entries);
    let time = "1970-01-01T00:16:40";
    assert_eq!(
        records,
        format!(
            "{time}.005000000+00:00 stdout F ?\n\
             {time}.007000000+00:00 stderr P a\n\
             {time}.009000000+00:00 stderr F \n\
             {time}.010000000+00:00 stdout F b\n\
             {time}.010000000+00:00 stdout F ?\n"
        )
    );
}

#[test]
fn a_command_is_quoted_for_a_shell() {
    let command = Command::new("sh").args(["-c", "it's x", "", "a=/b"]);
    assert_eq!(quoted(&command), r"sh -c 'it'\''s x' '' a=/b");
    assert_eq!(quoted(&Command::new(OsString::from_vec(b"\xff".to_vec()))), "'\u{fffd}'");
}
