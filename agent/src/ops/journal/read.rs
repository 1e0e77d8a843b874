//! `journal.read`: lines of the journal, and the new ones as they come.

use std::time::Duration;

use hostler_proto::{
    operation::JournalRead,
    ops,
    wire::{ErrorCode, Failure, Finding, LogLine, Status},
};

use super::{
    super::systemd::{full_name, missing},
    source::{From, Query, Silence},
};
use crate::operation::{Answer, Context, Probe};

/// Text that is held to be shown in order; what is older is left out and told.
const HELD: usize = 3 << 20;
/// How often it is told how far a long search has come.
const BEAT: Duration = Duration::from_secs(1);

impl Probe for JournalRead {
    async fn observe(
        request: ops::JournalReadRequest,
        cx: &Context,
    ) -> Result<Answer<ops::JournalRead>, Failure> {
        let now = cx.host.clock.now().as_second();
        // Zero means that no bound was given.
        let ago = |seconds: u64| {
            (seconds > 0).then(|| now.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX)))
        };
        if request.follow && request.until_s > 0 {
            let message = "journal.read cannot follow lines that are older than some time";
            return Err(Failure::new(ErrorCode::InvalidArgument, message)
                .hint("leave out --until or --follow"));
        }
        let query = Query {
            units: request.unit.iter().map(|unit| full_name(unit)).collect(),
            since: ago(request.since_s),
            until: ago(request.until_s),
            priority: request.priority.clone(),
            boot: request.boot,
            starts: false,
        };
        let wanted = Wanted::new(&request.r#match);
        let most = u64::from(request.lines);
        let mut given = match request.after.as_str() {
            "" => backwards(&query, &wanted, most, cx).await?,
            cursor => forwards(&query, &wanted, cursor, most, cx).await?,
        };
        // Whoever goes on after a line has read the journal before.
        let silent = match given.lines == 0 && request.after.is_empty() {
            true => silent(&query, cx).await?,
            false => None,
        };
        if let Some(finding) = silent {
            let data = ops::JournalRead::default();
            let answer = Answer::ok(finding.summary.clone(), data).finding(finding);
            return Ok(evidence(answer, given.asked));
        }
        if request.follow && !given.more_after {
            let from = match given.cursor.take() {
                Some(cursor) => From::Follow(cursor),
                None => From::FollowSince(now),
            };
            follow(&query, &wanted, &from, &mut given, cx).await?;
        }
        let more = given.more_before || given.more_after;
        let data = ops::JournalRead { lines: given.lines, more };
        let what = match &request.unit[..] {
            [] => String::new(),
            units => format!(" of {}", units.join(", ")),
        };
        let summary = match (given.lines, given.more_before, given.more_after) {
            (0, _, _) => format!("no line{what} fits"),
            (n, false, false) => format!("{n} lines{what}"),
            (n, true, _) => format!("{n} lines{what}, and older ones"),
            (n, _, true) => format!("{n} lines{what}, and newer ones"),
        };
        Ok(evidence(Answer::ok(summary, data), given.asked))
    }
}

fn evidence(answer: Answer<ops::JournalRead>, asked: Vec<String>) -> Answer<ops::JournalRead> {
    asked.into_iter().fold(answer, |answer, argv| answer.evidence("argv", argv))
}

/// Why there is no line, where that says nothing of the units: the journal cannot be read, or there is
/// no such unit.
async fn silent(query: &Query, cx: &Context) -> Result<Option<Finding>, Failure> {
    match query.silence().await? {
        Silence::NoUnit => {
            let now = cx.host.clock.now().as_microsecond();
            for unit in &query.units {
                if let Some(failure) = missing(unit, now).await {
                    let summary =
                        format!("{}, and the journal has no line of one", failure.message);
                    let finding = Finding::new(Status::Unknown, "journal", summary);
                    return Ok(Some(finding.why(failure.hint)));
                }
            }
            Ok(None)
        }
        silence => Ok(silence.untold()),
    }
}

/// The text to look for.
struct Wanted(String);

impl Wanted {
    fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    fn fits(&self, line: &LogLine) -> bool {
        self.0.is_empty() || line.text.to_lowercase().contains(&self.0)
    }
}

#[derive(Debug, Default)]
struct Given {
    lines: u64,
    more_before: bool,
    more_after: bool,
    /// Of the newest line that was given out or looked at.
    cursor: Option<String>,
    /// The command lines that were run.
    asked: Vec<String>,
}

/// The newest lines that fit, oldest first.
async fn backwards(
    query: &Query,
    wanted: &Wanted,
    most: u64,
    cx: &Context,
) -> Result<Given, Failure> {
    let mut entries = query.read(&From::End)?;
    let (mut held, mut bytes) = (Vec::new(), 0);
    let mut given = Given { asked: vec![entries.argv()], ..Given::default() };
    let mut beat = tokio::time::interval(BEAT);
    let mut looked_at = 0_u64;
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry?,
            _ = beat.tick() => {
                cx.progress("searching the journal", looked_at, 0, "lines");
                continue;
            }
            () = cx.cancelled.cancelled() => {
                return Err(Failure::new(ErrorCode::Cancelled, "journal.read was cancelled"));
            }
        };
        let Some(line) = entry else {
            entries.ended().await?;
            break;
        };
        looked_at += 1;
        if given.cursor.is_none() && !line.cursor.is_empty() {
            given.cursor = Some(line.cursor.clone());
        }
        if !wanted.fits(&line) {
            continue;
        }
        bytes += line.text.len();
        if held.len() as u64 == most || bytes > HELD {
            given.more_before = true;
            break;
        }
        held.push(line);
    }
    for line in held.into_iter().rev() {
        if !cx.line(line).await {
            break;
        }
        given.lines += 1;
    }
    Ok(given)
}

/// The first lines after a cursor.
async fn forwards(
    query: &Query,
    wanted: &Wanted,
    cursor: &str,
    most: u64,
    cx: &Context,
) -> Result<Given, Failure> {
    let mut entries = query.read(&From::After(cursor.to_owned()))?;
    let mut given = Given { cursor: Some(cursor.to_owned()), ..Given::default() };
    given.asked.push(entries.argv());
    while let Some(line) = entries.next().await? {
        let fits = wanted.fits(&line);
        if fits && given.lines == most {
            given.more_after = true;
            return Ok(given);
        }
        given.cursor = Some(line.cursor.clone());
        if fits {
            if !cx.line(line).await {
                return Ok(given);
            }
            given.lines += 1;
        }
    }
    entries.ended().await?;
    Ok(given)
}

/// New lines until it is cancelled.
async fn follow(
    query: &Query,
    wanted: &Wanted,
    from: &From,
    given: &mut Given,
    cx: &Context,
) -> Result<(), Failure> {
    let mut entries = query.read(from)?;
    given.asked.push(entries.argv());
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry?,
            () = cx.cancelled.cancelled() => return Ok(()),
        };
        let Some(line) = entry else { return entries.ended().await };
        if wanted.fits(&line) {
            if !cx.line(line).await {
                return Ok(());
            }
            given.lines += 1;
        }
    }
}
