//! The agent's own key and certificate, as they lie in its state directory.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hostler_core::{identity::FleetName, pki::Key};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why the identity cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is none yet.
    #[error(
        "this host is not enrolled: {0} does not exist; run hostler-agent enroll --controller \
         HOST:PORT --token TOKEN"
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
    /// A file does not hold what it should.
    #[error("{0} is damaged; enrol the host again")]
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
        let written = (|| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
            let new = path.with_extension("new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            let text = toml::to_string(self).map_err(io::Error::other)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(state_dir)?.sync_all()
        })();
        written.map_err(|source| IdentityError::File { path, source })
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
        fs::write(file(&state), "fleet = 3").expect("damage");
        assert!(matches!(Enrolled::read(&state), Err(IdentityError::Damaged(_))));
    }
}
