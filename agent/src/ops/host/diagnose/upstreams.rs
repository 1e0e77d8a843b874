//! To whom nginx passes requests in vain: it says so in its error log, and who should answer there is on this
//! host or on another.

use hostler_proto::{
    operation::NetPortOwner,
    ops::NetPortOwnerRequest,
    wire::{Finding, Status},
};

use super::{Search, ready::here};
use crate::{
    host::processes,
    ops::{
        logs::{Ended, ending},
        systemd::full_name,
    },
    order::Order as _,
};

/// Where it logs errors, unless the stack file names other logs of its.
const USUAL: &str = "/var/log/nginx/*error*.log";
/// What its lines about those that it passes requests to hold.
const WORD: &str = "upstream: \"";
/// Lines of each log that are looked at.
const LINES: usize = 50;
/// Upstreams that are looked at.
const UPSTREAMS: usize = 4;
/// What is older says nothing of now, where nobody listens...
const RECENT_S: i64 = 600;
/// ... and where somebody does.
const FRESH_S: i64 = 60;

/// One that did not answer nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Upstream {
    /// Where it should be: `http://127.0.0.1:3000`, or a socket's path. What was requested stays behind.
    at: String,
    /// What nginx says of it.
    trouble: String,
    /// Seconds since then.
    ago_s: i64,
}

impl Search<'_> {
    /// Those to whom nginx passed requests of late without an answer, and why they did not answer.
    pub(super) async fn upstreams(&mut self) {
        if !self.seen.insert("upstreams".to_owned()) {
            return;
        }
        let named = self.cx.host.stack.logs.iter().flat_map(|logs| &logs.paths);
        let mut patterns: Vec<String> = named
            .filter(|path| path.contains("nginx") && path.contains("error"))
            .cloned()
            .collect();
        if patterns.is_empty() {
            patterns.push(USUAL.to_owned());
        }
        let looked_at = format!("logs tail {} --match upstream", patterns.join(" "));
        let cx = self.cx;
        let read = match cx.host.policy.operation("logs.tail") {
            Ok(()) => self.in_time(&looked_at, ending(cx, &patterns, WORD, LINES)).await,
            Err(failure) => Some(Err(failure)),
        };
        let Some(read) = read else { return };
        let found = match read {
            Ok(lines) => upstreams(&lines),
            Err(failure) => {
                let finding = Finding::new(Status::Unknown, &looked_at, &failure.message);
                self.unknown.push(finding.why(&failure.hint));
                self.step(&looked_at, Status::Unknown, failure.message);
                return;
            }
        };
        let (status, said) = match found.first() {
            Some(last) => (Status::Warning, format!("{} at {}", last.trouble, last.at)),
            None => (Status::Ok, "nobody to whom it passes requests failed of late".to_owned()),
        };
        self.step(&looked_at, status, said);
        if !found.is_empty() {
            self.prove_one("file", patterns.join(" "));
        }
        for upstream in found {
            self.upstream(&upstream).await;
        }
    }

    async fn upstream(&mut self, upstream: &Upstream) {
        let (at, trouble) = (&upstream.at, &upstream.trouble);
        let fresh = upstream.ago_s <= FRESH_S;
        let Some(port) = here(at).filter(|_| at.contains("://")) else {
            if fresh {
                self.cause(away(upstream));
            }
            return;
        };
        let (shown, request) =
            (format!("net port-owner {port}"), NetPortOwnerRequest { port: port.into() });
        let Some(owner) = self.look::<NetPortOwner>(&shown, request).await else { return };
        let before = self.causes.len();
        match owner.data.listeners.first() {
            None => {
                let needed = self.servers_at(port).await;
                // It may have been told before, as what something else needs.
                let told = needed.iter().any(|unit| self.causes.iter().any(|c| c.subject == *unit));
                if self.causes.len() == before && !told {
                    let summary =
                        format!("nobody listens on port {port}, to which nginx passes requests");
                    let why = format!("what serves it does not run: {trouble}");
                    self.prove(&owner.evidence);
                    let finding = Finding::new(Status::Critical, at, summary).why(why);
                    let next = match self.cx.host.stack.pm2 {
                        Some(_) if needed.is_empty() => "pm2 status",
                        _ => "systemd status",
                    };
                    self.cause(finding.next(next));
                }
            }
            // It is there by now, and was not then.
            Some(_) if !fresh || trouble.contains("onnection refused") => {}
            Some(listener) => {
                let unit = listener.unit.clone();
                let service = processes::is_service(&unit);
                if service {
                    Box::pin(self.unit(&unit, true)).await;
                }
                if self.causes.len() == before {
                    self.prove(&owner.evidence);
                    let who = if service { unit.as_str() } else { listener.command.as_str() };
                    let summary = format!("{who} does not answer nginx on port {port}: {trouble}");
                    let next = match service {
                        true => format!("journal read --unit {unit} --lines 50"),
                        false => shown,
                    };
                    let why = "it has the port, and whoever asks nginx gets an error instead";
                    let finding = Finding::new(Status::Critical, at, summary).why(why);
                    self.cause(finding.next(next));
                }
            }
        }
    }

    /// Whoever should listen on a port: what an endpoint there needs, else PM2's applications and the units
    /// of the stack file. Gives the units that an endpoint there needs.
    async fn servers_at(&mut self, port: u16) -> Vec<String> {
        let stack = &self.cx.host.stack;
        let before = self.causes.len();
        let endpoints = stack.http.iter().filter(|http| here(&http.url) == Some(port));
        let needed: Vec<String> = endpoints.flat_map(|http| http.after.clone()).collect();
        self.needs(&needed).await;
        if self.causes.len() == before && needed.is_empty() {
            if stack.pm2.is_some() {
                Box::pin(self.pm2()).await;
            }
            if self.causes.len() == before {
                for unit in stack.units.iter().take(super::UNITS) {
                    Box::pin(self.unit(&full_name(&unit.name), false)).await;
                }
            }
        }
        needed.iter().filter_map(|after| after.strip_prefix("unit:")).map(full_name).collect()
    }
}

fn away(upstream: &Upstream) -> Finding {
    let Upstream { at, trouble, .. } = upstream;
    let summary = format!("nginx gets no answer from {at}: {trouble}");
    let why = match at.contains("://") {
        true => {
            "that is no port of this host: look at it where it runs, with `hostlerctl diagnose`"
        }
        false => "who serves that socket does not run, or nginx may not use it: start its unit",
    };
    let finding = Finding::new(Status::Critical, at, summary).why(why);
    match at.contains("://") {
        true => finding.next(format!("http check {at}/")),
        false => finding.next("systemd status"),
    }
}

/// The upstreams of recent lines, that of the last line first.
fn upstreams(lines: &[Ended]) -> Vec<Upstream> {
    let mut found: Vec<Upstream> = Vec::new();
    let mut recent: Vec<Upstream> =
        lines.iter().filter_map(|line| upstream(&line.text, line.ago_s?)).collect();
    recent.order_by_key(|upstream| upstream.ago_s);
    for upstream in recent.into_iter().filter(|upstream| upstream.ago_s <= RECENT_S) {
        if found.len() < UPSTREAMS && !found.iter().any(|known| known.at == upstream.at) {
            found.push(upstream);
        }
    }
    found
}

/// `TIME [error] 7#7: *5 connect() failed (111: Connection refused) while connecting to upstream, client:
/// 127.0.0.1, server: _, request: "GET / HTTP/1.1", upstream: "http://127.0.0.1:3000/", host: "web"`
fn upstream(line: &str, ago_s: i64) -> Option<Upstream> {
    let (_, passed) = line.split_once(WORD)?;
    let url = passed.split('"').next()?;
    let (scheme, rest) = url.split_once("://")?;
    let at = match rest.strip_prefix("unix:") {
        Some(socket) => socket.split(':').next()?.to_owned(),
        None => {
            let place = rest.split(['/', '?']).next()?;
            // FastCGI, uwsgi and others have no port that would be usual.
            let scheme = if scheme == "https" { "https" } else { "http" };
            format!("{scheme}://{place}")
        }
    };
    let (_, said) = line.split_once("]")?;
    let said = said.split(", client: ").next()?;
    // The numbers of process and connection.
    let trouble = said.split_once(": ").map_or(said, |(_, said)| said);
    let trouble = match trouble.strip_prefix('*') {
        Some(numbered) => numbered.split_once(' ')?.1,
        None => trouble,
    };
    Some(Upstream { at, trouble: trouble.trim().to_owned(), ago_s })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{host::Host, operation::Context};

    const REFUSED: &str = "[error] 7#7: *5 connect() failed (111: Connection refused) while \
        connecting to upstream, client: 127.0.0.1, server: _, request: \"GET /a?key=secret HTTP/1.1\", \
        upstream: \"http://127.0.0.1:PORT/a?key=secret\", host: \"web\"";

    fn ended(ago_s: Option<i64>, text: &str) -> Ended {
        let path = "/var/log/nginx/error.log".to_owned();
        Ended { path, ago_s, written_s: 0, text: text.to_owned() }
    }

    #[test]
    fn whom_nginx_passes_requests_to_is_read_from_its_error_log_without_what_was_requested() {
        let refused = REFUSED.replace("PORT", "3000");
        let socket = "[crit] 7#7: *1 connect() to unix:/run/web.sock failed (2: No such file or \
            directory) while connecting to upstream, client: 10.0.0.1, server: _, request: \"GET / \
            HTTP/1.1\", upstream: \"http://unix:/run/web.sock:/\", host: \"web\"";
        let old = refused.replace("3000", "4000");
        let lines = [
            ended(Some(900), &old),
            ended(Some(40), &refused),
            ended(Some(5), &refused),
            ended(Some(2), socket),
            ended(None, &old),
            ended(Some(1), "[error] 7#7: *5 open() \"/x\" failed, upstream: \"nothing\""),
        ];
        let found = upstreams(&lines);
        let told: Vec<_> = found.iter().map(|u| (u.at.as_str(), u.ago_s)).collect();
        assert_eq!(told, [("/run/web.sock", 2), ("http://127.0.0.1:3000", 5)]);
        let expected = "connect() failed (111: Connection refused) while connecting to upstream";
        assert_eq!(found[1].trouble, expected);
    }

    #[tokio::test]
    async fn a_port_at_which_nobody_listens_is_why_nginx_answers_502() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let directory = tempfile::tempdir().expect("directory");
        let log = directory.path().canonicalize().expect("real").join("nginx-error.log");
        let mut host = Host::showing(directory.path());
        host.policy.deny = vec!["systemd.*".to_owned()];
        let stack = format!("[[logs]]\nname = \"nginx\"\npaths = [\"{}\"]\n", log.display());
        host.stack = toml::from_str(&stack).expect("a stack file");
        let now = jiff::tz::TimeZone::system().to_datetime(host.clock.now());
        let now = now.strftime("%Y/%m/%d %H:%M:%S").to_string();
        let line = format!("{now} {}\n", REFUSED.replace("PORT", &port.to_string()));
        std::fs::write(&log, line).expect("written");
        let (events, _receiver) = tokio::sync::mpsc::channel(16);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let mut there = Search::new(&cx);
        there.upstreams().await;
        assert!(there.causes.is_empty(), "it is there by now: {:?}", there.causes);
        drop(listener);
        let mut search = Search::new(&cx);
        search.upstreams().await;
        let expected = format!("nobody listens on port {port}, to which nginx passes requests");
        assert_eq!(search.causes[0].summary, expected);
        assert_eq!(search.causes[0].next, "systemd status");
        let all = format!("{:?} {:?}", search.causes, search.steps);
        assert!(!all.contains("secret"), "{all}");
    }
}
