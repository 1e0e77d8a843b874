//! `git.status`: at which commit a checkout is, and what differs from it.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use hostler_proto::{
    operation::GitStatus,
    ops::{GitStatus as Report, GitStatusRequest},
    wire::{Failure, Finding, Status},
};

use super::checkout::Checkout;
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{blocking, exec::Line},
    operation::{Answer, Context, Probe},
};

/// Changed files that are told.
const TOLD: usize = 100;
/// Files that are looked at in one go.
const AT_ONCE: usize = 256;

impl Probe for GitStatus {
    async fn observe(request: GitStatusRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let mut checkout = Checkout::open(&request.path, cx).await?;
        let status = [
            "status",
            "--porcelain=v2",
            "--branch",
            "--untracked-files=normal",
            // A git of its own would run there, as a configuration says that was not looked at.
            "--ignore-submodules=dirty",
        ];
        let mut compared = Compared::default();
        let mut running = checkout.start(&status)?;
        let mut files = Vec::new();
        while let Some(line) = running.line().await? {
            if let Line::Text(text) = line {
                files.extend(read(&mut compared.report, &String::from_utf8_lossy(&text)));
            }
            if files.len() == AT_ONCE {
                compared.count(&checkout, std::mem::take(&mut files)).await?;
            }
        }
        let complaints = checkout.end(running).await?;
        compared.count(&checkout, files).await?;
        let unread = compared.unread(&complaints);
        let mut report = compared.report;
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
        let own = std::mem::take(&mut checkout.own);
        report.fetched_s = blocking(move || Ok(fetched_s(&own))).await?;
        let now_s = cx.host.clock.now().as_second();
        let answer = judge(&request.path, report, now_s);
        let asked = std::mem::take(&mut checkout.asked);
        let answer = asked.into_iter().fold(answer, |answer, argv| answer.evidence("argv", argv));
        let user = checkout.user();
        Ok(match unread {
            None => answer,
            Some(unread) => {
                let summary = format!("{user}, as whom git runs there, cannot read {unread}");
                let finding = Finding::new(Status::Unknown, &request.path, summary).why(
                    "whether it differs from the commit cannot be told: let that user read it",
                );
                answer.finding(finding).unknown_first()
            }
        })
    }
}

/// What git compared with the commit, and what it could not.
#[derive(Default)]
struct Compared {
    report: Report,
    /// The first file that git may not read, and therefore takes for changed.
    hidden: Option<PathBuf>,
}

impl Compared {
    /// Counts files that differ, without those that git may not read.
    async fn count(&mut self, checkout: &Checkout, files: Vec<PathBuf>) -> Result<(), Failure> {
        let checkout = checkout.clone();
        let looked = blocking(move || {
            Ok(files.into_iter().partition(|file: &PathBuf| checkout.hides(file)))
        });
        let (hidden, changed): (Vec<PathBuf>, Vec<PathBuf>) = looked.await?;
        self.hidden = self.hidden.take().or(hidden.into_iter().next());
        changed.iter().for_each(|file| self.changed(file));
        Ok(())
    }

    fn changed(&mut self, file: &Path) {
        self.report.changed_files = self.report.changed_files.saturating_add(1);
        if self.report.changed.len() < TOLD {
            self.report.changed.push(file.to_string_lossy().into_owned());
        }
    }

    /// The first that git could not read: a file, or what it complains of.
    fn unread(&self, complaints: &[String]) -> Option<String> {
        let hidden = self.hidden.as_ref().map(|file| file.to_string_lossy().into_owned());
        hidden.or_else(|| {
            complaints.iter().find_map(|line| {
                let place = line.strip_suffix(": Permission denied")?;
                let directory = place.strip_prefix("warning: could not open directory ");
                Some(directory.unwrap_or(place).to_owned())
            })
        })
    }
}

/// Takes in a line of git's, and gives the file that differs by it.
fn read(report: &mut Report, line: &str) -> Option<PathBuf> {
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
        return None;
    }
    // 1 and u have eight and ten words before the path, 2 has nine and a tab after it.
    let words = match line.split(' ').next() {
        Some("?") => {
            report.untracked = report.untracked.saturating_add(1);
            return None;
        }
        Some("1") => 8,
        Some("2") => 9,
        Some("u") => 10,
        _ => return None,
    };
    let path = line.splitn(words + 1, ' ').nth(words).unwrap_or_default();
    Some(unquoted(path.split('\t').next().unwrap_or_default()))
}

/// A name as git writes it: where it holds more than plain letters, in quotes and with the escapes of C.
fn unquoted(name: &str) -> PathBuf {
    let Some(quoted) = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) else {
        return name.into();
    };
    let (mut name, mut rest) = (Vec::with_capacity(quoted.len()), quoted.bytes());
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { rest.next() } else { None };
        name.push(match escaped {
            None => byte,
            Some(b'a') => 0x07,
            Some(b'b') => 0x08,
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'v') => 0x0b,
            Some(b'f') => 0x0c,
            Some(b'r') => b'\r',
            Some(first @ b'0'..=b'3') => {
                let digits = std::iter::once(first).chain(rest.by_ref().take(2));
                digits.fold(0, |byte: u8, digit| byte << 3 | digit.wrapping_sub(b'0') & 7)
            }
            Some(other) => other,
        });
    }
    OsString::from_vec(name).into()
}

/// When somebody fetched there last: git writes that file anew each time, of any of the work trees. Blocks on
/// the disk.
fn fetched_s(own: &[PathBuf]) -> Option<f64> {
    let written = own.iter().filter_map(|directory| {
        let seen = std::fs::metadata(directory.join("FETCH_HEAD")).ok()?;
        // After a fetch that failed it is empty.
        let written = seen.modified().ok().filter(|_| seen.len() > 0)?;
        Some(written.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    });
    written.reduce(f64::max)
}

fn judge(path: &str, report: Report, now_s: i64) -> Answer<Report> {
    let mut findings = Vec::new();
    if report.changed_files > 0 {
        let summary = format!("{} files of {path} differ from its commit", report.changed_files);
        let finding = Finding::new(Status::Warning, path, summary).why(format!(
            "somebody changed them by hand; an update would stop there, or lose them: \
                 `git -C {path} diff` on the host shows how"
        ));
        let changed = f64::from(report.changed_files);
        let finding = Bounds::warning(Bound::fixed(1.0), "").told(finding, changed, "files");
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
    // Whether it follows nobody knows since then.
    if !report.upstream.is_empty() {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a date are far below 2^53")]
        let ago = report.fetched_s.map(|at| amount::span((now_s as f64 - at).max(0.0)));
        summary += &match ago {
            Some(ago) => format!(", fetched {ago} ago"),
            None => ", when it was fetched is not known".to_owned(),
        };
    }
    let answer = Answer::ok(summary, report);
    findings.into_iter().fold(answer, Answer::finding)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;

    #[test]
    fn branch_distance_and_changes_are_read() {
        let text = "# branch.oid 0123456789abcdef\n# branch.head main\n# branch.upstream origin/main\n\
            # branch.ab +1 -3\n1 .M N... 100644 100644 100644 aaa bbb src/a b.py\n\
            2 R. N... 100644 100644 100644 aaa bbb R100 new.py\told.py\n? stray\n";
        let mut compared = Compared::default();
        for line in text.lines() {
            if let Some(file) = read(&mut compared.report, line) {
                compared.changed(&file);
            }
        }
        let report = compared.report;
        assert_eq!((report.branch.as_str(), report.ahead, report.behind), ("main", 1, 3));
        assert_eq!(report.changed, ["src/a b.py", "new.py"]);
        assert_eq!(report.untracked, 1);
        let answer = judge("/opt/x", Report { fetched_s: Some(400.5), ..report.clone() }, 8000);
        assert_eq!(answer.status, Status::Warning);
        assert_eq!(answer.summary, "0123456789 on main, 1 ahead, 3 behind, fetched 2 h ago");
        let found = &answer.findings[0];
        assert_eq!(
            (found.value, found.warning, found.unit.as_str()),
            (Some(2.0), Some(1.0), "files")
        );
        assert!(found.why.ends_with("`git -C /opt/x diff` on the host shows how"), "{}", found.why);
        let never = judge("/opt/x", report, 8000).summary;
        assert!(never.ends_with("3 behind, when it was fetched is not known"), "{never}");
    }

    #[test]
    fn a_fetch_counts_in_whichever_work_tree_unless_it_failed() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = ["worktrees/a", "."].map(|part| directory.path().join(part));
        std::fs::create_dir_all(&own[0]).expect("made");
        assert_eq!(fetched_s(&own), None, "nobody fetched since it was cloned");
        let head = |at: usize| std::fs::File::create(own[at].join("FETCH_HEAD")).expect("made");
        drop(head(1));
        assert_eq!(fetched_s(&own), None, "a fetch that failed");
        for (at, second) in [(1, 5), (0, 9)] {
            let mut file = head(at);
            file.write_all(b"0123").expect("written");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).expect("set");
        }
        assert_eq!(fetched_s(&own), Some(9.0));
    }

    #[test]
    fn all_files_that_differ_are_counted_and_the_first_are_named() {
        let mut compared = Compared::default();
        for n in 0..12_345 {
            let line = format!("1 .M N... 100644 100644 100644 aaa bbb src/{n}.py");
            let file = read(&mut compared.report, &line).expect("a file");
            compared.changed(&file);
        }
        let report = compared.report;
        assert_eq!((report.changed.len(), report.changed_files), (100, 12_345));
        let answer = judge("/opt/x", report, 0);
        let said = "12345 files of /opt/x differ from its commit";
        assert_eq!(answer.findings[0].summary, said);
    }

    #[test]
    fn names_are_read_as_git_quotes_them() {
        for (written, meant) in [
            ("plain name", &b"plain name"[..]),
            (r#""b\303\244r.txt""#, "bär.txt".as_bytes()),
            (r#""a\\b \"c\"\td\ne\377""#, b"a\\b \"c\"\td\ne\xff"),
            (r#""\"#, b"\"\\"),
            (r#""\3""#, b"\x03"),
        ] {
            let name = unquoted(written).into_os_string().into_vec();
            assert_eq!(name.escape_ascii().to_string(), meant.escape_ascii().to_string());
        }
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
