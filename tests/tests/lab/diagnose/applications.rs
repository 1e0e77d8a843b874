//! What runs on the servers: workers, the backend, PM2, nginx. Their own faults, and those of what they need.

use hostler_tests::{lab::Lab, process::eventually};
use serde_json::Value;

use super::{fleet, next, restart, until, well};
use crate::omnidoc;

const TASKS: &str = "/opt/omnidoc/src/tasks/celery_app.py";
const APPS: &str = "/opt/omnidoc/frontend/ecosystem.config.js";
const SERVER: &str = "/opt/omnidoc/frontend/server.js";

/// Puts a line behind the first one of a file, whose old content is kept beside it.
fn spoil(lab: &Lab, path: &str, line: &str) {
    lab.exec("h1", &["cp", "--preserve", path, &format!("{path}.kept")]);
    lab.exec("h1", &["sed", "-i", &format!("1a {line}"), path]);
}

fn mend(lab: &Lab, path: &str) {
    lab.exec("h1", &["mv", &format!("{path}.kept"), path]);
}

/// Leaves no requests that failed to those who judge them afterwards.
fn forget_requests(lab: &Lab) {
    lab.exec("h1", &["truncate", "--size=0", "/var/log/nginx/access.log"]);
}

fn pm2(lab: &Lab, command: &str) {
    lab.exec("h1", &["su", "omnidoc", "-c", &format!("PM2_HOME=/home/omnidoc/.pm2 pm2 {command}")]);
}

#[test]
fn a_worker_whose_application_cannot_be_imported_says_which_module_is_missing() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    omnidoc(&lab, "");
    spoil(&lab, TASKS, "import no_such_module_at_all");
    lab.exec("h1", &["systemctl", "restart", "--no-block", "omnidoc-celery"]);
    let said = "omnidoc-celery.service misses a program, module or file";
    let found = until(&fleet, &["omnidoc-celery"], said);
    assert_eq!(next(&found), "journal read --unit omnidoc-celery.service --lines 50", "{found}");
    let why = found["findings"][0]["why"].to_string();
    assert!(why.contains("no_such_module_at_all"), "{found}");
    let evidence = found["evidence"].to_string();
    assert!(evidence.contains("--unit=omnidoc-celery.service"), "{found}");
    mend(&lab, TASKS);
    restart(&lab, "omnidoc-celery");
    well(&fleet, &["omnidoc-celery"]);
}

#[test]
fn a_worker_or_a_backend_whose_server_is_stopped_leads_to_that_server() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    omnidoc(&lab, "");
    lab.exec("h1", &["systemctl", "stop", "redis-server"]);
    for service in ["omnidoc-celery", "celery"] {
        let found = until(&fleet, &[service], "redis-server.service is stopped");
        assert_eq!(next(&found), "systemd start redis-server.service", "{found}");
    }
    restart(&lab, "redis-server");
    restart(&lab, "omnidoc-celery");
    well(&fleet, &["omnidoc-celery"]);

    // It goes on, and answers whoever needs no database.
    lab.exec("h1", &["systemctl", "stop", "postgresql@15-main"]);
    let found = until(&fleet, &["omnidoc-backend"], "postgresql@15-main.service is stopped");
    assert_eq!(next(&found), "systemd start postgresql@15-main.service", "{found}");
    restart(&lab, "postgresql@15-main");
    well(&fleet, &["omnidoc-backend"]);
}

#[test]
fn a_worker_whose_password_is_wrong_is_not_let_in() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    omnidoc(&lab, "");
    let drop_in = "/etc/systemd/system/omnidoc-celery.service.d";
    lab.exec("h1", &["mkdir", "--parents", drop_in]);
    let wrong = "CELERY_BROKER_URL=redis://:wrong@127.0.0.1:6379/0\n";
    lab.write("h1", &format!("{drop_in}/wrong.env"), wrong);
    let file = format!("[Service]\nEnvironmentFile={drop_in}/wrong.env\n");
    lab.write("h1", &format!("{drop_in}/wrong.conf"), &file);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    restart(&lab, "omnidoc-celery");
    let said = "a server does not let omnidoc-celery.service in";
    let found = until(&fleet, &["omnidoc-celery"], said);
    assert_eq!(next(&found), "journal read --unit omnidoc-celery.service --lines 50", "{found}");
    assert!(!found.to_string().contains(":wrong@"), "{found}");
    lab.exec("h1", &["rm", "-rf", drop_in]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    restart(&lab, "omnidoc-celery");
    well(&fleet, &["omnidoc-celery"]);
}

#[test]
fn a_backend_that_is_active_and_answers_elsewhere_is_not_ready() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    omnidoc(&lab, "");
    well(&fleet, &["omnidoc-backend"]);
    let unit = "/etc/systemd/system/omnidoc-backend.service";
    lab.exec("h1", &["sed", "-i", "s/--port 8000/--port 8001/", unit]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    restart(&lab, "omnidoc-backend");
    let said = "omnidoc-backend.service is active and not ready: http://127.0.0.1:8000/docs";
    for service in [&["omnidoc-backend"][..], &["http:backend"], &[]] {
        let found = until(&fleet, service, said);
        let journal = "journal read --unit omnidoc-backend.service --lines 50";
        assert_eq!(next(&found), journal, "{found}");
    }
    let problems = || {
        let list = fleet.ctl(&["problems", "--on", "h1", "-o", "json"]).json();
        let list = list.as_array().cloned().unwrap_or_default();
        let checks = list.iter().filter_map(|p| p["check"].as_str().map(ToOwned::to_owned));
        checks.collect::<Vec<_>>()
    };
    eventually("the endpoint is a problem of its own", || {
        problems().iter().any(|check| check == "http:backend")
    });
    assert!(!problems().iter().any(|check| check == "unit:omnidoc-backend"));
    let status = fleet.ctl(&["status"]);
    assert!(status.out.contains("http:backend") && status.code == 1, "{status:?}");
    lab.exec("h1", &["sed", "-i", "s/--port 8001/--port 8000/", unit]);
    lab.exec("h1", &["systemctl", "daemon-reload"]);
    restart(&lab, "omnidoc-backend");
    well(&fleet, &[]);
}

#[test]
fn an_application_that_pm2_gave_up_says_why_and_a_daemon_that_is_gone_leads_to_its_unit() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    omnidoc(&lab, "");
    well(&fleet, &["pm2"]);
    spoil(&lab, SERVER, "require(\"no-such-module\");");
    // Else it is given up after fifteen runs of less than a second, which not every machine makes.
    spoil(&lab, APPS, "max_restarts: 3, min_uptime: \"60s\",");
    pm2(&lab, "delete omnidoc-frontend");
    pm2(&lab, &format!("start {APPS}"));
    let said = "omnidoc-frontend misses a program, module or file";
    let found = until(&fleet, &["pm2"], said);
    assert!(next(&found).starts_with("logs tail /opt/omnidoc/logs/"), "{found}");
    assert!(found["findings"][0]["why"].to_string().contains("no-such-module"), "{found}");
    eventually("PM2 gave it up", || {
        let seen = fleet.ctl(&["pm2", "status", "--on", "h1"]);
        seen.out.contains("omnidoc-frontend is errored")
    });
    let found = until(&fleet, &["pm2"], said);
    let findings = found["findings"].to_string();
    assert!(findings.contains("omnidoc-frontend is errored"), "{found}");
    mend(&lab, SERVER);
    mend(&lab, APPS);
    pm2(&lab, "delete omnidoc-frontend");
    pm2(&lab, &format!("start {APPS}"));
    well(&fleet, &["pm2"]);

    lab.exec("h1", &["systemctl", "stop", "pm2-omnidoc"]);
    // Through nginx it is a 502 that leads there.
    for service in ["pm2", "http:site"] {
        let found = until(&fleet, &[service], "pm2-omnidoc.service is stopped");
        assert_eq!(next(&found), "systemd start pm2-omnidoc.service", "{found}");
        let findings = found["findings"].to_string();
        assert!(findings.contains("no PM2 daemon runs"), "{found}");
    }
    restart(&lab, "pm2-omnidoc");
    well(&fleet, &["http:site"]);
    forget_requests(&lab);
}

#[test]
fn a_502_of_nginx_leads_to_the_unit_behind_it() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    let api =
        "\n[[http]]\nname = \"api\"\nurl = \"http://127.0.0.1/docs\"\nafter = [\"unit:nginx\"]\n";
    omnidoc(&lab, api);
    well(&fleet, &["http:api"]);
    lab.exec("h1", &["systemctl", "stop", "omnidoc-backend"]);
    for service in ["http:api", "nginx"] {
        let found = until(&fleet, &[service], "omnidoc-backend.service is stopped");
        assert_eq!(next(&found), "systemd start omnidoc-backend.service", "{found}");
        let steps = found["data"]["steps"].to_string();
        assert!(steps.contains("net port-owner 8000"), "{found}");
    }
    restart(&lab, "omnidoc-backend");
    well(&fleet, &["nginx"]);

    // Without a word of the stack file about who serves it, the port is what is known.
    let only = "[check.disk]\nparameters = { mount = [\"/\"] }\n[[unit]]\nname = \"nginx\"\n[nginx]\n[[http]]\nname = \"api\"\n\
                url = \"http://127.0.0.1/docs\"\nafter = [\"unit:nginx\"]\n";
    lab.write("h1", "/etc/hostler/stack.toml", only);
    restart(&lab, "hostler-agent");
    well(&fleet, &["http:api"]);
    lab.exec("h1", &["systemctl", "stop", "omnidoc-backend"]);
    let said = "nobody listens on port 8000, to which nginx passes requests";
    let found = until(&fleet, &["http:api"], said);
    assert_eq!(next(&found), "systemd status", "{found}");
    restart(&lab, "omnidoc-backend");
    well(&fleet, &["http:api"]);
    forget_requests(&lab);
}

#[test]
fn an_nginx_with_a_mistake_in_its_configuration_names_the_line() {
    let lab = Lab::take();
    let fleet = fleet(&lab);
    omnidoc(&lab, "");
    let wrong = "/etc/nginx/conf.d/wrong.conf";
    lab.write("h1", wrong, "nonsense on;\n");
    let named = |found: &Value| {
        assert_eq!(next(found), "nginx test", "{found}");
        let finding = &found["findings"][0];
        assert!(finding["subject"].to_string().contains("wrong.conf:1"), "{found}");
        assert!(finding["why"].to_string().contains("systemd reload nginx"), "{found}");
    };
    // It goes on with what it has loaded, and would not come up again.
    named(&until(&fleet, &["nginx"], "unknown directive \"nonsense\""));
    lab.exec("h1", &["sh", "-c", "systemctl restart nginx || true"]);
    named(&until(&fleet, &["nginx"], "unknown directive \"nonsense\""));
    lab.exec("h1", &["rm", wrong]);
    restart(&lab, "nginx");
    well(&fleet, &["nginx"]);
}
