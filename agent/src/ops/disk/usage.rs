//! `disk.usage`: what is left of every file system.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hostler_proto::{
    finding::above,
    operation::DiskUsage,
    ops,
    wire::{ErrorCode, Failure, Figure, Finding, Status},
};

use crate::{
    host::{
        blocking,
        mounts::{Mount, mounts},
    },
    operation::{Answer, Context, Probe},
};

/// How long one file system may take to answer; a network mount whose server is gone never does.
const PATIENCE: Duration = Duration::from_secs(3);

impl Probe for DiskUsage {
    async fn observe(
        request: ops::DiskUsageRequest,
        _: &Context,
    ) -> Result<Answer<ops::DiskUsage>, Failure> {
        let all = blocking(mounts).await?;
        for wanted in &request.mount {
            if !all.iter().any(|m| m.point == *wanted) {
                let message = format!("no file system with storage is mounted at {wanted}");
                return Err(Failure::new(ErrorCode::NotFound, message)
                    .hint("`disk usage` without a mount point lists all of them"));
            }
        }
        let wanted = |m: &Mount| request.mount.is_empty() || request.mount.contains(&m.point);
        let mut data = ops::DiskUsage::default();
        let (mut silent, mut sealed) = (Vec::new(), Vec::new());
        for mount in all.into_iter().filter(wanted) {
            let point = mount.point.clone();
            if mount.sealed && !READ_ONLY_BY_NATURE.contains(&mount.kind.as_str()) {
                sealed.push(point.clone());
            }
            let Some(asked) = Asked::begin(&point) else {
                silent.push(point);
                continue;
            };
            let measuring = blocking(move || {
                let measured = measure(mount);
                drop(asked);
                measured
            });
            match tokio::time::timeout(PATIENCE, measuring).await {
                Ok(measured) => data.filesystems.push(measured?),
                Err(_) => silent.push(point),
            }
        }
        data.filesystems.sort_by(|a, b| a.mount.cmp(&b.mount));
        Ok(judge(data, &sealed, &silent, request.warning_percent, request.critical_percent))
    }
}

/// A file system that was asked and has not answered. It is not asked again meanwhile: each call
/// holds a thread for as long as it hangs.
struct Asked(String);

static UNANSWERED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Asked {
    fn begin(point: &str) -> Option<Self> {
        let mut unanswered = UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.insert(point.to_owned()).then(|| Self(point.to_owned()))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn measure(mount: Mount) -> Result<ops::FileSystem, Failure> {
    let space = rustix::fs::statvfs(mount.point.as_str()).map_err(|e| {
        let message = format!("the file system at {} cannot be asked: {e}", mount.point);
        Failure::new(ErrorCode::HostFault, message)
    })?;
    let used = space.f_blocks.saturating_sub(space.f_bfree);
    let inodes_used = space.f_files.saturating_sub(space.f_ffree);
    Ok(ops::FileSystem {
        size_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        used_bytes: used.saturating_mul(space.f_frsize),
        available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        // What is kept for root is in neither part, as in df.
        used_percent: percent(used, used.saturating_add(space.f_bavail)),
        inodes: space.f_files,
        inodes_used_percent: percent(inodes_used, space.f_files),
        mount: mount.point,
        device: mount.device,
        r#type: mount.kind,
        read_only: mount.read_only,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// File systems that cannot be written by their nature.
const READ_ONLY_BY_NATURE: [&str; 4] = ["iso9660", "squashfs", "erofs", "udf"];

fn judge(
    data: ops::DiskUsage,
    sealed: &[String],
    silent: &[String],
    warning: u32,
    critical: u32,
) -> Answer<ops::DiskUsage> {
    let (warning, critical) = (f64::from(warning), f64::from(critical));
    let mut findings = Vec::new();
    for fs in &data.filesystems {
        if READ_ONLY_BY_NATURE.contains(&fs.r#type.as_str()) {
            continue;
        }
        let tree = format!("disk tree {}", fs.mount);
        let mut full = |share: f64, summary: String, why: &str| {
            if let Some(status) = above(share, warning, critical) {
                let finding = Finding::new(status, &fs.mount, summary).why(why).next(&tree);
                let finding = finding.measured(share, "percent");
                findings.push(finding.bounds(warning, critical, "parameters"));
            }
        };
        let left = fs.available_bytes / (1 << 20);
        let space = format!("{} is {:.1} % full; {left} MiB are left", fs.mount, fs.used_percent);
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
    for mount in silent {
        let summary = format!("{mount} did not answer within {} s", PATIENCE.as_secs());
        let finding = Finding::new(Status::Critical, mount, summary)
            .why("every process that touches it hangs as well")
            .next("host processes --by cpu");
        findings.push(finding);
    }
    let fullest = data.filesystems.iter().max_by(|a, b| a.used_percent.total_cmp(&b.used_percent));
    let summary = fullest.map_or("no file system with storage is mounted".to_owned(), |fs| {
        let (count, share) = (data.filesystems.len(), fs.used_percent);
        format!("{count} file systems; the fullest is {} with {share:.0} %", fs.mount)
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

    fn status(fs: ops::FileSystem) -> Status {
        judge(ops::DiskUsage { filesystems: vec![fs] }, &[], &[], 85, 95).status
    }

    #[test]
    fn space_and_inodes_are_judged_alike_and_bounds_are_inclusive() {
        assert_eq!(status(filesystem(84.9, 0.0)), Status::Ok);
        assert_eq!(status(filesystem(85.0, 0.0)), Status::Warning);
        assert_eq!(status(filesystem(95.0, 0.0)), Status::Critical);
        assert_eq!(status(filesystem(1.0, 99.0)), Status::Critical);
    }

    #[test]
    fn a_read_only_file_system_is_worth_a_warning_and_a_full_image_is_not() {
        let data = ops::DiskUsage { filesystems: vec![filesystem(1.0, 1.0)] };
        assert_eq!(judge(data, &["/srv".into()], &[], 85, 95).status, Status::Warning);
        let image = ops::FileSystem { r#type: "squashfs".into(), ..filesystem(100.0, 100.0) };
        assert_eq!(status(image), Status::Ok);
    }

    #[test]
    fn a_mount_that_does_not_answer_is_critical_and_hides_no_other() {
        let data = ops::DiskUsage { filesystems: vec![filesystem(90.0, 0.0)] };
        let answer = judge(data, &[], &["/mnt/nfs".into()], 85, 95);
        assert_eq!((answer.status, answer.findings.len()), (Status::Critical, 2));
    }
}
