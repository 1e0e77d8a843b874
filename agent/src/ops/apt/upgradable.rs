//! `apt.upgradable`: what an upgrade would bring. apt's own simulation says it; `apt list` is made for
//! people and has no stable form.

use std::{fs, path::Path, time::SystemTime};

use hostler_proto::{
    operation::{AptUpgradable, Operation},
    ops::{AptUpgradable as Report, AptUpgradableRequest, PackageUpgrade},
    wire::{Failure, Finding, Status},
};

use crate::{
    amount::DAY_S,
    bounds::{Bound, Bounds},
    host::{
        blocking,
        exec::{Line, Program},
    },
    operation::{Answer, Context, Probe},
    order::Order as _,
};

impl Probe for AptUpgradable {
    async fn observe(
        request: AptUpgradableRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        // Without the lock: it only reads, and must not keep an upgrade from running.
        let simulated = Program::new("/usr/bin/apt-get")
            .arg("--simulate")
            .arg("-o")
            .arg("Debug::NoLocking=1")
            .arg("dist-upgrade");
        let mut running = simulated.start()?;
        let mut asked = vec![running.argv().to_owned()];
        let mut simulation = Simulation::default();
        while let Some(line) = running.line().await? {
            if let Line::Text(text) = line {
                simulation.line(&String::from_utf8_lossy(&text));
            }
        }
        running.ended().await?;
        let Simulation { mut packages, mut phased, mut kept_back, .. } = simulation;
        let mut marked = Program::new("/usr/bin/apt-mark").arg("showhold").start()?;
        asked.push(marked.argv().to_owned());
        let mut held = Vec::new();
        while let Some(line) = marked.line().await? {
            if let Line::Text(text) = line {
                held.push(String::from_utf8_lossy(&text).trim().to_owned());
            }
        }
        marked.ended().await?;
        kept_back.retain(|name| !held.contains(name));
        // Before 2.7 apt keeps phased updates back without a word; its policy tells them apart.
        for name in in_phases(&kept_back, &mut asked).await? {
            kept_back.retain(|kept| *kept != name);
            phased.push(name);
        }
        packages.order_by(|a, b| b.security.cmp(&a.security).then_with(|| a.name.cmp(&b.name)));
        let now = SystemTime::from(cx.host.clock.now());
        let lists_age_s = blocking(move || Ok(age(now))).await?;
        let report = Report {
            security: count(packages.iter().filter(|p| p.security).count()),
            packages,
            held,
            phased,
            kept_back,
            lists_age_s,
            reboot_required: Path::new("/run/reboot-required").exists(),
        };
        let answer = judge(report, request.lists_days);
        Ok(asked.into_iter().fold(answer, |answer, argv| answer.evidence("argv", argv)))
    }
}

/// What shows all of it, where a check told the worst.
const DETAIL: &str = "apt upgradable";
/// Packages that one question names.
const ASKED: usize = 200;

/// Those of some packages whose update reaches hosts one after the other, and not this one yet.
async fn in_phases(names: &[String], asked: &mut Vec<String>) -> Result<Vec<String>, Failure> {
    let mut phased = Vec::new();
    if names.is_empty() {
        return Ok(phased);
    }
    let mut policy = Program::new("/usr/bin/apt-cache").arg("policy");
    for name in names.iter().take(ASKED) {
        policy = policy.arg(name);
    }
    let mut running = policy.start()?;
    asked.push(running.argv().to_owned());
    let mut package = String::new();
    while let Some(line) = running.line().await? {
        let Line::Text(text) = line else { continue };
        let text = String::from_utf8_lossy(&text);
        match text.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            Some(name) => package = name.to_owned(),
            None if text.contains("(phased ") && phased.last() != Some(&package) => {
                phased.push(package.clone());
            }
            None => {}
        }
    }
    running.ended().await?;
    Ok(phased)
}

/// What the simulation says, as far as it matters.
#[derive(Debug, Default)]
struct Simulation {
    packages: Vec<PackageUpgrade>,
    phased: Vec<String>,
    kept_back: Vec<String>,
    /// The list of names that is being read.
    section: Section,
}

#[derive(Debug, Default, Clone, Copy)]
enum Section {
    #[default]
    Other,
    Phased,
    KeptBack,
}

impl Simulation {
    fn line(&mut self, line: &str) {
        if let Some(names) = line.strip_prefix("  ") {
            let list = match self.section {
                Section::Other => return,
                Section::Phased => &mut self.phased,
                Section::KeptBack => &mut self.kept_back,
            };
            list.extend(names.split_whitespace().map(ToOwned::to_owned));
            return;
        }
        self.section = match line.trim_end() {
            "The following upgrades have been deferred due to phasing:"
            | "Not upgrading yet due to phasing:" => Section::Phased,
            "The following packages have been kept back:" | "Not upgrading:" => Section::KeptBack,
            _ => Section::Other,
        };
        self.packages.extend(upgrade(line));
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Seconds since the package lists were brought up to date.
fn age(now: SystemTime) -> Option<f64> {
    // The stamp is written only where apt's periodic jobs are set up; the lists' directory changes
    // with every update.
    let stamps = ["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists/partial"];
    let newest = stamps.iter().filter_map(|p| fs::metadata(p).ok()?.modified().ok()).max()?;
    now.duration_since(newest).ok().map(|age| age.as_secs_f64())
}

/// `Inst NAME [OLD] (NEW ORIGIN:SUITE, ORIGIN2:SUITE2 [ARCH])`; one without OLD is new.
fn upgrade(line: &str) -> Option<PackageUpgrade> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    let (installed, rest) = rest.strip_prefix('[')?.split_once("] ")?;
    let (inner, _) = rest.strip_prefix('(')?.split_once(')')?;
    let (candidate, origins) = inner.split_once(' ')?;
    let origin = origins.rsplit_once(" [").map_or(origins, |(origins, _)| origins);
    Some(PackageUpgrade {
        name: name.to_owned(),
        installed: installed.to_owned(),
        candidate: candidate.to_owned(),
        origin: origin.to_owned(),
        security: origin.to_ascii_lowercase().contains("security"),
    })
}

fn judge(report: Report, bound: u32) -> Answer<Report> {
    let mut findings = Vec::new();
    if report.security > 0 {
        let names: Vec<_> = report
            .packages
            .iter()
            .filter(|p| p.security)
            .take(5)
            .map(|p| p.name.as_str())
            .collect();
        let summary = format!("{} security updates wait: {}", report.security, names.join(", "));
        let finding = Finding::new(Status::Warning, "security", summary);
        findings.push(finding.why("the flaws that they mend are known to everybody").next(DETAIL));
    }
    let bound = Bound::of(<AptUpgradable as Operation>::NAME, "lists-days", bound.into());
    let bounds = Bounds::warning(bound.times(DAY_S), "");
    match report.lists_age_s {
        None => {
            let summary = "the package lists were never brought up to date";
            let finding = Finding::new(Status::Unknown, "lists", summary);
            findings.push(finding.why("what waits there cannot be told").next(DETAIL));
        }
        Some(age_s) => {
            if let Some(status) = bounds.above(age_s) {
                let summary = format!("the package lists are {:.0} days old", age_s / DAY_S);
                let finding = Finding::new(status, "lists", summary)
                    .why("updates that came since are not seen: `apt-get update` looks for them")
                    .next(DETAIL);
                findings.push(bounds.told(finding, age_s, "s"));
            }
        }
    }
    if report.reboot_required {
        let finding =
            Finding::new(Status::Warning, "reboot", "installed packages ask for a reboot");
        findings.push(
            finding
                .why("until then the old kernel or library runs, with its known flaws")
                .next("host facts"),
        );
    }
    let held = match report.held.len() {
        0 => String::new(),
        n => format!(", {n} held back by hand"),
    };
    let phased = match report.phased.len() {
        0 => String::new(),
        n => format!(", {n} come in phases and not to this host yet"),
    };
    let summary = format!(
        "{} packages can be upgraded, {} of them for security{held}{phased}",
        report.packages.len(),
        report.security
    );
    let (all, security) = (count(report.packages.len()), report.security);
    let answer = Answer::ok(summary, report)
        .figure("upgradable", "", all.into(), "packages")
        .figure("security", "", security.into(), "packages");
    findings.into_iter().fold(answer, Answer::finding).unknown_first()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_that_come_in_phases_are_told_apart_from_those_that_wait() {
        let mut simulation = Simulation::default();
        for line in [
            "Reading package lists...",
            "The following upgrades have been deferred due to phasing:",
            "  fwupd libfwupd2",
            "The following packages have been kept back:",
            "  linux-generic",
            "The following packages will be upgraded:",
            "  tzdata",
            "Inst tzdata [1] (2 Ubuntu:24.04/noble-updates [all])",
        ] {
            simulation.line(line);
        }
        assert_eq!(simulation.phased, ["fwupd", "libfwupd2"]);
        assert_eq!((simulation.kept_back.len(), simulation.packages.len()), (1, 1));
        let report = Report {
            phased: simulation.phased,
            lists_age_s: Some(0.1 * DAY_S),
            ..Report::default()
        };
        let answer = judge(report, 7);
        assert_eq!(answer.status, Status::Ok);
        assert!(answer.summary.contains("2 come in phases"), "{}", answer.summary);
    }

    #[test]
    fn a_finding_names_the_operation_that_shows_all_of_it() {
        let report = Report { security: 1, lists_age_s: Some(0.1 * DAY_S), ..Report::default() };
        assert_eq!(judge(report, 7).findings[0].next, "apt upgradable");
        let never = judge(Report::default(), 7);
        assert_eq!(never.summary, "the package lists were never brought up to date");
        let old = Report { lists_age_s: Some(8.0 * DAY_S), ..Report::default() };
        let old = judge(old, 7).findings.remove(0);
        assert_eq!((old.value, old.warning), (Some(8.0 * DAY_S), Some(7.0 * DAY_S)));
    }

    #[test]
    fn a_simulated_upgrade_says_from_what_to_what_and_whether_it_is_for_security() {
        let line = "Inst libssl3 [3.0.11-1] (3.0.15-1 Debian:12.8/stable, \
                    Debian-Security:12/stable-security [amd64]) []";
        let package = upgrade(line).expect("read");
        assert_eq!((package.name.as_str(), package.security), ("libssl3", true));
        assert_eq!(
            (package.installed.as_str(), package.candidate.as_str()),
            ("3.0.11-1", "3.0.15-1")
        );
        let plain = upgrade("Inst tzdata [1] (2 Debian:12.8/stable [all])").expect("read");
        assert!(!plain.security);
        assert_eq!(plain.origin, "Debian:12.8/stable");
        assert!(upgrade("Inst new (2 Debian:12.8/stable [all])").is_none(), "it is not installed");
        assert!(upgrade("Conf libssl3 (3.0.15-1 Debian:12.8/stable [amd64])").is_none());
    }
}
