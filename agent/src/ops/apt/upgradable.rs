//! `apt.upgradable`: what an upgrade would bring. apt's own simulation says it; `apt list` is made for
//! people and has no stable form.

use std::{fs, path::Path, time::SystemTime};

use hostler_proto::{
    finding::above,
    operation::AptUpgradable,
    ops::{AptUpgradable as Report, AptUpgradableRequest, PackageUpgrade},
    wire::{Failure, Finding, Status},
};

use crate::{
    host::{
        blocking,
        exec::{Line, Program},
    },
    operation::{Answer, Context, Probe},
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
        let mut packages = Vec::new();
        while let Some(line) = running.line().await? {
            if let Line::Text(text) = line {
                packages.extend(upgrade(&String::from_utf8_lossy(&text)));
            }
        }
        running.ended().await?;
        let mut marked = Program::new("/usr/bin/apt-mark").arg("showhold").start()?;
        let mut held = Vec::new();
        while let Some(line) = marked.line().await? {
            if let Line::Text(text) = line {
                held.push(String::from_utf8_lossy(&text).trim().to_owned());
            }
        }
        marked.ended().await?;
        packages.sort_by(|a, b| b.security.cmp(&a.security).then_with(|| a.name.cmp(&b.name)));
        let now = SystemTime::from(cx.host.clock.now());
        let lists_days = blocking(move || Ok(age(now))).await?;
        let report = Report {
            security: count(packages.iter().filter(|p| p.security).count()),
            packages,
            held,
            lists_days,
            reboot_required: Path::new("/run/reboot-required").exists(),
        };
        Ok(judge(report, request.lists_days))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Days since the package lists were brought up to date.
fn age(now: SystemTime) -> Option<f64> {
    // The stamp is written only where apt's periodic jobs are set up; the lists' directory changes
    // with every update.
    let stamps = ["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists/partial"];
    let newest = stamps.iter().filter_map(|p| fs::metadata(p).ok()?.modified().ok()).max()?;
    now.duration_since(newest).ok().map(|age| age.as_secs_f64() / 86_400.0)
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
        findings.push(finding.why("the flaws that they mend are known to everybody"));
    }
    let bound = f64::from(bound);
    match report.lists_days {
        None => {
            let summary = "the package lists were never brought up to date";
            let finding = Finding::new(Status::Unknown, "lists", summary);
            findings.push(finding.why("what waits there cannot be told"));
        }
        Some(days) => {
            if let Some(status) = above(days, bound, f64::INFINITY) {
                let summary = format!("the package lists are {days:.0} days old");
                let finding = Finding::new(status, "lists", summary)
                    .why("updates that came since are not seen")
                    .measured(days * 86_400.0, "s");
                findings.push(finding);
            }
        }
    }
    if report.reboot_required {
        let finding =
            Finding::new(Status::Warning, "reboot", "installed packages ask for a reboot");
        findings
            .push(finding.why("until then the old kernel or library runs, with its known flaws"));
    }
    let held = match report.held.len() {
        0 => String::new(),
        n => format!(", {n} held back by hand"),
    };
    let summary = format!(
        "{} packages can be upgraded, {} of them for security{held}",
        report.packages.len(),
        report.security
    );
    let (all, security) = (count(report.packages.len()), report.security);
    let answer = Answer::ok(summary, report)
        .evidence(
            "argv",
            "apt-get --simulate -o Debug::NoLocking=1 dist-upgrade; apt-mark showhold",
        )
        .figure("upgradable", "", all.into(), "packages")
        .figure("security", "", security.into(), "packages");
    findings.into_iter().fold(answer, Answer::finding)
}

#[cfg(test)]
mod tests {
    use super::*;

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
