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

use super::home::{DISCOVER, Home};
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
    let why = match trouble {
        Trouble::Unreachable(_) => Unmeasured::Away,
        Trouble::Silent(_) => Unmeasured::Silent,
        Trouble::Hung(_) => Unmeasured::Hung,
        _ => Unmeasured::Otherwise,
    };
    let answer = Answer::unmeasured(found(entry, trouble)).evidence("postgres", place(&entry.url));
    Answer { unmeasured: Some(why), ..answer }
}

/// What is said of it.
fn found(entry: &Postgres, trouble: &Trouble) -> Finding {
    let status = match trouble {
        Trouble::Stack(_)
        | Trouble::NoLogin
        | Trouble::Barred(_)
        | Trouble::Pooler(_)
        | Trouble::Forbidden(_)
        | Trouble::Slow(_)
        | Trouble::Limited(_)
        | Trouble::Taken => Status::Unknown,
        _ => Status::Critical,
    };
    let next = match trouble {
        Trouble::Unreachable(_) | Trouble::Silent(_) => home(entry).status(),
        Trouble::Hung(_) => home(entry).whose(),
        // On a full server every operation would need the connection that there is none of.
        Trouble::Busy(_) | Trouble::Full(_) => home(entry).log(),
        Trouble::NoLogin => DISCOVER.to_owned(),
        _ => String::new(),
    };
    let name = &entry.name;
    let summary = format!("postgres \"{name}\" {trouble}");
    Finding::new(status, name, summary).why(trouble.hint()).next(next)
}

/// The same of what changes slowly, and is seldom looked at: nothing is known of it. How bad it is that the
/// server cannot be used ping says, and takes it back sooner.
fn unseen<R: Default>(entry: &Postgres, trouble: &Trouble) -> Answer<R> {
    let mut answer = unusable(entry, trouble);
    answer.status = Status::Unknown;
    answer.findings.iter_mut().for_each(|finding| finding.set_status(Status::Unknown));
    answer
}

/// Where the server runs.
fn home(entry: &Postgres) -> Home<'_> {
    Home::of(&entry.after, &["postgres"], "postgresql", whereabouts(entry))
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
    fn what_to_look_at_next_depends_on_what_is_wrong() {
        let named = entry(&["check:network", "unit:docker", "unit:postgresql@15-main"]);
        let next = |entry: &Postgres, trouble: &Trouble| found(entry, trouble).next;
        let gone = Trouble::Unreachable("refused".into());
        assert_eq!(next(&named, &gone), "systemd status postgresql@15-main");
        let unnamed = entry(&[]);
        assert_eq!(next(&unnamed, &gone), "systemd status postgresql");
        let hung = Trouble::Hung("it said nothing".into());
        assert_eq!(next(&unnamed, &hung), "net port-owner 5432");
        let url = "postgres://hostler@localhost/app?host=/run/postgresql&port=5433".to_owned();
        let socket = Postgres { url, ..entry(&[]) };
        assert_eq!(next(&socket, &hung), "", "no port leads to a socket");
        let full = Trouble::Full("sorry".into());
        assert_eq!(next(&named, &full), "journal read --unit postgresql@15-main --lines 50");
        assert_eq!(next(&unnamed, &full), "net port-owner 5432", "that tells its unit");
        assert_eq!(next(&socket, &full), "systemd status postgresql");
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_critical_and_a_pooler_in_between_is_unknown() {
        let of = |trouble| found(&entry(&[]), &trouble);
        let untrusted = of(Trouble::Untrusted("invalid peer certificate: Expired".into()));
        assert_eq!(untrusted.status(), Status::Critical, "others refuse it as well");
        assert!(untrusted.why.contains("sslrootcert") && untrusted.next.is_empty());
        let pooler = of(Trouble::Pooler("unsupported startup parameter: options".into()));
        assert_eq!(pooler.status(), Status::Unknown);
        assert!(pooler.why.contains("ignore_startup_parameters"), "{pooler:?}");
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
        let login = of(Trouble::NoLogin);
        assert_eq!(login.status, Status::Unknown);
        assert_eq!(login.findings[0].next, DISCOVER);
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
