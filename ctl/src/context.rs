//! Which fleet to speak to, and as whom. A context is one TOML file, readable by its owner alone:
//! it holds the operator's private key. A controller's `init` and `operator add` write the same
//! form.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use hostler_core::{
    identity::{FleetName, Identity},
    pki::CertificateFacts,
    tls::{Credentials, TlsError},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// No context is larger; what is, is something else.
const MAX_BYTES: u64 = 1 << 20;
const CURRENT: &str = "current";

/// Why a context cannot be had.
#[derive(Debug, Error)]
pub enum ContextError {
    /// The file system said no.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is no context: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The key can be read by others.
    #[error("{0} holds a private key and can be read by others")]
    Exposed(PathBuf),
    /// There is no such context.
    #[error("there is no context \"{0}\"")]
    Unknown(String),
    /// There are several, and none is chosen.
    #[error("no context is chosen")]
    NoneChosen,
    /// There is none at all.
    #[error("there is no context yet")]
    None,
    /// That would not do as a file's name.
    #[error("\"{0}\" is no name of a context; use a-z, 0-9, '-', '_', '.' and '@'")]
    Name(String),
    /// There is one of that name.
    #[error("there is a context \"{0}\" already")]
    Exists(String),
    /// There is nowhere to keep contexts.
    #[error("there is no home directory to keep contexts in")]
    NoHome,
}

impl ContextError {
    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Exposed(path) => format!("chmod 600 {}", path.display()),
            Self::Unknown(_) | Self::NoneChosen => {
                "`hostlerctl context list` shows those that there are, `context use` chooses".into()
            }
            Self::None => "get a context file from an admin (`hostlerctl operator add`) and \
                           `hostlerctl context import FILE`"
                .into(),
            Self::Exists(_) => "choose another with --name, or remove that one first".into(),
            Self::NoHome => "set HOSTLER_CONFIG to a directory".into(),
            Self::Malformed { .. } | Self::Io { .. } | Self::Name(_) => String::new(),
        }
    }
}

/// How to reach one fleet's controller, and who to be there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The fleet's name.
    pub fleet: String,
    /// Where the controller listens: `host:port`, tried in this order.
    pub addresses: Vec<String>,
    /// Certificates of the authorities to trust.
    pub authority_pem: String,
    /// The operator's certificate, its own first.
    pub chain_pem: String,
    /// The operator's private key.
    pub key_pem: String,
}

/// The key is left out.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("fleet", &self.fleet)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Reads a context's file.
    ///
    /// # Errors
    /// When it cannot be read, can be read by others, or is no context.
    pub fn read(path: &Path) -> Result<Self, ContextError> {
        let at = |source| ContextError::Io { doing: "read", path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(at)?;
        if file.metadata().map_err(at)?.permissions().mode() & 0o077 != 0 {
            return Err(ContextError::Exposed(path.to_owned()));
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(at)?;
        let malformed = |problem| ContextError::Malformed { path: path.to_owned(), problem };
        // Only the message of the error: its rendering quotes the line, which may hold the key.
        let context: Self = toml::from_str(&text).map_err(|e| malformed(e.message().to_owned()))?;
        if context.addresses.is_empty() {
            return Err(malformed("it names no address of a controller".into()));
        }
        context.facts().map_err(|e| malformed(e.to_string()))?;
        Ok(context)
    }

    /// Writes the context's file whole or not at all, readable by its owner alone.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn write(&self, path: &Path) -> Result<(), ContextError> {
        let text = toml::to_string(self).map_err(|e| ContextError::Malformed {
            path: path.to_owned(),
            problem: e.to_string(),
        })?;
        replace(path, text.as_bytes())
    }

    /// The fleet's name, checked.
    ///
    /// # Errors
    /// When it is none.
    pub fn fleet(&self) -> Result<FleetName, hostler_core::identity::InvalidIdentity> {
        self.fleet.parse()
    }

    /// Certificate and key, ready for a handshake.
    ///
    /// # Errors
    /// When they do not fit each other or cannot be read.
    pub fn credentials(&self) -> Result<Arc<Credentials>, TlsError> {
        Credentials::new(certificates(&self.chain_pem), &self.key_pem)
    }

    /// The authorities' certificates.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.authority_pem)
    }

    /// What the operator's certificate says.
    ///
    /// # Errors
    /// When it cannot be read or does not fit its key.
    pub fn facts(&self) -> Result<CertificateFacts, TlsError> {
        self.credentials()?.facts()
    }

    /// Who the operator is, for lists; empty when the certificate cannot be read.
    pub fn identity(&self) -> Option<Identity> {
        self.facts().ok().map(|f| f.identity)
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

/// Puts a file in place that only its owner can read, or leaves the old one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), ContextError> {
    let at = |source| ContextError::Io { doing: "write", path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| at(io::ErrorKind::InvalidFilename.into()))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The error to report is the first one.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(at)
}

/// The contexts of one user: `contexts/NAME.toml` and `current` in the configuration directory.
#[derive(Debug, Clone)]
pub struct Contexts {
    dir: PathBuf,
}

impl Contexts {
    /// Those in a directory.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Those of the user who runs the program: `HOSTLER_CONFIG`, else `hostler` in
    /// `XDG_CONFIG_HOME` or `~/.config`.
    ///
    /// # Errors
    /// When the environment names no home.
    pub fn of_user() -> Result<Self, ContextError> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("HOSTLER_CONFIG")
            .or_else(|| set("XDG_CONFIG_HOME").map(|d| d.join("hostler")))
            .or_else(|| set("HOME").map(|d| d.join(".config/hostler")))
            .map(Self::at)
            .ok_or(ContextError::NoHome)
    }

    /// The names, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>, ContextError> {
        let dir = self.dir.join("contexts");
        let at = |source| ContextError::Io { doing: "read", path: dir.clone(), source };
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(at)?.file_name();
            let name = name.to_str().and_then(|n| n.strip_suffix(".toml"));
            names.extend(name.filter(|n| is_name(n)).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The context of that name.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub fn get(&self, name: &str) -> Result<Context, ContextError> {
        let path = self.path(name)?;
        match path.exists() {
            true => Context::read(&path),
            false => Err(ContextError::Unknown(name.to_owned())),
        }
    }

    /// Keeps a context under a name; the first one becomes the current one.
    ///
    /// # Errors
    /// When the name is taken or the file cannot be written.
    pub fn add(&self, name: &str, context: &Context) -> Result<(), ContextError> {
        let path = self.path(name)?;
        if path.exists() {
            return Err(ContextError::Exists(name.to_owned()));
        }
        let dir = self.dir.join("contexts");
        fs::create_dir_all(&dir)
            .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)))
            .map_err(|source| ContextError::Io { doing: "create", path: dir, source })?;
        context.write(&path)?;
        if self.names()?.len() == 1 { self.choose(name) } else { Ok(()) }
    }

    /// Puts a context in the place of the one of that name.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written; then the old one stays.
    pub fn replace(&self, name: &str, context: &Context) -> Result<(), ContextError> {
        let path = self.path(name)?;
        match path.exists() {
            true => context.write(&path),
            false => Err(ContextError::Unknown(name.to_owned())),
        }
    }

    /// Forgets a context.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove(&self, name: &str) -> Result<(), ContextError> {
        let path = self.path(name)?;
        fs::remove_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContextError::Unknown(name.to_owned()),
            _ => ContextError::Io { doing: "remove", path, source },
        })?;
        if self.chosen().as_deref() == Some(name) {
            let path = self.dir.join(CURRENT);
            fs::remove_file(&path).map_err(|source| ContextError::Io {
                doing: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn choose(&self, name: &str) -> Result<(), ContextError> {
        if !self.path(name)?.exists() {
            return Err(ContextError::Unknown(name.to_owned()));
        }
        replace(&self.dir.join(CURRENT), format!("{name}\n").as_bytes())
    }

    /// The name that is used when none is given: the chosen one, or the only one.
    ///
    /// # Errors
    /// When there is none, or there are several and none was chosen.
    pub fn current(&self) -> Result<String, ContextError> {
        if let Some(name) = self.chosen() {
            return Ok(name);
        }
        let mut names = self.names()?;
        match names.len() {
            0 => Err(ContextError::None),
            1 => Ok(names.remove(0)),
            _ => Err(ContextError::NoneChosen),
        }
    }

    fn chosen(&self) -> Option<String> {
        let name = fs::read_to_string(self.dir.join(CURRENT)).ok()?;
        Some(name.trim().to_owned()).filter(|n| is_name(n))
    }

    fn path(&self, name: &str) -> Result<PathBuf, ContextError> {
        match is_name(name) {
            true => Ok(self.dir.join("contexts").join(format!("{name}.toml"))),
            false => Err(ContextError::Name(name.chars().take(80).collect())),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
