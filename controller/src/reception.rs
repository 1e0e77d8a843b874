//! What becomes of a connection once it is proven: an agent's link, an operator's session, or a
//! host that wants a certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hostler_core::{identity::Principal, link, pki::CertificateFacts, tls::Protocol};
use hostler_proto::{
    name::HostName,
    wire::{
        HelloRequest, access_server::AccessServer, audit_server::AuditServer,
        enrolment_server::EnrolmentServer, fleet_server::FleetServer,
        operations_server::OperationsServer, renewal_server::RenewalServer,
    },
};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

use crate::{
    api::{
        Api,
        enrolment::{Enrolling, Renewing},
    },
    links::{self, Joined},
    listen::{Reception, serve_briefly},
};

/// How long a fresh link may take to say who it is.
const HELLO: Duration = Duration::from_secs(15);

impl Reception for Api {
    async fn receive(
        &self,
        protocol: Protocol,
        peer: Option<CertificateFacts>,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
    ) {
        let keepalive = self.0.keepalive;
        match (protocol, peer) {
            (Protocol::Enroll, _) => {
                let service = EnrolmentServer::new(Enrolling { api: self.clone(), from });
                serve_briefly(stream, service, keepalive).await;
            }
            (Protocol::Renew, Some(peer)) => {
                let service = RenewalServer::new(Renewing { api: self.clone(), peer });
                serve_briefly(stream, service, keepalive).await;
            }
            (Protocol::Link, Some(peer)) => {
                if let Principal::Agent(host) = &peer.identity.principal {
                    self.linked(host.clone(), &peer, stream, from).await;
                }
            }
            (Protocol::Grpc, Some(peer)) => self.operated(peer, stream).await,
            (Protocol::Link | Protocol::Renew | Protocol::Grpc, None) => {}
        }
    }
}

impl Api {
    /// One agent's link, from its first word to its end.
    async fn linked(
        &self,
        host: HostName,
        peer: &CertificateFacts,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
    ) {
        match self.0.store.host(&host).await {
            Ok(Some(row)) if row.revoked_us.is_none() && row.key == peer.key.to_string() => {}
            Ok(Some(row)) if row.revoked_us.is_some() => {
                tracing::warn!(%host, %from, "a revoked host was refused");
                return;
            }
            Ok(Some(_)) => {
                tracing::warn!(%host, %from, "refused: another key was enrolled under this name");
                return;
            }
            Ok(None) => {
                tracing::warn!(%host, %from, "refused: this host is not enrolled here");
                return;
            }
            Err(error) => {
                tracing::error!(%host, %error, "the store cannot say whether this host may link");
                return;
            }
        }
        let cut = CancellationToken::new();
        let Ok((channel, driver)) = link::connect(stream, self.0.keepalive).await else { return };
        let mut driver = std::pin::pin!(driver);
        let request = HelloRequest { controller: self.0.fleet.to_string() };
        let mut agent = links::agent(&channel);
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO, agent.hello(request)) => hello,
            _ = &mut driver => return,
        };
        let hello = match hello {
            Ok(Ok(hello)) => hello.into_inner(),
            Ok(Err(status)) => {
                tracing::warn!(%host, "a link was refused: {}", status.message());
                return;
            }
            Err(_) => {
                tracing::warn!(%host, "a link was refused: it did not say who it is");
                return;
            }
        };
        drop(agent);
        let address = from.to_string();
        let joined =
            self.0.links.join(host.clone(), address, peer.key, hello, channel, cut.clone());
        let link = match joined {
            Joined::Linked(link) => link,
            Joined::Clone(other) => {
                self.report_clone(&host, &other.address, from).await;
                return;
            }
        };
        self.connected(&link, peer).await;
        let reason = tokio::select! {
            ended = &mut driver => match ended {
                Ok(()) => "the agent closed the link".to_owned(),
                Err(error) => lost(&error),
            },
            () = cut.cancelled() => "the link was cut by the controller".to_owned(),
        };
        // When another link of the host has its place, the host is still up.
        if self.0.links.leave(&link) {
            self.disconnected(&host, &reason).await;
        }
    }

    /// One operator's session: every call on it carries who the operator is.
    async fn operated(&self, peer: CertificateFacts, stream: TlsStream<TcpStream>) {
        let Some(caller) = self.caller_of(&peer).await else { return };
        let cut = self.0.sessions.join(caller.name.clone());
        let fleet = FleetServer::new(self.clone());
        let operations = OperationsServer::new(self.clone());
        let audit = AuditServer::new(self.clone());
        let access = AccessServer::new(self.clone());
        let caller = Arc::new(caller);
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&caller));
            let (fleet, operations, audit, access) =
                (fleet.clone(), operations.clone(), audit.clone(), access.clone());
            async move {
                let service = request.uri().path().split('/').nth(1).unwrap_or_default();
                match service {
                    "hostler.v1.Fleet" => fleet.oneshot(request).await,
                    "hostler.v1.Operations" => operations.oneshot(request).await,
                    "hostler.v1.Audit" => audit.oneshot(request).await,
                    "hostler.v1.Access" => access.oneshot(request).await,
                    _ => Ok(tonic::Status::unimplemented("there is no such service").into_http()),
                }
            }
        });
        let serving = link::serve(stream, service, self.0.keepalive, std::future::pending());
        let _ = cut.run_until_cancelled(serving).await;
    }
}

/// Why a link was lost, in words.
fn lost(error: &hyper::Error) -> String {
    if error.is_timeout() || format!("{error:?}").contains("KeepAliveTimedOut") {
        return "it fell silent: no answer to the keepalive".to_owned();
    }
    let mut source: Option<&dyn std::error::Error> = Some(error);
    let mut last = error.to_string();
    while let Some(error) = source {
        last = error.to_string();
        source = error.source();
    }
    format!("the connection broke: {last}")
}
