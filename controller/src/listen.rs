//! The controller's one port. A connection says by ALPN what it is, is proven to be that, and goes
//! to whom it belongs; nothing is answered before.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hostler_core::{
    link::{self, Keepalive},
    pki::CertificateFacts,
    tls::{Credentials, Protocol, TlsError, Trust},
};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest from the first byte to a finished handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time. Each costs about a millisecond of a processor: the rest waits in the
/// kernel's queue instead of timing out half done.
const HANDSHAKES: usize = 256;
/// Connections that wait in the kernel's queue; as many as Linux lets a queue hold by default. When
/// it is full the kernel drops what comes, and the agent's kernel tries again after 1, 3 and 7 s.
const WAITING: u32 = 4096;
/// Connections of hosts without an identity at a time.
const ENROLLING: usize = 64;

/// Why a connection was refused.
#[derive(Debug, Error)]
pub enum Refused {
    /// The handshake failed.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] std::io::Error),
    /// It took too long.
    #[error("the handshake took longer than 10 s")]
    Slow,
    /// The peer is not who may connect so.
    #[error(transparent)]
    Peer(#[from] TlsError),
    /// Too many at a time.
    #[error("too many hosts are enrolling at the moment")]
    Full,
}

/// Who takes connections when they are proven.
pub trait Reception: Clone + Send + Sync + 'static {
    /// Takes one; it stands until the future ends. `peer` is none for enrolment alone.
    fn receive(
        &self,
        protocol: Protocol,
        peer: Option<CertificateFacts>,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
    ) -> impl Future<Output = ()> + Send;

    /// Is told of one that was refused before it was proven.
    fn refused(&self, _why: &Refused) {}
}

/// The configurations of the four protocols.
#[derive(Debug, Clone)]
pub struct Door {
    trust: Trust,
    configs: [(Protocol, Arc<ServerConfig>); 4],
}

impl Door {
    /// A door for the controller that holds these credentials.
    ///
    /// # Errors
    /// When the authority can verify nobody.
    pub fn new(
        trust: Trust,
        credentials: &Arc<Credentials>,
        grace: Duration,
    ) -> Result<Self, TlsError> {
        let config = |p| Ok::<_, TlsError>((p, trust.accept(p, credentials, grace)?));
        let configs = [
            config(Protocol::Link)?,
            config(Protocol::Grpc)?,
            config(Protocol::Enroll)?,
            config(Protocol::Renew)?,
        ];
        Ok(Self { trust, configs })
    }

    async fn open(
        &self,
        stream: TcpStream,
    ) -> Result<(Protocol, Option<CertificateFacts>, TlsStream<TcpStream>), Refused> {
        stream.set_nodelay(true)?;
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let offered = start.client_hello();
        let protocol = offered.alpn().into_iter().flatten();
        let protocol = Protocol::choose(protocol).ok_or(TlsError::NoProtocol)?;
        let config = self.configs.iter().find(|(p, _)| *p == protocol);
        let (_, config) = config.ok_or(TlsError::NoProtocol)?;
        let stream = start.into_stream(Arc::clone(config)).await?;
        let peer = match protocol {
            Protocol::Enroll => None,
            _ => Some(self.trust.peer(protocol, stream.get_ref().1.peer_certificates())?),
        };
        Ok((protocol, peer, stream))
    }
}

/// Takes the port.
///
/// # Errors
/// When it cannot be had.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

/// Accepts connections until `stop`, and ends those that stand then.
pub async fn listen<R: Reception>(
    listener: TcpListener,
    door: Door,
    reception: R,
    stop: CancellationToken,
) {
    let (handshakes, enrolling) =
        (Arc::new(Semaphore::new(HANDSHAKES)), Arc::new(Semaphore::new(ENROLLING)));
    let tasks = TaskTracker::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&handshakes).acquire_owned() => place,
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: some time lets others end.
                tracing::error!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (door, reception, enrolling) = (door.clone(), reception.clone(), enrolling.clone());
        let stopped = stop.clone();
        tasks.spawn(async move {
            // Boxed, as are all phases of a connection: a task keeps the room of its greatest phase,
            // and a link stands in its smallest.
            let opening = Box::pin(door.open(stream));
            let opened = tokio::time::timeout(HANDSHAKE, opening).await;
            drop((place, door));
            let opened = opened.map_err(|_| Refused::Slow).and_then(|o| o);
            let received = match opened {
                Ok((protocol, peer, stream)) => {
                    let place = match protocol {
                        Protocol::Enroll => enrolling.try_acquire_owned().map(Some),
                        _ => Ok(None),
                    };
                    match place {
                        Ok(_place) => {
                            let receive = Box::pin(reception.receive(protocol, peer, stream, from));
                            let _ = stopped.run_until_cancelled(receive).await;
                            Ok(())
                        }
                        Err(_) => Err(Refused::Full),
                    }
                }
                Err(refused) => Err(refused),
            };
            if let Err(refused) = received {
                reception.refused(&refused);
                tracing::warn!(%from, "a connection was refused: {refused}");
            }
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
}

/// Serves one short conversation, as enrolment and renewal are.
pub async fn serve_briefly<S>(stream: TlsStream<TcpStream>, service: S, keepalive: Keepalive)
where
    S: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let serve = link::serve(stream, service, keepalive, std::future::pending());
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(30), serve).await {
        tracing::debug!(%error, "a short connection ended early");
    }
}
