//! `pip.outdated`: what of a virtualenv is outdated, by its own pip and as its owner. pip says "nothing is
//! outdated" as well when its index does not answer; so the index is asked first.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hostler_proto::{
    operation::PipOutdated,
    ops::{PipEnvironment, PipOutdated as Report, PipOutdatedRequest, PipPackage},
    wire::{ErrorCode, Failure, Finding, Status},
};
use serde::Deserialize;

use crate::{
    host::{
        blocking,
        exec::{End, Output},
        owner::{self, Owner},
    },
    operation::{Answer, Context, Probe},
    ops::versions::jump,
    order::Order as _,
    stack::{Virtualenv, chosen},
};

/// How long one run of pip may take.
const DEADLINE: Duration = Duration::from_secs(180);
/// How long the index may take to answer, in seconds.
const PATIENCE: &str = "15";
/// Conflicts that are told.
const TOLD: usize = 20;
/// Longest reason that is passed on, in characters.
const REASON: usize = 300;

impl Probe for PipOutdated {
    async fn observe(request: PipOutdatedRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let all = &cx.host.stack.virtualenvs;
        let chosen = chosen(all, "virtualenv", &request.name, |v| &v.name)?;
        let mut report = Report::default();
        let (mut findings, mut asked) = (Vec::new(), Vec::new());
        for (done, entry) in (0..).zip(&chosen) {
            cx.progress(format!("asking pip of {}", entry.name), done, chosen.len() as u64, "");
            let seen = look(entry, cx).await?;
            findings.extend(seen.findings(&entry.name));
            // Where nothing was run, what lies there is why.
            match seen.asked.is_empty() {
                true => asked.push(("file", seen.environment.path.clone())),
                false => asked.extend(seen.asked.into_iter().map(|argv| ("argv", argv))),
            }
            report.environments.push(seen.environment);
            report.packages.extend(seen.packages);
        }
        let answer = judge(report, findings);
        Ok(asked.into_iter().fold(answer, |answer, (kind, what)| answer.evidence(kind, what)))
    }
}

/// An environment, and what could not be found out about it.
#[derive(Debug, Default)]
struct Seen {
    environment: PipEnvironment,
    packages: Vec<PipPackage>,
    unknown: Vec<Failure>,
    /// What was run.
    asked: Vec<String>,
}

impl Seen {
    fn findings(&self, name: &str) -> Vec<Finding> {
        let unknown = self.unknown.iter().map(|failure| {
            let summary = format!("{name}: {}", failure.message);
            let finding = Finding::new(Status::Unknown, name, summary);
            finding.why(match failure.hint.as_str() {
                "" => "what is outdated there is not known: see what `pip list` says on that host",
                hint => hint,
            })
        });
        let mut findings: Vec<_> = unknown.collect();
        let conflicts = &self.environment.conflicts;
        if let Some(first) = conflicts.first() {
            let more = match conflicts.len() {
                1 => String::new(),
                n => format!(", and {} more like that", n - 1),
            };
            let summary = format!("{name} does not go together: {first}{more}");
            findings.push(Finding::new(Status::Warning, name, summary).why(
                "a package that lacks what it needs fails when that is used first: install what \
                         it names",
            ));
        }
        findings
    }
}

/// Looks at one. What fails is a part of what is found, but for a cancelled operation.
async fn look(entry: &Virtualenv, cx: &Context) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    seen.environment.name.clone_from(&entry.name);
    seen.environment.path = entry.path.display().to_string();
    match Environment::open(entry, cx).await {
        Ok(environment) => {
            environment.owner.name().clone_into(&mut seen.environment.user);
            if let Err(failure) = environment.ask(&mut seen, cx).await {
                seen.unknown.push(failure);
            }
        }
        Err(failure) => seen.unknown.push(failure),
    }
    match seen.unknown.iter().find(|f| f.code() == ErrorCode::Cancelled) {
        Some(cancelled) => Err(cancelled.clone()),
        None => Ok(seen),
    }
}

/// A virtualenv that can be asked.
struct Environment {
    python: String,
    owner: Owner,
}

impl Environment {
    async fn open(entry: &Virtualenv, cx: &Context) -> Result<Self, Failure> {
        let (host, path) = (Arc::clone(&cx.host), entry.path.clone());
        blocking(move || {
            let path = host.policy.directory(&path)?;
            let programs: PathBuf = path.join("bin");
            if !path.join("pyvenv.cfg").is_file() || !programs.join("python").exists() {
                let message = format!("{} is no virtualenv", path.display());
                return Err(Failure::new(ErrorCode::NotFound, message)
                    .hint("it needs a pyvenv.cfg, and bin/python that leads to a program"));
            }
            let owner = Owner::of(&path)?;
            if Owner::of(&programs)? != owner {
                let message = format!("{} has another owner than it", programs.display());
                return Err(Failure::new(ErrorCode::PreconditionFailed, message)
                    .hint("a virtualenv is run as the one user who can write there"));
            }
            Ok(Self { python: programs.join("python").display().to_string(), owner })
        })
        .await
    }

    async fn ask(&self, seen: &mut Seen, cx: &Context) -> Result<(), Failure> {
        let version = self.run(&["-V"], &mut seen.asked, cx).await?;
        if version.end.code != Some(0) {
            return Err(version.end.failure());
        }
        let said = version.lines.first().map_or("", |l| l.trim_start_matches("Python ").trim());
        said.clone_into(&mut seen.environment.python);

        let check = self.pip(&["check"], &mut seen.asked, cx).await?;
        match conflicts(&check) {
            Ok(conflicts) => seen.environment.conflicts = conflicts,
            Err(failure) => seen.unknown.push(failure),
        }
        // Without the index nothing would seem outdated.
        let index = ["-vv", "index", "versions", "pip", "--retries", "0"];
        let index = self.pip(&index, &mut seen.asked, cx).await?;
        silent(&index.lines, &index.end)?;
        let outdated = ["list", "--outdated", "--format=json", "--retries", "1"];
        let outdated = self.pip(&outdated, &mut seen.asked, cx).await?;
        silent(&outdated.lines, &outdated.end)?;
        let direct = ["list", "--not-required", "--format=json"];
        let direct = self.pip(&direct, &mut seen.asked, cx).await?;
        let direct = listed(&direct)?;
        let name = &seen.environment.name;
        let packages = listed(&outdated)?.into_iter().map(|p| PipPackage {
            environment: name.clone(),
            direct: direct.iter().any(|d| d.name == p.name),
            jump: jump(&p.version, &p.latest_version).to_owned(),
            name: p.name,
            installed: p.version,
            latest: p.latest_version,
        });
        seen.packages = packages.collect();
        let rank = |p: &PipPackage| ["major", "minor"].iter().position(|j| *j == p.jump);
        seen.packages.order_by_key(|p| (!p.direct, rank(p).unwrap_or(2), p.name.clone()));
        seen.environment.outdated = u32::try_from(seen.packages.len()).ok();
        Ok(())
    }

    async fn pip(
        &self,
        arguments: &[&str],
        asked: &mut Vec<String>,
        cx: &Context,
    ) -> Result<Output, Failure> {
        let pip = ["-m", "pip", "--no-input", "--disable-pip-version-check", "--no-cache-dir"];
        let patience = ["--timeout", PATIENCE];
        self.run(&[&pip[..], &patience, arguments].concat(), asked, cx).await
    }

    /// Runs its Python: it takes no module from elsewhere, and writes none down compiled.
    async fn run(
        &self,
        arguments: &[&str],
        asked: &mut Vec<String>,
        cx: &Context,
    ) -> Result<Output, Failure> {
        let mut python = self.owner.program(self.python.clone()).arg("-I").arg("-B");
        for argument in arguments {
            python = python.arg(*argument);
        }
        let _turn = owner::turn().await;
        asked.push(python.argv());
        cx.within(DEADLINE, "pip", python.output()).await
    }
}

/// A package as `pip list --format=json` writes it.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    version: String,
    #[serde(default)]
    latest_version: String,
}

fn listed(output: &Output) -> Result<Vec<Listed>, Failure> {
    if output.end.code != Some(0) {
        return Err(output.end.failure());
    }
    let text = output.lines.iter().rev().find(|l| l.starts_with('['));
    let list = text.and_then(|text| serde_json::from_str(text).ok());
    list.ok_or_else(|| {
        Failure::new(ErrorCode::HostFault, "pip wrote a list that cannot be read")
            .evidence(output.end.evidence())
    })
}

/// The sentences of `pip check`, which ends with 1 when it has some.
fn conflicts(output: &Output) -> Result<Vec<String>, Failure> {
    let said = output.lines.iter().filter(|l| !l.trim().is_empty());
    match output.end.code {
        Some(0) => Ok(Vec::new()),
        Some(1) if !output.lines.is_empty() => Ok(said.take(TOLD).cloned().collect()),
        _ => Err(output.end.failure()),
    }
}

/// Whether a run of pip met an index that does not answer: that is no error to pip, and told only to
/// those who want to know everything. One that has no such package has answered.
fn silent(lines: &[String], end: &End) -> Result<(), Failure> {
    let unreachable = |reason: &str| {
        let reason: String = reason.chars().take(REASON).collect();
        let message = format!("the package index does not answer: {reason}");
        let hint = "pip's own configuration names the index: `pip config list` as that user";
        Err(Failure::new(ErrorCode::Unreachable, message).hint(hint))
    };
    let mut refused =
        lines.iter().filter_map(|line| line.trim().strip_prefix("Could not fetch URL "));
    if let Some(reason) = refused.find(|r| !r.contains(": 404 Client Error")) {
        return unreachable(reason.trim_end_matches(" - skipping"));
    }
    let broken = ["connection broken by", "is ignored", "is being ignored"];
    let warned = end.tail.iter().find(|l| broken.iter().any(|b| l.contains(b)));
    if let Some(warning) = warned {
        return unreachable(warning.trim_start_matches("WARNING: "));
    }
    match end.tail.iter().any(|l| l.contains("unknown command \"index\"")) {
        true => Err(Failure::new(
            ErrorCode::Unsupported,
            "its pip is older than 21.2, and does not tell whether its index answers",
        )
        .hint("a newer pip in that environment does")),
        false => Ok(()),
    }
}

fn judge(report: Report, findings: Vec<Finding>) -> Answer<Report> {
    let said = report.environments.iter().map(|e| {
        let of = || report.packages.iter().filter(|p| p.environment == e.name);
        match e.outdated {
            None => format!("{}: unknown", e.name),
            Some(0) => format!("{}: nothing is outdated", e.name),
            Some(count) => {
                let direct = of().filter(|p| p.direct).count();
                let major = of().filter(|p| p.jump == "major").count();
                format!(
                    "{}: {count} packages are outdated, {direct} of them asked for, {major} by a \
                     major version",
                    e.name
                )
            }
        }
    });
    let summary = said.collect::<Vec<_>>().join("; ");
    let counts: Vec<_> =
        report.environments.iter().filter_map(|e| Some((e.name.clone(), e.outdated?))).collect();
    let mut answer = Answer::ok(summary, report);
    for (name, count) in counts {
        answer = answer.figure("outdated", &name, count.into(), "packages");
    }
    let bad = !findings.is_empty();
    let answer = findings.into_iter().fold(answer, Answer::finding);
    if bad { answer.summed_up() } else { answer }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::host::{Host, exec::Program};

    /// What a program printed on both outputs.
    async fn said(out: &str, errors: &str, code: u32) -> Output {
        let script = "printf %s \"$1\"; printf %s \"$2\" >&2; exit \"$3\"";
        let shell = Program::new("/bin/sh").arg("-c").arg(script).arg("sh");
        let shell = shell.arg(out).arg(errors).arg(code.to_string());
        shell.output().await.expect("run")
    }

    #[tokio::test]
    async fn an_index_that_does_not_answer_is_told_from_one_that_lacks_a_package() {
        let of = async |out: &str, errors: &str| {
            let output = said(out, errors, 0).await;
            silent(&output.lines, &output.end).map_err(|f| f.message)
        };
        let refused =
            "  Could not fetch URL http://x/simple/pip/: connection error: refused - skipping\n[]";
        let message = of(refused, "").await.expect_err("refused");
        assert!(message.ends_with("http://x/simple/pip/: connection error: refused"), "{message}");
        let forbidden = "Could not fetch URL http://x/pip/: 403 Client Error: Forbidden - skipping";
        assert!(of(forbidden, "").await.is_err());
        let lacks = "Could not fetch URL http://x/pip/: 404 Client Error: Not Found - skipping";
        assert_eq!(of(lacks, "ERROR: No matching distribution found for pip").await, Ok(()));
        let dropped = "WARNING: Retrying (Retry(total=0)) after connection broken by 'X': /idna/";
        assert!(of("[]", dropped).await.is_err());
        let gone =
            "WARNING: Location '/nosuch' is ignored: it is either a non-existing path or lacks";
        assert!(of("[]", gone).await.is_err());
        assert!(of("", "ERROR: unknown command \"index\"").await.is_err());
    }

    #[tokio::test]
    async fn the_list_is_found_among_other_lines_and_conflicts_are_no_failure() {
        let text = "[notice] a new pip\n[{\"name\": \"idna\", \"version\": \"3.6\", \
                    \"latest_version\": \"3.20\", \"latest_filetype\": \"wheel\"}]\n";
        let list = listed(&said(text, "", 0).await).expect("a list");
        assert_eq!((list[0].name.as_str(), list[0].latest_version.as_str()), ("idna", "3.20"));
        assert!(listed(&said("[{\"name\"", "", 0).await).is_err());
        let needs = "fastapi 0.1 requires anyio, which is not installed.\n";
        assert_eq!(conflicts(&said(needs, "", 1).await).expect("told").len(), 1);
        assert_eq!(conflicts(&said("No broken requirements found.\n", "", 0).await), Ok(vec![]));
        assert!(conflicts(&said("", "No module named pip", 1).await).is_err());
    }

    #[tokio::test]
    async fn what_was_really_run_is_told() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().canonicalize().expect("real");
        // Whoever it is run as may see it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("for everybody");
        fs::write(path.join("pyvenv.cfg"), "").expect("written");
        fs::create_dir(path.join("bin")).expect("a directory");
        let python = path.join("bin/python");
        std::os::unix::fs::symlink("/bin/echo", &python).expect("a link");
        let mut host = Host::showing(Path::new("/nonexistent"));
        host.policy.paths = vec![path.clone()];
        let after = Vec::new();
        host.stack.virtualenvs = vec![Virtualenv { name: "app".into(), path, after }];
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let answer = PipOutdated::observe(PipOutdatedRequest::default(), &cx).await;
        let evidence = answer.expect("an answer").evidence;
        let run = format!("{} -I -B ", python.display());
        assert!(evidence.iter().all(|e| e.kind == "argv" && e.what.contains(&run)), "{evidence:?}");
        let ends =
            ["-V", " check", " index versions pip --retries 0", "--retries 1", "--format=json"];
        let ended: Vec<_> =
            evidence.iter().zip(ends).map(|(e, end)| e.what.ends_with(end)).collect();
        assert_eq!(ended, [true; 5], "{evidence:?}");
    }

    fn package(name: &str, jump: &str, direct: bool) -> PipPackage {
        let (name, jump) = (name.to_owned(), jump.to_owned());
        PipPackage { environment: "app".into(), name, jump, direct, ..PipPackage::default() }
    }

    #[test]
    fn what_is_outdated_is_no_alarm_and_what_does_not_go_together_is_a_warning() {
        let packages = vec![package("django", "major", true), package("idna", "minor", false)];
        let mut seen = Seen { packages, ..Seen::default() };
        seen.environment.name = "app".into();
        seen.environment.outdated = Some(2);
        let report = |seen: &Seen| Report {
            environments: vec![seen.environment.clone()],
            packages: seen.packages.clone(),
        };
        let well = judge(report(&seen), seen.findings("app"));
        assert_eq!(well.status, Status::Ok);
        assert_eq!(
            well.summary,
            "app: 2 packages are outdated, 1 of them asked for, 1 by a major version"
        );
        seen.environment.conflicts = vec!["a needs b".into(), "c needs d".into()];
        let broken = judge(report(&seen), seen.findings("app"));
        assert_eq!(broken.status, Status::Warning);
        assert_eq!(broken.summary, "app does not go together: a needs b, and 1 more like that");
        seen.environment.outdated = None;
        seen.unknown.push(Failure::new(ErrorCode::Unreachable, "the package index is away"));
        seen.environment.conflicts.clear();
        assert_eq!(judge(report(&seen), seen.findings("app")).status, Status::Unknown);
    }
}
