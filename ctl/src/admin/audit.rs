//! The audit: what was asked for, by whom, and how it came out.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use hostler_core::clock::Clock;
use hostler_proto::wire::{
    AuditListRequest, AuditRecord, AuditShowRequest, AuditVerifyReply, AuditVerifyRequest,
};
use tonic::Streaming;

use super::{group, list, one, required, text};
use crate::{
    command::{output, span},
    connect::Controller,
    exit::{Exit, Problem},
    screen::{Screen, harmless},
    show::{Form, audit, json},
};

/// Records of a table that are laid out together; wider ones than the first need new columns.
const PAGE: usize = 1000;

pub(super) fn command() -> Command {
    let filter = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(name.to_uppercase()).help(help)
    };
    let limit = filter("limit", "At most so many, the newest first").default_value("50");
    group("audit", "Everything that was asked for, and how it came out")
        .subcommand(
            Command::new("list")
                .about("Lists records, the newest first")
                .arg(limit.value_parser(value_parser!(u32).range(1..)))
                .arg(span("since", "Only records younger than this"))
                .arg(filter("host", "Only records of this host"))
                .arg(filter(
                    "operator",
                    "Only what this operator asked for; local: made by hostler-controller admin; \
                     controller: what it told by itself",
                ))
                .arg(filter("operation", "Only records of this operation"))
                .arg(
                    Arg::new("looks")
                        .long("looks")
                        .action(ArgAction::SetTrue)
                        .help("Also who looked at status, hosts, health and the audit"),
                )
                .arg(output()),
        )
        .subcommand(
            Command::new("show")
                .about("Shows all records of one invocation")
                .arg(required("invocation", "The invocation's id"))
                .arg(output()),
        )
        .subcommand(
            Command::new("verify")
                .about("Checks that no record was changed or taken away")
                .arg(output()),
        )
}

/// `audit list|show|verify`
pub(crate) async fn run(
    verb: &str,
    controller: &Controller,
    matches: &ArgMatches,
    clock: &dyn Clock,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let form = Form::of(matches);
    let mut client = controller.audit();
    match verb {
        "list" => {
            let since = matches.get_one::<u32>("since").copied();
            let now = clock.now().as_microsecond();
            let request = AuditListRequest {
                limit: matches.get_one::<u32>("limit").copied().unwrap_or(50),
                since_us: since.map_or(0, |s| now.saturating_sub(i64::from(s) * 1_000_000)),
                host: text(matches, "host"),
                operator: text(matches, "operator"),
                operation: text(matches, "operation"),
                looks: matches.get_flag("looks"),
            };
            let records = controller.answer(client.list(request)).await?;
            show(controller, records, form, screen).await?;
        }
        "show" => {
            let invocation = text(matches, "invocation");
            let request = AuditShowRequest { invocation: invocation.clone() };
            let records = controller.answer(client.show(request)).await?;
            if show(controller, records, form, screen).await? == 0 {
                return Err(Problem::new(
                    Exit::Failed,
                    format!("the audit holds no record of invocation {invocation}"),
                )
                .hint("`hostlerctl audit list` shows the latest ones"));
            }
        }
        _ => {
            // A long chain takes minutes; that the controller is still there the connection tells.
            let mut replies = controller.answer(client.verify(AuditVerifyRequest {})).await?;
            let reply = loop {
                match replies.message().await.map_err(|s| controller.problem(s))? {
                    Some(AuditVerifyReply { goes_on: true, records, .. }) => {
                        screen.progress(&format!("{records} records fit so far"));
                    }
                    Some(reply) => break reply,
                    None => return Err(controller.cut_short()),
                }
            };
            screen.clear();
            one(&reply, form, screen, |_| verdict(&reply), [reply.head.as_str()])?;
            return Ok(if reply.intact { Exit::AllWell } else { Exit::Failed });
        }
    }
    Ok(Exit::AllWell)
}

/// Shows records page by page as they arrive, and tells how many there were.
async fn show(
    controller: &Controller,
    mut records: Streaming<AuditRecord>,
    form: Form,
    screen: &mut Screen,
) -> Result<usize, Problem> {
    // One document has to be whole; everything else is written a page at a time.
    let page = if matches!(form, Form::Json | Form::Yaml) { usize::MAX } else { PAGE };
    let (mut waiting, mut shown) = (Vec::new(), 0);
    loop {
        let record = records.message().await.map_err(|s| controller.problem(s))?;
        let last = record.is_none();
        if form == Form::Jsonl
            && let Some(record) = &record
        {
            screen.data(&json::line(&super::plain(record)?)?)?;
            shown += 1;
            continue;
        }
        waiting.extend(record);
        if last || waiting.len() >= page {
            shown += waiting.len();
            if !waiting.is_empty() || page == usize::MAX {
                let traits = screen.traits();
                let table = |r: &[_], wide| audit::records(r, wide, traits);
                list(&waiting, form, screen, table, |r| &r.invocation)?;
            }
            waiting.clear();
        }
        if last {
            return Ok(shown);
        }
    }
}

fn verdict(reply: &AuditVerifyReply) -> String {
    match reply.intact {
        true => format!("{} records, intact up to {}\n", reply.records, harmless(&reply.head)),
        false => format!(
            "BROKEN at record {} of {}: {}\n",
            reply.broken_at,
            reply.records,
            harmless(&reply.problem)
        ),
    }
}
