//! `systemd.stop`.

use std::time::Duration;

use hostler_proto::{
    operation::SystemdStop,
    ops::{SystemdChange, SystemdStopRequest},
    wire::Failure,
};

use super::{
    bus::Verb,
    change::{self, Change},
};
use crate::operation::{Action, Answer, Context, Plan};

impl Action for SystemdStop {
    type Plan = Change;

    async fn plan(request: &SystemdStopRequest, cx: &Context) -> Result<Plan<Change>, Failure> {
        change::plan(Verb::Stop, &request.unit, Duration::ZERO, cx).await
    }

    async fn apply(plan: Change, cx: &Context) -> Result<Answer<SystemdChange>, Failure> {
        change::apply(plan, cx).await
    }
}
