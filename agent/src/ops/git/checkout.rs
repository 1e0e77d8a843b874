//! A checkout, and git as the one user who decides what lies there: its configuration can name
//! programs that git runs, and so can whoever writes it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use hostler_proto::wire::{ErrorCode, Failure};

use crate::{
    host::{
        blocking,
        exec::{Line, Program, Running},
        owner::{self, Owner},
    },
    operation::Context,
};

/// What decides which programs git runs: its directory, and what lies there.
const DECIDE: [&str; 5] = ["", "config", "config.worktree", "info", "info/attributes"];
/// What git says, new and old, where it does not trust whose a checkout is.
const DUBIOUS: [&str; 2] = ["detected dubious ownership", "unsafe repository"];

/// A checkout that git can be asked about.
#[derive(Debug, Clone)]
pub(super) struct Checkout {
    /// What was asked for.
    path: PathBuf,
    /// The directory of its files.
    pub top: PathBuf,
    /// Git's own directories: this work tree's, and that of all.
    pub own: [PathBuf; 2],
    owner: Owner,
    /// The commands that were run, word for word.
    pub asked: Vec<String>,
}

impl Checkout {
    /// Finds out whose it is, and that nobody else decides what git runs there.
    ///
    /// # Errors
    /// When there is none, others can write there, or its owner cannot read it.
    pub(super) async fn open(path: &str, cx: &Context) -> Result<Self, Failure> {
        let (host, asked) = (Arc::clone(&cx.host), PathBuf::from(path));
        let found = blocking(move || {
            let path = host.policy.directory(&asked)?;
            Ok(Self {
                owner: Owner::of(&path)?,
                top: path.clone(),
                own: [path.clone(), path.clone()],
                path,
                asked: Vec::new(),
            })
        });
        let mut found = found.await?;
        let mut places = Vec::new();
        // It only reads what the configuration says, and runs nothing that stands there.
        let places_of = ["rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir"];
        found.ask(&places_of, |line| places.push(PathBuf::from(line))).await?;
        let [top, git, common] = &places[..] else {
            let message = format!("git does not tell where the checkout at {path} lies");
            return Err(Failure::new(ErrorCode::HostFault, message));
        };
        let (host, top) = (Arc::clone(&cx.host), top.clone());
        let [git, common] = [git, common].map(|place| found.path.join(place));
        found.own = [git.clone(), common.clone()];
        blocking(move || {
            // Names of all its files are told, also of those that lie above what was asked for.
            found.top = host.policy.directory(&top)?;
            found.decides_alone(&git)?;
            found.decides_alone(&common)?;
            Ok(found)
        })
        .await
    }

    /// That others write neither in a directory of git's nor in what decides there. Blocks on the disk.
    fn decides_alone(&self, directory: &Path) -> Result<(), Failure> {
        for place in DECIDE.map(|name| directory.join(name)) {
            match place.canonicalize() {
                Ok(real) => self.owner.alone(&real)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && place != directory => {}
                Err(e) => {
                    let message = format!("{} cannot be looked at: {e}", place.display());
                    return Err(Failure::new(ErrorCode::PermissionDenied, message));
                }
            }
        }
        Ok(())
    }

    /// Asks git, shows every line that it prints, however many there are, and gives the last ones that
    /// it complains with.
    ///
    /// # Errors
    /// When it says no.
    pub(super) async fn ask(
        &mut self,
        words: &[&str],
        mut show: impl FnMut(&str),
    ) -> Result<Vec<String>, Failure> {
        let mut running = self.start(words)?;
        while let Some(line) = running.line().await? {
            if let Line::Text(text) = line {
                show(&String::from_utf8_lossy(&text));
            }
        }
        self.end(running).await
    }

    /// As [`Checkout::ask`], for whoever reads the lines on its own, and then waits with
    /// [`Checkout::end`].
    ///
    /// # Errors
    /// When git cannot be started.
    pub(super) fn start(&mut self, words: &[&str]) -> Result<Running, Failure> {
        let running = self.git(words).start()?;
        self.asked.push(running.argv().to_owned());
        Ok(running)
    }

    /// Waits for git after its last line, and gives the last lines that it complains with.
    ///
    /// # Errors
    /// When it says no.
    pub(super) async fn end(&self, running: Running) -> Result<Vec<String>, Failure> {
        let end = running.end().await?;
        if end.code == Some(0) {
            return Ok(end.tail);
        }
        let (checkout, failure) = (self.clone(), end.failure());
        blocking(move || Err(checkout.refused(&end.tail).unwrap_or(failure))).await
    }

    fn git(&self, words: &[&str]) -> Program {
        let mut git = self
            .owner
            .program("/usr/bin/git")
            // What the user set up for other checkouts decides nothing here.
            .env("HOME", "/nonexistent")
            // It would write the index anew, and be in the way of an update.
            .arg("--no-optional-locks")
            .arg("-c")
            .arg("core.fsmonitor=false")
            .arg("-c")
            .arg("core.hooksPath=/dev/null")
            // Names come in ASCII, whatever their bytes are, and from the top, whatever was asked for.
            .arg("-c")
            .arg("core.quotePath=true")
            .arg("-c")
            .arg("status.relativePaths=false");
        if self.owner.in_roots_stead() {
            // Git would ask for root; that nobody but root writes there is known better here.
            git = git.arg("-c").arg("safe.directory=*");
        }
        git = git.arg("-C").arg(self.path.as_os_str());
        words.iter().fold(git, |git, word| git.arg(*word))
    }

    /// What git's words mean where it is about whose the files are. Blocks on the disk.
    fn refused(&self, tail: &[String]) -> Option<Failure> {
        let said = |words: &[&str]| tail.iter().find(|l| words.iter().any(|w| l.contains(w)));
        let refuse = |message: String| Failure::new(ErrorCode::PreconditionFailed, message);
        let user = if self.owner.in_roots_stead() { "root" } else { self.owner.name() };
        if let Some(line) = said(&DUBIOUS) {
            let top = line.split('\'').nth(1).map_or_else(|| self.path.clone(), PathBuf::from);
            let shown = top.display();
            let others = [top.clone(), top.join(".git")].into_iter().find_map(|place| {
                let whose = owner::name(fs::symlink_metadata(&place).ok()?.uid());
                (whose != user).then(|| format!("{} belongs to {whose}", place.display()))
            });
            return Some(match others {
                Some(others) => refuse(format!(
                    "{} belongs to {user} and {others}: git reads no checkout of two users",
                    self.path.display()
                ))
                .hint(format!("on that host, `chown -R {user} {shown}` makes it one user's")),
                None => refuse(format!("git reads {shown} only as {user}")).hint(format!(
                    "`chown -R` to the user as whom the application runs, or `git config --system \
                     --add safe.directory {shown}`, on that host"
                )),
            });
        }
        if !self.owner.in_roots_stead()
            || said(&["not a git repository", "ermission denied"]).is_none()
        {
            return None;
        }
        let place = hidden(&self.path)?;
        let message = format!(
            "{} is root's, and {}, as whom git runs there, cannot read it",
            place.display(),
            self.owner.name()
        );
        Some(refuse(message).hint(format!(
            "on that host, give it to the user as whom the application runs (chown -R), or, where \
             no secret lies in it, let others read it (chmod -R o+rX {})",
            self.path.display()
        )))
    }

    /// Whether a file of it is there and hidden from the user as whom git runs: one that git takes for
    /// changed, since it cannot compare it. Blocks on the disk.
    pub(super) fn hides(&self, file: &Path) -> bool {
        let mode = |path: &Path| fs::symlink_metadata(path).map(|seen| seen.mode());
        self.owner.in_roots_stead()
            && mode(&self.top.join(file)).is_ok_and(|mode| mode & 0o004 == 0)
    }

    /// The user as whom git runs.
    pub(super) fn user(&self) -> &str {
        self.owner.name()
    }
}

/// The first that keeps other users from reading a checkout: a directory above it, or a part of
/// git's own.
fn hidden(path: &Path) -> Option<PathBuf> {
    let lacks = |place: &Path, bits: u32| {
        fs::metadata(place).is_ok_and(|seen| seen.mode() & bits != bits).then(|| place.to_owned())
    };
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    let above = above.into_iter().find_map(|place| lacks(place, 0o001));
    let git = path.join(".git");
    let parts = [("HEAD", 0o004), ("config", 0o004), ("index", 0o004), ("objects", 0o005)];
    let within = || parts.into_iter().find_map(|(part, bits)| lacks(&git.join(part), bits));
    above.or_else(|| lacks(&git, 0o005)).or_else(within)
}

#[cfg(test)]
#[path = "checkout_tests.rs"]
mod tests;
