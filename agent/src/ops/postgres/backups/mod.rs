//! `postgres.backups`: what lies in the directories of backups, and how well the newest is. Its name
//! and its size say little: a dump that failed and was compressed has 26 bytes and a good name.

mod judgement;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use glob::Pattern;
use hostler_proto::{
    operation::PostgresBackups,
    ops::{Backup, PostgresBackups as Report, PostgresBackupsRequest},
    wire::{ErrorCode, Failure},
};
use tokio_util::sync::CancellationToken;

use self::judgement::{Set, UNREADABLE, judge};
use crate::{
    dumps::{self, Dump, Effort, State},
    host::{Host, blocking, files},
    operation::{Answer, Context, Probe},
    order::Order as _,
    stack::{Backups, chosen},
};

/// Entries of one directory that are looked at.
const ENTRIES: usize = 100_000;
/// Files of one dump in the directory format.
const PARTS: usize = 200_000;
/// One that is not whole and was written later than this is still being written.
const WRITING: Duration = Duration::from_secs(15 * 60);
/// One that was written so much later than now has no age that is known.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// Links that lead out of the directory that are told.
const ASTRAY: usize = 20;
/// How often it is told how far it has come.
const BEAT: Duration = Duration::from_millis(500);
/// Endings of what is not done yet.
const UNDONE: [&str; 4] = [".partial", ".part", ".tmp", ".new"];

impl Probe for PostgresBackups {
    async fn observe(
        request: PostgresBackupsRequest,
        cx: &Context,
    ) -> Result<Answer<Report>, Failure> {
        let all = &cx.host.stack.backups;
        let chosen = chosen(all, "backups", &request.name, |b| &b.name)?;
        let chosen: Vec<Backups> = chosen.into_iter().cloned().collect();
        let read = Arc::new(AtomicU64::new(0));
        // Dropped with this future, so that the reading ends as well.
        let stop = cx.cancelled.child_token();
        let _gone = stop.clone().drop_guard();
        let looking = {
            let look = Look {
                host: Arc::clone(&cx.host),
                now: SystemTime::from(cx.host.clock.now()),
                stop: stop.clone(),
                read: Arc::clone(&read),
                verify: request.verify,
                top: request.top as usize,
            };
            blocking(move || chosen.iter().map(|entry| look.set(entry)).collect())
        };
        tokio::pin!(looking);
        let sets: Vec<Set> = loop {
            tokio::select! {
                done = &mut looking => break done?,
                () = tokio::time::sleep(BEAT) => {
                    cx.progress("reading", read.load(Ordering::Relaxed) >> 20, 0, "MiB");
                }
            }
        };
        Ok(judge(sets))
    }
}

/// What a directory holds.
struct Listed {
    candidates: Vec<Candidate>,
    /// Links that lead out of it.
    astray: Vec<String>,
    /// It has more entries than are looked at.
    cut: bool,
}

/// One look at directories of backups.
struct Look {
    host: Arc<Host>,
    now: SystemTime,
    stop: CancellationToken,
    read: Arc<AtomicU64>,
    verify: bool,
    top: usize,
}

/// What may be a backup.
struct Candidate {
    name: String,
    path: PathBuf,
    directory: bool,
    bytes: u64,
    written: SystemTime,
}

impl Look {
    /// Looks at one directory. That it cannot be looked at is a part of what is found.
    fn set(&self, entry: &Backups) -> Result<Set, Failure> {
        let mut set = Set::new(entry);
        let found = self.host.policy.directory(&entry.directory);
        let found = found.and_then(|path| Ok((self.candidates(&path, entry)?, path)));
        let (Listed { mut candidates, astray, cut }, path) = match found {
            Ok(found) => found,
            Err(failure) if failure.code() == ErrorCode::Cancelled => return Err(failure),
            Err(failure) => {
                set.missing = failure.code() == ErrorCode::NotFound;
                set.unreadable = Some(failure);
                return Ok(set);
            }
        };
        set.fitting = candidates.len();
        set.astray = astray;
        set.cut = cut.then_some(ENTRIES);
        set.directory = path.display().to_string();
        candidates.order_by(|a, b| (b.written, &b.name).cmp(&(a.written, &a.name)));
        candidates.truncate(self.top.max(entry.keep));
        for candidate in candidates {
            if self.ahead(&candidate) {
                set.ahead.push(candidate.name.clone());
            }
            set.backups.push(self.backup(&entry.name, candidate)?);
        }
        Ok(set)
    }

    /// It was written in the future: the clock of whoever wrote it was wrong, or is.
    fn ahead(&self, candidate: &Candidate) -> bool {
        candidate.written.duration_since(self.now).is_ok_and(|ahead| ahead > AHEAD)
    }

    /// What has a fitting name, once, and links that lead out of the directory.
    fn candidates(&self, directory: &Path, entry: &Backups) -> Result<Listed, Failure> {
        let failed = |e: std::io::Error| {
            let message = format!("{} cannot be read: {e}", directory.display());
            match e.kind() {
                ErrorKind::PermissionDenied => Failure::new(ErrorCode::PermissionDenied, message)
                    .hint("the agent's user must be allowed to read it"),
                _ => Failure::new(ErrorCode::HostFault, message),
            }
        };
        let pattern = Pattern::new(&entry.pattern).map_err(|e| {
            let message = format!("the pattern {} cannot be read: {e}", entry.pattern);
            Failure::new(ErrorCode::InvalidArgument, message)
        })?;
        let mut found: HashMap<PathBuf, Candidate> = HashMap::new();
        let (mut astray, mut cut) = (Vec::new(), false);
        for (n, one) in fs::read_dir(directory).map_err(failed)?.enumerate() {
            self.go_on()?;
            if n == ENTRIES {
                cut = true;
                break;
            }
            let name = one.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let undone = UNDONE.iter().any(|end| name.ends_with(end));
            if name.starts_with('.') || undone || !pattern.matches(&name) {
                continue;
            }
            let Ok(path) = directory.join(&name).canonicalize() else { continue };
            if !path.starts_with(directory) || path == directory {
                if astray.len() < ASTRAY {
                    astray.push(name);
                }
                continue;
            }
            let Ok(seen) = fs::metadata(&path) else { continue };
            if !(seen.is_file() || seen.is_dir() && is_dump(&path)) {
                continue;
            }
            let written = match seen.is_dir() {
                true => match fs::metadata(path.join("toc.dat")).and_then(|m| m.modified()) {
                    Ok(written) => Some(written),
                    Err(_) => self.newest_part(&path)?,
                },
                false => None,
            };
            let written = written.map_or_else(|| seen.modified(), Ok).map_err(failed)?;
            let (directory, bytes) = (seen.is_dir(), seen.len());
            let candidate = Candidate { name, path, directory, bytes, written };
            match found.entry(candidate.path.clone()) {
                // A link to another one is that one, under its own name.
                Entry::Occupied(mut other) => {
                    if candidate.path.ends_with(&candidate.name) {
                        other.insert(candidate);
                    }
                }
                Entry::Vacant(none) => {
                    none.insert(candidate);
                }
            }
        }
        Ok(Listed { candidates: found.into_values().collect(), astray, cut })
    }

    /// When the last part of a dump in the directory format was written, whose table of contents is not
    /// there: the directory's own time is that of the last part's begin.
    fn newest_part(&self, path: &Path) -> Result<Option<SystemTime>, Failure> {
        let mut newest: Option<SystemTime> = None;
        for one in fs::read_dir(path).into_iter().flatten().flatten().take(PARTS) {
            self.go_on()?;
            newest = newest.max(one.metadata().and_then(|m| m.modified()).ok());
        }
        Ok(newest)
    }

    fn backup(&self, set: &str, candidate: Candidate) -> Result<Backup, Failure> {
        let age = self.now.duration_since(candidate.written).unwrap_or_default();
        let ahead = self.ahead(&candidate);
        let mut bytes = candidate.bytes;
        let dump = match candidate.directory {
            true => self.parts(&candidate.path, &mut bytes),
            false => self.file(&candidate.path, bytes),
        };
        self.go_on()?;
        let dump = dump.unwrap_or_else(|why| {
            let state = State::Unknown(why);
            Dump { kind: UNREADABLE.into(), state, ..Dump::default() }
        });
        let (state, why) = match dump.state {
            State::Whole => ("whole", String::new()),
            State::Broken(why) if age < WRITING && !ahead => ("written", why),
            State::Broken(why) => ("broken", why),
            State::Untold => ("unknown", "it is no dump of PostgreSQL that is known".to_owned()),
            State::Unknown(why) => ("unknown", why),
        };
        let kind = match (dump.kind.is_empty(), state) {
            (false, _) => dump.kind,
            (true, "unknown") => "other".to_owned(),
            (true, _) => "empty".to_owned(),
        };
        Ok(Backup {
            set: set.to_owned(),
            file: candidate.name,
            kind,
            bytes,
            age_s: age.as_secs_f64(),
            state: state.to_owned(),
            why,
            database: dump.database,
            pg_dump: dump.pg_dump,
            read: dump.read,
        })
    }

    fn count(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn effort<'a>(&'a self, stop: &'a dyn Fn() -> bool, progress: &'a dyn Fn(u64)) -> Effort<'a> {
        Effort { verify: self.verify, stop, progress }
    }

    fn file(&self, path: &Path, bytes: u64) -> Result<Dump, String> {
        let (_, mut file) = files::open(&self.host.policy, path).map_err(|f| f.message)?;
        let stop = || self.stop.is_cancelled();
        let progress = |bytes| self.count(bytes);
        let effort = self.effort(&stop, &progress);
        dumps::look(&mut file, bytes, &effort).map_err(|e| format!("it cannot be read: {e}"))
    }

    /// A dump in the directory format: its table of contents is written last and names the others.
    fn parts(&self, path: &Path, bytes: &mut u64) -> Result<Dump, String> {
        let mut dump = Dump { kind: "directory".into(), ..Dump::default() };
        let mut sizes = HashMap::new();
        let unreadable = |e: std::io::Error| format!("it cannot be read: {e}");
        for one in fs::read_dir(path).map_err(unreadable)? {
            if self.stop.is_cancelled() {
                return Err("it was cancelled".to_owned());
            }
            if sizes.len() >= PARTS {
                return Err(format!("it has more than {PARTS} files"));
            }
            let one = one.map_err(unreadable)?;
            let length = one.metadata().map_or(0, |m| m.len());
            sizes.insert(one.file_name().to_string_lossy().into_owned(), length);
        }
        *bytes = sizes.values().fold(0, |sum: u64, length| sum.saturating_add(*length));
        if !sizes.contains_key("toc.dat") {
            dump.state =
                State::Broken("it has no toc.dat: the dump did not come to its end".into());
            return Ok(dump);
        }
        let stop = || self.stop.is_cancelled();
        let progress = |bytes| self.count(bytes);
        let effort = self.effort(&stop, &progress);
        let (_, mut file) =
            files::open(&self.host.policy, &path.join("toc.dat")).map_err(|f| f.message)?;
        let contents = match dumps::contents(&mut file, &effort) {
            Ok(contents) => contents,
            Err(error) => {
                let why = format!("its toc.dat cannot be read: {error}");
                return match error.kind() {
                    ErrorKind::UnexpectedEof | ErrorKind::InvalidData => {
                        dump.state = State::Broken(why);
                        Ok(dump)
                    }
                    _ => Err(why),
                };
            }
        };
        let ends = ["", ".gz", ".lz4", ".zst"];
        let mut empty = None;
        let mut missing = None;
        for name in &contents.files {
            let found =
                ends.iter().map(|end| format!("{name}{end}")).find(|n| sizes.contains_key(n));
            match found {
                // Compressed, even nothing has some bytes.
                Some(n) if n != *name && sizes.get(&n) == Some(&0) => empty = Some(n),
                Some(_) => {}
                None => missing = Some(name),
            }
        }
        dump.database = contents.database;
        dump.pg_dump = contents.pg_dump;
        dump.state = match (missing, empty) {
            (Some(name), _) => State::Broken(format!("{name}, which it names, is missing")),
            (_, Some(name)) => State::Broken(format!("{name} is empty")),
            _ => State::Whole,
        };
        if self.verify && dump.state == State::Whole {
            let mut names: Vec<&String> = sizes.keys().collect();
            names.sort();
            dump.state = self.verified(path, &names, &effort)?;
            dump.read = dump.state == State::Whole;
        }
        Ok(dump)
    }

    /// Reads all files of a dump in the directory format: its table of contents does not name those of
    /// large objects.
    fn verified(
        &self,
        path: &Path,
        names: &[&String],
        effort: &Effort<'_>,
    ) -> Result<State, String> {
        let mut state = State::Whole;
        for name in names {
            let odd = |why: &str| format!("{name}: {why}");
            let opened = files::open(&self.host.policy, &path.join(name));
            let (_, mut file) = opened.map_err(|f| odd(&f.message))?;
            let size = file.metadata().map_or(0, |m| m.len());
            match dumps::part(&mut file, size, name, effort) {
                Ok(State::Broken(why)) => return Ok(State::Broken(odd(&why))),
                Ok(State::Unknown(why)) => state = State::Unknown(odd(&why)),
                Ok(State::Whole | State::Untold) => {}
                Err(error) => return Err(odd(&format!("it cannot be read: {error}"))),
            }
        }
        Ok(state)
    }

    fn go_on(&self) -> Result<(), Failure> {
        match self.stop.is_cancelled() {
            true => Err(Failure::new(ErrorCode::Cancelled, "postgres.backups was cancelled")),
            false => Ok(()),
        }
    }
}

/// Whether a directory is a dump, finished or not.
fn is_dump(path: &Path) -> bool {
    let data = |name: &str| {
        let digits = name.split(".dat").next().unwrap_or_default();
        name.contains(".dat") && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    path.join("toc.dat").is_file()
        || fs::read_dir(path).is_ok_and(|entries| {
            entries.flatten().take(64).any(|e| data(&e.file_name().to_string_lossy()))
        })
}

#[cfg(test)]
mod tests;
