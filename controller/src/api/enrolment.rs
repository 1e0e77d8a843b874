//! Certificates for hosts: the first one against a token, the next ones against the one before.

use std::net::SocketAddr;

use hostler_core::{
    identity::Principal,
    pki::{CertificateFacts, Fingerprint},
    token::TokenSecret,
};
use hostler_proto::{
    name::HostName,
    wire::{
        CertificateReply, EnrollRequest, ErrorCode, Failure, RenewRequest,
        enrolment_server::Enrolment, renewal_server::Renewal,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, operations::unaudited, unstored};
use crate::{
    audit::Entry,
    store::{Connection, EnrollError, NewHost},
};

/// One connection of a host without an identity.
#[derive(Debug)]
pub struct Enrolling {
    /// The controller.
    pub api: Api,
    /// Where it comes from.
    pub from: SocketAddr,
}

/// One connection of a host whose certificate was proven, though it may have expired.
#[derive(Debug)]
pub struct Renewing {
    /// The controller.
    pub api: Api,
    /// What was proven.
    pub peer: CertificateFacts,
}

/// The same answer for a token that never was, is used up or expired: it tells a guesser nothing.
fn refused() -> Status {
    Failure::new(ErrorCode::PermissionDenied, "the token is unknown, used up or expired")
        .hint("make a new one with: hostlerctl token create")
        .into()
}

impl Api {
    /// A machine with some key has a host's name: whoever had it before is no longer the host, and what
    /// was seen and measured there is not of this one.
    fn taken(&self, host: &HostName, key: Fingerprint) {
        let app = &self.0;
        if let Some(former) = app.links.get(host).filter(|link| link.key != key) {
            former.cut.cancel();
        }
        app.links.forget_twin(host);
        app.figures.forget(host);
        app.outlooks.forget(host);
    }
}

#[tonic::async_trait]
impl Enrolment for Enrolling {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<CertificateReply>, Status> {
        let app = &self.api.0;
        let request = request.into_inner();
        let now = app.clock.now();
        let (id, secret) = request.secret.split_once('.').ok_or_else(refused)?;
        let secret: TokenSecret = secret.parse().map_err(|_| refused())?;
        let token = app.store.token(id, &secret.hash(), now.as_microsecond()).await;
        let token = token.map_err(unstored)?.ok_or_else(|| {
            let id: String = id.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
            tracing::warn!(from = %self.from, token = id, "a token was refused");
            refused()
        })?;
        let host = named(&token.host, &request.host, &request.hostname)?;
        let life = app.config.agent_certificate;
        let principal = Principal::Agent(host.clone());
        let certificate = app
            .vault
            .authority
            .sign(&request.request, principal, &[], app.clock.id(), now, life)
            .map_err(super::operations::invalid)?;
        let facts = CertificateFacts::read(&certificate).map_err(super::operations::invalid)?;
        let key = facts.key.to_string();
        // Its answer was lost. Who asks has proven to have the key that was enrolled, so that all it gets
        // is a certificate that it could renew.
        let row = app.store.host(&host).await.map_err(unstored)?;
        let known = row.filter(|r| r.revoked_us.is_none() && r.key == key);
        let again = known.is_some();
        if !again && token.uses_left < 1 {
            return Err(refused());
        }
        let mut detail = serde_json::json!({ "from": self.from.to_string(), "key": key });
        if again {
            detail["again"] = true.into();
        }
        let intent = Entry {
            kind: "intent",
            principal: format!("token/{id}"),
            invocation: app.clock.id().to_string(),
            operation: "host.enroll".into(),
            subject: host.to_string(),
            detail: detail.to_string(),
            ..Entry::default()
        };
        app.auditor.record_all(vec![intent.clone()]).await.map_err(unaudited)?;
        let certificate_until_us = facts.not_after.as_microsecond();
        let new = NewHost {
            name: host.clone(),
            labels: token.labels.clone(),
            machine_id: request.machine_id.chars().take(64).collect(),
            key,
            certificate_until_us,
            replace: token.replace,
        };
        let enrolled = match again {
            true => {
                app.store.set_certificate(&host, certificate_until_us).await.map_err(Into::into)
            }
            false => app.store.enroll(id, new, now.as_microsecond()).await,
        };
        // Of one that was never linked the store alone knows: the answer that was lost may be the store's.
        if enrolled.is_ok() && known.is_none_or(|r| r.connection == Connection::Never) {
            self.api.taken(&host, facts.key);
        }
        let outcome = match &enrolled {
            Ok(()) => "ok",
            Err(EnrollError::Store(error)) => {
                detail["summary"] = error.to_string().into();
                "failed"
            }
            Err(EnrollError::Taken | EnrollError::Token) => "refused",
        };
        let (outcome, detail) = (outcome.to_owned(), detail.to_string());
        self.api.came_out(Entry { kind: "outcome", outcome, detail, ..intent }).await;
        match enrolled {
            Ok(()) => {}
            Err(EnrollError::Taken) => {
                let message = format!("there is a host {host} already");
                return Err(Failure::new(ErrorCode::AlreadyExists, message)
                    .hint(format!(
                        "to enrol it again, an admin runs: hostlerctl token create --host {host} \
                         --replace"
                    ))
                    .into());
            }
            Err(EnrollError::Token) => return Err(refused()),
            Err(EnrollError::Store(error)) => return Err(unstored(error)),
        }
        tracing::info!(%host, from = %self.from, again, "enrolled");
        Ok(Response::new(reply(&self.api, host.to_string(), &certificate)))
    }
}

#[tonic::async_trait]
impl Renewal for Renewing {
    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<CertificateReply>, Status> {
        let app = &self.api.0;
        let Principal::Agent(host) = &self.peer.identity.principal else { return Err(refused()) };
        let row = app.store.host(host).await.map_err(unstored)?;
        let known =
            row.is_some_and(|r| r.revoked_us.is_none() && r.key == self.peer.key.to_string());
        if !known {
            let message = format!("{host} is revoked, or was enrolled again with another key");
            return Err(Failure::new(ErrorCode::PermissionDenied, message).into());
        }
        let now = app.clock.now();
        let life = app.config.agent_certificate;
        let principal = Principal::Agent(host.clone());
        let certificate = app
            .vault
            .authority
            .sign(&request.get_ref().request, principal, &[], app.clock.id(), now, life)
            .map_err(super::operations::invalid)?;
        let facts = CertificateFacts::read(&certificate).map_err(super::operations::invalid)?;
        if facts.key != self.peer.key {
            let message = format!("{host} asked to renew with another key");
            return Err(Failure::new(ErrorCode::PermissionDenied, message)
                .hint("a new key needs a new enrolment")
                .into());
        }
        let late = now > self.peer.not_after;
        let entry = Entry {
            kind: "change",
            principal: format!("agent/{host}"),
            operation: "host.renew".into(),
            subject: host.to_string(),
            outcome: "ok".into(),
            detail: serde_json::json!({ "after_expiry": late }).to_string(),
            ..Entry::default()
        };
        app.auditor.record_all(vec![entry]).await.map_err(unaudited)?;
        let until = facts.not_after.as_microsecond();
        app.store.set_certificate(host, until).await.map_err(unstored)?;
        Ok(Response::new(reply(&self.api, host.to_string(), &certificate)))
    }
}

/// The host's name: the token's, or the one asked for, or its own.
fn named(token: &str, asked: &str, own: &str) -> Result<HostName, Status> {
    if !token.is_empty() && !asked.is_empty() && token != asked {
        let message = format!("the token is for {token}, not for {asked}");
        return Err(Failure::new(ErrorCode::PermissionDenied, message)
            .hint(format!("make one with: hostlerctl token create --host {asked}"))
            .into());
    }
    let name = [token, asked, own].into_iter().find(|n| !n.is_empty()).unwrap_or_default();
    name.parse().map_err(super::operations::invalid)
}

fn reply(api: &Api, host: String, certificate: &[u8]) -> CertificateReply {
    let authority = api.0.vault.authority.certificate().to_vec();
    CertificateReply {
        chain: vec![certificate.to_vec(), authority],
        fleet: api.0.fleet.to_string(),
        host,
    }
}
