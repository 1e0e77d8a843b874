//! What a diagnosis is about: units, and what the stack file names, called by its own name, by that of its
//! kind, or by that of one of its checks.

use hostler_proto::{
    name::nearest,
    operation::{DiskUsage, HostDiagnose, HostResources, Operation as _},
    wire::{ErrorCode, Failure},
};

use crate::{
    ops::systemd::full_name,
    stack::{Stack, named},
};

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Unit(String),
    /// A server; every one of them without a name.
    Postgres(Option<String>),
    Redis(Option<String>),
    /// An application of Celery; every one of them without a name.
    Celery(Option<String>),
    Http(String),
    Pm2,
    Nginx,
    /// A check that the stack file has beside those that come by default.
    Own(String),
    /// Disks, processors and memory, which are looked at in any case.
    Machine,
    Everything,
}

/// Kinds of checks behind which there is nothing to follow: each is one look of its own.
const ONE_LOOK: [&str; 6] = ["git", "logs", "pip", "pnpm", "backups", "plugin"];

/// What is meant by a name.
///
/// # Errors
/// When it is the name of a check that there is not, or behind which there is nothing to follow.
pub(super) fn targets(stack: &Stack, service: &str) -> Result<Vec<Target>, Failure> {
    if service.is_empty() {
        return Ok(vec![Target::Everything]);
    }
    if let Some((kind, name)) = service.split_once(':')
        && let Some(target) = checked(stack, kind, name)?
    {
        return Ok(vec![target]);
    }
    let mut found: Vec<Target> = own_check(stack, service)?.into_iter().collect();
    let mut add = |is: bool, target: Target| found.extend(is.then_some(target));
    let own = || Some(service.to_owned());
    match service {
        "postgres" if !stack.postgres.is_empty() => add(true, Target::Postgres(None)),
        _ => add(stack.postgres.iter().any(|p| p.name == service), Target::Postgres(own())),
    }
    match service {
        "redis" if !stack.redis.is_empty() => add(true, Target::Redis(None)),
        _ => add(stack.redis.iter().any(|r| r.name == service), Target::Redis(own())),
    }
    match service {
        "celery" if !stack.celery.is_empty() => add(true, Target::Celery(None)),
        _ => add(stack.celery.iter().any(|c| c.name == service), Target::Celery(own())),
    }
    add(stack.http.iter().any(|h| h.name == service), Target::Http(service.to_owned()));
    add(service == "pm2" && stack.pm2.is_some(), Target::Pm2);
    let nginx = ["nginx", "nginx-config", "nginx-requests"];
    add(nginx.contains(&service) && stack.nginx.is_some(), Target::Nginx);
    add(["disk", "resources", "host"].contains(&service), Target::Machine);
    add(service == "units", Target::Everything);
    let unit = full_name(service);
    let there = stack.units.iter().any(|u| full_name(&u.name) == unit);
    if (there || found.is_empty()) && !found.contains(&Target::Nginx) {
        found.push(Target::Unit(unit));
    }
    Ok(found)
}

fn refused(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, message)
        .hint("hostlerctl health HOST shows what it found")
}

/// What a check looks at that the stack file says an operation of; none where it says none.
fn own_check(stack: &Stack, check: &str) -> Result<Option<Target>, Failure> {
    let operation = stack.check.get(check).and_then(|change| change.operation.as_deref());
    match operation {
        // It would ask for itself, and so for ever.
        Some(HostDiagnose::NAME) => Err(refused(format!(
            "the check {check} is a diagnosis itself: there is nothing behind it"
        ))),
        Some(DiskUsage::NAME) => Ok(Some(Target::Machine)),
        Some(HostResources::NAME) if check == "resources" => Ok(Some(Target::Machine)),
        Some(_) => Ok(Some(Target::Own(check.to_owned()))),
        None => Ok(None),
    }
}

/// What a check of the stack file looks at; none where its kind is none, as in the name of a unit.
fn checked(stack: &Stack, kind: &str, name: &str) -> Result<Option<Target>, Failure> {
    let check = format!("{kind}:{name}");
    // It may be called like one that comes by default.
    let own = own_check(stack, &check);
    match followed(stack, kind, name) {
        Some(Err(failure)) => own?.map_or(Err(failure), |own| Ok(Some(own))),
        Some(target) => target.map(Some),
        None if !matches!(own, Ok(None)) => own,
        None if ONE_LOOK.contains(&kind) => {
            Err(refused(format!("there is nothing to follow behind the check {check}")))
        }
        None => match nearest(kind, KINDS) {
            Some(meant) => {
                let message = format!("there is no check {check}");
                Err(Failure::new(ErrorCode::NotFound, message)
                    .hint(format!("did you mean {meant}:{name}?")))
            }
            None => Ok(None),
        },
    }
}

/// What the check of an entry of the stack file looks at, and that there is no such entry; none for a kind
/// that is not followed.
fn followed(stack: &Stack, kind: &str, name: &str) -> Option<Result<Target, Failure>> {
    // Without a name `named` takes the only entry.
    let name = if name.is_empty() { ":" } else { name };
    Some(match kind {
        "unit" => Ok(Target::Unit(full_name(name))),
        "http" => {
            named(&stack.http, "http", name, |h| &h.name).map(|h| Target::Http(h.name.clone()))
        }
        "postgres" | "postgres-connections" | "postgres-locks" | "postgres-sizes" => {
            let server = named(&stack.postgres, "postgres", name, |p| &p.name);
            server.map(|p| Target::Postgres(Some(p.name.clone())))
        }
        "redis" => {
            let server = named(&stack.redis, "redis", name, |r| &r.name);
            server.map(|r| Target::Redis(Some(r.name.clone())))
        }
        "celery" | "celery-queues" => {
            let app = named(&stack.celery, "celery", name, |c| &c.name);
            app.map(|c| Target::Celery(Some(c.name.clone())))
        }
        _ => return None,
    })
}

/// Kinds that are followed.
const KINDS: [&str; 5] = ["unit", "http", "postgres", "redis", "celery"];

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        let text = "[[unit]]\nname = \"shop.service\"\n[[unit]]\nname = \"nginx\"\n[pm2]\n[nginx]\n\
            [[postgres]]\nname = \"main\"\nurl = \"\"\n[[postgres]]\nname = \"second\"\nurl = \"\"\n\
            [[redis]]\nname = \"broker\"\nurl = \"\"\n[[redis]]\nname = \"main\"\nurl = \"\"\n\
            [[celery]]\nname = \"app\"\nbroker = \"broker\"\n[[celery]]\nname = \"shop\"\nbroker = \"main\"\n\
            [[http]]\nname = \"backend\"\nurl = \"\"\n[check.\"my:own\"]\noperation = \"apt.upgrades\"\n\
            [check.packages]\noperation = \"apt.upgrades\"\n[check.data-disk]\noperation = \"disk.usage\"\n\
            [check.all]\noperation = \"host.diagnose\"\n[check.postgres]\noperation = \"plugin.run\"\n\
            [check.\"http:own\"]\noperation = \"http.check\"\n\
            [check.\"redis:own\"]\noperation = \"redis.status\"\n\
            [check.\"http:backend\"]\noperation = \"http.check\"\n";
        toml::from_str(text).expect("a stack file")
    }

    #[test]
    fn a_name_is_that_of_a_check_a_server_an_application_or_a_unit() {
        let own = |name: &str| Some(name.to_owned());
        let unit = |name: &str| Target::Unit(name.to_owned());
        for (service, expected) in [
            ("", vec![Target::Everything]),
            ("main", vec![Target::Postgres(own("main")), Target::Redis(own("main"))]),
            ("second", vec![Target::Postgres(own("second"))]),
            ("postgres", vec![Target::Own("postgres".to_owned()), Target::Postgres(None)]),
            ("packages", vec![Target::Own("packages".to_owned())]),
            ("my:own", vec![Target::Own("my:own".to_owned())]),
            ("http:own", vec![Target::Own("http:own".to_owned())]),
            ("redis:own", vec![Target::Own("redis:own".to_owned())]),
            ("data-disk", vec![Target::Machine]),
            ("redis", vec![Target::Redis(None)]),
            ("redis:broker", vec![Target::Redis(own("broker"))]),
            ("postgres:main", vec![Target::Postgres(own("main"))]),
            ("postgres-locks:second", vec![Target::Postgres(own("second"))]),
            ("http:backend", vec![Target::Http("backend".to_owned())]),
            ("backend", vec![Target::Http("backend".to_owned())]),
            ("celery:app", vec![Target::Celery(own("app"))]),
            ("celery-queues:app", vec![Target::Celery(own("app"))]),
            ("app", vec![Target::Celery(own("app"))]),
            ("celery", vec![Target::Celery(None)]),
            ("shop", vec![Target::Celery(own("shop")), unit("shop.service")]),
            ("shop.service", vec![unit("shop.service")]),
            ("unit:shop", vec![unit("shop.service")]),
            ("other", vec![unit("other.service")]),
            ("a:b", vec![unit("a:b.service")]),
            ("pm2", vec![Target::Pm2]),
            ("nginx", vec![Target::Nginx]),
            ("nginx-config", vec![Target::Nginx]),
            ("disk", vec![Target::Machine]),
            ("units", vec![Target::Everything]),
        ] {
            assert_eq!(targets(&stack(), service).expect(service), expected, "{service}");
        }
        // Where the stack file names none, it is a unit's name.
        let none = Stack::default();
        assert_eq!(targets(&none, "redis").expect("a unit"), [unit("redis.service")]);
        assert_eq!(targets(&none, "nginx").expect("a unit"), [unit("nginx.service")]);
    }

    #[test]
    fn a_check_that_there_is_not_or_that_is_one_look_is_refused_with_what_to_do() {
        let said = |service: &str| {
            let failure = targets(&stack(), service).expect_err(service);
            format!("{}; {}", failure.message, failure.hint)
        };
        assert!(said("redis:brokr").contains("did you mean \"broker\"?"));
        assert!(said("http:").contains("has no [[http]]"));
        assert!(said("redi:main").contains("did you mean redis:main?"));
        for check in ["git:app", "all"] {
            assert!(said(check).contains("hostlerctl health HOST"), "{}", said(check));
        }
        let changed = Target::Http("backend".to_owned());
        assert_eq!(targets(&stack(), "http:backend").expect("an endpoint"), [changed]);
    }
}
