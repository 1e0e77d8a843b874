use std::collections::BTreeMap;

use super::*;
use crate::{
    discover::{Workers, around::Heard, served::Served, tests::omnidoc},
    ops::systemd::Known,
};

/// What is said of a stack file on a host where nothing runs, or what runs there.
fn said(found: &Found, around: &Around, stack: &str) -> Vec<String> {
    found.differences(&toml::from_str(stack).expect(stack), around)
}

/// Somebody listens at these ports, at every address.
fn listening(ports: &[(u16, &str)]) -> Around {
    let at = |unit: &str| vec![Heard { address: "::".to_owned(), unit: unit.to_owned() }];
    let ports = ports.iter().map(|(port, unit)| (*port, at(unit)));
    Around { ports: Some(ports.collect()), apps: Some(BTreeSet::new()), ..Around::default() }
}

fn postgres(port: u16) -> Found {
    postgres_at("127.0.0.1", port)
}

fn postgres_at(address: &str, port: u16) -> Found {
    let (address, socket) = (address.to_owned(), "/run/postgresql".to_owned());
    let cluster = Cluster { port, address, socket };
    let of = "postgresql@15-main.service".to_owned();
    Found { postgres: [(cluster, of)].into(), ..Found::default() }
}

fn redis(address: &str) -> Found {
    let of = "redis-server.service".to_owned();
    Found { redis: [(address.to_owned(), of)].into(), ..Found::default() }
}

fn celery(apps: &[(&str, &str)]) -> Found {
    let workers = |unit: &str, app: &str| Workers {
        unit: unit.to_owned(),
        app: format!("{app}.app"),
        ..Workers::default()
    };
    let apps = apps.iter().map(|(app, unit)| ((*app).to_owned(), workers(unit, app)));
    Found { celery: apps.collect(), ..Found::default() }
}

fn pm2() -> Found {
    let home = ("/home/x/.pm2".to_owned(), "pm2-x.service".to_owned());
    Found { pm2: [home].into(), ..Found::default() }
}

fn served(port: u16, command: &str, unit: &str) -> Found {
    Found { served: [(port, Served::example(command, unit))].into(), ..Found::default() }
}

#[test]
fn a_server_is_found_in_every_form_in_which_a_url_can_name_it() {
    let around = listening(&[
        (5432, ""),
        (15999, ""),
        (6379, ""),
        (63790, ""),
        (6380, "redis-server.service"),
    ]);
    let none: &[&str] = &[];
    let cases: [(Found, &str, &[&str]); 22] = [
        (postgres(5432), "postgres://u@127.0.0.1/db", none),
        (postgres(5432), "postgres://u@localhost:5432", none),
        (postgres(15999), "postgres://u@[::1]:15999", none),
        (postgres(15999), "postgres://u@127.0.0.1:15999?sslmode=disable", none),
        (postgres(15999), "postgres://u@127.0.0.1/db?port=15999", none),
        (postgres(15999), "postgres://u@/db?host=DIR&port=15999", none),
        (
            postgres(15999),
            "postgres://u@%2Frun%2Fnone:15999/db",
            &["names the socket /run/none/.s.PGSQL.15999"],
        ),
        (
            postgres(5432),
            "postgres://u@192.0.2.7/db",
            &["PostgreSQL of postgresql@15-main.service listens on port 5432"],
        ),
        (
            postgres(5432),
            "postgres://u@127.0.0.1:15999/db",
            &["port 5432 and is not in the stack file: add a [[postgres]]"],
        ),
        (
            postgres(5432),
            "postgres://u@127.0.0.1:5433/db",
            &[
                "[[postgres]] \"a\" names port 5433 of this host, where nobody listens: start",
                "port 5432",
            ],
        ),
        (Found::default(), "postgres://u@192.0.2.7/db", none),
        (
            Found::default(),
            "postgres://u@127.0.0.1:x/db",
            &["[[postgres]] \"a\" has a url that cannot be used"],
        ),
        (redis("127.0.0.1:6379"), "redis://127.0.0.1", none),
        (redis("127.0.0.1:6379"), "redis://localhost/0", none),
        (redis("127.0.0.1:6379"), "redis://:pw@[::1]:6379/0", none),
        (
            redis("127.0.0.1:6379"),
            "redis://127.0.0.1:63790/0",
            &["listens on 127.0.0.1:6379 and is not in the stack file: add a [[redis]] with url"],
        ),
        // The same unit's port for TLS.
        (redis("127.0.0.1:6379"), "rediss://127.0.0.1:6380/0", none),
        (redis("127.0.0.1:6379"), "unix://DIR/redis.sock", none),
        (
            redis("127.0.0.1:6379"),
            "unix:///run/none",
            &["names the socket /run/none, which is not there", "listens on 127.0.0.1:6379"],
        ),
        (
            redis("127.0.0.1:6379"),
            "redis://192.0.2.7",
            &["Redis of redis-server.service listens on 127.0.0.1:6379"],
        ),
        (
            Found::default(),
            "redis://127.0.0.1:7000",
            &["[[redis]] \"a\" names port 7000 of this host, where nobody listens"],
        ),
        (Found::default(), "redis://192.0.2.7:7000", none),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    for name in [".s.PGSQL.15999", "redis.sock"] {
        fs::write(path.join(name), "").expect("written");
    }
    let holder = (path.join("redis.sock"), "redis-server.service".to_owned());
    let around = Around { sockets: [holder].into(), ..around };
    for (found, url, expected) in cases {
        let kind = if url.starts_with("postgres") { "postgres" } else { "redis" };
        let url = url.replace("DIR", &path.display().to_string());
        let told = said(&found, &around, &format!("[[{kind}]]\nname = \"a\"\nurl = \"{url}\""));
        assert_eq!(told.len(), expected.len(), "{url}: {told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{url}: {told}");
        }
        assert!(!told.iter().any(|t| t.contains("pw")), "{told:?}");
    }
}

#[test]
fn a_server_that_listens_at_one_address_is_not_taken_for_one_at_another() {
    let heard = |address: &str, unit: &str| Heard { address: address.into(), unit: unit.into() };
    let unit = "postgresql@15-main.service";
    let around =
        |heard: Vec<Heard>| Around { ports: Some([(15447, heard)].into()), ..listening(&[]) };
    let url = |place: &str| format!("[[postgres]]\nname = \"a\"\nurl = \"postgres://u@{place}\"");
    let away = around(vec![heard("127.9.1.1", unit)]);
    let found = postgres_at("127.9.1.1", 15447);
    assert_eq!(said(&found, &away, &url("127.9.1.1:15447/x")), Vec::<String>::new());
    assert_eq!(said(&found, &away, &found.to_toml()), Vec::<String>::new());
    let told = said(&found, &away, &url("127.0.0.1:15447/x"));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("15447 at 127.0.0.1, where nobody listens; somebody does at 127.9.1.1")
    );
    assert!(told[1].ends_with("url = \"postgres://hostler@127.9.1.1:15447/DATABASE\""), "{told:?}");
    let told = said(&postgres_at("", 15447), &around(Vec::new()), "");
    assert!(
        told[0].contains(" has its socket in /run/postgresql, with port 15447, and"),
        "{told:?}"
    );
    // It may listen at more than its first address; and another one at the same port.
    for (of, expected) in [(unit, 0), ("postgresql@16-other.service", 1)] {
        let both = around(vec![heard("127.9.1.1", unit), heard("127.0.0.1", of)]);
        let told = said(&found, &both, &url("127.0.0.1:15447/x"));
        assert_eq!(told.len(), expected, "{told:?}");
    }
}

#[test]
fn every_kind_of_entry_is_compared_in_both_directions() {
    let none: &[&str] = &[];
    let shop = || celery(&[("shop", "shop.service")]);
    let both = || celery(&[("shop", "shop.service"), ("mail", "mail.service")]);
    let entry = "[[celery]]\nname = \"NAME\"\nbroker = \"main\"\n";
    let named = |name: &str| entry.replace("NAME", name);
    let after = |name: &str, unit: &str| named(name) + &format!("after = [\"unit:{unit}\"]\n");
    let nginx = || Found { nginx: Some("nginx.service".into()), ..Found::default() };
    let http = |url: &str| format!("[[http]]\nname = \"site\"\nurl = \"{url}\"\n");
    let cases: Vec<(&str, Found, String, &[&str])> = vec![
        ("celery as named", shop(), named("shop"), none),
        ("celery by its unit", shop(), after("x", "shop"), none),
        ("celery by nothing", shop(), named("x"), none),
        (
            "celery of another unit",
            shop(),
            after("x", "y"),
            &[
                "[[celery]] \"x\" has no worker on this host: start one",
                "Celery workers of shop of shop.service run and are not",
            ],
        ),
        (
            "celery that is not there",
            Found::default(),
            named("shop"),
            &["[[celery]] \"shop\" has no worker"],
        ),
        (
            "a second application",
            both(),
            named("shop"),
            &["Celery workers of mail of mail.service run and are not in the stack file: add"],
        ),
        ("both", both(), named("shop") + &named("x"), none),
        ("no celery", both(), String::new(), &["of mail", "of shop"]),
        ("pm2 whatever it has", pm2(), "[pm2]".into(), none),
        ("pm2 as named", pm2(), "[pm2]\napps = [\"front\"]".into(), none),
        (
            "pm2 with another",
            pm2(),
            "[pm2]\napps = [\"back\"]".into(),
            &[
                "PM2 has front, which [pm2] does not name: add \"front\"",
                "[pm2] names back, which PM2 does not have: start it",
            ],
        ),
        (
            "pm2 not in the file",
            pm2(),
            String::new(),
            &["a PM2 daemon runs and is not in the stack file: add [pm2]"],
        ),
        (
            "no pm2",
            Found::default(),
            "[pm2]".into(),
            &["no PM2 daemon runs: start it, or remove [pm2]"],
        ),
        ("nginx", nginx(), "[nginx]".into(), none),
        (
            "nginx not in the file",
            nginx(),
            String::new(),
            &["nginx of nginx.service runs and is not in the stack file: add [nginx]"],
        ),
        (
            "no nginx",
            Found::default(),
            "[nginx]".into(),
            &["nginx does not run: start it, or remove it"],
        ),
        ("http", served(8000, "uvicorn", "app.service"), http("http://localhost:8000/docs"), none),
        ("http on another host", Found::default(), http("http://192.0.2.7:9/"), none),
        (
            "http, the usual port",
            Found::default(),
            http("https://127.0.0.1/"),
            &["[[http]] \"site\" names port 443 of this host, where nobody listens"],
        ),
        (
            "http not in the file",
            served(8000, "uvicorn", "app.service"),
            String::new(),
            &[
                "uvicorn of app.service listens on port 8000 and no [[http]] asks it: add one with url = \"http://127.0.0.1:8000/\"",
            ],
        ),
        (
            "what may speak something else",
            served(8000, "python3", "app.service"),
            String::new(),
            none,
        ),
        (
            "http of a unit that is asked at another port",
            served(8001, "nginx", "nginx.service"),
            http("http://127.0.0.1:8000/") + "after = [\"unit:nginx\"]",
            none,
        ),
    ];
    let around = listening(&[(8000, "app.service"), (8001, "nginx.service")]);
    let around = Around { apps: Some(["front".to_owned()].into()), ..around };
    for (what, found, stack, expected) in cases {
        let told = said(&found, &around, &stack);
        assert_eq!(told.len(), expected.len(), "{what}: {told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{what}: {told}");
        }
    }
}

#[test]
fn a_unit_is_known_by_every_name_and_a_job_that_has_done_its_work_is_not_missed() {
    let known = |name: &str, exists, down| Known { name: name.to_owned(), exists, down };
    let units: BTreeMap<String, Known> = [
        ("redis.service", known("redis-server.service", true, false)),
        ("backup.timer", known("backup.timer", true, false)),
        ("backup.service", known("backup.service", true, false)),
        ("app.service", known("app.service", true, true)),
        ("gone.service", known("gone.service", false, true)),
    ]
    .map(|(name, known)| (name.to_owned(), known))
    .into();
    let found = Found { units: ["redis-server.service".to_owned()].into(), ..Found::default() };
    let file = |names: &[&str]| {
        let entries = names.iter().map(|name| format!("[[unit]]\nname = \"{name}\"\n"));
        entries.collect::<String>()
    };
    let around = Around { units: Some(units), ..Around::default() };
    let well = file(&["redis", "backup.timer", "backup"]);
    assert_eq!(said(&found, &around, &well), Vec::<String>::new());
    let told = said(&found, &around, &file(&["app", "gone"]));
    assert_eq!(
        told,
        [
            "[[unit]] app.service does not run: start it (systemctl start app.service), or remove the entry",
            "[[unit]] gone.service does not exist on this host: correct its name, or remove the entry",
            "redis-server.service runs and is not in the stack file: add [[unit]] name = \"redis-server.service\"",
        ]
    );
    // Without systemd only processes tell.
    let told = said(&found, &Around::default(), &file(&["redis-server", "backup.timer", "app"]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("app.service has no process"));
}

#[test]
fn paths_are_the_same_whatever_links_lead_there_and_those_that_are_not_there_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for path in ["v2/.git", "v2/.venv", "v2/web", "v2/backups"] {
        fs::create_dir_all(at(path)).expect("made");
    }
    for path in ["v2/.venv/pyvenv.cfg", "v2/web/package.json"] {
        fs::write(at(path), "").expect("written");
    }
    std::os::unix::fs::symlink(at("v2"), at("app")).expect("linked");
    let found = Found {
        git: [at("v2")].into(),
        virtualenvs: [at("v2/.venv")].into(),
        frontends: [at("v2/web")].into(),
        backups: [at("v2/backups")].into(),
        ..Found::default()
    };
    let kinds = [
        ("git", "path", ""),
        ("virtualenv", "path", ".venv"),
        ("frontend", "path", "web"),
        ("backups", "directory", "backups"),
    ];
    let file = |base: &str| {
        let entry = |(kind, key, name): (&str, &str, &str)| {
            let path = at(base).join(name);
            format!("[[{kind}]]\nname = \"a\"\n{key} = \"{}\"\n", path.display())
        };
        kinds.map(entry).concat()
    };
    let around = Around::default();
    assert_eq!(said(&found, &around, &file("app")), Vec::<String>::new());
    let told = said(&found, &around, &file("old"));
    assert_eq!(told.len(), 8, "{told:?}");
    for (two, (kind, key, name)) in told.chunks(2).zip(kinds) {
        let (old, new) = (at("old").join(name), at("v2").join(name));
        let missing = format!("[[{kind}]] \"a\" names {}, where there is no ", old.display());
        assert!(two[0].starts_with(&missing) && two[0].contains("correct its"), "{}", two[0]);
        let new = new.display().to_string();
        let add = format!("add [[{kind}]] with {key} = \"{}\"", new.trim_end_matches('/'));
        assert!(two[1].ends_with(&add), "{}", two[1]);
    }
    let evil = Found { git: ["/opt/a\nb".into()].into(), ..Found::default() };
    assert!(!said(&evil, &around, "").concat().contains('\n'));
}

#[test]
fn of_what_runs_and_is_not_in_the_file_everything_is_told() {
    let found = omnidoc();
    let told = said(&found, &listening(&[]), "");
    // Four units, Redis, Celery, PM2 and nginx.
    assert_eq!(told.len(), 4 + 4, "{told:?}");
    let text = found.to_toml();
    let around = Around { apps: None, ..listening(&[(6379, "redis-server.service")]) };
    assert_eq!(said(&found, &around, &text), Vec::<String>::new());
}
