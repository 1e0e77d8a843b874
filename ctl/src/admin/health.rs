//! How the hosts' checks stand and stood, and what people know of it.

use std::collections::BTreeSet;

use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::engine::ArgValueCompleter;
use hostler_core::clock::Clock;
use hostler_proto::wire::{
    AcknowledgeRequest, AddDowntimeRequest, DowntimesRequest, EndDowntimeRequest, HistoryRequest,
    HostHealthRequest, ProblemsRequest, UnacknowledgeRequest,
};

use super::{group, list, one, required, text};
use crate::{
    command::{on, output, span},
    complete,
    connect::Controller,
    exit::{Exit, Problem},
    run::selector,
    screen::Screen,
    show::{Form, downtimes, health, history, problems, value},
};

pub(super) fn commands() -> Vec<Command> {
    let host = || required("host", "The host's name").add(ArgValueCompleter::new(complete::hosts));
    let check = || {
        let check = Arg::new("check").value_name("CHECK").help("One check, as `health` names it");
        check.add(ArgValueCompleter::new(complete::checks))
    };
    let comment = || {
        let comment = Arg::new("comment").long("comment").value_name("TEXT").required(true);
        comment.action(ArgAction::Set).help("What others must know of it")
    };
    let of_host = "The problem's check; the host itself when it is left out";
    vec![
        Command::new("problems")
            .about("Lists what is wrong, the worst first, with the next command to type")
            .after_help("Example: hostlerctl problems --on 'role=db and check(disk)!=ok'")
            .arg(on().default_value("all"))
            .arg(output()),
        Command::new("health")
            .about("Shows every check of a host, those that are not well first")
            .after_help("Example: hostlerctl health web-1")
            .arg(host())
            .arg(output()),
        Command::new("diagnose")
            .about("Finds out why a service does not do what it should, and what would mend it")
            .after_help(
                "Example: hostlerctl diagnose web-1 omnidoc-backend\n\nIt only looks: the operation \
                 host.diagnose on one host.",
            )
            .arg(host())
            .arg(
                Arg::new("service")
                    .value_name("SERVICE")
                    .add(ArgValueCompleter::new(complete::checks))
                    .help("A unit, what the host's stack file names, or a check [default: everything]"),
            )
            .arg(output()),
        Command::new("history")
            .about("Shows how the checks of a host changed, and their figures over time")
            .after_help("Example: hostlerctl history web-1 disk --since 7d")
            .arg(host())
            .arg(check())
            .arg(span("since", "How far back").default_value("7d"))
            .arg(output()),
        Command::new("acknowledge")
            .visible_alias("ack")
            .about("Says that somebody works on a problem: it is listed last until it recovers")
            .after_help("Example: hostlerctl ack web-1 disk --comment 'INC-1234, new disk at noon'")
            .arg(host())
            .arg(check().help(of_host))
            .arg(comment())
            .arg(span("for", "How long that counts [default: until it recovers]"))
            .arg(
                Arg::new("undo")
                    .long("undo")
                    .action(ArgAction::SetTrue)
                    .conflicts_with_all(["comment", "for"])
                    .help("Take it back"),
            )
            .mut_arg("comment", |arg| arg.required(false).required_unless_present("undo")),
        group("downtime", "Times in which problems are expected")
            .subcommand(
                Command::new("add")
                    .about("Announces a downtime; it always has an end")
                    .after_help(
                        "Example: hostlerctl downtime add --on role=db --for 2h --comment 'new disks'",
                    )
                    .arg(on().required(true))
                    .arg(
                        Arg::new("check")
                            .long("check")
                            .value_name("PATTERN")
                            .help("Only these checks; everything when it is left out"),
                    )
                    .arg(span("for", "How long it is").required(true))
                    .arg(span("in", "How long until it begins [default: now]"))
                    .arg(span(
                        "lasting",
                        "Flexible: on each host it begins with the first problem within that time, and lasts so long, once",
                    ))
                    .arg(comment())
                    .arg(output()),
            )
            .subcommand(
                Command::new("list").about("Lists downtimes that are not over").arg(output()),
            )
            .subcommand(
                Command::new("end")
                    .about("Ends a downtime, or takes it back")
                    .arg(required("id", "Its id, as `downtime list` shows it")),
            ),
    ]
}

fn seconds(matches: &ArgMatches, name: &str) -> u32 {
    matches.get_one::<u32>(name).copied().unwrap_or(0)
}

/// `problems`
pub(crate) async fn problems(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let request = ProblemsRequest { on: selector::read(&text(matches, "on"))? };
    let reply = controller.answer_of_host(controller.health().problems(request)).await?;
    let traits = screen.traits();
    let outlooks = problems::outlooks(&reply.outlooks, traits);
    let table = |p: &[_], _| {
        let listed = match p {
            [] => "no problems\n".to_owned(),
            some => problems::problems(some, reply.now_us, traits).concat(),
        };
        if outlooks.is_empty() { listed } else { format!("{listed}\n{outlooks}") }
    };
    list(&reply.problems, Form::of(matches), screen, table, |p| &p.subject)?;
    Ok(problems::exit(&reply.problems))
}

/// `health`
pub(crate) async fn host(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let request = HostHealthRequest { host: text(matches, "host") };
    let reply = controller.answer_of_host(controller.health().host(request)).await?;
    let traits = screen.traits();
    let checks = reply.checks.iter().filter_map(|c| c.state.as_ref());
    let names = checks.map(|state| state.check.as_str());
    one(&reply, Form::of(matches), screen, |_| health::host(&reply, traits), names)?;
    Ok(problems::exit(&reply.problems))
}

/// `history`
pub(crate) async fn history(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let request = HistoryRequest {
        host: text(matches, "host"),
        check: text(matches, "check"),
        since_s: seconds(matches, "since"),
    };
    let reply = controller.answer_of_host(controller.health().history(request)).await?;
    let traits = screen.traits();
    let turned = reply.turns.iter().map(|turn| turn.check.as_str());
    let measured = reply.series.iter().map(|series| series.check.as_str());
    // The host's link is the check without a name.
    let names: BTreeSet<_> = turned.chain(measured).filter(|name| !name.is_empty()).collect();
    one(&reply, Form::of(matches), screen, |_| history::history(&reply, traits), names)?;
    Ok(Exit::AllWell)
}

/// `acknowledge`
pub(crate) async fn acknowledge(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let (host, check) = (text(matches, "host"), text(matches, "check"));
    let what = if check.is_empty() { host.clone() } else { format!("{check} on {host}") };
    if matches.get_flag("undo") {
        let request = UnacknowledgeRequest { host, check };
        controller.answer_of_host(controller.health().unacknowledge(request)).await?;
        screen.say(&format!("{what} is no longer acknowledged"));
        return Ok(Exit::AllWell);
    }
    let (comment, lasts_s) = (text(matches, "comment"), seconds(matches, "for"));
    let request = AcknowledgeRequest { host, check, comment, lasts_s };
    controller.answer_of_host(controller.health().acknowledge(request)).await?;
    let until = match lasts_s {
        0 => "it recovers or gets worse".to_owned(),
        s => format!("{} have passed, or it recovers", value::duration(f64::from(s))),
    };
    screen.say(&format!("{what} is acknowledged until {until}"));
    Ok(Exit::AllWell)
}

/// `downtime add|list|end`
pub(crate) async fn downtime(
    verb: &str,
    controller: &Controller,
    matches: &ArgMatches,
    clock: &dyn Clock,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let traits = screen.traits();
    let now = clock.now().as_microsecond();
    match verb {
        "add" => {
            let wait = seconds(matches, "in");
            let request = AddDowntimeRequest {
                on: selector::read(&text(matches, "on"))?,
                checks: text(matches, "check"),
                begins_us: if wait == 0 { 0 } else { now + i64::from(wait) * 1_000_000 },
                window_s: seconds(matches, "for"),
                lasts_s: seconds(matches, "lasting"),
                comment: text(matches, "comment"),
            };
            let reply =
                controller.answer_of_host(controller.health().add_downtime(request)).await?;
            // One that begins at once began by the controller's clock.
            let now = if wait == 0 { now.max(reply.begins_us) } else { now };
            let page = |_| downtimes::downtimes(std::slice::from_ref(&reply), now, traits);
            one(&reply, Form::of(matches), screen, page, [reply.id.as_str()])?;
            screen.say(&format!("to end it: hostlerctl downtime end {}", reply.id));
        }
        "list" => {
            let reply =
                controller.answer(controller.health().downtimes(DowntimesRequest {})).await?;
            let table = |d: &[_], _| match d {
                [] => "no downtimes\n".to_owned(),
                some => downtimes::downtimes(some, now, traits),
            };
            list(&reply.downtimes, Form::of(matches), screen, table, |d| &d.id)?;
        }
        _ => {
            let id = text(matches, "id");
            let request = EndDowntimeRequest { id: id.clone() };
            controller.answer(controller.health().end_downtime(request)).await?;
            screen.say(&format!("downtime {id} is over"));
        }
    }
    Ok(Exit::AllWell)
}
