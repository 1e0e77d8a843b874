//! How log files end, for those who look for a cause: their last lines, if those are new.

use std::{os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use hostler_core::clock::Clock;
use hostler_logs::Times;
use hostler_proto::wire::{ErrorCode, Failure};
use jiff::{civil::DateTime, tz::TimeZone};

use super::backwards::Backwards;
use crate::{
    host::{Host, blocking, logs},
    operation::Context,
};

/// Bytes of a file that are read at most: what fits no more is not searched for in all of it.
const READ: u64 = 1 << 20;
/// Files that are looked at.
const FILES: usize = 16;

/// A line of a log file, with the seconds since then where it tells its time, and those since the file was
/// written last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) path: String,
    pub(crate) ago_s: Option<i64>,
    pub(crate) written_s: i64,
    pub(crate) text: String,
}

/// The last lines, the oldest first, of the files that patterns stand for and that may be shown; only those
/// that hold `wanted`, and of each file no more than `most`.
///
/// # Errors
/// When a pattern is not allowed, or a file cannot be read.
pub(crate) async fn ending(
    cx: &Context,
    patterns: &[String],
    wanted: &str,
    most: usize,
) -> Result<Vec<Ended>, Failure> {
    let (host, patterns, wanted) = (Arc::clone(&cx.host), patterns.to_vec(), wanted.to_owned());
    blocking(move || {
        let mut ended = Vec::new();
        for path in logs::expand(&host, &patterns)?.iter().take(FILES) {
            ended.extend(last(&host, path, &wanted, most, host.clock.as_ref())?);
        }
        Ok(ended)
    })
    .await
}

fn last(
    host: &Host,
    path: &Path,
    wanted: &str,
    most: usize,
    clock: &dyn Clock,
) -> Result<Vec<Ended>, Failure> {
    let (real, file) = logs::open(host, path)?;
    let (zone, now) = (TimeZone::system(), clock.now());
    let here = zone.to_datetime(now);
    let mut times = Times::new(zone, now, None);
    let mut read = || -> std::io::Result<Vec<Ended>> {
        let about = file.metadata()?;
        let (length, written_s) = (about.len(), now.as_second() - about.mtime());
        let mut lines = Vec::new();
        let mut backwards = Backwards::new(&file, length);
        while lines.len() < most
            && let Some((offset, line)) = backwards.next()?
            && length - offset <= READ
        {
            let text = String::from_utf8_lossy(&line).into_owned();
            if text.contains(wanted) && !text.is_empty() {
                let ago_s = times.split(&line).0.and_then(|time| {
                    let at: DateTime = std::str::from_utf8(&time.at).ok()?.parse().ok()?;
                    Some(here.duration_since(at).as_secs())
                });
                let path = real.to_string_lossy().into_owned();
                lines.push(Ended { path, ago_s, written_s, text });
            }
        }
        lines.reverse();
        Ok(lines)
    };
    read().map_err(|e| {
        Failure::new(ErrorCode::HostFault, format!("{} cannot be read: {e}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn the_last_lines_that_fit_are_told_with_their_age() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().canonicalize().expect("real").join("error.log");
        let host = Host::showing(directory.path());
        let zone = TimeZone::system();
        let line = |ago: i64, text: &str| {
            let at = host.clock.now() - jiff::SignedDuration::from_secs(ago);
            let at = zone.to_datetime(at).strftime("%Y/%m/%d %H:%M:%S").to_string();
            format!("{at} [error] 7#7: {text}\n")
        };
        let text = [line(900, "upstream a"), line(300, "upstream b"), line(0, "other")].concat();
        std::fs::write(&path, text + "upstream c\n").expect("written");
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let pattern = [path.to_string_lossy().into_owned()];
        let ended = ending(&cx, &pattern, "upstream", 2).await.expect("read");
        let [before, last] = ended.as_slice() else { panic!("{ended:?}") };
        assert!(before.text.ends_with("upstream b"), "{ended:?}");
        assert!(before.ago_s.is_some_and(|ago| (300..360).contains(&ago)), "{ended:?}");
        assert_eq!((last.text.as_str(), last.ago_s), ("upstream c", None));
        assert!(last.written_s < 60, "{ended:?}");
        assert!(ending(&cx, &["/etc/passwd".to_owned()], "", 1).await.is_err(), "the policy holds");
    }
}
