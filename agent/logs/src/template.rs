//! The common form of messages: what differs from line to line is masked. One pass, no dictionary:
//! the same line gives the same template on every host.

/// Longest template.
const LONGEST: usize = 240;
/// A run of so many hex digits is an id, with or without digits below ten.
const HEX: usize = 8;

/// What a byte can be part of; a table, since every byte of every message is asked for.
const WORD: u8 = 1;
const DIGIT: u8 = 2;
const HEX_DIGIT: u8 = 4;
const PATH: u8 = 8;
const BEGINS: u8 = 16;

static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let high = byte >= 0x80;
        let mut of = 0;
        if byte.is_ascii_alphanumeric() || high {
            of |= WORD | PATH | BEGINS;
        }
        if byte == b'_' {
            of |= WORD;
        }
        if byte.is_ascii_digit() {
            of |= DIGIT;
        }
        if byte.is_ascii_hexdigit() {
            of |= HEX_DIGIT;
        }
        if matches!(byte, b'/' | b'.' | b'_' | b'-' | b'+' | b'~' | b'%' | b'@') {
            of |= PATH;
        }
        class[at] = of;
        at += 1;
    }
    class
};

fn is(byte: u8, class: u8) -> bool {
    CLASS[usize::from(byte)] & class != 0
}

/// The template of a message. It is written to `out`, which is cleared first.
pub(crate) fn template(rest: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut at = 0;
    while at < rest.len() && out.len() < LONGEST {
        let byte = rest[at];
        at += match byte {
            b if is(b, BEGINS) => word(&rest[at..], out),
            b' ' | b'\t' => {
                if !out.is_empty() && out.last() != Some(&b' ') {
                    out.push(b' ');
                }
                1
            }
            b'"' | b'\'' if boundary(out) => quoted(&rest[at..], byte, out),
            b'/' if boundary(out) => path(&rest[at..], out),
            b if b.is_ascii_control() => 1,
            b => {
                out.push(b);
                1
            }
        };
    }
    // One word can be as long as a line.
    out.truncate(LONGEST);
    while out.last() == Some(&b' ') {
        out.pop();
    }
}

fn boundary(out: &[u8]) -> bool {
    out.last().is_none_or(|b| !b.is_ascii_alphanumeric())
}

/// A text in quotes, when the quote ends on this line.
fn quoted(rest: &[u8], quote: u8, out: &mut Vec<u8>) -> usize {
    out.push(quote);
    match memchr::memchr(quote, &rest[1..]) {
        // The key of a JSON object is no value.
        Some(end) if rest.get(end + 2) == Some(&b':') => 1,
        Some(end) => {
            let level = &rest[1..=end];
            if end <= 10 && level.iter().all(u8::is_ascii_alphabetic) {
                out.extend_from_slice(level);
            } else {
                out.push(b'*');
            }
            out.push(quote);
            end + 2
        }
        None => 1,
    }
}

/// A path: what it is about its surroundings say.
fn path(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let end = rest.iter().position(|b| !is(*b, PATH)).unwrap_or(rest.len());
    if end < 2 {
        out.push(b'/');
        return 1;
    }
    out.extend_from_slice(b"/*");
    end
}

/// How far a word goes, and what is in it: [`DIGIT`] when it has one, [`HEX_DIGIT`] when it has
/// nothing else.
fn run(rest: &[u8]) -> (usize, u8) {
    let (mut end, mut any, mut all) = (0, 0, HEX_DIGIT);
    for byte in rest {
        let class = CLASS[usize::from(*byte)];
        if class & WORD == 0 {
            break;
        }
        any |= class;
        all &= class;
        end += 1;
    }
    (end, any & DIGIT | if end == 0 { 0 } else { all })
}

/// A word: kept, unless it has digits or is an id.
fn word(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let (mut end, of) = run(rest);
    let id = of & DIGIT != 0 || (of & HEX_DIGIT != 0 && end >= HEX);
    if !id {
        out.extend_from_slice(&rest[..end]);
        return end;
    }
    // Numbers, addresses and ids go on over their own marks: 10.0.0.1:80, 1.5e3, a UUID's dashes.
    while end + 1 < rest.len() && matches!(rest[end], b'.' | b':' | b'-') {
        match run(&rest[end + 1..]) {
            (_, 0) => break,
            (more, _) => end += 1 + more,
        }
    }
    out.push(b'*');
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Times;

    fn times() -> Times {
        Times::new(jiff::tz::TimeZone::UTC, jiff::Timestamp::UNIX_EPOCH, None)
    }

    fn of(line: &str) -> String {
        let mut out = Vec::new();
        template(times().split(line.as_bytes()).1, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn lines_that_differ_by_what_does_not_matter_have_one_template() {
        for (line, expected) in [
            (
                "2026-11-26 06:12:01,123 ERROR backend.main request 4711 took 1.53 s",
                "ERROR backend.main request * took * s",
            ),
            (
                "[2026-11-26T06:12:01.5Z] ERROR db: connection to 10.0.0.7:5432 lost",
                "ERROR db: connection to * lost",
            ),
            (
                "2026/11/26 06:12:01 [error] 77#77: *3 open() \"/srv/x/1.png\" failed (2: No such file or directory)",
                "[error] *#*: ** open() \"*\" failed (*: No such file or directory)",
            ),
            (
                "ERROR task 9f8e7d6c-1a2b-4c3d-8e9f-001122334455 raised in /opt/app/tasks.py",
                "ERROR task * raised in /*",
            ),
            (
                r#"{"level":"error","msg":"user 12 not found","ts":1700000000}"#,
                r#"{"level":"error","msg":"*","ts":*}"#,
            ),
            ("ERROR deadbeefcafe is gone, beefy is not", "ERROR * is gone, beefy is not"),
        ] {
            assert_eq!(of(line), expected);
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic_or_grow(line in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut out = Vec::new();
            template(&line, &mut out);
            prop_assert!(out.len() <= LONGEST);
        }

        #[test]
        fn numbers_make_no_difference(a in 0..u64::MAX, b in 0..u64::MAX, text in "[a-z ]{0,30}") {
            prop_assert_eq!(of(&format!("error {text} {a} end")), of(&format!("error {text} {b} end")));
        }
    }
}
