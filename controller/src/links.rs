//! The live links: which agents are connected now, and how to call them.
//!
//! Only what is true at this moment is held here; what was true is the store's.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hostler_core::{
    call::{Call, Raw},
    link::Channel,
    pki::Fingerprint,
    telemetry,
};
use hostler_proto::{
    name::HostName,
    wire::{HealthRequest, HelloReply, HelloRequest, agent_client::AgentClient},
};
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, client::Grpc};

/// Largest message of an agent: a result of some thousand rows, or the longest line of a log.
const EVENT: usize = 2 << 20;

/// The one agent instance behind a link.
#[derive(Debug)]
pub struct Link {
    /// The host.
    pub host: HostName,
    /// Where it dialled from.
    pub address: String,
    /// Key of the certificate that it showed.
    pub key: Fingerprint,
    /// Changes with every start of the agent's process.
    pub instance: String,
    /// Changes with every boot of the host.
    pub boot: String,
    /// Ends the link when it is cancelled.
    pub cut: CancellationToken,
    /// Held while the agent is asked for lost outcomes, so that none is asked for twice.
    pub reconciling: tokio::sync::Mutex<()>,
    number: u64,
    channel: Channel,
}

/// A link that is new.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The host.
    pub host: HostName,
    /// Where it dialled from.
    pub address: String,
    /// Key of the certificate that it showed.
    pub key: Fingerprint,
    /// Changes with every start of the agent's process.
    pub instance: String,
    /// Changes with every boot of the host.
    pub boot: String,
    /// The way to call it.
    pub channel: Channel,
    /// Ends the link when it is cancelled.
    pub cut: CancellationToken,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Joined {
    /// It is the host's link now.
    Linked(Arc<Link>),
    /// Another agent is linked under the same name. When it lives, one of the two is a clone.
    Occupied(Arc<Link>),
}

/// A second agent that came with a host's key while the first was linked.
#[derive(Debug, Clone)]
pub struct Twin {
    /// Where it dialled from.
    pub from: String,
    /// When it last did.
    pub seen_us: i64,
    /// It was the first, which had fallen silent when the second came: it may be the same host, and no
    /// clone.
    pub silent: bool,
}

/// All live links. A clone is the same set.
#[derive(Debug, Clone, Default)]
pub struct Links {
    by_host: Arc<Mutex<HashMap<HostName, Arc<Link>>>>,
    twins: Arc<Mutex<HashMap<HostName, Twin>>>,
    numbers: Arc<AtomicU64>,
}

impl Links {
    /// Offers a new link. It takes the place of an older one of the same agent instance, or of one
    /// that has ended.
    pub fn join(&self, offer: Offer) -> Joined {
        let Offer { host, address, key, instance, boot, channel, cut } = offer;
        let mut links = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = links.get(&host)
            && !old.channel.is_closed()
            && old.instance != instance
        {
            return Joined::Occupied(Arc::clone(old));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let reconciling = tokio::sync::Mutex::default();
        let named = host.clone();
        let link = Arc::new(Link {
            host: named,
            address,
            key,
            instance,
            boot,
            cut,
            reconciling,
            number,
            channel,
        });
        if let Some(old) = links.insert(host, Arc::clone(&link)) {
            old.cut.cancel();
        }
        Joined::Linked(link)
    }

    /// Notes a second agent with a host's key; gives what was noted of it before.
    pub fn note_twin(&self, host: HostName, twin: Twin) -> Option<Twin> {
        self.twins.lock().unwrap_or_else(PoisonError::into_inner).insert(host, twin)
    }

    /// Forgets the second agent: the key that it has is no longer the host's.
    pub fn forget_twin(&self, host: &HostName) {
        self.twins.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// The second agent with a host's key, if one came since `since_us`.
    pub fn twin(&self, host: &HostName, since_us: i64) -> Option<Twin> {
        let twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        twins.get(host).filter(|t| t.seen_us >= since_us).cloned()
    }

    /// Takes a link out; false when another has its place by now.
    pub fn leave(&self, link: &Link) -> bool {
        let mut links = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        let same = links.get(&link.host).is_some_and(|l| l.number == link.number);
        if same {
            links.remove(&link.host);
        }
        same
    }

    /// The link of a host.
    pub fn get(&self, host: &HostName) -> Option<Arc<Link>> {
        let links = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(host).filter(|l| !l.channel.is_closed()).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_host.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Nobody is linked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The linked hosts.
    pub fn hosts(&self) -> Vec<HostName> {
        self.by_host.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

/// Why an operation did not begin, as far as this end can tell.
#[derive(Debug)]
pub enum CallError {
    /// The link was gone before.
    NotSent,
    /// The agent said no; or the link broke, and nobody can tell what arrived.
    Status(Status),
}

impl Link {
    /// Begins an operation on the host; the stream yields its events, encoded.
    ///
    /// # Errors
    /// When nothing was sent, or the agent refused, or the link broke meanwhile.
    pub async fn run(
        &self,
        path: PathAndQuery,
        request: Bytes,
        call: &Call,
    ) -> Result<Streaming<Bytes>, CallError> {
        let grpc = Grpc::with_origin(self.channel.clone(), origin());
        let mut grpc = grpc.max_decoding_message_size(EVENT);
        grpc.ready().await.map_err(|_| CallError::NotSent)?;
        let mut request = tonic::Request::new(request);
        call.write(request.metadata_mut());
        telemetry::send(request.metadata_mut());
        let reply = grpc.server_streaming(request, path, Raw).await.map_err(CallError::Status)?;
        Ok(reply.into_inner())
    }

    /// How the host's checks stand, from now on: reports, encoded.
    ///
    /// # Errors
    /// When the agent does not tell, or the link broke meanwhile.
    pub async fn health(&self, request: &HealthRequest) -> Result<Streaming<Bytes>, Status> {
        let grpc = Grpc::with_origin(self.channel.clone(), origin());
        let mut grpc = grpc.max_decoding_message_size(EVENT);
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
        let path = PathAndQuery::from_static("/hostler.v1.Agent/Health");
        Ok(grpc.server_streaming(request, path, Raw).await?.into_inner())
    }

    /// When something of the host came last, by a clock that says that it is now `now_us`. Once the link
    /// is over that stays as it is.
    pub fn seen_us(&self, now_us: i64) -> i64 {
        let silent = self.channel.silent_for().as_micros();
        now_us.saturating_sub(i64::try_from(silent).unwrap_or(i64::MAX))
    }

    /// Whether this one can be the same machine after a boot: it comes from the same place.
    pub fn rebooted(&self, before: &Self) -> bool {
        let from = |link: &Self| link.address.parse::<SocketAddr>().map(|a| a.ip()).ok();
        self.boot != before.boot && from(self) == from(before)
    }

    /// Whether the agent at its other end answers within `longest`.
    pub async fn answers(&self, longest: Duration) -> bool {
        let request = HelloRequest { controller: String::new() };
        let mut agent = self.agent();
        matches!(tokio::time::timeout(longest, agent.hello(request)).await, Ok(Ok(_)))
    }

    /// The agent's own service.
    pub fn agent(&self) -> AgentClient<Channel> {
        agent(&self.channel)
    }
}

/// Whether what an agent tells of itself can be kept: it stays in memory for every host.
///
/// # Errors
/// Says what is too much.
pub fn check(hello: &HelloReply) -> Result<(), &'static str> {
    let short = |text: &String| text.len() <= 256 && !text.contains('\0');
    let words = [&hello.version, &hello.instance, &hello.machine_id, &hello.boot_id];
    let maps = [&hello.labels, &hello.facts];
    if maps.iter().any(|map| map.len() > 64) || hello.operations.len() > 1000 {
        return Err("it tells more than 64 labels, 64 facts or 1000 operations");
    }
    let mut texts = words.into_iter().chain(&hello.operations);
    let mut pairs = maps.iter().flat_map(|map| map.iter());
    match texts.all(short) && pairs.all(|(key, value)| short(key) && short(value)) {
        true => Ok(()),
        false => Err("it tells a text of more than 256 bytes, or one with a NUL"),
    }
}

/// The agent's own service on a link that has not joined yet.
pub fn agent(channel: &Channel) -> AgentClient<Channel> {
    AgentClient::with_origin(channel.clone(), origin()).max_decoding_message_size(EVENT)
}

fn origin() -> http::Uri {
    http::Uri::from_static("https://agent")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hostler_core::link::{self, Keepalive};
    use hyper::body::Incoming;

    use super::*;

    /// A link of some instance, and what ends it at the agent's end.
    async fn offer(instance: &str) -> (Offer, CancellationToken) {
        let answer = |_: http::Request<Incoming>| async {
            Ok::<_, Infallible>(http::Response::new(tonic::body::Body::empty()))
        };
        let (agent, controller) = tokio::io::duplex(64 << 10);
        let keepalive = Keepalive::default();
        let end = CancellationToken::new();
        let serving =
            link::serve(agent, tower::service_fn(answer), keepalive, std::future::pending());
        let cut = end.clone();
        tokio::spawn(async move { cut.run_until_cancelled(serving).await.map(drop) });
        let (channel, driver) = link::connect(controller, keepalive).await.expect("linked");
        tokio::spawn(driver);
        let offer = Offer {
            host: "web-1".parse().expect("a name"),
            address: "127.0.0.1:1".into(),
            key: Fingerprint::of(b"key"),
            instance: instance.into(),
            boot: "one".into(),
            channel,
            cut: CancellationToken::new(),
        };
        (offer, end)
    }

    #[tokio::test]
    async fn a_second_link_takes_the_place_of_one_of_the_same_agent_or_of_one_that_is_dead() {
        let links = Links::default();
        let (first, _alive) = offer("one").await;
        let cut = first.cut.clone();
        let Joined::Linked(before) = links.join(first) else { panic!("nobody was there") };
        let (again, end) = offer("one").await;
        assert!(matches!(links.join(again), Joined::Linked(_)), "it is the same agent");
        assert!(cut.is_cancelled(), "and the link before is cut");
        assert!(!links.leave(&before), "its end is not that of the host's link");

        let (other, _alive) = offer("two").await;
        let Joined::Occupied(occupied) = links.join(other.clone()) else { panic!("it lives") };
        end.cancel();
        while !occupied.channel.is_closed() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(links.join(other), Joined::Linked(_)), "it is dead");
        assert_eq!(links.len(), 1);
    }
}
