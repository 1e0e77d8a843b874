//! Which kinds of messages were there before, so that new ones stand out: kept for each set of files in the
//! agent's state directory, over its restarts too.

use std::{collections::HashMap, io, path::Path, time::Duration};

use hostler_logs::{Counted, KINDS};
use hostler_proto::{
    catalogue::Catalogue,
    operation::{LogsErrors, Operation},
    ops::LogsErrorsRequest,
};
use prost::Message as _;

use crate::{
    checks::definition,
    host::{
        Host,
        past::{Look, Past},
    },
};

/// Sets of files, beside the one that is asked for and those of checks, of which it is remembered what was
/// there.
pub(super) const REMEMBERED: usize = 31;
/// Kinds of a set that are remembered; of an endless number those of now are the ones that count.
const KNOWN: usize = 2 * KINDS;
/// The form of templates and of what is kept: raised when the same message gets another template, since
/// every kind would be new otherwise.
const FORM: u32 = 1;

/// What is new, and since which look.
#[derive(Debug, Default)]
pub(super) struct News {
    /// When each kind that is new came up, in microseconds since 1970; none for one that is too rare to be
    /// told so far. By the number of its template.
    kinds: HashMap<u64, Option<i64>>,
    /// When the same was asked for last, in microseconds since 1970; none the first time.
    pub(super) since_us: Option<i64>,
}

/// That a kind is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum New {
    /// Too rare to be told.
    Rare,
    /// It came up at that time, in microseconds since 1970.
    Since(i64),
}

impl News {
    /// Whether a kind is new.
    pub(super) fn of(&self, template: &[u8]) -> Option<New> {
        self.kinds.get(&number(template)).map(|since| since.map_or(New::Rare, New::Since))
    }
}

/// The past of what is asked for. A check and a person who look at the same files in different ways do not
/// take each other's news away.
pub(super) fn past(state_dir: &Path, request: &LogsErrorsRequest) -> Past {
    let LogsErrorsRequest { path, since_s, new_warning, .. } = request;
    let asked = format!("{FORM} {since_s} {new_warning} {}", path.join("\n"));
    let name = name(number(asked.as_bytes()));
    Past::of(state_dir, <LogsErrors as Operation>::NAME, &name, Duration::ZERO)
}

/// The pasts of what this host's checks ask, of which a stack file bounds the number: a check that is forgotten
/// before it runs again would never find anything new.
pub(super) fn of_checks(host: &Host) -> Vec<Past> {
    let systemd = definition::has_systemd();
    // One that is wrong is none that an agent runs with.
    let checks = definition::checks(&host.stack, systemd, Catalogue::bare()).unwrap_or_default();
    let ours = checks.iter().filter(|check| check.operation == <LogsErrors as Operation>::NAME);
    let asked = ours.filter_map(|check| LogsErrorsRequest::decode(check.request.clone()).ok());
    asked.map(|request| past(&host.policy.state_dir, &request)).collect()
}

/// What is new, and keeps what is known from now on. At the first look nothing is new. A kind that became
/// frequent enough to be told stays new for the time that the request says: it is the same trouble while it
/// goes on. Blocks on the disk.
pub(super) fn remember(
    past: &Past,
    request: &LogsErrorsRequest,
    counted: &Counted,
    now_us: i64,
) -> (News, io::Result<()>) {
    let now = u64::try_from(now_us).unwrap_or(0);
    let new_for = u64::from(request.new_for_s) * 1_000_000;
    let mut news = News::default();
    let kept = past.replace(|before| {
        let first = before.is_none();
        let mut known = before.map_or_else(Default::default, |look| {
            news.since_us = Some(look.at_us);
            look.sizes
        });
        for (template, kind) in &counted.kinds {
            let number = number(template);
            let name = name(number);
            match known.get(&name) {
                // Zero is what was there at the first look; and the clock may have been set back.
                Some(since) => {
                    let lately = *since <= now && now - since < new_for;
                    if lately && let Ok(since) = i64::try_from(*since) {
                        news.kinds.insert(number, Some(since));
                    }
                }
                None if first => drop(known.insert(name, 0)),
                None if kind.count >= u64::from(request.new_warning) => {
                    known.insert(name, now);
                    news.kinds.insert(number, Some(now_us));
                }
                // It is still new when there is more of it.
                None => drop(news.kinds.insert(number, None)),
            }
        }
        if known.len() > KNOWN {
            let there = counted.kinds.keys().map(|template| name(number(template)));
            known = there.filter_map(|name| known.remove_entry(&name)).collect();
        }
        Look { at_us: now_us, sizes: known }
    });
    (news, kept)
}

/// FNV-1a: what is kept must mean the same to every build of the agent, which the standard library's own
/// does not promise.
fn number(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn name(number: u64) -> String {
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use hostler_logs::Kind;

    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn request(path: &str) -> LogsErrorsRequest {
        LogsErrorsRequest {
            path: vec![path.into()],
            new_warning: 5,
            new_for_s: 6 * 3600,
            ..LogsErrorsRequest::default()
        }
    }

    fn counted(templates: &[(&str, u64)]) -> Counted {
        let kind =
            |(t, n): &(&str, u64)| (t.as_bytes().to_vec(), Kind { count: *n, ..Kind::default() });
        Counted { kinds: templates.iter().map(kind).collect(), ..Counted::default() }
    }

    /// A look of an agent that knows nothing but what is on its disk.
    fn look(state: &Path, path: &str, templates: &[(&str, u64)], now_us: i64) -> News {
        let request = request(path);
        let (news, kept) = remember(&past(state, &request), &request, &counted(templates), now_us);
        kept.expect("kept");
        news
    }

    #[test]
    fn a_kind_that_came_up_while_the_agent_was_away_is_new_and_stays_so_for_hours() {
        let state = tempfile::tempdir().expect("directory");
        let look = |templates: &[(&str, u64)], hour: i64| {
            look(state.path(), "/a.log", templates, 1_700_000_000_000_000 + hour * HOUR_US)
        };
        let first = look(&[("old", 100)], 0);
        assert_eq!((first.since_us, first.of(b"old")), (None, None), "nothing to compare with");
        let second = look(&[("old", 100), ("new", 7), ("rare", 1)], 1);
        let came = 1_700_000_000_000_000 + HOUR_US;
        assert_eq!(second.since_us, Some(came - HOUR_US));
        assert_eq!(second.of(b"new"), Some(New::Since(came)));
        assert_eq!((second.of(b"rare"), second.of(b"old")), (Some(New::Rare), None));
        let later = look(&[("new", 2), ("rare", 9)], 6);
        assert_eq!(later.of(b"new"), Some(New::Since(came)), "it goes on");
        assert_eq!(later.of(b"rare"), Some(New::Since(came + 5 * HOUR_US)), "it began slowly");
        assert_eq!(look(&[("new", 700)], 7).of(b"new"), None, "everybody knows it");
        assert_eq!(look(&[("new", 700)], 0).of(b"new"), None, "the clock was set back");
        assert_eq!(look(&[("old", 1)], 9).of(b"old"), None);
    }

    #[test]
    fn what_is_known_of_one_set_of_files_says_nothing_of_another_and_is_bounded() {
        let state = tempfile::tempdir().expect("directory");
        look(state.path(), "/a.log", &[("old", 100)], 1);
        assert_eq!(look(state.path(), "/b.log", &[("old", 100)], 2).since_us, None);
        for n in 0..3 {
            let many: Vec<_> = (0..9_000).map(|kind| format!("{n} {kind}")).collect();
            let many: Vec<_> = many.iter().map(|kind| (kind.as_str(), 5)).collect();
            look(state.path(), "/a.log", &many, 3 + n);
        }
        let mut kept = 0;
        let request = request("/a.log");
        past(state.path(), &request)
            .replace(|before| {
                let before = before.expect("a look");
                kept = before.sizes.len();
                before
            })
            .expect("kept");
        assert!((9_000..=KNOWN).contains(&kept), "{kept}");
    }

    #[test]
    fn what_a_check_asks_is_not_forgotten_for_what_people_ask_by_hand() {
        let state = tempfile::tempdir().expect("directory");
        let all: String = (0..2 * REMEMBERED)
            .map(|n| format!("[[logs]]\nname = \"a{n}\"\npaths = [\"/srv/{n}.log\"]\n"))
            .collect();
        let mut host = Host::showing(state.path());
        host.policy.state_dir = state.path().to_owned();
        host.stack = toml::from_str(&all).expect("a stack file");
        let checks = of_checks(&host);
        assert_eq!(checks.len(), 2 * REMEMBERED);
        let first = |past: &Past| {
            let mut first = false;
            let kept = past.replace(|before| {
                first = before.is_none();
                Look { at_us: 1, sizes: Default::default() }
            });
            kept.expect("kept");
            if first {
                past.forget_others(REMEMBERED, &of_checks(&host));
            }
            first
        };
        assert!(checks.iter().all(first), "nobody looked before");
        let mut by_hand =
            (0..2 * REMEMBERED).map(|n| past(state.path(), &request(&format!("/{n}"))));
        assert!(by_hand.all(|past| first(&past)));
        assert!(!checks.iter().any(first), "each is known");
        let files = std::fs::read_dir(state.path().join("past")).expect("a directory").count();
        assert_eq!(files, 3 * REMEMBERED + 1);
    }
}
