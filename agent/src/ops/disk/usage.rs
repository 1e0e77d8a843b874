//! `disk.usage`: what is left of every file system.

use std::time::Duration;

use hostler_proto::{
    operation::DiskUsage,
    ops,
    wire::{ErrorCode, Failure, Finding, Status},
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
            match tokio::time::timeout(PATIENCE, blocking(move || measure(mount))).await {
                Ok(measured) => data.filesystems.push(measured?),
                Err(_) => silent.push(point),
            }
        }
        data.filesystems.sort_by(|a, b| a.mount.cmp(&b.mount));
        Ok(judge(data, &sealed, &silent, request.warning_percent, request.critical_percent))
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
    let level = |share: f64| match share {
        s if s >= f64::from(critical) => Some(Status::Critical),
        s if s >= f64::from(warning) => Some(Status::Warning),
        _ => None,
    };
    let mut findings = Vec::new();
    for fs in &data.filesystems {
        if READ_ONLY_BY_NATURE.contains(&fs.r#type.as_str()) {
            continue;
        }
        let mut found = |status: Status, summary: String, why: &str, next: String| {
            let subject = fs.mount.clone();
            let why = why.to_owned();
            findings.push(Finding { status: status.into(), subject, summary, why, next });
        };
        let tree = format!("disk tree {}", fs.mount);
        if let Some(status) = level(fs.used_percent) {
            let left = fs.available_bytes / (1 << 20);
            let summary =
                format!("{} is {:.1} % full; {left} MiB are left", fs.mount, fs.used_percent);
            found(status, summary, "what writes there fails when nothing is left", tree.clone());
        }
        if let Some(status) = level(fs.inodes_used_percent) {
            let share = fs.inodes_used_percent;
            let summary = format!("{share:.1} % of the inodes of {} are used", fs.mount);
            found(status, summary, "no new file can be made without one, whatever the space", tree);
        }
        if sealed.contains(&fs.mount) {
            let summary = format!("{} is read-only", fs.mount);
            let why = "a file system with errors is turned read-only by the kernel";
            found(Status::Warning, summary, why, "journal read --match remount --boot".to_owned());
        }
    }
    for mount in silent {
        findings.push(Finding {
            status: Status::Critical.into(),
            subject: mount.clone(),
            summary: format!("{mount} did not answer within {} s", PATIENCE.as_secs()),
            why: "every process that touches it hangs as well".to_owned(),
            next: "host processes --by cpu".to_owned(),
        });
    }
    let fullest = data.filesystems.iter().max_by(|a, b| a.used_percent.total_cmp(&b.used_percent));
    let summary = match (&findings[..], fullest) {
        ([], Some(fs)) => {
            let count = data.filesystems.len();
            format!(
                "{count} file systems; the fullest is {} with {:.0} %",
                fs.mount, fs.used_percent
            )
        }
        ([], None) => "no file system with storage is mounted".to_owned(),
        ([one], _) => one.summary.clone(),
        ([first, rest @ ..], _) => format!("{}, and {} more findings", first.summary, rest.len()),
    };
    let answer = Answer::ok(summary, data).evidence("file", "/proc/self/mountinfo, statvfs(3)");
    findings.into_iter().fold(answer, Answer::finding)
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
