//! `host.facts`: what the machine is.

use hostler_proto::{
    operation::HostFacts,
    ops,
    wire::{Failure, Finding, Status},
};

use crate::{
    host::{blocking, kernel},
    operation::{Answer, Context, Probe},
    ops::systemd::clock_synchronised,
};

/// What a host runs in whose kernel, and hence clock, is another's.
const CONTAINER: &str = "container";
/// So long after boot a clock may wait for its first answers from others.
const SETTLES_S: u64 = 600;

impl Probe for HostFacts {
    async fn observe(
        _: ops::HostFactsRequest,
        _: &Context,
    ) -> Result<Answer<ops::HostFacts>, Failure> {
        let mut answer = blocking(read).await?;
        // chrony and ntpd leave no file behind.
        if answer.data.time_synchronised.is_none()
            && let Some(synchronised) = clock_synchronised().await
        {
            answer.data.time_synchronised = Some(synchronised);
            answer = answer.evidence("dbus", "org.freedesktop.timedate1: NTPSynchronized");
        }
        let clock = clock(&answer.data);
        Ok(reason_first(clock.into_iter().fold(answer, Answer::finding)))
    }
}

/// Problems and notices show the summary alone: why it is not well comes before what the host is.
fn reason_first(answer: Answer<ops::HostFacts>) -> Answer<ops::HostFacts> {
    if answer.findings.is_empty() {
        return answer;
    }
    let facts = answer.summary.clone();
    let answer = answer.summed_up();
    Answer { summary: format!("{}; {facts}", answer.summary), ..answer }
}

/// What is wrong with a clock that nothing sets. That of a container is its host's, which sets it. Where
/// nobody can tell, nothing is said.
fn clock(facts: &ops::HostFacts) -> Option<Finding> {
    let drifts = facts.time_synchronised == Some(false) && facts.uptime_s >= SETTLES_S;
    (drifts && facts.virtualisation != CONTAINER).then(|| {
        Finding::new(Status::Warning, "clock", "nothing keeps the clock synchronised")
            .why(
                "it drifts: certificates of hosts whose clocks disagree are refused, and times in logs \
                 do not fit; let chrony or systemd-timesyncd run",
            )
            .next("systemd status systemd-timesyncd")
    })
}

fn read() -> Result<Answer<ops::HostFacts>, Failure> {
    let maybe = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = maybe("/etc/os-release");
    let of = |key: &str| {
        let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let cpuinfo = kernel("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name"));
    let uptime = kernel("/proc/uptime")?;
    let uptime_s = uptime.split(['.', ' ']).next().and_then(|s| s.parse().ok()).unwrap_or(0);
    let packages = maybe("/run/reboot-required.pkgs");
    let facts = ops::HostFacts {
        hostname: kernel("/proc/sys/kernel/hostname")?.trim().to_owned(),
        os: of("PRETTY_NAME"),
        os_id: of("ID"),
        os_version: of("VERSION_ID"),
        kernel: kernel("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        uptime_s,
        cpus: online(&kernel("/proc/stat")?),
        cpu_model: model.unwrap_or_default().trim_start_matches(['\t', ' ', ':']).to_owned(),
        memory_bytes: meminfo(&kernel("/proc/meminfo")?, "MemTotal"),
        reboot_required: std::path::Path::new("/run/reboot-required").exists(),
        reboot_packages: packages.lines().map(ToOwned::to_owned).collect(),
        // systemd-timesyncd leaves this behind once the clock is set.
        time_synchronised: std::path::Path::new("/run/systemd/timesync/synchronized")
            .exists()
            .then_some(true),
        machine_id: maybe("/etc/machine-id"),
        virtualisation: match maybe("/run/systemd/container").as_str() {
            "" => maybe("/sys/class/dmi/id/sys_vendor"),
            _ => CONTAINER.to_owned(),
        },
    };
    let days = facts.uptime_s / 86_400;
    let reboot = facts.reboot_required;
    let summary = format!("{}, kernel {}, up {days} days", facts.os, facts.kernel);
    let answer = Answer::ok(summary, facts).evidence("file", "/etc/os-release, /proc, /run");
    Ok(match reboot {
        true => answer.finding(
            Finding::new(Status::Warning, "reboot", "installed packages ask for a reboot")
                .why("until then the old kernel or library runs, with its known flaws")
                .next("apt upgradable"),
        ),
        false => answer,
    })
}

/// Processors that /proc/stat lists.
pub(super) fn online(stat: &str) -> u32 {
    let cpu = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    u32::try_from(stat.lines().filter(cpu).count()).unwrap_or(0)
}

/// A figure of /proc/meminfo, in bytes; 0 when it is not there.
pub(crate) fn meminfo(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nothing_sets_is_worth_a_warning_where_it_is_the_hosts_own() {
        let finding = clock(&facts(Some(false), "QEMU")).expect("a finding");
        assert_eq!(finding.status(), Status::Warning);
        assert_eq!(finding.next, "systemd status systemd-timesyncd");
        let well = [facts(Some(true), "QEMU"), facts(Some(false), CONTAINER)];
        assert_eq!(well.map(|facts| clock(&facts)), [None, None]);
    }

    #[test]
    fn nothing_is_said_of_a_clock_that_nobody_knows_or_that_has_not_had_its_time_since_boot() {
        assert_eq!(clock(&facts(None, "QEMU")), None);
        let booted = ops::HostFacts { uptime_s: 30, ..facts(Some(false), "QEMU") };
        assert_eq!(clock(&booted), None);
    }

    #[test]
    fn the_summary_of_a_host_that_is_not_well_begins_with_the_reason() {
        let answer = || Answer::ok("Debian, kernel 6.1, up 7 days", facts(Some(false), "QEMU"));
        assert_eq!(reason_first(answer()).summary, "Debian, kernel 6.1, up 7 days");
        let drifts = clock(&answer().data).expect("a finding");
        assert_eq!(
            reason_first(answer().finding(drifts)).summary,
            "nothing keeps the clock synchronised; Debian, kernel 6.1, up 7 days"
        );
    }

    fn facts(time_synchronised: Option<bool>, virtualisation: &str) -> ops::HostFacts {
        ops::HostFacts {
            time_synchronised,
            virtualisation: virtualisation.into(),
            uptime_s: 7 * 86_400,
            ..ops::HostFacts::default()
        }
    }

    #[test]
    fn this_machine_tells_what_the_kernel_says() {
        let facts = read().expect("facts").data;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
        assert_eq!(facts.kernel, release.trim());
        let cpus = std::thread::available_parallelism().expect("processors").get();
        assert!(facts.cpus as usize >= cpus && facts.memory_bytes > 1 << 28);
        assert_eq!(meminfo("MemTotal:  7 kB\n", "MemTotal"), 7168);
        assert_eq!(meminfo("", "MemTotal"), 0);
    }
}
