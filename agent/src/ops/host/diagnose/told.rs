//! What a clue is told as: the cause, what was said, and what to look at next.

use hostler_proto::wire::{Finding, Status};

use super::clues::{Clue, Found, Step};
use crate::ops::systemd::Particulars;

/// The finding for a clue; `fragment` is the unit's file.
pub(super) fn told(
    unit: &str,
    found: &Found,
    fragment: &str,
    particulars: &Particulars,
) -> Finding {
    let said = found.said.clone();
    let journal = format!("journal read --unit {unit} --lines 50");
    let (summary, why, next) = match &found.clue {
        Clue::Step(step) => (
            at_step(unit, step, particulars),
            format!("{said}; its unit file is {fragment}"),
            journal,
        ),
        Clue::Environment => {
            let files = particulars.environment_files.join(", ");
            let summary = format!(
                "{unit} cannot be started: an EnvironmentFile is not there or cannot be read: {files}"
            );
            (summary, format!("{said}; its unit file is {fragment}"), journal)
        }
        Clue::NoSpace => {
            (format!("{unit} found no space on its disk"), said, "disk usage".to_owned())
        }
        Clue::Credentials => {
            let why = format!("user or password of its configuration is wrong: {said}");
            (format!("a server does not let {unit} in"), why, journal)
        }
        Clue::Modes => {
            (format!("{unit} refuses the owner or the permissions of its files"), said, journal)
        }
        Clue::Permission => (format!("{unit} may not use a file that it needs"), said, journal),
        Clue::Missing => (format!("{unit} misses a program, module or file"), said, journal),
        Clue::NoMemory => {
            (format!("{unit} found no memory"), said, "host processes --by memory".to_owned())
        }
        Clue::TooManyFiles => {
            let why = "its LimitNOFILE is too low, or it does not close what it opens; a restart \
                       helps for a while";
            let summary = format!("{unit} has no file descriptor left");
            (summary, why.to_owned(), format!("systemd restart {unit}"))
        }
        Clue::Code => (format!("the code of {unit} has a mistake"), said, journal),
        Clue::Configuration | Clue::PortTaken(_) | Clue::Refused(_) => {
            let next = if unit.starts_with("nginx") { "nginx test".to_owned() } else { journal };
            (format!("the configuration of {unit} has a mistake"), said, next)
        }
    };
    Finding::new(Status::Critical, unit, summary).why(why).next(next)
}

fn at_step(unit: &str, step: &Step, particulars: &Particulars) -> String {
    let Step { name, program, reason } = step;
    let program = if program.is_empty() { "a program of its unit file" } else { program };
    let reason = if reason.is_empty() { "systemd tells no more" } else { reason };
    match name.as_str() {
        "EXEC" => format!("{unit} cannot run {program}: {reason}"),
        "CHDIR" => {
            let directory = &particulars.directory;
            format!("{unit} cannot use its WorkingDirectory {directory}: {reason}")
        }
        "USER" => format!("{unit} cannot run as User {}: {reason}", particulars.user),
        "GROUP" => format!("{unit} cannot run with Group {}: {reason}", particulars.group),
        _ => format!("{unit} cannot be prepared for {program}: step {name}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_file_names_and_is_not_there_is_named() {
        let particulars = Particulars {
            directory: "/opt/nowhere".to_owned(),
            user: "nosuch".to_owned(),
            environment_files: vec!["/opt/web/.env".to_owned()],
            ..Particulars::default()
        };
        let finding = |clue| {
            let found = Found { clue, at: 0, said: "web[1]: said".to_owned() };
            told("web.service", &found, "/etc/systemd/system/web.service", &particulars)
        };
        let step = |name: &str, reason: &str| {
            let (name, reason) = (name.to_owned(), reason.to_owned());
            finding(Clue::Step(Step { name, program: "/usr/bin/web".to_owned(), reason })).summary
        };
        let gone = "No such file or directory";
        let said = step("CHDIR", gone);
        assert_eq!(
            said,
            format!("web.service cannot use its WorkingDirectory /opt/nowhere: {gone}")
        );
        assert!(step("USER", "No such process").contains("User nosuch"));
        assert!(step("EXEC", gone).contains("cannot run /usr/bin/web"));
        let environment = finding(Clue::Environment);
        assert!(environment.summary.ends_with(": /opt/web/.env"), "{environment:?}");
        assert!(environment.why.ends_with("/etc/systemd/system/web.service"));
    }

    #[test]
    fn every_cause_has_a_next_step() {
        for clue in [
            Clue::Environment,
            Clue::NoSpace,
            Clue::Credentials,
            Clue::Modes,
            Clue::Permission,
            Clue::Missing,
            Clue::NoMemory,
            Clue::TooManyFiles,
            Clue::Code,
            Clue::Configuration,
        ] {
            let found = Found { clue, at: 0, said: String::new() };
            let finding = told("web.service", &found, "", &Particulars::default());
            assert!(!finding.next.is_empty(), "{finding:?}");
        }
    }
}
