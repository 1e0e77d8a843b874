//! The fleet's hosts: how they are, which there are, their labels and their end.

use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::engine::ArgValueCompleter;
use hostler_core::clock::Clock;
use hostler_proto::wire::{
    FleetStatusRequest, LabelHostRequest, RemoveHostRequest, RevokeHostRequest,
};

use super::{group, list, one, required, text, watch};
use crate::{
    command::{on, output, yes},
    complete,
    connect::Controller,
    context::Context,
    exit::{Exit, Problem},
    run::{confirm, matching, selector},
    screen::Screen,
    show::{Form, fleet, status},
};

pub(super) fn commands() -> Vec<Command> {
    let host = || required("host", "The host's name").add(ArgValueCompleter::new(complete::hosts));
    let changes = Arg::new("changes")
        .value_name("KEY=VALUE | KEY-")
        .required(true)
        .num_args(1..)
        .help("Labels to set, and with a minus after them those to take away");
    let reason = || {
        let reason = Arg::new("reason").long("reason").value_name("TEXT").required(true);
        reason.action(ArgAction::Set).help("Why; goes into the audit")
    };
    vec![
        Command::new("status")
            .about("Shows how the fleet is: counts, problems, certificates that end soon")
            .arg(
                Arg::new("watch")
                    .long("watch")
                    .short('w')
                    .action(ArgAction::SetTrue)
                    .help("Show it anew every two seconds, until Ctrl-C"),
            )
            // Only so that it can be said what is meant by it.
            .arg(on().hide(true))
            .arg(output()),
        Command::new("hosts")
            .about("Lists the hosts, those that are not connected first")
            .arg(on().default_value("all"))
            .arg(output()),
        group("host", "One host")
            .subcommand(
                Command::new("show")
                    .about("Shows everything about a host, with the operations that it allows")
                    .arg(host())
                    .arg(output()),
            )
            .subcommand(
                Command::new("label")
                    .about("Sets and takes away labels of a host")
                    .arg(host())
                    .arg(changes)
                    .arg(output()),
            )
            .subcommand(
                Command::new("revoke")
                    .about("Makes a host's certificate worthless at once and cuts its link")
                    .arg(host())
                    .arg(reason())
                    .arg(yes()),
            )
            .subcommand(
                Command::new("remove")
                    .about("Forgets a host that is gone or revoked; its name can be enrolled again")
                    .arg(host())
                    .arg(reason())
                    .arg(yes()),
            ),
    ]
}

/// Refuses `status` of some hosts, which is a command of another name.
pub(crate) fn of_all(matches: &ArgMatches) -> Result<(), Problem> {
    match matches.get_one::<String>("on") {
        None => Ok(()),
        Some(on) => Err(Problem::usage("status is of the whole fleet")
            .hint(format!("for some hosts: hostlerctl problems --on '{on}'"))),
    }
}

/// `status`
pub(crate) async fn show_status(
    controller: &Controller,
    dialled: (&Context, &Arc<dyn Clock>),
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let form = Form::of(matches);
    if matches.get_flag("watch") {
        if form.is_data() && form != Form::Jsonl {
            return Err(Problem::usage("a document that never ends cannot be written")
                .hint("use -o jsonl with --watch"));
        }
        return watch::watch(controller, dialled, form, screen).await;
    }
    let traits = screen.traits();
    let reply = controller.answer(controller.fleet().status(FleetStatusRequest {})).await?;
    let page = |_| status::page(&reply, None, traits);
    one(&reply, form, screen, page, [reply.fleet.as_str()])?;
    Ok(status::exit(&reply))
}

/// `hosts`
pub(crate) async fn show_hosts(
    controller: &Controller,
    matches: &ArgMatches,
    clock: &dyn Clock,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let hosts = matching(controller, &selector::read(&text(matches, "on"))?).await?.hosts;
    let (now, traits) = (clock.now().as_microsecond(), screen.traits());
    let table = |h: &[_], wide| fleet::hosts(h, now, wide, traits);
    list(&hosts, Form::of(matches), screen, table, |h| &h.name)?;
    Ok(Exit::AllWell)
}

/// `host show|label|revoke|remove`
pub(crate) async fn host(
    verb: &str,
    controller: &Controller,
    matches: &ArgMatches,
    clock: &dyn Clock,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let name = text(matches, "host");
    let (now, traits) = (clock.now().as_microsecond(), screen.traits());
    let record = match verb {
        "show" => matching(controller, &selector::one_host(&name)?).await?.hosts.into_iter().next(),
        "label" => {
            let request = labels(name, matches)?;
            Some(controller.answer_of_host(controller.fleet().label(request)).await?)
        }
        end => {
            if !matches.get_flag("yes") {
                confirm::ask(screen, &format!("host {end}"), &[&name]).await?;
            }
            if end == "remove" {
                let reason = text(matches, "reason");
                let request = RemoveHostRequest { host: name.clone(), reason };
                controller.answer_of_host(controller.fleet().remove(request)).await?;
                screen.say(&format!("{name} is removed; the audit keeps what it did"));
                return Ok(Exit::AllWell);
            }
            let request = RevokeHostRequest { host: name.clone(), reason: text(matches, "reason") };
            let reply = controller.answer_of_host(controller.fleet().revoke(request)).await?;
            screen
                .say(&format!("{name} is revoked; live connections that were cut: {}", reply.cut));
            None
        }
    };
    if let Some(record) = record {
        let form = Form::of(matches);
        let page = |_| fleet::host(&record, now, traits);
        one(&record, form, screen, page, [record.name.as_str()])?;
    }
    Ok(Exit::AllWell)
}

fn labels(host: String, matches: &ArgMatches) -> Result<LabelHostRequest, Problem> {
    let mut request = LabelHostRequest { host, ..LabelHostRequest::default() };
    for change in matches.get_many::<String>("changes").into_iter().flatten() {
        match (change.split_once('='), change.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => {
                request.set.insert(key.to_owned(), value.to_owned());
            }
            (None, Some(key)) if !key.is_empty() => request.remove.push(key.to_owned()),
            _ => {
                let message = format!("\"{change}\" is no change of labels");
                return Err(Problem::usage(message).hint("write KEY=VALUE to set, KEY- to remove"));
            }
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_with_a_value_and_taken_away_with_a_minus() {
        let parse = |words: &[&str]| {
            let root = group("hostlerctl", "").subcommands(commands());
            let words = ["hostlerctl", "host", "label", "web-1"].iter().chain(words);
            let matches = root.try_get_matches_from(words).expect("words");
            let (_, host) = matches.subcommand().expect("host");
            labels("web-1".into(), host.subcommand().expect("label").1)
        };
        let request = parse(&["role=web", "zone-", "note=a-"]).expect("changes");
        assert_eq!(request.set["role"], "web");
        assert_eq!(request.set["note"], "a-");
        assert_eq!(request.remove, ["zone"]);
        assert_eq!(parse(&["role"]).expect_err("neither").exit, Exit::Usage);
    }
}
