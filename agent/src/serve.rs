//! The agent as a gRPC server: its operations, its own service, health and reflection.
//!
//! Operations are dispatched by path as bytes; the same service answers on a link and on the
//! agent's own listener.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use hostler_core::{
    call::{Call, Raw},
    clock::{Clock, InvocationId},
    telemetry,
};
use hostler_proto::{
    descriptors,
    wire::{
        CancelInvocationReply, CancelInvocationRequest, ErrorCode, Failure, HealthReport,
        HealthRequest, HelloReply, HelloRequest, InvocationReply, InvocationRequest, RefusedReply,
        RefusedRequest,
        agent_server::{Agent, AgentServer},
        invocation_reply::State,
    },
};
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    body::Body,
    server::{NamedService, ServerStreamingService},
};
use tonic_health::pb::health_server::HealthServer;
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tracing::Instrument;

use crate::{
    checks::Checks,
    dispatch::{Dispatcher, Events},
    journal::Known,
};

/// How often the same refusal is an error in the log: it comes anew with every attempt to link.
const SAME: Duration = Duration::from_secs(3600);
/// The name of the reflection service.
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Route = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// Answers calls. A clone is the same server.
#[derive(Clone)]
pub struct Server {
    dispatcher: Dispatcher,
    clock: Arc<dyn Clock>,
    routes: Arc<HashMap<&'static str, Route>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// A server for one host; `hello` is what it tells a controller first.
    pub fn new(
        dispatcher: Dispatcher,
        clock: Arc<dyn Clock>,
        hello: HelloReply,
        checks: Checks,
    ) -> Self {
        let agent = AgentServer::new(Own {
            dispatcher: dispatcher.clone(),
            hello,
            checks,
            told: Mutex::default(),
        });
        let reporter = tonic_health::server::HealthReporter::new();
        let health = tonic_health::server::HealthService::from_health_reporter(reporter);
        let routes = [route(agent), route(HealthServer::new(health)), (REFLECTION, reflection())];
        Self { dispatcher, clock, routes: Arc::new(routes.into_iter().collect()) }
    }

    fn operation(&self, request: Request<Incoming>) -> Answering {
        let call = Operation {
            path: request.uri().path().to_owned(),
            dispatcher: self.dispatcher.clone(),
            fresh: InvocationId::new(&*self.clock),
        };
        let mut grpc = tonic::server::Grpc::new(Raw);
        Box::pin(async move { Ok(grpc.server_streaming(call, request).await) })
    }
}

/// What any gRPC client can be told. It is made when it is first asked for: people ask who try
/// things, and an agent on its own would keep megabytes for nobody.
fn reflection() -> Route {
    static MADE: OnceLock<Option<Route>> = OnceLock::new();
    let make = || {
        let builder = tonic_reflection::server::Builder::configure();
        let set = descriptors::set();
        let made = builder.register_encoded_file_descriptor_set(&set).build_v1();
        made.ok().map(|service| route(service).1)
    };
    BoxCloneSyncService::new(service_fn(move |request| async move {
        match MADE.get_or_init(make) {
            Some(service) => service.clone().oneshot(request).await,
            None => Ok(Status::internal("the descriptors do not serve reflection").into_http()),
        }
    }))
}

fn route<S>(service: S) -> (&'static str, Route)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    (S::NAME, BoxCloneSyncService::new(service))
}

impl Service<Request<Incoming>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match self.routes.get(service) {
            Some(route) => Box::pin(route.clone().oneshot(request)),
            None => self.operation(request),
        }
    }
}

/// One call of one operation.
struct Operation {
    path: String,
    dispatcher: Dispatcher,
    fresh: InvocationId,
}

impl ServerStreamingService<Bytes> for Operation {
    type Response = Bytes;
    type ResponseStream = Encoded;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Encoded>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (dispatcher, path, fresh) = (self.dispatcher.clone(), self.path.clone(), self.fresh);
        let run = async move {
            let call = Call::read(request.metadata(), fresh)?;
            let span = tracing::info_span!("call", path);
            telemetry::join(&span, request.metadata());
            let running = dispatcher.run(&path, request.into_inner(), call);
            let events = running.instrument(span).await?;
            Ok(tonic::Response::new(Encoded(events)))
        };
        // A task of its own: an action that is in the journal begins, also when its caller is gone.
        let begun = tokio::spawn(run.map(|r: Result<_, Failure>| r.map_err(Status::from)));
        Box::pin(async move {
            let defect = |_| Err(Status::internal("the call ended by a defect of the agent"));
            begun.await.unwrap_or_else(defect)
        })
    }
}

/// An operation's events as messages.
#[derive(Debug)]
pub struct Encoded(Events);

impl Stream for Encoded {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(cx).map(|event| event.map(|e| Ok(Bytes::from(e.encode_to_vec()))))
    }
}

/// What an agent offers beside its operations.
#[derive(Debug)]
struct Own {
    dispatcher: Dispatcher,
    hello: HelloReply,
    checks: Checks,
    /// The last refusal, and when it was logged as an error.
    told: Mutex<Option<(RefusedRequest, Instant)>>,
}

fn id(text: &str) -> Result<InvocationId, Status> {
    text.parse().map_err(|e: hostler_core::clock::InvalidInvocationId| {
        Failure::new(ErrorCode::InvalidArgument, e.to_string()).into()
    })
}

#[tonic::async_trait]
impl Agent for Own {
    async fn hello(
        &self,
        request: tonic::Request<HelloRequest>,
    ) -> Result<tonic::Response<HelloReply>, Status> {
        tracing::info!(controller = request.get_ref().controller, "a controller is linked");
        let operations = self.dispatcher.allowed().map(str::to_owned).collect();
        Ok(tonic::Response::new(HelloReply { operations, ..self.hello.clone() }))
    }

    type HealthStream = Pin<Box<dyn Stream<Item = Result<HealthReport, Status>> + Send>>;

    async fn health(
        &self,
        request: tonic::Request<HealthRequest>,
    ) -> Result<tonic::Response<Self::HealthStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let (checks, request) = (self.checks.clone(), request.into_inner());
        tokio::spawn(async move { checks.tell(request, sender).await });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver).map(Ok))))
    }

    async fn invocation(
        &self,
        request: tonic::Request<InvocationRequest>,
    ) -> Result<tonic::Response<InvocationReply>, Status> {
        let (state, last) = match self.dispatcher.known(id(&request.get_ref().id)?) {
            None => (State::Unheard, None),
            Some(Known::Running) => (State::Running, None),
            Some(Known::Ended(event)) => (State::Ended, Some(event)),
            Some(Known::Interrupted) => (State::Interrupted, None),
        };
        Ok(tonic::Response::new(InvocationReply { state: state.into(), last }))
    }

    async fn refused(
        &self,
        request: tonic::Request<RefusedRequest>,
    ) -> Result<tonic::Response<RefusedReply>, Status> {
        let refusal = request.into_inner();
        let RefusedRequest { reason, hint, controller } = &refusal;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &*told {
            Some((last, at)) if *last == refusal && at.elapsed() < SAME => {
                tracing::info!(controller, "the controller still refuses this host: {reason}");
            }
            _ => {
                tracing::error!(controller, "the controller refuses this host: {reason}; {hint}");
                *told = Some((refusal, Instant::now()));
            }
        }
        Ok(tonic::Response::new(RefusedReply {}))
    }

    async fn cancel(
        &self,
        request: tonic::Request<CancelInvocationRequest>,
    ) -> Result<tonic::Response<CancelInvocationReply>, Status> {
        let running = self.dispatcher.cancel(id(&request.get_ref().id)?);
        Ok(tonic::Response::new(CancelInvocationReply { running }))
    }
}

#[cfg(test)]
mod tests {
    use hostler_core::link::{self, Channel, Keepalive};
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    use super::*;
    use crate::{host::Host, journal::Journal, policy::Policy, stack::Stack};

    /// An agent's server that is called as over a link, and the directory of its state.
    async fn served() -> (tempfile::TempDir, Channel) {
        let directory = tempfile::tempdir().expect("directory");
        let clock: Arc<dyn Clock> = Arc::new(hostler_core::clock::SystemClock);
        let (policy, stack) = (Policy::default(), Stack::default());
        let host = Arc::new(Host { policy, stack, clock: Arc::clone(&clock) });
        let path = |name| directory.path().join(name);
        let journal = Journal::open(&path("journal.jsonl"), Arc::clone(&clock)).expect("journal");
        let catalogue = hostler_proto::catalogue::Catalogue::bare();
        let dispatcher = Dispatcher::new(host, catalogue, journal);
        let memory = path("checks.json");
        let checks = Checks::new(Vec::new(), dispatcher.clone(), memory, Arc::clone(&clock));
        let server =
            Server::new(dispatcher, clock, HelloReply::default(), checks.expect("no checks"));

        let (agent, client) = tokio::io::duplex(64 << 10);
        let keepalive = Keepalive::default();
        tokio::spawn(link::serve(agent, server, keepalive, std::future::pending()));
        let (channel, driver) = link::connect(client, keepalive).await.expect("connected");
        tokio::spawn(driver);
        (directory, channel)
    }

    fn origin() -> http::Uri {
        http::Uri::from_static("https://agent")
    }

    #[tokio::test]
    async fn the_standard_health_service_answers_beside_the_agents_own() {
        let (_directory, channel) = served().await;
        let mut health = HealthClient::with_origin(channel, origin());
        let whole = HealthCheckRequest { service: String::new() };
        let answer = health.check(whole).await.expect("answered").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
        let other = HealthCheckRequest { service: "no.such.Service".into() };
        let refused = health.check(other).await.expect_err("unknown");
        assert_eq!(refused.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_parameter_out_of_its_bounds_is_refused_here_whoever_let_it_through() {
        let (_directory, channel) = served().await;
        let call = async |top: u32| {
            let request = hostler_proto::ops::HostProcessesRequest { top, ..Default::default() };
            let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
            let mut grpc = tonic::client::Grpc::with_origin(channel.clone(), origin());
            grpc.ready().await.expect("ready");
            let path = http::uri::PathAndQuery::from_static("/hostler.ops.v1.Host/Processes");
            grpc.server_streaming(request, path, Raw).await.map(|_: tonic::Response<_>| ())
        };
        call(5).await.expect("within its bounds");
        let refused = call(1_000_000).await.expect_err("out of bounds");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("top"), "{refused}");
    }

    #[tokio::test]
    async fn any_grpc_client_can_ask_which_services_there_are() {
        let (_directory, channel) = served().await;
        let mut reflection = ServerReflectionClient::with_origin(channel, origin());
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let asked = tokio_stream::iter([request]);
        let mut answers =
            reflection.server_reflection_info(asked).await.expect("answered").into_inner();
        let answer = answers.message().await.expect("an answer").expect("one");
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("another answer: {answer:?}");
        };
        let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
        assert!(names.contains(&"hostler.ops.v1.Systemd"), "{names:?}");
        assert!(names.contains(&"hostler.v1.Agent"), "{names:?}");
    }
}
