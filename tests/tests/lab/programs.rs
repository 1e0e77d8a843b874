//! The operations on nginx, PM2, apt and git, against the hosts' own.

use hostler_tests::{fleet::Fleet, lab::Lab, process::eventually};

use super::{Try, on};

pub(crate) const OPERATIONS: [(&str, Try); 6] = [
    ("nginx.status", nginx_status),
    ("nginx.test", nginx_test),
    ("nginx.access-report", access_report),
    ("pm2.status", pm2_status),
    ("apt.upgradable", upgradable),
    ("git.status", git_status),
];

fn nginx_status(fleet: &Fleet, lab: &Lab) {
    let absent = on(fleet, "h1", &["nginx", "status"], 3);
    assert!(absent["findings"][0]["why"].as_str().expect("text").contains("stub_status"));
    let page = "server { listen 127.0.0.1:8099; location = /nginx_status { stub_status; } }";
    lab.write("h1", "/etc/nginx/conf.d/status.conf", page);
    lab.exec("h1", &["systemctl", "reload", "nginx"]);
    eventually("the page is there", || {
        let args = ["nginx", "status", "http://127.0.0.1:8099/nginx_status", "--on", "h1"];
        fleet.ctl(&args).code == 0
    });
    let seen = on(fleet, "h1", &["nginx", "status", "http://127.0.0.1:8099/nginx_status"], 0);
    assert!(seen["data"]["requests"].as_u64().is_some_and(|n| n >= 2), "{seen}");
    let began = lab.exec("h1", &["stat", "--format=%Y", "/run/nginx.pid"]);
    let (began, since): (f64, _) =
        (began.trim().parse().expect("a time"), &seen["data"]["since_s"]);
    assert!(since.as_f64().is_some_and(|s| (s - began).abs() < 5.0), "{began}: {seen}");
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    let gone = on(fleet, "h1", &["nginx", "status", "http://127.0.0.1:8099/nginx_status"], 1);
    assert_eq!(gone["findings"][0]["next"], "systemd status nginx", "{gone}");
    lab.exec("h1", &["systemctl", "start", "nginx"]);
    lab.exec("h1", &["rm", "/etc/nginx/conf.d/status.conf"]);
    lab.exec("h1", &["systemctl", "reload", "nginx"]);
}

fn nginx_test(fleet: &Fleet, lab: &Lab) {
    on(fleet, "h1", &["nginx", "test"], 0);
    lab.write("h1", "/etc/nginx/conf.d/broken.conf", "server { lisen 81; }");
    let broken = on(fleet, "h1", &["nginx", "test"], 1);
    lab.exec("h1", &["rm", "/etc/nginx/conf.d/broken.conf"]);
    let finding = &broken["findings"][0];
    assert_eq!(finding["subject"], "/etc/nginx/conf.d/broken.conf:1", "{broken}");
    assert!(finding["summary"].as_str().expect("text").contains("unknown directive \"lisen\""));
}

fn access_report(fleet: &Fleet, lab: &Lab) {
    let requests = "for i in $(seq 60); do curl -s -o /dev/null http://127.0.0.1/health; done";
    lab.exec("h1", &["sh", "-c", requests]);
    let seen = on(fleet, "h1", &["nginx", "access-report", "--since", "1m"], 0);
    assert!(seen["data"]["requests"].as_u64().is_some_and(|n| n >= 60), "{seen}");
    lab.exec("h1", &["systemctl", "stop", "omnidoc-backend"]);
    lab.exec("h1", &["sh", "-c", requests]);
    let bad = on(fleet, "h1", &["nginx", "access-report", "--since", "1m"], 1);
    lab.exec("h1", &["systemctl", "start", "omnidoc-backend"]);
    assert_eq!(bad["data"]["failing"][0]["path"], "/health", "{bad}");
    let own = "grep -c ' 502 ' /var/log/nginx/access.log";
    let failed: u64 = lab.exec("h1", &["sh", "-c", own]).trim().parse().expect("a count");
    let statuses = bad["data"]["statuses"].as_array().expect("statuses").clone();
    let ours = statuses.iter().find(|s| s["status"] == "5xx").expect("failures");
    assert_eq!(ours["count"], failed, "{bad}");
}

fn pm2_status(fleet: &Fleet, lab: &Lab) {
    eventually("the application is online", || {
        fleet.ctl(&["pm2", "status", "--on", "h1"]).code == 0
    });
    let seen = on(fleet, "h1", &["pm2", "status"], 0);
    let app = &seen["data"]["apps"][0];
    assert_eq!((&app["status"], &app["saved"]), (&"online".into(), &true.into()), "{seen}");
    assert_eq!(seen["data"]["daemons"][0]["user"], "omnidoc");
    assert!(app["added_s"].as_f64().is_some_and(|s| s > 1.7e9), "{seen}");
    let pid = app["pid"].to_string();
    assert!(lab.succeeds("h1", &["test", "-d", &format!("/proc/{pid}")]));
    // The daemon tells the application's whole environment to whoever asks.
    let own = "su omnidoc -c 'PM2_HOME=/home/omnidoc/.pm2 pm2 jlist'";
    assert!(lab.exec("h1", &["sh", "-c", own]).contains("hidden-value"));
    let shown = fleet.ctl(&["pm2", "status", "--on", "h1", "-o", "wide"]).exits(0);
    let record = fleet.ctl(&["audit", "list", "--limit", "1000", "-o", "json"]).exits(0);
    for told in [seen.to_string(), format!("{shown:?}"), record.out] {
        assert!(!told.contains("hidden-value") && !told.contains("SECRET"), "{told}");
    }
    // Where no daemon runs none is started.
    lab.exec("h1", &["systemctl", "stop", "pm2-omnidoc"]);
    let gone = on(fleet, "h1", &["pm2", "status", "omnidoc-frontend"], 1);
    assert!(gone["summary"].as_str().expect("text").contains("no PM2 daemon runs"), "{gone}");
    assert!(!lab.succeeds("h1", &["pgrep", "-f", "God Daemon"]));
    lab.exec("h1", &["systemctl", "start", "pm2-omnidoc"]);
}

fn upgradable(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["apt", "upgradable"], 0);
    let simulated = "apt-get -s -o Debug::NoLocking=1 dist-upgrade | grep -c '^Inst [^ ]* \\['";
    let theirs: usize = lab.exec("h1", &["sh", "-c", simulated]).trim().parse().expect("a count");
    let ours = seen["data"]["packages"].as_array().expect("packages").clone();
    assert_eq!(ours.len(), theirs, "{seen}");
    assert!(ours.iter().any(|p| p["name"] == "omnidoc-tools" && p["candidate"] == "1.1"), "{seen}");
}

fn git_status(fleet: &Fleet, lab: &Lab) {
    let script = "rm -rf /srv/checkout && mkdir -p /srv/checkout && cd /srv/checkout && git init -q -b main && \
        git -c user.name=x -c user.email=x@x commit -q --allow-empty -m first && echo a > kept && \
        git add kept && git -c user.name=x -c user.email=x@x commit -q -m second && \
        printf '[core]\\n\\tfsmonitor = touch /run/pwned\\n' >> .git/config && chown -R omnidoc: .";
    lab.exec("h1", &["sh", "-c", script]);
    let seen = on(fleet, "h1", &["git", "status", "/srv/checkout"], 0);
    let head = lab.exec("h1", &["sh", "-c", "cat /srv/checkout/.git/refs/heads/main"]);
    assert_eq!(seen["data"]["commit"], head.trim(), "{seen}");
    assert_eq!(seen["data"]["subject"], "second");
    assert!(seen["data"]["fetched_s"].is_null(), "nobody ever fetched: {seen}");
    let asked = seen["evidence"].as_array().expect("evidence").iter();
    let asked: Vec<_> = asked.map(|e| e["what"].as_str().expect("text").to_owned()).collect();
    for verb in ["rev-parse --show-toplevel", "status --porcelain=v2", "log -1"] {
        let one = |argv: &&String| argv.contains(verb) && argv.contains("-C /srv/checkout");
        assert_eq!(asked.iter().filter(one).count(), 1, "{verb}: {asked:?}");
    }
    let fetch = "cd /srv/checkout && \
                 su omnidoc -s /bin/sh -c 'git -c core.fsmonitor=false fetch -q . main'";
    lab.exec("h1", &["sh", "-c", fetch]);
    let written = lab.exec("h1", &["stat", "--format=%Y", "/srv/checkout/.git/FETCH_HEAD"]);
    let (written, fetched) = (
        written.trim().parse::<f64>().expect("a time"),
        on(fleet, "h1", &["git", "status", "/srv/checkout"], 0)["data"]["fetched_s"].as_f64(),
    );
    assert!(fetched.is_some_and(|s| (s - written).abs() < 1.0), "{written} {fetched:?}");
    lab.exec("h1", &["sh", "-c", "echo b > /srv/checkout/kept; touch /srv/checkout/stray"]);
    let dirty = on(fleet, "h1", &["git", "status", "/srv/checkout"], 0);
    assert_eq!((&dirty["status"], &dirty["data"]["untracked"]), (&"warning".into(), &1.into()));
    assert_eq!(dirty["data"]["changed"][0], "kept");
    // What a checkout's configuration names is not run.
    assert!(!lab.succeeds("h1", &["test", "-e", "/run/pwned"]));
    lab.exec("h1", &["rm", "-r", "/srv/checkout"]);
}
