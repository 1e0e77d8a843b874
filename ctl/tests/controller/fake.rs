//! A controller with four hosts that answers from memory.

mod health;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hostler_core::{
    clock::{Clock, SystemClock},
    identity::{FleetName, Principal},
    link::{self, Keepalive},
    pki::{Authority, Key},
    tls::{Credentials, Protocol, Trust},
};
use hostler_proto::{
    ops,
    wire::{
        self, ErrorCode, Failure,
        access_server::{Access, AccessServer},
        audit_server::{Audit, AuditServer},
        fleet_server::{self, FleetServer},
        health_server::HealthServer,
        operations_server::{Operations, OperationsServer},
        run_event,
    },
};
use hostlerctl::context::{Context, Contexts};
use http::Request;
use hyper::body::Incoming;
use prost::{Message, Name};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Iter;
use tonic::{Response, Status, body::Body};
use tower::ServiceExt as _;

const MIDNIGHT: i64 = 1_774_742_400_000_000;
const DAY: Duration = Duration::from_secs(86_400);

/// A running controller, and the configuration of an operator of it.
pub(crate) struct Fleet {
    dir: tempfile::TempDir,
    address: String,
    serving: JoinHandle<()>,
    state: Arc<State>,
}

struct State {
    authority: Authority,
    address: String,
    last_run: Mutex<Option<wire::RunRequest>>,
    asked: Mutex<usize>,
}

impl State {
    /// A chain and a key for somebody.
    fn member(&self, principal: Principal) -> (String, String) {
        let key = Key::generate().expect("key");
        let request = key.request().expect("request");
        let (id, now) = (SystemClock.id(), SystemClock.now());
        let names = ["controller".to_owned()];
        let leaf = self.authority.sign(&request, principal, &names, id, now, DAY).expect("sign");
        (pem(&leaf), key.to_pem())
    }

    fn context(&self, name: &str) -> Context {
        let (chain_pem, key_pem) = self.member(Principal::Operator(name.parse().expect("name")));
        Context {
            fleet: "prod".into(),
            addresses: vec![self.address.clone()],
            authority_pem: pem(self.authority.certificate()),
            chain_pem,
            key_pem,
        }
    }
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let fleet: FleetName = "prod".parse().expect("fleet");
        let (key, now) = (Key::generate().expect("key"), SystemClock.now());
        let authority = Authority::new(fleet.clone(), key, now, DAY).expect("authority");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let state = State {
            authority,
            address: address.clone(),
            last_run: Mutex::default(),
            asked: Mutex::default(),
        };
        let state = Arc::new(state);

        let root = state.authority.certificate().clone();
        let trust = Trust::new(fleet, [root], Arc::new(SystemClock)).expect("trust");
        let key = Key::generate().expect("key");
        let request = key.request().expect("request");
        let main = Principal::Controller("main".parse().expect("name"));
        let (id, now) = (SystemClock.id(), SystemClock.now());
        let leaf = state.authority.sign(&request, main, &[], id, now, DAY).expect("sign");
        let credentials = Credentials::new(vec![leaf], &key.to_pem()).expect("credentials");
        let tls = trust.accept(Protocol::Grpc, &credentials, Duration::ZERO).expect("tls");
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(tls), Arc::clone(&state)));

        let dir = tempfile::tempdir().expect("dir");
        Contexts::at(dir.path()).add("prod", &state.context("alice")).expect("context");
        Self { dir, address, serving, state }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// The operator's context.
    pub(crate) fn context(&self) -> Context {
        self.state.context("alice")
    }

    /// Keeps a context of another operator.
    pub(crate) fn add_context(&self, name: &str) -> Contexts {
        let contexts = Contexts::at(self.dir.path());
        contexts.add(name, &self.state.context(name)).expect("context");
        contexts
    }

    /// Whether anything was run.
    pub(crate) fn has_run(&self) -> bool {
        self.state.last_run.lock().expect("lock").is_some()
    }

    pub(crate) fn last_run(&self) -> wire::RunRequest {
        self.state.last_run.lock().expect("lock").clone().expect("a run")
    }

    /// How often it was asked which hosts there are.
    pub(crate) fn asked(&self) -> usize {
        *self.state.asked.lock().expect("lock")
    }

    pub(crate) fn stop(&self) {
        self.serving.abort();
    }

    /// The operator's context now leads to another controller.
    pub(crate) fn redirect(&self, other: &Self) {
        let contexts = Contexts::at(self.dir.path());
        let mut context = contexts.get("prod").expect("context");
        context.addresses = vec![other.address.clone()];
        contexts.remove("prod").expect("remove");
        contexts.add("prod", &context).expect("add");
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let service = tower::service_fn(move |request: Request<Incoming>| {
                let fake = Fake(Arc::clone(&state));
                async move {
                    let path = request.uri().path().to_owned();
                    let service = path.split('/').nth(1).unwrap_or_default();
                    Ok::<http::Response<Body>, Infallible>(match service {
                        "hostler.v1.Fleet" => unwrap(FleetServer::new(fake).oneshot(request).await),
                        "hostler.v1.Operations" => {
                            unwrap(OperationsServer::new(fake).oneshot(request).await)
                        }
                        "hostler.v1.Health" => {
                            unwrap(HealthServer::new(fake).oneshot(request).await)
                        }
                        "hostler.v1.Audit" => unwrap(AuditServer::new(fake).oneshot(request).await),
                        _ => unwrap(AccessServer::new(fake).oneshot(request).await),
                    })
                }
            });
            let _ =
                link::serve(stream, service, Keepalive::default(), std::future::pending()).await;
        });
    }
}

fn unwrap<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

#[derive(Clone)]
struct Fake(Arc<State>);

fn record(name: &str) -> wire::HostRecord {
    let up = name != "web-4";
    wire::HostRecord {
        name: name.into(),
        connection: if up { wire::Connection::Up } else { wire::Connection::Down }.into(),
        ..wire::HostRecord::default()
    }
}

fn selected(on: &str) -> Result<Vec<wire::HostRecord>, Status> {
    let all = ["web-1", "web-2", "web-3", "web-4"];
    let meant = |host: &&str| on == "all" || on.split(',').any(|name| name == *host);
    let hosts: Vec<_> = all.into_iter().filter(meant).map(record).collect();
    match hosts.is_empty() {
        true => Err(Failure::new(ErrorCode::NotFound, format!("no host matches \"{on}\"")).into()),
        false => Ok(hosts),
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl fleet_server::Fleet for Fake {
    async fn status(
        &self,
        _: tonic::Request<wire::FleetStatusRequest>,
    ) -> Reply<wire::FleetStatus> {
        let problem = wire::Problem {
            status: wire::Status::Critical.into(),
            subject: "web-4".into(),
            summary: "not connected".into(),
            since_us: MIDNIGHT,
            next: "hostlerctl host show web-4".into(),
            ..wire::Problem::default()
        };
        Ok(Response::new(wire::FleetStatus {
            hosts: 4,
            up: 3,
            down: 1,
            problems: vec![problem],
            fleet: "prod".into(),
            controller_version: "0.1.0".into(),
            now_us: MIDNIGHT + 1_000_000,
            ..wire::FleetStatus::default()
        }))
    }

    async fn hosts(&self, request: tonic::Request<wire::HostsRequest>) -> Reply<wire::HostsReply> {
        *self.0.asked.lock().expect("lock") += 1;
        Ok(Response::new(wire::HostsReply { hosts: selected(&request.get_ref().on)?, of: 4 }))
    }

    async fn label(
        &self,
        request: tonic::Request<wire::LabelHostRequest>,
    ) -> Reply<wire::HostRecord> {
        Ok(Response::new(record(&request.get_ref().host)))
    }

    async fn revoke(&self, _: tonic::Request<wire::RevokeHostRequest>) -> Reply<wire::RevokeReply> {
        Ok(Response::new(wire::RevokeReply { cut: 1 }))
    }

    async fn remove(
        &self,
        _: tonic::Request<wire::RemoveHostRequest>,
    ) -> Reply<wire::RemoveHostReply> {
        Ok(Response::new(wire::RemoveHostReply {}))
    }
}

fn host_event(host: &str, event: wire::event::Event) -> wire::RunEvent {
    let event = Some(wire::Event { event: Some(event) });
    let host = wire::HostEvent { host: host.into(), event, ..wire::HostEvent::default() };
    wire::RunEvent { event: Some(run_event::Event::Host(host)) }
}

fn outcome<M: Message + Name>(status: wire::Status, summary: &str, data: &M) -> wire::Outcome {
    wire::Outcome {
        status: status.into(),
        summary: summary.into(),
        r#type: M::full_name(),
        data: data.encode_to_vec(),
        ..wire::Outcome::default()
    }
}

fn usage(host: &str) -> wire::event::Event {
    let root = ops::FileSystem { mount: "/".into(), size_bytes: 100 << 30, ..Default::default() };
    let data = ops::DiskUsage { filesystems: vec![root] };
    match host {
        "web-4" => wire::event::Event::Failure(Failure::new(
            ErrorCode::Unreachable,
            "web-4 is not connected",
        )),
        "web-3" => {
            let mut outcome = outcome(wire::Status::Critical, "/srv is full", &data);
            outcome.findings = vec![wire::Finding {
                status: wire::Status::Critical.into(),
                subject: "/srv".into(),
                summary: "full".into(),
                ..wire::Finding::default()
            }];
            wire::event::Event::Outcome(outcome)
        }
        _ => wire::event::Event::Outcome(outcome(wire::Status::Ok, "1 file system", &data)),
    }
}

type Stream<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl Operations for Fake {
    type RunStream = Stream<wire::RunEvent>;

    async fn run(&self, request: tonic::Request<wire::RunRequest>) -> Reply<Self::RunStream> {
        let request = request.into_inner();
        *self.0.last_run.lock().expect("lock") = Some(request.clone());
        let hosts: Vec<_> = selected(&request.on)?.into_iter().map(|h| h.name).collect();
        let (invocation, of) = (request.invocation, 4);
        let started = wire::RunStarted { invocation, hosts: hosts.clone(), of };
        let mut events = vec![wire::RunEvent { event: Some(run_event::Event::Started(started)) }];
        let mut summary = wire::RunSummary::default();
        for host in &hosts {
            match request.operation.as_str() {
                "disk.usage" => {
                    match host.as_str() {
                        "web-4" => summary.unreachable += 1,
                        "web-3" => summary.critical += 1,
                        _ => summary.ok += 1,
                    }
                    events.push(host_event(host, usage(host)));
                }
                "logs.tail" if host == "web-3" => {
                    summary.ok += 1;
                    let data = ops::LogsTail::default();
                    let end = outcome(wire::Status::Unspecified, "no line fits", &data);
                    events.push(host_event(host, wire::event::Event::Outcome(end)));
                }
                "logs.tail" => {
                    summary.ok += 1;
                    let line = wire::LogLine {
                        time_us: MIDNIGHT,
                        source: "/var/log/x".into(),
                        text: "\x1b[31mred\x1b[0m line".into(),
                        ..wire::LogLine::default()
                    };
                    events.push(host_event(host, wire::event::Event::Line(line)));
                    let end =
                        outcome(wire::Status::Unspecified, "1 line", &ops::LogsTail::default());
                    events.push(host_event(host, wire::event::Event::Outcome(end)));
                }
                // Each host tells all of its own, one after the other.
                "journal.read" => {
                    summary.ok += 1;
                    let first = if host == "web-1" { 0 } else { 1 };
                    for second in [first, first + 2] {
                        let line = wire::LogLine {
                            time_us: MIDNIGHT + second * 1_000_000,
                            text: format!("line {second}"),
                            ..wire::LogLine::default()
                        };
                        events.push(host_event(host, wire::event::Event::Line(line)));
                    }
                    let data = ops::JournalRead::default();
                    let end = outcome(wire::Status::Unspecified, "2 lines", &data);
                    events.push(host_event(host, wire::event::Event::Outcome(end)));
                }
                "systemd.restart" => {
                    summary.ok += 1;
                    let step = wire::PlanStep {
                        summary: "stop and start nginx.service".into(),
                        undo: String::new(),
                    };
                    events.push(host_event(host, wire::event::Event::Step(step)));
                    let change = ops::SystemdChange::default();
                    let end = outcome(wire::Status::Unspecified, "restarted", &change);
                    events.push(host_event(host, wire::event::Event::Outcome(end)));
                }
                // Everything else breaks off.
                _ => {
                    return Ok(Response::new(tokio_stream::iter(
                        events.into_iter().map(Ok).collect::<Vec<_>>(),
                    )));
                }
            }
        }
        events.push(wire::RunEvent { event: Some(run_event::Event::Summary(summary)) });
        let events: Vec<_> = events.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(events)))
    }

    async fn cancel(&self, _: tonic::Request<wire::CancelRequest>) -> Reply<wire::CancelReply> {
        Ok(Response::new(wire::CancelReply { cancelled: 1 }))
    }
}

fn records(count: u64) -> Vec<Result<wire::AuditRecord, Status>> {
    (1..=count)
        .map(|seq| Ok(wire::AuditRecord { seq, kind: "intent".into(), ..Default::default() }))
        .collect()
}

#[tonic::async_trait]
impl Audit for Fake {
    type ListStream = Stream<wire::AuditRecord>;
    type ShowStream = Stream<wire::AuditRecord>;
    type VerifyStream = Stream<wire::AuditVerifyReply>;

    async fn list(&self, _: tonic::Request<wire::AuditListRequest>) -> Reply<Self::ListStream> {
        Ok(Response::new(tokio_stream::iter(records(1500))))
    }

    async fn show(&self, _: tonic::Request<wire::AuditShowRequest>) -> Reply<Self::ShowStream> {
        Ok(Response::new(tokio_stream::iter(records(2))))
    }

    async fn verify(
        &self,
        _: tonic::Request<wire::AuditVerifyRequest>,
    ) -> Reply<Self::VerifyStream> {
        let so_far = wire::AuditVerifyReply {
            records: 5,
            intact: true,
            goes_on: true,
            ..Default::default()
        };
        let problem = "hash differs".into();
        let reply =
            wire::AuditVerifyReply { records: 9, broken_at: 7, problem, ..Default::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(so_far), Ok(reply)])))
    }
}

#[tonic::async_trait]
impl Access for Fake {
    async fn create_token(
        &self,
        _: tonic::Request<wire::CreateTokenRequest>,
    ) -> Reply<wire::CreateTokenReply> {
        let message = "alice is a viewer and may not make tokens";
        Err(Failure::new(ErrorCode::PermissionDenied, message).hint("ask an admin").into())
    }

    async fn tokens(&self, _: tonic::Request<wire::TokensRequest>) -> Reply<wire::TokensReply> {
        Ok(Response::new(wire::TokensReply::default()))
    }

    async fn revoke_token(
        &self,
        _: tonic::Request<wire::RevokeTokenRequest>,
    ) -> Reply<wire::RevokeReply> {
        Ok(Response::new(wire::RevokeReply::default()))
    }

    async fn add_operator(
        &self,
        request: tonic::Request<wire::AddOperatorRequest>,
    ) -> Reply<wire::AddOperatorReply> {
        let context = self.0.context(&request.get_ref().name);
        Ok(Response::new(wire::AddOperatorReply {
            chain_pem: context.chain_pem,
            key_pem: context.key_pem,
            authority_pem: context.authority_pem,
            fleet: context.fleet,
            expires_us: MIDNIGHT,
            addresses: context.addresses,
        }))
    }

    async fn operators(
        &self,
        _: tonic::Request<wire::OperatorsRequest>,
    ) -> Reply<wire::OperatorsReply> {
        Ok(Response::new(wire::OperatorsReply::default()))
    }

    async fn revoke_operator(
        &self,
        _: tonic::Request<wire::RevokeOperatorRequest>,
    ) -> Reply<wire::RevokeReply> {
        Ok(Response::new(wire::RevokeReply::default()))
    }

    async fn renew_operator(
        &self,
        _: tonic::Request<wire::RenewOperatorRequest>,
    ) -> Reply<wire::RenewOperatorReply> {
        Err(Failure::new(ErrorCode::PermissionDenied, "its certificate was made to end").into())
    }

    async fn who_am_i(
        &self,
        _: tonic::Request<wire::WhoAmIRequest>,
    ) -> Reply<wire::OperatorRecord> {
        Ok(Response::new(wire::OperatorRecord { name: "alice".into(), ..Default::default() }))
    }
}
