//! `systemd.reload`.

use std::time::Duration;

use hostler_proto::{
    operation::SystemdReload,
    ops::{SystemdChange, SystemdReloadRequest},
    wire::Failure,
};

use super::{
    bus::Verb,
    change::{self, Change},
};
use crate::operation::{Action, Answer, Context, Plan};

impl Action for SystemdReload {
    type Plan = Change;

    async fn plan(request: &SystemdReloadRequest, cx: &Context) -> Result<Plan<Change>, Failure> {
        change::plan(Verb::Reload, &request.unit, Duration::ZERO, cx).await
    }

    async fn apply(plan: Change, cx: &Context) -> Result<Answer<SystemdChange>, Failure> {
        change::apply(plan, cx).await
    }
}
