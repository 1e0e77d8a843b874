//! The authority's and the controller's keys and certificates, as they lie in the state directory.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE64;
use hostler_core::{
    clock::Clock,
    durable,
    identity::{FleetName, Principal, PrincipalName},
    pki::{Authority, Key, PkiError},
    tls::{Credentials, TlsError},
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Ten years. Renewing an authority is a change of trust that people plan.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3652 * 86_400);
/// Two years; the controller signs itself a new one when it starts in the last third.
const CONTROLLER_LIFE: Duration = Duration::from_secs(730 * 86_400);

/// Why there are no keys to work with.
#[derive(Debug, Error)]
pub enum VaultError {
    /// `init` has not run.
    #[error("{0} does not exist; run hostler-controller init first")]
    Missing(PathBuf),
    /// `init` has run.
    #[error("{0} exists already: this controller has a fleet; nothing was changed")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{0} is damaged; restore it from a backup")]
    Damaged(PathBuf),
    /// Another controller runs on it.
    #[error("another hostler-controller uses {0}; stop it first")]
    Taken(PathBuf),
    /// A key or certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// One file, so that it is never half new: everything that makes this controller this controller.
#[derive(Serialize, Deserialize)]
struct Stored {
    fleet: String,
    authority_key: String,
    authority: String,
    key: String,
    certificate: String,
}

/// The keys are left out.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

/// The authority and the controller's own credentials.
#[derive(Debug)]
pub struct Vault {
    /// Signs for the fleet.
    pub authority: Authority,
    /// The controller's own.
    pub credentials: Arc<Credentials>,
}

/// Keeps every other controller from the state directory for as long as it lives.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "the lock ends with the file")] fs::File);

/// Claims the state directory, which is made when it does not exist.
///
/// # Errors
/// When another controller has it, or it cannot be made.
pub fn claim(state_dir: &Path) -> Result<Claim, VaultError> {
    let path = state_dir.join("lock");
    let at = |path: &Path, source| VaultError::File { path: path.to_owned(), source };
    make_directory(state_dir).map_err(|e| at(state_dir, e))?;
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| at(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(Claim(file)),
        Err(fs::TryLockError::WouldBlock) => Err(VaultError::Taken(state_dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(at(&path, source)),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A vault that is made and not written down.
#[derive(Debug)]
pub struct Unwritten {
    path: PathBuf,
    stored: Stored,
}

impl Unwritten {
    /// Writes it down: from then on there is a fleet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<(), VaultError> {
        write(&self.path, &self.stored)
    }
}

impl Vault {
    /// Makes a fleet: its authority and the controller's certificate. There is none until it is
    /// written down.
    ///
    /// # Errors
    /// When there is one already.
    pub fn make(
        state_dir: &Path,
        fleet: FleetName,
        name: PrincipalName,
        clock: &dyn Clock,
    ) -> Result<(Self, Unwritten), VaultError> {
        let path = file(state_dir);
        if path.exists() {
            return Err(VaultError::Exists(path));
        }
        let authority = Authority::new(fleet, Key::generate()?, clock.now(), AUTHORITY_LIFE)?;
        let (key, certificate) = controller_certificate(&authority, name, clock)?;
        let stored = Stored {
            fleet: authority.fleet().to_string(),
            authority_key: authority.key_pem(),
            authority: BASE64.encode(authority.certificate()),
            key: key.to_pem(),
            certificate: BASE64.encode(&certificate),
        };
        let vault = Self::assemble(authority, certificate, &stored.key)?;
        Ok((vault, Unwritten { path, stored }))
    }

    /// Reads what was written down; a controller's certificate in its last third is signed anew.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(state_dir: &Path, clock: &dyn Clock) -> Result<Self, VaultError> {
        let path = file(state_dir);
        let damaged = || VaultError::Damaged(path.clone());
        let stored = read(&path)?;
        let der = |text: &str| BASE64.decode(text.as_bytes()).map(CertificateDer::from);
        let fleet = stored.fleet.parse().map_err(|_| damaged())?;
        let authority_der = der(&stored.authority).map_err(|_| damaged())?;
        let authority =
            Authority::from_parts(fleet, Key::from_pem(&stored.authority_key)?, authority_der)?;
        let certificate = der(&stored.certificate).map_err(|_| damaged())?;
        let vault = Self::assemble(authority, certificate, &stored.key)?;
        vault.renew(state_dir, clock)?;
        Ok(vault)
    }

    /// Signs the controller's certificate anew when it is in its last third; connections that stand
    /// go on, and those that come see the new one. False when it is too early.
    ///
    /// # Errors
    /// When it cannot be written; then the old one stays.
    pub fn renew(&self, state_dir: &Path, clock: &dyn Clock) -> Result<bool, VaultError> {
        let path = file(state_dir);
        let facts = self.credentials.facts()?;
        if clock.now() < facts.renew_at() {
            return Ok(false);
        }
        let Principal::Controller(name) = facts.identity.principal else {
            return Err(VaultError::Damaged(path));
        };
        let mut stored = read(&path)?;
        let (key, certificate) = controller_certificate(&self.authority, name, clock)?;
        (stored.key, stored.certificate) = (key.to_pem(), BASE64.encode(&certificate));
        write(&path, &stored)?;
        self.credentials.replace(self.chain(certificate), &stored.key)?;
        Ok(true)
    }

    // The authority goes along, so that an enrolling host can find what it pinned.
    fn chain(&self, certificate: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        vec![certificate, self.authority.certificate().clone()]
    }

    fn assemble(
        authority: Authority,
        certificate: CertificateDer<'static>,
        key: &str,
    ) -> Result<Self, VaultError> {
        let chain = vec![certificate, authority.certificate().clone()];
        Ok(Self { credentials: Credentials::new(chain, key)?, authority })
    }
}

fn controller_certificate(
    authority: &Authority,
    name: PrincipalName,
    clock: &dyn Clock,
) -> Result<(Key, CertificateDer<'static>), PkiError> {
    let key = Key::generate()?;
    let principal = Principal::Controller(name);
    let dns = ["controller".to_owned()];
    let (id, now) = (clock.id(), clock.now());
    let signed = authority.sign(&key.request()?, principal, &dns, id, now, CONTROLLER_LIFE)?;
    Ok((key, signed))
}

fn read(path: &Path) -> Result<Stored, VaultError> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(VaultError::Missing(path.to_owned()));
        }
        other => other.map_err(|source| VaultError::File { path: path.to_owned(), source })?,
    };
    toml::from_str(&text).map_err(|_| VaultError::Damaged(path.to_owned()))
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("fleet.toml")
}

fn write(path: &Path, stored: &Stored) -> Result<(), VaultError> {
    let text = toml::to_string(stored).map_err(io::Error::other);
    let written = text.and_then(|text| durable::replace(path, text.as_bytes()));
    written.map_err(|source| VaultError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use hostler_core::{clock::FixedClock, pki::Fingerprint};

    use super::*;

    #[test]
    fn a_fleet_is_made_once_and_its_controller_renews_its_own_certificate() {
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        let dir = tempfile::tempdir().expect("directory");
        let state = dir.path().join("state");
        assert!(matches!(Vault::open(&state, &clock), Err(VaultError::Missing(_))));
        let create = || {
            let (fleet, name) = ("prod".parse().expect("fleet"), "main".parse().expect("name"));
            Vault::make(&state, fleet, name, &clock)
        };
        let (made, unwritten) = create().expect("made");
        assert!(matches!(Vault::open(&state, &clock), Err(VaultError::Missing(_))));
        unwritten.write().expect("written");
        assert!(matches!(create(), Err(VaultError::Exists(_))));
        let mode = fs::metadata(file(&state)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let again = Vault::open(&state, &clock).expect("open");
        let pin = |v: &Vault| Fingerprint::of(v.authority.certificate());
        assert_eq!(pin(&made), pin(&again));
        let serial = |v: &Vault| v.credentials.facts().expect("facts").serial;
        assert_eq!(serial(&made), serial(&again));
        clock.advance(Duration::from_secs(500 * 86_400));
        assert!(again.renew(&state, &clock).expect("renewed"));
        let renewed = Vault::open(&state, &clock).expect("open");
        assert_ne!(serial(&renewed), serial(&made));
        assert_eq!(serial(&renewed), serial(&again), "what runs shows the new one, too");
        assert!(!again.renew(&state, &clock).expect("too early"));
        assert_eq!(serial(&renewed), serial(&Vault::open(&state, &clock).expect("open")));
    }

    #[test]
    fn a_state_directory_has_one_controller() {
        let dir = tempfile::tempdir().expect("directory");
        let first = claim(dir.path()).expect("claimed");
        assert!(matches!(claim(dir.path()), Err(VaultError::Taken(_))));
        drop(first);
        claim(dir.path()).expect("it is free again");
    }
}
