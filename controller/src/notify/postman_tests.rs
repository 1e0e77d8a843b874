//! What a target hears, of real turns, by a receiver that can refuse and be slow.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use hostler_core::clock::{Clock, FixedClock};
use hostler_proto::wire::{CheckState, Finding, HealthReport, Turn};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    health::{Fleet, silence::Acknowledgement},
    notify::send::Sender,
    store::{Change, NewHost, Store, TokenRow},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A web server that keeps what is posted to it, and answers with a status; with 0 never.
#[derive(Clone)]
struct Hook {
    bodies: Arc<Mutex<Vec<Value>>>,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicU16>,
    url: String,
}

impl Hook {
    async fn listen(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (bodies, asked) = Default::default();
        let hook = Self { bodies, status: Arc::new(status.into()), asked, url };
        let answering = hook.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hook = answering.clone();
                tokio::spawn(async move { hook.answer(stream).await });
            }
        });
        hook
    }

    async fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line).await.is_ok_and(|n| n > 2) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await.expect("a body");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let status = self.status.load(Ordering::Relaxed);
        if status == 0 {
            std::future::pending::<()>().await;
        }
        if status == 200 {
            let body = serde_json::from_slice(&body).expect("json");
            self.bodies.lock().expect("lock").push(body);
        }
        let answer =
            format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes()).await.expect("answered");
    }

    /// What came since the last look.
    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.bodies.lock().expect("lock"))
    }

    /// The same of a webhook, in short.
    fn told(&self) -> Vec<String> {
        let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        self.take()
            .iter()
            .map(|b| format!("{} {}", word(&b["check"]), word(&b["status"])))
            .collect()
    }
}

/// A controller's part that tells, with the host web-1.
struct Scene {
    notifier: Notifier,
    clock: FixedClock,
    turns: u64,
    url: String,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn new(targets: &[(&str, &str, &Hook)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}", dir.path().join("store.sqlite").display());
        let names = targets.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let store = Store::open(&url).await.expect("store").telling(names);
        let clock = FixedClock::at("2026-11-26T12:00:00Z".parse().expect("time"));
        let now = clock.now().as_microsecond();
        let token = TokenRow {
            id: "t".into(),
            host: String::new(),
            labels: BTreeMap::new(),
            created_us: 1,
            expires_us: i64::MAX,
            uses_left: 1,
            created_by: "operator/admin".into(),
            replace: false,
        };
        store.create_token(&token, &[7; 32]).await.expect("created");
        let new = NewHost {
            name: host("web-1"),
            labels: BTreeMap::new(),
            machine_id: "m".into(),
            key: "k".into(),
            certificate_until_us: i64::MAX,
            replace: false,
        };
        store.enroll("t", new, now).await.expect("enrolled");
        store.change_connections(&[linked(now)]).await.expect("linked");
        let target = |(name, kind, hook): &(&str, &str, &Hook)| {
            let url = &hook.url;
            let text =
                format!("name = \"{name}\"\nkind = \"{kind}\"\nurl = \"{url}\"\ngap = \"0s\"");
            toml::from_str(&text).expect("a target")
        };
        let notifier = Notifier {
            targets: targets.iter().map(target).collect(),
            store,
            health: Fleet::default(),
            clock: Arc::new(clock.clone()),
            sender: Sender::new().expect("a sender"),
        };
        Self { notifier, clock, turns: 0, url, _dir: dir }
    }

    fn postman(&self) -> Postman {
        Postman::new(self.notifier.targets[0].clone(), self.notifier.clone())
    }

    /// The agent tells that these are all its checks; what is hard has turned to it.
    async fn tell(&mut self, checks: Vec<CheckState>) {
        let now = self.clock.now().as_microsecond();
        let known = self.notifier.health.host(&host("web-1")).unwrap_or_default();
        let mut turns = Vec::new();
        for state in &checks {
            let was = known.checks.get(&state.check).map_or(Status::Ok, |s| s.hard(now));
            if was == state.hard() {
                continue;
            }
            self.turns += 1;
            turns.push(Turn {
                number: self.turns,
                check: state.check.clone(),
                was: was.into(),
                became: state.hard,
                hard: true,
                flapping: state.flapping,
                at_us: now,
                summary: "said".into(),
            });
        }
        let report = HealthReport {
            memory: "m".into(),
            checks,
            whole: true,
            turns,
            now_us: now,
            ..HealthReport::default()
        };
        if let Some(news) = self.notifier.health.hear(&host("web-1"), report, now) {
            self.notifier.store.record_health(&[news]).await.expect("written");
        }
    }

    /// How many notices wait.
    async fn waiting(&self) -> usize {
        let name = &self.notifier.targets[0].name;
        self.notifier.store.due_notices(name, i64::MAX, 9999).await.expect("read").len()
    }

    /// Does something to the store beside the controller.
    async fn meddle(&self, text: &str) {
        use sqlx::{Connection as _, Executor as _};
        let mut store = sqlx::AnyConnection::connect(&self.url).await.expect("the store");
        store.execute(text).await.expect(text);
    }

    /// A check that was looked at now.
    fn check(&self, name: &str, hard: Status, after: &[&str]) -> CheckState {
        let now = self.clock.now().as_microsecond();
        CheckState {
            check: name.into(),
            status: hard.into(),
            hard: hard.into(),
            since_us: now,
            checked_us: now,
            interval_s: 3600,
            after: after.iter().map(|a| (*a).to_owned()).collect(),
            ..CheckState::default()
        }
    }
}

/// The link of web-1 stands.
fn linked(at_us: i64) -> Change {
    Change::Up {
        host: host("web-1"),
        address: "10.0.0.1:1".into(),
        hello: Box::default(),
        certificate_until_us: i64::MAX,
        left: Left::No,
        silent: false,
        at_us,
    }
}

const FULL: &str = "CREATE TRIGGER a BEFORE DELETE ON notices BEGIN SELECT RAISE(ABORT, 'full'); END; \
                    CREATE TRIGGER b BEFORE INSERT ON told BEGIN SELECT RAISE(ABORT, 'full'); END";
const FREE: &str = "DROP TRIGGER a; DROP TRIGGER b";

async fn round(postman: &mut Postman) -> Duration {
    postman.round(&CancellationToken::new()).await.expect("the store")
}

#[tokio::test]
async fn a_check_that_is_taken_away_is_told_to_be_over_and_told_anew_when_it_comes_again() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk critical"]);
    scene.tell(vec![]).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk ok"]);
    scene.clock.advance(MINUTE);
    scene.tell(vec![scene.check("disk", Status::Ok, &[])]).await;
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk critical"]);
}

#[tokio::test]
async fn what_follows_is_told_with_its_cause_and_alone_when_it_outlasts_that() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    let of = |scene: &Scene, unit, http| {
        vec![scene.check("unit", unit, &[]), scene.check("http", http, &["unit"])]
    };
    scene.tell(of(&scene, Status::Ok, Status::Ok)).await;
    scene.clock.advance(MINUTE);
    let mut seen_first = of(&scene, Status::Ok, Status::Critical);
    seen_first[0].checked_us -= 30_000_000;
    scene.tell(seen_first).await;
    round(&mut postman).await;
    assert!(hook.take().is_empty(), "nobody looked at the unit yet");
    scene.clock.advance(MINUTE);
    scene.tell(of(&scene, Status::Critical, Status::Critical)).await;
    round(&mut postman).await;
    let told = hook.take();
    assert_eq!((told.len(), &told[0]["check"]), (1, &"unit".into()));
    assert_eq!(told[0]["follows"][0], "http");
    scene.clock.advance(10 * MINUTE);
    scene.tell(of(&scene, Status::Ok, Status::Critical)).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["unit ok"], "what follows may take a moment");
    scene.clock.advance(3 * MINUTE);
    round(&mut postman).await;
    assert_eq!(hook.told(), ["http critical"]);
}

#[tokio::test]
async fn one_that_changes_again_and_again_is_told_once_and_so_is_that_it_no_longer_does() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    for n in 0..14 {
        for hard in [Status::Critical, Status::Ok] {
            scene.clock.advance(MINUTE);
            let disk = CheckState { flapping: n >= 2, ..scene.check("disk", hard, &[]) };
            scene.tell(vec![disk]).await;
            round(&mut postman).await;
        }
    }
    let told = hook.take();
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!((&told[4]["flapping"], &told[4]["status"]), (&true.into(), &"critical".into()));
    scene.clock.advance(MINUTE);
    scene.tell(vec![scene.check("disk", Status::Ok, &[])]).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk ok"]);
}

#[tokio::test]
async fn a_notice_is_given_up_a_day_after_its_first_attempt_and_not_after_one() {
    let hook = Hook::listen(503).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    scene.clock.advance(30 * 60 * MINUTE);
    assert!(round(&mut postman).await > BEAT, "the receiver is left alone for a while");
    let left = |scene: &Scene| {
        let store = scene.notifier.store.clone();
        async move { store.due_notices("ops", i64::MAX, 9).await.expect("read").len() }
    };
    assert_eq!(left(&scene).await, 1);
    for _ in 0..150 {
        scene.clock.advance(11 * MINUTE);
        round(&mut postman).await;
    }
    assert_eq!(left(&scene).await, 0);
}

#[tokio::test]
async fn what_happens_in_the_night_is_told_once_in_the_morning_and_after_its_gap() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let quiet = "name = \"x\"\nkind = \"webhook\"\nurl = \"http://x\"\nquiet = \"22:00-06:00\"";
    let quiet: Target = toml::from_str(quiet).expect("a target");
    scene.notifier.targets[0].quiet = quiet.quiet;
    scene.notifier.targets[0].gap = 30 * MINUTE;
    let mut postman = scene.postman();
    // From noon to 23:00.
    scene.clock.advance(11 * 60 * MINUTE);
    scene.tell(vec![scene.check("disk", Status::Warning, &[])]).await;
    for _ in 0..6 {
        round(&mut postman).await;
        assert!(hook.take().is_empty(), "it is night");
        scene.clock.advance(60 * MINUTE);
    }
    scene.clock.advance(2 * 60 * MINUTE);
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk warning"]);
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    scene.clock.advance(10 * MINUTE);
    round(&mut postman).await;
    assert!(hook.take().is_empty(), "the gap is not over");
    scene.clock.advance(21 * MINUTE);
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk critical"]);
}

#[tokio::test]
async fn a_problem_that_somebody_knew_of_is_told_when_that_expires() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    let now = scene.clock.now().as_microsecond();
    let hour_us = i64::try_from((60 * MINUTE).as_micros()).expect("an hour");
    let given = Acknowledgement {
        host: "web-1".into(),
        check: "disk".into(),
        at_us: now + 1,
        severity: 3,
        expires_us: Some(now + hour_us),
        made_by: "eve".into(),
        comment: "on it".into(),
    };
    scene.notifier.store.acknowledge(&given).await.expect("written");
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    for _ in 0..6 {
        round(&mut postman).await;
        assert!(hook.take().is_empty(), "somebody knows");
        scene.clock.advance(9 * MINUTE);
    }
    scene.clock.advance(20 * MINUTE);
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk critical"]);
}

#[tokio::test]
async fn a_notice_of_a_check_says_what_its_problem_says_to_type_next() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    let of = |status, next: &str| Finding::new(status, "x", "x").next(next);
    let findings =
        vec![of(Status::Warning, "disk usage"), of(Status::Critical, "logs tail /opt/*.log")];
    let logs = CheckState { findings, ..scene.check("logs", Status::Critical, &[]) };
    scene.tell(vec![logs]).await;
    round(&mut postman).await;
    assert_eq!(hook.take()[0]["next"], "hostlerctl logs tail '/opt/*.log' --on web-1");
    let row = scene.notifier.store.host(&host("web-1")).await.expect("read").expect("there");
    let notice = NoticeRow {
        id: "n".into(),
        target: "ops".into(),
        host: host("web-1"),
        check: String::new(),
        was: Status::Ok,
        became: Status::Critical,
        flapping: false,
        at_us: 1,
        attempts: 0,
        failed_us: 0,
        summary: "it fell silent".into(),
    };
    assert_eq!(postman.message(&notice, &row, None, 2).next, "hostlerctl host show web-1");
}

#[tokio::test]
async fn alertmanager_is_told_again_of_what_goes_on_and_of_nothing_else() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("alerts", "alertmanager", &hook)]).await;
    let mut postman = scene.postman();
    let both = vec![
        scene.check("disk", Status::Critical, &[]),
        scene.check("units", Status::Warning, &[]),
    ];
    scene.tell(both).await;
    round(&mut postman).await;
    hook.take();
    scene.clock.advance(3 * MINUTE);
    round(&mut postman).await;
    let again = hook.take();
    assert_eq!((again.len(), again[0].as_array().map(Vec::len)), (1, Some(2)));
    assert_eq!(again[0][0]["startsAt"], "2026-11-26T12:00:00Z");
    assert_eq!(again[0][0]["endsAt"], "2026-11-26T12:13:00Z");
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    round(&mut postman).await;
    let ended = hook.take();
    assert_eq!(
        (&ended[0][0]["labels"]["check"], &ended[0][0]["endsAt"]),
        (&"units".into(), &"2026-11-26T12:03:00Z".into())
    );
    scene.clock.advance(3 * MINUTE);
    round(&mut postman).await;
    assert_eq!(hook.take()[0].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn one_that_never_answers_holds_up_neither_the_others_nor_the_end_of_the_controller() {
    let (hangs, well) = (Hook::listen(0).await, Hook::listen(200).await);
    let mut scene = Scene::new(&[("hangs", "webhook", &hangs), ("well", "webhook", &well)]).await;
    let five: Vec<_> =
        (0..5).map(|n| scene.check(&format!("c{n}"), Status::Critical, &[])).collect();
    scene.tell(five).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(scene.notifier.clone().run(stop.clone()));
    let told = async {
        while well.bodies.lock().expect("lock").len() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("the other is told");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(2), running).await.expect("it ends").expect("well");
    let store = &scene.notifier.store;
    assert_eq!(store.due_notices("hangs", i64::MAX, 9).await.expect("read").len(), 5);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_told_once_and_written_down_later() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    let both = |s: &Scene| {
        vec![s.check("disk", Status::Critical, &[]), s.check("units", Status::Critical, &[])]
    };
    scene.tell(both(&scene)).await;
    scene.meddle(FULL).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["disk critical", "units critical"]);
    for _ in 0..3 {
        scene.clock.advance(Duration::from_secs(1));
        round(&mut postman).await;
    }
    assert_eq!(hook.told(), [""; 0], "each is told once");
    assert_eq!(scene.waiting().await, 2);
    scene.meddle(FREE).await;
    // One is over before that it was told is written down.
    let checks =
        vec![scene.check("disk", Status::Ok, &[]), scene.check("units", Status::Critical, &[])];
    scene.tell(checks).await;
    scene.clock.advance(MINUTE);
    round(&mut postman).await;
    assert_eq!((scene.waiting().await, hook.told()), (0, vec!["disk ok".to_owned()]));
    let well = vec![scene.check("disk", Status::Ok, &[]), scene.check("units", Status::Ok, &[])];
    scene.tell(well).await;
    round(&mut postman).await;
    assert_eq!(hook.told(), ["units ok"]);
}

#[tokio::test]
async fn the_end_of_a_problem_is_told_to_one_that_heard_of_it_and_did_not_say_so() {
    let hook = Hook::listen(0).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    // The controller is stopped while it waits for the answer.
    let stop = CancellationToken::new();
    let mut postman = scene.postman();
    let asked = hook.clone();
    let stopping = async {
        while asked.asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(postman.round(&stop), stopping);
    assert_eq!(ended.expect("the store"), Duration::ZERO);
    scene.clock.advance(MINUTE);
    scene.tell(vec![scene.check("disk", Status::Ok, &[])]).await;
    hook.status.store(200, Ordering::Relaxed);
    round(&mut scene.postman()).await;
    assert_eq!(hook.told(), ["disk ok"]);
    assert_eq!(scene.waiting().await, 0);
}

#[tokio::test]
async fn the_end_of_a_problem_is_not_told_to_one_that_refused_to_hear_of_it() {
    let hook = Hook::listen(503).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    round(&mut postman).await;
    hook.status.store(200, Ordering::Relaxed);
    scene.clock.advance(MINUTE);
    scene.tell(vec![scene.check("disk", Status::Ok, &[])]).await;
    assert_eq!(scene.waiting().await, 0, "nobody heard of it");
    round(&mut postman).await;
    assert_eq!(hook.told(), [""; 0]);
}

#[tokio::test]
async fn many_notices_that_are_not_told_take_one_round_after_the_other_at_once() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("ops", "webhook", &hook)]).await;
    scene.notifier.targets[0].on = Some("role=none".parse().expect("a selector"));
    let many: Vec<_> =
        (0..450).map(|n| scene.check(&format!("c{n}"), Status::Critical, &[])).collect();
    scene.tell(many).await;
    let mut postman = scene.postman();
    let mut waits = Vec::new();
    for _ in 0..3 {
        waits.push(round(&mut postman).await);
    }
    assert_eq!(waits, [Duration::ZERO, Duration::ZERO, BEAT]);
    assert_eq!((scene.waiting().await, hook.told().len()), (0, 0));
}

fn host(name: &str) -> HostName {
    name.parse().expect("name")
}

#[path = "away_tests.rs"]
mod away;
