//! What a diagnosis is about: units, and what the stack file names, called by its own name, by that of its
//! kind, or by that of one of its checks.

use hostler_proto::{
    name::nearest,
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
    let mut found = Vec::new();
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

/// What a check of the stack file looks at; none where its kind is none, as in the name of a unit.
fn checked(stack: &Stack, kind: &str, name: &str) -> Result<Option<Target>, Failure> {
    // Without a name `named` takes the only entry.
    let name = if name.is_empty() { ":" } else { name };
    let own = |name: &str| Some(name.to_owned());
    Ok(Some(match kind {
        "unit" => Target::Unit(full_name(name)),
        "http" => Target::Http(named(&stack.http, "http", name, |h| &h.name)?.name.clone()),
        "postgres" | "postgres-connections" | "postgres-locks" | "postgres-sizes" => {
            Target::Postgres(own(&named(&stack.postgres, "postgres", name, |p| &p.name)?.name))
        }
        "redis" => Target::Redis(own(&named(&stack.redis, "redis", name, |r| &r.name)?.name)),
        "celery" | "celery-queues" => {
            Target::Celery(own(&named(&stack.celery, "celery", name, |c| &c.name)?.name))
        }
        _ if ONE_LOOK.contains(&kind) => {
            let message = format!("there is nothing to follow behind the check {kind}:{name}");
            return Err(Failure::new(ErrorCode::InvalidArgument, message)
                .hint("hostlerctl health HOST shows what it found"));
        }
        _ if stack.check.contains_key(&format!("{kind}:{name}")) => {
            let message = format!(
                "{kind}:{name} is a check of the stack file's own: nothing is known behind it"
            );
            return Err(Failure::new(ErrorCode::InvalidArgument, message)
                .hint("hostlerctl health HOST shows what it found"));
        }
        _ => match nearest(kind, KINDS) {
            Some(meant) => {
                let message = format!("there is no check {kind}:{name}");
                return Err(Failure::new(ErrorCode::NotFound, message)
                    .hint(format!("did you mean {meant}:{name}?")));
            }
            None => return Ok(None),
        },
    }))
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
            [[http]]\nname = \"backend\"\nurl = \"\"\n[check.\"my:own\"]\noperation = \"disk.usage\"\n";
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
            ("postgres", vec![Target::Postgres(None)]),
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
        for check in ["git:app", "my:own"] {
            assert!(said(check).contains("hostlerctl health HOST"), "{}", said(check));
        }
    }
}
