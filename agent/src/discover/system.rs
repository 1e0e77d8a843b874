//! Which units and programs are the system's own.

/// Names of units and programs of the system itself, which the check `units` watches together. One that ends
/// with a mark is how others begin.
const SYSTEM: [&str; 28] = [
    "systemd",
    "systemd-",
    "hostler-",
    "dbus",
    "dbus-:",
    "dbus-broker",
    "dbus-daemon",
    "cron",
    "crond",
    "cronie",
    "ssh",
    "ssh@",
    "sshd",
    "sshd@",
    "getty@",
    "serial-getty@",
    "container-getty@",
    "console-getty",
    "user@",
    "user-runtime-dir@",
    "polkit",
    "polkitd",
    "polkit-agent-helper@",
    "rsyslog",
    "rsyslogd",
    "unattended-upgrades",
    "networking",
    "init",
];

/// Whether a unit, or a program, is the system's own.
pub(super) fn is_system(name: &str) -> bool {
    let unit = [".service", ".scope"].iter().find_map(|kind| name.strip_suffix(kind));
    let stem = unit.unwrap_or(name);
    SYSTEM.iter().any(|own| match own.ends_with(['-', '@', ':']) {
        true => stem.starts_with(own),
        false => stem == *own,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_only_called_like_one_of_the_systems_own_is_none() {
        for own in [
            "ssh.service",
            "ssh@3-10.0.0.7:22-10.0.0.9:41234.service",
            "cron.service",
            "dbus.service",
            "systemd-journald.service",
            "getty@tty1.service",
            "user@1000.service",
            "init.scope",
            "hostler-agent.service",
            "sshd",
            "systemd-resolve",
        ] {
            assert!(is_system(own), "{own}");
        }
        for other in [
            "ssh-tunnel.service",
            "cronicle.service",
            "initech-backend.service",
            "dbus-bridge.service",
            "polkitty.service",
            "networking-api.service",
            "users.service",
            "initd",
            "",
        ] {
            assert!(!is_system(other), "{other}");
        }
    }
}
