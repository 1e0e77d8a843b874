//! Disks: as full as the host's own checks of them call too full, or so within hours.

use std::path::Path;

use hostler_proto::{
    operation::{DiskUsage, Operation as _},
    ops,
    wire::{Finding, Status},
};

use super::Search;
use crate::{amount, ops::disk::full_within, policy::Policy};

/// What is full that soon is why things will fail today.
const SOON_S: f64 = 24.0 * 3600.0;

impl Search<'_> {
    /// What is too full. What only may fail soon is given back: it ranks behind what fails already.
    pub(super) async fn disks(&mut self) -> Vec<Finding> {
        let others = self.checks.iter().filter(|c| c.operation == DiskUsage::NAME);
        let others = others.map(|c| c.name.to_string()).filter(|name| name != "disk");
        let names: Vec<String> = ["disk".to_owned()].into_iter().chain(others).collect();
        let mut later = Vec::new();
        for name in names {
            later.extend(self.disks_of(&name).await);
        }
        later
    }

    async fn disks_of(&mut self, check: &str) -> Vec<Finding> {
        let Some(request) = self.as_checked::<DiskUsage>(check) else { return Vec::new() };
        let shown: Vec<&str> =
            ["disk usage"].into_iter().chain(request.mount.iter().map(String::as_str)).collect();
        let Some(mut answer) = self.look::<DiskUsage>(&shown.join(" "), request.clone()).await
        else {
            return Vec::new();
        };
        let soon = soon(&answer.data.filesystems, &answer.findings, &self.cx.host.policy);
        let (worse, mut later): (Vec<_>, Vec<_>) = std::mem::take(&mut answer.findings)
            .into_iter()
            .partition(|finding| finding.status() != Status::Warning);
        later.extend(soon);
        if !later.is_empty() {
            self.prove(&answer.evidence);
        }
        answer.findings = worse;
        self.causes_of(Some(answer), Status::Warning);
        later
    }
}

/// Those that are not called too full yet, and will be within hours if it goes on so.
fn soon(all: &[ops::FileSystem], said: &[Finding], policy: &Policy) -> Vec<Finding> {
    let told = |fs: &&ops::FileSystem| said.iter().any(|finding| finding.subject == fs.mount);
    let soon = all.iter().filter(|fs| !told(fs)).filter_map(|fs| {
        let left = amount::span(full_within(fs, SOON_S)?);
        let (mount, used) = (&fs.mount, fs.used_percent);
        let summary = format!("{mount} is {used:.1} % full, and full in {left} if it goes on so");
        let next = match policy.paths.iter().any(|path| Path::new(mount).starts_with(path)) {
            true => format!("disk tree {mount}"),
            false => "disk usage".to_owned(),
        };
        let finding = Finding::new(Status::Warning, mount, summary)
            .why("what writes there fails when nothing is left");
        Some(finding.next(next))
    });
    soon.collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use hostler_proto::{
        operation::HostDiagnose,
        ops::{FileSystem, HostDiagnoseRequest},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        host::Host,
        operation::{Context, Probe},
    };

    fn filesystem(used: f64, full_in_s: Option<f64>, sure: f64) -> FileSystem {
        FileSystem {
            mount: "/var".to_owned(),
            used_percent: used,
            full_in_s,
            sure_percent: Some(sure),
            ..FileSystem::default()
        }
    }

    #[test]
    fn what_is_full_within_hours_is_a_cause_and_what_is_full_in_weeks_is_none() {
        let policy = Policy::default();
        let told = |fs, said: &[Finding]| soon(&[fs], said, &policy);
        let found = told(filesystem(60.0, Some(3.0 * 3600.0), 90.0), &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].summary.starts_with("/var is 60.0 % full, and full in "), "{found:?}");
        assert_eq!(found[0].next, "disk tree /var");
        assert!(told(filesystem(60.0, Some(30.0 * 86_400.0), 90.0), &[]).is_empty());
        assert!(told(filesystem(60.0, Some(3600.0), 10.0), &[]).is_empty(), "no trend");
        let full = Finding::new(Status::Critical, "/var", "/var is 96.0 % full");
        assert!(told(filesystem(96.0, Some(3600.0), 90.0), &[full]).is_empty(), "told already");
    }

    /// What is said of the disks of this machine with bounds that each of them is beyond.
    async fn diagnosed(stack: &str) -> Vec<Finding> {
        let mut host = Host::showing(Path::new("/nonexistent"));
        let state = tempfile::tempdir().expect("directory");
        host.policy.state_dir = state.path().to_owned();
        host.policy.deny = ["host.resources", "systemd.*"].map(str::to_owned).to_vec();
        host.stack = toml::from_str(stack).expect("a stack file");
        let (events, _receiver) = tokio::sync::mpsc::channel(64);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let asked = HostDiagnoseRequest { service: "disk".to_owned() };
        HostDiagnose::observe(asked, &cx).await.expect("an answer").findings
    }

    #[tokio::test]
    async fn a_disk_is_too_full_from_where_its_check_says_so() {
        let at = |warning: u32, critical: u32| {
            let bounds = format!("warning-percent = {warning}, critical-percent = {critical}");
            format!("[check.disk]\nparameters = {{ {bounds} }}\n")
        };
        let worst = |found: Vec<Finding>| found.first().map(Finding::status);
        assert_eq!(worst(diagnosed(&at(1, 100)).await), Some(Status::Warning));
        assert_eq!(worst(diagnosed(&at(1, 1)).await), Some(Status::Critical));
        let own = at(1, 1).replace("[check.disk]", "[check.data]\noperation = \"disk.usage\"");
        let both = format!("{}{own}", at(1, 100));
        let found = diagnosed(&both).await;
        assert_eq!(worst(found.clone()), Some(Status::Critical), "{found:?}");
        let said: BTreeSet<&String> = found.iter().map(|f| &f.summary).collect();
        assert_eq!(found.len(), said.len(), "each is told once: {found:?}");
    }
}
