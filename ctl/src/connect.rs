//! The connection to a fleet's controller: mutual TLS, then gRPC over one HTTP/2 connection.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use hostler_core::{
    clock::Clock,
    dial::dial,
    link::{self, Channel, Keepalive},
    tls::{Expected, Protocol, Trust},
};
use hostler_proto::wire::{
    ErrorCode, Failure, access_client::AccessClient, audit_client::AuditClient,
    fleet_client::FleetClient, health_client::HealthClient, operations_client::OperationsClient,
};
use http::Uri;
use rustls::ClientConfig;
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::{
    context::Context,
    exit::{Exit, Problem},
};

/// Longest for an answer that does not depend on hosts.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest message that is accepted; a list of ten thousand hosts is a few megabytes.
const MAX_MESSAGE: usize = 64 << 20;

/// A controller that can be asked.
#[derive(Debug, Clone)]
pub struct Controller {
    channel: Channel,
    address: String,
}

macro_rules! client {
    ($(#[$doc:meta])* $name:ident, $client:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $client<Channel> {
            $client::with_origin(self.channel.clone(), Uri::from_static("https://controller"))
                .max_decoding_message_size(MAX_MESSAGE)
        }
    };
}

impl Controller {
    client!(
        /// Asks about hosts.
        fleet, FleetClient
    );
    client!(
        /// Runs operations.
        operations, OperationsClient
    );
    client!(
        /// Reads the audit.
        audit, AuditClient
    );
    client!(
        /// Changes who may do what.
        access, AccessClient
    );
    client!(
        /// Tells how the hosts' checks stand.
        health, HealthClient
    );

    /// Connects to the first of the context's addresses that answers.
    ///
    /// # Errors
    /// When the context cannot be used, or none of the addresses is a controller of its fleet.
    pub async fn dial(context: &Context, clock: Arc<dyn Clock>) -> Result<Self, Problem> {
        let unusable = |e: &dyn Error| {
            Problem::usage(format!("the context of fleet {} cannot be used: {e}", context.fleet))
        };
        let credentials = context.credentials().map_err(|e| unusable(&e))?;
        let facts = credentials.facts().map_err(|e| unusable(&e))?;
        if facts.not_after <= clock.now() {
            let message =
                format!("the certificate of {} ended at {}", facts.identity, facts.not_after);
            return Err(Problem::new(Exit::Denied, message)
                .hint("ask an admin for a new context (`hostlerctl operator add`)"));
        }
        let fleet = context.fleet().map_err(|e| unusable(&e))?;
        let trust = Trust::new(fleet, context.authorities(), clock).map_err(|e| unusable(&e))?;
        let config = trust
            .dial(Protocol::Grpc, &credentials, Expected::Controller)
            .map_err(|e| unusable(&e))?;
        let mut failed: Option<Problem> = None;
        for address in &context.addresses {
            match open(Arc::clone(&config), address).await {
                Ok(channel) => return Ok(Self { channel, address: address.clone() }),
                Err(e) => failed = Some(unreachable(address, &reason(&*e))),
            }
        }
        Err(failed.unwrap_or_else(|| Problem::usage("the context names no address")))
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for an answer that does not depend on hosts.
    ///
    /// # Errors
    /// With the controller's refusal, or when there is no answer.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Problem> {
        match timeout(ANSWER, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.problem(status)),
            Err(_) => Err(self.silent()),
        }
    }

    /// The same of a call that names hosts: nothing else there can be missing.
    ///
    /// # Errors
    /// With the controller's refusal, or when there is no answer.
    pub async fn answer_of_host<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Problem> {
        match timeout(ANSWER, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.unmatched(status)),
            Err(_) => Err(self.silent()),
        }
    }

    /// What a refusal of a call means that names hosts.
    pub fn unmatched(&self, status: Status) -> Problem {
        let failure = Failure::from(status.clone());
        match failure.code() {
            ErrorCode::NotFound => Problem::new(Exit::NoHost, failure.message)
                .hint("`hostlerctl hosts` lists those that there are"),
            _ => self.problem(status),
        }
    }

    /// What a status of this controller means. A status that the controller did not send is the
    /// connection's end.
    pub fn problem(&self, status: Status) -> Problem {
        let lost = status.code() == Code::Unknown || self.channel.is_closed();
        if !status.details().is_empty() || !lost {
            return Failure::from(status).into();
        }
        unreachable(&self.address, &reason(&status))
    }

    /// It did not answer in time.
    pub fn silent(&self) -> Problem {
        unreachable(&self.address, "it did not answer within 30 s")
    }

    /// The stream of a run's events ended before its summary.
    pub fn cut_short(&self) -> Problem {
        unreachable(&self.address, "the answer ended before it was complete")
    }
}

fn unreachable(address: &str, why: &str) -> Problem {
    // TLS 1.3 tells a client that it is refused only after the handshake, in place of an answer.
    if why.contains("received fatal alert") {
        let message =
            format!("the controller at {address} does not accept this certificate: {why}");
        return Problem::new(Exit::Denied, message)
            .hint("it may be revoked; ask an admin for a new context");
    }
    if why.contains("invalid peer certificate") {
        let message = format!(
            "what answers at {address} does not prove that it is a controller of this context's \
             fleet: {why}"
        );
        return Failure::new(ErrorCode::Unreachable, message)
            .hint(
                "it is of another fleet, was made anew, or something in between ends TLS; \
                 `hostlerctl context show` names fleet and address",
            )
            .into();
    }
    let message = format!("no answer from the controller at {address}: {why}");
    Failure::new(ErrorCode::Unreachable, message)
        .hint("check that it runs, and that the context names its address (`hostlerctl context show`)")
        .into()
}

/// The innermost reason, which is the one that says something.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    // rustls adds the page of its manual on it, which is for programmers.
    text.split_once(": https://docs.rs/").map(|(text, _)| text.to_owned()).unwrap_or(text)
}

async fn open(
    config: Arc<ClientConfig>,
    address: &str,
) -> Result<Channel, Box<dyn Error + Send + Sync>> {
    let tls = dial(address, config).await?;
    let (channel, driver) = link::connect(tls, Keepalive::default()).await?;
    // It ends with the connection; what it ends with shows in the calls that fail.
    tokio::spawn(driver);
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_cut_is_told_without_pages_for_programmers() {
        let cut = "peer closed connection without sending TLS close_notify";
        let why = format!("{cut}: https://docs.rs/rustls/latest/rustls/manual/x.html");
        assert_eq!(reason(&std::io::Error::other(why)), cut);
        assert_eq!(reason(&std::io::Error::other("connection reset")), "connection reset");
    }

    #[test]
    fn a_refused_certificate_is_not_taken_for_an_absent_controller() {
        let why = "received fatal alert: CertificateRevoked";
        assert_eq!(unreachable("c:1", why).exit, Exit::Denied);
        assert_eq!(unreachable("c:1", "connection refused").exit, Exit::Controller);
        let stranger = unreachable("c:1", "invalid peer certificate: UnknownIssuer");
        assert_eq!(stranger.exit, Exit::Controller);
        assert!(stranger.message.starts_with("what answers at c:1"), "{stranger}");
    }
}
