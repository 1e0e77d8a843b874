//! The fleet at a glance for as long as somebody looks, also when its controller is away meanwhile.

use std::{sync::Arc, time::Duration};

use hostler_core::clock::Clock;
use hostler_proto::wire::{FleetStatus, FleetStatusRequest};
use tokio::time::{sleep, timeout};

use super::one;
use crate::{
    connect::Controller,
    context::Context,
    exit::{Exit, Problem},
    screen::{Screen, harmless},
    show::{Form, status, value},
};

/// Between two looks at the fleet.
const WATCH: Duration = Duration::from_secs(2);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(5);

/// Shows how the fleet is, again and again. Ctrl-C ends the program here, which is what it is for.
///
/// # Errors
/// When there is no answer at all, when the operator may not look any more, or when nobody reads.
pub(super) async fn watch(
    controller: &Controller,
    (context, clock): (&Context, &Arc<dyn Clock>),
    form: Form,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let mut controller = Some(controller.clone());
    let mut last: Option<FleetStatus> = None;
    let mut silent: Option<(i64, String)> = None;
    loop {
        match look(&mut controller, context, clock).await {
            Ok(reply) => {
                if form.is_data() {
                    one(&reply, form, screen, |_| String::new(), [])?;
                }
                (last, silent) = (Some(reply), None);
            }
            Err(problem) if last.is_none() || problem.exit == Exit::Denied => return Err(problem),
            Err(problem) => {
                // What is left of the connection may be of no use: it is dialled anew.
                controller = None;
                let since = silent.take().map(|(since, _)| since);
                if form.is_data() && since.is_none() {
                    screen.tell(&problem.message);
                }
                silent =
                    Some((since.unwrap_or_else(|| clock.now().as_microsecond()), problem.message));
            }
        }
        if let Some(reply) = last.as_ref().filter(|_| !form.is_data()) {
            screen.measure();
            screen.page(&page(reply, silent.as_ref(), form, screen))?;
        }
        sleep(WATCH).await;
    }
}

async fn look(
    controller: &mut Option<Controller>,
    context: &Context,
    clock: &Arc<dyn Clock>,
) -> Result<FleetStatus, Problem> {
    let asked = async {
        let controller = match controller {
            Some(controller) => controller,
            none => none.insert(Controller::dial(context, Arc::clone(clock)).await?),
        };
        controller.answer(controller.fleet().status(FleetStatusRequest {})).await
    };
    timeout(LOOK, asked).await.unwrap_or_else(|_| {
        let message = format!("the controller did not answer within {} s", LOOK.as_secs());
        Err(Problem::new(Exit::Controller, message))
    })
}

/// When it was looked, and what was seen; while there is no answer, what was seen last.
fn page(
    status: &FleetStatus,
    silent: Option<&(i64, String)>,
    form: Form,
    screen: &Screen,
) -> String {
    let traits = screen.traits();
    let mut page = format!("{}\n", value::moment(status.now_us));
    if let Some((since, why)) = silent {
        page += &format!("no answer since {}: {}\n", value::moment(*since), harmless(why));
    }
    if form == Form::Name {
        return page + &harmless(&status.fleet) + "\n";
    }
    // The last line of the terminal is where the cursor stands.
    let room = usize::from(traits.height).checked_sub(1 + page.lines().count());
    page + &status::page(status, room.filter(|_| traits.height > 0), traits)
}
