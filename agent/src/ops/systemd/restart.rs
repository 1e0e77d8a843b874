//! `systemd.restart`.

use std::time::Duration;

use hostler_proto::{
    operation::SystemdRestart,
    ops::{SystemdChange, SystemdRestartRequest},
    wire::Failure,
};

use super::{
    bus::Verb,
    change::{self, Change},
};
use crate::operation::{Action, Answer, Context, Plan};

impl Action for SystemdRestart {
    type Plan = Change;

    async fn plan(request: &SystemdRestartRequest, cx: &Context) -> Result<Plan<Change>, Failure> {
        let stable = Duration::from_secs(request.stable_s.into());
        change::plan(Verb::Restart, &request.unit, stable, cx).await
    }

    async fn apply(plan: Change, cx: &Context) -> Result<Answer<SystemdChange>, Failure> {
        change::apply(plan, cx).await
    }
}
