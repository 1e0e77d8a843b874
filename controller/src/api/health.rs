//! How the hosts' checks stand and stood, and what people know of it.

use std::{collections::HashMap, sync::Arc};

use hostler_proto::{
    name::{HostName, nearest},
    wire::{
        self, AcknowledgeReply, AcknowledgeRequest, AddDowntimeRequest, CheckHealth,
        DowntimeRecord, DowntimesReply, DowntimesRequest, EndDowntimeReply, EndDowntimeRequest,
        ErrorCode, Failure, HistoryReply, HistoryRequest, HostHealth, HostHealthRequest,
        ProblemsReply, ProblemsRequest, Turn, UnacknowledgeReply, UnacknowledgeRequest,
        health_server::Health,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, caller, fleet::unknown, operations::invalid, unstored};
use crate::{
    authz::{Caller, What},
    health::{
        absence::{Absence, absences, connection},
        problems::{Known, Problem, problems, severity},
        silence::{Acknowledgement, Checks, Course, Downtime},
    },
    selector::Selector,
    store::{Connection, HostRow, TurnRow},
};

/// Changes that one answer lists.
const TURNS: u32 = 1000;
const WEEK_S: u32 = 7 * 86_400;
/// A downtime that is longer hides problems that nobody remembers.
const LONGEST_DOWNTIME_S: u32 = 90 * 86_400;
/// How far from now one may begin.
const FURTHEST_DOWNTIME_US: u64 = 366 * 86_400_000_000;
const SECOND_US: i64 = 1_000_000;
/// Longest comment.
const COMMENT: usize = 500;

impl From<Problem> for wire::Problem {
    fn from(problem: Problem) -> Self {
        let host = match problem.hosts.as_slice() {
            // What is the controller's own is no host's.
            [] => "controller".to_owned(),
            [one] => one.to_string(),
            many => format!("{} hosts", many.len()),
        };
        let subject = match problem.check.as_str() {
            "" => host,
            check => format!("{host}: {check}"),
        };
        Self {
            status: problem.status.into(),
            subject,
            summary: problem.summary,
            since_us: problem.since_us,
            next: problem.next,
            hosts: problem.hosts.iter().map(ToString::to_string).collect(),
            check: problem.check,
            follows: problem.follows,
            handled: problem.handled,
            flapping: problem.flapping,
            unconfirmed: problem.unconfirmed,
        }
    }
}

fn record(downtime: Downtime, course: Course) -> DowntimeRecord {
    DowntimeRecord {
        id: downtime.id,
        on: downtime.hosts.to_string(),
        checks: downtime.checks.as_str().to_owned(),
        begins_us: downtime.begins_us,
        ends_us: downtime.ends_us,
        lasts_s: u32::try_from(downtime.lasts_us.unwrap_or(0) / SECOND_US).unwrap_or(u32::MAX),
        made_by: downtime.made_by,
        comment: downtime.comment,
        running: course.running,
        running_until_us: course.until_us,
        waiting: course.waiting,
    }
}

/// A downtime as it is listed; none when it is flexible and used up on all of its hosts.
fn listed(downtime: Downtime, hosts: &[Arc<HostRow>], now_us: i64) -> Option<DowntimeRecord> {
    if downtime.lasts_us.is_none() || now_us < downtime.begins_us {
        return Some(record(downtime, Course::default()));
    }
    let of = |host: &&Arc<HostRow>| {
        host.connection != Connection::Revoked && downtime.hosts.matches(&host.candidate())
    };
    let mut of = hosts.iter().filter(of).map(|host| &host.name).peekable();
    // Hosts that it is for may be enrolled yet.
    let any = of.peek().is_some();
    let course = downtime.course(of, now_us);
    let open = if any { course != Course::default() } else { now_us < downtime.ends_us };
    open.then(|| record(downtime, course))
}

fn comment(text: String) -> Result<String, Status> {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(COMMENT).collect();
    match text.is_empty() {
        true => Err(invalid("a comment is needed: others will read it in the night")),
        false => Ok(text),
    }
}

impl Api {
    /// What deserves attention on some hosts.
    pub(super) async fn problems_of(
        &self,
        hosts: &[Arc<HostRow>],
        absences: &HashMap<HostName, Absence>,
    ) -> Result<Vec<Problem>, Status> {
        let now = self.0.clock.now().as_microsecond();
        let known = Known::read(&self.0.store, now).await.map_err(unstored)?;
        Ok(self.0.health.look(|health| problems(hosts, health, absences, &known, now)))
    }

    /// Why hosts are away; what speaks for it are all the others.
    pub(super) async fn absences(&self) -> Result<HashMap<HostName, Absence>, Status> {
        let all = self.0.store.hosts().await.map_err(unstored)?;
        let now = self.0.clock.now().as_microsecond();
        Ok(self.0.health.look(|health| absences(&all, health, now)))
    }

    /// What runs out soon on some hosts.
    pub(super) fn outlooks_of(&self, hosts: &[Arc<HostRow>]) -> Vec<wire::Outlook> {
        let now = self.0.clock.now().as_microsecond();
        let up = hosts.iter().filter(|h| h.connection == Connection::Up).map(|h| &h.name);
        self.0.health.look(|health| self.0.outlooks.of(up, health, now))
    }

    async fn host_of(&self, name: &str) -> Result<Arc<HostRow>, Status> {
        let name: HostName = name.parse().map_err(invalid)?;
        let row = self.0.store.host(&name).await.map_err(unstored)?;
        row.map(Arc::new).ok_or_else(|| unknown(&name))
    }

    /// Refuses the name of a check that a host does not have.
    fn known_check(&self, host: &HostName, check: &str) -> Result<(), Status> {
        let health = self.0.health.host(host).unwrap_or_default();
        if health.checks.contains(check) {
            return Ok(());
        }
        let near = nearest(check, health.checks.iter().map(|(name, _)| name));
        let hint = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("its checks are listed by: hostlerctl health {host}"),
        };
        let message = format!("{host} has no check \"{check}\", and none changed in that time");
        Err(Failure::new(ErrorCode::InvalidArgument, message).hint(hint).into())
    }

    /// Whether a caller may silence a check of a host.
    async fn may_silence(
        &self,
        caller: &Caller,
        host: &HostRow,
        operation: &str,
    ) -> Result<(), Status> {
        let candidate = host.candidate();
        self.authorise(caller, What::Silence, Some(&candidate), operation, host.name.as_str()).await
    }
}

#[tonic::async_trait]
impl Health for Api {
    async fn problems(
        &self,
        request: Request<ProblemsRequest>,
    ) -> Result<Response<ProblemsReply>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "health.problems", &request.get_ref().on).await?;
        let hosts = self.select(&request.get_ref().on).await?;
        let found = self.problems_of(&hosts, &self.absences().await?).await?;
        let problems = found.into_iter().map(wire::Problem::from).collect();
        let now_us = self.0.clock.now().as_microsecond();
        let outlooks = self.outlooks_of(&hosts);
        Ok(Response::new(ProblemsReply { problems, now_us, outlooks }))
    }

    async fn host(
        &self,
        request: Request<HostHealthRequest>,
    ) -> Result<Response<HostHealth>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "health.host", &request.get_ref().host).await?;
        let row = self.host_of(&request.get_ref().host).await?;
        let now_us = self.0.clock.now().as_microsecond();
        let health = self.0.health.host(&row.name).unwrap_or_default();
        let up = row.connection == Connection::Up;
        let check = |standing: &crate::health::Standing| CheckHealth {
            stale: !up || standing.stale(now_us),
            state: Some(standing.state()),
        };
        let absences = self.absences().await?;
        let found = self.problems_of(std::slice::from_ref(&row), &absences).await?;
        Ok(Response::new(HostHealth {
            host: row.name.to_string(),
            connection: connection(&row, absences.get(&row.name)).into(),
            heard_us: health.heard_us,
            checks: health.checks.values().map(check).collect(),
            problems: found.into_iter().map(wire::Problem::from).collect(),
            now_us,
            outlooks: self.outlooks_of(std::slice::from_ref(&row)),
        }))
    }

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        self.look(&caller, "health.history", &request.host).await?;
        let row = self.host_of(&request.host).await?;
        let now_us = self.0.clock.now().as_microsecond();
        let since_s = if request.since_s == 0 { WEEK_S } else { request.since_s };
        let since_us = now_us - i64::from(since_s) * SECOND_US;
        let check = (!request.check.is_empty()).then_some(request.check.as_str());
        let rows = self.0.store.turns(&row.name, check, since_us, TURNS).await.map_err(unstored)?;
        let series = self.series(&row.name, check, since_us).await?;
        if let Some(check) = check.filter(|_| rows.is_empty() && series.is_empty()) {
            self.known_check(&row.name, check)?;
        }
        let turn = |row: TurnRow| Turn { hard: row.was != row.became, ..Turn::from(row) };
        Ok(Response::new(HistoryReply {
            host: row.name.to_string(),
            turns: rows.into_iter().map(turn).collect(),
            series,
            now_us,
        }))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let host = self.host_of(&request.host).await?;
        self.may_silence(&caller, &host, "health.acknowledge").await?;
        let comment = comment(request.comment)?;
        let absences = self.absences().await?;
        let found = self.problems_of(std::slice::from_ref(&host), &absences).await?;
        let of = |p: &&Problem| p.check == request.check || p.follows.contains(&request.check);
        let Some(problem) = found.iter().find(of) else {
            let message = match request.check.as_str() {
                "" => format!("there is no problem with the host {} itself", host.name),
                check => format!("there is no problem of {check} on {}", host.name),
            };
            return Err(Failure::new(ErrorCode::PreconditionFailed, message)
                .hint(format!("see what there is: hostlerctl problems --on {}", host.name))
                .into());
        };
        // It may be over without a word: what is said of it would count for the next one.
        if problem.unconfirmed && problem.check == request.check {
            let message = format!("{} on {} is not sure yet", request.check, host.name);
            return Err(Failure::new(ErrorCode::PreconditionFailed, message)
                .hint("say it of what follows from it, or again in a minute")
                .into());
        }
        // One that flaps is known with all that it changes to; what follows from another problem is no
        // worse than that.
        let known = if problem.flapping { wire::Status::Critical } else { problem.status };
        let now = self.0.clock.now().as_microsecond();
        let given = Acknowledgement {
            host: host.name.to_string(),
            check: request.check,
            at_us: now,
            severity: severity(known),
            expires_us: (request.lasts_s > 0).then(|| now + i64::from(request.lasts_s) * SECOND_US),
            made_by: caller.name.to_string(),
            comment,
        };
        let detail = serde_json::json!({
            "check": given.check, "comment": given.comment, "lasts_s": request.lasts_s,
        });
        let work = async { self.0.store.acknowledge(&given).await.map_err(unstored) };
        self.change(&caller, "health.acknowledge", host.name.as_str(), detail, work).await?;
        Ok(Response::new(AcknowledgeReply {}))
    }

    async fn unacknowledge(
        &self,
        request: Request<UnacknowledgeRequest>,
    ) -> Result<Response<UnacknowledgeReply>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let host = self.host_of(&request.host).await?;
        self.may_silence(&caller, &host, "health.unacknowledge").await?;
        let detail = serde_json::json!({ "check": request.check });
        let work = async {
            match self.0.store.unacknowledge(&host.name, &request.check).await.map_err(unstored)? {
                true => Ok(()),
                false => {
                    let message = "it was not acknowledged";
                    Err(Failure::new(ErrorCode::PreconditionFailed, message).into())
                }
            }
        };
        self.change(&caller, "health.unacknowledge", host.name.as_str(), detail, work).await?;
        Ok(Response::new(UnacknowledgeReply {}))
    }

    async fn add_downtime(
        &self,
        request: Request<AddDowntimeRequest>,
    ) -> Result<Response<DowntimeRecord>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let hosts: Selector = request.on.parse().map_err(invalid)?;
        if hosts.is_of_the_moment() {
            let no = Selector::OF_THE_MOMENT;
            return Err(invalid(format!("a downtime is for hosts, however they are: {no}")));
        }
        // Which hosts it covers later must not go beyond what its maker may silence.
        let hosts = match &caller.scope {
            None => hosts,
            Some(scope) => hosts.within(scope),
        };
        // Every host that it covers now must be the caller's to silence.
        for host in self.select(&request.on).await? {
            self.may_silence(&caller, &host, "downtime.add").await?;
        }
        if request.window_s == 0 || request.window_s.max(request.lasts_s) > LONGEST_DOWNTIME_S {
            return Err(invalid("a downtime has an end, 90 days from its beginning at most"));
        }
        let checks = Checks::new(&request.checks).map_err(invalid)?;
        let now = self.0.clock.now().as_microsecond();
        let begins_us = if request.begins_us == 0 { now } else { request.begins_us };
        if begins_us.abs_diff(now) > FURTHEST_DOWNTIME_US {
            return Err(invalid("a downtime begins within a year from now"));
        }
        let id = self.0.clock.id().simple().to_string();
        let downtime = Downtime {
            // The last part of such an id is random.
            id: id.get(id.len() - 8..).unwrap_or(&id).to_owned(),
            hosts,
            checks,
            begins_us,
            ends_us: begins_us.saturating_add(i64::from(request.window_s) * SECOND_US),
            lasts_us: (request.lasts_s > 0).then(|| i64::from(request.lasts_s) * SECOND_US),
            begun: HashMap::new(),
            made_by: caller.name.to_string(),
            comment: comment(request.comment)?,
        };
        let detail = serde_json::json!({
            "on": request.on, "checks": downtime.checks.as_str(), "begins_us": begins_us,
            "window_s": request.window_s, "lasts_s": request.lasts_s, "comment": downtime.comment,
        });
        let work = async { self.0.store.add_downtime(&downtime).await.map_err(unstored) };
        self.change(&caller, "downtime.add", &downtime.id, detail, work).await?;
        Ok(Response::new(record(downtime, Course::default())))
    }

    async fn downtimes(
        &self,
        request: Request<DowntimesRequest>,
    ) -> Result<Response<DowntimesReply>, Status> {
        let caller = caller(&request)?;
        self.look(&caller, "downtime.list", "").await?;
        let now = self.0.clock.now().as_microsecond();
        let downtimes = self.0.store.downtimes(now).await.map_err(unstored)?;
        let hosts = self.0.store.hosts().await.map_err(unstored)?;
        let downtimes = downtimes.into_iter().filter_map(|d| listed(d, &hosts, now)).collect();
        Ok(Response::new(DowntimesReply { downtimes }))
    }

    async fn end_downtime(
        &self,
        request: Request<EndDowntimeRequest>,
    ) -> Result<Response<EndDowntimeReply>, Status> {
        let caller = caller(&request)?;
        let id = request.into_inner().id;
        let now = self.0.clock.now().as_microsecond();
        let downtimes = self.0.store.downtimes(now).await.map_err(unstored)?;
        let Some(downtime) = downtimes.into_iter().find(|d| d.id == id) else {
            let message = format!("there is no downtime {id} that is not over");
            return Err(Failure::new(ErrorCode::NotFound, message)
                .hint("list them with: hostlerctl downtime list")
                .into());
        };
        let mut any = false;
        for host in self.0.store.hosts().await.map_err(unstored)? {
            if downtime.hosts.matches(&host.candidate()) {
                self.may_silence(&caller, &host, "downtime.end").await?;
                any = true;
            }
        }
        // One that covers no host now is its maker's, and theirs who may silence all.
        if !any {
            let own = downtime.made_by == caller.name.to_string();
            self.authorise(&caller, What::EndDowntime { own }, None, "downtime.end", &id).await?;
        }
        let work = async { self.0.store.end_downtime(&id, now).await.map_err(unstored) };
        let detail = serde_json::json!({ "on": downtime.hosts.to_string() });
        self.change(&caller, "downtime.end", &id, detail, work).await?;
        Ok(Response::new(EndDowntimeReply {}))
    }
}
