//! Notices, to real receivers.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, command, eventually},
};
use serde_json::Value;

/// A web server that keeps what is posted to it, and refuses for as long as it is told to.
#[derive(Clone, Default)]
struct Hook {
    bodies: Arc<Mutex<Vec<Value>>>,
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
        self.bodies.lock().expect("lock").iter().any(fits)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// A host with a check that is well as long as a file exists, whatever else is with this machine.
fn checked(fleet: &mut Fleet) -> std::path::PathBuf {
    let (file, stack) = (fleet.path("file"), fleet.path("stack.toml"));
    fs::write(&file, "").expect("written");
    let text = format!(
        "[defaults]\ninterval = \"1s\"\nretry = \"1s\"\nattempts = 2\n[[plugin]]\nname = \"file\"\n\
         command = [\"/usr/bin/test\", \"-e\", \"{}\"]\n\
         [check]\ndisk = {{ off = true }}\nresources = {{ off = true }}\n",
        file.display()
    );
    fs::write(&stack, text).expect("written");
    fleet.join("web-1", &["role=web"], &format!("stack = \"{}\"", stack.display()));
    file
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
         template = \"{{what}} is {{status}}\"\n\
         [[notify]]\nname = \"alerts\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:{alerts_port}\"\ngap = \"0s\"\n\
         [[notify]]\nname = \"mail\"\nkind = \"smtp\"\nurl = \"smtp://127.0.0.1:{mail_port}\"\ngap = \"0s\"\n\
         from = \"hostler@example.org\"\nto = [\"ops@example.org\"]\n"
    );
    let mut fleet = Fleet::new(Place::Loopback, &targets);
    let file = checked(&mut fleet);
    fs::remove_file(&file).expect("removed");
    let of = |status: &'static str| {
        move |n: &Value| n["check"] == "plugin:file" && n["status"] == status
    };
    eventually("the webhook is told", || hook.has(of("warning")));
    let next = "hostlerctl plugin run file --on web-1";
    assert!(hook.has(|n| n["next"] == next && n["labels"]["role"] == "web"));
    eventually("the chat is told", || slack.has(|n| n["text"] == "web-1 plugin:file is warning"));
    eventually("alertmanager is told", || alerts()[0]["labels"]["check"] == "plugin:file");
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
