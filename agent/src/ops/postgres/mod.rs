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
        postgres::{Session, Trouble},
    },
    operation::Answer,
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
        Trouble::Stack(_) | Trouble::Forbidden(_) | Trouble::Slow(_) => Status::Unknown,
        _ => Status::Critical,
    };
    let next = match trouble {
        Trouble::Unreachable(_) | Trouble::Busy(_) => "systemd status postgresql",
        // Every operation on the server would need the connection that there is none of.
        Trouble::Full(_) => "journal read --unit postgresql@* --lines 50",
        _ => "",
    };
    let finding = Finding::new(status, name, &summary).why(trouble.hint()).next(next);
    Answer::ok(summary, R::default()).finding(finding).evidence("postgres", shown_url(&entry.url))
}

/// A URL without its query, which may hold more than an address.
fn shown_url(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
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
