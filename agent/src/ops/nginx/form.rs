//! The form of the lines of an access log.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use jiff::Timestamp;

use crate::ops::logs::backwards::Backwards;

/// Lines that show how a log is written.
const SHOWN: usize = 100;

/// What a line tells.
#[derive(Debug)]
pub(super) struct Request<'l> {
    /// When it ended, in seconds since 1970.
    pub(super) at: i64,
    /// Without its query.
    pub(super) path: &'l str,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) took_s: Option<f64>,
}

/// `ADDRESS - USER [TIME] "METHOD PATH PROTOCOL" STATUS BYTES "REFERER" "AGENT" [SECONDS]`
pub(super) fn read(line: &str, timed: bool) -> Option<Request<'_>> {
    let (_, rest) = line.split_once('[')?;
    let (time, rest) = rest.split_once("] \"")?;
    let (words, rest) = rest.split_once("\" ")?;
    let mut numbers = rest.split(' ');
    let status = numbers.next()?.parse().ok()?;
    let bytes = numbers.next()?.parse().unwrap_or(0);
    let target = words.split(' ').nth(1).unwrap_or(words);
    let took_s = match timed {
        true => rest.rsplit(' ').next()?.parse().ok(),
        false => None,
    };
    let time = jiff::fmt::strtime::parse("%d/%b/%Y:%H:%M:%S %z", time).ok()?;
    let at: Timestamp = time.to_timestamp().ok()?;
    let path = target.split('?').next().unwrap_or(target);
    Some(Request { at: at.as_second(), path, status, bytes, took_s })
}

/// Whether the last lines of a log are all of a form that is read; none where it has no line. Blocks on the
/// disk.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn understood(log: &File) -> io::Result<Option<bool>> {
    let length = log.metadata()?.len();
    let mut last = [0];
    if length > 0 {
        log.read_exact_at(&mut last, length - 1)?;
    }
    let mut lines = Backwards::new(log, length);
    if last != *b"\n" {
        // The last one is being written.
        lines.next()?;
    }
    let mut seen = None;
    for _ in 0..SHOWN {
        let Some((_, line)) = lines.next()? else { break };
        if line.is_empty() {
            continue;
        }
        if read(&String::from_utf8_lossy(&line), false).is_none() {
            return Ok(Some(false));
        }
        seen = Some(true);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_understood_when_every_one_of_its_last_lines_is() {
        let line = |text: &str| {
            format!("192.0.2.7 - - [26/Nov/2026:06:12:01 +0100] \"{text}\" 400 150 \"-\" \"-\"\n")
        };
        let of = |text: &str| {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), text).expect("written");
            understood(file.as_file()).expect("read")
        };
        assert_eq!((of(""), of("\n"), of("{\"sta")), (None, None, None));
        // What no browser sends is written in the same form.
        let all = ["GET / HTTP/1.1", "", "\\x16\\x03\\x01"].map(line).concat();
        assert_eq!(of(&all), Some(true));
        assert_eq!(of(&format!("{all}192.0.2.7 - - [26/N")), Some(true), "it is being written");
        assert_eq!(of(&format!("{{\"status\": 200}}\n{all}")), Some(false));
        let former = format!("{{\"status\": 200}}\n{}", line("GET / HTTP/1.1").repeat(SHOWN));
        assert_eq!(of(&former), Some(true), "that was long ago");
    }
}
