//! `git.status`: at which commit a checkout is, and what differs from it.

use hostler_proto::{
    operation::GitStatus,
    ops::{GitStatus as Report, GitStatusRequest},
    wire::{Failure, Finding, Status},
};

use super::checkout::Checkout;
use crate::{
    host::blocking,
    operation::{Answer, Context, Probe},
};

/// Changed files that are told.
const TOLD: usize = 100;

impl Probe for GitStatus {
    async fn observe(request: GitStatusRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let checkout = Checkout::open(&request.path, cx).await?;
        let status = [
            "status",
            "--porcelain=v2",
            "--branch",
            "--untracked-files=normal",
            // A git of its own would run there, as a configuration says that was not looked at.
            "--ignore-submodules=dirty",
        ];
        let mut report = Report::default();
        let complaints = checkout.ask(&status, |line| read(&mut report, line)).await?;
        let mut log = Vec::new();
        // A checkout without a commit has no log.
        let _ = checkout
            .ask(&["log", "-1", "--format=%ct%n%s"], |line| {
                if log.len() < 2 {
                    log.push(line.to_owned());
                }
            })
            .await;
        report.committed_s = log.first().and_then(|t| t.parse().ok()).unwrap_or(0);
        report.subject = log.get(1).cloned().unwrap_or_default();
        let what = format!("git -C {} status --porcelain=v2 --branch", request.path);
        let user = checkout.user().to_owned();
        let (report, unread) =
            blocking(move || Ok(compared(&checkout, report, &complaints))).await?;
        let answer = judge(&request.path, report).evidence("argv", what);
        Ok(match unread {
            None => answer,
            Some(unread) => {
                let summary = format!("{user}, as whom git runs there, cannot read {unread}");
                let finding = Finding::new(Status::Unknown, &request.path, summary)
                    .why("whether it differs from the commit cannot be told");
                answer.finding(finding)
            }
        })
    }
}

/// Takes what git could not read away from what differs, and names the first of it. Blocks on the disk.
fn compared(
    checkout: &Checkout,
    mut report: Report,
    complaints: &[String],
) -> (Report, Option<String>) {
    let (hidden, changed): (Vec<_>, Vec<_>) =
        report.changed.into_iter().partition(|file| checkout.hides(file));
    report.changed = changed;
    let count = u32::try_from(hidden.len()).unwrap_or(u32::MAX);
    report.changed_files = report.changed_files.saturating_sub(count);
    let denied = complaints.iter().find_map(|line| {
        let place = line.strip_suffix(": Permission denied")?;
        Some(place.strip_prefix("warning: could not open directory ").unwrap_or(place).to_owned())
    });
    (report, hidden.into_iter().next().or(denied))
}

fn read(report: &mut Report, line: &str) {
    if let Some(header) = line.strip_prefix("# branch.") {
        let (name, value) = header.split_once(' ').unwrap_or((header, ""));
        match name {
            "oid" => value.clone_into(&mut report.commit),
            "head" if value != "(detached)" => value.clone_into(&mut report.branch),
            "upstream" => value.clone_into(&mut report.upstream),
            "ab" => {
                let mut counts =
                    value.split(' ').map(|c| c.get(1..).and_then(|n| n.parse().ok()).unwrap_or(0));
                report.ahead = counts.next().unwrap_or(0);
                report.behind = counts.next().unwrap_or(0);
            }
            _ => {}
        }
        return;
    }
    // 1 and u have eight and ten words before the path, 2 has nine and a tab after it.
    let words = match line.split(' ').next() {
        Some("?") => {
            report.untracked = report.untracked.saturating_add(1);
            return;
        }
        Some("1") => 8,
        Some("2") => 9,
        Some("u") => 10,
        _ => return,
    };
    report.changed_files = report.changed_files.saturating_add(1);
    if report.changed.len() < TOLD {
        let path = line.splitn(words + 1, ' ').nth(words).unwrap_or_default();
        report.changed.push(path.split('\t').next().unwrap_or_default().to_owned());
    }
}

fn judge(path: &str, report: Report) -> Answer<Report> {
    let mut findings = Vec::new();
    if report.changed_files > 0 {
        let summary = format!("{} files of {path} differ from its commit", report.changed_files);
        let finding = Finding::new(Status::Warning, path, summary)
            .why("somebody changed them by hand; an update would stop there, or lose them");
        findings.push(finding);
    }
    let short: String = report.commit.chars().take(10).collect();
    let place = if report.branch.is_empty() { "no branch" } else { &report.branch };
    let mut summary = format!("{short} on {place}");
    if report.ahead > 0 {
        summary += &format!(", {} ahead", report.ahead);
    }
    if report.behind > 0 {
        summary += &format!(", {} behind", report.behind);
    }
    let answer = Answer::ok(summary, report);
    findings.into_iter().fold(answer, Answer::finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branch_distance_and_changes_are_read() {
        let text = "# branch.oid 0123456789abcdef\n# branch.head main\n# branch.upstream origin/main\n\
            # branch.ab +1 -3\n1 .M N... 100644 100644 100644 aaa bbb src/a b.py\n\
            2 R. N... 100644 100644 100644 aaa bbb R100 new.py\told.py\n? stray\n";
        let mut report = Report::default();
        text.lines().for_each(|line| read(&mut report, line));
        assert_eq!((report.branch.as_str(), report.ahead, report.behind), ("main", 1, 3));
        assert_eq!(report.changed, ["src/a b.py", "new.py"]);
        assert_eq!(report.untracked, 1);
        let answer = judge("/opt/x", report);
        assert_eq!(answer.status, Status::Warning);
        assert_eq!(answer.summary, "0123456789 on main, 1 ahead, 3 behind");
    }

    #[test]
    fn all_files_that_differ_are_counted_and_the_first_are_named() {
        let mut report = Report::default();
        for n in 0..12_345 {
            read(&mut report, &format!("1 .M N... 100644 100644 100644 aaa bbb src/{n}.py"));
        }
        assert_eq!((report.changed.len(), report.changed_files), (100, 12_345));
        let answer = judge("/opt/x", report);
        let said = "12345 files of /opt/x differ from its commit";
        assert_eq!(answer.findings[0].summary, said);
    }

    #[test]
    fn a_branch_line_that_is_cut_short_counts_nothing() {
        for line in ["# branch.ab", "# branch.ab ", "# branch.ab +", "# branch.ab é é"] {
            let mut report = Report::default();
            read(&mut report, line);
            assert_eq!((report.ahead, report.behind), (0, 0), "{line}");
        }
    }
}
