//! Keys, certificate requests, and the certificates that an authority signs.
//!
//! A private key is made where it is used and never travels. The authority takes nothing from a
//! request but its public key: name, purpose and life are the authority's own decision.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::identity::{FleetName, Identity, Principal};

/// Peers' clocks may lag by this much: certificates begin to be valid that much earlier.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why a key, a request or a certificate cannot be made or read.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The library that makes certificates refused.
    #[error("{doing} failed")]
    Make {
        /// What was being made.
        doing: &'static str,
        /// Its own words.
        #[source]
        source: rcgen::Error,
    },
    /// A certificate request is not signed by the key in it, or is no request at all.
    #[error("the certificate request cannot be read or is not signed with its own key")]
    Request(#[source] rcgen::Error),
    /// The key of a request is not of the one kind that is accepted.
    #[error("the certificate request's key is not ECDSA P-256")]
    KeyKind,
    /// A certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(&'static str),
}

fn making(doing: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { doing, source }
}

/// SHA-256 of a certificate or of a public key, shown as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of some DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// Reads what [`fmt::Display`] prints.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key and what can be asked with it. ECDSA P-256.
pub struct Key(KeyPair);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A fresh key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(making("making a key"))
    }

    /// Reads a key from PEM.
    ///
    /// # Errors
    /// When the text holds no ECDSA P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(making("reading a private key"))
    }

    /// The key as PEM, for a file that only its owner can read.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A request for a certificate, in DER. It names nobody: the authority decides the name.
    ///
    /// # Errors
    /// When signing fails.
    pub fn request(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(making("signing a request"))?;
        Ok(request.der().to_vec())
    }
}

/// An authority that signs the certificates of one fleet.
pub struct Authority {
    fleet: FleetName,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with its self-signed certificate.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn new(
        fleet: FleetName,
        key: Key,
        now: Timestamp,
        life: Duration,
    ) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("Hostler fleet {fleet}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(now, life)?;
        let doing = "making the authority's certificate";
        let certificate = params.self_signed(&key.0).map_err(making(doing))?.der().clone();
        Self::from_parts(fleet, key, certificate)
    }

    /// An authority from its stored key and certificate.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn from_parts(
        fleet: FleetName,
        key: Key,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key.0)
            .map_err(making("reading the authority's certificate"))?;
        Ok(Self { fleet, issuer, certificate })
    }

    /// The fleet that it vouches for.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's key as PEM, for a file that only its owner can read.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a certificate for the key of a request. `dns` are names under which a controller is
    /// dialled; `serial` must be fresh.
    ///
    /// # Errors
    /// When the request was not signed by its own key, or that is not ECDSA P-256.
    pub fn sign(
        &self,
        request: &[u8],
        principal: Principal,
        dns: &[String],
        serial: uuid::Uuid,
        now: Timestamp,
        life: Duration,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let der = CertificateSigningRequestDer::from(request);
        let mut request =
            CertificateSigningRequestParams::from_der(&der).map_err(PkiError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::KeyKind);
        }
        let purposes = match principal {
            // Both: an agent dials, may listen too, and a controller likewise.
            Principal::Agent(_) | Principal::Controller(_) => {
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
            }
            Principal::Operator(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let identity = Identity { fleet: self.fleet.clone(), principal };
        let doing = "naming a certificate";
        let mut names =
            vec![SanType::URI(identity.to_string().as_str().try_into().map_err(making(doing))?)];
        for name in dns {
            names.push(match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(making(doing))?),
            });
        }
        // Everything is set anew: what the request asked for beside its key is not looked at.
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        (params.not_before, params.not_after) = validity(now, life)?;
        request.params = params;
        let signed = request.signed_by(&self.issuer).map_err(making("signing a certificate"))?;
        Ok(signed.der().clone())
    }
}

fn validity(
    now: Timestamp,
    life: Duration,
) -> Result<(time::OffsetDateTime, time::OffsetDateTime), PkiError> {
    let begin = now.checked_sub(CLOCK_SKEW).unwrap_or(Timestamp::MIN);
    let end = now.checked_add(life).unwrap_or(Timestamp::MAX);
    let convert = |t: Timestamp| {
        time::OffsetDateTime::from_unix_timestamp(t.as_second())
            .map_err(|_| PkiError::Certificate("its validity lies outside the calendar"))
    };
    Ok((convert(begin)?, convert(end)?))
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is.
    pub identity: Identity,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// From when it counts.
    pub not_before: Timestamp,
    /// Until when it counts.
    pub not_after: Timestamp,
    /// Of the public key; stays the same when a certificate is renewed with the same key.
    pub key: Fingerprint,
    /// Of the whole certificate.
    pub fingerprint: Fingerprint,
}

impl CertificateFacts {
    /// Reads a leaf certificate. Whether anybody vouches for it is for [`crate::tls`] to say.
    ///
    /// # Errors
    /// When it is no certificate, or does not carry exactly one URI that is an identity.
    pub fn read(der: &[u8]) -> Result<Self, PkiError> {
        let unreadable = |_| PkiError::Certificate("it is no X.509 certificate");
        let (_, certificate) = X509Certificate::from_der(der).map_err(unreadable)?;
        let names = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .ok_or(PkiError::Certificate("it carries no name"))?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(PkiError::Certificate("it does not carry exactly one URI"));
        };
        let identity =
            uri.parse().map_err(|_| PkiError::Certificate("its URI is no identity of a fleet"))?;
        let validity = certificate.validity();
        let time = |t: i64| {
            Timestamp::from_second(t)
                .map_err(|_| PkiError::Certificate("its validity lies outside the calendar"))
        };
        Ok(Self {
            identity,
            serial: data_encoding::HEXLOWER.encode(certificate.raw_serial()),
            not_before: time(validity.not_before.timestamp())?,
            not_after: time(validity.not_after.timestamp())?,
            key: Fingerprint::of(certificate.public_key().raw),
            fingerprint: Fingerprint::of(der),
        })
    }

    /// The end of any certificate, an authority's too, which carries no identity.
    pub fn until(der: &[u8]) -> Option<Timestamp> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
    }

    /// When to renew: after two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        // Certificates begin a little before they are made, which is no part of their life.
        let made = self.not_before.as_second() + CLOCK_SKEW.as_secs().cast_signed();
        let at = made + (self.not_after.as_second() - made) / 3 * 2;
        Timestamp::from_second(at).unwrap_or(self.not_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, FixedClock};

    const DAY: Duration = Duration::from_secs(86_400);

    fn fixture() -> (FixedClock, Authority) {
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        let fleet = "prod".parse().expect("fleet");
        let key = Key::generate().expect("key");
        let authority = Authority::new(fleet, key, clock.now(), DAY * 3650).expect("authority");
        (clock, authority)
    }

    fn agent(name: &str) -> Principal {
        Principal::Agent(name.parse().expect("host name"))
    }

    #[test]
    fn a_signed_certificate_says_who_until_when_and_with_which_key() {
        let (clock, authority) = fixture();
        let request = Key::generate().expect("key").request().expect("request");
        let sign = || {
            authority
                .sign(&request, agent("web-1"), &[], clock.id(), clock.now(), DAY * 30)
                .expect("signed")
        };
        let first = CertificateFacts::read(&sign()).expect("facts");
        let second = CertificateFacts::read(&sign()).expect("facts");
        assert_eq!(first.identity.to_string(), "spiffe://prod/agent/web-1");
        assert_eq!(first.not_after.to_string(), "2026-01-31T00:00:00Z");
        assert_eq!(first.key, second.key);
        assert_ne!(first.serial, second.serial);
        assert_ne!(first.fingerprint, second.fingerprint);
        assert_eq!(first.renew_at().to_string(), "2026-01-21T00:00:00Z");
    }

    #[test]
    fn an_authority_read_back_from_its_files_signs_as_before() {
        let (clock, authority) = fixture();
        let key = Key::from_pem(&authority.key_pem()).expect("key");
        let again =
            Authority::from_parts(authority.fleet().clone(), key, authority.certificate().clone());
        let again = again.expect("authority");
        let request = Key::generate().expect("key").request().expect("request");
        let leaf = again.sign(&request, agent("a"), &[], clock.id(), clock.now(), DAY);
        let leaf = leaf.expect("signed");
        let (_, leaf) = X509Certificate::from_der(&leaf).expect("leaf");
        let (_, root) = X509Certificate::from_der(authority.certificate()).expect("root");
        assert_eq!(leaf.issuer(), root.subject());
    }

    #[test]
    fn a_request_that_was_tampered_with_is_refused() {
        let (clock, authority) = fixture();
        let mut request = Key::generate().expect("key").request().expect("request");
        let last = request.len() - 1;
        request[last] ^= 1;
        let signed = authority.sign(&request, agent("a"), &[], clock.id(), clock.now(), DAY);
        assert!(matches!(signed, Err(PkiError::Request(_))), "{signed:?}");
    }

    #[test]
    fn a_request_with_another_kind_of_key_is_refused() {
        let (clock, authority) = fixture();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let request = CertificateParams::default().serialize_request(&key).expect("request");
        let signed = authority.sign(request.der(), agent("a"), &[], clock.id(), clock.now(), DAY);
        assert!(matches!(signed, Err(PkiError::KeyKind)), "{signed:?}");
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        assert_eq!(format!("{:?}", Key::generate().expect("key")), "Key(..)");
    }
}
