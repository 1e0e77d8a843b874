//! The agent's state directory, which one agent at a time uses: two would share one journal and one key.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another one has it.
    #[error(
        "another hostler-agent{holder} uses {directory}: stop it first, or give this one a state_dir of \
         its own"
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// Who, as far as it is known.
        holder: String,
    },
    /// It cannot be written.
    #[error("the state directory {directory} cannot be used: {source}")]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The state directory, taken until this is dropped or the process ends, however it does.
#[derive(Debug)]
pub struct State {
    _file: File,
}

impl State {
    /// Takes a state directory, which is made when it is not there.
    ///
    /// # Errors
    /// When another agent has it, or it cannot be written.
    pub fn take(directory: &Path) -> Result<Self, StateError> {
        let unusable = |source| StateError::Unusable { directory: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(directory.join("lock")).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // It is only to be helpful: the lock counts.
                let _ = file.read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => String::new(),
                    pid => format!(" (pid {pid})"),
                };
                return Err(StateError::Taken { directory: directory.to_owned(), holder });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        // A full disk keeps no agent from running: whoever is refused is then told of no pid.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_agent_until_that_one_is_gone() {
        let dir = tempfile::tempdir().expect("directory");
        let state = dir.path().join("state");
        let first = State::take(&state).expect("taken");
        let said = State::take(&state).expect_err("taken already").to_string();
        assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
        drop(first);
        State::take(&state).expect("free again");
    }
}
