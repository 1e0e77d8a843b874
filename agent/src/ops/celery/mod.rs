//! Celery workers, through their Redis broker or by Celery's own tool.

mod active;
mod limited;
mod local;
mod pidbox;
mod queues;
mod scheduled;
mod silence;
mod stats;
mod tool;
mod workers;

use std::{sync::Arc, time::Duration};

use hostler_proto::wire::{Evidence, Failure};
use serde_json::{Value, json};

pub(crate) use self::pidbox::is_broker;
use self::{
    pidbox::{Answers, Mailbox},
    tool::Tool,
};
use crate::{
    host::{
        Host,
        redis::{Server, Trouble, whereabouts},
    },
    operation::{Answer, Context},
    stack::{Celery, Way, named},
};

/// An application of the stack file, and the way to its workers.
enum App<'h> {
    Redis(Box<Broker<'h>>),
    Tool(Tool<'h>),
}

/// An application whose broker is a Redis that answers.
struct Broker<'h> {
    name: &'h str,
    broker: &'h str,
    entry: &'h Celery,
    mailbox: Mailbox,
}

impl<'h> App<'h> {
    async fn connect(cx: &'h Context, name: &str) -> Result<Self, Failure> {
        let host: &Host = &cx.host;
        let entry = named(&host.stack.celery, "celery", name, |c| &c.name)?;
        let wrong = |problem: &str| {
            let message = format!("celery \"{}\": {problem}", entry.name);
            Failure::new(hostler_proto::wire::ErrorCode::PreconditionFailed, message)
        };
        let broker = match entry.way().map_err(wrong)? {
            Way::Tool { command, app, user } => {
                return Ok(Self::Tool(Tool::of(entry, command, app, user).await?));
            }
            Way::Redis(broker) => named(&host.stack.redis, "redis", broker, |r| &r.name)?,
        };
        let server = Server::connect(broker).await.map_err(|trouble| {
            let place = whereabouts(broker).map(|place| place.to_string()).unwrap_or_default();
            trouble.failure(&broker.name).evidence(Evidence::new("redis", place))
        })?;
        let (clock, cancelled) = (Arc::clone(&host.clock), cx.cancelled.clone());
        let mailbox = Mailbox::new(server, &entry.exchange, clock, cancelled);
        let app = Broker { name: &entry.name, broker: &broker.name, entry, mailbox };
        Ok(Self::Redis(Box::new(app)))
    }

    /// Asks every worker for one thing; for tasks without their arguments, where that can be asked.
    async fn ask(&mut self, what: &str, longest: Duration) -> Result<Answers, Failure> {
        match self {
            Self::Tool(tool) => tool.ask(what, longest).await,
            Self::Redis(app) => {
                let arguments = match what {
                    "stats" | "active_queues" => json!({}),
                    _ => json!({ "safe": true }),
                };
                let answers = app.mailbox.ask(what, arguments, longest).await;
                answers.map_err(|trouble| app.failed(&trouble))
            }
        }
    }

    /// A list of what workers told; UNKNOWN where one did not.
    fn answer<R>(&self, summary: String, data: R, answers: &Answers) -> Answer<R> {
        if answers.subscribed == 0 {
            return Answer::unknown(self.nobody(), data);
        }
        let answer = Answer::ok(summary, data);
        match silence::part(self.name(), answers) {
            Some(part) => answer.finding(part).summed_up(),
            None => answer,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Redis(app) => app.name,
            Self::Tool(tool) => tool.name,
        }
    }

    /// What is said where there is no answer at all.
    fn nobody(&self) -> String {
        match self {
            Self::Redis(app) => format!("celery \"{}\" has no worker to ask", app.name),
            Self::Tool(tool) => format!("no worker of celery \"{}\" answered", tool.name),
        }
    }

    /// The kind of what was asked, and what it was.
    fn evidence(&self, what: &str) -> (&'static str, String) {
        match self {
            Self::Redis(app) => ("redis", format!("{what}: {}", app.mailbox.server.evidence())),
            Self::Tool(tool) => ("argv", tool.line(what)),
        }
    }
}

impl Broker<'_> {
    fn failed(&self, trouble: &Trouble) -> Failure {
        let asked = Evidence::new("redis", self.mailbox.server.evidence());
        trouble.failure(self.broker).evidence(asked)
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
