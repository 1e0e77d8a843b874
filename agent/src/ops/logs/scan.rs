//! Reads log files of any size once and counts their errors by kind, in bounded memory: blocks go
//! from one reader to as many counters as there are processors.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};

use super::template::{template, time};

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;
/// A longer line is cut; the rest of it is passed over.
const LINE: usize = BLOCK / 2;
/// Kinds that are told apart.
pub(super) const KINDS: usize = 10_000;
/// Hours that are counted.
const HOURS: usize = 24 * 366;
/// Frames of a traceback that are looked through for its end.
const TRACEBACK: usize = 16 << 10;

/// Words that tell of an error when they stand alone: neither "0 errors" nor `error_handler.py`.
const WORDS: [&str; 9] =
    ["error", "critical", "fatal", "panic", "emerg", "alert", "severe", "exception", "traceback"];

static SEARCH: LazyLock<Option<AhoCorasick>> =
    LazyLock::new(|| AhoCorasickBuilder::new().ascii_case_insensitive(true).build(WORDS).ok());

/// One kind of message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kind {
    pub count: u64,
    pub first: Vec<u8>,
    pub last: Vec<u8>,
    /// Number of a file that has it.
    pub file: usize,
}

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub kinds: HashMap<Vec<u8>, Kind>,
    pub hours: HashMap<Vec<u8>, u64>,
    pub errors: u64,
    pub others: u64,
    pub lines: u64,
}

impl Counted {
    fn add(&mut self, template: &[u8], time: &[u8], count: u64, file: usize) {
        self.errors += count;
        if let Some(hour) = time.get(..13)
            && (self.hours.len() < HOURS || self.hours.contains_key(hour))
        {
            *self.hours.entry(hour.to_vec()).or_default() += count;
        }
        let kind = Kind { count, first: time.to_vec(), last: time.to_vec(), file };
        self.merge(template, &kind);
    }

    fn merge(&mut self, template: &[u8], other: &Kind) {
        let room = self.kinds.len() < KINDS;
        match self.kinds.get_mut(template) {
            Some(kind) => {
                kind.count += other.count;
                if !other.first.is_empty() && (kind.first.is_empty() || other.first < kind.first) {
                    kind.first.clone_from(&other.first);
                }
                if other.last > kind.last {
                    kind.last.clone_from(&other.last);
                }
                kind.file = kind.file.min(other.file);
            }
            None if room => {
                self.kinds.insert(template.to_vec(), other.clone());
            }
            None => self.others += other.count,
        }
    }

    fn take(&mut self, other: Self) {
        self.errors += other.errors;
        self.others += other.others;
        self.lines += other.lines;
        for (hour, count) in other.hours {
            *self.hours.entry(hour).or_default() += count;
        }
        for (template, kind) in other.kinds {
            self.merge(&template, &kind);
        }
    }
}

/// Reads every source to its end. `since` is the earliest time that counts, in the form of the
/// lines; `read` counts the bytes meanwhile; it ends early once `stop` says so. Blocks.
///
/// # Errors
/// The first that reading met, with the number of its source; what was read before still counts.
pub(super) fn scan<R: Read>(
    sources: impl Iterator<Item = R>,
    since: &[u8],
    read: &AtomicU64,
    stop: &(dyn Fn() -> bool + Sync),
) -> (Counted, Vec<(usize, io::Error)>) {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
    let (send, receive) = sync_channel::<(usize, Vec<u8>)>(workers);
    let receive = Arc::new(Mutex::new(receive));
    let mut errors = Vec::new();
    let counted = thread::scope(|scope| {
        let counting: Vec<_> = (0..workers)
            .map(|_| {
                let receive = Arc::clone(&receive);
                scope.spawn(move || count_all(&receive, since))
            })
            .collect();
        for (file, mut source) in sources.enumerate() {
            let mut rest = Vec::new();
            loop {
                let mut block = std::mem::take(&mut rest);
                let had = block.len();
                block.resize(BLOCK.max(had * 2), 0);
                let got = match fill(&mut source, &mut block[had..]) {
                    Ok(got) => got,
                    Err(error) => {
                        errors.push((file, error));
                        0
                    }
                };
                block.truncate(had + got);
                read.fetch_add(got as u64, Ordering::Relaxed);
                let end = if got == 0 { block.len() } else { cut(&block) };
                rest.extend_from_slice(&block[end..]);
                block.truncate(end);
                if !block.is_empty() && send.send((file, block)).is_err() {
                    break;
                }
                if got == 0 || stop() {
                    break;
                }
            }
            if stop() {
                break;
            }
        }
        drop(send);
        let mut all = Counted::default();
        for worker in counting {
            match worker.join() {
                Ok(counted) => all.take(counted),
                // Counts with a part missing would look whole.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    (counted, errors)
}

fn fill(source: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < block.len() {
        match source.read(&mut block[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// Where a block can be cut: after a line, and before a traceback whose end it does not have.
fn cut(block: &[u8]) -> usize {
    let Some(end) = memchr::memrchr(b'\n', block).map(|at| at + 1) else {
        // One line without an end: what there is of it counts, when it is too long to wait for.
        return if block.len() >= LINE { block.len() } else { 0 };
    };
    let tail = end.saturating_sub(TRACEBACK);
    let Some(begun) = memchr::memmem::rfind(&block[tail..end], b"Traceback (most recent") else {
        return end;
    };
    let begun = memchr::memrchr(b'\n', &block[..tail + begun]).map_or(0, |at| at + 1);
    match begun > 0 && last_line(&block[begun..end]).is_none() {
        true => begun,
        false => end,
    }
}

fn count_all(blocks: &Mutex<Receiver<(usize, Vec<u8>)>>, since: &[u8]) -> Counted {
    let mut counted = Counted::default();
    let mut scratch = Vec::new();
    loop {
        let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((file, block)) = next else { return counted };
        count(&block, file, since, &mut counted, &mut scratch);
    }
}

fn count(block: &[u8], file: usize, since: &[u8], counted: &mut Counted, scratch: &mut Vec<u8>) {
    counted.lines += memchr::memchr_iter(b'\n', block).count() as u64;
    let Some(search) = SEARCH.as_ref() else { return };
    let mut at = 0;
    while let Some(found) = search.find(aho_corasick::Input::new(block).range(at..)) {
        let (start, end) = (found.start(), found.end());
        let word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let before = start.checked_sub(1).and_then(|i| block.get(i));
        // "ValueError" is one: the name of an exception ends with it.
        let named =
            before.is_some_and(u8::is_ascii_alphabetic) && block[start].is_ascii_uppercase();
        if (word(before) && !named) || word(block.get(end)) {
            at = end;
            continue;
        }
        let from = memchr::memrchr(b'\n', &block[..start]).map_or(0, |i| i + 1);
        let to = memchr::memchr(b'\n', &block[end..]).map_or(block.len(), |i| end + i);
        let line = &block[from..to];
        at = to;
        let own = time(line).unwrap_or_default();
        if !own.is_empty() && !since.is_empty() && earlier(own, since) {
            continue;
        }
        if memchr::memmem::find(line, b"Traceback (most recent").is_some() {
            let after = &block[to.min(block.len())..];
            if let Some((frame, exception, length)) = last_line(after) {
                template(exception, scratch);
                scratch.extend_from_slice(b" in ");
                scratch.extend_from_slice(frame);
                counted.add(scratch, own, 1, file);
                at = to + length;
                continue;
            }
        }
        template(line, scratch);
        counted.add(scratch, own, 1, file);
    }
}

/// Times are written with one of several marks between; digits decide.
fn earlier(time: &[u8], since: &[u8]) -> bool {
    let digits = |t: &[u8]| t.iter().copied().filter(u8::is_ascii_digit).collect::<Vec<_>>();
    digits(time) < digits(since)
}

/// The end of a traceback that follows: the function of its last frame, the exception's line, and how
/// long all of it is. None when it is not complete.
fn last_line(after: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut frame: &[u8] = b"?";
    let mut at = 0;
    for line in after.split_inclusive(|b| *b == b'\n').take(200) {
        at += line.len();
        let text = line.strip_suffix(b"\n")?;
        let indented = text.first().is_none_or(|b| b.is_ascii_whitespace());
        if !indented && memchr::memmem::find(text, b"Traceback (most recent").is_none() {
            return Some((frame, text, at));
        }
        if let Some(place) = memchr::memmem::find(text, b", in ") {
            frame = text.get(place + 5..)?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(text: &str, since: &str) -> Vec<(String, u64)> {
        let (counted, errors) =
            scan(std::iter::once(text.as_bytes()), since.as_bytes(), &AtomicU64::new(0), &|| false);
        assert!(errors.is_empty());
        let mut kinds: Vec<_> = counted
            .kinds
            .iter()
            .map(|(t, k)| (String::from_utf8_lossy(t).into_owned(), k.count))
            .collect();
        kinds.sort();
        kinds
    }

    #[test]
    fn a_word_that_stands_alone_tells_of_an_error_and_a_part_of_another_does_not() {
        let text = "all fine, 0 errors\nin error_handler.py\nERROR a 1\nlevel=error b\n[error] c\n\
                    ValueError: bad\nterror\n";
        let kinds = counted(text, "");
        let seen: Vec<_> = kinds.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(seen, ["ERROR a *", "ValueError: bad", "[error] c", "level=error b"]);
    }

    #[test]
    fn a_traceback_is_one_error_of_its_last_frame_and_exception() {
        let one = |n: u32| {
            format!(
                "2026-11-26 06:12:0{n} ERROR oops\nTraceback (most recent call last):\n  \
                 File \"/a.py\", line {n}, in run\n    go()\n  File \"/b.py\", line 7, in go\n    \
                 raise X\nKeyError: '{n}'\n"
            )
        };
        let kinds = counted(&(one(1) + &one(2)), "");
        assert_eq!(kinds, [("ERROR oops".to_owned(), 2), ("KeyError: '*' in go".to_owned(), 2)]);
    }

    #[test]
    fn lines_that_are_older_do_not_count_whatever_marks_their_times_have() {
        let text =
            "2026-11-26 06:00:00 ERROR old\n2026/11/26 07:00:00 [error] new\nERROR timeless\n";
        let seen = counted(text, "2026-11-26 06:30:00");
        let seen: Vec<_> = seen.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(seen, ["ERROR timeless", "[error] new"]);
    }

    #[test]
    fn kinds_beyond_what_can_be_told_apart_are_counted_together() {
        let letters = |mut n: usize| {
            let mut word = String::new();
            for _ in 0..4 {
                word.push(char::from(b'g' + u8::try_from(n % 20).expect("small")));
                n /= 20;
            }
            word
        };
        let text: String = (0..KINDS + 50).map(|n| format!("error {}\n", letters(n))).collect();
        let (counted, _) =
            scan(std::iter::once(text.as_bytes()), b"", &AtomicU64::new(0), &|| false);
        assert!(counted.kinds.len() <= KINDS);
        assert_eq!(counted.errors, KINDS as u64 + 50);
        assert_eq!(
            counted.kinds.values().map(|k| k.count).sum::<u64>() + counted.others,
            counted.errors
        );
    }

    /// A reader that gives as little at a time as it likes.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.clamp(1, self.0.len().max(1)).min(buffer.len()).min(self.0.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn however_it_is_read_the_count_is_the_same(
            lines in prop::collection::vec("(ERROR [a-f ]{0,20}|fine|x{0,9000})", 0..400), step in 1..70_000_usize,
        ) {
            let text = lines.join("\n") + "\n";
            let expected = lines.iter().filter(|l| l.starts_with("ERROR")).count() as u64;
            let source = Slow(text.as_bytes(), step);
            let (counted, _) = scan(std::iter::once(source), b"", &AtomicU64::new(0), &|| false);
            prop_assert_eq!(counted.errors, expected);
            prop_assert_eq!(counted.lines, lines.len() as u64);
        }
    }
}
