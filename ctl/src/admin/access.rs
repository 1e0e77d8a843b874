//! Who may enrol and who may operate.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};
use hostler_core::clock::Clock;
use hostler_proto::wire::{
    AddOperatorRequest, CreateTokenRequest, OperatorsRequest, RevokeOperatorRequest,
    RevokeTokenRequest, Role, TokensRequest, WhoAmIRequest,
};

use super::{group, label, list, one, required, text};
use crate::{
    command::{on, output, span, yes},
    connect::Controller,
    context::Context,
    exit::{Exit, Problem},
    run::confirm,
    screen::Screen,
    show::{Form, fleet, value},
};

pub(super) fn commands() -> Vec<Command> {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let token = group("token", "Tokens with which hosts enrol")
        .subcommand(
            Command::new("create")
                .about("Makes a token; it is shown only now")
                .arg(option("host", "NAME", "Name that the host must get"))
                .arg(
                    option("label", "KEY=VALUE", "Label that the host gets; may be repeated")
                        .action(ArgAction::Append)
                        .value_parser(label),
                )
                .arg(span("ttl", "How long it may be used").default_value("15m"))
                .arg(
                    option("uses", "NUMBER", "How many hosts may use it")
                        .value_parser(value_parser!(u32).range(1..))
                        .default_value("1"),
                )
                .arg(
                    option("replace", "", "The host may be enrolled again over its enrolment")
                        .action(ArgAction::SetTrue)
                        .requires("host"),
                )
                .arg(output()),
        )
        .subcommand(Command::new("list").about("Lists tokens that may still be used").arg(output()))
        .subcommand(
            Command::new("revoke")
                .about("Makes a token worthless at once")
                .arg(required("id", "The token's id, as `token list` shows it")),
        );
    let role = PossibleValuesParser::new(["viewer", "operator", "admin"]);
    let operator = group("operator", "People and programs that may operate")
        .subcommand(
            Command::new("add")
                .about("Makes an operator and writes its context, with its key, into one file")
                .arg(required("name", "The operator's name"))
                .arg(
                    option("role", "ROLE", "viewer looks, operator acts, admin changes access too")
                        .value_parser(role)
                        .required(true),
                )
                .arg(on().help("Hosts that it may act on [default: all]"))
                .arg(option(
                    "operations",
                    "PATTERNS",
                    "Operations that it may ask for, as systemd.*,redis.status [default: all]",
                ))
                .arg(
                    option("days", "NUMBER", "Life of its certificate [default: the controller's]")
                        .value_parser(value_parser!(u32).range(1..=3650)),
                )
                .arg(option("out", "FILE", "File for the context; must not exist").required(true)),
        )
        .subcommand(Command::new("list").about("Lists operators").arg(output()))
        .subcommand(
            Command::new("revoke")
                .about("Makes an operator's certificate worthless at once")
                .arg(required("name", "The operator's name"))
                .arg(option("reason", "TEXT", "Why; goes into the audit").required(true))
                .arg(yes()),
        );
    let whoami =
        Command::new("whoami").about("Shows who you are to the fleet, and what you may do");
    vec![token, operator, whoami.arg(output())]
}

/// `token create|list|revoke`
pub(crate) async fn token(
    verb: &str,
    controller: &Controller,
    matches: &ArgMatches,
    clock: &dyn Clock,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let mut access = controller.access();
    match verb {
        "create" => {
            let labels = matches.get_many::<(String, String)>("label").into_iter().flatten();
            let request = CreateTokenRequest {
                host: text(matches, "host"),
                labels: labels.cloned().collect(),
                ttl_s: matches.get_one::<u32>("ttl").copied().unwrap_or(0),
                uses: matches.get_one::<u32>("uses").copied().unwrap_or(1),
                replace: matches.get_flag("replace"),
            };
            let uses = request.uses;
            let reply = controller.answer(access.create_token(request)).await?;
            let (page, names) = (|_| format!("{}\n", reply.token), [reply.token.as_str()]);
            one(&reply, Form::of(matches), screen, page, names)?;
            let until = value::moment(reply.expires_us);
            let hosts = if uses == 1 { "one host".to_owned() } else { format!("{uses} hosts") };
            screen.say(&format!("token {}: for {hosts}, until {until}; shown only now", reply.id));
        }
        "list" => {
            let reply = controller.answer(access.tokens(TokensRequest {})).await?;
            let (now, traits) = (clock.now().as_microsecond(), screen.traits());
            let table = |t: &[_], _| fleet::tokens(t, now, traits);
            list(&reply.tokens, Form::of(matches), screen, table, |t| &t.id)?;
        }
        _ => {
            let id = text(matches, "id");
            let request = RevokeTokenRequest { id: id.clone() };
            controller.answer(access.revoke_token(request)).await?;
            screen.say(&format!("token {id} is revoked"));
        }
    }
    Ok(Exit::AllWell)
}

/// `operator add|list|revoke`
pub(crate) async fn operator(
    verb: &str,
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let mut access = controller.access();
    match verb {
        "add" => add(controller, matches, screen).await?,
        "list" => {
            let reply = controller.answer(access.operators(OperatorsRequest {})).await?;
            let traits = screen.traits();
            let table = |o: &[_], _| fleet::operators(o, traits);
            list(&reply.operators, Form::of(matches), screen, table, |o| &o.name)?;
        }
        _ => {
            let name = text(matches, "name");
            if !matches.get_flag("yes") {
                confirm::ask(screen, "operator revoke", &[&name]).await?;
            }
            let reason = text(matches, "reason");
            let request = RevokeOperatorRequest { name: name.clone(), reason };
            let reply = controller.answer(access.revoke_operator(request)).await?;
            screen
                .say(&format!("{name} is revoked; live connections that were cut: {}", reply.cut));
        }
    }
    Ok(Exit::AllWell)
}

async fn add(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<(), Problem> {
    let (name, out) = (text(matches, "name"), text(matches, "out"));
    let path = Path::new(&out);
    // Before anything is made: the key exists only in the answer.
    if path.exists() {
        return Err(Problem::usage(format!("{out} exists")).hint("choose another file with --out"));
    }
    let request = AddOperatorRequest {
        name: name.clone(),
        role: role(&text(matches, "role")).into(),
        on: text(matches, "on"),
        operations: text(matches, "operations"),
        days: matches.get_one::<u32>("days").copied().unwrap_or(0),
    };
    let reply = controller.answer(controller.access().add_operator(request)).await?;
    let context = Context {
        fleet: reply.fleet,
        addresses: reply.addresses,
        authority_pem: reply.authority_pem,
        chain_pem: reply.chain_pem,
        key_pem: reply.key_pem,
    };
    context.write(path).map_err(|e| {
        let hint = format!("{name} exists now and nobody has its key: `operator revoke {name}`");
        Problem { hint, ..Problem::new(Exit::Failed, e.to_string()) }
    })?;
    let until = value::moment(reply.expires_us);
    screen.say(&format!(
        "{name} may operate until {until}; bring {out} to its machine by a safe way, then there \
         `hostlerctl context import FILE`"
    ));
    Ok(())
}

fn role(word: &str) -> Role {
    match word {
        "viewer" => Role::Viewer,
        "operator" => Role::Operator,
        "admin" => Role::Admin,
        _ => Role::Unspecified,
    }
}

/// `whoami`
pub(crate) async fn whoami(
    controller: &Controller,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let record = controller.answer(controller.access().who_am_i(WhoAmIRequest {})).await?;
    let traits = screen.traits();
    let page = |_| fleet::operators(std::slice::from_ref(&record), traits);
    one(&record, Form::of(matches), screen, page, [record.name.as_str()])?;
    Ok(Exit::AllWell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_that_can_be_typed_is_one() {
        for word in ["viewer", "operator", "admin"] {
            assert_eq!(fleet::role(role(word)), word);
        }
    }
}
