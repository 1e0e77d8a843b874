//! One GET by hand, with each of its phases measured: resolve, connect, TLS, first byte, body.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use hostler_proto::ops::HttpCheck;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Uri,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::TlsConnector;

/// Most of a body that is read.
pub(super) const BODY: usize = 64 * 1024;

/// Why a request brought no answer.
#[derive(Debug, Error)]
pub(in crate::ops) enum Trouble {
    /// The URL names no host or no usable scheme.
    #[error("the URL cannot be used: {0}")]
    Url(String),
    /// The name has no address.
    #[error("{0} has no address: {1}")]
    Resolve(String, #[source] io::Error),
    /// Nobody answers at any of the addresses.
    #[error("{0} cannot be connected to: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The handshake failed; for a certificate the reason is in the text.
    #[error("the TLS handshake with {0} failed: {1}")]
    Tls(String, #[source] io::Error),
    /// The connection broke or spoke something else.
    #[error("the answer is no HTTP, or broke off: {0}")]
    Http(#[from] hyper::Error),
    /// This host trusts no certificate authority at all.
    #[error("this host has no trusted certificate authorities: {0}")]
    Roots(String),
}

/// What has been seen so far. It is filled as the request goes on, so that a request that never
/// ends still tells how far it came.
#[derive(Debug, Default)]
pub(in crate::ops) struct Seen {
    /// The measurements.
    pub(in crate::ops) data: HttpCheck,
    /// What is being done, in words.
    pub(super) phase: &'static str,
    /// The beginning of the body.
    pub(in crate::ops) body: Vec<u8>,
    /// The certificate that the server showed, trusted or not.
    pub(super) certificate: Arc<Shown>,
}

/// The certificate that a server showed.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<Option<CertificateDer<'static>>>);

impl Shown {
    /// The end of its life, in seconds since 1970.
    pub(super) fn ends_at(&self) -> Option<i64> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, certificate) = x509_parser::parse_x509_certificate(shown.as_deref()?).ok()?;
        Some(certificate.validity().not_after.timestamp())
    }
}

/// Requests the URL once, without following redirections.
pub(in crate::ops) async fn get(uri: &Uri, seen: &mut Seen) -> Result<(), Trouble> {
    let begun = Instant::now();
    let host = uri.host().ok_or_else(|| Trouble::Url("it names no host".to_owned()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let encrypted = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(Trouble::Url("it must begin with http:// or https://".to_owned())),
    };
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });

    seen.phase = "resolving the name";
    let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|e| Trouble::Resolve(host.clone(), e))?
        .collect();
    seen.data.resolve_s = seconds(begun);

    seen.phase = "connecting";
    let tcp = connect(&host, &addresses, seen).await?;
    if !encrypted {
        return exchange(tcp, uri, seen).await;
    }
    seen.phase = "the TLS handshake";
    let config = config(&seen.certificate).await?;
    let handshake = Instant::now();
    let failed = |e| Trouble::Tls(host.clone(), e);
    let name = ServerName::try_from(host.clone())
        .map_err(|_| Trouble::Url(format!("{host} can be in no certificate")))?;
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(failed)?;
    seen.data.tls_s = seconds(handshake);
    exchange(tls, uri, seen).await
}

async fn connect(
    host: &str,
    addresses: &[SocketAddr],
    seen: &mut Seen,
) -> Result<TcpStream, Trouble> {
    let none = io::Error::new(io::ErrorKind::NotFound, "the list of its addresses is empty");
    let mut last = Trouble::Resolve(host.to_owned(), none);
    let begun = Instant::now();
    for address in addresses {
        seen.data.address = address.to_string();
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                seen.data.connect_s = seconds(begun);
                // Without it the request could wait for an acknowledgement and be measured slow.
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(error) => last = Trouble::Connect(*address, error),
        }
    }
    Err(last)
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    seen: &mut Seen,
) -> Result<(), Trouble> {
    seen.phase = "waiting for the first byte";
    let sent = Instant::now();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    // Its drop ends the connection, also when this future is dropped half way.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = hyper::Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, "hostler")
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Trouble::Url(e.to_string()))?;
    let answer = sender.send_request(request).await?;
    seen.data.first_byte_s = seconds(sent);
    seen.data.status = answer.status().as_u16().into();
    if let Some(location) = answer.headers().get(LOCATION) {
        seen.data.location = String::from_utf8_lossy(location.as_bytes()).into_owned();
    }
    seen.phase = "reading the body";
    let mut body = answer.into_body();
    while seen.body.len() < BODY
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            let room = (BODY - seen.body.len()).min(data.len());
            seen.body.extend_from_slice(&data[..room]);
        }
        seen.data.body_bytes = seen.body.len() as u64;
    }
    Ok(())
}

/// TLS as the host's own programs do it: with the authorities that the host trusts.
async fn config(shown: &Arc<Shown>) -> Result<Arc<ClientConfig>, Trouble> {
    let absent = |problem: String| Trouble::Roots(problem);
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(|e| absent(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(ToString::to_string);
        return Err(absent(why.unwrap_or_else(|| "none is installed".to_owned())));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trust = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| absent(e.to_string()))?;
    let verifier = Recording { trust, shown: Arc::clone(shown) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| absent(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Decides as the standard verifier does, and keeps what it was shown: the days that an expired
/// certificate is over could not be told otherwise.
#[derive(Debug)]
struct Recording {
    trust: Arc<WebPkiServerVerifier>,
    shown: Arc<Shown>,
}

impl ServerCertVerifier for Recording {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let copy = end_entity.clone().into_owned();
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        self.trust.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.supported_verify_schemes()
    }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
