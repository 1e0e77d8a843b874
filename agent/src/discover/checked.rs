//! The checks of what was found. Whatever somebody calls a unit or a process: the agent starts, and what
//! cannot be a check is left to the check `units`.

use std::{collections::BTreeSet, path::Path, time::Duration};

use hostler_proto::{
    args,
    catalogue::Catalogue,
    operation::{CeleryQueues, CeleryWorkers, NginxAccessReport, Operation, PostgresPing},
};

use super::Found;
use crate::{
    checks::definition::{self, Check, InvalidCheck, of_unit},
    policy::Policy,
    stack::{Redis, Stack, Unit},
};

/// How long the agent's start waits for what was found before.
const START: Duration = Duration::from_secs(3);
/// Servers of one kind on one host that are checked.
const SERVERS: usize = 100;
/// Applications of Celery that are.
const APPLICATIONS: usize = 20;

/// What is on a host, and how it is checked.
#[derive(Debug)]
pub struct Checked {
    /// What is there.
    pub stack: Stack,
    /// Its checks.
    pub checks: Vec<Check>,
    /// Names of checks of what was found that can be none.
    pub left_out: BTreeSet<String>,
}

impl Checked {
    /// Takes of what was found what can be checked.
    ///
    /// # Errors
    /// When nevertheless it makes no list of checks.
    pub fn new(
        mut found: Stack,
        policy: &Policy,
        catalogue: &Catalogue,
    ) -> Result<Self, InvalidCheck> {
        if !asks_workers(policy) {
            found.celery.clear();
        }
        if policy.operation(PostgresPing::NAME).is_err() {
            found.postgres.clear();
        }
        if policy.operation(NginxAccessReport::NAME).is_err() {
            found.nginx.iter_mut().for_each(|nginx| nginx.access_log = None);
        }
        Self::on(found, definition::has_systemd(), catalogue)
    }

    fn on(mut found: Stack, systemd: bool, catalogue: &Catalogue) -> Result<Self, InvalidCheck> {
        let can = |one: Stack| definition::checks(&one, systemd, catalogue).is_ok();
        let mut left_out = BTreeSet::new();
        let mut keep = |name: String, fits: bool| {
            if !fits {
                left_out.insert(name);
            }
            fits
        };
        let mut room = args::MAX_LIST;
        found.units.retain(|unit| {
            let alone = Stack { units: vec![unit.clone()], ..Stack::default() };
            let fits = room > 0 && can(alone);
            // The check `units` gets them all as one list.
            room -= usize::from(fits);
            keep(of_unit(&unit.name), fits)
        });
        let is_there =
            |units: &[Unit], check: &String| units.iter().any(|u| of_unit(&u.name) == *check);
        let mut names = BTreeSet::new();
        found.postgres.retain_mut(|postgres| {
            postgres.after.retain(|check| is_there(&found.units, check));
            let units = found.units.iter().filter(|u| postgres.after.contains(&of_unit(&u.name)));
            let units = units.cloned().collect();
            let alone = Stack { units, postgres: vec![postgres.clone()], ..Stack::default() };
            let fits = names.len() < SERVERS && can(alone) && names.insert(postgres.name.clone());
            keep(format!("postgres:{}", postgres.name), fits)
        });
        let mut names = BTreeSet::new();
        found.redis.retain_mut(|redis| {
            redis.after.retain(|check| is_there(&found.units, check));
            let alone = Stack { redis: vec![redis.clone()], ..Stack::default() };
            let units = found.units.iter().filter(|u| redis.after.contains(&of_unit(&u.name)));
            let alone = Stack { units: units.cloned().collect(), ..alone };
            let fits = names.len() < SERVERS && can(alone) && names.insert(redis.name.clone());
            keep(format!("redis:{}", redis.name), fits)
        });
        let mut names = BTreeSet::new();
        found.celery.retain_mut(|celery| {
            celery.after.retain(|check| is_there(&found.units, check));
            let is_broker = |redis: &&Redis| celery.broker.as_ref() == Some(&redis.name);
            let redis: Vec<Redis> = found.redis.iter().filter(is_broker).cloned().collect();
            let after: Vec<&String> =
                redis.iter().flat_map(|redis| &redis.after).chain(&celery.after).collect();
            let units = found.units.iter().filter(|unit| after.contains(&&of_unit(&unit.name)));
            let (units, celery) = (units.cloned().collect(), celery.clone());
            let name = celery.name.clone();
            let alone = Stack { units, redis, celery: vec![celery], ..Stack::default() };
            let fits = names.len() < APPLICATIONS && can(alone) && names.insert(name.clone());
            keep(format!("celery:{name}"), fits)
        });
        let checks = definition::checks(&found, systemd, catalogue)?;
        Ok(Self { stack: found, checks, left_out })
    }

    /// What the agent begins with: what was found before. Nothing is looked at, since what hangs, as a
    /// network mount whose server is gone, would keep the whole agent from starting.
    ///
    /// # Errors
    /// When not even a host on which nothing was found can be checked.
    pub async fn at_start(
        state_dir: &Path,
        policy: &Policy,
        catalogue: &Catalogue,
    ) -> Result<Self, InvalidCheck> {
        let directory = state_dir.to_owned();
        Self::beginning(move || Found::before(&directory).stack(), policy, catalogue).await
    }

    async fn beginning(
        before: impl FnOnce() -> Stack + Send + 'static,
        policy: &Policy,
        catalogue: &Catalogue,
    ) -> Result<Self, InvalidCheck> {
        let read = tokio::task::spawn_blocking(before);
        let found = match tokio::time::timeout(START, read).await {
            Ok(Ok(stack)) => stack,
            Ok(Err(_)) => {
                tracing::error!(
                    "reading what was found here before ended by a defect of the agent"
                );
                Stack::default()
            }
            Err(_) => {
                tracing::warn!(
                    "what was found here before could not be read within {} s, perhaps for a file system \
                     that hangs; it is checked once it can be",
                    START.as_secs()
                );
                Stack::default()
            }
        };
        let checked = Self::new(found, policy, catalogue).or_else(|error| {
            tracing::warn!(%error, "what was found here before cannot be checked");
            Self::new(Stack::default(), policy, catalogue)
        })?;
        checked.warn(&BTreeSet::new());
        Ok(checked)
    }

    /// Names what is left out and was not the last time.
    pub fn warn(&self, before: &BTreeSet<String>) {
        for name in self.left_out.difference(before) {
            tracing::warn!(
                name,
                "was found and can be no check: its name is too long or has other characters than a \
                 check's, or there are too many; a stack file can name it otherwise"
            );
        }
    }
}

/// Whether the host's owner lets workers of Celery be asked. What is found by itself is no reason to do what
/// a policy denies, and to be told so.
pub fn asks_workers(policy: &Policy) -> bool {
    [CeleryWorkers::NAME, CeleryQueues::NAME].iter().all(|name| policy.operation(name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::mpsc};

    use super::*;
    use crate::stack::{Celery, Nginx, Postgres};

    fn checked(units: &[&str], redis: &[(&str, &str, &str)]) -> Checked {
        let mut found = Found { units: BTreeSet::new(), ..Found::default() };
        found.at_boot = units.iter().map(|unit| (*unit).to_owned()).collect();
        let of = |(address, unit, _): &(&str, &str, &str)| ((*address).into(), (*unit).into());
        found.redis = redis.iter().map(of).collect();
        let named = redis.iter().map(|(address, _, name)| ((*address).into(), (*name).into()));
        found.redis_names = named.collect::<BTreeMap<_, _>>();
        Checked::on(found.stack(), true, Catalogue::embedded()).expect("checks")
    }

    fn names(checked: &Checked) -> Vec<&str> {
        let names = checked.checks.iter().map(|check| check.name.as_str());
        names.filter(|name| name.contains(':')).collect()
    }

    fn except(checked: &Checked) -> Vec<String> {
        checked.stack.units.iter().map(|unit| unit.name.clone()).collect()
    }

    #[test]
    fn an_escaped_name_of_a_unit_is_checked_under_one_that_a_check_can_have() {
        let unit = "openvpn-server@my\\x2dvpn.service";
        let checked = checked(&[unit], &[("127.0.0.1:6379", unit, "main")]);
        assert_eq!(names(&checked), ["redis:main", "unit:openvpn-server@my/x2dvpn"]);
        assert_eq!(checked.stack.redis[0].after, ["unit:openvpn-server@my/x2dvpn"]);
        assert_eq!((except(&checked), checked.left_out.len()), (vec![unit.to_owned()], 0));
    }

    #[test]
    fn what_can_be_no_check_is_left_out_and_everything_else_is_checked() {
        let long = format!("{}.service", "a".repeat(96));
        let checked = checked(
            &["a.service", &long, "b c.service"],
            &[
                ("127.0.0.1:6379", &long, "main"),
                ("u:secret@127.0.0.1:6380", "a.service", "secret"),
                ("a b:6381", "a.service", "a b:6381"),
                ("[::1]:6379", "a.service", "main"),
            ],
        );
        assert_eq!(names(&checked), ["redis:main", "unit:a"]);
        assert_eq!(except(&checked), ["a.service"], "`units` covers the others");
        assert_eq!(checked.left_out.len(), 5, "{:?}", checked.left_out);
    }

    #[test]
    fn an_application_of_celery_is_checked_after_its_workers_and_its_broker_is() {
        let of = |name: &str, broker: &str| {
            let unit = |name: &str| Unit { name: format!("{name}.service"), after: Vec::new() };
            let redis = Redis::at("main", "127.0.0.1:6379", 3, vec!["unit:redis".into()]);
            let after = vec!["unit:shop".to_owned(), "unit:gone".to_owned()];
            let celery = vec![Celery::over(name, broker, after)];
            let units = vec![unit("redis"), unit("shop")];
            let found = Stack { units, redis: vec![redis], celery, ..Stack::default() };
            Checked::on(found, true, Catalogue::embedded()).expect("checks")
        };
        let shop = of("shop", "main");
        let check = |name: &str| {
            let check = shop.checks.iter().find(|check| check.name.as_str() == name);
            check.map(|check| check.after.clone()).expect(name)
        };
        assert_eq!(check("celery:shop"), ["redis:main", "unit:shop"]);
        assert_eq!(check("celery-queues:shop"), ["redis:main", "unit:shop", "celery:shop"]);
        assert_eq!(shop.left_out.len(), 0);
        for (name, broker) in [("a b", "main"), ("shop", "gone")] {
            let none = of(name, broker);
            assert_eq!(names(&none), ["redis:main", "unit:redis", "unit:shop"]);
            assert_eq!(none.left_out, [format!("celery:{name}")].into());
        }
    }

    #[test]
    fn what_the_policy_denies_is_found_and_not_checked() {
        let of = |deny: &str| {
            let found = Stack {
                postgres: vec![Postgres::found("main", "postgres://h@[::1]/p".into(), Vec::new())],
                redis: vec![Redis::at("main", "127.0.0.1:6379", 0, Vec::new())],
                celery: vec![Celery::over("shop", "main", Vec::new())],
                nginx: Some(Nginx { access_log: Some("/a.log".into()), ..Nginx::default() }),
                ..Stack::default()
            };
            let policy = Policy { deny: vec![deny.to_owned()], ..Policy::default() };
            let checked = Checked::new(found, &policy, Catalogue::embedded()).expect("checks");
            let names = checked.checks.iter().map(|check| check.name.to_string());
            let own = ["redis:main", "disk", "host", "resources", "units"];
            names.filter(|name| !own.contains(&name.as_str())).collect::<Vec<_>>()
        };
        // Of a cluster that nobody is let into nothing else can be asked.
        let login = "postgres:main";
        let (celery, config) = (["celery-queues:shop", "celery:shop"], ["nginx-config"]);
        let all = [&celery[..], &config, &["nginx-requests", login]].concat();
        assert_eq!(of("disk.usage"), all);
        assert_eq!(of("celery.queues"), ["nginx-config", "nginx-requests", login]);
        assert_eq!(of("nginx.access-*"), [&celery[..], &config, &[login]].concat());
        assert_eq!(of("postgres.ping"), all[..all.len() - 1]);
    }

    #[test]
    fn more_units_than_a_list_holds_are_left_to_the_check_of_all() {
        let units: Vec<String> = (0..300).map(|n| format!("u{n:03}.service")).collect();
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        let checked = checked(&units, &[]);
        assert_eq!((names(&checked).len(), checked.left_out.len()), (256, 44));
    }

    #[tokio::test]
    async fn an_agent_starts_with_what_was_found_before() {
        let unit = Unit { name: "a.service".into(), after: Vec::new() };
        let before = Stack { units: vec![unit], ..Stack::default() };
        let checked =
            Checked::beginning(move || before, &Policy::default(), Catalogue::embedded()).await;
        assert_eq!(names(&checked.expect("checks")), ["unit:a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_starts_when_what_it_remembers_hangs() {
        let (go, gone) = mpsc::channel::<()>();
        let hangs = move || {
            let _ = gone.recv();
            Stack::default()
        };
        let starting = tokio::spawn(async move {
            Checked::beginning(hangs, &Policy::default(), Catalogue::embedded()).await
        });
        tokio::task::yield_now().await;
        tokio::time::advance(START * 2).await;
        let checked = starting.await.expect("ends").expect("checks");
        assert!(checked.checks.iter().any(|check| check.name.as_str() == "disk"));
        drop(go);
    }
}
