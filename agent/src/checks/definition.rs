//! Which checks run here: those that come by default with what the stack file names, changed as it
//! says. A list that exists can be run: every probe is known and its parameters are checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use hostler_proto::{
    args,
    catalogue::Catalogue,
    name::{CheckName, InvalidCheckName, nearest},
    operation::Operation,
    wire::Kind,
};
use prost_reflect::prost::Message;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::possible::possible;
use crate::stack::{Change, Pace, Stack, Way};

/// Shorter intervals would make a check a load.
const SHORTEST: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// More checks than this on one host are a mistake.
const MOST: usize = 500;

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name on this host.
    pub name: CheckName,
    /// The probe.
    pub operation: String,
    /// The probe's rpc.
    pub path: String,
    /// Its parameters, encoded.
    pub request: Bytes,
    /// How long one run may take.
    pub deadline: Duration,
    /// How often and how sure.
    pub pace: Pace,
    /// Checks that it needs to be well.
    pub after: Vec<String>,
}

/// Why the stack file does not make a list of checks.
#[derive(Debug, Error)]
pub enum InvalidCheck {
    /// The name cannot be one.
    #[error("the stack file: {0}")]
    Name(#[from] InvalidCheckName),
    /// Two checks have one name.
    #[error("the stack file has two checks \"{0}\"; give one of them another name")]
    Twice(String),
    /// A change of a check that does not exist.
    #[error(
        "the stack file changes check \"{name}\", which does not exist{hint}; a new check needs \
         operation = \"DOMAIN.VERB\""
    )]
    NoSuch {
        /// The name.
        name: String,
        /// The name that was probably meant.
        hint: String,
    },
    /// It needs one that does not exist.
    #[error("check \"{name}\" is after \"{after}\", which does not exist{hint}")]
    After {
        /// The check.
        name: String,
        /// What it names.
        after: String,
        /// The name that was probably meant.
        hint: String,
    },
    /// Checks that each need the next to be well, and the last the first.
    #[error("these checks each wait for the next: {0}; take one away from its after")]
    Circle(String),
    /// It cannot be run.
    #[error("check \"{name}\": {problem}")]
    Check {
        /// The check.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Too many.
    #[error("the stack file makes {0} checks; {MOST} are the most")]
    Many(usize),
}

/// A check before it was looked at closely.
struct Draft {
    operation: String,
    parameters: Map<String, Value>,
    pace: Pace,
    after: Vec<String>,
}

#[derive(Default)]
struct Drafts(BTreeMap<String, Draft>);

impl Drafts {
    fn add(
        &mut self,
        name: String,
        operation: &str,
        parameters: Value,
        pace: Pace,
        after: &[String],
    ) -> Result<(), InvalidCheck> {
        let parameters = match parameters {
            Value::Object(parameters) => parameters,
            _ => Map::new(),
        };
        let operation = operation.to_owned();
        let draft = Draft { operation, parameters, pace, after: after.to_vec() };
        match self.0.insert(name.clone(), draft) {
            None => Ok(()),
            Some(_) => Err(InvalidCheck::Twice(name)),
        }
    }

    /// Those that come by default.
    fn of(stack: &Stack, systemd: bool) -> Result<Self, InvalidCheck> {
        let mut drafts = Self::default();
        let pace = stack.defaults;
        let slow = Pace { interval: pace.interval.max(Duration::from_secs(900)), ..pace };
        let often = Pace { interval: pace.interval.max(Duration::from_secs(300)), ..pace };
        // A busy minute is no trouble; five are. They are not looked at any sooner for being busy.
        let retry = pace.retry.max(pace.interval);
        let patient = Pace { attempts: pace.attempts.max(5), retry, ..pace };
        drafts.add("disk".into(), "disk.usage", json!({}), pace, &[])?;
        if systemd {
            let except: Vec<_> = stack.units.iter().map(|unit| &unit.name).collect();
            let parameters = json!({ "except": except });
            drafts.add("units".into(), "systemd.status", parameters, pace, &[])?;
        }
        let interval = json!({ "interval-s": 2 });
        drafts.add("resources".into(), "host.resources", interval, patient, &[])?;
        drafts.add("host".into(), "host.facts", json!({}), Pace { attempts: 1, ..slow }, &[])?;
        for unit in &stack.units {
            let parameters = json!({ "unit": [unit.name] });
            drafts.add(of_unit(&unit.name), "systemd.status", parameters, pace, &unit.after)?;
        }
        for http in &stack.http {
            let mut parameters = json!({ "url": http.url });
            if !http.expect.is_empty() {
                parameters["expect"] = json!(http.expect);
            }
            if let Some(status) = http.status {
                parameters["status"] = json!(status);
            }
            let name = format!("http:{}", http.name);
            drafts.add(name, "http.check", parameters, pace, &http.after)?;
        }
        for postgres in &stack.postgres {
            let (ping, server) = (format!("postgres:{}", postgres.name), &postgres.name);
            let parameters = json!({ "server": server });
            if postgres.no_login {
                // No second look makes that any surer.
                let pace = Pace { attempts: 1, ..pace };
                drafts.add(ping, "postgres.ping", parameters, pace, &postgres.after)?;
                continue;
            }
            drafts.add(ping.clone(), "postgres.ping", parameters.clone(), pace, &postgres.after)?;
            let after = [ping];
            for (kind, operation) in
                [("connections", "postgres.connections"), ("locks", "postgres.locks")]
            {
                let name = format!("postgres-{kind}:{server}");
                drafts.add(name, operation, parameters.clone(), pace, &after)?;
            }
            // How databases grow is seen over weeks.
            let hourly = Pace { interval: pace.interval.max(HOUR), ..pace };
            let name = format!("postgres-sizes:{server}");
            drafts.add(name, "postgres.sizes", parameters, hourly, &after)?;
        }
        for redis in &stack.redis {
            let known = |name: &String| {
                *name != redis.name && stack.redis.iter().any(|other| other.name == *name)
            };
            if let Some(replica) = redis.replica.as_ref().filter(|name| !known(name)) {
                let problem =
                    format!("its replica \"{replica}\" is no other [[redis]] of this file");
                return Err(InvalidCheck::Check { name: format!("redis:{}", redis.name), problem });
            }
            let (name, parameters) =
                (format!("redis:{}", redis.name), json!({ "server": redis.name }));
            drafts.add(name, "redis.status", parameters, pace, &redis.after)?;
        }
        for celery in &stack.celery {
            let way = celery.way().map_err(|problem| {
                let (name, problem) = (format!("celery:{}", celery.name), problem.to_owned());
                InvalidCheck::Check { name, problem }
            })?;
            let parameters = json!({ "app": celery.name });
            let workers = format!("celery:{}", celery.name);
            let Way::Redis(broker) = way else {
                // Some seconds of Python each time; and the tool cannot tell what waits.
                drafts.add(workers, "celery.workers", parameters, often, &celery.after)?;
                continue;
            };
            let mut after = vec![format!("redis:{broker}")];
            after.extend(celery.after.clone());
            drafts.add(workers.clone(), "celery.workers", parameters.clone(), pace, &after)?;
            // Tasks wait where workers do not work.
            after.push(workers);
            let name = format!("celery-queues:{}", celery.name);
            drafts.add(name, "celery.queues", parameters, pace, &after)?;
        }
        if let Some(pm2) = &stack.pm2 {
            let after = units(stack, |unit| unit == "pm2" || unit.starts_with("pm2-"));
            drafts.add("pm2".into(), "pm2.status", json!({ "app": pm2.apps }), pace, &after)?;
        }
        if let Some(nginx) = &stack.nginx {
            // A configuration that is wrong is why the unit does not run, and not the other way round.
            drafts.add("nginx-config".into(), "nginx.test", json!({}), slow, &[])?;
            let after = units(stack, |unit| unit == "nginx");
            if let Some(url) = &nginx.status_url {
                drafts.add("nginx".into(), "nginx.status", json!({ "url": url }), pace, &after)?;
            }
            if let Some(path) = &nginx.access_log {
                let (name, parameters) = ("nginx-requests".to_owned(), json!({ "path": path }));
                drafts.add(name, "nginx.access-report", parameters, pace, &after)?;
            }
        }
        for logs in &stack.logs {
            let since = often.interval.as_secs() * 2;
            let parameters = json!({ "path": logs.paths, "since-s": since });
            // A line that came up is there: no second look makes that any surer.
            let pace = Pace { attempts: 1, ..often };
            drafts.add(format!("logs:{}", logs.name), "logs.errors", parameters, pace, &[])?;
        }
        for git in &stack.git {
            let parameters = json!({ "path": git.path });
            drafts.add(format!("git:{}", git.name), "git.status", parameters, slow, &[])?;
        }
        drafts.applications(stack)?;
        for plugin in &stack.plugins {
            let parameters = json!({ "name": plugin.name });
            let name = format!("plugin:{}", plugin.name);
            let program = plugin.command.first().map_or("", String::as_str);
            if !program.starts_with('/') {
                let problem = match program {
                    "" => "its command is empty".to_owned(),
                    relative => format!("its program \"{relative}\" is no absolute path"),
                };
                return Err(InvalidCheck::Check { name, problem });
            }
            drafts.add(name, "plugin.run", parameters, pace, &plugin.after)?;
        }
        Ok(drafts)
    }

    /// Those of what changes slowly: packages of applications, and backups.
    fn applications(&mut self, stack: &Stack) -> Result<(), InvalidCheck> {
        let pace = stack.defaults;
        let hourly = Pace { interval: pace.interval.max(HOUR), attempts: 1, ..pace };
        // An index that is away for a moment is nobody's problem for a whole day.
        let retry = pace.retry.max(HOUR / 4);
        let daily = Pace { interval: pace.interval.max(24 * HOUR), retry, attempts: 2 };
        for environment in &stack.virtualenvs {
            let (name, after) = (&environment.name, &environment.after);
            let parameters = json!({ "name": name });
            self.add(format!("pip:{name}"), "pip.outdated", parameters, daily, after)?;
        }
        for frontend in &stack.frontends {
            let (name, after) = (&frontend.name, &frontend.after);
            let parameters = json!({ "name": name });
            self.add(format!("pnpm:{name}"), "pnpm.outdated", parameters, daily, after)?;
        }
        for backups in &stack.backups {
            let (name, parameters) =
                (format!("backups:{}", backups.name), json!({ "name": backups.name }));
            if let Err(error) = glob::Pattern::new(&backups.pattern) {
                let problem = format!("its pattern {} cannot be read: {error}", backups.pattern);
                return Err(InvalidCheck::Check { name, problem });
            }
            self.add(name, "postgres.backups", parameters, hourly, &backups.after)?;
        }
        Ok(())
    }

    fn change(&mut self, name: &str, change: &Change, pace: Pace) -> Result<(), InvalidCheck> {
        if change.off {
            return match self.0.remove(name) {
                Some(_) => Ok(()),
                None => Err(self.no_such(name)),
            };
        }
        if let (false, Some(operation)) = (self.0.contains_key(name), &change.operation) {
            self.add(name.to_owned(), operation, json!({}), pace, &[])?;
        }
        let Some(draft) = self.0.get_mut(name) else { return Err(self.no_such(name)) };
        if let Some(operation) = &change.operation {
            draft.operation.clone_from(operation);
        }
        draft.parameters.extend(change.parameters.clone());
        draft.pace.interval = change.interval.unwrap_or(draft.pace.interval);
        draft.pace.retry = change.retry.unwrap_or(draft.pace.retry);
        draft.pace.attempts = change.attempts.unwrap_or(draft.pace.attempts);
        if let Some(after) = &change.after {
            draft.after.clone_from(after);
        }
        Ok(())
    }

    /// A circle of checks that each need the next, where there is one.
    fn circle(&self) -> Option<String> {
        // Every check that is looked at is on the way, or was found to lead to none.
        let mut done = BTreeSet::new();
        for first in self.0.keys() {
            let mut way: Vec<(&str, usize)> = vec![(first, 0)];
            while let Some((name, tried)) = way.last_mut() {
                let next = self.0.get(*name).and_then(|draft| draft.after.get(*tried));
                *tried += 1;
                let Some(next) = next else {
                    done.extend(way.pop().map(|(name, _)| name));
                    continue;
                };
                if let Some(at) = way.iter().position(|(name, _)| name == next) {
                    let names = way[at..].iter().map(|(name, _)| *name).chain([next.as_str()]);
                    return Some(names.collect::<Vec<_>>().join(" after "));
                }
                if !done.contains(next.as_str()) {
                    way.push((next, 0));
                }
            }
        }
        None
    }

    fn no_such(&self, name: &str) -> InvalidCheck {
        InvalidCheck::NoSuch { name: name.to_owned(), hint: self.hint(name) }
    }

    fn hint(&self, name: &str) -> String {
        let meant = nearest(name, self.0.keys().map(String::as_str));
        meant.map(|m| format!("; did you mean \"{m}\"?")).unwrap_or_default()
    }
}

/// The checks of units of the stack file that are called so, without their ".service".
fn units(stack: &Stack, called: impl Fn(&str) -> bool) -> Vec<String> {
    let units = stack.units.iter().filter(|unit| called(short(&unit.name)));
    units.map(|unit| of_unit(&unit.name)).collect()
}

/// The name of the check of a unit. The `\` of a unit's name, as systemd-escape(1) writes it, is a `/` in
/// a check's, where there is no `\`; no unit's name has a `/`.
pub(crate) fn of_unit(unit: &str) -> String {
    format!("unit:{}", short(unit).replace('\\', "/"))
}

fn short(unit: &str) -> &str {
    unit.strip_suffix(".service").unwrap_or(unit)
}

/// Whether systemd runs this host (sd_booted(3)).
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The checks of a stack, by name; those of units in general only where there is systemd.
///
/// # Errors
/// Names the first that cannot be run, and why.
pub fn checks(
    stack: &Stack,
    systemd: bool,
    catalogue: &Catalogue,
) -> Result<Vec<Check>, InvalidCheck> {
    possible(stack, catalogue)?;
    let mut drafts = Drafts::of(stack, systemd)?;
    for (name, change) in &stack.check {
        drafts.change(name, change, stack.defaults)?;
    }
    if drafts.0.len() > MOST {
        return Err(InvalidCheck::Many(drafts.0.len()));
    }
    for (name, draft) in &drafts.0 {
        // Switched off is not wrong: it is then simply nothing to wait for.
        let known = |n: &String| {
            drafts.0.contains_key(n) || stack.check.get(n).is_some_and(|change| change.off)
        };
        if let Some(after) = draft.after.iter().find(|n| !known(n) || *n == name) {
            let hint = drafts.hint(after);
            return Err(InvalidCheck::After { name: name.clone(), after: after.clone(), hint });
        }
    }
    if let Some(circle) = drafts.circle() {
        return Err(InvalidCheck::Circle(circle));
    }
    drafts.0.into_iter().map(|(name, draft)| check(name, draft, catalogue)).collect()
}

/// What the check of that name in a list asks of its probe; what such a check asks by default where it is
/// switched off, or runs something else.
///
/// # Errors
/// When the catalogue has no such operation, or it cannot be asked without parameters.
pub fn asked<O: Operation>(
    list: &[Check],
    name: &str,
    catalogue: &Catalogue,
) -> Result<O::Request, InvalidCheck> {
    let wrong = |problem: String| InvalidCheck::Check { name: name.to_owned(), problem };
    let own = list.iter().find(|c| c.name.as_str() == name && c.operation == O::NAME);
    let request = match own {
        Some(check) => check.request.clone(),
        None => {
            let spec = catalogue.get(O::NAME).map_err(|e| wrong(e.to_string()))?;
            let request = args::from_json(spec, &Map::new()).map_err(|e| wrong(e.to_string()))?;
            request.encode_to_vec().into()
        }
    };
    O::Request::decode(request).map_err(|e| wrong(e.to_string()))
}

fn check(name: String, draft: Draft, catalogue: &Catalogue) -> Result<Check, InvalidCheck> {
    let wrong = |problem: String| InvalidCheck::Check { name: name.clone(), problem };
    let spec = catalogue.get(&draft.operation).map_err(|e| wrong(e.to_string()))?;
    if spec.kind != Kind::Probe {
        return Err(wrong(format!("{} changes the host; a check only looks", spec.name)));
    }
    let Pace { interval, retry, attempts } = draft.pace;
    if interval < SHORTEST || retry < SHORTEST {
        return Err(wrong("interval and retry are one second at least".to_owned()));
    }
    if !(1..=100).contains(&attempts) {
        return Err(wrong("attempts is from 1 to 100".to_owned()));
    }
    let request =
        args::from_json(spec, &draft.parameters).map_err(|e| wrong(e.to_string()))?.encode_to_vec();
    Ok(Check {
        operation: spec.name.clone(),
        path: spec.path.clone(),
        request: request.into(),
        deadline: spec.deadline,
        pace: draft.pace,
        after: draft.after,
        name: name.parse()?,
    })
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
