//! Sizes that were measured before, so that one can tell how they grow, since when something has been
//! seen, and what is known. A file for each thing in the agent's state directory, read when it is asked
//! for: an idle agent holds none of it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use data_encoding::BASE32_NOPAD;
use hostler_core::durable;
use serde::{Deserialize, Serialize};

/// Looks that are kept of one thing; as many more when a clock that is behind makes them lie ahead.
const KEPT: usize = 48;
/// What is older is no past of today's, and the first that is forgotten.
const OLDEST_US: i64 = 92 * 86_400_000_000;

/// Two that look at the same time would each forget the other's.
static ONE: Mutex<()> = Mutex::new(());

/// What was measured at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// When, in microseconds since 1970.
    pub at_us: i64,
    /// Sizes by what has them.
    pub sizes: BTreeMap<String, u64>,
}

/// The past of one thing.
#[derive(Debug, Clone)]
pub struct Past {
    path: PathBuf,
    apart: Duration,
}

impl Past {
    /// The past of what an operation looks at, with looks that are so far apart at least.
    pub fn of(state_dir: &Path, operation: &str, what: &str, apart: Duration) -> Self {
        // Its owner names it: no name leads out of the directory.
        let what = BASE32_NOPAD.encode(what.as_bytes());
        let name = [operation, &what].join("-").trim_end_matches('-').to_owned();
        Self { path: state_dir.join("past").join(format!("{name}.json")), apart }
    }

    /// The looks before this one, the oldest first; this one is kept when the last is long enough ago.
    /// Blocks on the disk. A past that cannot be kept does not keep anybody from looking.
    pub fn look(&self, now: Look) -> Vec<Look> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let now_us = now.at_us;
        // A clock that is behind, as at a start without a battery, is set soon: what lies ahead is no past
        // now, and is one again then.
        let (mut looks, mut later): (Vec<_>, Vec<_>) =
            self.read().into_iter().partition(|l| l.at_us < now_us);
        let recent = |l: &&Look| l.at_us > now_us - OLDEST_US;
        let before: Vec<Look> = looks.iter().filter(recent).cloned().collect();
        let apart = i64::try_from(self.apart.as_micros()).unwrap_or(i64::MAX);
        if before.last().is_none_or(|last| now_us - last.at_us >= apart) {
            looks.push(now);
            thin(&mut looks);
            later.retain(|l| l.at_us > now_us);
            // The farthest are those that a wrong clock made.
            later.truncate(KEPT);
            looks.extend(later);
            if let Err(error) = self.write(&looks) {
                let path = self.path.display();
                tracing::warn!(%path, %error, "what was measured is not kept for comparison");
            }
        }
        before
    }

    /// Since when each of the things that are there now has been seen, in microseconds since 1970, however
    /// often it is looked; what is not there any more is forgotten. Blocks on the disk where they are not
    /// the same as before.
    pub fn since(&self, there: impl Iterator<Item = String>, now_us: i64) -> BTreeMap<String, i64> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = self.read();
        let before = looks.last().map(|look| &look.sizes);
        let now = u64::try_from(now_us).unwrap_or(0);
        let first = |name: &String| {
            let first = before.and_then(|before| before.get(name)).copied();
            // The clock may have been set back.
            first.filter(|first| *first <= now).unwrap_or(now)
        };
        let sizes: BTreeMap<String, u64> = there
            .map(|name| {
                let first = first(&name);
                (name, first)
            })
            .collect();
        if before != Some(&sizes)
            && let Err(error) = self.write(&[Look { at_us: now_us, sizes: sizes.clone() }])
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "what is seen is not kept for the next time");
        }
        sizes.into_iter().map(|(n, f)| (n, i64::try_from(f).unwrap_or(now_us))).collect()
    }

    /// Keeps what is made of the look that is kept, and of no other: none when nobody looked. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn replace(&self, made: impl FnOnce(Option<Look>) -> Look) -> io::Result<()> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let look = made(self.read().pop());
        self.write(&[look])
    }

    /// Forgets what was kept longest ago of what the same operation looks at, where that is more than so much;
    /// this one and some excepted. Blocks on the disk.
    pub fn forget_others(&self, most: usize, except: &[Self]) {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let Some(((operation, _), directory)) = name.rsplit_once('-').zip(self.path.parent())
        else {
            return;
        };
        let same = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stays = *path == self.path || except.iter().any(|past| past.path == *path);
            !stays && name.rsplit_once('-').is_some_and(|(of, _)| of == operation)
        };
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let others = entries.map(|entry| entry.path()).filter(same);
        let written = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
        let mut others: Vec<_> = others.map(|path| (written(&path), path)).collect();
        others.sort();
        for (_, path) in others.iter().rev().skip(most) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "what was measured once is not forgotten");
            }
        }
    }

    /// Nothing when nobody looked, or when it was spoilt.
    fn read(&self) -> Vec<Look> {
        let text = fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, looks: &[Look]) -> io::Result<()> {
        durable::replace(&self.path, &serde_json::to_vec(looks).map_err(io::Error::other)?)
    }
}

/// Forgets what tells least: looks get sparser the older they are, and reach back far.
fn thin(looks: &mut Vec<Look>) {
    while looks.len() > KEPT {
        let Some(now_us) = looks.last().map(|l| l.at_us) else { return };
        // Not all of them at once: it may be the clock that is wrong.
        if looks.first().is_some_and(|first| first.at_us <= now_us - OLDEST_US) {
            looks.remove(0);
            continue;
        }
        let gap = |three: &[Look]| match three {
            [before, look, after] => {
                let (gap, age) = (after.at_us - before.at_us, now_us - look.at_us);
                #[expect(clippy::cast_precision_loss, reason = "microseconds of some months")]
                let share = gap as f64 / age.max(1) as f64;
                share
            }
            _ => f64::INFINITY,
        };
        let gaps = looks.windows(3).map(gap).enumerate();
        let Some((least, _)) = gaps.min_by(|a, b| a.1.total_cmp(&b.1)) else { return };
        looks.remove(least + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: i64 = 60_000_000;

    fn past(directory: &Path, what: &str) -> Past {
        Past::of(directory, "disk.usage", what, Duration::from_secs(600))
    }

    fn look(minute: i64) -> Look {
        let size = u64::try_from(minute).expect("positive");
        Look { at_us: minute * MINUTE_US, sizes: [("/".to_owned(), size)].into() }
    }

    #[test]
    fn looks_are_kept_that_lie_apart_and_each_thing_has_its_own() {
        let directory = tempfile::tempdir().expect("directory");
        let one = past(directory.path(), "../../etc/passwd");
        assert_eq!(one.look(look(1)), []);
        assert_eq!(one.look(look(2)), [look(1)]);
        assert_eq!(one.look(look(11)), [look(1)], "ten minutes after the first");
        assert_eq!(one.look(look(12)), [look(1), look(11)]);
        assert_eq!(past(directory.path(), "").look(look(13)), []);
        assert_eq!(one.look(look(5)), [look(1)], "the clock was set back");
        let files = fs::read_dir(directory.path().join("past")).expect("a directory");
        assert_eq!(files.count(), 2);
        fs::write(&one.path, "[{").expect("spoilt");
        assert_eq!(one.look(look(30)), []);
    }

    #[test]
    fn a_clock_that_was_wrong_once_takes_no_past_away() {
        let directory = tempfile::tempdir().expect("directory");
        let one = past(directory.path(), "");
        let year = 365 * 24 * 60;
        let kept: Vec<Look> = (0..5).map(|n| look(year + 10 * n)).collect();
        for look in &kept {
            one.look(look.clone());
        }
        assert_eq!(one.look(look(7)), [], "of what lies ahead nothing is past");
        assert_eq!(one.look(look(20)), [look(7)]);
        assert_eq!(one.look(look(year + 45)), kept, "once the clock is set");
        assert_eq!(one.look(look(9 * year)), [], "that was long ago");
        assert_eq!(one.look(look(year + 45)), kept);
    }

    #[test]
    fn a_clock_that_goes_backwards_leaves_no_more_than_is_kept_twice() {
        let directory = tempfile::tempdir().expect("directory");
        let one = past(directory.path(), "");
        for n in (0..300).rev() {
            one.look(look(10 * n));
        }
        let looks = one.read();
        assert!(looks.len() <= 2 * KEPT, "{}", looks.len());
        assert!(looks.is_sorted_by_key(|l| l.at_us));
    }

    #[test]
    fn what_is_still_there_has_been_seen_since_it_was_first_seen() {
        let directory = tempfile::tempdir().expect("directory");
        let since = |there: &[&str], now_us| {
            let there = there.iter().map(|name| (*name).to_owned());
            let past = Past::of(directory.path(), "celery.queues", "app", Duration::ZERO);
            past.since(there, now_us).into_values().collect::<Vec<_>>()
        };
        assert_eq!(since(&["a"], 10), [10]);
        assert_eq!(since(&["a", "b"], 20), [10, 20]);
        assert_eq!(since(&["b"], 30), [20]);
        assert_eq!(since(&["a", "b"], 40), [40, 20], "it is there anew");
        assert_eq!(since(&["a", "b"], 30), [30, 20], "the clock was set back");
        assert_eq!(since(&[], 50), [] as [i64; 0]);
        assert_eq!(since(&["b"], 60), [60]);
    }

    #[test]
    fn one_look_is_replaced_and_of_many_pasts_of_an_operation_the_oldest_are_forgotten() {
        let directory = tempfile::tempdir().expect("directory");
        let of = |n: u32| Past::of(directory.path(), "logs.errors", &n.to_string(), Duration::ZERO);
        let other = past(directory.path(), "/");
        other.look(look(1));
        for n in 0..5 {
            of(n)
                .replace(|before| {
                    assert_eq!(before, None);
                    look(1)
                })
                .expect("kept");
            of(n).forget_others(2, &[]);
        }
        let mut before = None;
        of(4)
            .replace(|kept| {
                before = kept;
                look(2)
            })
            .expect("kept");
        assert_eq!((before, of(4).read()), (Some(look(1)), vec![look(2)]));
        let files = fs::read_dir(directory.path().join("past")).expect("a directory");
        assert_eq!(files.count(), 4, "three of this operation, and that of another one");
        assert_eq!(other.read(), [look(1)]);
    }

    #[test]
    fn a_past_that_cannot_be_kept_keeps_nobody_from_looking() {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join("past"), "in the way").expect("written");
        assert_eq!(past(directory.path(), "").look(look(1)), []);
        assert_eq!(past(directory.path(), "").look(look(2)), []);
    }

    #[test]
    fn a_long_past_is_dense_at_its_end_and_reaches_back_far() {
        let mut looks = Vec::new();
        for minute in (0..60 * 24 * 60).step_by(10) {
            looks.push(look(minute));
            thin(&mut looks);
        }
        assert_eq!(looks.len(), KEPT);
        assert_eq!(looks[0], look(0));
        let age = |l: &Look| looks[KEPT - 1].at_us - l.at_us;
        let within = |minutes: i64| looks.iter().filter(|l| age(l) <= minutes * MINUTE_US).count();
        let dense = [60, 24 * 60, 7 * 24 * 60].map(within);
        assert!(dense[0] >= 4 && dense[1] >= 15 && dense[2] >= 25, "{dense:?}");
        // Nothing is more than some tenths of its age away from what was before it.
        let holes = looks.windows(2).map(|w| (age(&w[0]) - age(&w[1]), age(&w[0])));
        assert!(holes.clone().all(|(hole, age)| hole <= (age / 2).max(20 * MINUTE_US)));
    }
}
