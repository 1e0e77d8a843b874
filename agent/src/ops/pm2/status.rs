//! `pm2.status`: the applications of every PM2 daemon on the host.

use std::{collections::HashSet, os::unix::fs::MetadataExt as _, path::Path};

use hostler_proto::{
    operation::{Operation, Pm2Status},
    ops::{Pm2App, Pm2Daemon, Pm2Status as Report, Pm2StatusRequest},
    wire::{Failure, Finding, Status},
};
use serde_json::Value;

use super::rpc;
use crate::{
    bounds::{Bound, Bounds},
    host::{blocking, files, processes},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// What it means that a daemon does not answer, and what helps.
const HANGS: &str = "nobody starts its applications again when they end; `pm2 update` on the host, as its user, \
                     starts it anew with all of them";

impl Probe for Pm2Status {
    async fn observe(request: Pm2StatusRequest, cx: &Context) -> Result<Answer<Report>, Failure> {
        let daemons = blocking(|| Ok(daemons())).await?;
        let mut report = Report::default();
        let mut findings = Vec::new();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a date")]
        let now_ms = cx.host.clock.now().as_millisecond() as f64;
        for mut daemon in daemons {
            let socket = Path::new(&daemon.home).join("rpc.sock");
            match rpc::call(&socket, "getMonitorData").await {
                Ok(data) => {
                    let version = rpc::call(&socket, "getVersion").await.unwrap_or_default();
                    daemon.version = version.as_str().unwrap_or_default().to_owned();
                    let saved = saved(&daemon.home).await;
                    let apps = data.as_array().map(Vec::as_slice).unwrap_or_default();
                    report.apps.extend(apps.iter().map(|a| app(a, &daemon.home, &saved, now_ms)));
                }
                Err(error) => {
                    let home = &daemon.home;
                    let summary = format!("the PM2 daemon of {home} does not answer: {error}");
                    let finding = Finding::new(Status::Critical, home, summary);
                    findings.push(finding.why(HANGS).next("host processes --by cpu"));
                }
            }
            report.daemons.push(daemon);
        }
        if report.daemons.is_empty() && cx.host.stack.pm2.is_some() && request.app.is_empty() {
            let units: Vec<&str> = cx.host.stack.units.iter().map(|u| u.name.as_str()).collect();
            findings.push(missing(&units));
        }
        Ok(judge(report, findings, &request))
    }
}

/// What is said where the checks want a daemon and there is none. Without a stack file they want the one
/// that ran before in a unit that starts at boot.
fn missing(units: &[&str]) -> Finding {
    let unit = units.iter().find(|name| name.starts_with("pm2"));
    let next = unit.map_or("systemd status".to_owned(), |unit| format!("systemd status {unit}"));
    Finding::new(Status::Critical, "pm2", "no PM2 daemon runs")
        .why(
            "the stack file names PM2; or there is none, and a daemon ran here before in a unit that \
             starts at boot",
        )
        .next(next)
}

/// The home of the PM2 daemon that a process is, by the title that each gives itself:
/// `PM2 v7.0.4: God Daemon (/home/x/.pm2)`. Blocks on the disk.
pub(crate) fn home(title: &str, uid: u32) -> Option<&str> {
    let home = title.strip_prefix("PM2 ")?.split_once("God Daemon (")?.1.split(')').next()?;
    // Any process can call itself so; its directory must be its own user's.
    let owner = std::fs::metadata(home).ok()?.uid();
    (home.starts_with('/') && owner == uid).then_some(home)
}

/// The applications of the daemon of a home, without PM2's own modules; none where it does not tell.
pub(crate) async fn names(home: &Path) -> Option<Vec<String>> {
    let data = rpc::call(&home.join("rpc.sock"), "getMonitorData").await.ok()?;
    Some(own_names(&data))
}

fn own_names(data: &Value) -> Vec<String> {
    let apps = data.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let own = apps.filter(|app| !app["pm2_env"]["pmx_module"].as_bool().unwrap_or(false));
    own.filter_map(|app| Some(app["name"].as_str()?.to_owned())).collect()
}

fn daemons() -> Vec<Pm2Daemon> {
    let users = processes::Users::read();
    let all = processes::with_arguments().into_iter();
    all.filter_map(|(seen, arguments)| {
        let title = arguments.join(" ");
        home(&title, seen.uid).map(|home| Pm2Daemon {
            home: home.to_owned(),
            pid: seen.pid,
            user: users.name(seen.uid),
            version: String::new(),
        })
    })
    .collect()
}

/// Names in the list that is started after a reboot.
async fn saved(home: &str) -> HashSet<String> {
    let path = Path::new(home).join("dump.pm2");
    let text = blocking(move || Ok(files::small(&path).unwrap_or_default())).await;
    let text = text.unwrap_or_default();
    let list: Value = serde_json::from_slice(&text).unwrap_or_default();
    let names = list.as_array().map(Vec::as_slice).unwrap_or_default();
    names.iter().filter_map(|app| Some(app["name"].as_str()?.to_owned())).collect()
}

/// Only what is named here is taken: the answer carries the application's whole environment.
fn app(data: &Value, home: &str, saved: &HashSet<String>, now_ms: f64) -> Pm2App {
    let env = &data["pm2_env"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let name = text(&data["name"]);
    let status = text(&env["status"]);
    let since = env["pm_uptime"].as_f64().unwrap_or(now_ms);
    let added = env["created_at"].as_f64().map(|ms| ms / 1000.0);
    let mode = text(&env["exec_mode"]);
    Pm2App {
        id: u32::try_from(number(&data["pm_id"])).unwrap_or(0),
        pid: u32::try_from(number(&data["pid"])).unwrap_or(0),
        restarts: number(&env["restart_time"]),
        unstable_restarts: number(&env["unstable_restarts"]),
        uptime_s: if status == "online" { ((now_ms - since) / 1000.0).max(0.0) } else { 0.0 },
        memory_bytes: number(&data["monit"]["memory"]),
        cpu_percent: data["monit"]["cpu"].as_f64().unwrap_or(0.0),
        mode: mode.trim_end_matches("_mode").to_owned(),
        home: home.to_owned(),
        saved: saved.contains(&name),
        error_log: text(&env["pm_err_log_path"]),
        added_s: added,
        name,
        status,
    }
}

fn judge(
    mut report: Report,
    mut findings: Vec<Finding>,
    request: &Pm2StatusRequest,
) -> Answer<Report> {
    let wanted = &request.app;
    #[expect(clippy::cast_precision_loss, reason = "a number of restarts")]
    let many = request.restarts as f64;
    let many = Bounds::warning(Bound::of(<Pm2Status as Operation>::NAME, "restarts", many), "");
    if !wanted.is_empty() {
        report.apps.retain(|app| wanted.contains(&app.name));
    }
    for name in wanted.iter().filter(|n| !report.apps.iter().any(|a| a.name == **n)) {
        let summary = match report.daemons.is_empty() {
            true => format!("no PM2 daemon runs, and {name} with none"),
            false => format!("PM2 has no application {name}"),
        };
        let finding = Finding::new(Status::Critical, name, summary);
        findings.push(finding.why("it does not run").next("systemd status"));
    }
    for app in &report.apps {
        let name = &app.name;
        let logs = format!("logs tail {}", app.error_log);
        let finding = |status, summary: String, why: &str| {
            Finding::new(status, name, summary).why(why).next(&logs)
        };
        match app.status.as_str() {
            "online"
                if app.uptime_s < f64::from(request.steady_s)
                    && app.restarts >= request.restarts =>
            {
                let summary = format!(
                    "{name} was started {:.0} s ago, for the {}th time",
                    app.uptime_s, app.restarts
                );
                let found = finding(Status::Warning, summary, "it may keep crashing");
                #[expect(clippy::cast_precision_loss, reason = "a number of restarts")]
                findings.push(many.told(found, app.restarts as f64, "restarts"));
            }
            "online" => {}
            "stopped" => {
                let summary = format!("{name} is stopped");
                findings.push(finding(Status::Warning, summary, "somebody stopped it"));
            }
            status => {
                let summary = format!("{name} is {status} after {} restarts", app.restarts);
                let why = "PM2 gave it up, or it does not come up";
                findings.push(finding(Status::Critical, summary, why));
            }
        }
        if app.status == "online" && !app.saved {
            let summary = format!("{name} is not in PM2's saved list");
            let why =
                "it does not come back after a reboot: say `pm2 save` on the host, as its user";
            findings.push(Finding::new(Status::Warning, name, summary).why(why));
        }
    }
    report.apps.order_by_key(|a| (a.status == "online", a.name.clone(), a.id));
    let online = report.apps.iter().filter(|a| a.status == "online").count();
    let summary = match (report.daemons.len(), report.apps.len()) {
        (0, _) => "no PM2 daemon runs".to_owned(),
        (_, all) => format!("{online} of {all} applications are online"),
    };
    let answer = Answer::ok(summary, report)
        .evidence("pm2", "getMonitorData over rpc.sock of each daemon of /proc, dump.pm2");
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operation::completed;

    #[test]
    fn modules_of_pm2_are_none_of_the_applications() {
        let list = json!([
            { "name": "shop", "pm2_env": {} },
            { "name": "pm2-logrotate", "pm2_env": { "pmx_module": true } },
        ]);
        assert_eq!(own_names(&list), ["shop"]);
    }

    fn seen(status: &str, restarts: u64, saved: bool) -> Answer<Report> {
        let data = json!({
            "name": "web", "pm_id": 0, "pid": 7, "monit": { "memory": 1000, "cpu": 1.5 },
            "pm2_env": { "status": status, "restart_time": restarts, "pm_uptime": 100_000,
                         "created_at": 40_000,
                         "exec_mode": "fork_mode", "env": { "SECRET": "hunter2" } },
        });
        let names = if saved { HashSet::from(["web".to_owned()]) } else { HashSet::new() };
        let apps = vec![app(&data, "/home/x/.pm2", &names, 130_000.0)];
        let report = Report { apps, daemons: vec![Pm2Daemon::default()] };
        judge(report, Vec::new(), &request(&[]))
    }

    fn request(apps: &[&str]) -> Pm2StatusRequest {
        let app = apps.iter().map(|app| (*app).to_owned()).collect();
        completed::<Pm2Status>(&Pm2StatusRequest { app, ..Default::default() }).expect("defaults")
    }

    #[test]
    fn an_application_that_is_online_and_saved_is_well() {
        let answer = seen("online", 0, true);
        assert_eq!(answer.status, Status::Ok);
        assert_eq!((answer.data.apps[0].mode.as_str(), answer.data.apps[0].saved), ("fork", true));
        assert!(!format!("{answer:?}").contains("hunter2"));
    }

    #[test]
    fn errors_crash_loops_and_what_would_not_come_back_are_told() {
        assert_eq!(seen("errored", 15, true).status, Status::Critical);
        assert_eq!(seen("online", 15, true).status, Status::Warning);
        assert_eq!(seen("online", 0, false).status, Status::Warning);
        let loops = seen("online", 15, true);
        assert_eq!(loops.data.apps[0].added_s, Some(40.0), "its restarts count from then");
        let found = &loops.findings[0];
        assert_eq!(
            (found.value, found.warning, found.source.as_str()),
            (Some(15.0), Some(3.0), "default")
        );
        for patient in [
            Pm2StatusRequest { restarts: 16, ..request(&[]) },
            Pm2StatusRequest { steady_s: 30, ..request(&[]) },
        ] {
            assert_eq!(judge(loops.data.clone(), Vec::new(), &patient).status, Status::Ok);
        }
    }

    #[test]
    fn a_process_is_a_daemon_only_where_its_user_owns_the_home_in_its_title() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = rustix::process::geteuid().as_raw();
        let at = directory.path().display();
        let title = format!("PM2 v9: God Daemon ({at}) 100");
        assert_eq!(home(&title, own), directory.path().to_str());
        assert_eq!(home(&title, own + 1), None, "somebody else's home");
        assert_eq!(home("PM2 v9: God Daemon (/nonexistent/.pm2)", own), None);
        assert_eq!(home(&format!("vim PM2 God Daemon ({at})"), own), None);
    }

    #[test]
    fn a_daemon_that_is_missing_leads_to_its_unit_and_is_not_said_to_be_in_a_stack_file() {
        let finding = missing(&["app.service", "pm2-app.service"]);
        assert_eq!(finding.next, "systemd status pm2-app.service");
        assert!(finding.why.contains("or there is none"), "{finding:?}");
        assert_eq!(missing(&[]).next, "systemd status");
    }

    #[test]
    fn an_application_that_is_wanted_and_not_there_is_critical() {
        let answer = judge(Report::default(), Vec::new(), &request(&["web"]));
        assert_eq!(answer.status, Status::Critical);
        assert!(answer.summary.contains("no PM2 daemon runs"));
        assert_eq!(judge(Report::default(), Vec::new(), &request(&[])).status, Status::Ok);
    }
}
