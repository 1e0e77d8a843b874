//! The tree of commands. What is fixed stands here; one command for every operation is made from
//! the catalogue.

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{PossibleValuesParser, ValueParser},
    value_parser,
};
use clap_complete::engine::ArgValueCompleter;
use hostler_proto::{
    args::MAX_LIST,
    catalogue::{Catalogue, OperationSpec, Parameter},
    wire::{Effect, Kind},
};
use prost_reflect::Kind as FieldKind;

use crate::{admin, complete, exit::Problem, show::value};

/// Flags that every operation has. A parameter of the same name keeps its full name alone.
pub const COMMON: [&str; 12] = [
    "on", "output", "plan", "yes", "timeout", "parallel", "reason", "no-color", "quiet", "context",
    "help", "version",
];

/// The whole tree. The commands of a domain are made when one of them is asked for: there are hundreds
/// of flags, and a command line needs those of one operation.
pub fn tree() -> Command {
    let mut root = Command::new("hostlerctl")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Looks after fleets of hosts: runs probes and actions on one host, some, or all.")
        .after_help(
            "`hostlerctl operations` lists every operation, `hostlerctl explain OPERATION` tells \
             all about one,\n`hostlerctl help exit-codes` what the exit status means.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
        .arg(
            Arg::new("context")
                .long("context")
                .value_name("NAME")
                .global(true)
                .help("Fleet and operator to use; also HOSTLER_CONTEXT")
                .add(ArgValueCompleter::new(complete::contexts))
                .help_heading("General"),
        )
        .arg(switch("no-color", "Never colour the output; also NO_COLOR").global(true))
        .arg(switch("quiet", "Only data and errors").short('q').global(true));
    for command in admin::commands() {
        root = root.subcommand(command.display_order(1));
    }
    for (domain, help) in Catalogue::domains() {
        let help = sentence(&help);
        root = match root.find_subcommand(domain) {
            // The domain `host` and the commands about a host's record are one to the operator.
            Some(_) => root.mut_subcommand(domain, |c| {
                c.defer(verbs).about(format!("{help}; its record in the fleet"))
            }),
            None => root.subcommand(
                Command::new(domain)
                    .about(help)
                    .subcommand_required(true)
                    .arg_required_else_help(true)
                    .disable_help_subcommand(true)
                    .display_order(2)
                    .defer(verbs),
            ),
        };
    }
    root
}

/// Adds the operations of the domain that a command is named after.
fn verbs(domain: Command) -> Command {
    match Catalogue::embedded().domain(domain.get_name()) {
        Ok(operations) => {
            let verbs: Vec<_> = operations.iter().map(|o| operation(o)).collect();
            domain.subcommands(verbs)
        }
        // Tests exclude it; a command line without these commands says that they are unknown.
        Err(_) => domain,
    }
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help).help_heading("General")
}

/// The flag `-o`.
pub fn output() -> Arg {
    Arg::new("output")
        .short('o')
        .long("output")
        .value_name("FORM")
        .value_parser(PossibleValuesParser::new(["table", "wide", "json", "jsonl", "yaml", "name"]))
        .default_value("table")
        .help("Form of the data on standard output")
        .help_heading("General")
}

/// The flag `--on`.
pub fn on() -> Arg {
    Arg::new("on")
        .long("on")
        .value_name("HOSTS")
        .help(
            "Hosts: names, patterns (web-*), labels (role=web), all; @FILE and - read a list of \
             names",
        )
        .add(ArgValueCompleter::new(complete::hosts))
}

/// The flag `--yes`.
pub fn yes() -> Arg {
    Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("Do not ask for confirmation")
}

/// A flag that takes a time span.
pub fn span(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("TIME")
        .value_parser(ValueParser::from(value::span))
        .help(help)
}

fn operation(spec: &OperationSpec) -> Command {
    let mut long = spec.help.clone();
    long.push_str(&format!("\n\nEffect: {}. Cost: {}.", effect(spec.effect), spec.cost));
    let mut command = Command::new(spec.verb.clone())
        .about(sentence(&spec.help))
        .long_about(long)
        .override_usage(usage(spec))
        .after_help(format!("Example: hostlerctl {}", spec.example));
    for parameter in &spec.parameters {
        if parameter.options.positional {
            command = command.arg(positional(parameter));
        }
        command = command.arg(flag(parameter));
    }
    let run = "Run";
    command = command.arg(on().required(true).help_heading(run)).arg(output());
    if spec.kind == Kind::Action {
        let plan = Arg::new("plan").long("plan").action(ArgAction::SetTrue);
        let help = "Show what would be done, and change nothing";
        command = command.arg(plan.help(help).help_heading(run));
        // Nothing else asks; a script that says it everywhere is right all the same.
        let asks = spec.effect == Effect::Destructive;
        command = command.arg(yes().hide(!asks).help_heading(run));
    }
    let deadline = format!(
        "Longest for each host [default: {}]",
        value::duration(spec.deadline.as_secs_f64())
    );
    command
        .arg(span("timeout", "").help(deadline).help_heading(run))
        .arg(
            Arg::new("parallel")
                .long("parallel")
                .value_name("HOSTS")
                .value_parser(value_parser!(u32).range(1..=10_000))
                .help("Hosts at a time [default: the controller's own bound]")
                .help_heading(run),
        )
        .arg(
            Arg::new("reason")
                .long("reason")
                .value_name("TEXT")
                .help("Why; goes into the audit")
                .help_heading(run),
        )
}

/// The line that shows what must be given. Made here because a positional parameter that must be
/// given may be named instead, which would make it look optional.
fn usage(spec: &OperationSpec) -> String {
    let mut usage = format!("hostlerctl {} {} [OPTIONS] --on <HOSTS>", spec.domain, spec.verb);
    for parameter in &spec.parameters {
        let name = parameter.name.to_uppercase();
        let more = if parameter.field.is_list() { "..." } else { "" };
        usage.push_str(&match (parameter.options.required, parameter.options.positional) {
            (true, true) => format!(" <{name}>{more}"),
            (false, true) => format!(" [{name}]{more}"),
            (true, false) => format!(" --{} <{}>", typed_name(parameter), value_name(parameter)),
            (false, false) => continue,
        });
    }
    usage
}

/// How an operation's effect is told.
pub fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Unspecified => "not stated",
        Effect::Read => "reads only",
        Effect::Safe => "changes something that no user notices",
        Effect::Disruptive => "users of a service may notice",
        Effect::Destructive => "data can be lost",
    }
}

/// The first sentence, without its full stop, as lists of commands show it.
fn sentence(help: &str) -> String {
    let end = help.find(". ").unwrap_or(help.len());
    help[..end].trim_end_matches('.').to_owned()
}

/// The flag's name as it is typed: a parameter in seconds takes any unit, so its own is left out.
pub fn typed_name(parameter: &Parameter) -> &str {
    match parameter.name.strip_suffix("-s") {
        Some(short) if parameter.options.unit == "s" && !COMMON.contains(&short) => short,
        _ => &parameter.name,
    }
}

fn positional_id(parameter: &Parameter) -> String {
    format!("positional:{}", parameter.name)
}

fn flag_id(parameter: &Parameter) -> String {
    format!("flag:{}", parameter.name)
}

fn positional(parameter: &Parameter) -> Arg {
    let list = parameter.field.is_list();
    let arg = Arg::new(positional_id(parameter))
        .value_name(parameter.name.to_uppercase())
        .help(help(parameter))
        .num_args(0..=if list { MAX_LIST } else { 1 })
        .action(if list { ArgAction::Append } else { ArgAction::Set });
    match parameter.options.required {
        true => arg.required_unless_present(flag_id(parameter)),
        false => arg,
    }
}

fn flag(parameter: &Parameter) -> Arg {
    let name = typed_name(parameter).to_owned();
    let mut arg = Arg::new(flag_id(parameter)).help(help(parameter)).help_heading("Parameters");
    if name != parameter.name {
        arg = arg.alias(parameter.name.clone());
    }
    arg = arg.long(name);
    if parameter.options.positional {
        // It is shown as an argument; the flag is for those who like to name things.
        arg = arg.hide(true);
    } else {
        arg = arg.required(parameter.options.required);
    }
    if parameter.field.kind() == FieldKind::Bool {
        return arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
            .hide_possible_values(true)
            .value_parser(PossibleValuesParser::new(["true", "false"]));
    }
    if !parameter.options.one_of.is_empty() {
        arg = arg.value_parser(PossibleValuesParser::new(parameter.options.one_of.clone()));
    }
    arg.value_name(value_name(parameter))
        .allow_negative_numbers(true)
        .action(if parameter.field.is_list() { ArgAction::Append } else { ArgAction::Set })
}

fn value_name(parameter: &Parameter) -> &'static str {
    match (parameter.options.unit.as_str(), parameter.type_name()) {
        ("s", _) => "TIME",
        ("bytes", _) => "SIZE",
        (_, "whole number" | "number") => "NUMBER",
        _ => "TEXT",
    }
}

/// The parameter's comment, with its bounds and default.
pub fn help(parameter: &Parameter) -> String {
    let options = &parameter.options;
    let mut text = parameter.help.trim_end_matches('.').to_owned();
    let unit = match options.unit.as_str() {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    match (options.min, options.max) {
        (Some(min), Some(max)) => text.push_str(&format!(" [{min} to {max}{unit}]")),
        (Some(min), None) => text.push_str(&format!(" [at least {min}{unit}]")),
        (None, Some(max)) => text.push_str(&format!(" [at most {max}{unit}]")),
        (None, None) => {}
    }
    if !options.default.is_empty() {
        text.push_str(&format!(" [default: {}]", options.default));
    }
    text
}

/// The request of an operation's command, checked as the host will check it, and encoded.
///
/// # Errors
/// Names the first parameter that is missing or wrong.
pub fn request(spec: &OperationSpec, matches: &ArgMatches) -> Result<Vec<u8>, Problem> {
    let mut given: Vec<(&str, &str)> = Vec::new();
    for parameter in &spec.parameters {
        let ids = [positional_id(parameter), flag_id(parameter)];
        for values in ids.iter().filter_map(|id| matches.try_get_many::<String>(id).ok().flatten())
        {
            given.extend(values.map(|v| (parameter.name.as_str(), v.as_str())));
        }
    }
    let message = hostler_proto::args::from_text(spec, given)?;
    Ok(prost::Message::encode_to_vec(&message))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
