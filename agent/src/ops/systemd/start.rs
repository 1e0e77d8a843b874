//! `systemd.start`.

use std::time::Duration;

use hostler_proto::{
    operation::SystemdStart,
    ops::{SystemdChange, SystemdStartRequest},
    wire::Failure,
};

use super::{
    bus::Verb,
    change::{self, Change},
};
use crate::operation::{Action, Answer, Context, Plan};

impl Action for SystemdStart {
    type Plan = Change;

    async fn plan(request: &SystemdStartRequest, cx: &Context) -> Result<Plan<Change>, Failure> {
        let stable = Duration::from_secs(request.stable_s.into());
        change::plan(Verb::Start, &request.unit, stable, cx).await
    }

    async fn apply(plan: Change, cx: &Context) -> Result<Answer<SystemdChange>, Failure> {
        change::apply(plan, cx).await
    }
}
