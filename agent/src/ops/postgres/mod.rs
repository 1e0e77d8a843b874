//! PostgreSQL servers.

mod activity;
mod backups;
mod bloat;
mod connections;
mod indexes;
mod locked;
mod locks;
mod ping;
mod replication;
mod sizes;
mod slow_queries;

use hostler_proto::wire::{Failure, Finding, Status};

use crate::{
    host::{
        Host,
        postgres::{Session, Trouble},
    },
    operation::Answer,
    stack::{Postgres, named},
};

/// The server of that name in the stack file.
fn entry<'h>(host: &'h Host, name: &str) -> Result<&'h Postgres, Failure> {
    named(&host.stack.postgres, "postgres", name, |p| &p.name)
}

/// What was found out about a server that cannot be used: how bad that is, and why.
fn unusable<R: Default>(entry: &Postgres, trouble: &Trouble) -> Answer<R> {
    let name = &entry.name;
    let summary = format!("postgres \"{name}\" {trouble}");
    let status = match trouble {
        Trouble::Stack(_) | Trouble::Forbidden(_) | Trouble::Slow(_) => Status::Unknown,
        _ => Status::Critical,
    };
    let next = match trouble {
        Trouble::Unreachable(_) | Trouble::Busy(_) => "systemd status postgresql",
        // Every operation on the server would need the connection that there is none of.
        Trouble::Full(_) => "journal read --unit postgresql@* --lines 50",
        _ => "",
    };
    let finding = Finding::new(status, name, &summary).why(trouble.hint()).next(next);
    Answer::ok(summary, R::default()).finding(finding).evidence("postgres", shown_url(&entry.url))
}

/// A URL without its query, which may hold more than an address.
fn shown_url(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Adds that the role sees only a part, where it does: what is not seen is not well.
fn partial<R>(answer: Answer<R>, session: &Session) -> Answer<R> {
    match session.sees_all {
        true => answer,
        false => answer.finding(
            Finding::new(
                Status::Unknown,
                "visibility",
                "the agent's role sees only its own sessions",
            )
            .why("it lacks pg_monitor: GRANT pg_monitor TO the role of the stack file"),
        ),
    }
}

/// A statement as it may be shown.
fn shown(statement: String, how: &str) -> String {
    let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    match how {
        "none" => String::new(),
        "full" => statement.chars().take(1000).collect(),
        _ => masked(&statement).chars().take(500).collect(),
    }
}

/// Takes literals out of a statement: texts, numbers, and what stands between dollar quotes. Names
/// keep their digits. At a comment it ends: what stands there may be anything.
fn masked(statement: &str) -> String {
    let mut out = String::with_capacity(statement.len());
    let mut chars = statement.chars().peekable();
    let mut word = false;
    let mut last = ' ';
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                // A backslash means something only in E'…'.
                let escapes = matches!(last, 'e' | 'E');
                out.push('?');
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' if escapes => drop(chars.next()),
                        '\'' if chars.peek() == Some(&'\'') => drop(chars.next()),
                        '\'' => break,
                        _ => {}
                    }
                }
            }
            '"' => {
                out.push('"');
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == '"' {
                        break;
                    }
                }
            }
            '$' if !word && !chars.peek().is_some_and(char::is_ascii_digit) => {
                // Whatever follows may be a text of any length.
                return out + "?...";
            }
            '-' if chars.peek() == Some(&'-') => return out + "...",
            '/' if chars.peek() == Some(&'*') => return out + "...",
            c if c.is_ascii_digit() && !word => {
                out.push('?');
                while chars.peek().is_some_and(|n| n.is_ascii_alphanumeric() || *n == '.') {
                    chars.next();
                }
            }
            c => out.push(c),
        }
        word = c.is_alphanumeric() || c == '_' || c == '$';
        last = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literals_are_taken_out_and_names_stay() {
        for (statement, expected) in [
            (
                "SELECT * FROM t1 WHERE a = 42 AND b = 'it''s'",
                "SELECT * FROM t1 WHERE a = ? AND b = ?",
            ),
            ("INSERT INTO x VALUES (1.5e3, E'a\\'b', $1)", "INSERT INTO x VALUES (?, E?, $1)"),
            ("SELECT $tag$ secret $tag$", "SELECT ?..."),
            (
                r"SELECT a LIKE 'x' ESCAPE '\' AND t = 'secret'",
                "SELECT a LIKE ? ESCAPE ? AND t = ?",
            ),
            ("SELECT \"it's\", 'secret'", "SELECT \"it's\", ?"),
            ("SELECT 1 -- it's\n, 'secret'", "SELECT ? ..."),
            ("UPDATE users_2 SET token = 'abc", "UPDATE users_2 SET token = ?"),
        ] {
            assert_eq!(masked(statement), expected);
        }
        assert_eq!(shown("a\n  b".into(), "full"), "a b");
        assert_eq!(shown("a".into(), "none"), "");
    }

    proptest! {
        #[test]
        fn no_text_between_quotes_is_ever_shown(secret in "[a-z]{12}", before in "[A-Za-z =(,]{0,20}") {
            let shown = masked(&format!("{before} '{secret}' rest"));
            prop_assert!(!shown.contains(&secret));
        }
    }
}
