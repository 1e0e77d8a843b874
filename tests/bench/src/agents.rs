//! Simulated agents: each has an identity and a link of its own, and answers every operation at
//! once with an empty outcome.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hostler_core::{
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
        CancelInvocationReply, CancelInvocationRequest, Event, HealthReport, HealthRequest,
        HelloReply, HelloRequest, InvocationReply, InvocationRequest, Outcome, Status as Health,
        agent_server::{Agent, AgentServer},
        event,
    },
};
use hyper::body::Incoming;
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;
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
struct Own(Arc<HelloReply>);

#[tonic::async_trait]
impl Agent for Own {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new((*self.0).clone()))
    }

    type HealthStream = stream::Pending<Result<HealthReport, Status>>;

    async fn health(
        &self,
        _: Request<HealthRequest>,
    ) -> Result<Response<Self::HealthStream>, Status> {
        Err(Status::unimplemented("a simulated agent has no checks"))
    }

    async fn invocation(
        &self,
        _: Request<InvocationRequest>,
    ) -> Result<Response<InvocationReply>, Status> {
        Ok(Response::new(InvocationReply::default()))
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
) -> Result<JoinSet<()>, Error> {
    let outcome =
        Outcome { status: Health::Ok.into(), summary: "done".into(), ..Outcome::default() };
    let event = Event { event: Some(event::Event::Outcome(outcome)) };
    let answer = Answer(Bytes::from(event.encode_to_vec()));
    let dial = |identity: Identity| {
        let answer = answer.clone();
        async move {
            let config = trust.dial(Protocol::Link, &identity.credentials, Expected::Controller)?;
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("controller")?;
            let stream = TlsConnector::from(config).connect(name, tcp).await?;
            let hello = HelloReply {
                version: "0.0.0".into(),
                instance: identity.host.to_string(),
                machine_id: identity.host.to_string(),
                ..HelloReply::default()
            };
            let agent = AgentServer::new(Own(Arc::new(hello)));
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
            Ok::<_, Error>((stream, service))
        }
    };
    let mut dialled = stream::iter(identities.into_iter().map(dial)).buffer_unordered(abreast);
    let mut links = JoinSet::new();
    while let Some(linked) = dialled.next().await {
        let (stream, service) = linked?;
        links.spawn(async move {
            let forever = std::future::pending();
            if let Err(error) = link::serve(stream, service, Keepalive::default(), forever).await {
                eprintln!("a simulated link ended: {error}");
            }
        });
    }
    Ok(links)
}
