//! Findings, evidence and figures: how they are put together, and what to type next.

use crate::{
    catalogue::Catalogue,
    wire::{Evidence, Figure, Finding, Status},
};

impl Finding {
    /// Something that deserves attention: how badly, what it is about, one sentence.
    pub fn new(status: Status, subject: impl Into<String>, summary: impl Into<String>) -> Self {
        let (subject, summary) = (subject.into(), summary.into());
        Self { status: status.into(), subject, summary, ..Self::default() }
    }

    /// Adds why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds the operation to use next, as one would type it after `hostlerctl`.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Adds what was measured, in a base unit; where it is a warning and critical belongs to it.
    #[must_use]
    pub fn measured(mut self, value: f64, unit: &str) -> Self {
        self.value = Some(value);
        self.unit = unit.to_owned();
        self
    }
}

impl Evidence {
    /// What was really asked of the system: "argv", "dbus", "sql", and the words.
    pub fn new(kind: &str, what: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), what: what.into(), ..Self::default() }
    }
}

impl Figure {
    /// The figure with the value at which it ends.
    #[must_use]
    pub fn limited(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// What to do next as a line to type. An agent names the operation; it knows neither hostlerctl nor
/// the name under which its host is known here, and nothing of shells. What names no operation is
/// words for people, and stays as it is.
pub fn command_line(next: &str, host: &str) -> String {
    let words = words(next.trim_start_matches("hostlerctl "));
    let domain = words.first().and_then(|word| word.split('.').next()).unwrap_or_default();
    if !Catalogue::domains().any(|(name, _)| name == domain) {
        return next.to_owned();
    }
    let typed: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    let line = format!("hostlerctl {}", typed.join(" "));
    match words.iter().any(|word| word == "--on") {
        true => line,
        false => format!("{line} --on {}", quoted(host)),
    }
}

/// A word as a shell takes it for itself.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) && !word.starts_with('=') {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The words of a line: spaces stand between them, and within single quotes for themselves. A
/// backslash is one: names of units have them.
fn words(line: &str) -> Vec<String> {
    if !line.contains('\'') || line.matches('\'').count() % 2 == 1 {
        return line.split_whitespace().map(str::to_owned).collect();
    }
    let (mut words, mut word, mut inside) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '\'' => {
                inside = !inside;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !inside => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_next_is_a_line_that_can_be_typed() {
        let cases = [
            ("disk tree /srv", "hostlerctl disk tree /srv --on web-1"),
            ("hostlerctl disk tree /srv", "hostlerctl disk tree /srv --on web-1"),
            ("disk tree /srv --on all", "hostlerctl disk tree /srv --on all"),
            ("logs tail /opt/*.log", "hostlerctl logs tail '/opt/*.log' --on web-1"),
            (
                r"systemd status my\x2dapp.service",
                r"hostlerctl systemd status 'my\x2dapp.service' --on web-1",
            ),
            (
                "logs tail '/srv/my app/x.log'",
                "hostlerctl logs tail '/srv/my app/x.log' --on web-1",
            ),
            ("logs tail it's", r"hostlerctl logs tail 'it'\''s' --on web-1"),
            ("ask whoever runs the mail server", "ask whoever runs the mail server"),
            ("", ""),
        ];
        for (next, line) in cases {
            assert_eq!(command_line(next, "web-1"), line);
        }
    }
}
