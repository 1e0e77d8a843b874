//! What a host without a stack file is to be checked for: what runs there, and what ran there before and
//! still starts at boot. Without that a service that did not come up would be no problem of anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use hostler_core::durable;
use serde::{Deserialize, Serialize};

use super::{
    Found, access_log, bracketed,
    brokers::{self, Broker},
    clusters::{self, Cluster},
    is_service, redis_name,
};
use crate::{
    checks::definition::of_unit,
    stack::{Celery, Nginx, Pm2, Postgres, Redis, Stack, Unit},
};

/// Where systemd is told what starts at boot (systemd.unit(5)).
const UNITS: [&str; 8] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/run/systemd/generator.early",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What is remembered of what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    units: BTreeSet<String>,
    /// Clusters of PostgreSQL, with the unit.
    clusters: Vec<(Cluster, String)>,
    redis: BTreeMap<String, String>,
    /// How they are called here: a check keeps its name, whatever is found beside it.
    redis_names: BTreeMap<String, String>,
    /// Homes of PM2 daemons, with the unit.
    daemons: BTreeMap<String, String>,
    /// The unit of nginx.
    proxy: Option<String>,
    /// Its requests stand where they can be read.
    requests: bool,
    /// Workers of Celery whose broker is certain.
    brokers: BTreeSet<Broker>,
}

impl Found {
    /// What was found before and still starts at boot. Reads nothing but the agent's state and what systemd
    /// was told.
    pub fn before(state_dir: &Path) -> Self {
        Self::default().with_remembered(state_dir)
    }

    /// This, with what was found before and still starts at boot.
    #[must_use]
    pub fn with_remembered(mut self, state_dir: &Path) -> Self {
        self.remember(read(&path(state_dir)), &starts_at_boot);
        self
    }

    /// Keeps it in mind.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        save(&path(state_dir), &self.remembered())
    }

    /// What a host without a stack file is checked for: what needs no password and no choice, and what
    /// starts at boot. What somebody started by hand may end.
    pub fn stack(&self) -> Stack {
        let unit = |name: &String| Unit { name: name.clone(), after: Vec::new() };
        // One in a container or started by hand is not this host's to judge.
        let own = |unit: &String| self.at_boot.contains(unit);
        let pm2 = self.pm2.values().any(own).then(|| Pm2 { apps: Vec::new() });
        // Its configuration can be tested by root alone, and that of no other program.
        let root = rustix::process::geteuid().is_root() && self.tested != Some(false);
        let nginx = (root && self.nginx.as_ref().is_some_and(own)).then(|| Nginx {
            status_url: None,
            access_log: (self.requests == Some(true)).then(|| access_log::STANDARD.to_owned()),
        });
        let name = |address: &str| {
            self.redis_names.get(address).cloned().unwrap_or_else(|| address.to_owned())
        };
        let brokers = self.brokers.iter().filter(|b| own(&b.unit) && own(&b.served_by));
        let applications = brokers::certain(brokers.filter(|b| self.serves(b)));
        let after = |unit: &String| is_service(unit).then(|| of_unit(unit)).into_iter().collect();
        let postgres: Vec<_> = self.postgres.iter().filter(|(_, unit)| own(unit)).collect();
        let postgres = clusters::named(postgres.into_iter()).map(|(name, cluster, unit)| {
            Postgres::found(&name, cluster.url("postgres"), after(unit))
        });
        let redis = self.redis.iter().filter(|(_, unit)| own(unit));
        let redis = redis.map(|(address, unit)| {
            let after = after(unit);
            let of = applications.iter().find(|application| application.server == address);
            // No check is called by its database: it stays the same when a broker is found there.
            Redis::at(&name(address), address, of.map_or(0, |application| application.db), after)
        });
        let celery = applications.iter().map(|application| {
            let after = application.units.iter().map(|unit| of_unit(unit)).collect();
            Celery::over(application.name, &name(application.server), after)
        });
        Stack {
            units: self.at_boot.iter().map(unit).collect(),
            postgres: postgres.collect(),
            redis: redis.collect(),
            celery: celery.collect(),
            pm2,
            nginx,
            ..Stack::default()
        }
    }

    fn remember(&mut self, before: Remembered, starts: &dyn Fn(&str) -> bool) {
        self.at_boot = self.units.iter().chain(&before.units).cloned().collect();
        // One that was taken for a service once may be the system's own.
        self.at_boot.retain(|unit| is_service(unit) && starts(unit));
        self.units.extend(before.units.into_iter().filter(|u| is_service(u) && starts(u)));
        // What somebody started by hand meanwhile stands in for the one that starts at boot.
        let by_hand = |now: Option<&String>| now.is_none_or(|unit| !starts(unit));
        let up: BTreeSet<String> = self.postgres.values().cloned().collect();
        for (cluster, unit) in before.clusters {
            if starts(&unit) && !up.contains(&unit) && by_hand(self.postgres.get(&cluster)) {
                self.postgres.insert(cluster, unit);
            }
        }
        let up: BTreeSet<String> = self.redis.values().cloned().collect();
        for (address, unit) in before.redis {
            let address = bracketed(&address);
            // One that is up at another address has moved.
            if starts(&unit) && !up.contains(&unit) && by_hand(self.redis.get(&address)) {
                self.redis.insert(address, unit);
            }
        }
        // Another server has other workers.
        let stays = |b: &Broker| starts(&b.unit) && self.serves(b);
        self.brokers = before.brokers.into_iter().filter(stays).collect();
        let own = self.redis.iter().filter(|(_, unit)| self.at_boot.contains(*unit));
        let own: Vec<&String> = own.map(|(address, _)| address).collect();
        let name = |address: &String| {
            let known = before.redis_names.get(address).cloned();
            known.unwrap_or_else(|| redis_name(address, own.len() == 1))
        };
        self.redis_names = own.iter().map(|address| ((*address).clone(), name(address))).collect();
        if before.proxy.as_deref().is_some_and(starts) && by_hand(self.nginx.as_ref()) {
            // What runs in its place tells nothing of it.
            (self.nginx, self.tested) = (before.proxy, None);
        }
        // While it is down, and in the moment after a rotation, nothing tells.
        self.requests = self.requests.or(Some(before.requests));
        for (home, unit) in before.daemons {
            if starts(&unit) && by_hand(self.pm2.get(&home)) {
                self.pm2.insert(home, unit);
            }
        }
    }

    /// Whether the server of a broker is the one that it was.
    fn serves(&self, broker: &Broker) -> bool {
        self.redis.get(&broker.server) == Some(&broker.served_by)
    }

    fn remembered(&self) -> Remembered {
        Remembered {
            units: self.units.clone(),
            clusters: self.postgres.iter().map(|(c, unit)| (c.clone(), unit.clone())).collect(),
            redis: self.redis.clone(),
            redis_names: self.redis_names.clone(),
            daemons: self.pm2.clone(),
            // While it is down nobody can tell which program it was.
            proxy: self.nginx.clone().filter(|_| self.tested != Some(false)),
            requests: self.requests == Some(true),
            brokers: self.brokers.clone(),
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("found.json")
}

/// Nothing when there is nothing that can be used.
fn read(path: &Path) -> Remembered {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn save(path: &Path, found: &Remembered) -> io::Result<()> {
    if read(path) == *found {
        return Ok(());
    }
    durable::replace(path, &serde_json::to_vec(found).map_err(io::Error::other)?)
}

/// Whether something that starts at boot wants that unit.
fn starts_at_boot(unit: &str) -> bool {
    wanted(&UNITS.map(Path::new), unit)
}

fn wanted(directories: &[&Path], unit: &str) -> bool {
    let entries = directories.iter().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten();
    let lists = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end))
    });
    // A link that leads nowhere is one of a unit that was removed.
    let mut links = lists.map(|list| list.path().join(unit));
    !unit.is_empty() && !unit.contains('/') && links.any(|link| link.exists())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::discover::tests;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn cluster(port: u16) -> Cluster {
        Cluster { port, address: "localhost".into(), socket: "/run/postgresql".into() }
    }

    #[test]
    fn a_cluster_is_known_until_it_moves_and_nobody_said_how_it_is_asked() {
        let unit = "postgresql@15-main.service";
        let look = |port: u16, before: &Found| {
            let postgres = [(cluster(port), unit.to_owned())].into();
            let mut found = Found { postgres, units: set(&[unit]), ..Found::default() };
            found.remember(before.remembered(), &|_| true);
            found
        };
        let moved = look(5433, &look(5432, &Found::default()));
        let stack = moved.stack();
        assert_eq!(stack.postgres.len(), 1, "{stack:?}");
        let found = &stack.postgres[0];
        assert_eq!((found.name.as_str(), found.no_login), ("main", true));
        assert_eq!(found.url, "postgres://hostler@127.0.0.1:5433/postgres");
        assert_eq!(found.after, ["unit:postgresql@15-main"]);
        let mut by_hand = Found { postgres: moved.postgres, ..Found::default() };
        by_hand.remember(Remembered::default(), &|_| false);
        assert_eq!(by_hand.stack().postgres.len(), 0);
    }

    #[test]
    fn what_did_not_come_up_is_still_checked_when_it_starts_at_boot() {
        let before = Remembered {
            units: set(&[
                "app.service",
                "gone.service",
                "pm2-x.service",
                "postgresql@15-main.service",
            ]),
            clusters: vec![(cluster(5432), "postgresql@15-main.service".to_owned())],
            redis: [("127.0.0.1:6379".to_owned(), "redis-server.service".to_owned())].into(),
            daemons: [("/home/x/.pm2".to_owned(), "pm2-x.service".to_owned())].into(),
            proxy: Some("nginx.service".to_owned()),
            ..Remembered::default()
        };
        let starts = |unit: &str| !["gone.service", "adhoc.service"].contains(&unit);
        let mut found = Found { units: set(&["db.service", "adhoc.service"]), ..Found::default() };
        found.remember(before, &starts);
        let all = [
            "adhoc.service",
            "app.service",
            "db.service",
            "pm2-x.service",
            "postgresql@15-main.service",
        ];
        assert_eq!(found.units, set(&all));
        assert!(found.nginx.is_some() && found.redis.contains_key("127.0.0.1:6379"));
        assert_eq!(found.pm2["/home/x/.pm2"], "pm2-x.service");
        let stack = found.stack();
        assert_eq!(stack.postgres.len(), 1);
        assert!(stack.pm2.is_some());
        let units: Vec<_> = stack.units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(units, all[1..], "nobody starts adhoc");
    }

    /// A look at Redis servers, with what the one before kept in mind.
    fn look(servers: &[(&str, &str)], before: &Found) -> Found {
        let lines: Vec<(&str, String)> = servers
            .iter()
            .map(|(unit, address)| (*unit, format!("/usr/bin/redis-server {address}")))
            .collect();
        let lines: Vec<(&str, &str)> = lines.iter().map(|(u, line)| (*u, line.as_str())).collect();
        let mut found = tests::found(&lines);
        found.remember(before.remembered(), &|unit| unit.ends_with(".service"));
        found
    }

    fn servers(found: &Found) -> Vec<(String, String)> {
        found.stack().redis.into_iter().map(|redis| (redis.name, redis.url)).collect()
    }

    fn server(name: &str, address: &str) -> (String, String) {
        (name.to_owned(), format!("redis://{address}/0"))
    }

    #[test]
    fn a_redis_server_keeps_its_name_whatever_is_found_beside_it() {
        let (first, second) = (("a.service", "127.0.0.1:6379"), ("b.service", "127.0.0.1:6380"));
        let one = look(&[first, ("docker-1.scope", "*:7000")], &Found::default());
        assert_eq!(
            servers(&one),
            [server("main", first.1)],
            "what is in a container does not count"
        );
        let two = look(&[first, second], &one);
        assert_eq!(servers(&two), [server("main", first.1), server("127.0.0.1:6380", second.1)]);
        assert_eq!(servers(&look(&[second], &two)), servers(&two), "the first is to come back");
        let both = look(&[first, second], &Found::default());
        assert_eq!(
            servers(&both),
            [server("127.0.0.1:6379", first.1), server("127.0.0.1:6380", second.1)]
        );
        let third = look(&[("c.service", "::1:6379")], &both);
        assert!(servers(&third).contains(&server("::1:6379", "[::1]:6379")));
        let before = Remembered {
            units: set(&["c.service"]),
            redis: [("::1:6379".to_owned(), "c.service".to_owned())].into(),
            ..Remembered::default()
        };
        let mut down = Found::default();
        down.remember(before, &|_| true);
        assert_eq!(servers(&down), [server("main", "[::1]:6379")], "kept by an older agent");
    }

    #[test]
    fn a_redis_server_that_is_up_at_another_address_is_not_missed_at_its_former_one() {
        let before = look(&[("a.service", "127.0.0.1:6379")], &Found::default());
        let after = look(&[("a.service", "127.0.0.1:6380")], &before);
        assert_eq!(servers(&after), [server("main", "127.0.0.1:6380")]);
    }

    /// Applications with their brokers, the databases of those, and what they are after.
    fn applications(found: &Found) -> Vec<(String, String, Vec<String>)> {
        let stack = found.stack();
        let url = |broker: Option<String>| {
            let of = stack.redis.iter().find(|redis| Some(&redis.name) == broker.as_ref());
            of.map(|redis| redis.url.clone()).unwrap_or_default()
        };
        stack
            .celery
            .iter()
            .map(|c| (c.name.clone(), url(c.broker.clone()), c.after.clone()))
            .collect()
    }

    #[test]
    fn workers_that_are_down_have_their_broker_still_until_they_start_at_boot_no_more() {
        let server = ("redis.service", "127.0.0.1:6379");
        let broker = |app: &str, unit: &str| Broker {
            app: app.to_owned(),
            name: app.to_owned(),
            unit: unit.to_owned(),
            server: server.1.to_owned(),
            served_by: server.0.to_owned(),
            db: 3,
        };
        let mut up = look(&[server], &Found::default());
        assert_eq!(servers(&up), [(String::from("main"), "redis://127.0.0.1:6379/0".into())]);
        up.brokers = [broker("shop", "shop.service"), broker("wiki", "session-1.scope")].into();
        up.units.insert("shop.service".into());
        let up = look(&[server], &up);
        let shop = || {
            let after = vec!["unit:shop".to_owned()];
            vec![("shop".to_owned(), "redis://127.0.0.1:6379/3".to_owned(), after)]
        };
        assert_eq!(applications(&up), shop(), "the check of the server is called as before");
        assert_eq!(up.stack().redis[0].name, "main");
        let directory = tempfile::tempdir().expect("a directory");
        up.save(directory.path()).expect("saved");
        let before = read(&path(directory.path()));
        let mut down = Found::default();
        down.remember(before.clone(), &|unit| unit.ends_with(".service"));
        assert_eq!(applications(&down), shop(), "neither came up");

        let mut disabled = Found::default();
        disabled.remember(before.clone(), &|unit| unit == server.0);
        assert_eq!((applications(&disabled), disabled.stack().redis.len()), (vec![], 1));
        for other in [("other.service", server.1), (server.0, "127.0.0.1:6380")] {
            let mut found = tests::found(&[(other.0, &format!("redis-server {}", other.1))]);
            let old = if other.0 == server.0 { "" } else { server.0 };
            found.remember(before.clone(), &|unit| unit.ends_with(".service") && unit != old);
            assert_eq!(applications(&found), [], "another server: {other:?}");
        }
    }

    #[test]
    fn what_runs_in_no_unit_that_starts_at_boot_is_not_judged() {
        let look = |unit: &str| {
            let mut found = tests::found(&[
                (unit, "nginx: master process /usr/sbin/nginx"),
                (unit, &format!("PM2 v7.0.4: God Daemon ({})", tests::HOME)),
            ]);
            assert_eq!((found.pm2.len(), found.nginx.as_deref()), (1, Some(unit)));
            found.remember(Remembered::default(), &|unit| unit == "web.service");
            found
        };
        let judged = |found: &Found| {
            let stack = found.stack();
            (stack.pm2.is_some(), stack.nginx.is_some())
        };
        let root = rustix::process::geteuid().is_root();
        assert_eq!(judged(&look("web.service")), (true, root));
        for unit in ["session-1.scope", "docker-1.scope", "other.service", ""] {
            assert_eq!(judged(&look(unit)), (false, false), "{unit}");
        }
        let mut other = look("web.service");
        other.tested = Some(false);
        assert_eq!(judged(&other), (true, false), "nginx.test would look at another program");
        let mut down = Found::default();
        down.remember(other.remembered(), &|unit| unit == "web.service");
        assert_eq!(down.nginx, None, "nor while it is down");
        let mut read = look("web.service");
        let log = |found: &Found| found.stack().nginx.and_then(|nginx| nginx.access_log);
        assert_eq!(log(&read), None);
        read.requests = Some(true);
        let standard = root.then(|| access_log::STANDARD.to_owned());
        assert_eq!(log(&read), standard);
        for (told, still) in [(None, true), (Some(false), false)] {
            let mut later = look("web.service");
            later.requests = told;
            later.remember(read.remembered(), &|unit| unit == "web.service");
            assert_eq!(log(&later), standard.clone().filter(|_| still), "{told:?}");
        }
        // Started anew by hand it is still the one that is to come back at boot.
        let mut by_hand = look("session-1.scope");
        by_hand.remember(look("web.service").remembered(), &|unit| unit == "web.service");
        assert_eq!(judged(&by_hand), (true, root));
    }

    #[test]
    fn what_is_remembered_is_read_again_and_what_was_spoilt_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = path(directory.path());
        assert_eq!(read(&file), Remembered::default());
        let found = Remembered { units: set(&["a.service"]), ..Default::default() };
        save(&file, &found).expect("saved");
        assert_eq!(read(&file), found);
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // As an older agent wrote it, which did not know the units of all.
        fs::write(&file, r#"{"units":["a.service"],"pm2":["/x"],"nginx":true}"#).expect("written");
        assert_eq!(read(&file), found);
        fs::write(&file, "{").expect("written");
        assert_eq!(read(&file), Remembered::default());
    }

    #[test]
    fn a_unit_starts_at_boot_when_a_link_that_leads_somewhere_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let wants = directory.path().join("multi-user.target.wants");
        fs::create_dir(&wants).expect("created");
        fs::write(directory.path().join("a.service"), "").expect("written");
        symlink("../a.service", wants.join("a.service")).expect("linked");
        symlink("../b.service", wants.join("b.service")).expect("linked");
        let starts = |unit: &str| wanted(&[directory.path()], unit);
        assert!(starts("a.service"));
        assert!(!starts("b.service") && !starts("c.service") && !starts(""));
    }
}
