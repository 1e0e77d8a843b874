//! A disk that is soon full.

use std::{fs, io::Write as _, path::Path};

use tempfile::TempDir;

use crate::process::command;

/// A disk of four MiB that goes with the test. Only root can have one.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[expect(clippy::new_without_default, reason = "a disk is no value")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mount = command("/usr/bin/mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mount.expect("mount").success());
        Self(dir)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// When nothing can be written to it at all.
    pub fn fill(&self) {
        let mut filler = fs::OpenOptions::new();
        let path = self.path().join("filler");
        let mut filler = filler.create(true).append(true).open(path).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
        while filler.write_all(&[0]).is_ok() {}
    }

    /// Takes away what fills it.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = command("/usr/bin/umount").arg("--lazy").arg(self.path()).status();
    }
}
