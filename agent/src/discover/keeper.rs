//! Looks again and again at what runs on a host without a stack file, and keeps it in mind.

use std::{collections::BTreeSet, iter, path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Found;
use crate::stack::Stack;

/// At boot the agent is there before many a service is.
const SOON: Duration = Duration::from_secs(300);
/// What is installed later is checked from within an hour on.
const LATER: Duration = Duration::from_secs(3600);
/// After so long it is looked again whether what starts at boot no more really does not.
const AGAIN: Duration = Duration::from_secs(30);
/// A look takes milliseconds. One that takes so long is worth a word.
const HANGS: Duration = Duration::from_secs(60);

/// Looks at the host, now and then some minutes after the agent's start and each hour, until `stop`. Each
/// time `found` is told what is to be checked. With `asks` servers are asked whether they are brokers.
pub async fn keep_looking(
    state_dir: PathBuf,
    asks: bool,
    stop: CancellationToken,
    found: impl FnMut(Stack),
) {
    let directory = state_dir.clone();
    let look = move || Found::look().with_remembered(&directory);
    let save = move |found: &Found| {
        if let Err(error) = found.save(&state_dir) {
            tracing::warn!(%error, "what was found on this host is not remembered");
        }
    };
    // At a server that is not checked there is nothing to ask for.
    let ask = |seen: Found| {
        let at_boot = seen.at_boot.clone();
        seen.asked(move |unit| asks && at_boot.contains(unit))
    };
    tokio::select! {
        () = keep(look, ask, save, found) => {}
        () = stop.cancelled() => {}
    }
}

async fn keep<F: Future<Output = Found>>(
    look: impl Fn() -> Found + Clone + Send + 'static,
    ask: impl Fn(Found) -> F,
    save: impl Fn(&Found) + Clone + Send + 'static,
    mut found: impl FnMut(Stack),
) {
    let mut at_boot = BTreeSet::new();
    for wait in iter::once(SOON).chain(iter::repeat(LATER)) {
        let Some(mut seen) = apart(look.clone()).await else { return };
        if !seen.at_boot.is_superset(&at_boot) {
            // While systemd reads its units anew, what its generators made is away for a moment.
            tokio::time::sleep(AGAIN).await;
            let Some(again) = apart(look.clone()).await else { return };
            seen = again;
        }
        at_boot.clone_from(&seen.at_boot);
        let seen = ask(seen).await;
        let (stack, save) = (seen.stack(), save.clone());
        if apart(move || save(&seen)).await.is_none() {
            return;
        }
        found(stack);
        tokio::time::sleep(wait).await;
    }
}

/// Does what blocks in a thread of its own; none when that ended by a defect. Processes name the
/// directories that are looked at, and any of them may lie on a file system that hangs.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let mut working = tokio::task::spawn_blocking(work);
    let done = match tokio::time::timeout(HANGS, &mut working).await {
        Ok(done) => done,
        Err(_) => {
            tracing::warn!(
                "looking at what runs here takes more than {} s: perhaps a file system hangs, which the \
                 check disk tells; until then nothing new is checked",
                HANGS.as_secs()
            );
            working.await
        }
    };
    done.inspect_err(|_| {
        tracing::error!(
            "looking at what runs here ended by a defect of the agent; until its next start nothing new \
             is checked"
        );
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    /// What is told, with the seconds after which it is, when each look sees the next of those units, and
    /// every further one the last.
    async fn told(looks: &[&[&str]], until: Duration) -> Vec<(u64, Vec<String>)> {
        let looks: Vec<Found> = looks
            .iter()
            .map(|units| Found {
                at_boot: units.iter().map(|unit| (*unit).to_owned()).collect(),
                ..Found::default()
            })
            .collect();
        let looks = Arc::new(Mutex::new(looks));
        let look = move || {
            let mut looks = looks.lock().expect("looks");
            if looks.len() > 1 { looks.remove(0) } else { looks[0].clone() }
        };
        let (began, mut told) = (Instant::now(), Vec::new());
        let found = |stack: Stack| {
            let units = stack.units.into_iter().map(|unit| unit.name).collect();
            told.push((began.elapsed().as_secs(), units));
        };
        tokio::time::timeout(until, keep(look, std::future::ready, |_| {}, found))
            .await
            .expect_err("goes on");
        told
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_up_and_what_no_longer_starts_is_told_within_the_hour() {
        let looks: [&[&str]; 4] = [&["a"], &["a", "b"], &["b"], &["b"]];
        let told = told(&looks, Duration::from_secs(4000)).await;
        let units: Vec<&[String]> = told.iter().map(|(_, units)| units.as_slice()).collect();
        assert_eq!(
            units,
            [&["a".to_owned()][..], &["a".to_owned(), "b".to_owned()], &["b".to_owned()]]
        );
        let at: Vec<u64> = told.iter().map(|(at, _)| *at).collect();
        assert_eq!(at, [0, 300, 3930], "what is gone after a second look");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_away_for_a_moment_goes_on_being_checked() {
        let looks: [&[&str]; 3] = [&["a", "b"], &[], &["a", "b"]];
        let told = told(&looks, Duration::from_secs(4000)).await;
        assert!(told.len() > 1 && told.iter().all(|(_, units)| units.len() == 2), "{told:?}");
    }
}
