use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use hostler_core::clock::SystemClock;
use hostler_proto::wire::Status;

use super::*;
use crate::{policy::Policy, stack::Stack};

const PLAIN: &str = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 15.18\n\
                     -- Dumped by pg_dump version 15.18 (Debian)\n\nCREATE TABLE a ();\n\n--\n\
                     -- PostgreSQL database dump complete\n--\n\n";

struct Directory {
    dir: tempfile::TempDir,
    now: SystemTime,
    verify: bool,
}

impl Directory {
    #[expect(clippy::disallowed_methods, reason = "files have the disk's own times")]
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        Self { dir, now: SystemTime::now(), verify: false }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("real").join("backups")
    }

    fn write(&self, name: &str, hours: u64, content: &[u8]) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        let mut file = fs::File::create(path).expect("made");
        file.write_all(content).expect("written");
        file.set_modified(self.now - Duration::from_secs(hours * 3600)).expect("dated");
    }

    fn entry(&self, pattern: &str) -> Backups {
        let text = format!(
            "name = \"app\"\ndirectory = \"{}\"\npattern = \"{pattern}\"",
            self.path().display()
        );
        toml::from_str(&text).expect("an entry")
    }

    fn look(&self, pattern: &str, stop: &CancellationToken) -> Result<Answer<Report>, Failure> {
        let policy = Policy { paths: vec![self.dir.path().into()], ..Policy::default() };
        let clock = Arc::new(SystemClock);
        let look = Look {
            host: Arc::new(Host { policy, stack: Stack::default(), clock }),
            now: self.now,
            stop: stop.clone(),
            read: Arc::new(AtomicU64::new(0)),
            verify: self.verify,
            top: 10,
        };
        Ok(judge(vec![look.set(&self.entry(pattern))?]))
    }

    fn seen(&self, pattern: &str) -> Answer<Report> {
        self.look(pattern, &CancellationToken::new()).expect("seen")
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(content).expect("compressed");
    gzip.finish().expect("compressed")
}

#[test]
fn what_a_file_is_its_bytes_tell_and_not_its_name() {
    let directory = Directory::new();
    directory.write("a.sql.gz", 2, PLAIN.as_bytes());
    directory.write("b.dump", 26, &gzip(PLAIN.as_bytes()));
    directory.write("README", 1, b"how to restore");
    directory.write(".hidden", 1, b"");
    directory.write("c.partial", 1, b"");
    let answer = directory.seen("*");
    assert_eq!(answer.status, Status::Ok, "{answer:?}");
    let kinds: Vec<_> =
        answer.data.backups.iter().map(|b| (&*b.file, &*b.kind, &*b.state)).collect();
    assert_eq!(
        kinds,
        [
            ("README", "other", "unknown"),
            ("a.sql.gz", "plain", "whole"),
            ("b.dump", "plain gzip", "whole")
        ]
    );
    assert_eq!(answer.data.backups[1].pg_dump, "15.18");
    assert!(answer.summary.contains("none is proven"));
}

#[test]
fn the_empty_dump_that_was_compressed_is_critical_whatever_came_before() {
    let directory = Directory::new();
    let empty = gzip(b"");
    assert!(empty.len() < 30);
    directory.write("new.sql.gz", 1, &empty);
    directory.write("old.sql.gz", 25, &gzip(PLAIN.as_bytes()));
    let answer = directory.seen("*.sql.gz");
    assert_eq!(answer.status, Status::Critical);
    assert!(answer.summary.contains("new.sql.gz, is broken: what is compressed in it is empty"));
    assert!(answer.findings[0].why.contains("old.sql.gz, is 25 h old"), "{answer:?}");
    let none = directory.seen("*.dump");
    assert!(none.summary.contains("holds no backup"), "{none:?}");
}

#[test]
fn one_that_is_still_written_is_not_broken_yet() {
    let directory = Directory::new();
    directory.write("now.sql", 0, &PLAIN.as_bytes()[..120]);
    directory.write("old.sql", 25, PLAIN.as_bytes());
    let answer = directory.seen("*");
    assert_eq!((answer.status, &*answer.data.backups[0].state), (Status::Ok, "written"));
    directory.write("now.sql", 1, &PLAIN.as_bytes()[..120]);
    assert_eq!(directory.seen("*").status, Status::Critical);
}

#[test]
fn a_link_is_followed_only_within_the_directory() {
    let directory = Directory::new();
    directory.write("a.sql", 2, PLAIN.as_bytes());
    symlink("a.sql", directory.path().join("latest.sql")).expect("link");
    let answer = directory.seen("*");
    assert_eq!((answer.status, answer.data.backups.len()), (Status::Ok, 1), "once: {answer:?}");
    assert_eq!(answer.data.backups[0].file, "a.sql");
    fs::write(directory.dir.path().join("outside.sql"), PLAIN).expect("written");
    symlink("../outside.sql", directory.path().join("out.sql")).expect("link");
    symlink("/etc/passwd", directory.path().join("passwd")).expect("link");
    let answer = directory.seen("*");
    assert_eq!((answer.status, answer.data.backups.len()), (Status::Unknown, 1));
    assert!(answer.summary.contains("out.sql") && answer.summary.contains("passwd"), "{answer:?}");
}

#[test]
fn a_dump_in_a_directory_is_whole_with_all_that_its_table_of_contents_names() {
    let directory = Directory::new();
    directory.write("d/3001.dat.gz", 0, &gzip(b"1\n\\.\n"));
    let answer = directory.seen("*");
    assert_eq!(answer.data.backups[0].state, "written", "no toc.dat, and just made: {answer:?}");
    directory.write("d/3001.dat.gz", 2, &gzip(b"1\n\\.\n"));
    let answer = directory.seen("*");
    assert_eq!(answer.data.backups[0].state, "broken", "nobody writes any more: {answer:?}");
    directory.write("d/toc.dat", 2, &crate::dumps::tests::contents(&["3001.dat", "3002.dat"]));
    let answer = directory.seen("*");
    assert!(answer.summary.contains("3002.dat, which it names, is missing"), "{answer:?}");
    directory.write("d/3002.dat.gz", 2, &gzip(b"2\n\\.\n"));
    let answer = directory.seen("*");
    let backup = &answer.data.backups[0];
    assert_eq!((&*backup.kind, &*backup.state), ("directory", "whole"), "{answer:?}");
    assert_eq!((&*backup.database, &*backup.pg_dump), ("app", "15.18"));
    directory.write("d/3002.dat.gz", 2, b"");
    assert!(directory.seen("*").summary.contains("3002.dat.gz is empty"));
}

#[test]
fn all_files_of_a_dump_in_a_directory_are_read_when_asked_or_it_is_said_that_they_are_not() {
    let directory = Directory { verify: true, ..Directory::new() };
    directory.write("d/3001.dat", 2, b"1\n\\.\n");
    directory.write("d/toc.dat", 2, &crate::dumps::tests::contents(&["3001.dat"]));
    let seen = || {
        let backup = directory.seen("*").data.backups.remove(0);
        (backup.state, backup.read, backup.why)
    };
    assert_eq!(seen(), ("whole".into(), true, String::new()));
    directory.write("d/blob_1.dat.lz4", 2, b"1");
    let (state, read, why) = seen();
    assert_eq!((&*state, read), ("unknown", false), "{why}");
    assert!(why.starts_with("blob_1.dat.lz4: "), "{why}");
    directory.write("d/blob_2.dat.gz", 2, &gzip(b"large")[..12]);
    let (state, read, why) = seen();
    assert_eq!((&*state, read), ("broken", false), "{why}");
    assert!(why.starts_with("blob_2.dat.gz: "), "{why}");
}

#[test]
fn one_that_was_written_in_the_future_is_not_new_for_ever() {
    let directory = Directory::new();
    directory.write("a.sql", 2, PLAIN.as_bytes());
    directory.write("b.sql", 0, &PLAIN.as_bytes()[..120]);
    let file = fs::File::options().append(true).open(directory.path().join("b.sql"));
    let later = directory.now + Duration::from_secs(3600);
    file.expect("opened").set_modified(later).expect("dated");
    let answer = directory.seen("*");
    assert_eq!((answer.status, &*answer.data.backups[0].state), (Status::Critical, "broken"));
    let future = answer.findings.iter().any(|f| f.summary.contains("in the future"));
    assert!(future, "{answer:?}");
}

#[test]
fn what_is_not_there_is_critical_and_a_cancelled_look_ends() {
    let directory = Directory::new();
    assert_eq!(directory.seen("*").status, Status::Critical);
    directory.write("a.sql", 2, PLAIN.as_bytes());
    let stop = CancellationToken::new();
    stop.cancel();
    assert_eq!(directory.look("*", &stop).expect_err("ended").code(), ErrorCode::Cancelled);
}
