//! Notices, to real receivers.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use hostler_core::clock::{Clock as _, SystemClock};
use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, command, eventually},
};
use serde_json::Value;

/// A web server that keeps what is posted to it, and refuses for as long as it is told to.
#[derive(Debug, Clone, Default)]
struct Hook {
    bodies: Arc<Mutex<Vec<Value>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
    refuses: Arc<Mutex<bool>>,
}

impl Hook {
    fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let hook = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                hook.answer(stream);
            }
        });
        port
    }

    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                self.authorizations.lock().expect("lock").push(value.trim().to_owned());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let refused = *self.refuses.lock().expect("lock");
        if !refused {
            let body = serde_json::from_slice(&body).expect("json");
            self.bodies.lock().expect("lock").push(body);
        }
        let status = if refused { "503 Busy" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = reader.get_mut().write_all(answer.as_bytes());
    }

    fn has(&self, fits: impl Fn(&Value) -> bool) -> bool {
        self.count(fits) > 0
    }

    fn count(&self, fits: impl Fn(&Value) -> bool) -> usize {
        self.bodies.lock().expect("lock").iter().filter(|body| fits(body)).count()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// A host with a check that is well as long as a file exists.
fn checked(fleet: &mut Fleet) -> PathBuf {
    let file = fleet.path("file");
    fs::write(&file, "").expect("written");
    joins(fleet, &format!("\"/usr/bin/test\", \"-e\", \"{}\"", file.display()), 2);
    file
}

/// A host with this one plugin, whatever else is with this machine.
fn joins(fleet: &mut Fleet, command: &str, attempts: u32) {
    let stack = fleet.path("stack.toml");
    let text = format!(
        "[defaults]\ninterval = \"1s\"\nretry = \"1s\"\nattempts = {attempts}\n\
         [[plugin]]\nname = \"file\"\ncommand = [{command}]\n\
         [check]\ndisk = {{ off = true }}\nresources = {{ off = true }}\n"
    );
    fs::write(&stack, text).expect("written");
    fleet.join("web-1", &["role=web"], &format!("stack = \"{}\"", stack.display()));
}

/// A `[[notify]]` that tells everything at once, unless `more` says otherwise.
fn target(name: &str, kind: &str, url: &str, more: &str) -> String {
    let gap = if more.contains("gap = ") { "" } else { "gap = \"0s\"\n" };
    format!("[[notify]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{gap}{more}\n")
}

/// A mail server over TLS that takes mail of `ops` with the password `secret-1`.
struct MailServer {
    directory: tempfile::TempDir,
    port: u16,
}

impl MailServer {
    fn new() -> Self {
        let (directory, port) = (tempfile::tempdir().expect("a directory"), free_port());
        let own =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        fs::write(directory.path().join("certificate.pem"), own.cert.pem()).expect("written");
        fs::write(directory.path().join("key.pem"), own.signing_key.serialize_pem())
            .expect("written");
        fs::write(directory.path().join("password"), "secret-1\n").expect("written");
        Self { directory, port }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Its process, which writes what comes into its log.
    fn starts(&self) -> Process {
        let mut python = command(Path::new("/usr/bin/python3"));
        python.args(["-c", include_str!("../src/mail.py"), &self.port.to_string()]);
        python.args([self.path("certificate.pem"), self.path("key.pem")]);
        let log = self.directory.path().join("mails");
        let server = Process::start(python.args(["ops", "secret-1"]), &log);
        eventually("the mail server listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        server
    }

    fn target(&self, more: &str) -> String {
        let more = format!(
            "from = \"hostler@example.org\"\nto = [\"ops@example.org\"]\nusername = \"ops\"\n\
             password_file = \"{}\"\n{more}",
            self.path("password")
        );
        target("mail", "smtp", &format!("smtps://127.0.0.1:{}", self.port), &more)
    }

    /// What makes a controller trust it.
    fn trusted(&self) -> Vec<(&'static str, String)> {
        vec![("SSL_CERT_FILE", self.path("certificate.pem"))]
    }
}

#[test]
fn a_problem_and_its_end_reach_every_kind_of_receiver() {
    let (hook, slack) = (Hook::default(), Hook::default());
    let (hook_port, slack_port) = (hook.listen(), slack.listen());
    let (mail_port, alerts_port) = (free_port(), free_port());
    let directory = tempfile::tempdir().expect("a directory");
    let mails = directory.path().join("mails");
    let smtpd = ["-u", "-m", "smtpd", "-n", "-c", "DebuggingServer"];
    let mut mail = command(Path::new("/usr/bin/python3"));
    mail.args(smtpd).arg(format!("127.0.0.1:{mail_port}"));
    let mail = Process::start(&mut mail, &mails);
    let config = directory.path().join("alertmanager.yml");
    fs::write(&config, "route: { receiver: none }\nreceivers: [{ name: none }]\n")
        .expect("written");
    let mut alertmanager = command(Path::new("/usr/bin/prometheus-alertmanager"));
    alertmanager
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{alerts_port}"))
        .arg("--cluster.listen-address=");
    let alertmanager =
        Process::start(&mut alertmanager, &directory.path().join("alertmanager.log"));
    let alerts = || {
        let url = format!("http://127.0.0.1:{alerts_port}/api/v2/alerts");
        let output =
            command(Path::new("/usr/bin/curl")).args(["-fsS", &url]).output().expect("curl");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    eventually("alertmanager is there", || alerts().is_array());

    let targets = format!(
        "[[notify]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{hook_port}/x\"\ngap = \"0s\"\n\
         [[notify]]\nname = \"chat\"\nkind = \"slack\"\nurl = \"http://127.0.0.1:{slack_port}/\"\ngap = \"0s\"\n\
         template = \"<!here> {{what}} is {{status}}: {{summary}}\"\n\
         [[notify]]\nname = \"alerts\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:{alerts_port}\"\ngap = \"0s\"\n\
         [[notify]]\nname = \"mail\"\nkind = \"smtp\"\nurl = \"smtp://127.0.0.1:{mail_port}\"\ngap = \"0s\"\n\
         from = \"hostler@example.org\"\nto = [\"ops@example.org\"]\n"
    );
    let mut fleet = Fleet::new(Place::Loopback, &targets);
    let file = fleet.path("file");
    fs::write(&file, "").expect("written");
    let script =
        format!("test -e {} || {{ echo '<!channel> it is gone'; exit 1; }}", file.display());
    joins(&mut fleet, &format!("\"/bin/sh\", \"-c\", \"{script}\""), 2);
    // A label as operators may give it, and Prometheus does not take it.
    fleet.ctl(&["host", "label", "web-1", "2nd=dc"]).exits(0);
    fs::remove_file(&file).expect("removed");
    let of = |status: &'static str| {
        move |n: &Value| n["check"] == "plugin:file" && n["status"] == status
    };
    eventually("the webhook is told", || hook.has(of("warning")));
    let next = "hostlerctl plugin run file --on web-1";
    assert!(hook.has(|n| n["next"] == next && n["labels"]["role"] == "web"));
    let said = "<!here> web-1 plugin:file is warning: &lt;!channel&gt; it is gone";
    eventually("the chat is told", || slack.has(|n| n["text"] == said));
    eventually("alertmanager is told", || alerts()[0]["labels"]["check"] == "plugin:file");
    assert_eq!(alerts()[0]["labels"]["_2nd"], "dc");
    eventually("mail comes", || {
        let text = mail.log();
        text.contains("WARNING web-1 plugin:file") && text.contains("ops@example.org")
    });

    fs::write(&file, "").expect("written");
    eventually("the webhook is told of the end", || hook.has(of("ok")));
    eventually("the alert is over", || alerts().as_array().is_some_and(Vec::is_empty));
    drop(alertmanager);
}

#[test]
fn a_notice_survives_the_receiver_that_is_away_and_the_controller_that_is_killed() {
    let hook = Hook::default();
    let port = hook.listen();
    let target = format!(
        "[[notify]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\ngap = \"0s\"\n"
    );
    let mut fleet = Fleet::new(Place::Loopback, &target);
    let file = checked(&mut fleet);
    *hook.refuses.lock().expect("lock") = true;
    fs::remove_file(&file).expect("removed");
    let tried = || fleet.controller().log().contains("a notice could not be delivered yet");
    eventually("it is tried", tried);
    fleet.take_controller().kill();
    *hook.refuses.lock().expect("lock") = false;
    fleet.start_controller();
    eventually("it is delivered", || hook.has(|n| n["status"] == "warning"));
}

#[test]
fn mail_goes_over_tls_with_a_password_and_a_text_of_its_own_and_a_webhook_gets_its_token() {
    let (mail, hook) = (MailServer::new(), Hook::default());
    let server = mail.starts();
    let port = hook.listen();
    let directory = tempfile::tempdir().expect("a directory");
    let token = directory.path().join("token");
    fs::write(&token, "token-1\n").expect("written");
    let template = "template = \"{host} says {status}: {summary}\"";
    let more = format!("token_file = \"{}\"\n{template}", token.display());
    let targets = mail.target(template)
        + &target("hook", "webhook", &format!("http://127.0.0.1:{port}/"), &more);
    let mut fleet = Fleet::with(Place::Loopback, &targets, mail.trusted());
    let file = checked(&mut fleet);
    fs::remove_file(&file).expect("removed");
    eventually("the webhook is told", || hook.has(|n| n["status"] == "warning"));
    let text =
        |n: &Value| n["text"].as_str().is_some_and(|t| t.starts_with("web-1 says warning: "));
    assert!(hook.has(text), "{hook:?}");
    let tokens = hook.authorizations.lock().expect("lock").clone();
    assert!(!tokens.is_empty() && tokens.iter().all(|t| t == "Bearer token-1"), "{tokens:?}");
    eventually("mail comes", || server.log().contains("web-1 says warning: "));
    let log = server.log();
    assert!(log.contains("known ops") && !log.contains("not known"), "{log}");
    let own = fs::read_to_string(fleet.path("controller.log")).unwrap_or_default();
    assert!(!own.contains("secret-1") && !own.contains("token-1"), "{own}");
}

#[test]
fn mail_that_could_not_leave_does_so_after_a_restart_once_its_server_is_back_and_lets_it_in() {
    let mail = MailServer::new();
    let mut fleet = Fleet::with(Place::Loopback, &mail.target(""), mail.trusted());
    let file = checked(&mut fleet);
    fs::write(mail.path("password"), "wrong\n").expect("written");
    let server = mail.starts();
    fs::remove_file(&file).expect("removed");
    eventually("it is refused", || server.log().contains("not known: ops"));
    drop(server);
    fleet.take_controller().kill();
    fleet.start_controller();
    let tried = || fleet.controller().log().contains("a notice could not be delivered yet");
    eventually("it is tried while nobody is there", tried);
    fleet.take_controller().kill();
    fs::write(mail.path("password"), "secret-1\n").expect("written");
    let server = mail.starts();
    fleet.start_controller();
    eventually("mail comes", || server.log().contains("WARNING web-1 plugin:file"));
}

#[test]
fn a_check_that_flaps_is_told_once_and_shown_as_flapping_and_not_told_at_each_change() {
    let hook = Hook::default();
    let url = format!("http://127.0.0.1:{}/", hook.listen());
    let mut fleet = Fleet::new(Place::Loopback, &target("hook", "webhook", &url, ""));
    // Each run finds it otherwise than the one before.
    let file = fleet.path("file");
    let file = file.display();
    let script =
        format!("test -e {file} && rm {file} && echo there || {{ touch {file}; exit 2; }}");
    joins(&mut fleet, &format!("\"/bin/sh\", \"-c\", \"{script}\""), 1);
    let state = || {
        let health = fleet.ctl(&["health", "web-1", "-o", "json"]).json();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        let check = checks.into_iter().find(|c| c["state"]["check"] == "plugin:file");
        check.map(|c| c["state"].clone()).unwrap_or_default()
    };
    eventually("it flaps", || state()["flapping"] == true);
    let of = |n: &Value| n["check"] == "plugin:file";
    eventually("that is told", || hook.has(|n| of(n) && n["flapping"] == true));
    let shown = fleet.ctl(&["status"]).out;
    assert!(shown.contains("plugin:file") && shown.contains("flapping"), "{shown}");
    let (told, since) = (hook.count(of), state()["checked_us"].as_i64().unwrap_or(0));
    eventually("it goes on for ten seconds", || {
        state()["checked_us"].as_i64().is_some_and(|at| at - since > 10_000_000)
    });
    assert_eq!(state()["flapping"], true);
    assert_eq!(hook.count(of), told, "ten more changes are told to nobody: {hook:?}");
}

#[test]
fn a_target_with_a_gap_is_told_once_in_it_and_one_with_quiet_hours_only_of_what_is_critical() {
    let [all, seldom, quiet] = [Hook::default(), Hook::default(), Hook::default()];
    let url = |hook: &Hook| format!("http://127.0.0.1:{}/", hook.listen());
    // Hours around this one.
    let hour = |by: i64| {
        let at = SystemClock.now().as_second() + by * 3600;
        format!("{:02}:00", at.rem_euclid(86_400) / 3600)
    };
    let hours = format!("quiet = \"{}-{}\"", hour(-1), hour(3));
    let targets = target("all", "webhook", &url(&all), "")
        + &target("seldom", "webhook", &url(&seldom), "gap = \"1h\"")
        + &target("quiet", "webhook", &url(&quiet), &hours);
    let mut fleet = Fleet::new(Place::Loopback, &targets);
    let file = fleet.path("status");
    fs::write(&file, "0").expect("written");
    let script = format!("echo it is so; exit $(cat {})", file.display());
    joins(&mut fleet, &format!("\"/bin/sh\", \"-c\", \"{script}\""), 1);
    let of = |status: &'static str| {
        move |n: &Value| n["check"] == "plugin:file" && n["status"] == status
    };
    fs::write(&file, "1").expect("written");
    eventually("the warning is told", || all.has(of("warning")) && seldom.has(of("warning")));
    fs::write(&file, "0").expect("written");
    eventually("its end is told", || all.has(of("ok")));
    fs::write(&file, "2").expect("written");
    eventually("what is critical is told", || all.has(of("critical")) && quiet.has(of("critical")));
    assert_eq!(seldom.count(|_| true), 1, "{seldom:?}");
    assert!(!quiet.has(of("warning")) && !quiet.has(of("ok")), "{quiet:?}");
}
