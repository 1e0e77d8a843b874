//! The operator's command line. It holds no code per operation: commands, flags, checks and tables
//! come from the catalogue and from the descriptors of the results.
//!
//! - [`command`]: the tree of commands; [`complete`]: what TAB offers
//! - [`context`]: which fleet, and as whom; [`connect`]: the connection to its controller
//! - [`run`]: running an operation: selector, confirmation, stream, Ctrl-C
//! - [`admin`]: everything else that can be asked of a controller
//! - [`show`]: tables, JSON and YAML; [`screen`]: where they go, made harmless
//! - [`exit`]: how it ends

use std::{ffi::OsString, process::ExitCode};

use clap::ArgMatches;
use hostler_core::telemetry::{self, Logs};
use hostler_proto::catalogue::Catalogue;

use crate::{
    connect::Controller,
    context::Contexts,
    exit::{Exit, Problem},
    run::{Run, clock},
    screen::Screen,
};

pub mod admin;
pub mod command;
pub mod complete;
pub mod connect;
pub mod context;
pub mod exit;
pub mod run;
pub mod screen;
pub mod show;

/// Does what the command line says, and tells how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    complete::answer();
    let matches = match command::tree().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(e) => {
            // Help goes to standard output and is no error; nobody is left when that is closed.
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage } else { Exit::AllWell }.code().into();
        }
    };
    let mut screen = Screen::of_process(matches.get_flag("no-color"), matches.get_flag("quiet"));
    let ended = dispatch(&matches, &mut screen);
    let exit = ended.unwrap_or_else(|problem| {
        if !problem.is_silent() {
            screen.tell(&format!("hostlerctl: {problem}"));
        }
        problem.exit
    });
    screen.clear();
    exit.code().into()
}

/// Does what was asked for.
///
/// # Errors
/// When it was not done; the problem says why.
pub fn dispatch(matches: &ArgMatches, screen: &mut Screen) -> Result<Exit, Problem> {
    let catalogue = Catalogue::embedded();
    let Some((name, inner)) = matches.subcommand() else {
        return Err(Problem::usage("no command was given").hint("see `hostlerctl help`"));
    };
    match (name, inner.subcommand()) {
        ("operations", _) => admin::catalogue::operations(catalogue, inner, screen),
        ("explain", _) => admin::catalogue::explain(catalogue, inner, screen),
        ("completion", _) => admin::catalogue::completion(inner, screen),
        ("help", _) => admin::catalogue::help(inner, screen),
        ("context", Some((verb, inner))) if verb != "renew" => {
            admin::contexts::run(verb, &Contexts::of_user()?, inner, screen)
        }
        _ => {
            // The main thread waits for input and output; the connection lives on the other.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .map_err(|e| Problem::new(Exit::Failed, format!("no runtime: {e}")))?;
            runtime.block_on(async {
                let _telemetry = telemetry::start("hostlerctl", Logs::None)
                    .map_err(|e| Problem::usage(e.to_string()))?;
                ask(catalogue, matches, screen).await
            })
        }
    }
}

/// Does what needs a controller.
async fn ask(
    catalogue: &'static Catalogue,
    matches: &ArgMatches,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let Some((name, inner)) = matches.subcommand() else {
        return Err(Problem::usage("no command was given").hint("see `hostlerctl help`"));
    };
    let clock = clock();
    let verb = inner.subcommand();
    let operation = verb
        .and_then(|(verb, inner)| Some((catalogue.get(&format!("{name}.{verb}")).ok()?, inner)));
    // What is wrong on the command line is said before anything is dialled.
    let run = match operation {
        Some((spec, inner)) => Some((spec, Run::read(spec, inner)?)),
        None => None,
    };
    let run = match (name, run) {
        ("diagnose", None) => {
            let spec = catalogue.get("host.diagnose").map_err(|e| Problem::usage(e.to_string()))?;
            Some((spec, Run::diagnose(spec, inner)?))
        }
        (_, run) => run,
    };
    if name == "status" {
        admin::hosts::of_all(inner)?;
    }
    if let ("context", Some((_, inner))) = (name, verb) {
        return admin::contexts::renew(&Contexts::of_user()?, inner, screen).await;
    }
    let asked = matches.get_one::<String>("context").map(String::as_str);
    let (name_of_context, context) = admin::contexts::chosen(&Contexts::of_user()?, asked)?;
    admin::contexts::warn(&name_of_context, &context, &*clock, screen);
    let controller = Controller::dial(&context, std::sync::Arc::clone(&clock)).await?;
    if let Some((spec, run)) = run {
        return run.carry_out(spec, &controller, &*clock, screen).await;
    }
    match (name, verb) {
        ("status", _) => {
            admin::hosts::show_status(&controller, (&context, &clock), inner, screen).await
        }
        ("hosts", _) => admin::hosts::show_hosts(&controller, inner, &*clock, screen).await,
        ("whoami", _) => admin::access::whoami(&controller, inner, screen).await,
        ("host", Some((verb, inner))) => {
            admin::hosts::host(verb, &controller, inner, &*clock, screen).await
        }
        ("audit", Some((verb, inner))) => {
            admin::audit::run(verb, &controller, inner, &*clock, screen).await
        }
        ("problems", _) => admin::health::problems(&controller, inner, screen).await,
        ("health", _) => admin::health::host(&controller, inner, screen).await,
        ("history", _) => admin::health::history(&controller, inner, screen).await,
        ("acknowledge", _) => admin::health::acknowledge(&controller, inner, screen).await,
        ("downtime", Some((verb, inner))) => {
            admin::health::downtime(verb, &controller, inner, &*clock, screen).await
        }
        ("cancel", _) => admin::cancel::run(&controller, inner, screen).await,
        ("token", Some((verb, inner))) => {
            admin::access::token(verb, &controller, inner, &*clock, screen).await
        }
        ("operator", Some((verb, inner))) => {
            admin::access::operator(verb, &controller, inner, screen).await
        }
        _ => Err(Problem::usage(format!("there is no command \"{name}\""))),
    }
}
