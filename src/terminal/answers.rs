//! Recognizes what a terminal sends by itself, in answer to a query of the program.

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;

/// Modified F3 is the position of a cursor in row 1, up to this column.
const LAST_MODIFIER: u16 = 16;

/// Whether this input consists of whole answers only: of the cursor's position, the terminal's type,
/// a mode, a colour, the window's size, and others.
pub(crate) fn is_answer(input: &[u8]) -> bool {
    let mut rest = input;
    while let Some(length) = answer(rest) {
        rest = rest.get(length..).unwrap_or_default();
    }
    !input.is_empty() && rest.is_empty()
}

/// The length of the answer that the input begins with.
fn answer(input: &[u8]) -> Option<usize> {
    match input {
        [ESCAPE, b'[', body @ ..] => control(body).map(|length| 2 + length),
        [ESCAPE, kind @ (b']' | b'P' | b'_'), body @ ..] => {
            let end =
                body.iter().position(|&byte| byte == ESCAPE || (byte == BELL && *kind == b']'))?;
            match body.get(end..)? {
                [BELL, ..] => Some(2 + end + 1),
                [ESCAPE, b'\\', ..] => Some(2 + end + 2),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The length of the rest of a control sequence that is an answer.
fn control(body: &[u8]) -> Option<usize> {
    let end = body.iter().position(|byte| !matches!(byte, 0x20..=0x3f))?;
    let (parameters, last) = (body.get(..end)?, *body.get(end)?);
    let is_answer = match (parameters, last) {
        // Device attributes, the kitty keyboard's flags, device status, graphics.
        ([b'?' | b'>' | b'=', ..], b'c') | ([b'?', ..], b'u' | b'n' | b'R' | b'S') => true,
        // The state of a mode.
        ([.., b'$'], b'y') => true,
        // modifyOtherKeys.
        ([b'>', ..], b'm') => true,
        // Device status, the window's size, parameters of the terminal.
        ([b'0'..=b'9', ..], b'n' | b't' | b'x') => true,
        ([b'0'..=b'9', ..], b'R') => {
            let text = std::str::from_utf8(parameters).ok()?;
            let (row, column) = text.split_once(';')?;
            row != "1" || column.parse().is_ok_and(|column: u16| column > LAST_MODIFIER)
        }
        _ => false,
    };
    is_answer.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_keys() {
        for input in [
            "\x1b[12;40R",
            "\x1b[1;80R",
            "\x1b[?1;2c",
            "\x1b[>41;354;0c",
            "\x1b[0n",
            "\x1b[?2026;2$y",
            "\x1b[?1u",
            "\x1b[8;24;80t",
            "\x1b[?12;4R",
            "\x1b[>4;2m",
            "\x1b]11;rgb:0000/0000/0000\x07",
            "\x1b]11;rgb:0/0/0\x1b\\",
            "\x1bP1+r544e=787465726d\x1b\\",
            "\x1b_Gi=1;OK\x1b\\",
            "\x1b[?62;22c\x1b[3;1R",
        ] {
            assert!(is_answer(input.as_bytes()), "{input:?}");
        }
        for input in [
            "",
            "R",
            "\x1b",
            "\x1b[A",
            "\x1b[1;2R",
            "\x1b[1;5A",
            "\x1b[13;2~",
            "\x1b[112;5u",
            "\x1b[I",
            "\x1b[<0;1;1M",
            "\x1b[3;1Rx",
            "x\x1b[3;1R",
            "\x1b]",
            "\x1bP",
            "\x1b[200~\x1b[3;1R\x1b[201~",
            "\x1b]11;rgb:0/0/0",
            "\x1b[?1;2",
        ] {
            assert!(!is_answer(input.as_bytes()), "{input:?}");
        }
    }
}
