//! Which Redis is certainly the broker of which workers of Celery.
//!
//! A Redis that an application only uses as its cache, or for results, is none. What tells the two apart is
//! that a worker is subscribed at its broker to what is said to all workers, while kombu's binding of it is
//! in the database. The server tells who is subscribed, and the kernel whose connections those are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Found, connected::plain};
use crate::{
    host::redis::{Server, Trouble},
    ops::celery,
    stack::Redis,
};

/// Longest for all questions to one server; one that hangs is asked again at the next look.
const PATIENCE: Duration = Duration::from_secs(5);
/// Servers that are asked at one look, and databases of each.
const MOST: usize = 8;
/// Ports of brokers on other hosts, and of RabbitMQ here: who is connected there and subscribed here no more
/// has moved, and does not hang.
const RABBITMQ: [u16; 2] = [5671, 5672];
const REDIS: u16 = 6379;

/// Workers of one unit, and the broker that they take their tasks from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Broker {
    /// The application, as it was given to `celery -A`.
    pub(super) app: String,
    /// How it is called here: a check keeps its name, whatever is found beside it.
    pub(super) name: String,
    /// The workers' unit.
    pub(super) unit: String,
    /// The server's address.
    pub(super) server: String,
    /// The server's unit.
    pub(super) served_by: String,
    /// The database.
    pub(super) db: i64,
}

/// An application whose broker is certain, and nobody else's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Application<'b> {
    pub(super) name: &'b str,
    pub(super) server: &'b str,
    pub(super) db: i64,
    /// Units of its workers.
    pub(super) units: BTreeSet<&'b str>,
}

/// Those of which nobody has to choose: an application with one broker that no other application has. Workers
/// of another one at the same server could not be told from its own.
pub(super) fn certain<'b>(brokers: impl Iterator<Item = &'b Broker>) -> Vec<Application<'b>> {
    let mut applications: BTreeMap<&str, Vec<&Broker>> = BTreeMap::new();
    let mut servers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for broker in brokers {
        applications.entry(&broker.app).or_default().push(broker);
        servers.entry(&broker.server).or_default().insert(&broker.app);
    }
    let certain = applications.into_iter().filter_map(|(app, all)| {
        let first = all.first()?;
        let units: BTreeSet<&str> = all.iter().map(|b| b.unit.as_str()).collect();
        let one_place = all.iter().all(|b| (&b.server, b.db) == (&first.server, first.db));
        let alone = servers.get(first.server.as_str()).is_some_and(|apps| apps.len() == 1);
        // Command lines without a name may be those of several applications.
        let one = !app.is_empty() || units.len() == 1;
        (one_place && alone && one).then_some(Application {
            name: &first.name,
            server: &first.server,
            db: first.db,
            units,
        })
    });
    certain.collect()
}

/// What a server told.
#[derive(Debug)]
struct Told {
    server: String,
    unit: String,
    /// Workers' ends of connections that are subscribed there, with the database, where that is a broker's.
    subscribed: Vec<(SocketAddr, i64)>,
}

impl Found {
    /// Asks servers whether they are brokers of the workers here: those with which workers are connected,
    /// and those that were brokers before. Of all others, and of those whose unit is not `wanted`, nothing
    /// is asked. What a server that does not answer was before it stays.
    #[must_use]
    pub async fn asked(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        if self.connections.is_empty() {
            // What was known stays, whatever a server would tell.
            return self;
        }
        let port = |address: &str| address.rsplit_once(':')?.1.parse::<u16>().ok();
        let concerned = |address: &str| {
            let connected = |port| self.connections.iter().any(|c| c.remote.port() == port);
            port(address).is_some_and(connected) || self.brokers.iter().any(|b| b.server == address)
        };
        let asked = self.redis.iter().filter(|(address, unit)| wanted(unit) && concerned(address));
        let asked: Vec<_> = asked.take(MOST).map(|(a, unit)| (a.clone(), unit.clone())).collect();
        let mut told = Vec::new();
        for (server, unit) in asked {
            match timeout(PATIENCE, self.subscribed(&server)).await {
                Ok(Ok(subscribed)) => told.push(Told { server, unit, subscribed }),
                Ok(Err(trouble)) => {
                    tracing::debug!("redis at {server}, whether it is a broker: {trouble}");
                }
                Err(_) => tracing::debug!("redis at {server} does not tell whether it is a broker"),
            }
        }
        self.take(&told);
        self
    }

    /// The workers of this host that are subscribed at a server, and the database that is their broker.
    async fn subscribed(&self, address: &str) -> Result<Vec<(SocketAddr, i64)>, Trouble> {
        let mut server = Server::connect(&Redis::at("", address, 0, Vec::new())).await?;
        let clients: String = server.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await?;
        let mut subscribed: Vec<_> = clients.lines().filter_map(subscriber).collect();
        subscribed.retain(|(address, _)| self.connections.iter().any(|c| c.local == *address));
        let databases: BTreeSet<i64> = subscribed.iter().map(|(_, db)| *db).collect();
        let mut brokers = BTreeSet::new();
        for db in databases.into_iter().take(MOST) {
            if celery::is_broker(&mut server, db).await? {
                brokers.insert(db);
            }
        }
        subscribed.retain(|(_, db)| brokers.contains(db));
        Ok(subscribed)
    }

    fn take(&mut self, told: &[Told]) {
        let mut certain = BTreeSet::new();
        for server in told {
            for connection in &self.connections {
                let here = server.subscribed.iter().find(|(local, _)| *local == connection.local);
                let Some((_, db)) = here else { continue };
                certain.insert(Broker {
                    app: connection.app.clone(),
                    name: self.name(&connection.app),
                    unit: connection.unit.clone(),
                    server: server.server.clone(),
                    served_by: server.unit.clone(),
                    db: *db,
                });
            }
        }
        let known = std::mem::take(&mut self.brokers).into_iter();
        let stays = known.filter(|known| !self.is_over(known, &certain, told)).collect();
        self.brokers = stays;
        self.brokers.extend(certain);
    }

    /// Whether what was known of a broker is no longer so.
    fn is_over(&self, known: &Broker, certain: &BTreeSet<Broker>, told: &[Told]) -> bool {
        let up = self.celery.values().any(|workers| {
            workers.app == known.app && workers.processes.values().any(|unit| *unit == known.unit)
        });
        let follows = |new: &Broker| new.unit == known.unit && (new.app == known.app || !up);
        if certain.iter().any(follows) {
            return true;
        }
        // It may hang, and be cut off from a broker that is its own still.
        let own = |c: &&super::connected::Connection| c.app == known.app && c.unit == known.unit;
        let elsewhere = self.connections.iter().filter(own).any(|c| {
            let port = c.remote.port();
            RABBITMQ.contains(&port) || (port == REDIS && !c.stays_here())
        });
        elsewhere && told.iter().any(|told| told.server == known.server)
    }

    /// How an application is called here.
    fn name(&self, app: &str) -> String {
        if let Some(known) = self.brokers.iter().find(|known| known.app == app) {
            return known.name.clone();
        }
        let taken = |name: &String| self.brokers.iter().any(|known| known.name == *name);
        let found = self.celery.iter().find(|(_, workers)| workers.app == app);
        let name = found.map(|(name, _)| name).filter(|name| !taken(name));
        name.map_or_else(|| app.to_owned(), Clone::clone)
    }
}

/// Address and database of a client that is subscribed to patterns, as kombu is, from its line of CLIENT LIST.
fn subscriber(line: &str) -> Option<(SocketAddr, i64)> {
    let value = |key: &str| line.split(' ').find_map(|pair| pair.strip_prefix(key));
    let patterns: u64 = value("psub=")?.parse().ok()?;
    let address = value("addr=")?.parse().ok()?;
    (patterns > 0).then_some((plain(address), value("db=")?.parse().ok()?))
}

#[cfg(test)]
#[path = "brokers_tests.rs"]
mod tests;
