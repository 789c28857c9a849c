mod emulator;

use fastrand::Rng;

use super::*;
use crate::fuzz::{mutate, pieces, rounds};

fn passed(mut screen: Screen, pieces: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        screen.filter(piece, &mut out);
    }
    out
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8(passed(Screen::text(), &[bytes.as_ref()])).unwrap()
}

fn session(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8(passed(Screen::session(), &[bytes.as_ref()])).unwrap()
}

/// The sequences that end a session with this output.
fn end(bytes: impl AsRef<[u8]>) -> String {
    let mut screen = Screen::session();
    screen.filter(bytes.as_ref(), &mut Vec::new());
    let mut out = Vec::new();
    screen.end(&mut out);
    String::from_utf8(out).unwrap()
}

/// Random output with many escape sequences.
fn any_output(random: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(..40) {
        match random.u8(..8) {
            0 => bytes.extend((0..random.usize(..20)).map(|_| random.u8(..))),
            1 => {
                let mark = random.choice(["?", ">", "=", "<", ""]).unwrap();
                bytes.extend(b"\x1b[".iter().chain(mark.as_bytes()));
            }
            2 => bytes.extend(random.u16(..2050).to_string().into_bytes()),
            3 => bytes.push(random.u8(b' '..0x7f)),
            4 => bytes.push(random.choice(*b";:$!\" '#*").unwrap()),
            5 => bytes.extend(
                random
                    .choice(["hallo ", "gr\u{fc}\u{df}e \u{1f980}", "\r\n", "\t"])
                    .unwrap()
                    .bytes(),
            ),
            _ => bytes.extend(random.choice(SEQUENCES.iter().copied()).unwrap()),
        }
    }
    bytes
}

/// Sequences that change a terminal or make it reply.
const SEQUENCES: &[&[u8]] = &[
    b"\x1b[31m",
    b"\x1b[1;4:3;38;2;1;2;3;48:5:17m",
    b"\x1b[0;7m",
    b"\x1b[m",
    b"\x1b[>4;2m",
    b"\x1b[?4m",
    b"\x1b[?1049h",
    b"\x1b[?1049l",
    b"\x1b[?47h",
    b"\x1b[?1047h",
    b"\x1b[?25l",
    b"\x1b[?7l",
    b"\x1b[?6h",
    b"\x1b[?5h",
    b"\x1b[?3h",
    b"\x1b[4h",
    b"\x1b[20h",
    b"\x1b[2h",
    b"\x1b[?1h",
    b"\x1b=",
    b"\x1b[?1000h",
    b"\x1b[?1003h",
    b"\x1b[?1006h",
    b"\x1b[?1004h",
    b"\x1b[?2004h",
    b"\x1b[?2026h",
    b"\x1b[?2048h",
    b"\x1b[3;5r",
    b"\x1b[?69h",
    b"\x1b[2;9s",
    b"\x1b7",
    b"\x1b8",
    b"\x1b[s",
    b"\x1b[u",
    b"\x1b[?1048h",
    b"\x1b(0",
    b"\x1b)0",
    b"\x0e",
    b"\x0f",
    b"\x1b(K",
    b"\x1bn",
    b"\x1b%@",
    b"\x1b#8",
    b"\x1b#3",
    b"\x1b[3g",
    b"\x1bH",
    b"\x1b[4 q",
    b"\x1b[>1u",
    b"\x1b[=5u",
    b"\x1b[!p",
    b"\x1bc",
    b"\x1b[c",
    b"\x1b[>c",
    b"\x1b[=c",
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[x",
    b"\x1b[?2026$p",
    b"\x1b[>q",
    b"\x1bZ",
    b"\x05",
    b"\x1b[14t",
    b"\x1b[18t",
    b"\x1b[21t",
    b"\x1b[22t",
    b"\x1b[8;10;10t",
    b"\x1b[5i",
    b"\x1b]0;title\x07",
    b"\x1b]2;title\x1b\\",
    b"\x1bktitle\x1b\\",
    b"\x1b]52;c;aGFsbG8=\x07",
    b"\x1b]52;c;?\x07",
    b"\x1b]10;?\x07",
    b"\x1b]11;?\x1b\\",
    b"\x1b]4;1;#ffffff\x07",
    b"\x1b]8;;file:///\x07",
    b"\x1b]",
    b"\x1bP",
    b"\x1bPtmux;\x1b\x1b[c\x1b\\",
    b"\x1bP$qm\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1b_Gi=1,a=q;AAAA\x1b\\",
    b"\x1b^x\x1b\\",
    b"\x1bX",
    b"\x1b\\",
    b"\x9b6n",
    b"\xc2\x9b6n",
    b"\xc2\x9d0;t\x07",
    b"\x90",
    b"\x18",
    b"\x1a",
    b"\x07",
    b"\x08",
    b"\x7f",
    b"\x1b[3J",
    b"\x1b[2J",
    b"\x1b[H",
    b"\x1b[9999B",
    b"\x1b[3;1;1;5;5T",
    b"\x1b[2T",
    b"\x1b[5;5;1;1;9;9$r",
    b"\x1b[65;1;1;3;3$x",
    b"\x1b[1;1;3;3$z",
];

#[test]
fn text_keeps_its_colours_and_no_other_sequence() {
    let plain = "a\tb\r\nc\x08d grüße 🦀\n";
    assert_eq!(text(plain), plain);
    assert_eq!(text("\x1b[31mred\x1b[0m"), "\x1b[31mred\x1b[m");
    assert_eq!(text("\x1b[1;38;5;0;4:3m"), "\x1b[1;38;5;0;4:3m");
    assert_eq!(text("\x1b[>4;2m\x1b[?4m\x1b[1 m"), "");
    assert_eq!(text("\x1b[2J\x1b[H\x1b[?25l\x1b(0\x0e\x07\x0c\x1b[6n\x05\x7fx"), "x");
    assert_eq!(
        text("\x1b]0;title\x07a\x1b]2;t\x1b\\b\x1bPq#0\x1b\\c\x1b_G\x1b\\d\x1bktitle\x1b\\e"),
        "abcde"
    );
}

#[test]
fn no_text_is_hidden() {
    assert_eq!(text("\x1b[8mhidden\x1b[1;8;31mred"), "hidden\x1b[1;31mred");
    assert_eq!(text("\x1b[38;5;8;8mgrey\x1b[48;2;8;8;8m"), "\x1b[38;5;8mgrey\x1b[48;2;8;8;8m");
    assert_eq!(text("\x1b[38:5:8;8m\x1b[58;5;8;4m"), "\x1b[38:5:8m\x1b[58;5;8;4m");
}

#[test]
fn plain_text_has_no_control_characters_but_newline_and_tab() {
    let mut random = Rng::with_seed(13);
    for _ in 0..1000 {
        let bytes = any_output(&mut random);
        let out = String::from_utf8(passed(Screen::plain(), &[&bytes])).unwrap();
        assert!(!out.contains(|c: char| c.is_control() && !"\n\t".contains(c)), "{out:?}");
    }
}

#[test]
fn eight_bit_controls_pass_neither_as_bytes_nor_as_characters() {
    assert_eq!(text(b"a\x9b6nb"), "a6nb");
    assert_eq!(text("a\u{9b}6n\u{9d}0;t\u{9c}b"), "a6n0;tb");
    assert_eq!(session("a\u{9b}6n\u{90}b\u{85}"), "a6nb");
    // One ends a title, also if its bytes come one by one.
    let title = "\x1bktitle\u{9b}text".as_bytes();
    assert_eq!(session(title), "text");
    assert_eq!(passed(Screen::session(), &title.chunks(1).collect::<Vec<_>>()), b"text");
}

#[test]
fn invalid_bytes_are_replaced() {
    assert_eq!(text(b"a\xffb\xc3\n"), "a\u{fffd}b\u{fffd}\n");
}

#[test]
fn an_incomplete_sequence_of_a_text_ends_with_its_line() {
    assert_eq!(text("\x1b]0;never ended\nnext\n"), "\nnext\n");
    assert_eq!(text("\x1bPq\nnext\x1b[3\n1m\x1bk\nend"), "\nnext\n1m\nend");
    assert_eq!(session("\x1b]0;never\nended\x07next"), "next");
}

#[test]
fn sequences_and_characters_are_found_in_input_split_anywhere() {
    let mut random = Rng::with_seed(7);
    for _ in 0..300 {
        let bytes = any_output(&mut random);
        for screen in [Screen::text, Screen::session] {
            let whole = passed(screen(), &[&bytes]);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(passed(screen(), &single), whole, "{:?}", bytes.escape_ascii().to_string());
            for at in 0..bytes.len() {
                let (before, after) = bytes.split_at(at);
                assert_eq!(passed(screen(), &[before, after]), whole, "{}", after.escape_ascii());
            }
        }
    }
}

#[test]
fn a_text_has_no_escape_sequence_but_colours() {
    let mut random = Rng::with_seed(11);
    for _ in 0..3000 {
        let bytes = any_output(&mut random);
        let out = text(&bytes);
        for (at, _) in out.match_indices('\x1b') {
            let rest = out[at..].strip_prefix("\x1b[").unwrap();
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':').unwrap();
            assert_eq!(rest.as_bytes()[end], b'm', "{:?}", bytes.escape_ascii().to_string());
        }
        let controls = |c: char| c.is_control() && !"\n\r\t\x08\x1b".contains(c);
        assert!(!out.contains(controls), "{:?}", bytes.escape_ascii().to_string());
    }
}

#[test]
fn colours_are_reset_before_other_output_and_restored_after_it() {
    let mut screen = Screen::text();
    let mut out = Vec::new();
    screen.filter(b"\x1b[31ma\x1b[1mb", &mut out);
    out.clear();
    screen.suspend(&mut out);
    assert_eq!(out, b"\x1b[m");
    out.clear();
    screen.resume(&mut out);
    assert_eq!(out, b"\x1b[31m\x1b[1m");
    for reset in ["\x1b[m", "\x1b[0m"] {
        screen.filter(reset.as_bytes(), &mut Vec::new());
        out.clear();
        screen.suspend(&mut out);
        screen.resume(&mut out);
        assert_eq!(out, b"");
    }
    screen.filter(b"\x1b[1m\x1b[0;7mx", &mut Vec::new());
    screen.resume(&mut out);
    assert_eq!(out, b"\x1b[0;7m");
    for _ in 0..1000 {
        screen.filter(b"\x1b[38;2;100;100;100m", &mut Vec::new());
    }
    out.clear();
    screen.resume(&mut out);
    assert!(out.len() <= 256 && out.starts_with(b"\x1b[38;2"), "{}", out.len());
}

#[test]
fn sequences_that_draw_pass_in_a_session() {
    for drawn in [
        "\x1b[2J\x1b[H\x1b[3;4Hx\x1b[K\x1b[2P\x1b[5@\x1b[L\x1b[M\x1b[4X\x1b[3b\x1b[1;2f\x1b[5d",
        "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[4h\x1b[?2026h\x1b[?1048h\x1b7\x1b8\x1b[s\x1b[u",
        "\x1b(0lqk\x1b(B\x1b)0\x0eqq\x0f\x07\x1bD\x1bE\x1bM\x1b#8\x1b[2;5r\x1b[?6h",
        "\x1b[?69h\x1b[2;9s\x1b[65;1;1;3;3$x",
    ] {
        assert_eq!(session(drawn), drawn);
    }
}

#[test]
fn a_session_makes_the_terminal_neither_reply_nor_change_permanently() {
    for kept in [
        "\x1b[c",
        "\x1b[>c",
        "\x1b[6n",
        "\x1b[?6n",
        "\x1bZ",
        "\x05",
        "\x1b[>q",
        "\x1b[?25$p",
        "\x1b[18t",
        "\x1b[?1000h",
        "\x1b[?1004h",
        "\x1b[?2004h",
        "\x1b[?1h",
        "\x1b=",
        "\x1b[>1u",
        "\x1b[20h",
        "\x1b[?3h",
        "\x1bP$qm\x1b\\",
        "\x1b]11;?\x07",
        "\x1b]0;t\x07",
        "\x1b]52;c;YQ==\x07",
        "\x1b_G\x1b\\",
        "\x1b[5i",
        "\x1b[3g",
        "\x1bH",
        "\x1b%@",
        "\x1b[3J",
        "\x1b[2 q",
        "\x1b[?1049l",
        "\x1b[3;1;1;5;5T",
    ] {
        assert_eq!(session(kept), "", "{kept:?}");
    }
    assert_eq!(session("\x1b[?1000;25;1004l"), "\x1b[?25l");
}

#[test]
fn the_end_of_a_session_restores_the_terminal() {
    assert_eq!(end("text"), "");
    assert_eq!(end("\x1b[?1049h\x1b[?25l\x1b[31m"), "\x1b[?1049l\x1b[m\x1b[?25h");
    // Leaving the alternate screen restores the cursor with its attributes and character set.
    assert_eq!(end("\x1b[?1049h\x1b[?1049l"), "\x1b[m\x0f\x1b(B");
    assert_eq!(end("\x1b[2;5r"), "\x1b7\x1b[r\x1b8");
    assert_eq!(end("\x1b[2;5r\x1b[r"), "");
    assert_eq!(end("\x1b[?6h\x1b[?6l"), "\x1b[?6l\x1b[r\x1b[9999H\n");
    assert_eq!(end("\x1b)0\x0e\x1b[4h"), "\x0f\x1b)B\x1b[4l");
}

#[test]
fn a_reset_in_a_session_undoes_its_changes() {
    assert_eq!(
        session("\x1b[?1049h\x1b[?25l\x1bcx"),
        "\x1b[?1049h\x1b[?25l\x1b[?1049l\x1b[?25h\x1b[H\x1b[2Jx"
    );
    assert_eq!(end("\x1b[?1049h\x1b[?25l\x1b[!p"), "\x1b[?1049l");
}

#[test]
fn a_session_is_resumed_where_it_was_suspended() {
    let mut screen = Screen::session();
    let changes = b"\x1b[?1049h\x1b[?25l\x1b[2;5r\x1b(0\x1b)0\x0e\x1b[31m";
    screen.filter(changes, &mut Vec::new());
    let mut out = Vec::new();
    screen.resume(&mut out);
    assert_eq!(out, b"\x1b[?1049h\x1b[?25l\x1b(0\x1b)0\x0e\x1b[2;5r\x1b[31m");
}

#[test]
fn fuzzed_output_is_filtered_alike_however_it_is_split() {
    rounds(|random| {
        let mut bytes = any_output(random);
        mutate(random, &mut bytes, SEQUENCES);
        for screen in [Screen::text, Screen::plain, Screen::session] {
            let whole = passed(screen(), &[&bytes]);
            let split = pieces(random, &bytes);
            assert_eq!(passed(screen(), &split), whole, "{}", bytes.escape_ascii());
            // What is permitted stays so, and takes no more room than three bytes for each.
            assert!(whole.len() <= bytes.len() * 3 + 256, "{}", bytes.escape_ascii());
            assert!(str::from_utf8(&whole).is_ok(), "{}", bytes.escape_ascii());
        }
    });
}
