//! What the last words of a service say about why it ended. Words of the kernel and of the usual
//! libraries, in the order in which one excludes another.

use crate::order::Order as _;

/// What a line points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clue {
    /// systemd could not prepare its process.
    Step(Step),
    /// An EnvironmentFile could not be read; systemd does not say which.
    Environment,
    /// The port is somebody else's.
    PortTaken(Option<u16>),
    /// Nothing is left on a disk.
    NoSpace,
    /// A server that it needs refused it, or was not there.
    Refused(Option<u16>),
    /// A server did not let it in.
    Credentials,
    /// Its own files are open to others, or to nobody, and it does not start with that.
    Modes,
    /// A file is not its to use.
    Permission,
    /// A program, module or file is not there.
    Missing,
    /// Memory.
    NoMemory,
    /// No more files may be open.
    TooManyFiles,
    /// Its code cannot be read.
    Code,
    /// Its configuration has a mistake.
    Configuration,
}

/// What systemd does in a new process before the program, and could not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// `EXEC`, `CHDIR`, `USER`, ...
    pub name: String,
    /// The program that was to run.
    pub program: String,
    /// Why not.
    pub reason: String,
}

/// A clue, where it was found, and what was said there, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub clue: Clue,
    /// Number of the line.
    pub at: usize,
    /// Its text.
    pub said: String,
}

/// Who begins so is systemd itself, and speaks of what became of the program.
const SYSTEMD: &str = "systemd[1]: ";
/// Longest text that is carried along.
const SAID: usize = 400;

/// What lines, the oldest first, point at: one clue of each kind, the deepest first.
pub(super) fn clues(lines: &[String]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    // The last words count most.
    for (at, line) in lines.iter().enumerate().rev() {
        let Some(clue) = clue(line) else { continue };
        let same = std::mem::discriminant(&clue);
        let new = Found { clue, at, said: said(lines, at) };
        match found.iter_mut().find(|f| std::mem::discriminant(&f.clue) == same) {
            // It says more exactly what a later line sums up.
            Some(kept) if vague(&lines[kept.at], &kept.clue) && !vague(line, &new.clue) => {
                *kept = new;
            }
            Some(_) => {}
            None => found.push(new),
        }
    }
    let by_systemd = |f: &Found| {
        let exact = matches!(f.clue, Clue::Step(_) | Clue::Environment | Clue::NoMemory);
        !exact && lines[f.at].starts_with(SYSTEMD)
    };
    // A program knows better why it ended than who saw it end.
    if found.iter().any(|f| !by_systemd(f)) {
        found.retain(|f| !by_systemd(f));
    }
    found.order_by_key(|f| rank(&f.clue));
    found
}

fn rank(clue: &Clue) -> u8 {
    match clue {
        Clue::Step(_) | Clue::Environment | Clue::NoMemory => 0,
        Clue::PortTaken(_) | Clue::NoSpace => 1,
        Clue::Refused(_)
        | Clue::Credentials
        | Clue::Modes
        | Clue::Permission
        | Clue::Missing
        | Clue::TooManyFiles => 2,
        // Programs call many things a mistake of their configuration.
        Clue::Code | Clue::Configuration => 3,
    }
}

/// Whether a line only sums up what another one says.
fn vague(line: &str, clue: &Clue) -> bool {
    let lower = line.to_lowercase();
    *clue == Clue::PortTaken(None) || line.starts_with(SYSTEMD) || lower.contains("contains errors")
}

/// What a line points at; none for most lines.
fn clue(line: &str) -> Option<Clue> {
    let lower = line.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    if let Some(step) = step(line) {
        return Some(Clue::Step(step));
    }
    if has(&["failed to load environment files"]) {
        return Some(Clue::Environment);
    }
    // Every service that forks and fails leaves none.
    if has(&["can't open pid file"]) {
        return None;
    }
    if has(&["address already in use", "eaddrinuse", "could not bind"]) {
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
    if has(&["has invalid permissions", "has group or world access", "has wrong ownership"]) {
        return Some(Clue::Modes);
    }
    if has(&["permission denied", "eacces", "operation not permitted"]) {
        return Some(Clue::Permission);
    }
    if has(&[
        "modulenotfounderror",
        "importerror",
        "cannot find module",
        "no such file or directory",
        "enoent",
    ]) {
        return Some(Clue::Missing);
    }
    if has(&["syntaxerror", "indentationerror", "taberror"]) {
        return Some(Clue::Code);
    }
    if has(&[
        "syntax error",
        "unknown directive",
        "invalid configuration",
        "contains errors",
        "invalid value for parameter",
        "unrecognized configuration parameter",
        "fatal config file error",
        "[emerg]",
    ]) {
        return Some(Clue::Configuration);
    }
    None
}

/// `(python3)[812]: web.service: Failed at step CHDIR spawning /usr/bin/python3: No such file or directory`
///
/// The journal loses that line of a process that is gone at once; systemd's own has the step, too:
/// `systemd[1]: web.service: Main process exited, code=exited, status=200/CHDIR`
fn step(line: &str) -> Option<Step> {
    let Some((_, failed)) = line.split_once("Failed at step ") else {
        let (_, status) = line.strip_prefix(SYSTEMD)?.split_once("code=exited, status=")?;
        let (number, name) = status.split_once('/')?;
        // Statuses below are programs' own; systemd.exec(5) lists these.
        let own = number.parse().is_ok_and(|number: u8| (200..=243).contains(&number));
        let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        let (program, reason) = (String::new(), String::new());
        return (own && named).then(|| Step { name: name.to_owned(), program, reason });
    };
    let (name, rest) = failed.split_once(" spawning ")?;
    let (program, reason) = rest.rsplit_once(": ")?;
    let [name, program, reason] = [name, program, reason].map(ToOwned::to_owned);
    Some(Step { name, program, reason })
}

/// A line with what belongs to it: where in the code, the details, the directive.
fn said(lines: &[String], at: usize) -> String {
    let mut text = lines[at].clone();
    let lower = text.to_lowercase();
    if lower.contains("fatal config file error") {
        // Redis shows number, text and mistake of the line below its heading.
        for line in lines[at + 1..].iter().take(3).filter(|l| !l.starts_with(SYSTEMD)) {
            text += &format!("; {}", message(line));
        }
    }
    let below = lines.get(at + 1).map(|line| message(line)).unwrap_or_default();
    if let Some((_, detail)) = below.split_once("DETAIL:") {
        text += &format!("; {}", detail.trim());
    }
    if text.contains("Error")
        && let Some(place) = lines[..at].iter().rev().take(12).find_map(|line| place(message(line)))
    {
        text += &format!(" ({place})");
    }
    text.chars().take(SAID).collect()
}

/// The place in the code that a line of a traceback names: Python's, or Node's.
fn place(message: &str) -> Option<&str> {
    let message = message.trim();
    if message.starts_with("File \"/") {
        let (_, rest) = message.split_once("\", line ")?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        return message.get(..message.len() - rest.len() + digits);
    }
    let (path, number) = message.rsplit_once(':')?;
    let path = path.strip_prefix("file://").unwrap_or(path);
    let number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (path.starts_with('/') && !path.contains(' ') && number).then_some(message)
}

/// What follows the name of who said it.
fn message(line: &str) -> &str {
    line.split_once("]: ").map_or(line, |(_, message)| message)
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
        assert_eq!(clue(missing), Some(Clue::Missing));
        let denied = "PermissionError: [Errno 13] Permission denied: 'logs/backend.log'";
        assert_eq!(clue(denied), Some(Clue::Permission));
        assert_eq!(clue("Started omnidoc-backend.service at 12:30:11"), None);
    }

    fn first(lines: &[&str]) -> Found {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        clues(&lines).into_iter().next().expect("a clue")
    }

    #[test]
    fn what_a_database_says_of_its_configuration_comes_before_what_systemd_misses() {
        let found = first(&[
            "systemd[1]: Starting postgresql@15-main.service - PostgreSQL Cluster 15-main...",
            "postgresql@15-main[812]: Error: /usr/lib/postgresql/15/bin/pg_ctl start exited with status 1:",
            "postgresql@15-main[812]: 2026-11-26 20:11:02.101 UTC [817] LOG:  invalid value for parameter \"shared_buffers\": \"lots\"",
            "postgresql@15-main[812]: 2026-11-26 20:11:02.101 UTC [817] FATAL:  configuration file \"/etc/postgresql/15/main/postgresql.conf\" contains errors",
            "postgresql@15-main[812]: pg_ctl: could not start server",
            "systemd[1]: postgresql@15-main.service: Can't open PID file /run/postgresql/15-main.pid (yet?) after start: No such file or directory",
            "systemd[1]: postgresql@15-main.service: Failed with result 'protocol'.",
        ]);
        assert_eq!(found.clue, Clue::Configuration);
        assert!(found.said.contains("\"shared_buffers\": \"lots\""), "{found:?}");
        let found = first(&[
            "postgresql@15-main[900]: FATAL:  data directory \"/var/lib/postgresql/15/main\" has invalid permissions",
            "postgresql@15-main[900]: DETAIL:  Permissions should be u=rwx (0700) or u=rwx,g=rx (0750).",
            "systemd[1]: postgresql@15-main.service: Can't open PID file /run/postgresql/15-main.pid (yet?) after start: No such file or directory",
        ]);
        assert_eq!(found.clue, Clue::Modes);
        assert!(found.said.ends_with("Permissions should be u=rwx (0700) or u=rwx,g=rx (0750)."));
        let found = first(&[
            "redis-server[77]: *** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***",
            "redis-server[77]: Reading the configuration file, at line 12",
            "redis-server[77]: >>> 'maxmemoryy 1gb'",
            "redis-server[77]: Bad directive or wrong number of arguments",
            "systemd[1]: redis-server.service: Failed with result 'exit-code'.",
        ]);
        assert_eq!(found.clue, Clue::Configuration);
        assert!(found.said.contains("line 12; >>> 'maxmemoryy 1gb'; Bad directive"), "{found:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_no_mistake_of_the_configuration() {
        let taken =
            "nginx[33]: nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)";
        let lines = [
            taken,
            "nginx[33]: nginx: [emerg] still could not bind()",
            "systemd[1]: nginx.service: Control process exited, code=exited, status=1/FAILURE",
        ];
        let found = first(&lines);
        assert_eq!((found.clue, found.said.as_str()), (Clue::PortTaken(Some(80)), taken));
    }

    #[test]
    fn the_step_that_failed_is_told_and_not_what_systemd_made_of_it() {
        let found = first(&[
            "(uvicorn)[51]: web.service: Changing to the requested working directory failed: No such file or directory",
            "(uvicorn)[51]: web.service: Failed at step CHDIR spawning /opt/web/.venv/bin/uvicorn: No such file or directory",
            "systemd[1]: web.service: Main process exited, code=exited, status=200/CHDIR",
        ]);
        let Clue::Step(step) = &found.clue else { panic!("{found:?}") };
        assert_eq!(
            (step.name.as_str(), step.program.as_str()),
            ("CHDIR", "/opt/web/.venv/bin/uvicorn")
        );
        let found = first(&[
            "(uchprog)[52]: web.service: Failed to locate executable /usr/bin/nosuchprog: No such file or directory",
            "(uchprog)[52]: web.service: Failed at step EXEC spawning /usr/bin/nosuchprog: No such file or directory",
            "systemd[1]: web.service: Control process exited, code=exited, status=203/EXEC",
        ]);
        let Clue::Step(step) = &found.clue else { panic!("{found:?}") };
        assert_eq!(step.program, "/usr/bin/nosuchprog");
        let alone = ["systemd[1]: web.service: Main process exited, code=exited, status=217/USER"];
        let Clue::Step(step) = first(&alone).clue else { panic!("no step") };
        assert_eq!((step.name.as_str(), step.program.as_str()), ("USER", ""));
        let own = "systemd[1]: web.service: Main process exited, code=exited, status=1/FAILURE";
        assert_eq!(clue(own), None);
        let lines = [
            "systemd[1]: web.service: Failed to load environment files: No such file or directory",
        ];
        assert_eq!(first(&lines).clue, Clue::Environment);
    }

    #[test]
    fn a_mistake_in_code_is_told_with_its_file_and_line() {
        let found = first(&[
            "uvicorn[9]: Traceback (most recent call last):",
            "uvicorn[9]:   File \"/opt/web/.venv/bin/uvicorn\", line 8, in <module>",
            "uvicorn[9]:     sys.exit(main())",
            "uvicorn[9]:   File \"/opt/web/backend/main.py\", line 12",
            "uvicorn[9]:     def broken(:",
            "uvicorn[9]:                ^",
            "uvicorn[9]: SyntaxError: invalid syntax",
        ]);
        assert_eq!(found.clue, Clue::Code);
        assert!(found.said.ends_with("(File \"/opt/web/backend/main.py\", line 12)"), "{found:?}");
        let found = first(&[
            "node[3]: /opt/web/server.js:7",
            "node[3]: const = 4;",
            "node[3]:       ^",
            "node[3]: SyntaxError: Unexpected token '='",
        ]);
        assert!(found.said.ends_with("(/opt/web/server.js:7)"), "{found:?}");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC*") {
            clues(&[line.clone(), line.clone()]);
            place(&line);
            port(&line);
        }
    }
}
