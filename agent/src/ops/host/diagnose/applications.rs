//! What is asked of applications: Celery workers, nginx, who serves an endpoint; and what each of them needs.

use hostler_proto::{
    operation::{CeleryQueues, CeleryWorkers, NetPortOwner, NginxTest},
    ops::{CeleryQueuesRequest, CeleryWorkersRequest, NetPortOwnerRequest, NginxTestRequest},
    wire::{Finding, Status},
};

use super::{Search, target::targets};
use crate::{
    host::processes,
    ops::{http, systemd::full_name},
    stack::{Http, Way},
};

/// Endpoints that are looked at when none was named: together they stay below the deadline.
pub(super) const ENDPOINTS: usize = 8;

impl Search<'_> {
    /// The endpoints that need a unit: it runs, and they tell whether it does its work.
    pub(super) async fn endpoints_of(&mut self, unit: &str) {
        let needs = |http: &&Http| {
            let mut units = http.after.iter().filter_map(|after| after.strip_prefix("unit:"));
            units.any(|name| full_name(name) == unit)
        };
        let stack = &self.cx.host.stack;
        let checked = |http: &&Http| stack.checks_for("http", &http.name);
        for http in stack.http.iter().filter(needs).filter(checked).take(ENDPOINTS) {
            Box::pin(self.http(&http.name)).await;
        }
    }

    /// Who should answer at an endpoint of this host, where the stack file does not say what it needs.
    pub(super) async fn behind(&mut self, entry: &Http) {
        let Some(place) = http::place(&entry.url) else { return };
        let Some(port) = place.port_here() else { return };
        let request = NetPortOwnerRequest { port: port.into() };
        let owner = self.look::<NetPortOwner>(&place.whose(), request).await;
        let Some(owner) = owner else { return };
        match owner.data.listeners.first() {
            None => {
                let summary = format!("nobody listens on {place}, where {} is", entry.name);
                let finding = Finding::new(Status::Critical, &entry.name, summary)
                    .why("what serves it does not run, or listens elsewhere");
                self.cause(finding.next("systemd status"));
            }
            Some(listener) if processes::is_service(&listener.unit) => {
                Box::pin(self.unit(&listener.unit, true)).await;
            }
            Some(_) => {}
        }
    }

    /// An application of Celery, or every one: its broker, its workers, what waits, and what they are after.
    pub(super) async fn celery(&mut self, only: Option<&str>) {
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        for entry in self.cx.host.stack.celery.iter().filter(|entry| wanted(&entry.name)) {
            if !self.seen.insert(format!("celery:{}", entry.name)) {
                continue;
            }
            let over_redis = match entry.way() {
                Ok(Way::Redis(broker)) => {
                    self.redis(Some(broker), false).await;
                    true
                }
                _ => false,
            };
            self.workers(&entry.name, Status::Warning).await;
            if over_redis {
                let check = format!("celery-queues:{}", entry.name);
                let Some(checked) = self.as_checked::<CeleryQueues>(&check) else { continue };
                let request = CeleryQueuesRequest { app: entry.name.clone(), ..checked };
                let shown = format!("celery queues {}", entry.name);
                let answer = self.look::<CeleryQueues>(&shown, request).await;
                self.causes_of(answer, Status::Warning);
            }
            self.needs(&entry.after).await;
        }
    }

    /// The workers of an application.
    pub(super) async fn workers(&mut self, app: &str, least: Status) {
        let request = CeleryWorkersRequest { app: app.to_owned(), timeout_ms: 1000 };
        let shown = format!("celery workers {app}");
        let answer = self.look::<CeleryWorkers>(&shown, request).await;
        self.causes_of(answer, least);
    }

    /// nginx: what its configuration says is why it does not run.
    pub(super) async fn nginx(&mut self) {
        let mut answer = self.look::<NginxTest>("nginx test", NginxTestRequest {}).await;
        for finding in answer.iter_mut().flat_map(|answer| &mut answer.findings) {
            // That tells whether what was corrected can be loaded.
            "nginx test".clone_into(&mut finding.next);
        }
        self.causes_of(answer, Status::Warning);
        self.unit("nginx.service", true).await;
        self.upstreams().await;
    }

    /// What a check is after.
    pub(super) async fn needs(&mut self, after: &[String]) {
        for check in after {
            // A check that cannot be followed is none that would explain this one.
            for target in targets(&self.cx.host.stack, check).unwrap_or_default() {
                Box::pin(self.target(target)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use hostler_proto::{operation::HostDiagnose, ops::HostDiagnoseRequest};
    use tokio_util::sync::CancellationToken;

    use crate::{
        host::Host,
        operation::{Context, Probe},
    };

    #[tokio::test]
    async fn an_endpoint_that_does_not_answer_leads_to_what_it_needs_or_to_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        for (after, expected) in [
            ("", vec!["http check", "net port-owner"]),
            ("after = [\"redis:main\"]", vec!["http check", "redis status main"]),
        ] {
            let mut host = Host::showing(Path::new("/nonexistent"));
            host.policy.deny = ["disk.*", "host.*", "systemd.*"].map(str::to_owned).to_vec();
            let stack = format!(
                "[[redis]]\nname = \"main\"\nurl = \"redis://127.0.0.1:{port}\"\n\
                 [[http]]\nname = \"backend\"\nurl = \"http://127.0.0.1:{port}/\"\n{after}\n"
            );
            host.stack = toml::from_str(&stack).expect("a stack file");
            let (events, _receiver) = tokio::sync::mpsc::channel(64);
            let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
            let asked = HostDiagnoseRequest { service: "http:backend".to_owned() };
            let answer = HostDiagnose::observe(asked, &cx).await.expect("an answer");
            let looked: Vec<&str> =
                answer.data.steps.iter().map(|step| step.looked_at.as_str()).collect();
            for what in expected {
                assert!(looked.iter().any(|l| l.starts_with(what)), "{what}: {looked:?}");
            }
            let first = &answer.findings[0];
            let deepest = match after {
                "" => format!("nobody listens on 127.0.0.1:{port}, where backend is"),
                _ => "redis \"main\" does not answer: ".to_owned(),
            };
            assert!(first.summary.starts_with(&deepest), "{answer:?}");
        }
    }
}
