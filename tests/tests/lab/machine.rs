//! The operations on the machine itself: the kernel's figures, disks, sockets, units, logs.

use hostler_tests::{fleet::Fleet, lab::Lab, process::eventually};
use rustix::process::Signal;
use serde_json::Value;

use super::{Try, on};

pub(crate) const OPERATIONS: [(&str, Try); 19] = [
    ("host.facts", facts),
    ("host.resources", resources),
    ("host.processes", processes),
    ("host.disk-io", disk_io),
    ("host.network-io", network_io),
    ("disk.usage", usage),
    ("disk.tree", tree),
    ("net.listeners", listeners),
    ("net.port-owner", port_owner),
    ("systemd.status", status),
    ("systemd.start", start),
    ("systemd.stop", stop),
    ("systemd.restart", restart),
    ("systemd.reload", reload),
    ("journal.read", journal),
    ("logs.tail", logs),
    ("logs.errors", log_errors),
    ("http.check", http),
    ("plugin.run", plugin),
];

fn disk_io(fleet: &Fleet, lab: &Lab) {
    let write =
        "dd if=/dev/zero of=/var/tmp/io bs=1M count=2000 oflag=dsync 2>/dev/null; rm /var/tmp/io";
    let mut command = hostler_tests::lab::in_host("h1", &["sh", "-c", write]);
    let writing = hostler_tests::process::Process::start(&mut command, &fleet.path("dd.log"));
    let seen = fleet.ctl(&["host", "disk-io", "--on", "h1", "-o", "json"]).json();
    let disks = seen[0]["data"]["disks"].as_array().expect("disks").clone();
    let written = disks.iter().filter_map(|d| d["write_bytes_per_s"].as_f64()).fold(0.0, f64::max);
    assert!(written > 1e6, "{seen}");
    writing.kill();
    lab.exec("h1", &["sh", "-c", "pkill dd; rm -f /var/tmp/io"]);
}

fn network_io(fleet: &Fleet, lab: &Lab) {
    let ping = ["ping", "-q", "-i", "0.01", "-s", "1000", "-w", "6", "10.77.0.1"];
    let mut command = hostler_tests::lab::in_host("h1", &ping);
    let pinging = hostler_tests::process::Process::start(&mut command, &fleet.path("ping.log"));
    let seen = on(fleet, "h1", &["host", "network-io"], 0);
    let interfaces = seen["data"]["interfaces"].as_array().expect("interfaces").clone();
    let device = lab
        .exec("h1", &["sh", "-c", "ip -o route get 10.77.0.1 | sed 's/.* dev \\([^ ]*\\).*/\\1/'"]);
    let ours = interfaces.iter().find(|i| i["interface"] == device.trim()).expect("listed");
    assert!(ours["sent_packets_per_s"].as_f64().is_some_and(|n| n > 20.0), "{seen}");
    pinging.kill();

    // A transfer of two MB a second from h2 to h1, seen at both ends.
    let send = "import socket, time\ns = socket.create_server((\"\", 8099))\nc, _ = s.accept()\n\
                for i in range(900):\n  c.sendall(b\"x\" * 200_000)\n  time.sleep(0.1)";
    lab.exec("h2", &["systemd-run", "--quiet", "--unit=sender", "python3", "-c", send]);
    eventually("the sender listens", || lab.exec("h2", &["ss", "-ltn"]).contains(":8099"));
    let take = "import socket\ns = socket.create_connection((\"10.77.0.12\", 8099))\n\
                while s.recv(65536): pass";
    let mut command = hostler_tests::lab::in_host("h1", &["python3", "-c", take]);
    let taking = hostler_tests::process::Process::start(&mut command, &fleet.path("take.log"));
    let first = |host: &str| {
        let seen = on(fleet, host, &["host", "network-io", "--interval", "3s"], 0);
        seen["data"]["connections"][0].clone()
    };
    let near = |rate: &Value| rate.as_f64().is_some_and(|r| (1.5e6..2.5e6).contains(&r));
    let mut seen = Value::Null;
    eventually("the transfer is at the top with its rate", || {
        seen = first("h1");
        seen["remote"] == "10.77.0.12:8099" && near(&seen["received_bytes_per_s"])
    });
    assert_eq!(seen["command"], "python3", "{seen}");
    let seen = first("h2");
    assert_eq!(
        (&seen["local"], &seen["unit"]),
        (&"10.77.0.12:8099".into(), &"sender.service".into())
    );
    assert!(near(&seen["sent_bytes_per_s"]), "{seen}");
    // With its sender the other end goes, too.
    lab.exec("h2", &["systemctl", "stop", "sender"]);
    drop(taking);
}

fn log_errors(fleet: &Fleet, lab: &Lab) {
    let script = "mkdir -p /var/log/x && cd /var/log/x && \
        for i in 1 2 3; do echo \"2026-11-26 06:00:0$i ERROR request $i failed\"; done > a.log && \
        echo 'all fine, 0 errors' >> a.log && \
        (echo 'ERROR request 7 failed'; echo 'FATAL gone') | gzip > a.log.1.gz";
    lab.exec("h1", &["sh", "-c", script]);
    let look = || on(fleet, "h1", &["logs", "errors", "/var/log/x/a.log*"], 0);
    let first = look();
    assert_eq!((&first["data"]["errors"], &first["data"]["lines"]), (&5.into(), &6.into()));
    let kind = &first["data"]["kinds"][0];
    assert_eq!((&kind["template"], &kind["count"]), (&"ERROR request * failed".into(), &4.into()));
    assert_eq!(kind["last"], "2026-11-26 06:00:03");
    assert_eq!(first["status"], "ok", "{first}");
    let script = "for i in 1 2 3 4 5; do echo 'CRITICAL disk 1 is gone'; done >> /var/log/x/a.log";
    lab.exec("h1", &["sh", "-c", script]);
    let second = look();
    assert_eq!(second["status"], "warning", "{second}");
    assert_eq!(second["data"]["kinds"][0]["new"], true);
    // What is not read is not well, and an hour is an hour in every zone.
    let script = "cd /var/log/x && rm * && printf '\\3757zXZ\\000\\000' > a.log.2.xz && \
        TZ=Asia/Tokyo date +'%Y-%m-%dT%H:%M:%S%:z ERROR new' > a.log && \
        date -u -d '2 hours ago' +'%Y-%m-%dT%H:%M:%SZ ERROR old' >> a.log && \
        LC_ALL=C date -d '3 days ago' +'%b %e %H:%M:%S h1 x[1]: ERROR old' >> a.log";
    lab.exec("h1", &["sh", "-c", script]);
    let third = on(fleet, "h1", &["logs", "errors", "/var/log/x/*", "--since", "1h"], 3);
    assert_eq!(third["data"]["errors"], 1, "{third}");
    assert!(third["findings"].to_string().contains("xzcat /var/log/x/a.log.2.xz"), "{third}");
    lab.exec("h1", &["rm", "-r", "/var/log/x"]);
}

/// A real plugin of Debian's monitoring-plugins, that is well and that is not.
fn plugin(fleet: &Fleet, _: &Lab) {
    let well = on(fleet, "h1", &["plugin", "run", "procs"], 0);
    assert!(well["summary"].as_str().expect("text").starts_with("PROCS OK"), "{well}");
    assert_eq!(well["data"]["figures"][0]["label"], "procs");
    let bad = on(fleet, "h1", &["plugin", "run", "few-procs"], 1);
    assert_eq!((&bad["status"], &bad["data"]["exit_code"]), (&"critical".into(), &2.into()));
    let missing = on(fleet, "h1", &["plugin", "run", "proc"], 1);
    assert_eq!(missing["error"]["hint"], "did you mean \"procs\"?", "{missing}");
}

fn facts(fleet: &Fleet, lab: &Lab) {
    let facts = on(fleet, "h1", &["host", "facts"], 0);
    let uname = lab.exec("h1", &["uname", "-r"]);
    assert_eq!(facts["data"]["kernel"], uname.trim());
    assert!(facts["summary"].as_str().expect("text").contains("Debian"), "{facts}");
    let clock = lab.exec("h1", &["timedatectl", "show", "--value", "-p", "NTPSynchronized"]);
    let ours = facts["data"]["time_synchronised"].as_bool().unwrap_or(false);
    assert_eq!(ours, clock.trim() == "yes", "{facts}");
}

fn resources(fleet: &Fleet, lab: &Lab) {
    // Whether the machine is busy is for others to say: what it has is the same.
    let args = ["host", "resources", "--interval", "1s", "--on", "h1", "-o", "json"];
    let seen = fleet.ctl(&args).json()[0].clone();
    let meminfo = lab.exec("h1", &["grep", "MemTotal", "/proc/meminfo"]);
    let kib: u64 = meminfo.split_whitespace().nth(1).expect("a size").parse().expect("a number");
    assert_eq!(seen["data"]["memory_total_bytes"].as_u64(), Some(kib * 1024));
}

fn processes(fleet: &Fleet, _: &Lab) {
    let seen = on(fleet, "h1", &["host", "processes", "--by", "memory", "--top", "50"], 0);
    let list = seen["data"]["processes"].as_array().expect("a list").clone();
    let units: Vec<_> = list.iter().filter_map(|p| p["unit"].as_str()).collect();
    assert!(units.contains(&"omnidoc-backend.service"), "{units:?}");
}

fn usage(fleet: &Fleet, lab: &Lab) {
    let well = on(fleet, "h1", &["disk", "usage", "/"], 0);
    assert_eq!(well["status"], "ok");
    assert!(well["data"]["filesystems"][0]["full_in_s"].is_null(), "no past yet: {well}");
    // As if a host looked every ten minutes for two hours while its disk filled up.
    lab.script(&["fill", "h1", "20"]);
    let full = on(fleet, "h1", &["disk", "usage", "/"], 1);
    assert_eq!(full["status"], "critical");
    let number = |name: &str| full["data"]["filesystems"][0][name].as_f64().expect("a number");
    let (used, left) = (number("used_bytes"), number("available_bytes"));
    let now = lab.exec("h1", &["date", "+%s"]).trim().parse::<f64>().expect("a time");
    let look = |n: u32| {
        let (at_us, used) = ((now - f64::from(n) * 600.0) * 1e6, used - f64::from(n) * left / 2.0);
        serde_json::json!({ "at_us": at_us as i64, "sizes": { "/": used as u64 } })
    };
    let looks: Vec<_> = (1..=12).rev().map(look).collect();
    let looks = serde_json::to_string(&looks).expect("json");
    lab.write("h1", "/var/lib/hostler-agent/past/disk.usage.json", &looks);
    let fills = on(fleet, "h1", &["disk", "usage", "/"], 1);
    let full_in_s = fills["data"]["filesystems"][0]["full_in_s"].as_f64().expect("a time");
    assert!((1000.0..1400.0).contains(&full_in_s), "{fills}");
    let said = fills["findings"][0]["summary"].as_str().expect("a sentence");
    assert!(
        said.contains("MiB are left; full in ") && said.ends_with(" if it goes on so"),
        "{said}"
    );
    lab.script(&["unfill", "h1"]);
    assert_eq!(on(fleet, "h1", &["disk", "usage", "/"], 0)["status"], "ok");
    on(fleet, "h1", &["disk", "usage", "/nowhere"], 1);
}

fn tree(fleet: &Fleet, lab: &Lab) {
    let make = "mkdir -p /srv/big/a/b && head -c 30M /dev/zero > /srv/big/a/b/file && \
                ln /srv/big/a/b/file /srv/big/again";
    lab.exec("h1", &["sh", "-c", make]);
    let seen = on(fleet, "h1", &["disk", "tree", "/srv/big"], 0);
    let du = lab.exec("h1", &["du", "-s", "-B1", "/srv/big"]);
    let bytes = du.split_whitespace().next().expect("a size").parse().expect("a number");
    assert_eq!(seen["data"]["total_bytes"].as_u64(), Some(bytes));
    assert_eq!(seen["data"]["directories"][0]["path"], "/srv/big/a");
    // What the policy does not allow is refused in the same words whether it exists or not.
    for path in ["/etc", "/etc/nosuch"] {
        let said = fleet.ctl(&["disk", "tree", path, "--on", "h1"]).exits(4);
        assert!(format!("{}{}", said.out, said.err).contains("policy.paths"), "{said:?}");
    }
}

fn listeners(fleet: &Fleet, _: &Lab) {
    let seen = on(fleet, "h1", &["net", "listeners"], 0);
    let list = seen["data"]["listeners"].as_array().expect("a list").clone();
    for (port, unit) in [(80, "nginx.service"), (6379, "redis-server.service")] {
        let found = list.iter().find(|l| l["port"] == port).expect("listed");
        assert_eq!(found["unit"], unit);
    }
}

fn port_owner(fleet: &Fleet, _: &Lab) {
    let seen = on(fleet, "h1", &["net", "port-owner", "5432"], 0);
    assert_eq!(seen["data"]["listeners"][0]["unit"], "postgresql@15-main.service");
    let none = on(fleet, "h1", &["net", "port-owner", "59999"], 0);
    assert!(none["summary"].as_str().expect("text").contains("nobody"), "{none}");
}

fn active(lab: &Lab, unit: &str) -> bool {
    lab.succeeds("h1", &["systemctl", "is-active", "--quiet", unit])
}

fn status(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["systemd", "status", "nginx"], 0);
    let pid = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    let unit = &seen["data"]["units"][0];
    assert_eq!(unit["main_pid"].to_string(), pid.trim(), "{seen}");
    let object = "org.freedesktop.systemd1: LoadUnit, GetAll /org/freedesktop/systemd1/unit/nginx";
    assert!(seen["evidence"][0]["what"].as_str().expect("text").starts_with(object), "{seen}");
    lab.write("h1", "/run/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n");
    lab.exec("h1", &["sh", "-c", "systemctl daemon-reload; systemctl start broken; true"]);
    eventually("it has failed", || !active(lab, "broken"));
    let seen = on(fleet, "h1", &["systemd", "status"], 1);
    assert!(seen["findings"].to_string().contains("broken.service"), "{seen}");
    lab.exec("h1", &["systemctl", "reset-failed", "broken"]);
    on(fleet, "h1", &["systemd", "status"], 0);
    // One that is named must run, or wait for what starts it.
    let stopped = on(fleet, "h1", &["systemd", "status", "broken"], 1);
    assert_eq!(stopped["findings"][0]["summary"], "broken.service is stopped", "{stopped}");
    on(fleet, "h1", &["systemd", "status", "systemd-tmpfiles-clean"], 0);
    // Debian's postgresql.service runs nothing: its instances are what counts.
    let group = on(fleet, "h1", &["systemd", "status", "postgresql"], 0);
    let names: Vec<_> =
        group["data"]["units"].as_array().expect("units").iter().map(|u| &u["name"]).collect();
    assert!(names.contains(&&Value::from("postgresql@15-main.service")), "{group}");
    assert!(group["findings"].to_string().contains("it stands for postgresql@15-main"), "{group}");
    // One that keeps crashing is critical while it waits and while it happens to run.
    let unit = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=300ms\n\
                ExecStart=/bin/sh -c 'sleep 0.7; exit 3'\n";
    lab.write("h1", "/run/systemd/system/looping.service", unit);
    lab.exec("h1", &["sh", "-c", "systemctl daemon-reload; systemctl start looping"]);
    let restarts = || lab.exec("h1", &["systemctl", "show", "looping", "-P", "NRestarts"]);
    eventually("it crashed often", || restarts().trim().parse::<u32>().is_ok_and(|n| n > 3));
    for _ in 0..6 {
        let seen = on(fleet, "h1", &["systemd", "status", "looping"], 1);
        let summary = seen["summary"].as_str().expect("text");
        assert!(summary.starts_with("looping.service keeps crashing: restarted"), "{seen}");
    }
    lab.exec("h1", &["sh", "-c", "systemctl stop looping; systemctl reset-failed looping; true"]);
}

fn stop(fleet: &Fleet, lab: &Lab) {
    let plan = on(fleet, "h1", &["systemd", "stop", "nginx", "--plan"], 0);
    assert_eq!(plan["plan"].as_array().map(Vec::len), Some(1), "{plan}");
    assert!(active(lab, "nginx"), "a plan changes nothing");
    on(fleet, "h1", &["systemd", "stop", "nginx", "--yes"], 0);
    assert!(!active(lab, "nginx"));
    let again = on(fleet, "h1", &["systemd", "stop", "nginx", "--yes"], 0);
    assert_eq!(again["unchanged"], true, "{again}");
    lab.exec("h1", &["systemctl", "start", "nginx"]);
}

fn stands(lab: &Lab, unit: &str) -> String {
    lab.exec("h1", &["systemctl", "show", unit, "-p", "ActiveState,MainPID,InvocationID,Job"])
}

fn start(fleet: &Fleet, lab: &Lab) {
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    let before = stands(lab, "nginx");
    let plan = on(fleet, "h1", &["systemd", "start", "nginx", "--plan"], 0);
    assert_eq!(plan["plan"].as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!(before, stands(lab, "nginx"), "a plan changes nothing");
    on(fleet, "h1", &["systemd", "start", "nginx", "--yes"], 0);
    assert!(active(lab, "nginx"));
    let missing = on(fleet, "h1", &["systemd", "start", "ngnix", "--yes"], 1);
    assert!(missing.to_string().contains("nginx.service"), "the nearest is named: {missing}");
}

fn restart(fleet: &Fleet, lab: &Lab) {
    let before = stands(lab, "nginx");
    let plan = on(fleet, "h1", &["systemd", "restart", "nginx", "--plan"], 0);
    assert_eq!(plan["plan"].as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!(before, stands(lab, "nginx"), "a plan changes nothing");
    let before = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    let seen = on(fleet, "h1", &["systemd", "restart", "nginx", "--yes"], 0);
    let after = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    assert_ne!(before, after);
    assert_eq!(seen["data"]["after"]["main_pid"].to_string(), after.trim());
    // One that dies soon after its start has not been restarted well.
    let unit = "[Service]\nExecStart=/bin/sh -c 'echo giving up; sleep 1; exit 3'\n";
    lab.write("h1", "/run/systemd/system/frail.service", unit);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    let seen = on(fleet, "h1", &["systemd", "restart", "frail", "--yes"], 1);
    assert_eq!(seen["status"], "critical");
    assert!(seen.to_string().contains("giving up"), "its last lines are evidence: {seen}");
    lab.exec("h1", &["systemctl", "reset-failed", "frail"]);
}

fn reload(fleet: &Fleet, lab: &Lab) {
    let reloads = "journalctl -q -o cat -u nginx -b | grep -c Reload || true";
    let reloads = || lab.exec("h1", &["sh", "-c", reloads]);
    let (stood, before) = (stands(lab, "nginx"), reloads());
    let plan = on(fleet, "h1", &["systemd", "reload", "nginx", "--plan"], 0);
    assert_eq!(plan["plan"].as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!((stood, before), (stands(lab, "nginx"), reloads()), "a plan changes nothing");
    let before = lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]);
    on(fleet, "h1", &["systemd", "reload", "nginx", "--yes"], 0);
    // It has been up for as long as before.
    let entered =
        lab.exec("h1", &["systemctl", "show", "nginx", "-P", "ActiveEnterTimestampMonotonic"]);
    let uptime = lab.exec("h1", &["cut", "-d.", "-f1", "/proc/uptime"]);
    let seconds = |text: &str| text.trim().parse::<u64>().expect("a number");
    let up = seconds(&uptime).saturating_sub(seconds(&entered) / 1_000_000);
    let seen = on(fleet, "h1", &["systemd", "status", "nginx"], 0);
    let since = seen["data"]["units"][0]["since_s"].as_u64().unwrap_or(0);
    assert!(since.abs_diff(up) <= 3, "{up}: {seen}");
    assert_eq!(before, lab.exec("h1", &["systemctl", "show", "nginx", "-P", "MainPID"]));
    let said = fleet.ctl(&["systemd", "reload", "redis-server", "--on", "h1", "--yes"]).exits(1);
    assert!(said.out.contains("restart"), "{said:?}");
}

fn journal(fleet: &Fleet, lab: &Lab) {
    let mark = format!("mark{}x", std::process::id());
    for i in 0..5 {
        lab.exec("h1", &["logger", "-t", "probe", &format!("{mark} line {i} 'quoted' ü")]);
    }
    let read = |more: &[&str]| {
        let base = ["journal", "read", "--match", &mark, "--on", "h1", "-o", "json"];
        let args = [&base[..], more].concat();
        let said = fleet.ctl(&args).exits(0);
        said.json()[0].clone()
    };
    eventually("the journal has them", || read(&[])["data"]["lines"].as_u64() == Some(5));
    let some = read(&["--lines", "2"]);
    let texts = some["lines"].to_string();
    assert!(texts.contains("line 3") && texts.contains("line 4 'quoted' ü"), "{some}");
    assert!(!texts.contains("line 2"), "{some}");
    assert_eq!(some["data"]["more"], true);
    // Every filter beside journalctl's own.
    let script = format!("echo '<3>{mark} bad'; echo '<6>{mark} fine'; echo '<7>{mark} detail'");
    // Its description would hold the mark.
    let run = ["systemd-run", "--quiet", "--wait", "--unit=filtered", "--description=filtered"];
    lab.exec("h1", &[&run[..], &["sh", "-c", &script]].concat());
    eventually("the journal has those, too", || read(&[])["data"]["lines"].as_u64() == Some(8));
    let theirs = |options: &str| -> u64 {
        let count = format!("journalctl -q -o cat {options} | grep -c {mark} || true");
        lab.exec("h1", &["sh", "-c", &count]).trim().parse().expect("a count")
    };
    for (ours, options, lines) in [
        (&["--unit", "filtered"][..], "-u filtered", 3),
        (&["--unit", "filtered", "--priority", "err"], "-u filtered -p err", 1),
        (&["--priority", "info"], "-p info", 7),
        (&["--since", "1h"], "--since=-1h", 8),
        (&["--until", "1h"], "--until=-1h", 0),
        (&["--boot"], "-b", 8),
        (&["--unit", "nginx"], "-u nginx", 0),
    ] {
        assert_eq!(theirs(options), lines, "{options}");
        let seen = read(ours);
        assert_eq!(seen["data"]["lines"].as_u64().unwrap_or(0), lines, "{ours:?}: {seen}");
    }
    let slip = fleet.ctl(&["journal", "read", "ngnix", "--on", "h1"]).exits(3);
    for said in ["there is no unit ngnix.service", "did you mean nginx.service?"] {
        assert!(slip.err.contains(said), "{slip:?}");
    }
    let asked = read(&["--unit", "filtered", "--priority", "err"])["evidence"][0]["what"].clone();
    for part in ["/usr/bin/journalctl ", " --unit=filtered.service", " --priority=err"] {
        assert!(asked.as_str().expect("a command line").contains(part), "{asked}");
    }
    let all = read(&[]);
    let cursor = all["lines"][4]["cursor"].as_str().expect("a cursor");
    let after = read(&["--after", cursor]);
    assert_eq!(
        after["lines"].as_array().expect("lines")[..],
        all["lines"].as_array().expect("lines")[5..]
    );
    let follow = ["journal", "read", "--follow", "--match", &mark, "--on", "h1", "-o", "jsonl"];
    let mut following = fleet.ctl_begins(&follow, "journal.out");
    eventually("old lines come", || following.log().contains("line 4"));
    lab.exec("h1", &["logger", "-t", "probe", &format!("{mark} afterwards")]);
    eventually("new lines come", || following.log().contains("afterwards"));
    let readers = || lab.succeeds("h1", &["pgrep", "-f", "journalctl.*--follow"]);
    assert!(readers());
    following.signal(Signal::INT);
    following.ended();
    eventually("nothing is left on the host", || !readers());
}

fn logs(fleet: &Fleet, lab: &Lab) {
    lab.exec("h1", &["sh", "-c", "mkdir -p /var/log/try; echo one > /var/log/try/a.log"]);
    let follow = ["logs", "tail", "/var/log/try/*.log", "--follow", "--on", "h1", "-o", "jsonl"];
    let mut following = fleet.ctl_begins(&follow, "logs.out");
    eventually("the old line comes", || following.log().contains("one"));
    let rotate = "cd /var/log/try; echo two >> a.log; mv a.log a.log.1; echo three > a.log; \
                  echo four > b.log";
    lab.exec("h1", &["sh", "-c", rotate]);
    for word in ["two", "three", "four"] {
        eventually(word, || following.log().contains(word));
    }
    following.signal(Signal::INT);
    following.ended();
    lab.exec("h1", &["rm", "-r", "/var/log/try"]);
}

fn http(fleet: &Fleet, lab: &Lab) {
    let seen = on(fleet, "h1", &["http", "check", "http://127.0.0.1/health"], 0);
    assert_eq!(seen["data"]["status"], 200);
    lab.exec("h1", &["systemctl", "stop", "nginx"]);
    let seen = on(fleet, "h1", &["http", "check", "http://127.0.0.1/health"], 1);
    assert_eq!(seen["status"], "critical");
    lab.exec("h1", &["systemctl", "start", "nginx"]);
}
