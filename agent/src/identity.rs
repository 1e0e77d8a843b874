//! The agent's own key and certificate, as they lie in its state directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hostler_core::{durable, identity::FleetName, pki::Key};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why the identity cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is none yet.
    #[error(
        "this host is not enrolled: {0} does not exist; run hostler-agent enroll --controller \
         HOST:PORT --token-file FILE"
    )]
    NotEnrolled(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It would be overwritten.
    #[error(
        "this host is enrolled already, as {host} of the fleet {fleet} ({path}); to enrol it anew, stop \
         its agent and give --force"
    )]
    Enrolled {
        /// Its name.
        host: String,
        /// Its fleet.
        fleet: String,
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{0} is damaged; enrol the host again, with --force")]
    Damaged(PathBuf),
}

/// What enrolment gave the host. One file, so that it is never half new.
#[derive(Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// The fleet's name.
    pub fleet: String,
    /// The host's name in it.
    pub host: String,
    /// Where the controllers listen.
    pub controllers: Vec<String>,
    /// Own certificate, then its authority's; DER in base64.
    chain: Vec<String>,
    /// Own key, PEM.
    key: String,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolled").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Enrolled {
    /// From what a controller answered.
    pub fn new(
        fleet: String,
        host: String,
        controllers: Vec<String>,
        chain: &[Vec<u8>],
        key: &Key,
    ) -> Self {
        let chain = chain.iter().map(|c| data_encoding::BASE64.encode(c)).collect();
        Self { fleet, host, controllers, chain, key: key.to_pem() }
    }

    /// Reads what an earlier enrolment left.
    ///
    /// # Errors
    /// When the host is not enrolled or the file is damaged.
    pub fn read(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = file(state_dir);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::NotEnrolled(path));
            }
            other => other.map_err(|source| IdentityError::File { path: path.clone(), source })?,
        };
        toml::from_str(&text).map_err(|_| IdentityError::Damaged(path))
    }

    /// Writes it durably, readable by its owner alone.
    ///
    /// # Errors
    /// When the directory or file cannot be written; an older file then stays as it was.
    pub fn write(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let path = file(state_dir);
        let text = toml::to_string(self).map_err(io::Error::other);
        let written = text.and_then(|text| durable::replace(&path, text.as_bytes()));
        written.map_err(|source| IdentityError::File { path, source })
    }

    /// Whether a host may be enrolled here.
    ///
    /// # Errors
    /// When it is enrolled already, or it cannot be told.
    pub fn none(state_dir: &Path) -> Result<(), IdentityError> {
        match Self::read(state_dir) {
            Err(IdentityError::NotEnrolled(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(Self { host, fleet, .. }) => {
                Err(IdentityError::Enrolled { host, fleet, path: file(state_dir) })
            }
        }
    }

    /// The certificates, own first.
    ///
    /// # Errors
    /// When they are no base64.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let decode = |c: &String| data_encoding::BASE64.decode(c.as_bytes()).map(Into::into);
        let chain: Result<Vec<_>, _> = self.chain.iter().map(decode).collect();
        chain.map_err(|_| IdentityError::Damaged(PathBuf::from("the certificate chain")))
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The fleet.
    ///
    /// # Errors
    /// When the name is none.
    pub fn fleet(&self) -> Result<FleetName, IdentityError> {
        self.fleet.parse().map_err(|_| IdentityError::Damaged(PathBuf::from("the fleet's name")))
    }
}

/// The key with which a host enrols. It is on the disk before anything is sent, so that an answer that
/// was lost, or cannot be kept, can be asked for once more with the same key.
#[derive(Debug)]
pub struct Pending {
    /// The key.
    pub key: Key,
    path: PathBuf,
}

impl Pending {
    /// The key of an attempt that did not come to its end, else a new one. It is written durably.
    ///
    /// # Errors
    /// When it cannot be written: nothing is lost by that yet.
    pub fn begin(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join("enrolment.key");
        let failed = |source| IdentityError::File { path: path.clone(), source };
        if let Ok(text) = fs::read_to_string(&path)
            && let Ok(key) = Key::from_pem(&text)
        {
            return Ok(Self { key, path });
        }
        let key = Key::generate().map_err(|e| failed(io::Error::other(e)))?;
        durable::replace(&path, key.to_pem().as_bytes()).map_err(failed)?;
        Ok(Self { key, path })
    }

    /// The identity with this key is written: what is left of the attempt goes.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn done(self) -> Result<(), IdentityError> {
        let path = self.path;
        fs::remove_file(&path).map_err(|source| IdentityError::File { path, source })
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.toml")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().expect("directory");
        let state = dir.path().join("state");
        assert!(matches!(Enrolled::read(&state), Err(IdentityError::NotEnrolled(_))));
        let key = Key::generate().expect("key");
        let chain = [b"leaf".to_vec(), b"root".to_vec()];
        let enrolled =
            Enrolled::new("prod".into(), "web-1".into(), vec!["c:1".into()], &chain, &key);
        enrolled.write(&state).expect("written");
        let again = Enrolled::read(&state).expect("read");
        assert_eq!(again.chain().expect("chain")[1].as_ref(), b"root");
        assert_eq!(again.key_pem(), key.to_pem());
        let mode = fs::metadata(file(&state)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let said = Enrolled::none(&state).expect_err("there is one").to_string();
        assert!(said.contains("as web-1 of the fleet prod"), "{said}");
        fs::write(file(&state), "fleet = 3").expect("damage");
        assert!(matches!(Enrolled::read(&state), Err(IdentityError::Damaged(_))));
    }

    #[test]
    fn an_enrolment_that_is_tried_again_has_the_same_key_and_the_next_one_another() {
        let dir = tempfile::tempdir().expect("directory");
        let first = Pending::begin(dir.path()).expect("begun").key.to_pem();
        let again = Pending::begin(dir.path()).expect("begun");
        assert_eq!(again.key.to_pem(), first);
        again.done().expect("done");
        assert_ne!(Pending::begin(dir.path()).expect("begun").key.to_pem(), first);
    }
}
