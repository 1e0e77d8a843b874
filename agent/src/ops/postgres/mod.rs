//! PostgreSQL servers.

mod activity;
mod backups;
mod bloat;
mod connections;
mod indexes;
mod locked;
mod locks;
mod ping;
mod replication;
mod sizes;
mod slow_queries;
mod statement;

use hostler_proto::wire::{Failure, Finding, Status};

use crate::{
    host::{
        Host,
        postgres::{Session, Trouble, options, shown, whereabouts},
    },
    operation::{Answer, Unmeasured},
    stack::{Postgres, named},
};

/// The server of that name in the stack file.
fn entry<'h>(host: &'h Host, name: &str) -> Result<&'h Postgres, Failure> {
    named(&host.stack.postgres, "postgres", name, |p| &p.name)
}

/// What was found out about a server that cannot be used: how bad that is, and why.
fn unusable<R: Default>(entry: &Postgres, trouble: &Trouble) -> Answer<R> {
    let name = &entry.name;
    let summary = format!("postgres \"{name}\" {trouble}");
    let status = match trouble {
        Trouble::Stack(_)
        | Trouble::NoLogin
        | Trouble::Barred(_)
        | Trouble::Forbidden(_)
        | Trouble::Slow(_)
        | Trouble::Limited(_)
        | Trouble::Taken => Status::Unknown,
        _ => Status::Critical,
    };
    let next = match trouble {
        Trouble::Unreachable(_) | Trouble::Silent(_) => {
            format!("systemd status {}", unit(entry).unwrap_or("postgresql"))
        }
        Trouble::Hung(_) => whereabouts(entry).map(|place| place.whose()).unwrap_or_default(),
        // On a full server every operation would need the connection that there is none of.
        Trouble::Busy(_) | Trouble::Full(_) => log(entry),
        _ => String::new(),
    };
    let finding = Finding::new(status, name, &summary).why(trouble.hint()).next(next);
    let answer = Answer::unmeasured(finding).evidence("postgres", place(&entry.url));
    let why = match trouble {
        Trouble::Unreachable(_) => Unmeasured::Away,
        Trouble::Silent(_) => Unmeasured::Silent,
        Trouble::Hung(_) => Unmeasured::Hung,
        _ => Unmeasured::Otherwise,
    };
    Answer { unmeasured: Some(why), ..answer }
}

/// The same of what changes slowly, and is seldom looked at: nothing is known of it. How bad it is that the
/// server cannot be used ping says, and takes it back sooner.
fn unseen<R: Default>(entry: &Postgres, trouble: &Trouble) -> Answer<R> {
    let mut answer = unusable(entry, trouble);
    answer.status = Status::Unknown;
    answer.findings.iter_mut().for_each(|finding| finding.set_status(Status::Unknown));
    answer
}

/// The unit that the server runs in, where the stack file names it among what it needs.
fn unit(entry: &Postgres) -> Option<&str> {
    let mut units = entry.after.iter().filter_map(|after| after.strip_prefix("unit:"));
    let first = units.clone().next();
    units.find(|unit| unit.contains("postgres")).or(first)
}

/// The operation that shows what the server logs; without its unit nobody can tell, and which that is, the
/// port tells, or at a socket the list of units.
fn log(entry: &Postgres) -> String {
    let whose = || whereabouts(entry).map(|place| place.whose()).filter(|next| !next.is_empty());
    match unit(entry) {
        Some(unit) => format!("journal read --unit {unit} --lines 50"),
        None => whose().unwrap_or_else(|| "systemd status postgresql".to_owned()),
    }
}

/// Where the server of a URL is, which may hold more than that; nothing of one that cannot be read, since
/// nobody knows what stands where in it.
fn place(url: &str) -> String {
    options(url).map_or_else(|_| "a url that cannot be read".to_owned(), |read| shown(&read))
}

/// Ends the session, and adds what the server was really asked.
async fn done<R>(answer: Answer<R>, session: Session) -> Answer<R> {
    // What could not be measured tells its place already.
    let answer = match answer.evidence.is_empty() {
        true => answer.evidence("postgres", &session.place),
        false => answer,
    };
    let answer = session.asked.iter().fold(answer, |answer, sql| answer.evidence("sql", sql));
    session.close().await;
    answer.unknown_first()
}

/// Adds that the role sees only a part, where it does: what is not seen is not well.
fn partial<R>(answer: Answer<R>, session: &Session) -> Answer<R> {
    match session.sees_all {
        true => answer,
        false => answer.finding(
            Finding::new(
                Status::Unknown,
                "visibility",
                "the agent's role sees only its own sessions",
            )
            .why("it lacks pg_monitor: GRANT pg_monitor TO the role of the stack file"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::{args, catalogue::Catalogue};

    use super::*;

    fn entry(after: &[&str]) -> Postgres {
        Postgres {
            name: "main".into(),
            url: "postgres://hostler@127.0.0.1/app".into(),
            password_file: None,
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            no_login: false,
        }
    }

    #[test]
    fn what_to_look_at_next_is_the_unit_that_the_stack_file_names() {
        let named = entry(&["check:network", "unit:docker", "unit:postgresql@15-main"]);
        assert_eq!(log(&named), "journal read --unit postgresql@15-main --lines 50");
        let spec = Catalogue::embedded().get("journal.read").expect("journal.read");
        args::from_text(spec, [("unit", "postgresql@15-main")]).expect("it can be typed");
        let status = |entry: &Postgres, trouble: &Trouble| {
            unusable::<hostler_proto::ops::PostgresPing>(entry, trouble).findings[0].next.clone()
        };
        let gone = Trouble::Unreachable("refused".into());
        assert_eq!(status(&named, &gone), "systemd status postgresql@15-main");
        let unnamed = entry(&[]);
        assert_eq!(status(&unnamed, &gone), "systemd status postgresql");
        let hung = Trouble::Hung("it said nothing".into());
        assert_eq!(status(&unnamed, &hung), "net port-owner 5432");
        let url = "postgres://hostler@localhost/app?host=/run/postgresql&port=5433".to_owned();
        let socket = Postgres { url, ..entry(&[]) };
        assert_eq!(status(&socket, &hung), "", "no port leads to a socket");
        let full = Trouble::Full("sorry".into());
        assert_eq!(status(&named, &full), "journal read --unit postgresql@15-main --lines 50");
        assert_eq!(status(&unnamed, &full), "net port-owner 5432", "that tells its unit");
        assert_eq!(status(&socket, &full), "systemd status postgresql");
    }

    #[test]
    fn of_a_server_that_cannot_be_used_only_its_place_is_told() {
        let told = |url: &str| {
            let server = Postgres { url: url.to_owned(), ..entry(&[]) };
            let gone = Trouble::Unreachable("refused".into());
            unusable::<hostler_proto::ops::PostgresPing>(&server, &gone).evidence[0].what.clone()
        };
        let place = "127.0.0.1:5433, database app";
        assert_eq!(told("postgres://me:hunter2@127.0.0.1:5433/app?password=hunter2"), place);
        assert_eq!(told("postgres://me:hun/ter2@127.0.0.1/app"), "a url that cannot be read");
    }

    #[test]
    fn what_may_not_be_seen_is_unknown_with_what_to_grant() {
        let of = |trouble| unusable::<hostler_proto::ops::PostgresPing>(&entry(&[]), &trouble);
        let forbidden = of(Trouble::Forbidden("permission denied for view v".into()));
        assert_eq!(forbidden.status, Status::Unknown);
        assert!(forbidden.findings[0].why.contains("pg_monitor"), "{forbidden:?}");
        assert_eq!(of(Trouble::NoLogin).status, Status::Unknown);
        let barred = of(Trouble::Barred("permission denied for database \"app\"".into()));
        assert_eq!(barred.status, Status::Unknown);
        assert!(barred.findings[0].why.contains("GRANT CONNECT"), "{barred:?}");
        let away = Trouble::Unreachable("refused".into());
        let away = unseen::<hostler_proto::ops::PostgresSizes>(&entry(&[]), &away);
        assert_eq!((away.status, away.findings[0].status()), (Status::Unknown, Status::Unknown));
        assert_eq!(away.unmeasured, Some(Unmeasured::Away));
    }

    #[test]
    fn a_limit_of_the_role_is_no_full_server_and_nothing_measured_is_no_zero() {
        let of = |trouble| unusable::<hostler_proto::ops::PostgresPing>(&entry(&[]), &trouble);
        let limited = of(Trouble::Limited("too many connections for role \"hostler\"".into()));
        assert_eq!(
            (limited.status, limited.unmeasured),
            (Status::Unknown, Some(Unmeasured::Otherwise))
        );
        assert!(limited.findings[0].why.contains("CONNECTION LIMIT"));
        let full = of(Trouble::Full("sorry, too many clients already".into()));
        assert_eq!((full.status, full.unmeasured), (Status::Critical, Some(Unmeasured::Otherwise)));
    }
}
