//! What agents tell of their checks, and that they do not tell any more.
//!
//! History and people are told of turns, which agents number and remember. Where a turn was lost the
//! state itself speaks: it is compared with what was told last.

use std::collections::HashMap;

use hostler_proto::{
    name::{CheckName, HostName},
    wire::{CheckState, HealthReport, Status, Turn},
};

use super::{
    Fleet, Host, Left, Standing, of_host,
    problems::severity,
    recorder::{self, News},
    standing::HEARTBEAT_US,
};

/// Most checks of one host that are believed.
const MOST: usize = 500;
/// Longest text of a check that is kept.
const TEXT: usize = 1000;
/// The same of what a figure is of, which is kept for each host and for months.
const FIGURE_TEXT: usize = 200;
/// Longest name of an agent's memory, which is a part of the keys of notices; agents use 36.
const MEMORY: usize = 64;
/// Clocks that differ by less are taken to be the same: so long can a report be under way.
const SKEW_US: i64 = 5_000_000;
/// An agent that told nothing at all for so long is silent itself.
const SILENT_US: i64 = 4 * HEARTBEAT_US;
/// One that told nothing for so long is perhaps.
const QUIET_US: i64 = 2 * HEARTBEAT_US;
/// What is said of it then.
const SILENT: &str = "its agent is linked and tells nothing of its checks any more";

impl Fleet {
    /// Takes in what an agent tells; gives what is to be written down, if anything is.
    pub fn hear(&self, host: &HostName, mut report: HealthReport, now_us: i64) -> Option<News> {
        let memory: String =
            report.memory.chars().filter(char::is_ascii_graphic).take(MEMORY).collect();
        let mut fleet = self.lock();
        let known = fleet.entry(host.clone()).or_default();
        let anew = known.memory != memory;
        if anew {
            (known.memory, known.last_turn) = (memory, 0);
        }
        let left = match (report.leaving, report.host_stopping) {
            (false, _) => Left::No,
            (true, false) => Left::Agent,
            (true, true) => Left::Host,
        };
        let mut changed = anew | (std::mem::replace(&mut known.left, left) != left);
        known.heard_us = now_us;
        let speaks = !report.checks.is_empty() && std::mem::take(&mut known.silent);
        known.skew_us = skew(known.skew_us, report.now_us, now_us);
        let behind = known.skew_us;
        // What has happened has happened by now, whatever the agent's clock says.
        let ours = |at_us: i64| match at_us {
            ..=0 => 0,
            at_us => at_us.saturating_add(behind).clamp(0, now_us.max(0)),
        };

        let mut turns = Vec::new();
        if speaks {
            turns.push(of_agent(Status::Unknown, Status::Ok, now_us));
        }
        if report.forgotten > 0 && !anew {
            turns.push(forgotten(report.forgotten, now_us));
        }
        // What is told of checks that are not known yet.
        let mut first: HashMap<String, (Status, bool)> = HashMap::new();
        // When checks began to flap.
        let mut flaps: HashMap<String, i64> = HashMap::new();
        let last = known.last_turn;
        for turn in std::mem::take(&mut report.turns).into_iter().filter(|t| t.number > last) {
            known.last_turn = known.last_turn.max(turn.number);
            changed = true;
            let Some(mut turn) = believed_turn(turn, &ours) else { continue };
            let told = match known.checks.get_mut(&turn.check) {
                Some(standing) => &mut standing.told,
                None => first.entry(turn.check.clone()).or_default(),
            };
            // Its agent counts one that never ran as well; nobody was told so.
            if turn.hard && told.0 == Status::Unspecified && turn.was() == Status::Ok {
                turn.was = Status::Unspecified.into();
            }
            // That it flaps is told by a turn of its own.
            *told = (turn.became(), if turn.hard { told.1 } else { turn.flapping });
            if !turn.hard && turn.flapping {
                flaps.insert(turn.check.clone(), turn.at_us);
            }
            turns.push(turn);
        }
        let mut gone = Vec::new();
        if report.whole {
            gone = known.checks.take_others(|check| report.has(check));
            changed |= !gone.is_empty();
            turns.extend(gone.iter().filter_map(|standing| ended(standing, now_us)));
        }
        let complete = report.last_turn <= known.last_turn;
        for state in report.checks {
            let Some(mut state) = believed(state, &ours) else { continue };
            let before = known.checks.get(&state.check);
            if before.is_none() && known.checks.len() >= MOST {
                continue;
            }
            let unsure = before.is_none_or(Standing::pending) && state.attempt > 0;
            match before {
                // It did not run since its agent was started: nobody knows better than before.
                Some(before) if state.checked_us == 0 => state = kept(state, before.state()),
                // Its first results are not sure yet, and its agent counts it as well until they are.
                _ if unsure && state.hard() == Status::Ok => {
                    state.hard = Status::Unspecified.into();
                }
                _ => {}
            }
            state.flapping_since_us = match (state.flapping, before) {
                (false, _) => 0,
                (true, Some(before)) if before.flapping_since_us() > 0 => {
                    before.flapping_since_us()
                }
                (true, _) => flaps.get(&state.check).copied().unwrap_or(now_us),
            };
            let name = state.check.clone();
            let told = before.map(|b| b.told).or_else(|| first.remove(&name));
            let again = before.is_some_and(|b| b.told.0 == Status::Unknown && b.stale(now_us));
            let at_us = match before {
                // It changed before it was heard of last: what is told now is that it is told.
                Some(before) if state.since_us <= before.heard_us => now_us,
                _ => state.since_us,
            };
            let summary = match again {
                true => format!("it is heard of again: {}", state.summary),
                false => state.summary.clone(),
            };
            let mut standing = Standing::new(state, now_us);
            changed |= before.is_none_or(|b| b.face() != standing.face());
            standing.told = told.unwrap_or_default();
            if complete {
                turns.extend(standing.untold(&summary, at_us));
            }
            known.checks.insert(&name, standing);
        }
        let gone = gone.into_iter().map(|standing| standing.state().check).collect();
        (changed || !turns.is_empty()).then(|| News { gone, turns, ..known.news(host) })
    }

    /// Tells of checks that should have been heard of, of hosts that are linked: of each once.
    pub fn lapse(&self, linked: &[HostName], now_us: i64) -> Vec<News> {
        let mut fleet = self.lock();
        let mut news = Vec::new();
        for host in linked {
            let Some(known) = fleet.get_mut(host) else { continue };
            let quiet_us = now_us - known.heard_us.max(known.linked_us);
            let linked_us = known.linked_us;
            let late = |standing: &Standing| {
                now_us - standing.heard_us.max(linked_us) > standing.patience_us()
            };
            let silent = quiet_us > SILENT_US || known.checks.values().all(late);
            // Whether it is a check or the agent is not known yet.
            if !silent && quiet_us > QUIET_US {
                continue;
            }
            let mut turns = Vec::new();
            for (name, standing) in known.checks.iter_mut() {
                let told = standing.told;
                if !late(standing) || told.0 == Status::Unknown || told.0 == Status::Unspecified {
                    continue;
                }
                standing.told = (Status::Unknown, told.1);
                let summary = match silent {
                    true => SILENT,
                    false => "nothing was heard of it in time, though its agent tells of others",
                };
                turns.push(Turn {
                    check: name.to_owned(),
                    was: told.0.into(),
                    became: Status::Unknown.into(),
                    hard: true,
                    flapping: told.1,
                    at_us: now_us,
                    summary: summary.to_owned(),
                    ..Turn::default()
                });
            }
            // One cause is one notice: that of the host, which needs no other to be well.
            let untold = turns.iter().filter(|_| silent).map(|t| t.check.clone()).collect();
            // Also when nothing changes for its checks: it was told that its host is linked again.
            let any = !known.checks.is_empty();
            if silent && any && !std::mem::replace(&mut known.silent, true) {
                turns.insert(0, of_agent(Status::Ok, Status::Unknown, now_us));
            }
            if !turns.is_empty() {
                news.push(News { untold, turns, ..known.news(host) });
            }
        }
        news
    }
}

impl Host {
    /// How it stands, without anything that changed.
    fn news(&self, host: &HostName) -> News {
        News {
            host: host.clone(),
            memory: self.memory.clone(),
            last_turn: self.last_turn,
            heard_us: self.heard_us,
            left: self.left,
            // What was told is what history goes on from after a restart.
            states: self.checks.values().map(|c| recorder::plain(c.state(), c.told)).collect(),
            turns: Vec::new(),
            untold: Vec::new(),
            gone: Vec::new(),
        }
    }
}

/// A state of a check that did not run since its agent was started, with what was seen before that;
/// the hard state is the agent's, where it remembers it.
fn kept(state: CheckState, stood: CheckState) -> CheckState {
    if state.hard != 0 && state.hard != stood.hard {
        // It changed since it was told last: what was seen before does not explain it.
        return state;
    }
    let mut kept = CheckState { interval_s: state.interval_s, after: state.after, ..stood };
    if state.hard != 0 {
        (kept.hard, kept.since_us, kept.flapping) = (state.hard, state.since_us, state.flapping);
    }
    // What was on its way to be hard begins anew.
    (kept.attempt, kept.attempts) = (state.attempt, state.attempts);
    kept
}

/// By how much an agent's clock is behind, from when it says that it tells something. It stays what
/// it was as long as that explains it: reports are under way for a while.
fn skew(before_us: i64, told_us: i64, now_us: i64) -> i64 {
    let seen = now_us.saturating_sub(told_us);
    match () {
        () if told_us <= 0 || seen.abs() <= SKEW_US => 0,
        () if seen.saturating_sub(before_us).abs() <= SKEW_US => before_us,
        () => seen,
    }
}

fn forgotten(many: u64, at_us: i64) -> Turn {
    let summary = format!("{many} changes of its checks were forgotten before they could be told");
    Turn { hard: false, ..of_host(Status::Ok, Status::Ok, &summary, at_us) }
}

/// That an agent tells nothing, or tells of its checks again: of the host itself.
fn of_agent(was: Status, became: Status, at_us: i64) -> Turn {
    let summary = match became {
        Status::Ok => "its agent tells of its checks again",
        _ => SILENT,
    };
    of_host(was, became, summary, at_us)
}

/// The end of a check that was not well and is checked no more.
fn ended(standing: &Standing, at_us: i64) -> Option<Turn> {
    let (told, flapped) = standing.told;
    (severity(told) > 0 || flapped).then(|| Turn {
        check: standing.state().check,
        was: told.into(),
        became: Status::Ok.into(),
        hard: true,
        at_us,
        summary: "it is not checked any more".to_owned(),
        ..Turn::default()
    })
}

/// A state that an agent may tell, held to what can be kept in memory; none when its name is no
/// check's.
fn believed(mut state: CheckState, ours: &dyn Fn(i64) -> i64) -> Option<CheckState> {
    state = harmless(state)?;
    state.since_us = ours(state.since_us);
    state.checked_us = ours(state.checked_us);
    Some(state)
}

/// A state with nothing in it that could not be kept, but for its times; none when its name is no
/// check's.
pub(crate) fn harmless(mut state: CheckState) -> Option<CheckState> {
    state.check.parse::<CheckName>().ok()?;
    state.summary = short(state.summary);
    state.operation = short(state.operation);
    state.after.truncate(64);
    state.after.retain(|name| name.parse::<CheckName>().is_ok());
    state.findings.truncate(5);
    for finding in &mut state.findings {
        for text in
            [&mut finding.subject, &mut finding.summary, &mut finding.why, &mut finding.next]
        {
            *text = short(std::mem::take(text));
        }
    }
    state.figures.truncate(64);
    for figure in &mut state.figures {
        for text in [&mut figure.name, &mut figure.subject, &mut figure.unit] {
            *text = held(std::mem::take(text), FIGURE_TEXT);
        }
    }
    Some(state)
}

fn short(text: String) -> String {
    held(text, TEXT)
}

/// PostgreSQL takes no NUL in a text.
fn held(text: String, longest: usize) -> String {
    match text.len() > longest || text.contains('\0') {
        true => text.chars().filter(|c| *c != '\0').take(longest).collect(),
        false => text,
    }
}

/// A turn that an agent may tell; none when it is soft, or of what is no check.
fn believed_turn(turn: Turn, ours: &dyn Fn(i64) -> i64) -> Option<Turn> {
    turn.check.parse::<CheckName>().ok()?;
    // A status that there is not could not be read again.
    let (was, became) = (turn.was().into(), turn.became().into());
    let turn = Turn { summary: short(turn.summary), at_us: ours(turn.at_us), was, became, ..turn };
    (turn.hard || was == became).then_some(turn)
}

#[cfg(test)]
#[path = "hear_tests.rs"]
mod tests;
