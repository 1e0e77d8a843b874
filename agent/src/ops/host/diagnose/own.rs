//! A check that the stack file has beside those that come by default: its own operation is the look.

use hostler_proto::wire::{Finding, Status};
use tokio::{sync::mpsc, time::Instant};

use super::Search;
use crate::{
    dispatch,
    operation::{Answer, Context},
};

impl Search<'_> {
    /// Looks as a check of that name does.
    pub(super) async fn own(&mut self, name: &str) {
        // Of a list that cannot be made that is told already.
        let Some(check) = self.checks.iter().find(|c| c.name.as_str() == name) else { return };
        let (operation, request) = (check.operation.clone(), check.request.clone());
        let shown = format!("{}: check {name}", operation.replace('.', " "));
        self.cx.progress(&shown, 0, 0, "");
        // What it tells meanwhile is nothing of a diagnosis.
        let (events, _) = mpsc::channel(1);
        let cx = Context::new(self.cx.host.clone(), self.cx.cancelled.clone(), events)
            .ending_after(Some(self.give_up.saturating_duration_since(Instant::now())));
        let look = dispatch::observe(&operation, &request, cx);
        let Some(looked) = self.in_time(&shown, look).await else { return };
        let answer = looked.map(|outcome| Answer {
            findings: outcome.findings.clone(),
            evidence: outcome.evidence.clone(),
            status: outcome.status(),
            ..Answer::ok(outcome.summary, ())
        });
        let mut answer = self.looked(&shown, answer);
        if let Some(answer) = &mut answer
            && answer.findings.is_empty()
            && [Status::Warning, Status::Critical].contains(&answer.status)
        {
            answer.findings.push(Finding::new(answer.status, name, &answer.summary));
        }
        self.causes_of(answer, Status::Warning);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use hostler_proto::{
        operation::HostDiagnose,
        ops::{HostDiagnoseRequest, HostDiagnosis},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{host::Host, operation::Probe as _};

    async fn diagnosed(says: &str, deny: &[&str]) -> Answer<HostDiagnosis> {
        let stack = format!(
            "[[plugin]]\nname = \"load\"\ncommand = [\"/bin/sh\", \"-c\", \"{says}\"]\n\
             [check.packages]\noperation = \"plugin.run\"\nparameters = {{ name = \"load\" }}\n"
        );
        let mut host = Host::showing(Path::new("/nonexistent"));
        host.policy.deny = ["host.resources", "disk.*", "systemd.*"].map(str::to_owned).to_vec();
        host.policy.deny.extend(deny.iter().map(|name| (*name).to_owned()));
        host.stack = toml::from_str(&stack).expect("a stack file");
        let (events, _receiver) = mpsc::channel(64);
        let cx = Context::new(Arc::new(host), CancellationToken::new(), events);
        let asked = HostDiagnoseRequest { service: "packages".to_owned() };
        HostDiagnose::observe(asked, &cx).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_check_of_the_stack_files_own_is_looked_at_by_its_own_operation() {
        let answer = diagnosed("echo too many; exit 2", &[]).await;
        assert_eq!((answer.status, answer.summary.as_str()), (Status::Critical, "too many"));
        let step = answer.data.steps.last().expect("a step");
        assert_eq!(step.looked_at, "plugin run: check packages");
        assert_eq!((step.status.as_str(), step.said.as_str()), ("critical", "too many"));
        let well = diagnosed("echo fine", &[]).await.data.steps.pop().expect("a step");
        assert_eq!((well.status.as_str(), well.said.as_str()), ("ok", "fine"));
    }

    #[tokio::test]
    async fn the_policy_holds_for_what_a_check_of_the_stack_files_own_asks() {
        let step = diagnosed("echo fine", &["plugin.*"]).await.data.steps.pop().expect("a step");
        assert_eq!(step.status, "unknown");
        assert!(step.said.contains("does not allow plugin.run"), "{}", step.said);
    }
}
