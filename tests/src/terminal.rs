//! A program at a terminal of its own, and the person who sits there.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::process::{command, eventually};

/// Size of a terminal.
pub const ROWS: u16 = 24;
const COLUMNS: u16 = 120;

/// A program that runs in a session of its own, whose terminal is ours.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program there. Ctrl-C reaches it as it would from a keyboard.
    ///
    /// # Panics
    /// When there is no terminal, or the program does not start.
    pub fn start(program: &mut Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).expect("a size");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let open = || -> OwnedFd {
            rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
                .expect("the other end")
        };
        // A new session whose controlling terminal is standard input.
        let mut session = command(Path::new("/usr/bin/setsid"));
        session.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        let set = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
        session.envs(set).env("TERM", "xterm");
        session.stdin(Stdio::from(open())).stdout(Stdio::from(open())).stderr(Stdio::from(open()));
        let child = session.spawn().expect("the program starts");
        let keyboard = File::from(ours);
        let mut screen = keyboard.try_clone().expect("a second handle");
        let seen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // The read fails when the last program at the other end has ended.
            while let Ok(length @ 1..) = screen.read(&mut block) {
                let text = String::from_utf8_lossy(&block[..length]);
                shown.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { child, keyboard, seen }
    }

    /// Everything that was shown so far.
    pub fn seen(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this is shown.
    ///
    /// # Panics
    /// When it is not.
    pub fn shows(&self, text: &str) {
        eventually(&format!("\"{text}\" is shown"), || self.seen().contains(text));
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until the program ended; gives its exit status.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status.and_then(|s| s.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
