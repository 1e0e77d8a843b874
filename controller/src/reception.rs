//! What becomes of a connection once it is proven: an agent's link, an operator's session, or a
//! host that wants a certificate.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hostler_core::{
    identity::Principal,
    link::{self, Broken, Channel},
    pki::CertificateFacts,
    tls::Protocol,
};
use hostler_proto::{
    name::HostName,
    wire::{
        ErrorCode, Failure, HelloRequest, RefusedRequest, access_server::AccessServer,
        audit_server::AuditServer, enrolment_server::EnrolmentServer, fleet_server::FleetServer,
        health_server::HealthServer, operations_server::OperationsServer,
        renewal_server::RenewalServer,
    },
};
use hyper::body::Incoming;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsStream, server};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

use crate::{
    api::{
        Api,
        enrolment::{Enrolling, Renewing},
        unstored,
    },
    health::absence::Lost,
    links::{self, Joined, Link, Offer},
    listen::{Reception, Refused, serve_briefly},
};

/// How long a fresh link may take to say who it is.
const HELLO: Duration = Duration::from_secs(15);
/// How long a link may take to show that it lives when another wants its place.
const LIFE_SIGN: Duration = Duration::from_secs(3);

/// How long it is waited for what came over a link before its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long an agent may take to hear that it is refused.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a host may not link, as its agent is told.
struct Refusal {
    reason: String,
    hint: &'static str,
}

/// Moves the bytes of a link, and ends with it.
type Driver = Pin<Box<dyn Future<Output = Result<(), Broken>> + Send>>;

impl Reception for Api {
    fn refused(&self, _: &Refused) {
        self.0.metrics.refused.inc();
    }

    async fn receive(
        &self,
        protocol: Protocol,
        peer: Option<CertificateFacts>,
        stream: server::TlsStream<TcpStream>,
        from: SocketAddr,
    ) {
        let keepalive = self.0.keepalive;
        match (protocol, peer) {
            (Protocol::Enroll, _) => {
                let service = EnrolmentServer::new(Enrolling { api: self.clone(), from });
                Box::pin(serve_briefly(stream, service, keepalive)).await;
            }
            (Protocol::Renew, Some(peer)) => {
                let service = RenewalServer::new(Renewing { api: self.clone(), peer });
                Box::pin(serve_briefly(stream, service, keepalive)).await;
            }
            (Protocol::Link, Some(peer)) => {
                self.linked(peer, stream.into(), from).await;
            }
            (Protocol::Grpc, Some(peer)) => Box::pin(self.operated(peer, stream)).await,
            (Protocol::Link | Protocol::Renew | Protocol::Grpc, None) => {}
        }
    }
}

impl Api {
    /// An agent's connection, whichever end dialled, until it ends. It is the host's link when
    /// nothing speaks against it.
    pub async fn linked(
        &self,
        peer: CertificateFacts,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
    ) {
        let Principal::Agent(host) = &peer.identity.principal else { return };
        let proven = Instant::now();
        let begun = Box::pin(self.begin_link(host.clone(), &peer, stream, from)).await;
        drop(peer);
        if let Some((link, driver)) = begun {
            self.0.metrics.link_setup.observe(proven.elapsed().as_secs_f64());
            self.keep_link(&link, driver).await;
        }
    }

    /// One agent's link, from its first word until it is the host's link.
    async fn begin_link(
        &self,
        host: HostName,
        peer: &CertificateFacts,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
    ) -> Option<(Arc<Link>, Driver)> {
        let allowed = self.may_link(&host, peer, from).await;
        let cut = CancellationToken::new();
        let Ok((channel, driver)) = link::connect(stream, self.0.keepalive).await else {
            return None;
        };
        let mut driver: Driver = Box::pin(driver);
        if let Err(refusal) = allowed {
            self.tell(&channel, &mut driver, refusal).await;
            return None;
        }
        let request = HelloRequest { controller: self.0.fleet.to_string() };
        let mut agent = links::agent(&channel);
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO, agent.hello(request)) => hello,
            _ = &mut driver => return None,
        };
        let hello = match hello {
            Ok(Ok(hello)) => hello.into_inner(),
            Ok(Err(status)) => {
                tracing::warn!(%host, "a link was refused: {}", status.message());
                return None;
            }
            Err(_) => {
                tracing::warn!(%host, "a link was refused: it did not say who it is");
                return None;
            }
        };
        drop(agent);
        if let Err(problem) = links::check(&hello) {
            tracing::warn!(%host, "a link was refused: {problem}");
            let hint = "mend that in the host's agent.toml: labels are its own";
            let refusal = Refusal { reason: problem.to_owned(), hint };
            self.tell(&channel, &mut driver, refusal).await;
            return None;
        }
        let offer = Offer {
            host: host.clone(),
            address: from.to_string(),
            key: peer.key,
            instance: hello.instance.clone(),
            boot: hello.boot_id.clone(),
            channel: channel.clone(),
            cut: cut.clone(),
        };
        let mut before = None;
        let link = loop {
            match self.0.links.join(offer.clone()) {
                Joined::Linked(link) => break link,
                Joined::Occupied(other) if other.answers(LIFE_SIGN).await => {
                    self.report_clone(&host, &other.address, from).await;
                    let reason =
                        format!("an agent at {} is linked with this host's key", other.address);
                    let hint = "one of the two is a copy: revoke the host, and enrol both anew under \
                                names of their own";
                    self.tell(&channel, &mut driver, Refusal { reason, hint }).await;
                    return None;
                }
                // Its machine lost power, and nothing told this end so far; or it hangs, and this is
                // another one.
                Joined::Occupied(silent) => {
                    self.0.links.leave(&silent);
                    silent.cut.cancel();
                    before = Some(silent);
                }
            }
        };
        drop(offer);
        // It may have been revoked since it was looked up, when there was no link to cut yet.
        if let Err(refusal) = self.may_link(&host, peer, from).await {
            self.0.links.leave(&link);
            self.tell(&channel, &mut driver, refusal).await;
            return None;
        }
        if let Some(before) = before {
            self.report_replaced(&link, &before).await;
        }
        self.connected(&link, hello, peer).await;
        Some((link, driver))
    }

    /// Moves a link's bytes until it ends.
    async fn keep_link(&self, link: &Arc<Link>, driver: Driver) {
        let begun = Instant::now();
        let (api, back) = (self.clone(), Arc::clone(link));
        tokio::spawn(async move { api.reconcile(back).await });
        let (api, told) = (self.clone(), Arc::clone(link));
        let over = CancellationToken::new();
        let (over, until) = (over.clone().drop_guard(), over);
        let hearing = tokio::spawn(async move { api.hear(&told, until).await });
        let (lost, reason) = tokio::select! {
            ended = driver => match ended {
                Ok(()) => (Lost::Closed, "the agent closed the link".to_owned()),
                Err(error) => lost(&error),
            },
            () = link.cut.cancelled() => {
                (Lost::Cut, "the link was cut by the controller".to_owned())
            }
        };
        self.0.metrics.lost(lost, begun.elapsed());
        // The last that it told may say that it is being stopped.
        drop(over);
        let _ = tokio::time::timeout(LAST_WORDS, hearing).await;
        // When another link of the host has its place, the host is still up.
        if self.0.links.leave(link) {
            Box::pin(self.disconnected(link, lost, &reason)).await;
        }
    }

    /// Whether the store knows this host with this key.
    async fn may_link(
        &self,
        host: &HostName,
        peer: &CertificateFacts,
        from: SocketAddr,
    ) -> Result<(), Refusal> {
        let anew = "an admin makes a token with: hostlerctl token create --host NAME --replace; then, on \
                    the host: hostler-agent enroll --force";
        let (logged, reason, hint) = match self.0.store.host(host).await {
            Ok(Some(row)) if row.revoked_us.is_some() => {
                ("a revoked host was refused", format!("{host} is revoked"), anew)
            }
            Ok(Some(row)) if row.key == peer.key.to_string() => return Ok(()),
            Ok(Some(_)) => (
                "refused: another key was enrolled under this name",
                format!("{host} was enrolled again with another key"),
                "when this is the right host, let it enrol anew; when it is a former one, stop its agent",
            ),
            Ok(None) => (
                "refused: this host is not enrolled here",
                format!("{host} is not enrolled here, or was removed"),
                anew,
            ),
            Err(error) => {
                tracing::error!(%host, %error, "the store cannot say whether this host may link");
                let reason =
                    "the controller's store cannot say whether this host may link".to_owned();
                return Err(Refusal { reason, hint: "the controller's log says why" });
            }
        };
        tracing::warn!(%host, %from, "{logged}");
        Err(Refusal { reason, hint })
    }

    /// Tells an agent why it is refused, so that its own log says it. An older one does not understand.
    async fn tell(&self, channel: &Channel, driver: &mut Driver, refusal: Refusal) {
        let Refusal { reason, hint } = refusal;
        let controller = self.0.fleet.to_string();
        let request = RefusedRequest { reason, hint: hint.to_owned(), controller };
        let mut agent = links::agent(channel);
        tokio::select! {
            _ = tokio::time::timeout(FAREWELL, agent.refused(request)) => {}
            _ = driver => {}
        }
    }

    /// One operator's session: every call on it carries who the operator is.
    async fn operated(&self, peer: CertificateFacts, stream: server::TlsStream<TcpStream>) {
        let Principal::Operator(name) = &peer.identity.principal else { return };
        // In this order a revocation finds either the session to cut or the record that refuses it.
        let cut = self.0.sessions.join(name.clone());
        let known = match self.caller_of(name, &peer).await {
            Ok(Some(caller)) => Ok(caller),
            Ok(None) => {
                let message = "this operator's certificate is revoked, replaced or not known here";
                Err(Failure::new(ErrorCode::PermissionDenied, message)
                    .hint("ask an admin for a new context (hostlerctl operator add)")
                    .into())
            }
            Err(error) => Err(unstored(error)),
        };
        let caller = match known {
            Ok(caller) => caller,
            Err(status) => {
                let refused = service_fn(move |_: http::Request<Incoming>| {
                    let status = status.clone();
                    async move { Ok(status.into_http()) }
                });
                serve_briefly(stream, refused, self.0.keepalive).await;
                return;
            }
        };
        let left = peer.not_after.as_second() - self.0.clock.now().as_second();
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        let fleet = FleetServer::new(self.clone());
        let operations = OperationsServer::new(self.clone());
        let audit = AuditServer::new(self.clone());
        let access = AccessServer::new(self.clone());
        let health = HealthServer::new(self.clone());
        let caller = Arc::new(caller);
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&caller));
            let (fleet, operations, audit, access, health) =
                (fleet.clone(), operations.clone(), audit.clone(), access.clone(), health.clone());
            let answer = async move {
                let service = request.uri().path().split('/').nth(1).unwrap_or_default();
                match service {
                    "hostler.v1.Fleet" => fleet.oneshot(request).await,
                    "hostler.v1.Operations" => operations.oneshot(request).await,
                    "hostler.v1.Audit" => audit.oneshot(request).await,
                    "hostler.v1.Access" => access.oneshot(request).await,
                    "hostler.v1.Health" => health.oneshot(request).await,
                    _ => Ok(tonic::Status::unimplemented("there is no such service").into_http()),
                }
            };
            // A task of its own: what was begun is done, also when its caller goes away meanwhile.
            let answered = tokio::spawn(answer);
            async move {
                let defect = "the request ended by a defect of the controller";
                let answered = answered.await;
                answered.unwrap_or_else(|_| Ok(tonic::Status::internal(defect).into_http()))
            }
        });
        let serving = link::serve(stream, service, self.0.keepalive, std::future::pending());
        // A session does not outlive the certificate that it was proven with.
        let serving = tokio::time::timeout(left, serving);
        let _ = cut.run_until_cancelled(serving).await;
    }
}

/// How a link was lost, and why, in words.
fn lost(error: &Broken) -> (Lost, String) {
    let Broken::Failed(failed) = error else { return (Lost::Silent, error.to_string()) };
    let lost = match failed.get_io().map(io::Error::kind) {
        // The kernel of the host closed what its agent had open.
        Some(io::ErrorKind::UnexpectedEof) => Lost::Closed,
        // What was sent found no way, or was never answered.
        Some(
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown,
        ) => Lost::Silent,
        _ => Lost::Broken,
    };
    let reason = match lost {
        Lost::Closed => "the connection was closed without a goodbye".to_owned(),
        _ => format!("the connection broke: {failed}"),
    };
    (lost, reason)
}
