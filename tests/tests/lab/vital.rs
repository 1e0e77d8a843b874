//! Changes of units that no operation makes: those that would end the host or cut the way to it.

use hostler_tests::{
    fleet::{Fleet, Place},
    lab::Lab,
};

use super::{AGENT, QUICK};

#[test]
fn what_ends_a_host_or_holds_it_up_is_refused_by_each_of_its_names() {
    let lab = Lab::take();
    let fleet = super::fleet(&lab);
    let alias = "/run/systemd/system/goodnight.target";
    lab.exec("h1", &["ln", "-sf", "/lib/systemd/system/poweroff.target", alias]);
    lab.write("h1", "/run/systemd/system/below.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    let drop_in = "/run/systemd/system/dbus.service.d";
    lab.exec("h1", &["mkdir", "-p", drop_in]);
    lab.write("h1", &format!("{drop_in}/below.conf"), "[Unit]\nRequires=below.service\n");
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    let booted = || lab.exec("h1", &["systemctl", "show", "-P", "UserspaceTimestampMonotonic"]);
    let before = booted();
    for (verb, unit) in [
        ("start", "poweroff.target"),
        ("start", "ctrl-alt-del.target"),
        ("start", "goodnight.target"),
        ("restart", "systemd-reboot"),
        ("start", "rescue.target"),
        ("stop", "dbus"),
        ("stop", "dbus.socket"),
        ("restart", "systemd-journald"),
        ("stop", "systemd-journald.socket"),
        ("stop", "system.slice"),
        ("stop", "hostler-agent"),
        ("stop", "below"),
    ] {
        let refused = fleet.ctl(&["systemd", verb, unit, "--on", "h1", "--yes", "-o", "json"]);
        let said = refused.exits(4).json()[0]["error"].to_string();
        assert!(said.contains("no agent lets itself be told to"), "{verb} {unit}: {said}");
        assert!(said.contains(&format!("systemctl {verb} {unit}")), "{verb} {unit}: {said}");
    }
    assert_eq!(before, booted());
    for unit in ["dbus", "hostler-agent"] {
        assert!(lab.succeeds("h1", &["systemctl", "is-active", "--quiet", unit]), "{unit}");
    }
    lab.exec("h1", &["rm", "-r", alias, drop_in, "/run/systemd/system/below.service"]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
}

#[test]
fn an_alias_leads_to_no_unit_that_the_policy_does_not_name() {
    let lab = Lab::take();
    let fleet = Fleet::new(Place::Lab, QUICK);
    lab.join(&fleet, "h1", &format!("{AGENT}\n[policy]\nunits = [\"good*\"]\n"));
    let alias = "/run/systemd/system/goodname.service";
    lab.exec("h1", &["ln", "-sf", "/lib/systemd/system/nginx.service", alias]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    let pid = || lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    let before = pid();
    for unit in ["nginx", "goodname"] {
        let said = fleet.ctl(&["systemd", "restart", unit, "--on", "h1", "--yes"]).exits(4);
        let said = format!("{}{}", said.out, said.err);
        assert!(said.contains("does not allow to change nginx.service"), "{unit}: {said}");
    }
    assert_eq!(before, pid());
    lab.exec("h1", &["rm", alias]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
}
