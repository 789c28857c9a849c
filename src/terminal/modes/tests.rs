use super::*;
use crate::fuzz::{mutate, pieces, rounds};

fn after(output: &[u8]) -> Modes {
    let mut modes = Modes::default();
    modes.scan(output);
    modes
}

fn undo(output: &[u8]) -> String {
    let mut out = Vec::new();
    after(output).undo(&mut out);
    String::from_utf8(out).unwrap()
}

fn set(output: &[u8]) -> String {
    let mut out = Vec::new();
    after(output).set(&mut out);
    String::from_utf8(out).unwrap()
}

/// What a full-screen program sets.
const FULL_SCREEN: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?1000h\x1b[?1002;1006h\x1b[?1004h\
    \x1b[?2004h\x1b[?1h\x1b=\x1b[>1u\x1b[>4;2m\x1b[2 q\x1b[31mtext";

#[test]
fn every_mode_of_a_full_screen_program_is_undone_and_set_again() {
    assert_eq!(
        undo(FULL_SCREEN),
        "\x1b[<1u\x1b[?1049l\x1b[m\x1b[?25h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1006l\
         \x1b[?1004l\x1b[?2004l\x1b[>4m\x1b[0 q"
    );
    assert_eq!(
        set(FULL_SCREEN),
        "\x1b[?1049h\x1b[>1u\x1b[?25l\x1b[?1h\x1b=\x1b[?1000h\x1b[?1002h\x1b[?1006h\
         \x1b[?1004h\x1b[?2004h\x1b[>4;2m\x1b[2 q"
    );
}

#[test]
fn modes_that_a_program_has_reset_itself_are_not_undone() {
    for output in [
        "text\r\n\t\u{e4}",
        "\x1b[?1049h\x1b[>1u\x1b[<u\x1b[?1049l\x1b[?1000h\x1b[?1000l\x1b[?25l\x1b[?25h",
        "\x1b[>5u\x1b[=3u\x1b[<1u\x1b[>4;1m\x1b[>4m\x1b[4 q\x1b[ q\x1b[2;9r\x1b[r",
        "\x1b[?1049h\x1b[?1003h\x1b[?2004h\x1b(0\x0e\x1bc",
        "\x1b[c\x1b[6n\x1b[?25$p\x1b[?1000$p\x1b[?u\x1b[?4m\x1b[18t\x1b[?1000s",
        "\x1b]0;[?1049h\x07\x1bP[?25l\x0e\x1b\\\x1b_G[?1h\x1b\\\x1bk[?1h\x1b\\",
    ] {
        assert_eq!(set(output.as_bytes()), "", "{output:?}");
    }
    assert_eq!(undo(b"text\x1b[?1000h\x1b[?1000l"), "");
    assert_eq!(undo(b"\x1b[?1000h\x1b[!p"), "\x1b[?1000l");
}

#[test]
fn a_scrolling_region_is_undone_but_not_set_again() {
    let output = b"\x1b[?1049h\x1b[1;24r\x1b[?1h";
    assert_eq!(undo(output), "\x1b[?1049l\x1b[?1l\x1b7\x1b[r\x1b8");
    assert_eq!(set(output), "\x1b[?1049h\x1b[?1h");
}

#[test]
fn each_screen_has_its_own_keyboard_flags() {
    let output = b"\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[>5u\x1b[=2;2u";
    assert_eq!(undo(output), "\x1b[<2u\x1b[?1049l\x1b[<1u");
    assert_eq!(set(output), "\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[>7u");
    assert_eq!(set(b"\x1b[=5u\x1b[>1u\x1b[<9u"), "");
    assert_eq!(undo(b"\x1b[=5u"), "\x1b[=0u");
    let pushes = "\x1b[>1u".repeat(100_000);
    assert_eq!(undo(pushes.as_bytes()), "\x1b[<65535u");
    assert_eq!(set(pushes.as_bytes()), "\x1b[>1u".repeat(8));
}

#[test]
fn the_changes_of_output_that_is_left_out_are_kept() {
    let changes = |output: &[u8]| {
        let mut out = Vec::new();
        after(output).changes(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(changes(b"text\x1b[3;4H\x1b[6n"), "");
    assert_eq!(changes(b"\x1b[?25h\x1b[?1049l\x1b[<u\x1b[31mx"), "\x1b[?1049l\x1b[<1u\x1b[?25h");
    assert_eq!(changes(b"\x1b[?25l\x1b[?25h\x1b[?1049h\x1b[>1u"), "\x1b[?1049h\x1b[>1u\x1b[?25h");
    assert_eq!(changes(b"\x1b[2;4r\x1b[m\x1b[>4;2m\x0f"), "\x1b[2;4r\x1b[m\x0f\x1b[>4;2m");
    // The state of a terminal that has got all of it, or the changes in the place of a part.
    let mut random = fastrand::Rng::with_seed(6);
    for _ in 0..1000 {
        let mut output = Vec::new();
        for _ in 0..random.usize(..30) {
            match random.u8(..5) {
                0 => output.extend(format!("\x1b[>{}u", random.u8(..8)).bytes()),
                1 => output.extend(b"\x1b[4 q\x1b[>4;1m\x1b(0\x0e\x1b[3;9r"),
                2 => output.extend(b"\x1b[ q\x1b[>4m\x1b(B\x0f\x1b[r"),
                _ => {
                    let mode = random.choice(MODES).unwrap();
                    let end = random.choice(['h', 'l']).unwrap();
                    let mark = if mode.private { "?" } else { "" };
                    output.extend(format!("\x1b[{mark}{}{end}", mode.number).bytes());
                }
            }
        }
        let whole = after(&output);
        let mut cut = random.usize(..=output.len());
        while after(&output[..cut]).is_in_sequence() {
            cut += 1;
        }
        let mut short = after(&output[..cut]);
        let mut changed = Vec::new();
        after(&output[cut..]).changes(&mut changed);
        short.scan(&changed);
        let set = |modes: &Modes| {
            let mut out = Vec::new();
            modes.set(&mut out);
            modes.set_region(&mut out);
            out.escape_ascii().to_string()
        };
        assert_eq!(
            set(&short),
            set(&whole),
            "{} | {}",
            output.escape_ascii(),
            changed.escape_ascii()
        );
    }
}

#[test]
fn an_incomplete_sequence_is_cancelled() {
    assert_eq!(undo(b"\x1b[?25l\x1b]0;titl"), "\x18\x1b[?25h");
    assert_eq!(undo(b"\x1b[?10"), "\x18");
    assert_eq!(undo(b"\x1b[?10\x18"), "");
}

#[test]
fn sequences_are_found_in_output_split_anywhere() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..2000 {
        let mut output = Vec::new();
        for _ in 0..random.usize(..30) {
            match random.u8(..8) {
                0 => output.push(random.u8(..)),
                1 => output.extend(*random.choice([b"\x1b[?", b"\x1b[>", b"\x1b[<"]).unwrap()),
                2 => output.extend(random.choice(MODES).unwrap().number.to_string().bytes()),
                3 => output.push(random.choice(*b";:hlumq\x18\x0e\x0f $").unwrap()),
                4 => output.extend(b"\x1b]0;t\x07"),
                5 => output.extend(b"\x1b[?1049h"),
                6 => output.extend("gr\u{fc}\u{df}e".bytes()),
                _ => output.extend(b"\x1b[?1049;25;1006l"),
            }
        }
        let whole = after(&output);
        let mut pieces = Modes::default();
        let mut rest = output.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
            pieces.scan(piece);
            rest = after;
        }
        assert_eq!(pieces, whole, "{}", output.escape_ascii());
        // What sets the modes, sets them, and what undoes them leaves none.
        let mut out = Vec::new();
        whole.set(&mut out);
        let mut again = after(&out);
        let mut twice = Vec::new();
        again.set(&mut twice);
        assert_eq!(twice, out, "{}", output.escape_ascii());
        out.clear();
        again.undo(&mut out);
        again.scan(&out);
        out.clear();
        again.set(&mut out);
        assert_eq!(out.escape_ascii().to_string(), "");
    }
}

#[test]
fn the_memory_of_the_modes_is_bounded() {
    assert!(size_of::<Modes>() <= 112, "{}", size_of::<Modes>());
}

#[test]
fn fuzzed_output_sets_modes_that_are_undone_however_it_is_split() {
    let words =
        [&b"\x1b["[..], b"\x1b[?", b"\x1b]0;", b"\x1bP", b"\x18", b"1049h", b";", b"u", b"r"];
    rounds(|random| {
        let mut output = FULL_SCREEN.to_vec();
        mutate(random, &mut output, &words);
        let whole = after(&output);
        let mut split = Modes::default();
        for piece in pieces(random, &output) {
            split.scan(piece);
        }
        assert_eq!(split, whole, "{}", output.escape_ascii());
        let mut undone = whole;
        let mut out = Vec::new();
        undone.undo(&mut out);
        undone.scan(&out);
        out.clear();
        undone.set(&mut out);
        assert_eq!(out.escape_ascii().to_string(), "", "{}", output.escape_ascii());
    });
}
