//! How well backups are, from what was seen of them alone.

use hostler_proto::{
    ops::{Backup, BackupSet, PostgresBackups as Report},
    wire::{ErrorCode, Failure, Finding, Status},
};

use crate::{
    amount::{size, span},
    bounds::{Bound, Bounds},
    operation::Answer,
    stack::Backups,
};

/// A backup below this share of those before it may lack something: a database seldom halves in a day.
const SHARE: f64 = 0.5;
/// How many before it are compared.
const BEFORE: usize = 7;

/// The kind of what could not be read: it may be a backup.
pub(super) const UNREADABLE: &str = "unreadable";

/// What was seen of one directory.
#[derive(Debug)]
pub(super) struct Set {
    entry: Backups,
    /// The directory that is really meant.
    pub directory: String,
    /// Why it could not be looked at.
    pub unreadable: Option<Failure>,
    /// It is not there.
    pub missing: bool,
    /// Links that lead out of it.
    pub astray: Vec<String>,
    /// Those that were written in the future.
    pub ahead: Vec<String>,
    /// It has more entries than these, and they were not looked at.
    pub cut: Option<usize>,
    /// How many have a fitting name.
    pub fitting: usize,
    /// The newest, in order.
    pub backups: Vec<Backup>,
}

impl Set {
    pub(super) fn new(entry: &Backups) -> Self {
        Self {
            directory: entry.directory.display().to_string(),
            entry: entry.clone(),
            unreadable: None,
            missing: false,
            astray: Vec::new(),
            ahead: Vec::new(),
            cut: None,
            fitting: 0,
            backups: Vec::new(),
        }
    }

    /// Those that are whole as far as one can tell.
    fn good(&self) -> impl Iterator<Item = &Backup> {
        self.backups.iter().filter(|b| {
            !["other", UNREADABLE].contains(&&*b.kind) && ["whole", "unknown"].contains(&&*b.state)
        })
    }

    /// What is wrong, each with what shows the backups themselves.
    fn findings(&self) -> Vec<Finding> {
        let next = format!("postgres backups {}", self.entry.name);
        self.found().into_iter().map(|finding| finding.next(&next)).collect()
    }

    fn found(&self) -> Vec<Finding> {
        let (name, directory) = (&self.entry.name, &self.directory);
        let finding = |status, summary: String, why: &str| {
            Finding::new(status, name, summary).why(why.to_owned())
        };
        if let Some(failure) = &self.unreadable {
            let (status, why) = match (self.missing, failure.code()) {
                (true, _) => (Status::Critical, "there is no backup to go back to"),
                (_, ErrorCode::PermissionDenied) => (Status::Unknown, failure.hint.as_str()),
                _ => (Status::Unknown, "whether there are backups nobody can tell"),
            };
            return vec![finding(status, format!("{name}: {}", failure.message), why)];
        }
        let mut found = Vec::new();
        if !self.astray.is_empty() {
            let links = self.astray.join(", ");
            let summary = format!("{name}: {links} leads out of {directory} and was not followed");
            found.push(finding(Status::Unknown, summary, "a [[backups]] of its own can name it"));
        }
        if let Some(most) = self.cut {
            let summary = format!("{name}: {directory} has more than {most} entries");
            found.push(finding(Status::Unknown, summary, "the newest may be one of the others"));
        }
        if let Some(first) = self.ahead.first() {
            let summary = match self.ahead.len() {
                1 => format!("{name}: {first} was written in the future"),
                more => format!("{name}: {more} backups were written in the future: {first}"),
            };
            found.push(finding(Status::Unknown, summary, "how old it is nobody can tell"));
        }
        let real: Vec<&Backup> = self.backups.iter().filter(|b| b.kind != "other").collect();
        let (unreadable, read): (Vec<&Backup>, Vec<&Backup>) =
            real.iter().copied().partition(|b| b.kind == UNREADABLE);
        let done: Vec<&Backup> = read.iter().copied().filter(|b| b.state != "written").collect();
        if let Some(first) = unreadable.first() {
            let newest = real.iter().find(|b| b.state != "written");
            let newest = newest.is_some_and(|b| b.kind == UNREADABLE);
            let summary = match (newest, unreadable.len()) {
                (true, _) => format!("{name}: the newest, {}: {}", first.file, first.why),
                (false, n) => {
                    format!("{name}: {n} older files cannot be told: {}: {}", first.file, first.why)
                }
            };
            found.push(finding(Status::Unknown, summary, "whether it is a backup nobody can tell"));
            if done.is_empty() {
                return found;
            }
        }
        let Some(newest) = done.first() else {
            found.push(match (real.first(), self.backups.first()) {
                (Some(first), _) => {
                    let summary =
                        format!("{name}: the only backup, {}, is being written", first.file);
                    finding(Status::Unknown, summary, "until it is whole there is none")
                }
                (None, Some(other)) => {
                    let summary = format!(
                        "{name}: none of {} files in {directory} is a dump of PostgreSQL that is \
                         known ({}: {})",
                        self.fitting, other.file, other.why
                    );
                    finding(Status::Critical, summary, "there is no backup to go back to")
                }
                (None, None) => {
                    let summary = format!("{name}: {directory} holds no backup");
                    finding(Status::Critical, summary, "there is no backup to go back to")
                }
            });
            return found;
        };
        if newest.state == "broken" {
            let summary =
                format!("{name}: the newest backup, {}, is broken: {}", newest.file, newest.why);
            let why = match self.good().next() {
                Some(good) => {
                    format!("the last good one, {}, is {} old", good.file, span(good.age_s))
                }
                None => "none of those that were looked at can be restored".to_owned(),
            };
            found.push(finding(Status::Critical, summary, &why));
        }
        let older = done.iter().skip(1).filter(|b| b.state == "broken").collect::<Vec<_>>();
        if let Some(first) = older.first() {
            let summary = format!(
                "{name}: {} older backups are broken: {} ({})",
                older.len(),
                first.file,
                first.why
            );
            found.push(finding(Status::Warning, summary, "they count as backups and are none"));
        }
        if let Some(good) = self.good().next() {
            self.judge_newest(good, &mut found);
        }
        let good = self.good().count();
        let all = self.fitting <= self.backups.len() && unreadable.is_empty();
        if good < self.entry.keep && good > 0 && all {
            let summary = format!("{name}: {good} good backups, of {} to keep", self.entry.keep);
            let why = "what went wrong days ago cannot be undone any more";
            found.push(finding(Status::Warning, summary, why));
        }
        found
    }

    /// The newest that is not broken: its age, its size, its database.
    fn judge_newest(&self, newest: &Backup, found: &mut Vec<Finding>) {
        let (name, entry, file) = (&self.entry.name, &self.entry, &newest.file);
        let finding = |status, summary: String| Finding::new(status, name, summary);
        let bound = entry.newer_than.as_secs_f64();
        if newest.age_s >= bound {
            let summary = format!(
                "{name}: the newest good backup, {file}, is {} old; {} are allowed",
                span(newest.age_s),
                span(bound)
            );
            let finding =
                finding(Status::Critical, summary).why("what was written since then would be lost");
            let bounds = Bounds::critical(Bound::fixed(bound), "the stack file's newer_than");
            found.push(bounds.told(finding, newest.age_s, "s"));
        }
        if newest.bytes < entry.smallest {
            let summary = format!(
                "{name}: {file} has {}, and should have {} at least",
                size(newest.bytes),
                size(entry.smallest)
            );
            found.push(
                finding(Status::Critical, summary)
                    .why("the stack file says that a whole one cannot be that small"),
            );
        }
        let mut before: Vec<u64> = self
            .good()
            .skip(1)
            .filter(|b| b.kind == newest.kind)
            .take(BEFORE)
            .map(|b| b.bytes)
            .collect();
        before.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "to compare")]
        if let Some(usual) = before.get(before.len() / 2)
            && (newest.bytes as f64) < *usual as f64 * SHARE
        {
            let summary = format!(
                "{name}: {file} has {}, those before it {}",
                size(newest.bytes),
                size(*usual)
            );
            found.push(
                finding(Status::Warning, summary).why("tables or their rows may be missing in it"),
            );
        }
        if let Some(wanted) = entry.database.as_ref().filter(|d| **d != newest.database)
            && !newest.database.is_empty()
        {
            let summary =
                format!("{name}: {file} is of the database {}, not of {wanted}", newest.database);
            found.push(finding(Status::Warning, summary).why("the wrong one is backed up"));
        }
    }

    fn said(&self) -> String {
        let name = &self.entry.name;
        match self.good().next() {
            Some(good) => {
                let packed = ["gzip", "zstd"].iter().any(|with| good.kind.ends_with(with));
                let unread = match packed && !good.read && !good.why.is_empty() {
                    true => format!(" ({})", good.why),
                    false => String::new(),
                };
                format!(
                    "{name}: the newest of {} backups is {} old and has {}{unread}",
                    self.fitting,
                    span(good.age_s),
                    size(good.bytes)
                )
            }
            None => format!("{name}: no good backup"),
        }
    }
}

pub(super) fn judge(sets: Vec<Set>) -> Answer<Report> {
    let findings: Vec<Finding> = sets.iter().flat_map(Set::findings).collect();
    let said: Vec<String> = sets.iter().map(Set::said).collect();
    // Said each time: a file that looks whole is easily taken for a backup.
    let summary = format!("{}; none of them was restored, so none is proven", said.join("; "));
    let mut report = Report::default();
    let mut figures = Vec::new();
    let mut evidence = Vec::new();
    for set in sets {
        evidence.push(format!("{}/{}", set.directory, set.entry.pattern));
        let newest = set.good().next().map(|b| (b.age_s, b.bytes));
        if let Some(newest) = newest {
            figures.push((set.entry.name.clone(), newest));
        }
        report.sets.push(BackupSet {
            name: set.entry.name.clone(),
            directory: set.directory.clone(),
            fitting: u32::try_from(set.fitting).unwrap_or(u32::MAX),
            good: u32::try_from(set.good().count()).unwrap_or(u32::MAX),
            newest_s: newest.map(|(age, _)| age),
        });
        report.backups.extend(set.backups);
    }
    let mut answer = Answer::ok(summary, report).evidence("file", evidence.join("; "));
    for (name, (age, bytes)) in figures {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
        let bytes = bytes as f64;
        answer = answer.figure("age", &name, age, "s").figure("size", &name, bytes, "bytes");
    }
    let bad = !findings.is_empty();
    let answer = findings.into_iter().fold(answer, Answer::finding);
    if bad { answer.summed_up() } else { answer }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: f64 = 3600.0;

    fn entry() -> Backups {
        Backups {
            name: "app".into(),
            directory: "/backups".into(),
            pattern: "*".into(),
            database: Some("app".into()),
            newer_than: Duration::from_secs(26 * 3600),
            smallest: 1000,
            keep: 1,
            after: Vec::new(),
        }
    }

    fn backup(hours: f64, bytes: u64, state: &str) -> Backup {
        Backup {
            set: "app".into(),
            file: format!("app-{hours}h.dump"),
            kind: "custom".into(),
            bytes,
            age_s: hours * HOUR,
            state: state.into(),
            why: if state == "broken" { "it ends in the middle".into() } else { String::new() },
            database: "app".into(),
            ..Backup::default()
        }
    }

    fn seen(entry: Backups, backups: Vec<Backup>) -> Answer<Report> {
        let mut set = Set::new(&entry);
        set.fitting = backups.len();
        set.backups = backups;
        judge(vec![set])
    }

    fn of(backups: Vec<Backup>) -> (Status, String) {
        let answer = seen(entry(), backups);
        (answer.status, answer.summary)
    }

    #[test]
    fn a_fresh_one_as_large_as_those_before_is_well_and_not_proven() {
        let (status, summary) = of(vec![backup(5.0, 9000, "whole"), backup(29.0, 8000, "whole")]);
        assert_eq!(status, Status::Ok);
        assert_eq!(
            summary,
            "app: the newest of 2 backups is 5 h old and has 8 KiB; none of them was restored, so \
             none is proven"
        );
        assert_eq!(of(vec![backup(5.0, 9000, "unknown")]).0, Status::Ok, "large ones are not read");
    }

    #[test]
    fn a_finding_names_the_operation_that_shows_the_backups() {
        for backups in [vec![], vec![backup(27.0, 900, "whole"), backup(28.0, 9000, "broken")]] {
            let answer = seen(entry(), backups);
            assert!(!answer.findings.is_empty());
            assert!(answer.findings.iter().all(|f| f.next == "postgres backups app"));
        }
    }

    #[test]
    fn none_or_an_old_or_a_broken_one_is_critical() {
        for (backups, words) in [
            (vec![], "holds no backup"),
            (vec![backup(27.0, 9000, "whole")], "is 27 h old; 26 h are allowed"),
            (
                vec![backup(1.0, 9000, "broken"), backup(25.0, 9000, "whole")],
                "the newest backup, app-1h.dump, is broken: it ends in the middle",
            ),
            (vec![backup(1.0, 900, "whole")], "should have 1000 bytes at least"),
        ] {
            let (status, summary) = of(backups);
            assert_eq!(status, Status::Critical, "{summary}");
            assert!(summary.contains(words), "{summary}");
        }
        let mut other = backup(1.0, 9000, "unknown");
        other.kind = "other".into();
        assert!(of(vec![other]).1.contains("none of 1 files"));
    }

    #[test]
    fn one_of_half_the_size_of_another_database_or_too_few_are_warnings() {
        let usual = || (1..9).map(|day| backup(24.0 * f64::from(day), 10_000, "whole"));
        let with = |newest: Backup| of(std::iter::once(newest).chain(usual()).collect());
        assert_eq!(with(backup(1.0, 4000, "whole")).0, Status::Warning);
        assert_eq!(with(backup(1.0, 6000, "whole")).0, Status::Ok);
        let plain = Backup { kind: "plain gzip".into(), ..backup(1.0, 4000, "whole") };
        assert_eq!(with(plain).0, Status::Ok, "another kind has another size");
        let strange = Backup { database: "postgres".into(), ..backup(1.0, 9000, "whole") };
        assert_eq!(with(strange).0, Status::Warning);
        assert_eq!(with(backup(1.0, 9000, "whole")).0, Status::Ok);
        let few = seen(Backups { keep: 7, ..entry() }, vec![backup(1.0, 9000, "whole")]);
        assert!(few.summary.contains("1 good backups, of 7 to keep"), "{}", few.summary);
        let older = of(vec![backup(1.0, 9000, "whole"), backup(25.0, 9000, "broken")]);
        assert_eq!(older.0, Status::Warning);
    }

    #[test]
    fn one_that_is_being_written_counts_for_nothing_yet() {
        let (status, summary) = of(vec![backup(0.1, 10, "written"), backup(24.0, 9000, "whole")]);
        assert_eq!(status, Status::Ok, "{summary}");
        assert_eq!(of(vec![backup(0.1, 10, "written")]).0, Status::Unknown);
        let old = of(vec![backup(0.1, 10, "written"), backup(30.0, 9000, "whole")]);
        assert_eq!(old.0, Status::Critical);
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_not_passed_over() {
        let closed = |hours: f64| Backup {
            kind: UNREADABLE.into(),
            why: "it cannot be read: I/O error".into(),
            ..backup(hours, 9000, "unknown")
        };
        let (status, summary) = of(vec![closed(1.0), closed(25.0)]);
        assert_eq!(status, Status::Unknown, "{summary}");
        let (status, summary) = of(vec![closed(1.0), backup(5.0, 9000, "whole")]);
        assert_eq!(status, Status::Unknown, "{summary}");
        assert!(summary.contains("the newest, app-1h.dump: it cannot be read"), "{summary}");
        let (status, summary) = of(vec![backup(1.0, 9000, "whole"), closed(5.0)]);
        assert_eq!(status, Status::Unknown, "{summary}");
        assert!(summary.contains("1 older files cannot be told"), "{summary}");
        let old = of(vec![closed(1.0), backup(30.0, 9000, "whole")]);
        assert_eq!(old.0, Status::Critical, "what can be read is too old");
    }

    #[test]
    fn one_of_the_future_and_too_many_entries_are_unknown() {
        let with = |change: fn(&mut Set)| {
            let mut set = Set::new(&entry());
            set.backups = vec![backup(0.0, 9000, "whole")];
            set.fitting = 1;
            change(&mut set);
            judge(vec![set])
        };
        assert_eq!(with(|_| {}).status, Status::Ok);
        let ahead = with(|set| set.ahead.push("app-0h.dump".into()));
        assert_eq!(ahead.status, Status::Unknown);
        assert!(ahead.summary.contains("written in the future"), "{}", ahead.summary);
        assert_eq!(with(|set| set.cut = Some(3)).status, Status::Unknown);
    }

    #[test]
    fn it_is_said_when_the_newest_was_not_read_to_its_end() {
        let why = "it was not read to its end; --verify does";
        let packed =
            Backup { kind: "plain gzip".into(), why: why.into(), ..backup(1.0, 9000, "unknown") };
        let (status, summary) = of(vec![packed]);
        assert_eq!(status, Status::Ok);
        assert!(summary.contains(why), "{summary}");
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_unknown_and_one_that_is_not_there_critical() {
        let with = |code: ErrorCode, missing: bool| {
            let mut set = Set::new(&entry());
            set.unreadable = Some(Failure::new(code, "/backups cannot be read"));
            set.missing = missing;
            judge(vec![set]).status
        };
        assert_eq!(with(ErrorCode::PermissionDenied, false), Status::Unknown);
        assert_eq!(with(ErrorCode::NotFound, true), Status::Critical);
    }
}
