//! Changes that would end the host, or what an agent needs to tell how they came out. They are not made
//! from afar, whatever the policy: one typing error with `--on all` would be the end of a fleet.

use std::collections::{BTreeSet, VecDeque};

use hostler_proto::wire::{ErrorCode, Failure};

use super::{
    bus::{Bus, Verb},
    unit::Unit,
};

/// Names, without their type, of targets and services whose start ends, halts or isolates the host.
const ENDS: [&str; 27] = [
    "poweroff",
    "halt",
    "reboot",
    "kexec",
    "soft-reboot",
    "exit",
    "shutdown",
    "umount",
    "final",
    "emergency",
    "rescue",
    "sleep",
    "suspend",
    "hibernate",
    "hybrid-sleep",
    "suspend-then-hibernate",
    "default",
    "ctrl-alt-del",
    "runlevel0",
    "runlevel1",
    "runlevel6",
    "system-update",
    "factory-reset",
    "initrd",
    "initrd-switch-root",
    "initrd-cleanup",
    "initrd-parse-etc",
];

/// Units without which a host, or the way to it, does not work.
const HOLDS: [&str; 14] = [
    "dbus.service",
    "dbus-broker.service",
    "systemd-journald.service",
    "systemd-logind.service",
    "systemd-udevd.service",
    "init.scope",
    "-.slice",
    "-.mount",
    "system.slice",
    "sysinit.target",
    "networking.service",
    "systemd-networkd.service",
    "NetworkManager.service",
    "network.target",
];

/// Of those, what is restarted in everyday work and is back within a moment.
const RESTARTED: [&str; 4] = [
    "systemd-udevd.service",
    "networking.service",
    "systemd-networkd.service",
    "NetworkManager.service",
];

/// Units that go down with one are looked at up to this many.
const MOST: usize = 500;

/// Whether a change may be asked for at all, by the names that its unit has.
///
/// # Errors
/// When its unit ends the host, or holds it up.
pub(super) fn by_name<'n>(
    verb: Verb,
    asked: &'n str,
    names: impl IntoIterator<Item = &'n str>,
) -> Result<(), Failure> {
    let stands = |name: &str| match verb {
        Verb::Start => !ends(name),
        Verb::Restart => !ends(name) && (!HOLDS.contains(&name) || RESTARTED.contains(&name)),
        Verb::Stop => !HOLDS.contains(&name),
        Verb::Reload => true,
    };
    match std::iter::once(asked).chain(names).find(|name| !stands(name)) {
        None => Ok(()),
        Some(name) if ends(name) => {
            Err(refused(verb, asked, name, "ends, halts or isolates this host"))
        }
        Some(name) => Err(refused(verb, asked, name, "holds this host up, or the way to it")),
    }
}

/// The same by all names of a unit, and by those of everything that systemd would take down with it.
///
/// # Errors
/// When one of them ends the host or holds it up, and when systemd does not tell.
pub(super) async fn by_dependents(
    verb: Verb,
    asked: &str,
    unit: &Unit,
    bus: &Bus,
) -> Result<(), Failure> {
    let id = unit.status.name.as_str();
    by_name(verb, asked, unit.names.iter().map(String::as_str).chain([id]))?;
    if !matches!(verb, Verb::Stop | Verb::Restart) {
        return Ok(());
    }
    let own = own();
    let mut seen = BTreeSet::from([id.to_owned()]);
    let mut next = VecDeque::from([id.to_owned()]);
    while let Some(name) = next.pop_front() {
        if Some(&name) == own.as_ref() {
            return Err(refused(verb, asked, &name, "is this agent itself"));
        }
        if name != id && HOLDS.contains(&name.as_str()) {
            return Err(refused(verb, asked, &name, "holds this host up, and goes down with it"));
        }
        if seen.len() > MOST {
            return Err(refused(verb, asked, id, "takes hundreds of units down with it"));
        }
        for dependent in bus.dependents(&name).await? {
            if seen.insert(dependent.clone()) {
                next.push_back(dependent);
            }
        }
    }
    Ok(())
}

fn ends(name: &str) -> bool {
    let Some((stem, "target" | "service")) = name.rsplit_once('.') else { return false };
    ENDS.contains(&stem.strip_prefix("systemd-").unwrap_or(stem))
}

/// The unit as which this agent runs.
fn own() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut parts = groups.lines().filter_map(|group| group.rsplit('/').next());
    parts.find(|part| part.ends_with(".service")).map(ToOwned::to_owned)
}

fn refused(verb: Verb, asked: &str, name: &str, why: &str) -> Failure {
    let word = verb.word();
    let who = if asked == name { "it" } else { name };
    let message = format!("no agent lets itself be told to {word} {asked}: {who} {why}");
    Failure::new(ErrorCode::PermissionDenied, message)
        .hint(format!("to do it on purpose, log in to the host and say: systemctl {word} {asked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_host_is_not_started_from_afar_whatever_it_is_called() {
        for name in [
            "poweroff.target",
            "reboot.target",
            "systemd-poweroff.service",
            "systemd-soft-reboot.service",
            "rescue.service",
            "emergency.target",
            "systemd-hybrid-sleep.service",
        ] {
            for verb in [Verb::Start, Verb::Restart] {
                let failure = by_name(verb, name, []).expect_err(name);
                assert_eq!(failure.code(), ErrorCode::PermissionDenied);
                assert!(failure.hint.contains(&format!("systemctl {} {name}", verb.word())));
            }
        }
        let alias =
            by_name(Verb::Start, "goodnight.target", ["goodnight.target", "poweroff.target"]);
        let said = alias.expect_err("an alias").message;
        assert!(said.contains("goodnight.target: poweroff.target ends"), "{said}");
        for name in ["poweroff-report.service", "reboot.timer", "exit.socket", "nginx.service"] {
            by_name(Verb::Start, name, []).expect(name);
        }
    }

    #[test]
    fn what_holds_a_host_up_is_not_stopped_from_afar() {
        for name in ["dbus.service", "systemd-journald.service", "-.mount", "sysinit.target"] {
            for verb in [Verb::Stop, Verb::Restart] {
                by_name(verb, name, []).expect_err(name);
            }
            by_name(Verb::Start, name, []).expect(name);
        }
        by_name(Verb::Stop, "networking.service", []).expect_err("the way to the host");
        by_name(Verb::Restart, "networking.service", []).expect("it is back in a moment");
        by_name(Verb::Stop, "ssh.socket", []).expect("no operation needs it");
        by_name(Verb::Reload, "dbus.service", []).expect("a reload ends nothing");
    }
}
