//! journalctl as a source of lines.

use hostler_proto::wire::{ErrorCode, Failure, Finding, LogLine, Status};

use super::entry::{self, FIELDS, STARTS, Spoken};
use crate::host::exec::{Line, Output, Program, Running};

const JOURNALCTL: &str = "/usr/bin/journalctl";

/// What is asked of the journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pub units: Vec<String>,
    /// Seconds since 1970.
    pub since: Option<i64>,
    /// Seconds since 1970.
    pub until: Option<i64>,
    pub priority: String,
    pub boot: bool,
    /// The starts of units that lines belong to are asked for as well.
    pub starts: bool,
}

/// Where to begin and in which direction.
#[derive(Debug, Clone)]
pub(super) enum From {
    /// The newest entry, and back in time.
    End,
    /// The entry after a cursor, and on.
    After(String),
    /// The entry after a cursor, on, and then whatever comes.
    Follow(String),
    /// Whatever comes from a moment on, in seconds since 1970.
    FollowSince(i64),
}

/// Entries as they come.
#[derive(Debug)]
pub(super) struct Entries(Running);

impl Query {
    /// Starts reading.
    pub(super) fn read(&self, from: &From) -> Result<Entries, Failure> {
        self.program(from).start().map(Entries)
    }

    /// Why there may be no line: what journalctl says when it is not to be quiet, asked for one line
    /// of the same units.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) async fn silence(&self) -> Result<Silence, Failure> {
        self.why().output().await.map(|output| Silence::of(&output))
    }

    /// In the form for people: in all forms for programs, and in the bare one, journalctl keeps its hints to
    /// itself.
    fn why(&self) -> Program {
        let program = Program::new(JOURNALCTL)
            .arg("--no-pager")
            .arg("--all")
            .arg("--output=short")
            .arg("--lines=1");
        let unit = |program: Program, unit| program.arg(format!("--unit={unit}"));
        self.units.iter().fold(program, unit)
    }

    fn program(&self, from: &From) -> Program {
        let mut program = Program::new(JOURNALCTL)
            .arg("--quiet")
            .arg("--no-pager")
            .arg("--all")
            .arg("--output=json");
        program = match self.starts {
            true => program.arg(format!("--output-fields={FIELDS},{STARTS}")),
            false => program.arg(format!("--output-fields={FIELDS}")),
        };
        for unit in &self.units {
            program = program.arg(format!("--unit={unit}"));
        }
        if !self.priority.is_empty() {
            program = program.arg(format!("--priority={}", self.priority));
        }
        if self.boot {
            program = program.arg("--boot");
        }
        let since = match from {
            From::FollowSince(moment) => Some(*moment),
            _ => self.since,
        };
        if let Some(since) = since {
            program = program.arg(format!("--since=@{since}"));
        }
        if let Some(until) = self.until {
            program = program.arg(format!("--until=@{until}"));
        }
        match from {
            From::End => program.arg("--reverse"),
            From::After(cursor) => program.arg(format!("--after-cursor={cursor}")),
            From::Follow(cursor) => {
                program.arg(format!("--after-cursor={cursor}")).arg("--follow").arg("--no-tail")
            }
            From::FollowSince(_) => program.arg("--follow").arg("--no-tail"),
        }
    }
}

/// Why the journal has no line to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// There is no journal on this host.
    NoJournal,
    /// The agent may not read all of it.
    Forbidden,
    /// It has a file that journalctl cannot read, and nothing of these units in the others.
    Damaged,
    /// It holds nothing of these units.
    NoUnit,
    /// It holds lines, and none that fits.
    NoneFits,
}

impl Silence {
    /// What journalctl's words mean; its locale is always the same.
    fn of(output: &Output) -> Self {
        let says = |text: &str| output.end.tail.iter().any(|line| line.contains(text));
        // What is between dashes is about lines: that there are none, and which times there are.
        let given = output.lines.iter().any(|line| !line.starts_with("-- "));
        match () {
            () if says("No journal files were found") => Self::NoJournal,
            () if says("insufficient permissions") || says("not seeing messages from other") => {
                Self::Forbidden
            }
            () if given => Self::NoneFits,
            () if says("ignoring file") => Self::Damaged,
            () => Self::NoUnit,
        }
    }

    /// That nothing can be told of any unit, where that is so.
    pub(super) fn untold(self) -> Option<Finding> {
        let unknown = |summary: &str| Finding::new(Status::Unknown, "journal", summary);
        match self {
            Self::NoJournal => Some(
                unknown("nothing can be told: this host has no journal files")
                    .why("systemd-journald does not run, or keeps nothing here")
                    .next("systemd status systemd-journald"),
            ),
            Self::Forbidden => Some(
                unknown("nothing can be told: the agent may not read the journal")
                    .why("it must run as root, or its user must be in the group systemd-journal"),
            ),
            Self::Damaged => Some(
                unknown("nothing can be told: a file of the journal cannot be read")
                    .why(
                        "it is damaged, as after a power failure, and the others hold no such line",
                    )
                    .next("systemd status systemd-journald"),
            ),
            Self::NoUnit | Self::NoneFits => None,
        }
    }
}

impl Entries {
    /// The command line that reads them.
    pub(super) fn argv(&self) -> String {
        self.0.argv().to_owned()
    }

    /// The next one; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<LogLine>, Failure> {
        loop {
            match self.0.line().await? {
                None => return Ok(None),
                Some(Line::Text(json)) => {
                    if let Some(line) = entry::line(&json) {
                        return Ok(Some(line));
                    }
                }
                Some(Line::TooLong) => {
                    let text = "(an entry of more than 256 KiB was left out)".to_owned();
                    return Ok(Some(LogLine { priority: 4, text, ..LogLine::default() }));
                }
            }
        }
    }

    /// Whether journalctl was content, once there is no further entry.
    pub(super) async fn ended(self) -> Result<(), Failure> {
        self.0.ended().await
    }
}

/// The last lines of a unit, for evidence. Without a journal there is none to show.
pub(crate) async fn last_lines(unit: &str, lines: u32) -> Vec<String> {
    let query = Query { units: vec![unit.to_owned()], ..Query::default() };
    let Ok(mut entries) = query.read(&From::End) else { return Vec::new() };
    let mut last = Vec::new();
    while last.len() < lines as usize
        && let Ok(Some(line)) = entries.next().await
    {
        last.push(line.text);
    }
    last.reverse();
    last
}

/// The last lines of a unit, the oldest first, with the runs that they belong to.
///
/// # Errors
/// When the journal cannot be read: what is not seen is not silence.
pub(crate) async fn last_spoken(unit: &str, lines: u32) -> Result<(Vec<Spoken>, String), Failure> {
    let query = Query { units: vec![unit.to_owned()], starts: true, ..Query::default() };
    let entries = query.read(&From::End)?;
    let argv = entries.argv();
    Ok((spoken(entries, lines, query.silence()).await?, argv))
}

/// The last lines that are given, the oldest first. Where there are no more, journalctl must be content; and
/// where there is none, it must be known that it could be read.
async fn spoken(
    mut entries: Entries,
    lines: u32,
    silence: impl Future<Output = Result<Silence, Failure>>,
) -> Result<Vec<Spoken>, Failure> {
    let mut last = Vec::new();
    while last.len() < lines as usize {
        match entries.0.line().await? {
            Some(Line::Text(json)) => last.extend(entry::spoken(&json)),
            Some(Line::TooLong) => {}
            None => {
                entries.ended().await?;
                break;
            }
        }
    }
    if last.is_empty()
        && let Some(untold) = silence.await?.untold()
    {
        return Err(Failure::new(ErrorCode::Unsupported, untold.summary).hint(untold.why));
    }
    last.reverse();
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
        path::Path,
    };

    use super::*;

    /// A journalctl that prints that much on its two outputs.
    async fn silence(out: &str, err: &str) -> Silence {
        let script = format!("printf '{out}'; printf '{err}' >&2");
        let program = Program::new("/bin/sh").arg("-c").arg(script);
        Silence::of(&program.output().await.expect("a shell"))
    }

    #[tokio::test]
    async fn a_journal_that_is_missing_or_not_to_be_read_is_told_from_one_without_such_lines() {
        let none = "-- No entries --\n";
        assert_eq!(silence(none, "No journal files were found.\n").await, Silence::NoJournal);
        let unread = "No journal files were opened due to insufficient permissions.\n";
        assert_eq!(silence(none, unread).await, Silence::Forbidden);
        let part = "Hint: You are currently not seeing messages from other users and the system.\n";
        assert_eq!(silence(none, part).await, Silence::Forbidden);
        assert_eq!(silence(none, "").await, Silence::NoUnit);
        assert_eq!(silence("started\n", "").await, Silence::NoneFits);
        let older = "%s Logs begin at Thu 2026-11-26 04:20:33 UTC. --\n%s No entries --\n";
        assert_eq!(silence(&older.replace("%s", "--"), "").await, Silence::NoUnit);
        let damaged = "Journal file /var/log/journal/x is truncated, ignoring file.\n";
        assert_eq!(silence(none, damaged).await, Silence::Damaged);
        assert_eq!(silence("started\n", damaged).await, Silence::NoneFits);
    }

    #[tokio::test]
    async fn journalctl_itself_says_why_it_has_no_line() {
        if !Path::new(JOURNALCTL).exists() {
            return;
        }
        let directory = tempfile::tempdir().expect("directory");
        let readable = Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), readable).expect("for everybody");
        let query = Query { units: vec!["web.service".to_owned()], ..Query::default() };
        let here = || query.why().arg(format!("--directory={}", directory.path().display()));
        let why =
            async |program: Program| Silence::of(&program.output().await.expect("journalctl"));
        assert_eq!(why(here()).await, Silence::NoJournal);
        let file = directory.path().join("system.journal");
        fs::write(&file, "").expect("a file without a journal in it");
        assert_eq!(why(here()).await, Silence::Damaged);
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("for root alone");
            assert_eq!(why(here().of_user(65534, 65534)).await, Silence::Forbidden);
        }
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_read_is_not_one_in_which_nothing_was_said() {
        let told = |script: &str, silence: Silence| {
            let program = Program::new("/bin/sh").arg("-c").arg(script);
            spoken(Entries(program.start().expect("a shell")), 2, async move { Ok(silence) })
        };
        for silence in [Silence::NoUnit, Silence::NoneFits] {
            assert_eq!(told("true", silence).await.expect("a journal"), []);
        }
        for silence in [Silence::NoJournal, Silence::Forbidden, Silence::Damaged] {
            let unread = told("true", silence).await.expect_err("nothing can be told");
            assert!(unread.message.starts_with("nothing can be told: "), "{unread:?}");
            assert!(!unread.hint.is_empty());
        }
        let refused = "echo 'No journal files were opened' >&2; exit 1";
        let refused = told(refused, Silence::NoneFits).await.expect_err("journalctl says no");
        assert!(refused.message.contains("No journal files were opened"), "{refused:?}");
        let lines = r#"for n in 1 2 3; do echo "{\"MESSAGE\":\"$n\",\"_COMM\":\"web\"}"; done"#;
        let said = told(&format!("{lines}; exit 1"), Silence::Forbidden).await;
        let said = said.expect("as many as were asked for");
        let said: Vec<_> = said.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(said, ["web: 2", "web: 1"]);
    }
}
