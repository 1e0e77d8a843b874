//! `logs.tail`: the last lines of log files, and the new ones as they come.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostler_proto::{
    operation::LogsTail,
    ops,
    wire::{ErrorCode, Failure, Finding, LogLine, Status},
};
use tokio::time::Instant;

use super::{
    backwards::Backwards,
    follow::{self, Followed, Id, Left, News},
};
use crate::{
    host::{Host, blocking, logs},
    operation::{Answer, Context, Probe},
};

/// Text of one file that is held to be shown in order; what is older is left out.
const HELD: usize = 3 << 20;
/// How often followed files are looked at.
const BEAT: Duration = Duration::from_millis(250);
/// How often it is looked whether further files fit the patterns.
const LOOK_FOR_NEW: Duration = Duration::from_secs(2);
/// Syslog's "info": lines of files have no priority of their own.
const INFO: u32 = 6;

impl Probe for LogsTail {
    async fn observe(
        request: ops::LogsTailRequest,
        cx: &Context,
    ) -> Result<Answer<ops::LogsTail>, Failure> {
        let wanted = request.r#match.to_lowercase();
        let (patterns, host) = (request.path.clone(), Arc::clone(&cx.host));
        let paths = blocking(move || logs::expand(&host, &patterns)).await?;
        let host = Arc::clone(&cx.host);
        if paths.is_empty() && !request.follow {
            let message = format!("no file fits {}", request.path.join(", "));
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        let mut files = Files::default();
        for path in paths {
            let (host, wanted, most) = (Arc::clone(&host), wanted.clone(), request.lines as usize);
            let asked = path.clone();
            let ended = blocking(move || last(&host, path, most, &wanted)).await;
            match ended {
                Ok((followed, lines)) => {
                    for (offset, line) in lines {
                        if !cx.line(files.line(&followed, offset, &line)).await {
                            return Ok(files.answer());
                        }
                    }
                    files.open.push(followed);
                }
                // A path that was asked for by name must be readable; one of many is told.
                Err(failure) if request.path.iter().any(|p| Path::new(p) == asked) => {
                    return Err(failure);
                }
                Err(failure) => files.unreadable.push((asked, failure)),
            }
        }
        if request.follow {
            files.follow(&request.path, &wanted, cx).await?;
        }
        Ok(files.answer())
    }
}

/// Lines with the offset at which each begins.
type Lines = VecDeque<(u64, Vec<u8>)>;

/// The last lines of a file that hold `wanted`, oldest first, and the file itself, to be followed
/// from there on. Blocks on the disk.
fn last(
    host: &Host,
    path: PathBuf,
    most: usize,
    wanted: &str,
) -> Result<(Followed, Lines), Failure> {
    let (_, file) = logs::open(host, &path)?;
    let read = || -> std::io::Result<_> {
        let length = file.metadata()?.len();
        let (mut lines, mut bytes) = (Lines::new(), 0);
        let mut backwards = Backwards::new(&file, length);
        while lines.len() < most
            && let Some((offset, line)) = backwards.next()?
        {
            if fits(&line, wanted) {
                bytes += line.len();
                if bytes > HELD {
                    break;
                }
                lines.push_front((offset, line));
            }
        }
        Ok((length, lines))
    };
    let failed = |e: std::io::Error| {
        let message = format!("{} cannot be read: {e}", path.display());
        Failure::new(ErrorCode::HostFault, message)
    };
    let (length, lines) = read().map_err(failed)?;
    let followed = Followed::new(path.clone(), file, length).map_err(failed)?;
    Ok((followed, lines))
}

fn fits(line: &[u8], wanted: &str) -> bool {
    wanted.is_empty() || String::from_utf8_lossy(line).to_lowercase().contains(wanted)
}

#[derive(Debug, Default)]
struct Files {
    open: Vec<Followed>,
    /// Those that were followed and have another path now: they are not given out again.
    left: Vec<Left>,
    given: HashMap<PathBuf, u64>,
    unreadable: Vec<(PathBuf, Failure)>,
}

impl Files {
    fn line(&mut self, file: &Followed, offset: u64, text: &[u8]) -> LogLine {
        *self.given.entry(file.path.clone()).or_default() += 1;
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        LogLine {
            time_us: 0,
            source: file.path.to_string_lossy().into_owned(),
            priority: INFO,
            text: String::from_utf8_lossy(text).into_owned(),
            cursor: file.cursor(offset),
        }
    }

    /// Gives out new lines until it is cancelled.
    async fn follow(
        &mut self,
        patterns: &[String],
        wanted: &str,
        cx: &Context,
    ) -> Result<(), Failure> {
        let mut looked = Instant::now();
        loop {
            let mut more = false;
            let held: Vec<Id> = self.open.iter().map(Followed::id).collect();
            for mut file in std::mem::take(&mut self.open) {
                let host = Arc::clone(&cx.host);
                let (mut file, news) = blocking(move || {
                    let news = file.look(&host)?;
                    Ok((file, news))
                })
                .await?;
                let news = self.turned(&mut file, news, &held);
                more |= news.more;
                for (offset, line) in news.lines.into_iter().filter(|l| fits(&l.1, wanted)) {
                    if !cx.line(self.line(&file, offset, &line)).await {
                        return Ok(());
                    }
                }
                self.open.push(file);
            }
            if looked.elapsed() >= LOOK_FOR_NEW {
                looked = Instant::now();
                more |= self.find_new(patterns, cx).await?;
            }
            if cx.cancelled.is_cancelled() || (!more && !cx.pause(BEAT).await) {
                return Ok(());
            }
        }
    }

    /// Takes the next file of a path where there is one. One that is still followed under its old path,
    /// as those that are `held` are, is read to its end there first.
    fn turned(&mut self, file: &mut Followed, mut news: News, held: &[Id]) -> News {
        let free = |id: Id| !held.contains(&id) && !self.open.iter().any(|f| f.id() == id);
        if let Some(next) = news.next.take_if(|(_, id)| free(*id)) {
            let known = self.left.iter().position(|left| left.id == next.1);
            let known = known.map(|at| self.left.swap_remove(at));
            let (left, part) = file.turn(next, known);
            self.left.push(left);
            news.lines.extend(part);
            news.more = true;
        }
        news
    }

    /// Files that fit now and did not before are followed from their beginning; those that were followed
    /// under another path, from where that was left.
    async fn find_new(&mut self, patterns: &[String], cx: &Context) -> Result<bool, Failure> {
        let (patterns, host) = (patterns.to_vec(), Arc::clone(&cx.host));
        let mut known: Vec<PathBuf> = self.open.iter().map(|f| f.path.clone()).collect();
        known.extend(self.unreadable.iter().map(|(path, _)| path.clone()));
        let followed: Vec<Id> = self.open.iter().map(Followed::id).collect();
        let mut left = std::mem::take(&mut self.left);
        let (new, left) = blocking(move || {
            let mut new: Vec<Followed> = Vec::new();
            let mut there = Vec::new();
            for path in logs::expand(&host, &patterns)? {
                if left.is_empty() && known.contains(&path) {
                    continue;
                }
                let Ok((_, file)) = logs::open(&host, &path) else { continue };
                let Ok(id) = follow::id(&file) else { continue };
                there.push(id);
                if known.contains(&path) || followed.contains(&id) {
                    continue;
                }
                match left.iter().position(|left| left.id == id) {
                    Some(at) => new.push(Followed::again(path, left.swap_remove(at))),
                    None => new.extend(Followed::new(path, file, 0)),
                }
            }
            // What no pattern fits any more does not come back.
            left.retain(|left| there.contains(&left.id));
            Ok((new, left))
        })
        .await?;
        self.left = left;
        let any = !new.is_empty();
        self.open.extend(new);
        Ok(any)
    }

    fn answer(self) -> Answer<ops::LogsTail> {
        let given: u64 = self.given.values().sum();
        let files: Vec<_> = self
            .open
            .iter()
            .map(|file| ops::TailedFile {
                path: file.path.to_string_lossy().into_owned(),
                bytes: file.length(),
                lines: self.given.get(&file.path).copied().unwrap_or(0),
                rotations: file.rotations,
            })
            .collect();
        let summary = match &files[..] {
            [one] => format!("{given} lines of {}", one.path),
            many => format!("{given} lines of {} files", many.len()),
        };
        let read: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
        let answer = Answer::ok(summary, ops::LogsTail { files });
        let answer = read.into_iter().fold(answer, |answer, path| answer.evidence("file", path));
        self.unreadable.into_iter().fold(answer, |answer, (path, failure)| {
            let subject = path.to_string_lossy();
            let finding = Finding::new(Status::Unknown, subject, failure.message);
            answer.finding(finding.why("none of its lines is among these").next(failure.hint))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_that_fit_are_given_out_in_order() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().canonicalize().expect("real").join("a.log");
        std::fs::write(&path, "Error 1\nfine\nERROR 2\nfine\nerror 3\nfine\n").expect("written");
        let host = Host::showing(dir.path());
        let (followed, lines) = last(&host, path, 2, "error").expect("read");
        let texts: Vec<_> = lines.iter().map(|l| String::from_utf8_lossy(&l.1)).collect();
        assert_eq!(texts, ["ERROR 2", "error 3"]);
        assert_eq!(followed.length(), 39);
        let evidence = Files { open: vec![followed], ..Files::default() }.answer().evidence;
        assert_eq!((evidence[0].kind.as_str(), evidence.len()), ("file", 1));
        assert!(evidence[0].what.ends_with("/a.log"), "{evidence:?}");
    }
    /// Everything that is new, in the order in which it is given out.
    async fn given(files: &mut Files, pattern: &str, cx: &Context) -> Vec<String> {
        let mut all = Vec::new();
        let mut more = true;
        while std::mem::take(&mut more) {
            let held: Vec<Id> = files.open.iter().map(Followed::id).collect();
            for mut file in std::mem::take(&mut files.open) {
                let news = file.look(&cx.host).expect("a look");
                let news = files.turned(&mut file, news, &held);
                more |= news.more || !news.lines.is_empty();
                all.extend(news.lines.into_iter().map(|l| String::from_utf8(l.1).expect("text")));
                files.open.push(file);
            }
            more |= files.find_new(&[pattern.to_owned()], cx).await.expect("found");
        }
        all
    }

    #[tokio::test]
    async fn a_file_that_is_rotated_within_the_pattern_is_given_out_once() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("real");
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(
            Arc::new(Host::showing(&root)),
            tokio_util::sync::CancellationToken::new(),
            events,
        );
        let pattern = format!("{}/a.log*", root.display());
        let path = |name: &str| root.join(name);
        let append = |name: &str, text: &str| {
            use std::io::Write as _;
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path(name));
            file.expect("open").write_all(text.as_bytes()).expect("written");
        };
        let rotate = |from: &str, to: &str| std::fs::rename(path(from), path(to)).expect("rotated");
        let mut files = Files::default();
        append("a.log", "1\n");
        assert_eq!(given(&mut files, &pattern, &cx).await, ["1"]);
        append("a.log", "2\n");
        rotate("a.log", "a.log.1");
        append("a.log.1", "3\n");
        assert_eq!(given(&mut files, &pattern, &cx).await, ["2", "3"]);
        append("a.log", "4\n");
        assert_eq!(given(&mut files, &pattern, &cx).await, ["4"]);
        // Who has the old file open still writes there.
        append("a.log.1", "5\n");
        assert_eq!(given(&mut files, &pattern, &cx).await, ["5"]);
        rotate("a.log.1", "a.log.2");
        rotate("a.log", "a.log.1");
        append("a.log.1", "6\n");
        append("a.log", "7\n");
        let mut seen = given(&mut files, &pattern, &cx).await;
        seen.sort();
        assert_eq!(seen, ["6", "7"]);
        assert_eq!(given(&mut files, &pattern, &cx).await, [""; 0]);
        append("a.log.2", "8\n");
        assert_eq!(given(&mut files, &pattern, &cx).await, ["8"]);
        std::fs::remove_file(path("a.log.2")).expect("removed");
        given(&mut files, &pattern, &cx).await;
        assert!(files.left.is_empty(), "{:?}", files.left);
    }
}
