//! `disk.tree`: where the space went.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use hostler_proto::{
    operation::DiskTree,
    ops,
    wire::{ErrorCode, Failure, Finding, Status},
};
use ignore::{DirEntry, WalkBuilder, WalkState};
use roaring::RoaringTreemap;
use tokio_util::sync::CancellationToken;

use crate::{
    host::{blocking, mounts, processes},
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Directories that are told apart at most; beyond, the answer would not fit anywhere.
const DIRECTORIES: usize = 100_000;
/// Files that are listed, the largest.
const FILES: usize = 20;
/// Deleted files that are listed.
const DELETED: usize = 100;
/// How often progress is told.
const BEAT: Duration = Duration::from_millis(500);

impl Probe for DiskTree {
    async fn observe(
        request: ops::DiskTreeRequest,
        cx: &Context,
    ) -> Result<Answer<ops::DiskTree>, Failure> {
        let host = Arc::clone(&cx.host);
        let path = PathBuf::from(&request.path);
        let root = blocking(move || host.policy.directory(&path)).await?;
        let seen = Arc::new(AtomicU64::new(0));
        // Dropped with this future, so that the walk ends as well.
        let stop = CancellationToken::new();
        let _gone = stop.clone().drop_guard();
        let (count, token, top) = (Arc::clone(&seen), stop.clone(), root.clone());
        let depth = request.depth as usize;
        let walk = blocking(move || {
            let mounted =
                mounts::around(&top)?.others_below.into_iter().map(PathBuf::from).collect();
            walk(&top, depth, mounted, &count, &token)
        });
        let doing = format!("measuring {}", root.display());
        let sums = watched(walk, cx, || {
            cx.progress(doing.as_str(), seen.load(Ordering::Relaxed), 0, "files");
        });
        let sums = sums.await?;
        let top = request.top as usize;
        let shown = root.clone();
        let data = blocking(move || report(&shown, sums, top)).await?;
        Ok(judge(&root, data))
    }
}

/// Waits for the walk, and tells how far it is. Who cancels it does not wait for it: a call to a file
/// system whose server is gone never comes back.
async fn watched<T>(
    walk: impl Future<Output = Result<T, Failure>>,
    cx: &Context,
    tell: impl Fn(),
) -> Result<T, Failure> {
    let mut beat = tokio::time::interval(BEAT);
    tokio::pin!(walk);
    loop {
        tokio::select! {
            done = &mut walk => return done,
            _ = beat.tick() => tell(),
            () = cx.cancelled.cancelled() => {
                return Err(Failure::new(ErrorCode::Cancelled, "disk.tree was cancelled"));
            }
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Size {
    bytes: u64,
    entries: u64,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.entries += other.entries;
    }
}

#[derive(Debug, Default)]
struct Sums {
    /// By path relative to the root; each with everything that lies below.
    directories: HashMap<PathBuf, Size>,
    largest: Largest,
    total: Size,
    unreadable: u64,
}

/// The largest files, the smallest of which is on top.
#[derive(Debug, Default)]
struct Largest(BinaryHeap<Reverse<(u64, PathBuf)>>);

impl Largest {
    fn add(&mut self, bytes: u64, path: &Path) {
        let full = self.0.len() >= FILES;
        if bytes == 0 || full && self.0.peek().is_some_and(|least| bytes <= least.0.0) {
            return;
        }
        if full {
            self.0.pop();
        }
        self.0.push(Reverse((bytes, path.to_owned())));
    }

    /// The largest first.
    fn sorted(self) -> impl Iterator<Item = (u64, PathBuf)> {
        self.0.into_sorted_vec().into_iter().map(|Reverse(file)| file)
    }
}

/// One thread's share, handed over when the thread is done.
struct Share {
    sums: Sums,
    to: mpsc::Sender<Sums>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.to.send(std::mem::take(&mut self.sums));
    }
}

/// Walks on as many threads as there are processors, within the file system of `root`, and
/// follows no link. What is `mounted` below is not even looked at. Blocks for as long as that takes or
/// until it is cancelled.
fn walk(
    root: &Path,
    depth: usize,
    mounted: HashSet<PathBuf>,
    seen: &AtomicU64,
    stop: &CancellationToken,
) -> Result<Sums, Failure> {
    let too_many = || {
        let message =
            format!("{} has more than {DIRECTORIES} directories at that depth", root.display());
        Failure::new(ErrorCode::LimitExceeded, message).hint("ask for a smaller --depth")
    };
    let device = std::fs::metadata(root)
        .map_err(|e| {
            let message = format!("{} cannot be looked at: {e}", root.display());
            Failure::new(ErrorCode::HostFault, message)
        })?
        .dev();
    // A bit per inode that has several names: hard links of whole backups stay small.
    let linked: Mutex<HashMap<u64, RoaringTreemap>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let walker = WalkBuilder::new(root)
        .standard_filters(false)
        .follow_links(false)
        .same_file_system(true)
        .filter_entry(move |entry| !mounted.contains(entry.path()))
        .threads(threads)
        .build_parallel();
    let (to, shares) = mpsc::channel();
    walker.run(|| {
        let mut share = Share { sums: Sums::default(), to: to.clone() };
        let linked = &linked;
        Box::new(move |entry| {
            if stop.is_cancelled() || share.sums.directories.len() > DIRECTORIES {
                return WalkState::Quit;
            }
            seen.fetch_add(1, Ordering::Relaxed);
            match entry.ok().and_then(|e| Some((e.metadata().ok()?, e))) {
                // A file on an overlay has the device of its layer; only directories tell.
                Some((file, entry)) if !file.is_dir() || file.dev() == device => {
                    let again = file.nlink() > 1 && !file.is_dir() && {
                        let mut linked = linked.lock().unwrap_or_else(PoisonError::into_inner);
                        !linked.entry(file.dev()).or_default().insert(file.ino())
                    };
                    // Blocks of stat(2) have 512 bytes, whatever the file system's are.
                    let bytes = if again { 0 } else { file.blocks().saturating_mul(512) };
                    let size = Size { bytes, entries: 1 };
                    share.sums.total.add(size);
                    if !file.is_dir() {
                        share.sums.largest.add(bytes, entry.path());
                    }
                    if let Some(directory) = directory(root, &entry, depth) {
                        share.sums.directories.entry(directory).or_default().add(size);
                    }
                }
                // Another file system that is mounted here.
                Some(_) => {}
                None => share.sums.unreadable += 1,
            }
            WalkState::Continue
        })
    });
    drop(to);
    let mut all = Sums::default();
    for share in shares {
        all.total.add(share.total);
        all.unreadable += share.unreadable;
        share.largest.sorted().for_each(|(bytes, path)| all.largest.add(bytes, &path));
        for (path, size) in share.directories {
            all.directories.entry(path).or_default().add(size);
        }
        if all.directories.len() > DIRECTORIES {
            return Err(too_many());
        }
    }
    roll_up(&mut all.directories);
    Ok(all)
}

/// The directory, at most `depth` levels below the root, that an entry counts for.
fn directory(root: &Path, entry: &DirEntry, depth: usize) -> Option<PathBuf> {
    let below = entry.path().strip_prefix(root).ok()?;
    let is_directory = entry.file_type().is_some_and(|t| t.is_dir());
    let levels = below.components().count() - usize::from(!is_directory);
    let directory: PathBuf = below.components().take(levels.min(depth)).collect();
    (!directory.as_os_str().is_empty()).then_some(directory)
}

/// Adds what lies in each directory to those above it.
fn roll_up(directories: &mut HashMap<PathBuf, Size>) {
    let own: Vec<(PathBuf, Size)> = directories.iter().map(|(p, s)| (p.clone(), *s)).collect();
    for (path, size) in own {
        for above in path.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()) {
            directories.entry(above.to_owned()).or_default().add(size);
        }
    }
}

fn report(root: &Path, sums: Sums, top: usize) -> Result<ops::DiskTree, Failure> {
    let mut directories: Vec<_> = sums.directories.into_iter().collect();
    directories.sort_by(|(a, x), (b, y)| (Reverse(x.bytes), a).cmp(&(Reverse(y.bytes), b)));
    directories.truncate(top);
    let files = sums
        .largest
        .sorted()
        .take(top)
        .map(|(bytes, path)| ops::FileSize { path: path.to_string_lossy().into_owned(), bytes });
    let around = mounts::around(root)?;
    let mut deleted = around.number.map(|n| processes::deleted(&n)).unwrap_or_default();
    deleted.order_by_key(|d| Reverse(d.bytes));
    deleted.truncate(DELETED);
    Ok(ops::DiskTree {
        directories: directories
            .into_iter()
            .map(|(path, size)| ops::DirectorySize {
                path: root.join(path).to_string_lossy().into_owned(),
                bytes: size.bytes,
                entries: size.entries,
            })
            .collect(),
        files: files.collect(),
        total_bytes: sums.total.bytes,
        entries: sums.total.entries,
        unreadable: sums.unreadable,
        other_filesystems: around.others_below,
        deleted: deleted
            .into_iter()
            .map(|file| {
                let holder = processes::one(file.pid);
                let (command, unit) = holder.map(|p| (p.command, p.unit)).unwrap_or_default();
                let processes::Deleted { path, bytes, pid } = file;
                ops::DeletedFile { path, bytes, pid, command, unit }
            })
            .collect(),
    })
}

fn judge(root: &Path, data: ops::DiskTree) -> Answer<ops::DiskTree> {
    let mib = |bytes: u64| bytes / (1 << 20);
    let shown = root.display();
    // A directory is larger than every file in it: a file as large as the largest lies beside that.
    let most = data.directories.first().map(|d| d.bytes);
    let file = data.files.first().filter(|file| most.is_none_or(|most| file.bytes >= most));
    let first = match (file, data.directories.first()) {
        (Some(file), _) => format!("; the most, {} MiB, is {}", mib(file.bytes), file.path),
        (None, Some(first)) => format!("; the most, {} MiB, in {}", mib(first.bytes), first.path),
        (None, None) => String::new(),
    };
    let summary =
        format!("{shown} holds {} MiB in {} entries{first}", mib(data.total_bytes), data.entries);
    let held: u64 = data.deleted.iter().map(|d| d.bytes).sum();
    let mut findings = Vec::new();
    if data.unreadable > 0 {
        let count = data.unreadable;
        let summary = format!("{count} entries could not be read; their space is missing");
        let finding = Finding::new(Status::Unknown, shown.to_string(), summary);
        findings.push(
            finding.why("the agent's user may not look into them, or they went away meanwhile"),
        );
    }
    if let Some(worst) = data.deleted.first().filter(|_| mib(held) >= mib(data.total_bytes) / 10)
        && mib(held) >= 1
    {
        let count = data.deleted.len();
        let next = match processes::is_service(&worst.unit) {
            true => format!("systemd restart {}", worst.unit),
            false => "host processes --by memory".to_owned(),
        };
        let summary = format!("{count} deleted files still take {} MiB", mib(held));
        let (command, pid) = (&worst.command, worst.pid);
        let finding = Finding::new(Status::Warning, &worst.path, summary)
            .why(format!("space comes back only when {command} (pid {pid}) closes them"));
        findings.push(finding.next(next));
    }
    let answer = Answer::ok(summary, data).evidence("file", format!("lstat below {shown}"));
    findings.into_iter().fold(answer, Answer::finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn measure(root: &Path, depth: usize) -> Sums {
        let stop = CancellationToken::new();
        walk(root, depth, HashSet::new(), &AtomicU64::new(0), &stop).expect("walk")
    }

    #[test]
    fn what_lies_deeper_counts_for_its_ancestors_and_hard_links_count_once() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b/c")).expect("made");
        std::fs::write(root.join("a/b/c/big"), vec![1; 1 << 20]).expect("written");
        std::fs::hard_link(root.join("a/b/c/big"), root.join("a/again")).expect("linked");
        std::fs::write(root.join("top"), vec![1; 8192]).expect("written");
        let sums = measure(root, 2);
        let (a, b) = (sums.directories[Path::new("a")], sums.directories[Path::new("a/b")]);
        assert!(a.bytes >= 1 << 20 && a.bytes < 2 << 20, "{a:?}");
        assert_eq!((a.entries, b.entries), (5, 3));
        assert!(!sums.directories.contains_key(Path::new("a/b/c")));
        assert_eq!(sums.total.entries, 7);
        assert!(sums.total.bytes > a.bytes);
    }

    #[test]
    fn a_large_file_beside_the_directories_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("real");
        std::fs::create_dir(root.join("a")).expect("made");
        for i in 0..30 {
            std::fs::write(root.join(format!("a/{i}")), vec![1; 4096 * (i + 1)]).expect("written");
        }
        std::fs::write(root.join("a/deep"), vec![1; 1 << 20]).expect("written");
        std::fs::write(root.join("big"), vec![1; 8 << 20]).expect("written");
        let data = report(&root, measure(&root, 2), 5).expect("a report");
        let files: Vec<_> = data.files.iter().map(|f| f.path.rsplit('/').next()).collect();
        assert_eq!(files, ["big", "deep", "29", "28", "27"].map(Some));
        let summary = judge(&root, data).summary;
        let named = format!("; the most, 8 MiB, is {}", root.join("big").display());
        assert!(summary.ends_with(&named), "{summary}");
    }

    #[test]
    fn the_total_is_what_du_says() {
        let dir = tempfile::tempdir().expect("directory");
        for i in 0..200 {
            let below = dir.path().join(format!("{}/{}", i % 7, i % 3));
            std::fs::create_dir_all(&below).expect("made");
            std::fs::write(below.join(i.to_string()), vec![0; i * 100]).expect("written");
        }
        #[expect(clippy::disallowed_methods, reason = "du is what the figure is compared with")]
        let du =
            std::process::Command::new("/usr/bin/du").args(["-s", "-B1"]).arg(dir.path()).output();
        let du = String::from_utf8(du.expect("du").stdout).expect("text");
        let bytes: u64 = du.split_whitespace().next().expect("size").parse().expect("number");
        assert_eq!(measure(dir.path(), 1).total.bytes, bytes);
    }

    #[test]
    fn a_deleted_file_that_is_still_open_is_found_with_its_holder() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("gone.log");
        std::fs::write(&path, vec![1; 4 << 20]).expect("written");
        let open = std::fs::File::open(&path).expect("open");
        let mounts = mounts::around(&dir.path().canonicalize().expect("real")).expect("mounts");
        std::fs::remove_file(&path).expect("removed");
        let deleted = processes::deleted(&mounts.number.expect("a file system"));
        let found = deleted.iter().find(|d| Path::new(&d.path) == path).expect("found");
        assert_eq!((found.pid, found.bytes >= 4 << 20), (std::process::id(), true));
        drop(open);
    }

    #[test]
    fn a_cancelled_walk_ends_at_once() {
        let stop = CancellationToken::new();
        stop.cancel();
        let seen = AtomicU64::new(0);
        walk(Path::new("/usr"), 1, HashSet::new(), &seen, &stop).expect("ended");
        assert!(seen.load(Ordering::Relaxed) < 1000);
    }

    #[tokio::test]
    async fn who_cancels_does_not_wait_for_a_walk_that_hangs_and_nobody_else_does() {
        let directory = tempfile::tempdir().expect("directory");
        let (events, _read) = tokio::sync::mpsc::channel(1);
        let cancelled = CancellationToken::new();
        let host = Arc::new(Host::showing(directory.path()));
        let cx = Context::new(host, cancelled.clone(), events);
        cancelled.cancel();
        // On one thread: a loop that does not wait would never let the time pass.
        let hangs = watched(std::future::pending::<Result<(), Failure>>(), &cx, || {});
        let ended = tokio::time::timeout(Duration::from_secs(20), hangs).await.expect("ended");
        assert_eq!(ended.expect_err("no result").code(), ErrorCode::Cancelled);
    }

    #[test]
    fn what_is_mounted_below_is_not_looked_at() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path();
        for file in ["a/big", "b/big"] {
            std::fs::create_dir_all(root.join(file).parent().expect("a directory")).expect("made");
            std::fs::write(root.join(file), vec![1; 1 << 20]).expect("written");
        }
        let (seen, stop) = (AtomicU64::new(0), CancellationToken::new());
        let mounted = HashSet::from([root.join("b")]);
        let sums = walk(root, 1, mounted, &seen, &stop).expect("walk");
        assert_eq!((sums.total.entries, seen.load(Ordering::Relaxed)), (3, 3));
        assert!(!sums.directories.contains_key(Path::new("b")), "{sums:?}");
    }
}
