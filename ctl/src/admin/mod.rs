//! The commands that are not operations of hosts: the fleet's records, the audit, access, contexts
//! and help.

use clap::{Arg, Command};
use serde::Serialize;

use crate::{
    exit::Problem,
    screen::Screen,
    show::{
        Form, json,
        value::{self, Plain},
    },
};

pub mod access;
pub mod audit;
pub mod cancel;
pub mod catalogue;
pub mod contexts;
pub mod health;
pub mod hosts;
mod watch;

/// Every fixed command.
pub fn commands() -> Vec<Command> {
    let mut commands = hosts::commands();
    commands.extend(health::commands());
    commands.extend(catalogue::commands());
    commands.push(audit::command());
    commands.push(cancel::command());
    commands.extend(access::commands());
    commands.push(contexts::command());
    commands
}

/// A command that only holds others.
fn group(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
}

fn required(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).required(true).value_name(name.to_uppercase()).help(help)
}

/// `KEY=VALUE` as people type it.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

/// Text of a parameter, empty when it was not given.
fn text(matches: &clap::ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

/// A message of the contract that can be written for programs.
fn plain<M: prost::Message + prost::Name>(message: &M) -> Result<impl Serialize, Problem> {
    struct Owned(prost_reflect::DynamicMessage);
    impl Serialize for Owned {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Plain(&self.0).serialize(serializer)
        }
    }
    value::dynamic(message).map(Owned).ok_or_else(|| {
        let message = format!("{} is not in the contract", M::full_name());
        Problem::new(crate::exit::Exit::Failed, message)
    })
}

/// Shows a list: as a table, as names, or for programs.
fn list<M: prost::Message + prost::Name>(
    items: &[M],
    form: Form,
    screen: &mut Screen,
    table: impl FnOnce(&[M], bool) -> String,
    name: impl Fn(&M) -> &str,
) -> Result<(), Problem> {
    let text = match form {
        Form::Table | Form::Wide => table(items, form == Form::Wide),
        Form::Name => items.iter().map(|i| crate::screen::harmless(name(i)) + "\n").collect(),
        _ => {
            let items = items.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
            json::list(&items, form)?
        }
    };
    Ok(screen.data(&text)?)
}

/// Shows one thing: for people, for programs, or the names of what it is or holds.
fn one<'a, M: prost::Message + prost::Name>(
    item: &M,
    form: Form,
    screen: &mut Screen,
    page: impl FnOnce(bool) -> String,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), Problem> {
    let text = match form {
        Form::Table | Form::Wide => page(form == Form::Wide),
        Form::Name => names.into_iter().map(|n| crate::screen::harmless(n) + "\n").collect(),
        Form::Json | Form::Jsonl | Form::Yaml => json::document(&plain(item)?, form)?,
    };
    Ok(screen.data(&text)?)
}
