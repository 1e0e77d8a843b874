//! What a monitoring system sees: `/metrics` for Prometheus, `/healthz`, and `grpc.health.v1`, on a
//! port of their own without TLS. Nothing here tells what was asked for or answered.

mod checks;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hostler_core::program::cannot_listen;
use hostler_proto::wire::{self, Delivery};
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{ServiceExt, service_fn};

use crate::{
    api::App,
    health::absence::{Lost, absences, connection},
    relay::End,
};

/// Connections of monitoring systems at a time.
const CONNECTIONS: usize = 16;
/// Longest for one connection; a scrape takes milliseconds.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the health that gRPC clients watch is looked at.
const BEAT: Duration = Duration::from_secs(5);

/// An operation that ended on a host, its outcome as in the audit: "ok", "critical", "unreachable".
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    operation: String,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationOf {
    operation: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LostAs {
    lost: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostsOf {
    connection: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateOf {
    kind: &'static str,
    name: String,
}

/// What is counted as it happens. A clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    operations: Family<Ended, Counter>,
    operation: Family<OperationOf, Histogram>,
    /// Time of whole requests, over all their hosts.
    pub requests: Histogram,
    /// Records that were committed.
    pub audit_records: Counter,
    /// Time of one commit of the audit.
    pub audit_commit: Histogram,
    /// Connections that were refused at the door.
    pub refused: Counter,
    /// Time from an agent's proven connection until it is its host's link.
    pub link_setup: Histogram,
    link_life: Family<LostAs, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            operations: Family::default(),
            operation: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.005, 4.0, 10))
            }),
            requests: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            audit_records: Counter::default(),
            audit_commit: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            refused: Counter::default(),
            link_setup: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            link_life: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(1.0, 4.0, 11))
            }),
        }
    }
}

impl Metrics {
    /// Counts an operation that ended on a host.
    pub fn ended(&self, operation: String, outcome: String, end: End) {
        if end.delivery == Delivery::Reported {
            let took =
                self.operation.get_or_create_owned(&OperationOf { operation: operation.clone() });
            took.observe(end.took.as_secs_f64());
        }
        self.operations.get_or_create(&Ended { operation, outcome }).inc();
    }

    /// Counts a link that ended.
    pub fn lost(&self, lost: Lost, lived: Duration) {
        let life = self.link_life.get_or_create_owned(&LostAs { lost: lost.name() });
        life.observe(lived.as_secs_f64());
    }

    fn register(&self, to: &mut Registry) {
        to.register("operations", "Operations that ended, by outcome", self.operations.clone());
        let text = "Time of an operation on one host that answered";
        to.register_with_unit("operation", text, Unit::Seconds, self.operation.clone());
        let text = "Time of a request over all its hosts";
        to.register_with_unit("request", text, Unit::Seconds, self.requests.clone());
        let text = "Records committed to the audit";
        to.register("audit_records", text, self.audit_records.clone());
        let text = "Time of one commit of the audit";
        to.register_with_unit("audit_commit", text, Unit::Seconds, self.audit_commit.clone());
        let text = "Connections refused before they were proven";
        to.register("connections_refused", text, self.refused.clone());
        let text = "Time from an agent's proven connection until it is its host's link";
        to.register_with_unit("link_setup", text, Unit::Seconds, self.link_setup.clone());
        let text = "How long links lived that ended, by how they were lost";
        to.register_with_unit("link_life", text, Unit::Seconds, self.link_life.clone());
    }
}

/// The states of which hosts are counted.
const LINKS: [wire::Connection; 6] = [
    wire::Connection::Up,
    wire::Connection::Down,
    wire::Connection::Unreachable,
    wire::Connection::Stopped,
    wire::Connection::Never,
    wire::Connection::Revoked,
];

fn link_word(connection: wire::Connection) -> &'static str {
    match connection {
        wire::Connection::Unspecified | wire::Connection::Never => "never",
        wire::Connection::Up => "up",
        wire::Connection::Down => "down",
        wire::Connection::Revoked => "revoked",
        wire::Connection::Unreachable => "unreachable",
        wire::Connection::Stopped => "stopped",
    }
}

/// Everything in Prometheus' text form.
///
/// # Errors
/// When the store cannot be read.
async fn text(app: &App) -> Result<String, String> {
    let mut registry = Registry::with_prefix("hostler");
    app.metrics.register(&mut registry);

    let links = Gauge::<i64>::default();
    links.set(i64::try_from(app.links.len()).unwrap_or(i64::MAX));
    registry.register("links", "Agents that are linked now", links);

    let hosts = Family::<HostsOf, Gauge>::default();
    let ends = Family::<CertificateOf, Gauge>::default();
    let text = "Hosts by the state of their link";
    registry.register("hosts", text, hosts.clone());
    let text = "When a certificate ends, in seconds since 1970";
    registry.register("certificate_end_timestamp_seconds", text, ends.clone());
    for connection in LINKS {
        hosts.get_or_create(&HostsOf { connection: link_word(connection) }).set(0);
    }
    let end = |kind, name: String, until_us: i64| {
        ends.get_or_create(&CertificateOf { kind, name }).set(until_us / 1_000_000);
    };
    let unreadable = |e: crate::store::StoreError| e.to_string();
    let all = app.store.hosts().await.map_err(unreadable)?;
    let now_us = app.clock.now().as_microsecond();
    app.health.look(|hosts| checks::register(hosts, &all, now_us, &mut registry));
    let now_us = app.clock.now().as_microsecond();
    let absences = app.health.look(|health| absences(&all, health, now_us));
    for host in all {
        let connection = link_word(connection(&host, absences.get(&host.name)));
        hosts.get_or_create(&HostsOf { connection }).inc();
        if host.revoked_us.is_none() {
            end("host", host.name.to_string(), host.certificate_until_us);
        }
    }
    for operator in app.store.operators().await.map_err(unreadable)? {
        if operator.revoked_us.is_none() {
            end("operator", operator.name.to_string(), operator.certificate_until_us);
        }
    }
    if let Some(until) = crate::api::authority_until(app.vault.authority.certificate()) {
        end("authority", app.fleet.to_string(), until);
    }
    if let Ok(own) = app.vault.credentials.facts() {
        end("controller", "main".to_owned(), own.not_after.as_microsecond());
    }

    let mut text = String::new();
    encode_registry(&mut text, &registry)
        .and_then(|()| encode_eof(&mut text))
        .map_err(|e| e.to_string())?;
    Ok(text)
}

/// Whether the store can be read, and the last record of the audit was written: without that nothing
/// is let go.
async fn well(app: &App) -> Result<(), String> {
    app.store.audit_head().await.map_err(|e| e.to_string())?;
    match app.auditor.trouble() {
        Some(why) => Err(format!("the audit cannot be written: {why}")),
        None => Ok(()),
    }
}

async fn answer(app: &App, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match text(app).await {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
        },
        (&Method::GET, "/healthz") => match well(app).await {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "/metrics and /healthz are here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = if request.uri().path() == "/metrics" { kind } else { "text/plain" };
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// Keeps what `grpc.health.v1` answers true.
async fn watch(app: Arc<App>, reporter: HealthReporter) {
    loop {
        let status = match well(&app).await {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        tokio::time::sleep(BEAT).await;
    }
}

/// Serves an address that was bound until `stop`.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let watching = tokio::spawn(watch(Arc::clone(&app), reporter));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (app, health) = (Arc::clone(&app), health.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (app, health) = (Arc::clone(&app), health.clone());
            async move {
                if request.uri().path().starts_with("/grpc.health.v1.Health/") {
                    return health.oneshot(request).await;
                }
                let response = answer(&app, &request).await;
                Ok::<_, Infallible>(response.map(tonic::body::Body::new))
            }
        });
        tokio::spawn(async move {
            let _slot = slot;
            let builder = auto::Builder::new(TokioExecutor::new());
            let service = hyper_util::service::TowerToHyperService::new(service);
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(LONGEST, serving).await;
        });
    }
    watching.abort();
}

/// Takes the port for metrics.
///
/// # Errors
/// When it is taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|e| cannot_listen("the service of metrics", address, "metrics", &e))
}
