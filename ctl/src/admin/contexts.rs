//! The contexts of the user: which fleets, and as whom.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use clap_complete::engine::ArgValueCompleter;
use hostler_core::{
    clock::Clock,
    pki::{Key, PkiError},
};
use hostler_proto::wire::RenewOperatorRequest;
use serde::Serialize;

use super::{group, required, text};
use crate::{
    command::output,
    complete,
    connect::Controller,
    context::{Context, ContextError, Contexts},
    exit::{Exit, Problem},
    run::clock,
    screen::Screen,
    show::{
        Form,
        grid::{Cell, grid, pairs},
        json,
    },
};

/// With more days left nobody has to hear of a certificate's end.
const SOON_DAYS: i64 = 14;

pub(super) fn command() -> Command {
    let name =
        || required("name", "The context's name").add(ArgValueCompleter::new(complete::contexts));
    group("context", "Fleets that you operate, and as whom")
        .subcommand(
            Command::new("import")
                .about("Takes over a context from a file")
                .arg(required("file", "File that an admin gave you"))
                .arg(
                    Arg::new("name")
                        .long("name")
                        .value_name("NAME")
                        .help("Name to keep it under [default: the fleet's]"),
                ),
        )
        .subcommand(Command::new("list").about("Lists the contexts").arg(output()))
        .subcommand(Command::new("use").about("Chooses the current context").arg(name()))
        .subcommand(
            Command::new("show")
                .about("Shows a context, without its key")
                .arg(name().required(false))
                .arg(output()),
        )
        .subcommand(Command::new("remove").about("Forgets a context and its key").arg(name()))
        .subcommand(
            Command::new("renew")
                .about("Has the certificate of a context renewed, for the key that it has")
                .arg(name().required(false)),
        )
}

/// `context renew`
pub(crate) async fn renew(
    contexts: &Contexts,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let (name, mut context) = chosen(contexts, named(matches))?;
    let unusable = |e: PkiError| Problem::usage(format!("the key of {name} cannot be used: {e}"));
    let key = Key::from_pem(&context.key_pem).map_err(unusable)?;
    let request = key.request().map_err(unusable)?;
    let controller = Controller::dial(&context, clock()).await?;
    let mut access = controller.access();
    let renewed = controller.answer(access.renew_operator(RenewOperatorRequest { request }));
    context.chain_pem = renewed.await?.chain_pem;
    let until = context.facts().map_err(|e| {
        Problem::new(Exit::Failed, format!("the controller sent no certificate of this key: {e}"))
    })?;
    contexts.replace(&name, &context)?;
    screen.say(&format!("the certificate of {} counts until {}", until.identity, until.not_after));
    Ok(Exit::AllWell)
}

/// The context that a command about one names: as its argument, or as every other command does.
fn named(matches: &ArgMatches) -> Option<&str> {
    let asked = ["name", "context"].into_iter().find_map(|id| matches.get_one::<String>(id));
    asked.map(String::as_str)
}

/// Says that the certificate of a context ends soon, when it does.
pub(crate) fn warn(name: &str, context: &Context, clock: &dyn Clock, screen: &mut Screen) {
    let Ok(facts) = context.facts() else { return };
    let left_s = facts.not_after.as_second() - clock.now().as_second();
    if clock.now() < facts.renew_at() || left_s > SOON_DAYS * 86_400 {
        return;
    }
    let left = match left_s / 86_400 {
        0 => "within a day".to_owned(),
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    };
    screen.say(&format!(
        "the certificate of {} ends {left}; renew it with: hostlerctl context renew {name}",
        facts.identity
    ));
}

/// A context as it is shown: the key is not part of it.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    current: bool,
    fleet: String,
    identity: String,
    certificate_until: String,
    addresses: Vec<String>,
}

impl Shown {
    fn of(name: String, current: bool, context: Context) -> Self {
        let facts = context.facts().ok();
        Self {
            name,
            current,
            fleet: context.fleet,
            identity: facts.as_ref().map(|f| f.identity.to_string()).unwrap_or_default(),
            certificate_until: facts.map(|f| f.not_after.to_string()).unwrap_or_default(),
            addresses: context.addresses,
        }
    }
}

/// `context import|list|use|show|remove`
pub(crate) fn run(
    verb: &str,
    contexts: &Contexts,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let form = Form::of(matches);
    match verb {
        "import" => {
            let context = Context::read(Path::new(&text(matches, "file")))?;
            let name = match matches.get_one::<String>("name") {
                Some(name) => name.clone(),
                None => context.fleet.clone(),
            };
            contexts.add(&name, &context)?;
            let current = contexts.current().is_ok_and(|c| c == name);
            let use_it = format!("; `hostlerctl context use {name}` chooses it");
            let rest = if current { " and is the current one" } else { use_it.as_str() };
            screen.say(&format!("context {name} is kept{rest}"));
        }
        "list" => {
            let current = contexts.current().ok();
            let mut all = Vec::new();
            for name in contexts.names()? {
                match contexts.get(&name) {
                    Ok(context) => {
                        let is_current = current.as_ref() == Some(&name);
                        all.push(Shown::of(name, is_current, context));
                    }
                    // One that is broken must not hide the others.
                    Err(e) => screen.tell(&Problem::from(e).to_string()),
                }
            }
            let text = match form {
                Form::Table | Form::Wide => table(&all, screen),
                Form::Name => all.iter().map(|c| format!("{}\n", c.name)).collect(),
                _ => json::list(&all, form)?,
            };
            screen.data(&text)?;
        }
        "use" => {
            let name = text(matches, "name");
            contexts.choose(&name)?;
            screen.say(&format!("context {name} is the current one"));
        }
        "show" => {
            let current = contexts.current();
            let (name, context) = chosen(contexts, named(matches))?;
            let is_current = current.is_ok_and(|c| c == name);
            let shown = Shown::of(name, is_current, context);
            let text = match form.is_data() {
                true => json::document(&shown, form)?,
                false => page(&shown, screen),
            };
            screen.data(&text)?;
        }
        _ => {
            let name = text(matches, "name");
            contexts.remove(&name)?;
            screen.say(&format!("context {name} and its key are removed from this machine"));
        }
    }
    Ok(Exit::AllWell)
}

/// The context to use: `--context`, else `HOSTLER_CONTEXT`, else the current one.
pub(crate) fn chosen(
    contexts: &Contexts,
    asked: Option<&str>,
) -> Result<(String, Context), ContextError> {
    let variable = std::env::var("HOSTLER_CONTEXT").ok().filter(|v| !v.is_empty());
    let name = match asked.map(str::to_owned).or(variable) {
        Some(name) => name,
        None => contexts.current()?,
    };
    let context = contexts.get(&name)?;
    Ok((name, context))
}

fn table(all: &[Shown], screen: &Screen) -> String {
    let row = |c: &Shown| {
        vec![
            Cell::text(if c.current { "*" } else { "" }),
            Cell::text(&c.name),
            Cell::text(&c.fleet),
            Cell::text(&c.identity),
            Cell::text(&c.certificate_until),
            Cell::text(c.addresses.join(", ")),
        ]
    };
    let headers = ["", "NAME", "FLEET", "IDENTITY", "CERTIFICATE UNTIL", "ADDRESSES"];
    grid(&headers, &all.iter().map(row).collect::<Vec<_>>(), screen.traits())
}

fn page(shown: &Shown, screen: &Screen) -> String {
    let found = [
        ("context", &shown.name),
        ("fleet", &shown.fleet),
        ("identity", &shown.identity),
        ("certificate until", &shown.certificate_until),
        ("addresses", &shown.addresses.join(", ")),
    ];
    let found: Vec<_> = found.map(|(name, text)| (name.to_owned(), Cell::text(text))).into();
    pairs(&found, screen.traits())
}
