//! Processes of a test: each ends with it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One of this workspace's programs, as `cargo build --workspace` made it.
///
/// # Panics
/// When it was not built.
pub fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a program");
    let directory = own.ancestors().find(|d| d.join(name).is_file());
    directory.unwrap_or_else(|| panic!("{name} is not built; run: make test")).join(name)
}

/// A command line.
pub fn command(program: impl AsRef<Path>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "tests start what they test")]
    Command::new(program.as_ref())
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose output goes to a file.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = file.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        Self { child, log: log.to_owned() }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits until it did; gives its exit status.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Its exit status, when it has ended.
    ///
    /// # Panics
    /// When that cannot be known.
    pub fn has_ended(&mut self) -> Option<i32> {
        self.child.try_wait().expect("a child can be waited for").and_then(|s| s.code())
    }

    /// Waits until it ended by itself; gives its exit status.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.and_then(|s| s.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
///
/// # Panics
/// When it is not so within [`PATIENCE`].
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(PATIENCE, what, condition);
}

/// Waits until something is so, and gives how long that took.
///
/// # Panics
/// When it is not so in time.
pub fn within(longest: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < longest, "not within {longest:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}
