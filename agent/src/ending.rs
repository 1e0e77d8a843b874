//! How the agent ends, written down for its next start. What happens while no controller is linked is
//! told then: an agent that was stopped is not one that was killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hostler_core::durable;
use hostler_proto::wire::hello_reply::Ending;

/// What is written while it runs: who never comes to write another word ended suddenly.
const RUNS: &str = "runs";
const STOPPED: &str = "stopped";
const HOST_STOPPED: &str = "host-stopped";

/// Where it is written.
#[derive(Debug)]
pub struct Book(PathBuf);

impl Book {
    /// That of a state directory, and how the agent before this one ended.
    pub fn open(directory: &Path) -> (Self, Ending) {
        let path = directory.join("ending");
        let before = match fs::read_to_string(&path).as_deref() {
            Ok(RUNS) => Ending::Sudden,
            Ok(STOPPED) => Ending::Stopped,
            Ok(HOST_STOPPED) => Ending::HostStopped,
            // There was none, or one that wrote nothing.
            _ => Ending::Unspecified,
        };
        (Self(path), before)
    }

    /// The agent runs.
    pub fn begins(&self) {
        self.write(RUNS);
    }

    /// It is being stopped on purpose, alone or with its host.
    pub fn stops(&self, with_host: bool) {
        self.write(if with_host { HOST_STOPPED } else { STOPPED });
    }

    fn write(&self, word: &str) {
        let Err(error) = durable::replace(&self.0, word.as_bytes()) else { return };
        tracing::error!(%error, "how the agent ends cannot be written down, and is not told later");
        // An earlier word would be told in place of this one.
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "how it ended before cannot be removed, and may be told again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_agent_knows_whether_the_one_before_was_stopped_or_ended_without_a_word() {
        let dir = tempfile::tempdir().expect("directory");
        let before = || Book::open(dir.path()).1;
        assert_eq!(before(), Ending::Unspecified, "there was none");
        let book = Book::open(dir.path()).0;
        book.begins();
        assert_eq!(before(), Ending::Sudden);
        for (with_host, ending) in [(false, Ending::Stopped), (true, Ending::HostStopped)] {
            book.stops(with_host);
            assert_eq!(before(), ending);
        }
        book.begins();
        // What cannot be written leaves no word of earlier.
        fs::create_dir(dir.path().join("ending.new")).expect("in the way");
        book.stops(false);
        assert_eq!(before(), Ending::Unspecified);
    }
}
