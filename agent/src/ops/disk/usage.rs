//! `disk.usage`: what is left of every file system.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostler_core::trend;
use hostler_proto::{
    operation::{DiskTree, DiskUsage, Operation},
    ops,
    wire::{ErrorCode, Failure, Figure, Finding, Status},
};

use super::asked::{PATIENCE, Said, ask_each};
use crate::{
    amount,
    bounds::{Bound, Bounds},
    host::{
        blocking,
        mounts::{self, Mount, mounts},
        past::{Look, Past},
    },
    operation::{Answer, Context, Probe},
    order::Order as _,
};

/// Looks from which it is told when a file system is full lie so far apart at least...
const APART: Duration = Duration::from_secs(600);
/// ... and reach back so far at most.
const PAST_US: i64 = 7 * 86_400_000_000;
/// What is full in years is not told: so far no week can see.
const FAR_S: f64 = 366.0 * 86_400.0;
/// As in the controller's overview: what is full later than this is nobody's business today...
const SOON_S: f64 = 7.0 * 86_400.0;
/// ... and what the past explains less well than this is no trend.
const SURE: f64 = 50.0;

impl Probe for DiskUsage {
    async fn observe(
        request: ops::DiskUsageRequest,
        cx: &Context,
    ) -> Result<Answer<ops::DiskUsage>, Failure> {
        let all = blocking(mounts).await?;
        for wanted in &request.mount {
            if !all.iter().any(|m| m.point == *wanted) {
                let message = format!("no file system that holds files is mounted at {wanted}");
                return Err(Failure::new(ErrorCode::NotFound, message)
                    .hint("`disk usage` without a mount point lists all of them"));
            }
        }
        let wanted = |m: &Mount| request.mount.is_empty() || request.mount.contains(&m.point);
        let mut seen = Seen::default();
        let mounts: Vec<Mount> = all.into_iter().filter(wanted).collect();
        let said = ask_each(mounts.clone()).await;
        for (mount, said) in mounts.into_iter().zip(said) {
            match said {
                Said::Space(space) => {
                    if mount.sealed && !by_nature(&mount.kind, true) {
                        seen.sealed.push(mount.point.clone());
                    }
                    let share = space.used_percent.max(space.inodes_used_percent);
                    if share >= f64::from(request.warning_percent.min(request.critical_percent)) {
                        let where_to = inside(&mount, cx).await?;
                        seen.inside.insert(mount.point, where_to);
                    }
                    seen.data.filesystems.push(*space);
                }
                Said::Error(error) => seen.failed.push((mount.point, error)),
                Said::Nothing => seen.silent.push(mount.point),
            }
        }
        seen.data.filesystems.order_by(|a, b| a.mount.cmp(&b.mount));
        outlook(&mut seen.data, cx).await?;
        Ok(judge(seen, request.warning_percent, request.critical_percent))
    }
}

/// What was seen, beside the figures: what keeps file systems from having some.
#[derive(Debug, Default)]
struct Seen {
    data: ops::DiskUsage,
    /// Turned read-only.
    sealed: Vec<String>,
    /// Did not answer.
    silent: Vec<String>,
    /// Cannot be asked, and why.
    failed: Vec<(String, String)>,
    /// Of those that are rather full: what of them may be looked into.
    inside: BTreeMap<String, Inside>,
}

/// What of a file system `disk tree` may look into.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Inside {
    /// These directories, or the whole; the one that fills up most often is the first.
    Directories(Vec<String>),
    /// Nothing, by the policy of this file.
    Nothing(String),
}

/// Tells when each file system is full, from what was seen of it before.
async fn outlook(data: &mut ops::DiskUsage, cx: &Context) -> Result<(), Failure> {
    let now_us = cx.host.clock.now().as_microsecond();
    let sizes = data.filesystems.iter().map(|fs| (fs.mount.clone(), fs.used_bytes)).collect();
    let past = Past::of(&cx.host.policy.state_dir, <DiskUsage as Operation>::NAME, "", APART);
    let now = Look { at_us: now_us, sizes };
    let looks = blocking(move || {
        let mut looks = past.look(now.clone());
        looks.retain(|look| look.at_us > now_us - PAST_US);
        looks.push(now);
        Ok(looks)
    });
    let looks = looks.await?;
    data.filesystems.iter_mut().for_each(|fs| fill(fs, &looks));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB, and near enough beyond")]
fn fill(fs: &mut ops::FileSystem, looks: &[Look]) {
    let used = looks.iter().filter_map(|look| {
        let value = *look.sizes.get(&fs.mount)? as f64;
        Some(trend::Point { at_us: look.at_us, value })
    });
    let used: Vec<_> = used.collect();
    let end = fs.used_bytes.saturating_add(fs.available_bytes) as f64;
    let trend = trend::trend(used.into_iter(), end).filter(|trend| trend.runs_out_s < FAR_S);
    fs.full_in_s = trend.map(|trend| trend.runs_out_s);
    fs.sure_percent = trend.map(|trend| trend.confidence * 100.0);
}

/// In how many seconds a file system is full, where that is no more than so many, and sure enough.
pub(crate) fn full_within(fs: &ops::FileSystem, longest_s: f64) -> Option<f64> {
    let sure = fs.sure_percent.is_some_and(|sure| sure >= SURE);
    fs.full_in_s.filter(|left| sure && *left <= longest_s)
}

/// When a file system is full, where that is soon and sure enough for a sentence.
fn soon(fs: &ops::FileSystem) -> Option<String> {
    let left = full_within(fs, SOON_S)?;
    Some(format!("full in {} if it goes on so", amount::span(left)))
}

/// What of a file system the policy lets `disk tree` look into.
async fn inside(mount: &Mount, cx: &Context) -> Result<Inside, Failure> {
    let host = Arc::clone(&cx.host);
    let policy = &host.policy;
    let nothing = Inside::Nothing(policy.file.display().to_string());
    if policy.operation(<DiskTree as Operation>::NAME).is_err() {
        return Ok(nothing);
    }
    let point = PathBuf::from(&mount.point);
    if policy.paths.iter().any(|allowed| point.starts_with(allowed)) {
        return Ok(Inside::Directories(vec![mount.point.clone()]));
    }
    let (number, paths) = (mount.number.clone(), policy.paths.clone());
    let there = blocking(move || {
        let mut there = mounts::on(&number, &paths)?;
        there.retain(|path| std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()));
        Ok(there)
    });
    let there = outermost(there.await?);
    Ok(if there.is_empty() { nothing } else { Inside::Directories(there) })
}

/// Those that lie in no other one, /var before the others: what runs by itself writes there.
fn outermost(mut paths: Vec<PathBuf>) -> Vec<String> {
    let all = paths.clone();
    paths.retain(|path| !all.iter().any(|other| path != other && path.starts_with(other)));
    paths.sort();
    paths.dedup();
    paths.order_by_key(|path| path != Path::new("/var"));
    paths.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// File systems that cannot be written by their nature.
const READ_ONLY_BY_NATURE: [&str; 4] = ["iso9660", "squashfs", "erofs", "udf"];

/// Whether nobody wants to write there: an image, or what a program serves to be read alone.
fn by_nature(kind: &str, read_only: bool) -> bool {
    READ_ONLY_BY_NATURE.contains(&kind)
        || read_only && (kind == "fuse" || kind.starts_with("fuse."))
}

fn judge(seen: Seen, warning: u32, critical: u32) -> Answer<ops::DiskUsage> {
    let Seen { data, sealed, silent, failed, inside } = seen;
    let bound =
        |parameter, value: u32| Bound::of(<DiskUsage as Operation>::NAME, parameter, value.into());
    let bounds =
        Bounds::new(bound("warning-percent", warning), bound("critical-percent", critical), "");
    let mut findings = Vec::new();
    for fs in &data.filesystems {
        if by_nature(&fs.r#type, fs.read_only) {
            continue;
        }
        let (tree, allowed) = match inside.get(&fs.mount) {
            None => (String::new(), String::new()),
            Some(Inside::Nothing(policy)) => {
                let lacks =
                    format!("policy.paths in {policy} lets `disk tree` look at nothing of it");
                (String::new(), format!("; {lacks}"))
            }
            Some(Inside::Directories(paths)) => {
                let others = match paths.len() {
                    0 | 1 => String::new(),
                    _ => format!("; `disk tree` may look into {}", paths.join(", ")),
                };
                let tree = paths.first().map(|first| format!("disk tree {first}"));
                (tree.unwrap_or_default(), others)
            }
        };
        let mut full = |share: f64, summary: String, why: &str| {
            if let Some(status) = bounds.above(share) {
                let why = format!("{why}{allowed}");
                let finding = Finding::new(status, &fs.mount, summary).why(why).next(&tree);
                findings.push(bounds.told(finding, share, "percent"));
            }
        };
        let left = fs.available_bytes / (1 << 20);
        let soon = soon(fs).map_or(String::new(), |soon| format!("; {soon}"));
        let space =
            format!("{} is {:.1} % full; {left} MiB are left{soon}", fs.mount, fs.used_percent);
        full(fs.used_percent, space, "what writes there fails when nothing is left");
        let share = fs.inodes_used_percent;
        let inodes = format!("{share:.1} % of the inodes of {} are used", fs.mount);
        full(share, inodes, "no new file can be made without one, whatever the space");
        if sealed.contains(&fs.mount) {
            let summary = format!("{} is read-only", fs.mount);
            let finding = Finding::new(Status::Warning, &fs.mount, summary)
                .why("a file system with errors is turned read-only by the kernel")
                .next("journal read --match remount --boot");
            findings.push(finding);
        }
    }
    for (mount, error) in &failed {
        let summary = format!("the file system at {mount} cannot be asked: {error}");
        let finding = Finding::new(Status::Unknown, mount, summary)
            .why("its server or the program behind it may be gone: mount it anew, or unmount it");
        findings.push(finding);
    }
    for mount in &silent {
        let summary = format!("{mount} did not answer within {} s", PATIENCE.as_secs());
        let finding = Finding::new(Status::Critical, mount, summary)
            .why("every process that touches it hangs as well")
            .next("host processes --by cpu");
        findings.push(finding);
    }
    let fullest = data.filesystems.iter().max_by(|a, b| a.used_percent.total_cmp(&b.used_percent));
    let summary = fullest.map_or("no file system that holds files is mounted".to_owned(), |fs| {
        let (count, share) = (data.filesystems.len(), fs.used_percent);
        let first = data.filesystems.iter().min_by(|a, b| {
            let left = |fs: &ops::FileSystem| fs.full_in_s.unwrap_or(f64::INFINITY);
            left(a).total_cmp(&left(b))
        });
        let first = first.and_then(|fs| Some(format!("; {} is {}", fs.mount, soon(fs)?)));
        let first = first.unwrap_or_default();
        format!("{count} file systems; the fullest is {} with {share:.0} %{first}", fs.mount)
    });
    let figures = data.filesystems.iter().map(figure).collect();
    let mut answer = Answer::ok(summary, data).evidence("file", "/proc/self/mountinfo, statvfs(3)");
    answer.figures = figures;
    findings.into_iter().fold(answer, Answer::finding).summed_up()
}

/// The space in use, with where it ends for users other than root.
#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB, and near enough beyond")]
fn figure(fs: &ops::FileSystem) -> Figure {
    let used = fs.used_bytes as f64;
    let figure = Figure {
        name: "used".into(),
        subject: fs.mount.clone(),
        value: used,
        unit: "bytes".into(),
        limit: None,
    };
    figure.limited(used + fs.available_bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filesystem(used: f64, inodes: f64) -> ops::FileSystem {
        ops::FileSystem {
            mount: "/srv".into(),
            r#type: "ext4".into(),
            used_percent: used,
            inodes_used_percent: inodes,
            ..ops::FileSystem::default()
        }
    }

    fn seen(filesystem: ops::FileSystem) -> Seen {
        Seen { data: ops::DiskUsage { filesystems: vec![filesystem] }, ..Seen::default() }
    }

    fn status(fs: ops::FileSystem) -> Status {
        judge(seen(fs), 85, 95).status
    }

    #[test]
    fn space_and_inodes_are_judged_alike_and_bounds_are_inclusive() {
        assert_eq!(status(filesystem(84.9, 0.0)), Status::Ok);
        assert_eq!(status(filesystem(85.0, 0.0)), Status::Warning);
        assert_eq!(status(filesystem(95.0, 0.0)), Status::Critical);
        assert_eq!(status(filesystem(1.0, 99.0)), Status::Critical);
        let source = |warning| {
            let mut answer = judge(seen(filesystem(96.0, 0.0)), warning, 95);
            answer.findings.remove(0).source
        };
        assert_eq!(
            (source(85).as_str(), source(70).as_str()),
            ("default", "parameter (warning), default (critical)")
        );
    }

    #[test]
    fn a_file_system_that_fills_says_when_it_is_full_and_one_that_does_not_says_nothing() {
        let hour = |n: u64| Look {
            at_us: i64::try_from(n).expect("small") * 3_600_000_000,
            sizes: [("/srv".to_owned(), n << 30), ("/".to_owned(), 7)].into(),
        };
        let looks: Vec<_> = (0..10).map(hour).collect();
        let of = |mount: &str, available: u64| {
            let mut fs = ops::FileSystem {
                mount: mount.into(),
                used_bytes: 9 << 30,
                available_bytes: available << 30,
                ..filesystem(90.0, 0.0)
            };
            fill(&mut fs, &looks);
            fs
        };
        let fills = of("/srv", 12);
        assert!((fills.full_in_s.expect("a time") - 43_200.0).abs() < 1.0, "{fills:?}");
        assert!(fills.sure_percent.expect("a share") > 99.9);
        let answer = judge(seen(fills.clone()), 85, 95);
        let said = "/srv is 90.0 % full; 12288 MiB are left; full in 12 h if it goes on so";
        assert_eq!(answer.findings[0].summary, said);
        let answer = judge(seen(fills.clone()), 95, 99);
        let said = "the fullest is /srv with 90 %; /srv is full in 12 h if it goes on so";
        assert_eq!(answer.summary, format!("1 file systems; {said}"));
        let unsure = ops::FileSystem { sure_percent: Some(30.0), ..fills };
        assert_eq!((soon(&unsure), soon(&of("/srv", 200))), (None, None));
        assert!(of("/srv", 200).full_in_s.is_some() && of("/srv", 9_000).full_in_s.is_none());
        let still = of("/", 12);
        assert_eq!((still.full_in_s, still.sure_percent), (None, None));
    }

    #[test]
    fn a_read_only_file_system_is_worth_a_warning_and_a_full_image_is_not() {
        let sealed = Seen { sealed: vec!["/srv".into()], ..seen(filesystem(1.0, 1.0)) };
        assert_eq!(judge(sealed, 85, 95).status, Status::Warning);
        let image = ops::FileSystem { r#type: "squashfs".into(), ..filesystem(100.0, 100.0) };
        assert_eq!(status(image), Status::Ok);
        let served = |read_only| ops::FileSystem {
            r#type: "fuse.rclone".into(),
            read_only,
            ..filesystem(100.0, 100.0)
        };
        assert_eq!((status(served(true)), status(served(false))), (Status::Ok, Status::Critical));
    }

    #[test]
    fn a_mount_that_does_not_answer_or_cannot_be_asked_hides_no_other() {
        let silent = Seen { silent: vec!["/mnt/nfs".into()], ..seen(filesystem(90.0, 0.0)) };
        let answer = judge(silent, 85, 95);
        assert_eq!((answer.status, answer.findings.len()), (Status::Critical, 2));
        let failed = vec![("/mnt/fuse".to_owned(), "not connected".to_owned())];
        let answer = judge(Seen { failed: failed.clone(), ..seen(filesystem(99.0, 0.0)) }, 85, 95);
        assert!(answer.summary.starts_with("/srv is 99.0 % full"), "{}", answer.summary);
        assert_eq!(
            (answer.status, answer.findings[1].status()),
            (Status::Critical, Status::Unknown)
        );
        let answer = judge(Seen { failed, ..seen(filesystem(1.0, 0.0)) }, 85, 95);
        assert_eq!(answer.status, Status::Unknown);
        assert_eq!(answer.summary, "the file system at /mnt/fuse cannot be asked: not connected");
    }

    #[test]
    fn what_is_named_next_is_what_the_policy_allows_to_be_looked_into() {
        let finding = |inside: Inside| {
            let inside = BTreeMap::from([("/srv".to_owned(), inside)]);
            judge(Seen { inside, ..seen(filesystem(99.0, 0.0)) }, 85, 95).findings.remove(0)
        };
        let paths = ["/var/log", "/opt", "/var", "/home"].map(PathBuf::from).to_vec();
        let some = finding(Inside::Directories(outermost(paths)));
        assert_eq!(some.next, "disk tree /var");
        assert!(
            some.why.ends_with("; `disk tree` may look into /var, /home, /opt"),
            "{}",
            some.why
        );
        let none = finding(Inside::Nothing("/etc/hostler/agent.toml".into()));
        assert_eq!(none.next, "");
        assert!(none.why.contains("policy.paths in /etc/hostler/agent.toml"), "{}", none.why);
    }
}
