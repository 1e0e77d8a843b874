//! Mutual TLS 1.3, and what a handshake proves.
//!
//! One port of a controller serves several kinds of peers. They tell which they are by ALPN, and
//! each kind is verified in its own way before it can say anything: see [`Protocol`].

use std::{
    fmt,
    sync::{Arc, RwLock},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject,
};
use thiserror::Error;

use crate::{
    clock::Clock,
    identity::{FleetName, Identity, Principal},
    pki::{CertificateFacts, Fingerprint, PkiError},
};

/// Why a configuration cannot be built, or a peer is not accepted.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The library refused.
    #[error("TLS refused {doing}")]
    Config {
        /// What was being set up.
        doing: &'static str,
        /// Its own words.
        #[source]
        source: rustls::Error,
    },
    /// A certificate cannot be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A private key cannot be read.
    #[error("the private key cannot be read")]
    Key,
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The peer speaks none of the protocols that are served here.
    #[error("the peer offered no protocol that is spoken here")]
    NoProtocol,
    /// The peer belongs to another fleet.
    #[error("the peer belongs to fleet {theirs}, and this is {ours}")]
    Fleet {
        /// Fleet in the peer's certificate.
        theirs: FleetName,
        /// This fleet.
        ours: FleetName,
    },
    /// The peer may not speak the protocol that it chose.
    #[error("{identity} may not speak {protocol}")]
    Role {
        /// The peer.
        identity: Identity,
        /// What it asked for.
        protocol: Protocol,
    },
}

/// What is spoken on a connection, as negotiated by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// An agent dialled; afterwards the controller calls it (HTTP/2 with the roles swapped).
    Link,
    /// gRPC as everybody knows it: an operator calls a controller, a controller a listening agent.
    Grpc,
    /// A host without an identity asks for one. The only one that needs no certificate.
    Enroll,
    /// A host asks for its next certificate; the one that it presents may have expired.
    Renew,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Link, Self::Grpc, Self::Enroll, Self::Renew];

    /// The protocol's name in the handshake.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Link => b"hostler-link/1",
            Self::Grpc => b"h2",
            Self::Enroll => b"hostler-enroll/1",
            Self::Renew => b"hostler-renew/1",
        }
    }

    /// The first of the offered protocols that is known.
    pub fn choose<'a>(offered: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        offered.into_iter().find_map(|o| Self::ALL.into_iter().find(|p| p.alpn() == o))
    }

    /// Whether such a peer may open such a connection to a controller.
    fn admits(self, principal: &Principal) -> bool {
        matches!(
            (self, principal),
            (Self::Link | Self::Renew, Principal::Agent(_))
                | (Self::Grpc, Principal::Operator(_) | Principal::Controller(_))
        )
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "an agent's link",
            Self::Grpc => "gRPC",
            Self::Enroll => "enrolment",
            Self::Renew => "renewal",
        })
    }
}

/// A certificate with its key, which can be exchanged while connections stand: new handshakes use
/// the new one.
#[derive(Debug)]
pub struct Credentials {
    current: RwLock<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Credentials of a chain (own certificate first) and a key in PEM.
    ///
    /// # Errors
    /// When the key cannot be read or is not that of the certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Result<Arc<Self>, TlsError> {
        let provider = provider();
        let certified = certified(&provider, chain, key_pem)?;
        Ok(Arc::new(Self { current: RwLock::new(Arc::new(certified)), provider }))
    }

    /// Puts a renewed certificate in place.
    ///
    /// # Errors
    /// As [`Credentials::new`]; the old one then stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key_pem: &str,
    ) -> Result<(), TlsError> {
        let certified = Arc::new(certified(&self.provider, chain, key_pem)?);
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = certified;
        Ok(())
    }

    /// What the own certificate says.
    ///
    /// # Errors
    /// When it carries no identity.
    pub fn facts(&self) -> Result<CertificateFacts, TlsError> {
        let leaf = self.current();
        let leaf = leaf.cert.first().ok_or(TlsError::NoCertificate)?;
        Ok(CertificateFacts::read(leaf)?)
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &str,
) -> Result<CertifiedKey, TlsError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TlsError::Key)?;
    CertifiedKey::from_der(chain, PrivateKeyDer::Pkcs8(key), provider)
        .map_err(|source| TlsError::Config { doing: "the certificate and its key", source })
}

/// What every configuration of one process shares: whom it trusts, whose fleet it is, the time.
#[derive(Debug, Clone)]
pub struct Trust {
    fleet: FleetName,
    roots: Arc<RootCertStore>,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Trusts those who carry a certificate of one of these authorities and name this fleet.
    ///
    /// # Errors
    /// When one of the certificates cannot be used as an authority's.
    pub fn new(
        fleet: FleetName,
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            let doing = "an authority's certificate";
            roots.add(authority).map_err(|source| TlsError::Config { doing, source })?;
        }
        Ok(Self { fleet, roots: Arc::new(roots), clock, provider: provider() })
    }

    /// How a controller accepts a connection of that protocol. `grace` is how long after its
    /// expiry a certificate may still be renewed.
    ///
    /// # Errors
    /// When the trusted authorities cannot verify anybody.
    pub fn accept(
        &self,
        protocol: Protocol,
        credentials: &Arc<Credentials>,
        grace: Duration,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let time = Arc::new(Time(Arc::clone(&self.clock)));
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| TlsError::Config { doing: "TLS 1.3", source })?;
        let builder = match protocol {
            Protocol::Enroll => builder.with_no_client_auth(),
            Protocol::Link | Protocol::Grpc => {
                builder.with_client_cert_verifier(self.client_verifier()?)
            }
            Protocol::Renew => {
                let inner = self.client_verifier()?;
                builder.with_client_cert_verifier(Arc::new(Graceful { inner, grace }))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(credentials) as _);
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        // A resumed session would outlive a revocation, and its state costs memory per peer.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// How to dial somebody of whom `expected` must hold.
    ///
    /// # Errors
    /// When TLS 1.3 is not available.
    pub fn dial(
        &self,
        protocol: Protocol,
        credentials: &Arc<Credentials>,
        expected: Expected,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = PeerVerifier { trust: self.clone(), expected };
        let time = Arc::new(Time(Arc::clone(&self.clock)));
        let mut config = ClientConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|source| TlsError::Config { doing: "TLS 1.3", source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(credentials) as _);
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// What a finished handshake with a controller's listener proves about the peer.
    ///
    /// # Errors
    /// When it presented no certificate, is of another fleet, or may not speak this protocol.
    pub fn peer(
        &self,
        protocol: Protocol,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<CertificateFacts, TlsError> {
        let leaf = certificates.and_then(<[_]>::first).ok_or(TlsError::NoCertificate)?;
        let facts = CertificateFacts::read(leaf)?;
        let (theirs, ours) = (&facts.identity.fleet, &self.fleet);
        if theirs != ours {
            return Err(TlsError::Fleet { theirs: theirs.clone(), ours: ours.clone() });
        }
        if !protocol.admits(&facts.identity.principal) {
            return Err(TlsError::Role { identity: facts.identity, protocol });
        }
        Ok(facts)
    }

    /// Whether a caller of a listening agent is a controller of this fleet.
    ///
    /// # Errors
    /// When it is anybody else.
    pub fn controller(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<(), TlsError> {
        let identity = self.peer(Protocol::Grpc, certificates)?.identity;
        match identity.principal {
            Principal::Controller(_) => Ok(()),
            _ => Err(TlsError::Role { identity, protocol: Protocol::Grpc }),
        }
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let roots = Arc::clone(&self.roots);
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|e| TlsError::Config {
                doing: "the verification of clients",
                source: rustls::Error::General(e.to_string()),
            })
    }
}

/// How to dial a controller before one has an identity: the authority is known only by the
/// fingerprint that came with the enrolment token.
///
/// # Errors
/// When TLS 1.3 is not available.
pub fn dial_pinned(
    authority: Fingerprint,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = PinnedVerifier { authority, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Config { doing: "TLS 1.3", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![Protocol::Enroll.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whom a dialler means to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Any controller of the fleet.
    Controller,
    /// The agent of exactly that name.
    Exactly(Identity),
}

impl Expected {
    fn holds(&self, fleet: &FleetName, peer: &Identity) -> bool {
        match self {
            Self::Controller => {
                peer.fleet == *fleet && matches!(peer.principal, Principal::Controller(_))
            }
            Self::Exactly(identity) => identity == peer,
        }
    }
}

/// aws-lc-rs with TLS 1.3 suites only; its first key exchange is the hybrid X25519MLKEM768.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    Arc::new(provider)
}

#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Verifies a dialled peer by its chain and its URI; host names play no part.
#[derive(Debug)]
struct PeerVerifier {
    trust: Trust,
    expected: Expected,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_chain(&self.trust.provider, &self.trust.roots, leaf, intermediates, now)?;
        match CertificateFacts::read(leaf) {
            Ok(facts) if self.expected.holds(&self.trust.fleet, &facts.identity) => {
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(rustls::CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies a controller by an authority in its own chain, of which only the fingerprint is known.
#[derive(Debug)]
struct PinnedVerifier {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|c| Fingerprint::of(c) == self.authority);
        let pinned = pinned.ok_or(rustls::CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        verify_chain(&self.provider, &roots, leaf, intermediates, now)?;
        match CertificateFacts::read(leaf).map(|f| f.identity.principal) {
            Ok(Principal::Controller(_)) => Ok(ServerCertVerified::assertion()),
            _ => Err(rustls::CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies a client as ever, but at most `grace` after its certificate's end.
#[derive(Debug)]
struct Graceful {
    inner: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

impl ClientCertVerifier for Graceful {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let encoding = || rustls::Error::from(rustls::CertificateError::BadEncoding);
        let facts = CertificateFacts::read(leaf).map_err(|_| encoding())?;
        let end = u64::try_from(facts.not_after.as_second()).map_err(|_| encoding())?;
        let late = now.as_secs().saturating_sub(end);
        // Within the grace the chain is verified as of the certificate's last second.
        let at = match late > 0 && late <= self.grace.as_secs() {
            true => UnixTime::since_unix_epoch(Duration::from_secs(end)),
            false => now,
        };
        self.inner.verify_client_cert(leaf, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn verify_chain(
    provider: &CryptoProvider,
    roots: &RootCertStore,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider.signature_verification_algorithms.all;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &leaf,
        roots,
        intermediates,
        now,
        algorithms,
    )
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General(String::from("TLS 1.3 only"))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
