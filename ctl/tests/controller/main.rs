//! The program itself against a controller that speaks the real protocol over real mutual TLS and
//! knows four hosts.

mod fake;

use std::{
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    sync::{Arc, Mutex},
};

use fake::Fleet;
use hostler_core::clock::{Clock, SystemClock};
use hostler_proto::{
    catalogue::{Catalogue, OperationSpec},
    wire::Effect,
};
use hostlerctl::{
    command,
    connect::Controller,
    exit::Exit,
    run::Run,
    screen::{Screen, Traits},
};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

#[expect(clippy::disallowed_methods, reason = "what is tested is the program")]
async fn hostlerctl(fleet: &Fleet, line: &[&str]) -> Ended {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostlerctl"));
    let command = command.args(line).stdin(Stdio::null()).env_remove("HOSTLER_CONTEXT");
    let output = command.env("HOSTLER_CONFIG", fleet.config()).output().await.expect("run");
    Ended {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("utf-8"),
        err: String::from_utf8(output.stderr).expect("utf-8"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_answers_with_one_json_document_and_the_worst_host_decides_the_exit_status() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["disk", "usage", "--on", "all", "-o", "json"]).await;
    let json = ended.json();
    let hosts: Vec<_> = json.as_array().expect("list").iter().map(|e| &e["host"]).collect();
    assert_eq!(hosts, ["web-4", "web-3", "web-1", "web-2"]);
    assert_eq!(json[0]["status"], "unreachable");
    assert_eq!(json[0]["error"]["code"], "unreachable");
    assert_eq!(json[1]["status"], "critical");
    assert_eq!(json[1]["findings"][0]["subject"], "/srv");
    assert_eq!(json[2]["data"]["filesystems"][0]["mount"], "/");
    assert_eq!(ended.code, 1, "web-3 is critical");
    assert!(ended.err.contains("disk.usage on 4 of 4 hosts"), "{}", ended.err);
    assert!(ended.err.contains("2 ok, 1 critical, 1 unreachable"), "{}", ended.err);
    assert_eq!(fleet.asked(), 0, "the run itself tells the hosts");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_host_alone_is_no_failure_of_the_operation() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["disk", "usage", "--on", "web-4"]).await;
    assert_eq!(ended.code, 3);
    assert!(ended.out.contains("unreachable"), "{}", ended.out);
    let ended = hostlerctl(&fleet, &["disk", "usage", "--on", "web-1", "-q"]).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.contains("100.0 GiB"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_without_hosts_and_a_mistake_have_exit_statuses_of_their_own() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["disk", "usage", "--on", "moon"]).await;
    assert_eq!(ended.code, 6);
    assert!(ended.err.starts_with("hostlerctl: no host matches \"moon\";"), "{}", ended.err);
    assert_eq!(hostlerctl(&fleet, &["disk", "usage"]).await.code, 2);
    assert_eq!(hostlerctl(&fleet, &["disk", "usgae", "--on", "all"]).await.code, 2);
    assert_eq!(hostlerctl(&fleet, &["host", "revoke", "web-1", "--reason", "x"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_and_downtimes_of_no_host_are_no_failure_of_the_controller() {
    let fleet = Fleet::start().await;
    let announce = ["downtime", "add", "--on", "moon", "--for", "1h", "--comment", "x"];
    for line in [&["problems", "--on", "moon"][..], &announce] {
        let ended = hostlerctl(&fleet, line).await;
        assert_eq!(ended.code, 6, "{line:?}: {}", ended.err);
    }
    assert_eq!(hostlerctl(&fleet, &["problems"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_how_some_hosts_are_asked_for() {
    let fleet = Fleet::start().await;
    fleet.stop();
    let ended = hostlerctl(&fleet, &["status", "--on", "role=web"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("hostlerctl problems --on 'role=web'"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_contexts_is_about_the_one_that_was_named() {
    let fleet = Fleet::start().await;
    let contexts = fleet.add_context("carol");
    for line in [
        &["--context", "carol", "context", "show"][..],
        &["context", "show", "--context", "carol"],
        &["context", "show", "carol"],
        &["--context", "prod", "context", "show", "carol"],
    ] {
        let ended = hostlerctl(&fleet, &[line, &["-o", "json"]].concat()).await;
        assert_eq!(ended.json()["name"], "carol", "{line:?}: {}", ended.err);
        assert!(ended.out.contains("operator/carol"), "{line:?}: {}", ended.out);
    }
    let current = hostlerctl(&fleet, &["context", "show", "-o", "json"]).await;
    assert_eq!(current.json()["name"], "prod");
    // Nobody answers there: what is asked is asked in carol's name.
    let mut context = contexts.get("carol").expect("context");
    context.addresses = vec!["127.0.0.1:1".into()];
    contexts.replace("carol", &context).expect("replaced");
    for line in [
        &["--context", "carol", "context", "renew"][..],
        &["context", "renew", "--context", "carol"],
        &["context", "renew", "carol"],
    ] {
        let ended = hostlerctl(&fleet, line).await;
        assert_eq!(ended.code, 5, "{line:?}: {}", ended.err);
    }
    let ended = hostlerctl(&fleet, &["context", "renew"]).await;
    assert_eq!(ended.code, 4, "the current one: {}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_tells_the_controller_how_many_hosts_were_meant_and_carries_an_invocation() {
    let fleet = Fleet::start().await;
    let line = ["systemd", "restart", "nginx", "--on", "web-1", "--reason", "config", "-o", "yaml"];
    let ended = hostlerctl(&fleet, &line).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.starts_with("- host: web-1\n  status: done\n"), "{}", ended.out);
    let request = fleet.last_run();
    assert_eq!((request.confirmed, request.plan, request.reason.as_str()), (1, false, "config"));
    assert!(request.invocation.parse::<hostler_core::clock::InvocationId>().is_ok());
    let ended = hostlerctl(&fleet, &["systemd", "restart", "nginx", "--on", "all", "--plan"]).await;
    assert!(ended.out.contains("1. stop and start nginx.service  (cannot be undone)"));
    assert!(fleet.last_run().plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_data_and_cannot_steer_a_terminal() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["logs", "tail", "/var/log/x", "--on", "web-1"]).await;
    assert_eq!(ended.out, "web-1 2026-03-29T00:00:00.000Z /var/log/x red line\n");
    let line = ["logs", "tail", "/var/log/x", "--on", "web-1", "-o", "jsonl"];
    let ended = hostlerctl(&fleet, &line).await;
    let lines: Vec<Value> =
        ended.out.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    assert_eq!(lines[0]["line"], "\u{1b}[31mred\u{1b}[0m line");
    assert_eq!(lines[1]["status"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_of_many_hosts_are_shown_in_the_order_of_their_times() {
    let fleet = Fleet::start().await;
    let line = ["journal", "read", "--unit", "nginx", "--on", "web-1,web-2"];
    let ended = hostlerctl(&fleet, &line).await;
    let hosts: Vec<_> = ended.out.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(hosts, ["web-1", "web-2", "web-1", "web-2"], "{}", ended.out);
    let last = ended.out.lines().last().expect("lines");
    assert_eq!(last, "web-2 2026-03-29T00:00:03.000Z line 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_gives_no_line_says_so() {
    let fleet = Fleet::start().await;
    let line = ["logs", "tail", "/var/log/empty", "--on", "web-3"];
    let ended = hostlerctl(&fleet, &line).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""));
    assert!(ended.err.contains("web-3") && ended.err.contains("no line fits"), "{}", ended.err);
    let quiet = hostlerctl(&fleet, &[&line[..], &["-q"]].concat()).await;
    assert_eq!(quiet.err, "");
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::Write::write(&mut *self.0.lock().expect("lock"), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_destroys_data_shows_its_plan_and_is_done_only_when_it_was_confirmed() {
    let fleet = Fleet::start().await;
    let known = Catalogue::embedded().get("systemd.restart").expect("an operation");
    let spec = OperationSpec { effect: Effect::Destructive, ..(**known).clone() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let controller = Controller::dial(&fleet.context(), Arc::clone(&clock)).await.expect("dialled");
    let carry_out = async |more: &[&str], interactive: bool| {
        let words = ["hostlerctl", "systemd", "restart", "nginx", "--on", "web-1,web-2"];
        let matches =
            command::tree().try_get_matches_from(words.iter().chain(more)).expect("words");
        let (_, inner) = matches.subcommand().expect("domain");
        let (_, inner) = inner.subcommand().expect("verb");
        let (out, err) = (Shared::default(), Shared::default());
        let traits = Traits { interactive, ..Traits::default() };
        let mut screen = Screen::new(out.clone(), err.clone(), traits);
        let run = Run::read(&spec, inner).expect("a run");
        let ended = run.carry_out(&spec, &controller, &*clock, &mut screen).await;
        let said = [out, err].map(|s| String::from_utf8(s.0.lock().expect("lock").clone()));
        (ended, said.map(|text| text.expect("text")).concat())
    };

    let (refused, _) = carry_out(&[], false).await;
    assert_eq!(refused.expect_err("nobody can be asked").exit, Exit::Usage);
    assert!(!fleet.has_run());

    // Standard input of a test is empty: nothing is typed.
    let (refused, said) = carry_out(&[], true).await;
    assert!(refused.expect_err("not typed").to_string().contains("was not confirmed"));
    assert!(fleet.last_run().plan, "only the plan was made");
    assert!(said.contains("1. stop and start nginx.service"), "{said}");
    assert!(said.contains("systemd.restart on 2 hosts: type their number to go ahead:"), "{said}");

    let (done, _) = carry_out(&["--yes"], false).await;
    assert_eq!(done.expect("done"), Exit::AllWell);
    assert_eq!((fleet.last_run().plan, fleet.last_run().confirmed), (false, 2));
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "what is tested is the program")]
async fn hosts_may_come_in_by_standard_input() {
    let fleet = Fleet::start().await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostlerctl"));
    let command = command.args(["hosts", "--on", "-", "-o", "name"]).stdin(Stdio::piped());
    let command = command.env("HOSTLER_CONFIG", fleet.config()).env_remove("HOSTLER_CONTEXT");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"web-1\n# the other one\nweb-3\n").await.expect("written");
    drop(stdin);
    let output = child.wait_with_output().await.expect("end");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web-1\nweb-3\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_can_be_read_without_a_controller() {
    let fleet = Fleet::start().await;
    fleet.stop();
    let ended = hostlerctl(&fleet, &["operations", "-o", "name"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let (names, all) = (ended.out.lines().count(), Catalogue::embedded().all().expect("all"));
    assert_eq!(names, all.len());
    let ended = hostlerctl(&fleet, &["explain", "systemd.restart"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    for part in ["systemd.restart", "unit", "hostlerctl systemd restart"] {
        assert!(ended.out.contains(part), "{part} is missing in {}", ended.out);
    }
    assert_eq!(hostlerctl(&fleet, &["explain", "systemd.restrat"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_one_invocation_are_shown() {
    let fleet = Fleet::start().await;
    let id = "0199d0f4-0000-7000-8000-000000000000";
    let ended = hostlerctl(&fleet, &["audit", "show", id, "-o", "json"]).await;
    assert_eq!(ended.json().as_array().expect("list").len(), 2, "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_is_diagnosed_and_never_several() {
    let fleet = Fleet::start().await;
    for several in ["all", "web-1,web-2", "web-*"] {
        let ended = hostlerctl(&fleet, &["diagnose", several]).await;
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{}", ended.err);
    }
    assert!(!fleet.has_run());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_shown_and_a_critical_problem_shows_in_the_exit_status() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["status"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.out.starts_with("fleet prod, controller 0.1.0: 4 hosts, 3 up, 1 down\n"));
    let ended = hostlerctl(&fleet, &["hosts", "-o", "name"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "web-1\nweb-2\nweb-3\nweb-4\n"));
    let ended = hostlerctl(&fleet, &["host", "show", "web-4", "-o", "json"]).await;
    assert_eq!(ended.json()["connection"], "down");
    for (line, names) in
        [("status", "prod\n"), ("host show web-4", "web-4\n"), ("whoami", "alice\n")]
    {
        let line: Vec<_> = line.split(' ').chain(["-o", "name"]).collect();
        assert_eq!(hostlerctl(&fleet, &line).await.out, names, "{line:?}");
    }
    for several in ["all", "web-1,web-2", "web-*"] {
        let ended = hostlerctl(&fleet, &["host", "show", several]).await;
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "what is tested is the program")]
async fn every_shell_is_offered_the_names_of_the_hosts() {
    let fleet = Fleet::start().await;
    let words = ["hostlerctl", "disk", "usage", "--on", "web-1,web-"];
    // As the scripts of `hostlerctl completion` ask.
    for shell in ["bash", "zsh", "fish"] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostlerctl"));
        let asked = command.env("COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", "4");
        let asked = asked.env("_CLAP_IFS", "\n").env("HOSTLER_CONFIG", fleet.config());
        let output = asked.env_remove("HOSTLER_CONTEXT").arg("--").args(words).output().await;
        let offered = String::from_utf8(output.expect("run").stdout).expect("utf-8");
        for host in ["web-1", "web-2", "web-3", "web-4"] {
            assert!(offered.contains(&format!("web-1,{host}")), "{shell}: {offered}");
        }
    }
    // Checks are those of the host before.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostlerctl"));
    let asked = command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3");
    let asked = asked.env("_CLAP_IFS", "\n").env("HOSTLER_CONFIG", fleet.config());
    let asked =
        asked.env_remove("HOSTLER_CONTEXT").args(["--", "hostlerctl", "history", "web-2", ""]);
    let offered = String::from_utf8(asked.output().await.expect("run").stdout).expect("utf-8");
    assert!(offered.contains("http:web-2") && offered.contains("disk"), "{offered}");
    // And the whole way, in the shell that is everywhere.
    let script = "source <(hostlerctl completion bash); \
                  COMP_WORDS=(hostlerctl disk usage --on web-); COMP_CWORD=4; COMP_TYPE=9; \
                  _clap_complete_hostlerctl hostlerctl web- --on; echo \"${COMPREPLY[@]}\"";
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_hostlerctl")).parent().expect("a directory");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut bash = tokio::process::Command::new("/bin/bash");
    let bash = bash.args(["--norc", "-c", script]).env("PATH", path);
    let bash = bash.env("HOSTLER_CONFIG", fleet.config()).env_remove("HOSTLER_CONTEXT");
    let output = bash.output().await.expect("bash");
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(String::from_utf8_lossy(&out).trim(), "web-1 web-2 web-3 web-4", "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_sentence_with_what_to_do() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["token", "create"]).await;
    assert_eq!(ended.code, 4);
    assert_eq!(ended.err, "hostlerctl: alice is a viewer and may not make tokens; ask an admin\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_operator_is_one_file_that_can_be_imported() {
    let fleet = Fleet::start().await;
    let out = fleet.config().join("bob.toml");
    let path = out.to_str().expect("path");
    let ended =
        hostlerctl(&fleet, &["operator", "add", "bob", "--role", "admin", "--out", path]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(std::fs::metadata(&out).expect("file").permissions().mode() & 0o777, 0o600);
    let ended = hostlerctl(&fleet, &["context", "import", path, "--name", "bob"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(hostlerctl(&fleet, &["--context", "bob", "hosts"]).await.code, 0);
    let ended =
        hostlerctl(&fleet, &["operator", "add", "bob", "--role", "admin", "--out", path]).await;
    assert_eq!(ended.code, 2, "the file is not overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_the_exit_status_says_so() {
    let fleet = Fleet::start().await;
    fleet.stop();
    let ended = hostlerctl(&fleet, &["status"]).await;
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(ended.err.starts_with("hostlerctl: no answer from the controller at 127.0.0.1:"));
}

#[tokio::test]
async fn a_controller_that_stays_silent_is_not_waited_for_for_ever() {
    let fleet = Fleet::start().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let controller = Controller::dial(&fleet.context(), clock).await.expect("dialled");
    tokio::time::pause();
    let waits = std::future::pending::<Result<tonic::Response<()>, tonic::Status>>();
    let problem = controller.answer(waits).await.expect_err("no answer");
    assert_eq!(problem.exit, Exit::Controller);
    assert!(problem.message.contains("it did not answer within 30 s"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_of_another_fleet_is_not_spoken_to() {
    let (ours, theirs) = (Fleet::start().await, Fleet::start().await);
    ours.redirect(&theirs);
    let ended = hostlerctl(&ours, &["status"]).await;
    assert_eq!(ended.code, 5, "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_breaks_off_says_where_to_look() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["systemd", "stop", "nginx", "--on", "web-2"]).await;
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(ended.err.contains("`hostlerctl audit show "), "{}", ended.err);
    assert!(ended.out.contains("outcome-unknown"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_of_the_audit_arrives() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["audit", "list", "--since", "1h", "-o", "jsonl"]).await;
    assert_eq!((ended.code, ended.out.lines().count()), (0, 1500), "{}", ended.err);
    let ended = hostlerctl(&fleet, &["audit", "list", "-o", "json"]).await;
    assert_eq!(ended.json().as_array().expect("list").len(), 1500);
    let ended = hostlerctl(&fleet, &["audit", "verify"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (1, "BROKEN at record 7 of 9: hash differs\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let fleet = Fleet::start().await;
    let ended = hostlerctl(&fleet, &["help", "exit-codes"]).await;
    assert_eq!(ended.out.lines().count(), 7);
    #[expect(clippy::disallowed_methods, reason = "what is tested is the program")]
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostlerctl"));
    let command = command.args(["audit", "list", "-o", "jsonl"]).stdin(Stdio::null());
    let command = command.env("HOSTLER_CONFIG", fleet.config()).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run");
    drop(child.stdout.take());
    let output = child.wait_with_output().await.expect("end");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
