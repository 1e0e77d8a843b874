//! The controller's one port. A connection says by ALPN what it is, is proven to be that, and goes
//! to whom it belongs; nothing is answered before.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hostler_core::{
    link::{self, Keepalive},
    pki::CertificateFacts,
    tls::{Credentials, Protocol, TlsError, Trust},
};
use rustix::net::RecvFlags;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::unproven::{Shares, Unproven, Waiting};

/// Longest until the first byte comes. Peers speak at once; a packet that was lost is sent again
/// within a second.
const FIRST_BYTE: Duration = Duration::from_secs(3);
/// Longest from the first byte to a whole greeting, and from there to a finished handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest for the rest of a greeting while others want the room.
const MOMENT: Duration = Duration::from_secs(1);
/// Handshakes at a time. Each costs about a millisecond of a processor: the rest waits instead of
/// timing out half done.
const HANDSHAKES: usize = 256;
/// Those of one address: one that finishes none leaves room for the others.
const HANDSHAKES_EACH: usize = 128;
/// Greetings whose handshake is not finished, and those of one address, behind which a whole fleet
/// may stand. Agents beyond them dial anew a little later.
const GREETINGS: usize = 12_288;
const GREETINGS_EACH: usize = 10_240;
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
    /// Nothing came.
    #[error("it said nothing within 3 s")]
    Silent,
    /// Nothing had come when others wanted the room.
    #[error("it said nothing while too many others wait")]
    Crowded,
    /// The peer is not who may connect so.
    #[error(transparent)]
    Peer(#[from] TlsError),
    /// Too many want to be proven.
    #[error("too many handshakes wait")]
    Busy,
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

impl Refused {
    /// Whoever wants to can make thousands of these, and none of them tells anything.
    fn is_noise(&self) -> bool {
        matches!(self, Self::Silent | Self::Crowded)
    }
}

/// The configurations of the four protocols, and how many may stand before them.
#[derive(Debug, Clone)]
pub struct Door {
    trust: Trust,
    configs: [(Protocol, Arc<ServerConfig>); 4],
    unproven: Unproven,
    greetings: Arc<Semaphore>,
    greetings_each: Shares,
    handshakes: Arc<Semaphore>,
    handshakes_each: Shares,
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
        Ok(Self {
            trust,
            configs,
            unproven: Unproven::default(),
            greetings: Arc::new(Semaphore::new(GREETINGS)),
            greetings_each: Shares::new(GREETINGS_EACH),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            handshakes_each: Shares::new(HANDSHAKES_EACH),
        })
    }

    /// Waits for a connection's greeting. Until it is there the connection takes nobody's place.
    async fn greet(
        stream: TcpStream,
        mut waiting: Waiting,
    ) -> Result<StartHandshake<TcpStream>, Refused> {
        let evicted = waiting.evicted.clone();
        let mut byte = [0];
        let spoken = tokio::select! {
            biased;
            spoken = timeout(FIRST_BYTE, stream.peek(&mut byte)) => spoken.map(|s| s.map(drop)),
            // The runtime may not have been told yet of what has come.
            () = evicted.cancelled() => match has_spoken(&stream) {
                true => Ok(Ok(())),
                false => return Err(Refused::Crowded),
            },
        };
        spoken.map_err(|_| Refused::Silent)??;
        let counted = waiting.spoke();
        let greeting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let patience = async {
            match counted {
                true => evicted.cancelled().await,
                // What has come in part is whole in a moment.
                false => tokio::time::sleep(MOMENT).await,
            }
        };
        tokio::select! {
            biased;
            greeted = timeout(HANDSHAKE, greeting) => Ok(greeted.map_err(|_| Refused::Slow)??),
            () = patience => Err(Refused::Crowded),
        }
    }

    async fn open(
        &self,
        stream: TcpStream,
        waiting: Waiting,
        from: IpAddr,
    ) -> Result<(Protocol, Option<CertificateFacts>, TlsStream<TcpStream>), Refused> {
        stream.set_nodelay(true)?;
        let start = Self::greet(stream, waiting).await?;
        let offered = start.client_hello();
        let protocol = offered.alpn().into_iter().flatten();
        let protocol = Protocol::choose(protocol).ok_or(TlsError::NoProtocol)?;
        let config = self.configs.iter().find(|(p, _)| *p == protocol);
        let (_, config) = config.ok_or(TlsError::NoProtocol)?;
        let (greetings, handshakes) = (self.greetings_each.of(from), self.handshakes_each.of(from));
        let _greeting = self.greetings.try_acquire().map_err(|_| Refused::Busy)?;
        let _greeting_of = greetings.try_acquire().map_err(|_| Refused::Busy)?;
        // In this order: who waits for the share of its address keeps nobody else waiting.
        let _handshake_of = handshakes.acquire().await;
        let _handshake = self.handshakes.acquire().await;
        let stream = timeout(HANDSHAKE, start.into_stream(Arc::clone(config))).await;
        let stream = stream.map_err(|_| Refused::Slow)??;
        let peer = match protocol {
            Protocol::Enroll => None,
            _ => Some(self.trust.peer(protocol, stream.get_ref().1.peer_certificates())?),
        };
        Ok((protocol, peer, stream))
    }
}

/// Whether something has come that was not read yet.
fn has_spoken(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    rustix::net::recv(stream, &mut byte[..], flags).is_ok_and(|(read, _)| read > 0)
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
    let enrolling = Arc::new(Semaphore::new(ENROLLING));
    let tasks = TaskTracker::new();
    loop {
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
        let waiting = door.unproven.join(from.ip());
        tasks.spawn(async move {
            // Boxed, as are all phases of a connection: a task keeps the room of its greatest phase,
            // and a link stands in its smallest.
            let opened = Box::pin(door.open(stream, waiting, from.ip())).await;
            drop(door);
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
                match refused.is_noise() {
                    true => tracing::debug!(%from, "a connection was refused: {refused}"),
                    false => tracing::warn!(%from, "a connection was refused: {refused}"),
                }
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

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
