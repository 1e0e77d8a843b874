//! `pnpm.outdated`: what of a front end is outdated, as pnpm says it. Its exit status 1 says that there
//! is something to tell, and also that it failed; what it printed decides.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use hostler_proto::{
    operation::PnpmOutdated,
    ops::{PnpmFrontend, PnpmOutdated as Report, PnpmOutdatedRequest, PnpmPackage},
    wire::{ErrorCode, Failure, Finding, Status},
};
use serde::Deserialize;

use crate::{
    host::{
        blocking,
        exec::Output,
        files,
        owner::{self, Owner},
    },
    operation::{Answer, Context, Probe},
    ops::versions::jump,
    order::Order as _,
    stack::{Frontend, chosen},
};

/// How long pnpm may take.
const DEADLINE: Duration = Duration::from_secs(180);
/// Where pnpm is, but for those in the owner's own directory.
const PLACES: [&str; 2] = ["/usr/local/bin/pnpm", "/usr/bin/pnpm"];
/// The same beneath the owner's own directory.
const OWN: [&str; 2] = [".local/share/pnpm/pnpm", ".local/bin/pnpm"];
/// Lock files of others, and whose they are.
const OTHERS: [(&str, &str); 4] = [
    ("package-lock.json", "npm"),
    ("npm-shrinkwrap.json", "npm"),
    ("yarn.lock", "yarn"),
    ("bun.lock", "bun"),
];
/// Settings of pnpm for a look that leaves nothing behind: no cache, no notice, and no other pnpm that
/// is fetched because package.json names it.
const SETTINGS: [(&str, &str); 8] = [
    ("cache_dir", "/dev/null/none"),
    ("state_dir", "/dev/null/none"),
    ("update_notifier", "false"),
    ("manage_package_manager_versions", "false"),
    ("pm_on_fail", "ignore"),
    ("package_manager_strict", "false"),
    ("fetch_retries", "0"),
    ("fetch_timeout", "15000"),
];
/// Longest reason that is passed on, in characters.
const REASON: usize = 300;

impl Probe for PnpmOutdated {
    async fn observe(
        request: PnpmOutdatedRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let all = &cx.host.stack.frontends;
        let chosen = chosen(all, "frontend", &request.name, |f| &f.name)?;
        let mut report = Report::default();
        let (mut findings, mut asked) = (Vec::new(), Vec::new());
        for (done, entry) in (0..).zip(&chosen) {
            cx.progress(format!("asking pnpm of {}", entry.name), done, chosen.len() as u64, "");
            let mut frontend = PnpmFrontend {
                name: entry.name.clone(),
                path: entry.path.display().to_string(),
                ..PnpmFrontend::default()
            };
            let mut argv = None;
            match ask(entry, &mut frontend, &mut argv, cx).await {
                Ok(packages) => {
                    frontend.outdated = u32::try_from(packages.len()).ok();
                    report.packages.extend(packages);
                }
                Err(failure) if failure.code() == ErrorCode::Cancelled => return Err(failure),
                Err(failure) => {
                    let summary = format!("{}: {}", entry.name, failure.message);
                    let finding = Finding::new(Status::Unknown, &entry.name, summary);
                    findings.push(finding.why(match failure.hint.as_str() {
                        "" => {
                            "what is outdated there is not known: see what `pnpm outdated` says on \
                             that host"
                        }
                        hint => hint,
                    }));
                }
            }
            // Where nothing was run, what lies there is why.
            asked.push(match argv {
                Some(argv) => ("argv", argv),
                None => ("file", frontend.path.clone()),
            });
            report.frontends.push(frontend);
        }
        let answer = judge(report, findings);
        Ok(asked.into_iter().fold(answer, |answer, (kind, what)| answer.evidence(kind, what)))
    }
}

async fn ask(
    entry: &Frontend,
    frontend: &mut PnpmFrontend,
    argv: &mut Option<String>,
    cx: &Context,
) -> Result<Vec<PnpmPackage>, Failure> {
    let place = Place::open(entry, cx).await?;
    place.owner.name().clone_into(&mut frontend.user);
    let beside = place.pnpm.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut pnpm = place
        .owner
        .program(place.pnpm.clone())
        .directory(&place.path)
        .env("PATH", format!("{beside}:/usr/local/bin:/usr/bin:/bin"))
        // Corepack fetches nothing either, and asks nobody.
        .env("COREPACK_ENABLE_NETWORK", "0")
        .env("COREPACK_ENABLE_DOWNLOAD_PROMPT", "0")
        // The agent's memory is bounded, and its programs' with it.
        .env("NODE_OPTIONS", "--max-old-space-size=192")
        .env("CI", "true");
    for (name, value) in SETTINGS {
        // Until 10 and from 11 on.
        pnpm = pnpm.env(&format!("npm_config_{name}"), value);
        pnpm = pnpm.env(&format!("pnpm_config_{name}"), value);
    }
    pnpm = pnpm.arg("outdated").arg("--format").arg("json");
    if place.workspace {
        pnpm = pnpm.arg("--recursive");
    }
    let _turn = owner::turn().await;
    *argv = Some(format!("{} (in {})", pnpm.argv(), place.path.display()));
    let output = cx.within(DEADLINE, "pnpm", pnpm.output()).await?;
    read(&entry.name, &output)
}

/// A front end that pnpm can be asked about.
struct Place {
    path: PathBuf,
    pnpm: String,
    owner: Owner,
    /// It has parts with packages of their own.
    workspace: bool,
}

impl Place {
    async fn open(entry: &Frontend, cx: &Context) -> Result<Self, Failure> {
        let (host, entry) = (Arc::clone(&cx.host), entry.clone());
        blocking(move || {
            let path = host.policy.directory(&entry.path)?;
            if !path.join("package.json").is_file() {
                let message = format!("{} has no package.json", path.display());
                return Err(Failure::new(ErrorCode::NotFound, message));
            }
            if !path.join("pnpm-lock.yaml").is_file() {
                return Err(no_lock(&path.display().to_string(), |name| path.join(name).exists()));
            }
            let owner = Owner::of(&path)?;
            let own = OWN.iter().map(|place| format!("{}/{place}", owner.home));
            let named = entry.pnpm.iter().map(|p| p.display().to_string());
            let mut places: Vec<String> = named.collect();
            if places.is_empty() {
                places.extend(PLACES.map(ToOwned::to_owned).into_iter().chain(own));
            }
            let missing = || {
                let message = format!("this host has no pnpm: {}", places.join(", "));
                Failure::new(ErrorCode::Unsupported, message)
                    .hint("where it is elsewhere, pnpm = \"/PATH\" in the stack file names it")
            };
            let found = places.iter().find(|p| PathBuf::from(p).exists());
            let pnpm = found.cloned().ok_or_else(missing)?;
            let parts = files::small(&path.join("pnpm-workspace.yaml")).unwrap_or_default();
            let mut lines = parts.split(|byte| *byte == b'\n');
            let workspace = lines.any(|line| line.starts_with(b"packages:"));
            Ok(Self { path, pnpm, owner, workspace })
        })
        .await
    }
}

/// Why there is nothing to ask pnpm about.
fn no_lock(path: &str, exists: impl Fn(&str) -> bool) -> Failure {
    match OTHERS.iter().find(|(file, _)| exists(file)) {
        Some((file, whose)) => {
            let message = format!("{path} has {file} of {whose} and no pnpm-lock.yaml");
            Failure::new(ErrorCode::Unsupported, message)
                .hint(format!("its packages are installed by {whose}; pnpm cannot tell of them"))
        }
        None => {
            let message = format!("{path} has no pnpm-lock.yaml");
            Failure::new(ErrorCode::NotFound, message)
                .hint("without a lock file nobody can tell which versions are wanted")
        }
    }
}

/// A package as pnpm writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    current: String,
    #[serde(default)]
    wanted: String,
    #[serde(default)]
    latest: String,
    #[serde(default)]
    is_deprecated: bool,
    #[serde(default)]
    dependency_type: String,
}

fn read(frontend: &str, output: &Output) -> Result<Vec<PnpmPackage>, Failure> {
    let begin = output.lines.iter().position(|l| l.starts_with('{'));
    let text = begin.map(|at| output.lines[at..].join("\n"));
    let listed = text.and_then(|t| serde_json::from_str::<BTreeMap<String, Listed>>(&t).ok());
    let (Some(0 | 1), Some(listed)) = (output.end.code, listed) else {
        return Err(said_no(output));
    };
    let mut packages: Vec<_> = listed
        .into_iter()
        .map(|(name, p)| {
            let from = if p.current.is_empty() { &p.wanted } else { &p.current };
            PnpmPackage {
                frontend: frontend.to_owned(),
                jump: jump(from, &p.latest).to_owned(),
                name,
                current: p.current,
                wanted: p.wanted,
                latest: p.latest,
                kind: p.dependency_type,
                deprecated: p.is_deprecated,
            }
        })
        .collect();
    let rank = |p: &PnpmPackage| ["major", "minor"].iter().position(|j| *j == p.jump);
    packages.order_by_key(|p| (p.kind == "devDependencies", rank(p).unwrap_or(2), p.name.clone()));
    Ok(packages)
}

/// Why there is no list: pnpm says it on either output, in one line or in a frame.
fn said_no(output: &Output) -> Failure {
    let all = output.lines.iter().chain(&output.end.tail);
    let words = all.flat_map(|l| l.split_whitespace()).filter(|w| !["×", "│"].contains(w));
    let said: String = words.collect::<Vec<_>>().join(" ").chars().take(REASON).collect();
    let hint = match said.contains("ERR_PNPM") && said.to_ascii_lowercase().contains("fetch") {
        true => "its registry does not answer: .npmrc names it",
        false => "run it there as its owner: pnpm outdated",
    };
    match said.is_empty() {
        true => output.end.failure(),
        false => Failure::new(ErrorCode::HostFault, format!("pnpm says: {said}"))
            .hint(hint)
            .evidence(output.end.evidence()),
    }
}

fn judge(report: Report, findings: Vec<Finding>) -> Answer<Report> {
    let said = report.frontends.iter().map(|f| {
        let of = || report.packages.iter().filter(|p| p.frontend == f.name);
        match f.outdated {
            None => format!("{}: unknown", f.name),
            Some(0) => format!("{}: nothing is outdated", f.name),
            Some(count) => {
                let major = of().filter(|p| p.jump == "major").count();
                let deprecated = match of().filter(|p| p.deprecated).count() {
                    0 => String::new(),
                    n => format!(", {n} deprecated"),
                };
                let name = &f.name;
                format!(
                    "{name}: {count} packages are outdated, {major} by a major version{deprecated}"
                )
            }
        }
    });
    let summary = said.collect::<Vec<_>>().join("; ");
    let counts: Vec<_> =
        report.frontends.iter().filter_map(|f| Some((f.name.clone(), f.outdated?))).collect();
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
    use std::{fs, path::Path};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::host::{Host, exec::Program};

    #[tokio::test]
    async fn what_was_really_run_is_told_and_where() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().canonicalize().expect("real");
        for (name, content) in
            [("package.json", "{}"), ("pnpm-lock.yaml", ""), ("pnpm-workspace.yaml", "packages:\n")]
        {
            fs::write(path.join(name), content).expect("written");
        }
        let mut host = Host::showing(Path::new("/nonexistent"));
        host.policy.paths = vec![path.clone()];
        let (name, pnpm, after) = ("web".to_owned(), Some("/bin/echo".into()), Vec::new());
        host.stack.frontends = vec![Frontend { name, path: path.clone(), pnpm, after }];
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let answer = PnpmOutdated::observe(PnpmOutdatedRequest::default(), &cx).await;
        let evidence = answer.expect("an answer").evidence;
        let end = format!("/bin/echo outdated --format json --recursive (in {})", path.display());
        assert_eq!(evidence.len(), 1);
        assert!(evidence[0].what.ends_with(&end), "{evidence:?}");
        fs::remove_file(path.join("pnpm-lock.yaml")).expect("removed");
        let answer = PnpmOutdated::observe(PnpmOutdatedRequest::default(), &cx).await;
        let evidence = answer.expect("an answer").evidence;
        assert_eq!(
            (evidence[0].kind.as_str(), evidence[0].what.as_str()),
            ("file", &*path.to_string_lossy())
        );
    }

    async fn said(out: &str, errors: &str, code: u32) -> Output {
        let script = "printf %s \"$1\"; printf %s \"$2\" >&2; exit \"$3\"";
        let shell = Program::new("/bin/sh").arg("-c").arg(script).arg("sh");
        let shell = shell.arg(out).arg(errors).arg(code.to_string());
        shell.output().await.expect("run")
    }

    /// As pnpm 9 wrote it.
    const LIST: &str = r#"{
  "left-pad": {
    "current": "1.1.0",
    "latest": "1.3.0",
    "wanted": "1.1.0",
    "isDeprecated": true,
    "dependencyType": "dependencies"
  },
  "is-odd": {
    "latest": "3.0.1",
    "wanted": "2.0.0",
    "isDeprecated": false,
    "dependencyType": "devDependencies"
  }
}"#;

    #[tokio::test]
    async fn a_status_of_one_with_a_list_is_no_failure() {
        let packages = read("web", &said(LIST, "", 1).await).expect("a list");
        let [pad, odd] = &packages[..] else { panic!("{packages:?}") };
        assert_eq!(
            (pad.name.as_str(), pad.jump.as_str(), pad.deprecated),
            ("left-pad", "minor", true)
        );
        assert_eq!((odd.current.as_str(), odd.jump.as_str()), ("", "major"), "not installed");
        assert_eq!(read("web", &said("{}\n", "", 0).await).expect("none").len(), 0);
        let report = Report {
            frontends: vec![PnpmFrontend {
                name: "web".into(),
                outdated: Some(2),
                ..PnpmFrontend::default()
            }],
            packages,
        };
        let answer = judge(report, Vec::new());
        assert_eq!(answer.status, Status::Ok);
        assert_eq!(
            answer.summary,
            "web: 2 packages are outdated, 1 by a major version, 1 deprecated"
        );
    }

    #[tokio::test]
    async fn a_status_of_one_without_a_list_is_a_failure_with_what_pnpm_said() {
        let nine = " ERR_PNPM_META_FETCH_FAIL  GET http://x/left-pad: request failed\n";
        let failure = read("web", &said(nine, "", 1).await).expect_err("failed");
        assert!(failure.message.contains("GET http://x/left-pad"), "{failure:?}");
        assert!(failure.hint.contains("registry"));
        let twelve = "Error: ERR_PNPM_OUTDATED_REGISTRY_ERROR\n\n  × Failed to fetch metadata from\n  │ http://x";
        let failure = read("web", &said("", twelve, 1).await).expect_err("failed");
        assert!(failure.message.ends_with("Failed to fetch metadata from http://x"), "{failure:?}");
        let cut = read("web", &said("{ \"left-pad\": {", "", 1).await);
        assert!(cut.is_err());
        assert!(read("web", &said("", "", 134).await).is_err());
    }

    #[test]
    fn a_lock_file_of_another_tool_is_said_to_be_that() {
        let failure = no_lock("/opt/web", |name| name == "package-lock.json");
        assert!(failure.message.contains("package-lock.json of npm"), "{failure:?}");
        assert!(no_lock("/opt/web", |_| false).message.contains("no pnpm-lock.yaml"));
    }
}
