//! PM2: the units of its daemons, its applications, and what those that do not run said last.

use std::collections::BTreeSet;

use hostler_proto::{
    operation::Pm2Status,
    ops::{Pm2App, Pm2StatusRequest},
    wire::{Finding, Status},
};

use super::{
    Search,
    clues::{Clue, Found, clues},
    told::told,
};
use crate::ops::{
    logs::{Ended, ending},
    systemd::{self, Particulars, full_name},
};

/// Applications whose last words are looked at.
const APPS: usize = 4;
/// Lines of an application's error log that are looked through.
const LINES: usize = 60;
/// One that runs, and wrote no error for so long, does not crash.
const QUIET_S: i64 = 60;
/// How the units of daemons are called where the stack file names none, as `pm2 startup` makes them.
const USUAL: &str = "pm2-*.service";

impl Search<'_> {
    /// The applications under PM2, and the units of its daemons, without which they do not run.
    pub(super) async fn pm2(&mut self) {
        if !self.seen.insert("pm2".to_owned()) {
            return;
        }
        let stack = &self.cx.host.stack;
        let app = stack.pm2.as_ref().map(|pm2| pm2.apps.clone()).unwrap_or_default();
        let Some(checked) = self.as_checked::<Pm2Status>("pm2") else { return };
        let request = Pm2StatusRequest { app, ..checked };
        let answer = self.look::<Pm2Status>("pm2 status", request.clone()).await;
        let named = stack.units.iter().filter(|unit| unit.name.starts_with("pm2"));
        let mut units: BTreeSet<String> = named.map(|unit| full_name(&unit.name)).collect();
        if units.is_empty() && self.cx.host.policy.operation("systemd.status").is_ok() {
            // Without systemd there is none, and nothing more to say of it.
            let shown = format!("systemd status {USUAL}");
            let like = self.in_time(&shown, systemd::like(USUAL)).await;
            units.extend(like.and_then(Result::ok).unwrap_or_default());
        }
        for unit in units {
            Box::pin(self.unit(&unit, true)).await;
        }
        let Some(answer) = answer else { return };
        let troubled = answer.data.apps.iter().filter(|app| is_troubled(app, &request)).take(APPS);
        for app in troubled.cloned().collect::<Vec<_>>() {
            self.last_words_of(&app).await;
        }
        self.causes_of(Some(answer), Status::Warning);
    }

    /// What an application that does not run said last.
    async fn last_words_of(&mut self, app: &Pm2App) {
        let log = &app.error_log;
        if log.is_empty() {
            return;
        }
        let looked_at = format!("logs tail {log} --lines {LINES}");
        let (cx, logs) = (self.cx, std::slice::from_ref(log));
        let read = match cx.host.policy.operation("logs.tail") {
            Ok(()) => self.in_time(&looked_at, ending(cx, logs, "", LINES)).await,
            Err(failure) => Some(Err(failure)),
        };
        let Some(read) = read else { return };
        let lines: Vec<String> = match read {
            Ok(ended) => {
                let quiet = |line: &Ended| app.status == "online" && line.written_s > QUIET_S;
                ended.into_iter().filter(|line| !quiet(line)).map(|line| line.text).collect()
            }
            Err(failure) => {
                let finding = Finding::new(Status::Unknown, &app.name, &failure.message);
                self.unknown.push(finding.why(&failure.hint));
                self.step(&looked_at, Status::Unknown, failure.message);
                return;
            }
        };
        let found = clues(&lines).into_iter().next();
        let said = found.as_ref().map(|found| found.said.clone()).or(lines.last().cloned());
        self.step(&looked_at, Status::Critical, said.unwrap_or_else(|| "nothing".to_owned()));
        let Some(found) = found else { return };
        self.prove_one("file", log.clone());
        match &found.clue {
            Clue::PortTaken(port) => self.port_taken(&app.name, *port, true, &found.said).await,
            _ => self.cause(of_app(app, &found)),
        }
    }
}

/// Whether it should run and does not, or keeps crashing.
fn is_troubled(app: &Pm2App, request: &Pm2StatusRequest) -> bool {
    match app.status.as_str() {
        "stopped" | "stopping" => false,
        "online" | "launching" => {
            app.restarts >= request.restarts && app.uptime_s < f64::from(request.steady_s)
        }
        _ => true,
    }
}

/// A clue as it is told of an application.
fn of_app(app: &Pm2App, found: &Found) -> Finding {
    let finding = told(&app.name, found, "", &Particulars::default());
    // Its words are in a file of its own, and not in the journal.
    let next = format!("logs tail {} --lines 50", app.error_log);
    match finding.next.starts_with("journal read") {
        true => finding.next(next),
        false => finding,
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{host::Host, operation::Context};

    #[tokio::test]
    async fn an_application_that_pm2_gave_up_is_explained_by_its_own_last_words() {
        let directory = tempfile::tempdir().expect("directory");
        let log = directory.path().canonicalize().expect("real").join("web-error.log");
        let words = "Error: Cannot find module 'express'\nRequire stack:\n- /opt/web/server.js\n";
        std::fs::write(&log, words).expect("written");
        let (events, _receiver) = tokio::sync::mpsc::channel(1);
        let host = Host::showing(directory.path());
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let mut search = Search::new(&cx);
        let app = |name: &str, status: &str, log: &Path| Pm2App {
            name: name.to_owned(),
            status: status.to_owned(),
            error_log: log.to_string_lossy().into_owned(),
            ..Pm2App::default()
        };
        let asked = Pm2StatusRequest { restarts: 3, steady_s: 60, ..Default::default() };
        let is_troubled = |app: &Pm2App| is_troubled(app, &asked);
        assert!(is_troubled(&app("web", "errored", &log)));
        let online = app("web", "online", &log);
        assert!(!is_troubled(&online));
        let crashing = Pm2App { restarts: 13, uptime_s: 0.5, ..online.clone() };
        assert!(is_troubled(&crashing));
        let steady = Pm2App { restarts: 13, uptime_s: 900.0, ..online };
        assert!(!is_troubled(&steady));
        search.last_words_of(&app("web", "errored", &log)).await;
        let cause = &search.causes[0];
        assert_eq!(cause.summary, "web misses a program, module or file");
        assert!(cause.why.contains("'express'"), "{cause:?}");
        assert_eq!(cause.next, format!("logs tail {} --lines 50", log.display()));
        search.last_words_of(&app("other", "errored", Path::new("/root/error.log"))).await;
        assert_eq!(search.causes.len(), 1);
        assert_eq!(search.steps[1].status, "unknown", "{:?}", search.steps);
    }
}
