//! Asks file systems how full they are. One whose server is gone never answers, and holds a thread for as long.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hostler_proto::ops;
use tokio::{sync::watch, time::Instant};

use crate::host::mounts::Mount;

/// How long one file system may take to answer; a network mount whose server is gone never does.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// File systems that one run asks at the same time.
const AT_ONCE: usize = 8;

/// Asks each, some at a time; what they said, in the same order.
pub(super) async fn ask_each(mounts: Vec<Mount>) -> Vec<Said> {
    let asked = mounts.into_iter().map(|mount| async move {
        let mounted = Mounted::of(&mount);
        ask(&mounted, PATIENCE, move || measure(mount)).await
    });
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

/// What a file system said when it was asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Space(Box<ops::FileSystem>),
    Error(String),
    Nothing,
}

/// Which file system is asked where. One that was mounted in the place of another answers for itself, while
/// the other may hang for as long as its server is away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mounted {
    point: String,
    number: String,
}

impl Mounted {
    fn of(mount: &Mount) -> Self {
        Self { point: mount.point.clone(), number: mount.number.clone() }
    }
}

/// File systems that are being asked, with when that began. None is asked twice at a time: each call
/// holds a thread for as long as it hangs.
static ASKED: Mutex<BTreeMap<Mounted, (Instant, watch::Receiver<Said>)>> =
    Mutex::new(BTreeMap::new());

/// What a file system says. Who asks while it is being asked waits for the same answer, and no longer than
/// `patience` after that began.
async fn ask(
    mounted: &Mounted,
    patience: Duration,
    measure: impl FnOnce() -> Said + Send + 'static,
) -> Said {
    let (began, mut said) = {
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.get(mounted) {
            Some(asked) => asked.clone(),
            None => {
                let (says, said) = watch::channel(Said::Nothing);
                let asking = (Instant::now(), said);
                asked.insert(mounted.clone(), asking.clone());
                let under_way = UnderWay(mounted.clone());
                tokio::task::spawn_blocking(move || {
                    let said = measure();
                    // Whoever asks from now on asks anew.
                    drop(under_way);
                    let _ = says.send(said);
                });
                asking
            }
        }
    };
    let answered = said.wait_for(|said| *said != Said::Nothing);
    match tokio::time::timeout_at(began + patience, answered).await {
        Ok(Ok(said)) => said.clone(),
        _ => Said::Nothing,
    }
}

/// A file system is being asked for as long as this lives.
struct UnderWay(Mounted);

impl Drop for UnderWay {
    fn drop(&mut self) {
        ASKED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn measure(mount: Mount) -> Said {
    let space = match rustix::fs::statvfs(mount.point.as_str()) {
        Ok(space) => space,
        Err(error) => return Said::Error(error.to_string()),
    };
    let used = space.f_blocks.saturating_sub(space.f_bfree);
    let inodes_used = space.f_files.saturating_sub(space.f_ffree);
    Said::Space(Box::new(ops::FileSystem {
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
        full_in_s: None,
        sure_percent: None,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(point: &str, number: &str) -> Mounted {
        let (point, number) = (point.to_owned(), number.to_owned());
        let (device, kind) = ("server:/export".to_owned(), "nfs4".to_owned());
        Mounted::of(&Mount { point, device, kind, read_only: false, sealed: false, number })
    }

    #[tokio::test]
    async fn runs_that_overlap_hear_the_same_answer() {
        let (answer, waits) = std::sync::mpsc::channel::<()>();
        let said = Said::Error("said".into());
        let first = said.clone();
        let overlap = mounted("/overlap", "0:7");
        let first = ask(&overlap, PATIENCE, move || {
            let _ = waits.recv();
            first
        });
        let second = ask(&overlap, PATIENCE, || Said::Error("asked twice".into()));
        let (first, second, ()) = tokio::join!(first, second, async { drop(answer) });
        assert_eq!((&first, &second), (&said, &said));
        let again = ask(&overlap, PATIENCE, || Said::Error("asked anew".into())).await;
        assert_eq!(again, Said::Error("asked anew".into()));
    }

    #[tokio::test]
    async fn what_did_not_answer_in_time_is_silent_and_is_not_asked_again_meanwhile() {
        let (answer, waits) = std::sync::mpsc::channel::<()>();
        let hangs = move || {
            let _ = waits.recv();
            Said::Error("late".into())
        };
        let dead = mounted("/hangs", "0:7");
        assert_eq!(ask(&dead, Duration::ZERO, hangs).await, Said::Nothing);
        let again = ask(&dead, Duration::ZERO, || Said::Error("asked twice".into()));
        assert_eq!(again.await, Said::Nothing);
        let new = mounted("/hangs", "0:8");
        let replaced = ask(&new, PATIENCE, || Said::Error("answered".into())).await;
        assert_eq!(replaced, Said::Error("answered".into()), "another was mounted in its place");
        drop(answer);
    }
}
