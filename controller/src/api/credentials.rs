//! Operators' keys and certificates: how they are made, and how they are renewed.

use std::time::Duration;

use hostler_core::{
    identity::{Principal, PrincipalName},
    pki::{CertificateFacts, Key},
};
use hostler_proto::wire::{AddOperatorReply, ErrorCode, Failure, RenewOperatorReply};
use rustls_pki_types::CertificateDer;
use tonic::Status;

use super::{App, operations::invalid, unstored};
use crate::{
    authz::{Operations, Role},
    selector::Selector,
    store::OperatorRow,
};

/// An operator to be.
#[derive(Debug)]
pub struct NewOperator {
    /// Its name.
    pub name: PrincipalName,
    /// What it may do.
    pub role: Role,
    /// On which hosts; none is all.
    pub scope: Option<Selector>,
    /// By which operations.
    pub operations: Operations,
    /// Life of its certificate, after which it is to end. Without one it lives as the configuration
    /// says, and the operator may renew it.
    pub life: Option<Duration>,
    /// Takes the place of one that has this name.
    pub replace: bool,
}

/// Makes an operator's key and certificate, and writes the operator down.
///
/// # Errors
/// When there is an operator of that name, or the store or the authority refuses.
pub async fn add_operator(app: &App, new: NewOperator) -> Result<AddOperatorReply, Status> {
    let key = Key::generate().map_err(invalid)?;
    let request = key.request().map_err(invalid)?;
    let life = new.life.unwrap_or(app.config.operator_certificate);
    let (certificate, facts) = sign(app, &new.name, &request, life)?;
    let name = new.name;
    let row = OperatorRow {
        name: name.clone(),
        role: new.role,
        scope: new.scope,
        operations: new.operations,
        serial: facts.serial,
        key: facts.key.to_string(),
        renewable: new.life.is_none(),
        created_us: app.clock.now().as_microsecond(),
        certificate_until_us: facts.not_after.as_microsecond(),
        revoked_us: None,
    };
    if !app.store.add_operator(&row, new.replace).await.map_err(unstored)? {
        return Err(Failure::new(ErrorCode::AlreadyExists, format!("there is an operator {name}"))
            .hint(format!("to give new credentials: hostlerctl operator revoke {name}, then add"))
            .into());
    }
    Ok(AddOperatorReply {
        chain_pem: chain(app, &certificate),
        key_pem: key.to_pem(),
        authority_pem: pem(app.vault.authority.certificate()),
        fleet: app.fleet.to_string(),
        expires_us: facts.not_after.as_microsecond(),
        addresses: app.config.addresses(),
    })
}

/// Signs an operator's certificate anew, for the key that it has.
///
/// # Errors
/// When its certificate was made to end, the request is for another key, or the store refuses.
pub(super) async fn renew_operator(
    app: &App,
    name: &PrincipalName,
    request: &[u8],
) -> Result<RenewOperatorReply, Status> {
    let row = app.store.operator(name).await.map_err(unstored)?;
    let gone = || Status::not_found(format!("there is no operator {name} any more"));
    let row = row.ok_or_else(gone)?;
    if !row.renewable {
        let message = format!("the certificate of {name} was made to end");
        return Err(Failure::new(ErrorCode::PermissionDenied, message)
            .hint("an admin can give new credentials: hostlerctl operator revoke, then add")
            .into());
    }
    let (certificate, facts) = sign(app, name, request, app.config.operator_certificate)?;
    let (key, until_us) = (facts.key.to_string(), facts.not_after.as_microsecond());
    if key != row.key {
        return Err(invalid("a certificate is renewed for the key that it has"));
    }
    let renewed = app.store.renew_operator(name, &key, &facts.serial, until_us).await;
    if !renewed.map_err(unstored)? {
        return Err(gone());
    }
    Ok(RenewOperatorReply { chain_pem: chain(app, &certificate), expires_us: until_us })
}

fn sign(
    app: &App,
    name: &PrincipalName,
    request: &[u8],
    life: Duration,
) -> Result<(CertificateDer<'static>, CertificateFacts), Status> {
    let (principal, now) = (Principal::Operator(name.clone()), app.clock.now());
    let authority = &app.vault.authority;
    let certificate =
        authority.sign(request, principal, &[], app.clock.id(), now, life).map_err(invalid)?;
    let facts = CertificateFacts::read(&certificate).map_err(invalid)?;
    Ok((certificate, facts))
}

fn chain(app: &App, certificate: &[u8]) -> String {
    format!("{}{}", pem(certificate), pem(app.vault.authority.certificate()))
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
