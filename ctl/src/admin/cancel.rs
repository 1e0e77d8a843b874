//! Ending an operation that still runs somewhere.

use clap::{ArgMatches, Command};
use hostler_proto::wire::CancelRequest;

use super::{required, text};
use crate::{
    connect::Controller,
    exit::{Exit, Problem},
    screen::Screen,
};

pub(super) fn command() -> Command {
    Command::new("cancel")
        .about("Asks an operation to end on every host on which it still runs")
        .arg(required("invocation", "Its id, as the audit shows it"))
        .after_help("Example: hostlerctl cancel 01a20d91-92c4-7124-aee5-88ee08eb1dc0")
}

/// `cancel INVOCATION`
pub(crate) async fn run(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let invocation = text(matches, "invocation");
    let mut client = controller.operations();
    let request = CancelRequest { invocation: invocation.clone() };
    let reply = controller.answer(client.cancel(request)).await?;
    match reply.cancelled {
        0 => screen.say(&format!("{invocation} runs on no host that is connected")),
        n => screen.say(&format!("{invocation} was asked to end on {n} hosts")),
    }
    Ok(Exit::AllWell)
}
