//! The common form of messages: what differs from line to line is masked. One pass, no dictionary:
//! the same line gives the same template on every host.

/// Longest template.
const LONGEST: usize = 240;
/// A run of so many hex digits is an id, with or without digits below ten.
const HEX: usize = 8;

/// The time at the beginning of a line, `2026-11-26 06:12:01` or with `T` or `/`; none when there is
/// no such time there.
pub(super) fn time(line: &[u8]) -> Option<&[u8]> {
    let start = usize::from(line.first() == Some(&b'['));
    let time = line.get(start..start + 19)?;
    let form = b"dddd-dd-dd dd:dd:dd";
    let fits = time.iter().zip(form).all(|(byte, form)| match form {
        b'd' => byte.is_ascii_digit(),
        b'-' => matches!(byte, b'-' | b'/'),
        b' ' => matches!(byte, b' ' | b'T'),
        other => byte == other,
    });
    fits.then_some(time)
}

/// The template of a line, whose time is left out. It is written to `out`, which is cleared first.
pub(super) fn template(line: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = line;
    if let Some(time) = time(line) {
        let start = usize::from(line.first() == Some(&b'['));
        rest = &line[start + time.len()..];
        // Fractions and the zone belong to the time.
        let end = rest.iter().position(|b| matches!(b, b' ' | b']')).unwrap_or(rest.len());
        rest = &rest[end..];
        rest = rest.strip_prefix(b"]").unwrap_or(rest);
    }
    let mut at = 0;
    while at < rest.len() && out.len() < LONGEST {
        let byte = rest[at];
        at += match byte {
            b'"' | b'\'' if boundary(out) => quoted(&rest[at..], byte, out),
            b'/' if boundary(out) => path(&rest[at..], out),
            b if b.is_ascii_alphanumeric() || b >= 0x80 => word(&rest[at..], out),
            b' ' | b'\t' => {
                if !out.is_empty() && out.last() != Some(&b' ') {
                    out.push(b' ');
                }
                1
            }
            b if b.is_ascii_control() => 1,
            b => {
                out.push(b);
                1
            }
        };
    }
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

/// A path: its end says what it is about, when it has no digits.
fn path(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let inside = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+~%@".contains(b) || *b >= 0x80;
    let end = rest.iter().position(|b| !inside(b)).unwrap_or(rest.len());
    if end < 2 {
        out.push(b'/');
        return 1;
    }
    out.extend_from_slice(b"/*");
    end
}

/// A word: kept, unless it has digits or is an id.
fn word(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
    let mut end = rest.iter().position(|b| !plain(b)).unwrap_or(rest.len());
    let mut id = rest[..end].iter().any(u8::is_ascii_digit);
    let hex = |part: &[u8]| part.len() >= HEX && part.iter().all(u8::is_ascii_hexdigit);
    id |= hex(&rest[..end]);
    // Numbers, addresses and ids go on over their own marks: 10.0.0.1:80, 1.5e3, a UUID's dashes.
    while id && end + 1 < rest.len() && b".:-".contains(&rest[end]) {
        let next = &rest[end + 1..];
        let more = next.iter().position(|b| !plain(b)).unwrap_or(next.len());
        let part = &next[..more];
        let same = !part.is_empty()
            && (part.iter().any(u8::is_ascii_digit) || part.iter().all(u8::is_ascii_hexdigit));
        if !same {
            break;
        }
        end += 1 + more;
    }
    match id {
        true => out.push(b'*'),
        false => out.extend_from_slice(&rest[..end]),
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(line: &str) -> String {
        let mut out = Vec::new();
        template(line.as_bytes(), &mut out);
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

    #[test]
    fn the_time_of_a_line_is_read_in_the_usual_forms() {
        for line in
            ["2026-11-26 06:12:01,5 x", "[2026-11-26T06:12:01Z] x", "2026/11/26 06:12:01 [error]"]
        {
            assert!(time(line.as_bytes()).is_some(), "{line}");
        }
        for line in ["Nov 26 06:12:01 x", "2026-11-26", "", "20261126 06:12:01 abcd"] {
            assert!(time(line.as_bytes()).is_none(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic_or_grow(line in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut out = Vec::new();
            template(&line, &mut out);
            prop_assert!(out.len() <= LONGEST + 600);
        }

        #[test]
        fn numbers_make_no_difference(a in 0..u64::MAX, b in 0..u64::MAX, text in "[a-z ]{0,30}") {
            prop_assert_eq!(of(&format!("error {text} {a} end")), of(&format!("error {text} {b} end")));
        }
    }
}
