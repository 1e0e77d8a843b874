//! What the last words of a service say about why it ended. Words of the kernel and of the usual
//! libraries, in the order in which one excludes another.

/// What a line points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clue {
    /// The port is somebody else's.
    PortTaken(Option<u16>),
    /// Nothing is left on a disk.
    NoSpace,
    /// A server that it needs refused it, or was not there.
    Refused(Option<u16>),
    /// A server did not let it in.
    Credentials,
    /// A file is not its to use.
    Permission(String),
    /// A program, module or file is not there.
    Missing(String),
    /// Memory.
    NoMemory,
    /// No more files may be open.
    TooManyFiles,
    /// Its configuration has a mistake.
    Configuration(String),
}

/// What a line points at; none for most lines.
pub(super) fn clue(line: &str) -> Option<Clue> {
    let lower = line.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    let said = || line.chars().take(200).collect::<String>();
    if has(&["address already in use", "eaddrinuse"]) {
        return Some(Clue::PortTaken(port(&lower)));
    }
    if has(&["no space left on device", "enospc", "disk quota exceeded"]) {
        return Some(Clue::NoSpace);
    }
    if has(&[
        "password authentication failed",
        "noauth",
        "wrongpass",
        "authentication required",
        "invalid username-password",
        "access denied for user",
    ]) {
        return Some(Clue::Credentials);
    }
    if has(&[
        "connection refused",
        "econnrefused",
        "could not connect",
        "cannot connect to",
        "connect() failed",
    ]) {
        return Some(Clue::Refused(port(&lower)));
    }
    if has(&["out of memory", "cannot allocate memory", "memoryerror", "oom-kill", "oom killer"]) {
        return Some(Clue::NoMemory);
    }
    if has(&["too many open files", "emfile"]) {
        return Some(Clue::TooManyFiles);
    }
    if has(&["permission denied", "eacces", "operation not permitted"]) {
        return Some(Clue::Permission(said()));
    }
    if has(&["modulenotfounderror", "importerror", "cannot find module"])
        || (has(&["no such file or directory", "enoent", "status=203/exec"]))
    {
        return Some(Clue::Missing(said()));
    }
    if has(&[
        "syntax error",
        "syntaxerror",
        "unknown directive",
        "invalid configuration",
        "[emerg]",
    ]) {
        return Some(Clue::Configuration(said()));
    }
    None
}

/// The port that a line names: after a colon that is no part of a time, or after the word.
fn port(line: &str) -> Option<u16> {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || ":.[]".contains(c)));
    let mut after_port = false;
    for word in words.filter(|w| !w.is_empty()) {
        let last = word.trim_end_matches([':', '.', ']']);
        if after_port || word.matches(':').count() == 1 || word.contains("]:") {
            let number = last.rsplit(':').next().unwrap_or(last);
            let time =
                word.split(':').all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_digit()));
            if let Ok(port) = number.parse::<u16>()
                && port > 0
                && !time
            {
                return Some(port);
            }
        }
        after_port = last == "port";
    }
    // ('127.0.0.1', 8000), as Python says it.
    let (_, rest) = line.split_once("', ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|p| *p > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_real_programs_are_understood() {
        for (line, expected) in [
            (
                "[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
                Clue::PortTaken(Some(8000)),
            ),
            (
                "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)",
                Clue::PortTaken(Some(80)),
            ),
            ("Error: listen EADDRINUSE: address already in use :::3000", Clue::PortTaken(None)),
            (
                "connection to server at \"127.0.0.1\", port 5432 failed: Connection refused",
                Clue::Refused(Some(5432)),
            ),
            (
                "Cannot connect to redis://:**@127.0.0.1:6379/0: Error 111. Connection refused",
                Clue::Refused(Some(6379)),
            ),
            ("FATAL: password authentication failed for user \"omnidoc\"", Clue::Credentials),
            ("OSError: [Errno 28] No space left on device", Clue::NoSpace),
        ] {
            assert_eq!(clue(line), Some(expected), "{line}");
        }
        let missing = "ModuleNotFoundError: No module named 'fastapi'";
        assert_eq!(clue(missing), Some(Clue::Missing(missing.into())));
        let denied = "PermissionError: [Errno 13] Permission denied: 'logs/backend.log'";
        assert_eq!(clue(denied), Some(Clue::Permission(denied.into())));
        assert_eq!(clue("Started omnidoc-backend.service at 12:30:11"), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC*") {
            clue(&line);
            port(&line);
        }
    }
}
