//! Getting a certificate, and the next one in time.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hostler_core::{
    clock::Clock,
    dial::{DialError, dial},
    link::{self as transport, Keepalive},
    pki::{Key, PkiError},
    tls::{Protocol, TlsError, dial_pinned},
    token::Token,
};
use hostler_proto::wire::{
    CertificateReply, EnrollRequest, Failure, RenewRequest, enrolment_client::EnrolmentClient,
    renewal_client::RenewalClient,
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{Enrolled, IdentityError, Pending},
    link::Dialler,
    state::{State, StateError},
};

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(300);
/// How often the clock is looked at: a host that slept did not count the time.
const LOOK: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum EnrollError {
    /// The controller cannot be reached, or is not the one of the token.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No key or request could be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The connection broke.
    #[error("the controller ended the connection")]
    Broken(#[from] transport::Broken),
    /// The controller said no.
    #[error("the controller refused: {0}")]
    Refused(Failure),
    /// Nobody knows whether the controller enrolled the host.
    #[error(
        "the controller's answer did not come ({0}); run the same command again: the token counts for \
         this host until it expires"
    )]
    Unanswered(String),
    /// The identity cannot be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The controller has enrolled the host, whose identity cannot be kept.
    #[error(
        "{0}; the host is enrolled, so mend that and run the same command again: the token counts for it \
         until it expires"
    )]
    Unkept(IdentityError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What a host says of itself when it enrols.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The name that was asked for; the token's, or its own, when it is empty.
    pub host: String,
    /// The name that its kernel reports.
    pub hostname: String,
    /// Labels of its configuration.
    pub labels: BTreeMap<String, String>,
    /// Its installation.
    pub machine_id: String,
}

/// Enrols this host and writes its identity down. An identity that it has is replaced only by `force`.
///
/// # Errors
/// When the identity could not be kept, or the controller cannot be reached, is not the token's, or
/// refuses.
pub async fn enroll(
    address: &str,
    token: &Token,
    candidate: Candidate,
    state_dir: &Path,
    force: bool,
    clock: Arc<dyn Clock>,
) -> Result<Enrolled, EnrollError> {
    if !force {
        Enrolled::none(state_dir)?;
    }
    let _state = State::take(state_dir)?;
    let pending = Pending::begin(state_dir)?;
    let stream = dial(address, dial_pinned(token.authority, clock)?).await?;
    let (channel, driver) = transport::connect(stream, Keepalive::default()).await?;
    let driver = tokio::spawn(driver);
    let request = EnrollRequest {
        secret: format!("{}.{}", token.id, token.secret.reveal()),
        host: candidate.host,
        hostname: candidate.hostname,
        request: pending.key.request()?,
        labels: candidate.labels.into_iter().collect(),
        machine_id: candidate.machine_id,
    };
    let origin = http::Uri::from_static("https://controller");
    let reply = EnrolmentClient::with_origin(channel, origin).enroll(request).await;
    driver.abort();
    let reply = reply.map_err(|status| match Failure::told(&status) {
        Some(failure) => EnrollError::Refused(failure),
        None => EnrollError::Unanswered(status.message().to_owned()),
    });
    let enrolled = from_reply(reply?.into_inner(), vec![address.to_owned()], &pending.key);
    enrolled.write(state_dir).map_err(EnrollError::Unkept)?;
    pending.done()?;
    Ok(enrolled)
}

fn from_reply(reply: CertificateReply, controllers: Vec<String>, key: &Key) -> Enrolled {
    Enrolled::new(reply.fleet, reply.host, controllers, &reply.chain, key)
}

/// Renews the certificate at two thirds of its life, for as long as the agent runs. Links that
/// stand are not touched: new handshakes use the new certificate.
pub async fn keep_renewed(
    dialler: Dialler,
    addresses: Vec<String>,
    state_dir: std::path::PathBuf,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    loop {
        let due = match dialler.credentials.facts() {
            Ok(facts) => {
                let left = facts.renew_at().as_second() - clock.now().as_second();
                Duration::from_secs(u64::try_from(left).unwrap_or(0))
            }
            Err(_) => RETRY,
        };
        if !due.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(due.min(LOOK)) => continue,
                () = stop.cancelled() => return,
            }
        }
        for address in &addresses {
            match renew(&dialler, address, &state_dir).await {
                Ok(()) => {
                    tracing::info!(address, "the certificate was renewed");
                    break;
                }
                Err(error) => tracing::warn!(%error, "the certificate was not renewed"),
            }
        }
        // Whatever came of it: never two attempts without a pause.
        let wait = match dialler.credentials.facts() {
            Ok(facts) if facts.renew_at() > clock.now() => Duration::from_secs(1),
            _ => RETRY,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Renews the certificate once, with the same key: that is what allows it after its expiry.
///
/// # Errors
/// When the controller cannot be reached or refuses.
pub async fn renew(dialler: &Dialler, address: &str, state_dir: &Path) -> Result<(), EnrollError> {
    let enrolled = Enrolled::read(state_dir)?;
    let key = Key::from_pem(enrolled.key_pem())?;
    let stream = dialler.dial(address, Protocol::Renew).await?;
    let (channel, driver) = transport::connect(stream, Keepalive::default()).await?;
    let driver = tokio::spawn(driver);
    let request = RenewRequest { request: key.request()? };
    let origin = http::Uri::from_static("https://controller");
    let reply = RenewalClient::with_origin(channel, origin).renew(request).await;
    driver.abort();
    let reply = reply.map_err(|status| EnrollError::Refused(status.into()))?.into_inner();
    let chain = reply.chain.iter().cloned().map(CertificateDer::from).collect();
    // Written first: what is only in memory would be gone with the process.
    let renewed = from_reply(reply, enrolled.controllers, &key);
    renewed.write(state_dir)?;
    dialler.credentials.replace(chain, renewed.key_pem())?;
    Ok(())
}
