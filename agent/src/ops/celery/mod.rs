//! Celery workers, through their Redis broker.

mod active;
mod local;
mod pidbox;
mod queues;
mod scheduled;
mod stats;
mod workers;

use std::{sync::Arc, time::Duration};

use hostler_proto::wire::Failure;
use serde_json::Value;

use self::pidbox::Mailbox;
use crate::{
    host::{
        Host,
        redis::{Server, Trouble},
    },
    stack::{Celery, Redis, named},
};

/// The application of that name in the stack file, and its broker.
fn entry<'h>(host: &'h Host, name: &str) -> Result<(&'h Celery, &'h Redis), Failure> {
    let app = named(&host.stack.celery, "celery", name, |c| &c.name)?;
    let broker = named(&host.stack.redis, "redis", &app.broker, |r| &r.name)?;
    Ok((app, broker))
}

/// An application whose broker answers.
struct App<'h> {
    name: &'h str,
    broker: &'h str,
    entry: &'h Celery,
    mailbox: Mailbox,
}

impl<'h> App<'h> {
    async fn connect(host: &'h Host, name: &str) -> Result<Self, Failure> {
        let (entry, broker) = entry(host, name)?;
        let server = Server::connect(broker).await.map_err(|t| t.failure(&broker.name))?;
        let mailbox = Mailbox::new(server, &entry.exchange, Arc::clone(&host.clock));
        Ok(Self { name: &entry.name, broker: &broker.name, entry, mailbox })
    }

    fn failed(&self, trouble: &Trouble) -> Failure {
        trouble.failure(self.broker)
    }
}

fn millis(number: u32) -> Duration {
    Duration::from_millis(number.into())
}

/// A text of a worker's answer.
fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
