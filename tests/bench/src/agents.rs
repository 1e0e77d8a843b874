//! Simulated agents: each has an identity and a link of its own, and answers every operation at
//! once with an empty outcome.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use hostler_core::{
    backoff::Backoff,
    call::Raw,
    clock::Clock,
    identity::Principal,
    link::{self, Keepalive},
    pki::{CertificateFacts, Key},
    tls::{Credentials, Expected, Protocol, Trust},
};
use hostler_proto::{
    name::HostName,
    wire::{
        CancelInvocationReply, CancelInvocationRequest, CheckState, Event, Figure, HealthReport,
        HealthRequest, HelloReply, HelloRequest, InvocationReply, InvocationRequest, Outcome,
        RefusedReply, RefusedRequest, Status as Health, Turn,
        agent_server::{Agent, AgentServer},
        event,
    },
};
use hyper::body::Incoming;
use prost::Message;
use rand::{SeedableRng, rngs::SmallRng};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Request, Response, Status};
use tower::{ServiceExt, service_fn};

/// What the bench itself can fail with.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The identity of one simulated host.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its name.
    pub host: HostName,
    /// Fingerprint of its key.
    pub key: String,
    credentials: Arc<Credentials>,
}

impl Identity {
    /// A new one, signed by the fleet's authority.
    pub(crate) fn new(
        number: usize,
        vault: &hostler_controller::vault::Vault,
        clock: &dyn Clock,
    ) -> Result<Self, Error> {
        let host: HostName = format!("sim-{number:05}").parse()?;
        let key = Key::generate()?;
        let principal = Principal::Agent(host.clone());
        let (now, life) = (clock.now(), Duration::from_secs(86_400));
        let authority = &vault.authority;
        let certificate = authority.sign(&key.request()?, principal, &[], clock.id(), now, life)?;
        let fingerprint = CertificateFacts::read(&certificate)?.key.to_string();
        let chain = vec![certificate, authority.certificate().clone()];
        Ok(Self { host, key: fingerprint, credentials: Credentials::new(chain, &key.to_pem())? })
    }
}

#[derive(Debug, Clone)]
struct Own {
    hello: Arc<HelloReply>,
    number: usize,
    checks: Option<Checks>,
}

/// What simulated hosts tell of their checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks {
    /// How many each host has.
    pub each: usize,
    /// How often all of them are told.
    pub beat: Duration,
    /// One state of so many changes with each beat.
    pub change: usize,
    /// When the first was told, in microseconds since 1970. Each beat stands for a minute: what is
    /// told belongs to hours that are over, as soon as it is told.
    pub since_us: i64,
}

impl Checks {
    /// What a host tells with one beat. Which states change depends on its number and the beat alone.
    fn report(self, number: usize, beat: usize) -> HealthReport {
        let mut turns = Vec::new();
        let states = (0..self.each).map(|check| {
            let name = format!("check-{check:02}");
            // With each beat one of twice `change` checks becomes bad and another one well again, all
            // others stay as they were; those of one host do not change one after the other.
            let period = 2 * self.change;
            let at = (number * self.each + check) * 79 % period + period + beat;
            let status = |at: usize| match at.is_multiple_of(period) {
                true => Health::Warning,
                false => Health::Ok,
            };
            let (now, before) = (status(at), status(at - 1));
            let changes = beat > 0 && now != before;
            let last = beat.saturating_sub(if changes { 0 } else { (at - 1) % period });
            let minute = |beat: usize| self.since_us + beat as i64 * 60_000_000;
            let summary = format!("{name} of a simulated host, measured for the {beat}th time");
            if changes {
                turns.push(Turn {
                    number: (beat * self.each + check) as u64,
                    check: name.clone(),
                    was: before.into(),
                    became: now.into(),
                    hard: true,
                    at_us: minute(beat),
                    summary: summary.clone(),
                    ..Turn::default()
                });
            }
            let figure = Figure {
                name: "value".into(),
                value: (at % 1000) as f64,
                limit: Some(1000.0),
                ..Figure::default()
            };
            CheckState {
                check: name,
                operation: "host.facts".into(),
                status: now.into(),
                hard: now.into(),
                since_us: minute(last),
                attempts: 3,
                checked_us: minute(beat),
                interval_s: 60,
                summary,
                figures: vec![figure],
                ..CheckState::default()
            }
        });
        let checks = states.collect();
        let memory = "bench".to_owned();
        HealthReport { memory, checks, whole: beat == 0, turns, ..HealthReport::default() }
    }
}

#[tonic::async_trait]
impl Agent for Own {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new((*self.hello).clone()))
    }

    type HealthStream = BoxStream<'static, Result<HealthReport, Status>>;

    async fn health(
        &self,
        _: Request<HealthRequest>,
    ) -> Result<Response<Self::HealthStream>, Status> {
        let Some(checks) = self.checks else {
            return Err(Status::unimplemented("a simulated agent has no checks"));
        };
        let number = self.number;
        let told = stream::unfold(0, move |beat| async move {
            // Hosts beat at different moments.
            let wait = match beat {
                0 => Duration::ZERO,
                1 => checks.beat.mul_f64((number % 1000) as f64 / 1000.0),
                _ => checks.beat,
            };
            tokio::time::sleep(wait).await;
            let parts = checks.report(number, beat).parts();
            Some((stream::iter(parts.into_iter().map(Ok)), beat + 1))
        });
        Ok(Response::new(told.flatten().boxed()))
    }

    async fn invocation(
        &self,
        _: Request<InvocationRequest>,
    ) -> Result<Response<InvocationReply>, Status> {
        Ok(Response::new(InvocationReply::default()))
    }

    async fn refused(&self, _: Request<RefusedRequest>) -> Result<Response<RefusedReply>, Status> {
        Ok(Response::new(RefusedReply {}))
    }

    async fn cancel(
        &self,
        _: Request<CancelInvocationRequest>,
    ) -> Result<Response<CancelInvocationReply>, Status> {
        Ok(Response::new(CancelInvocationReply::default()))
    }
}

/// Answers every operation with the same bytes.
#[derive(Clone)]
struct Answer(Bytes);

impl tonic::server::ServerStreamingService<Bytes> for Answer {
    type Response = Bytes;
    type ResponseStream = stream::Once<std::future::Ready<Result<Bytes, Status>>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let answer = stream::once(std::future::ready(Ok(self.0.clone())));
        std::future::ready(Ok(Response::new(answer)))
    }
}

/// Links all of them, `abreast` at a time; the links end when the set is dropped.
pub(crate) async fn link_all(
    identities: Vec<Identity>,
    address: &str,
    trust: &Trust,
    abreast: usize,
    checks: Option<Checks>,
) -> Result<Linked, Error> {
    let made = Arc::new(AtomicUsize::new(0));
    let outcome =
        Outcome { status: Health::Ok.into(), summary: "done".into(), ..Outcome::default() };
    let event = Event { event: Some(event::Event::Outcome(outcome)) };
    let answer = Answer(Bytes::from(event.encode_to_vec()));
    let dial = |(number, identity): (usize, Identity)| {
        let agent = Simulated {
            number,
            host: identity.host.to_string(),
            credentials: identity.credentials,
            trust: trust.clone(),
            address: address.to_owned(),
            answer: answer.clone(),
            checks,
            made: Arc::clone(&made),
        };
        async move {
            let stream = agent.dial().await?;
            Ok::<_, Error>((agent, stream))
        }
    };
    let mut dialled =
        stream::iter(identities.into_iter().enumerate().map(dial)).buffer_unordered(abreast);
    let mut agents = JoinSet::new();
    while let Some(linked) = dialled.next().await {
        let (agent, stream) = linked?;
        agents.spawn(agent.keep(stream));
    }
    Ok(Linked { made: Arc::clone(&made), _agents: agents })
}

/// The simulated agents, for as long as it is kept.
pub(crate) struct Linked {
    _agents: JoinSet<()>,
    made: Arc<AtomicUsize>,
}

impl Linked {
    /// Links that were made until now, again and again of the same agent.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

/// A simulated agent.
struct Simulated {
    number: usize,
    host: String,
    credentials: Arc<Credentials>,
    trust: Trust,
    address: String,
    answer: Answer,
    checks: Option<Checks>,
    made: Arc<AtomicUsize>,
}

impl Simulated {
    async fn dial(&self) -> Result<TlsStream<TcpStream>, Error> {
        let config = self.trust.dial(Protocol::Link, &self.credentials, Expected::Controller)?;
        let tcp = TcpStream::connect(self.address.as_str()).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("controller")?;
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    async fn serve(&self, stream: TlsStream<TcpStream>) {
        let hello = HelloReply {
            version: "0.0.0".into(),
            instance: self.host.clone(),
            machine_id: self.host.clone(),
            ..HelloReply::default()
        };
        let own = Own { hello: Arc::new(hello), number: self.number, checks: self.checks };
        let (agent, answer) = (AgentServer::new(own), self.answer.clone());
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (agent, answer) = (agent.clone(), answer.clone());
            async move {
                if request.uri().path().starts_with("/hostler.v1.Agent/") {
                    return agent.oneshot(request).await;
                }
                let mut grpc = tonic::server::Grpc::new(Raw);
                Ok::<_, Infallible>(grpc.server_streaming(answer, request).await)
            }
        });
        // Why it ended shows in the hosts that are up.
        let _ = link::serve(stream, service, Keepalive::default(), std::future::pending()).await;
    }

    /// Keeps the link as a real agent does: it comes back with the same waits.
    async fn keep(self, first: TlsStream<TcpStream>) {
        let mut rng = SmallRng::seed_from_u64(self.number as u64);
        let mut stream = Some(first);
        let mut waits = Backoff::default().start();
        loop {
            if let Some(stream) = stream.take() {
                self.serve(stream).await;
                waits = Backoff::default().start();
            }
            tokio::time::sleep(waits.next(&mut rng)).await;
            stream = self.dial().await.ok();
        }
    }
}
