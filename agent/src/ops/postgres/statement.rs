//! Statements of applications, as they may be shown: their literals hold what nobody else should see.

/// A statement as it may be shown.
pub(super) fn shown(statement: &str, how: &str) -> String {
    let (statement, most) = match how {
        "none" => return String::new(),
        "full" => (statement.to_owned(), 1000),
        // Before its lines become one: a line break may continue a literal.
        _ => (masked(statement), 500),
    };
    statement.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(most).collect()
}

/// What stands before a quote, with nothing but white space between.
#[derive(Debug, Clone, Copy)]
enum Before<'s> {
    Word(&'s str),
    /// A literal with escapes: after a line break the next quote continues it.
    Escaped,
    Other,
}

/// Takes literals out of a statement: texts, numbers, and what stands between dollar quotes. Names
/// keep their digits. It ends at a comment, at a dollar quote, and where it depends on the session's
/// settings what is a literal: whatever follows may be one.
fn masked(statement: &str) -> String {
    let mut out = String::with_capacity(statement.len());
    let mut rest = statement;
    let (mut before, mut space, mut line) = (Before::Other, false, false);
    while let Some(c) = rest.chars().next() {
        if white(c) {
            (space, line) = (true, line || matches!(c, '\n' | '\r'));
            out.push(c);
            rest = &rest[1..];
            continue;
        }
        let mut now = Before::Other;
        let length = match c {
            '\'' => {
                let escapes = match before {
                    Before::Word(word) => !space && word.eq_ignore_ascii_case("e"),
                    Before::Escaped => line,
                    Before::Other => false,
                };
                let one =
                    matches!(before, Before::Word(word) if word.eq_ignore_ascii_case("escape"));
                out.push('?');
                let Some(end) = end(&rest[1..], escapes, one) else { return out + "..." };
                if escapes {
                    now = Before::Escaped;
                }
                1 + end
            }
            '"' => {
                let Some(end) = rest[1..].find('"') else { return out + "\"..." };
                out.push_str(&rest[..end + 2]);
                end + 2
            }
            '$' => {
                let digits = span(&rest[1..], |c| c.is_ascii_digit());
                if digits == 0 {
                    return out + "?...";
                }
                out.push_str(&rest[..=digits]);
                1 + digits
            }
            '-' if rest.starts_with("--") => return out + "...",
            '/' if rest.starts_with("/*") => return out + "...",
            c if c.is_ascii_digit() => {
                out.push('?');
                span(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_'))
            }
            c if named(c) => {
                // As the server reads names: a letter is everything that is not ASCII.
                let length = span(rest, |c| named(c) || c.is_ascii_digit() || c == '$');
                out.push_str(&rest[..length]);
                now = Before::Word(&rest[..length]);
                length
            }
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
        (before, space, line) = (now, false, false);
    }
    out
}

/// White space of the server's, which is less than Unicode's.
fn white(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

fn named(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// How many bytes at the beginning are of this kind.
fn span(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// Where a literal ends whose opening quote was taken; none where it does not, and where a backslash
/// before a quote escapes it or not, as `standard_conforming_strings` is. Only the one of
/// `ESCAPE '\'` is known to be meant as it stands.
fn end(text: &str, escapes: bool, one: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut backslashes) = (0, 0);
    loop {
        let doubled = bytes.get(at + 1) == Some(&b'\'');
        match bytes.get(at)? {
            b'\\' if escapes => at += 2,
            b'\\' => (at, backslashes) = (at + 1, backslashes + 1),
            b'\'' if backslashes % 2 == 1 && !(one && at == 1 && !doubled) => return None,
            b'\'' if doubled => (at, backslashes) = (at + 2, 0),
            b'\'' => return Some(at + 1),
            _ => (at, backslashes) = (at + 1, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "HunterTwoSecret";

    #[test]
    fn literals_are_taken_out_and_names_stay() {
        for (statement, expected) in [
            (
                "SELECT * FROM t1 WHERE a = 42 AND b = 'it''s'",
                "SELECT * FROM t1 WHERE a = ? AND b = ?",
            ),
            ("INSERT INTO x VALUES (1.5e3, E'a\\'b', $1)", "INSERT INTO x VALUES (?, E?, $1)"),
            ("SELECT $tag$ secret $tag$", "SELECT ?..."),
            ("SELECT 1$$secret$$, $1$$secret$$", "SELECT ??..."),
            ("SELECT f$$('a')", "SELECT f$$(?)"),
            (
                r"SELECT a LIKE 'x' ESCAPE '\' AND t = 'secret'",
                "SELECT a LIKE ? ESCAPE ? AND t = ?",
            ),
            ("SELECT \"it's\", 'secret'", "SELECT \"it's\", ?"),
            ("SELECT \"it's, 'secret'", "SELECT \"..."),
            ("SELECT 1 -- it's\n, 'secret'", "SELECT ? ..."),
            ("UPDATE users_2 SET token = 'abc", "UPDATE users_2 SET token = ?..."),
            // A word that ends in e escapes nothing, whatever its letters are.
            (r"SELECT a LIKE'b', 'c\d', U&'\0061'", "SELECT a LIKE?, ?, U&?"),
            (r"SELECT é'b\\', 'c'", "SELECT é?, ?"),
            // Where one server reads on and another does not, nothing more is shown.
            (r"SELECT LIKE'b\', 'secret'", "SELECT LIKE?..."),
            (r"SELECT 'b\'', secret, '", "SELECT ?..."),
            (r"SELECT —e'b\'secret', a", "SELECT —e?..."),
            // The second is read as the first is, where a line break is between.
            ("SELECT E'a'\n'b\\'secret', a", "SELECT E?\n?, a"),
            ("SELECT E'a' 'b\\'secret', a", "SELECT E? ?..."),
        ] {
            assert_eq!(masked(statement), expected);
        }
        assert_eq!(shown("a\n  b", "full"), "a b");
        assert_eq!(shown("a", "none"), "");
        assert_eq!(shown("SELECT E'a'\n'b\\'secret', a", "masked"), "SELECT E? ?, a");
    }

    /// A literal that holds the secret, in one of the forms that the server takes.
    fn literal() -> impl Strategy<Value = String> {
        let around = || r"[a-z'\\\n $-]{0,5}";
        let content = (around(), around()).prop_map(|(a, b)| format!("{a}{SECRET}{b}"));
        let plain = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let escaped = |text: &str| {
            let text = text.replace('\\', "\\\\");
            [format!("'{}'", text.replace('\'', "\\'")), format!("'{}'", text.replace('\'', "''"))]
        };
        let word = prop::sample::select(vec!["", "LIKE", "b", "N", "U&", "éE", "e_", "1e", "f$e"]);
        prop_oneof![
            (word, content.clone()).prop_map(move |(w, c)| format!("{w}{}", plain(&c))),
            (any::<bool>(), content.clone())
                .prop_map(move |(b, c)| { format!("e{}", escaped(&c)[usize::from(b)]) }),
            (any::<bool>(), content.clone()).prop_map(move |(b, c)| {
                let [one, two] = escaped(&c);
                match b {
                    true => format!("E{one}\n{two}"),
                    false => format!("E{two} \n\t{one}"),
                }
            }),
            content.prop_map(|c| format!("$t${c}$t$")),
        ]
    }

    proptest! {
        #[test]
        fn no_literal_of_any_form_is_ever_shown(
            parts in prop::collection::vec((literal(), "( [,=(|] ?|\n\\+ )[a-z_é\"]{0,6}\"? ?[=,]"), 1..8),
        ) {
            let parts: Vec<String> = parts
                .into_iter()
                .map(|(literal, word)| {
                    // A name is quoted wholly, or it is none.
                    let word = if word.matches('"').count() % 2 == 0 { word } else { word.replace('"', "") };
                    format!("{word}{literal}")
                })
                .collect();
            let statement = format!("SELECT {}", parts.concat());
            let shown = masked(&statement);
            prop_assert!(!shown.contains(SECRET), "{statement}: {shown}");
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", how in "(full|masked)") {
            let _ = shown(&text, &how);
        }
    }
}
