//! The command line as people type it.

use std::sync::Arc;

use clap::error::ErrorKind;
use prost_reflect::DynamicMessage;

use super::*;
use crate::{exit::Exit, run::Run};

fn all() -> Vec<&'static Arc<OperationSpec>> {
    Catalogue::embedded().all().expect("a catalogue")
}

/// Words as a shell splits them, as far as examples need it: quotes hold blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().expect("one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse(line: &str) -> Result<(Arc<OperationSpec>, ArgMatches), String> {
    let arguments = std::iter::once("hostlerctl".to_owned()).chain(words(line));
    let matches = tree().try_get_matches_from(arguments).map_err(|e| e.render().to_string())?;
    let (domain, inner) = matches.subcommand().expect("domain");
    let (verb, inner) = inner.subcommand().expect("verb");
    let spec = Catalogue::embedded().get(&format!("{domain}.{verb}")).map_err(|e| e.to_string())?;
    Ok((Arc::clone(spec), inner.clone()))
}

fn json(line: &str) -> serde_json::Value {
    let (spec, matches) = parse(line).expect(line);
    let bytes = request(&spec, &matches).expect(line);
    let message = DynamicMessage::decode(spec.request.clone(), bytes.as_slice()).expect("request");
    hostler_proto::args::to_json(&spec, &message)
}

fn help_of(path: &[&str]) -> String {
    let mut root = tree().term_width(100);
    root.build();
    let mut command = &mut root;
    for word in path {
        command = command.find_subcommand_mut(word).expect("command");
    }
    command.render_long_help().to_string()
}

#[test]
fn the_tree_of_commands_is_consistent() {
    tree().debug_assert();
}

#[test]
fn the_example_of_every_operation_can_be_typed_as_it_stands() {
    for spec in all() {
        let (parsed, matches) = parse(&spec.example).expect(&spec.example);
        assert_eq!(parsed.name, spec.name, "{}", spec.example);
        Run::read(&parsed, &matches).expect(&spec.example);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what splits the line is a shell")]
fn what_to_type_next_is_taken_by_a_shell_and_by_this_program_as_it_was_meant() {
    for (next, field, value) in [
        ("logs tail /opt/omnidoc/logs/*.log --match error", "path", "/opt/omnidoc/logs/*.log"),
        (r"systemd status my\x2dapp.service", "unit", r"my\x2dapp.service"),
        (r"journal read --unit my\x2dapp@1.service --lines 50", "unit", r"my\x2dapp@1.service"),
        ("disk tree '/srv/$HOME of it; (x) & y'", "path", "/srv/$HOME of it; (x) & y"),
        ("disk tree /srv", "path", "/srv"),
    ] {
        let line = hostler_proto::finding::command_line(next, "web-1");
        let script = format!("set -- {line}; printf '%s\\n' \"$@\"");
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output();
        let words = String::from_utf8(output.expect("a shell").stdout).expect("text");
        let matches = tree().try_get_matches_from(words.lines()).expect(&line);
        let (domain, inner) = matches.subcommand().expect("domain");
        let (verb, inner) = inner.subcommand().expect("verb");
        let spec = Catalogue::embedded().get(&format!("{domain}.{verb}")).expect(&line);
        Run::read(spec, inner).expect(&line);
        let bytes = request(spec, inner).expect(&line);
        let message = DynamicMessage::decode(spec.request.clone(), bytes.as_slice());
        let json = hostler_proto::args::to_json(spec, &message.expect("request"));
        assert!(json[field].to_string().contains(&serde_json::json!(value).to_string()), "{json}");
        assert_eq!(inner.get_one::<String>("on").map(String::as_str), Some("web-1"), "{line}");
    }
}

#[test]
fn a_parameter_in_seconds_may_be_typed_with_and_without_its_unit() {
    for line in [
        "host processes --interval 5s --on all",
        "host processes --interval-s 5 --on all",
        "host processes --interval=5 --on all",
    ] {
        assert_eq!(json(line)["interval-s"], 5, "{line}");
    }
}

#[test]
fn a_parameter_never_hides_a_flag_that_every_operation_has() {
    assert_eq!(json("http check https://x --timeout-s 7 --timeout 20s --on all")["timeout-s"], 7);
    for spec in all() {
        for parameter in &spec.parameters {
            assert!(!COMMON.contains(&typed_name(parameter)), "{} {}", spec.name, parameter.name);
        }
    }
}

#[test]
fn a_positional_parameter_may_be_named_too() {
    let expected = serde_json::json!(["nginx", "redis"]);
    assert_eq!(json("systemd status nginx redis --on all")["unit"], expected);
    assert_eq!(json("systemd status --unit nginx --unit redis --on all")["unit"], expected);
    assert_eq!(json("systemd restart --unit nginx --on all")["unit"], "nginx");
}

#[test]
fn a_switch_is_on_when_it_is_named() {
    assert_eq!(json("logs tail /a --follow --on all")["follow"], true);
    assert_eq!(json("logs tail /a --on all").get("follow"), None);
}

#[test]
fn nothing_is_sent_when_a_parameter_is_wrong() {
    let (spec, matches) = parse("host processes --top 900 --on all").expect("words");
    let problem = Run::read(&spec, &matches).expect_err("too many");
    assert_eq!(problem.exit, Exit::Usage);
    assert_eq!(problem.to_string(), "--top 900: must be at most 200 processes");
}

#[test]
fn an_operation_says_on_which_hosts_or_is_refused() {
    assert!(parse("disk usage").expect_err("no hosts").contains("--on <HOSTS>"));
    assert!(parse("systemd restart --on all").expect_err("no unit").contains("UNIT"));
}

#[test]
fn only_actions_have_a_plan() {
    assert!(parse("systemd restart nginx --on all --plan").is_ok());
    assert!(parse("disk usage --on all --plan").is_err());
}

#[test]
fn a_document_that_never_ends_is_refused() {
    let (spec, matches) = parse("logs tail /a --follow --on all -o json").expect("words");
    assert!(Run::read(&spec, &matches).expect_err("endless").hint.contains("jsonl"));
    let (spec, matches) = parse("logs tail /a --follow --on all -o jsonl").expect("words");
    assert!(Run::read(&spec, &matches).is_ok());
}

#[test]
fn no_domain_of_operations_hides_another_command() {
    let fixed: Vec<_> = admin::commands().iter().map(|c| c.get_name().to_owned()).collect();
    for spec in all() {
        if spec.domain == "host" {
            assert!(
                !["show", "label", "revoke", "remove"].contains(&spec.verb.as_str()),
                "{}",
                spec.name
            );
        } else {
            assert!(!fixed.contains(&spec.domain), "{}", spec.name);
        }
    }
}

#[test]
fn help_of_the_whole_is_one_page() {
    insta::assert_snapshot!(help_of(&[]));
}

#[test]
fn help_of_an_operation_comes_from_the_catalogue() {
    insta::assert_snapshot!(help_of(&["systemd", "restart"]));
    insta::assert_snapshot!(help_of(&["host", "processes"]));
}

#[test]
fn the_records_of_a_host_and_its_operations_are_one_command() {
    insta::assert_snapshot!(help_of(&["host"]));
}

/// The command lines of a page: those of its blocks, which are whole, and those within its text.
fn typed(page: &str) -> Vec<(String, bool)> {
    let mut lines = Vec::new();
    for line in page.lines() {
        if let Some(block) = line.strip_prefix("    ") {
            let block = block.trim_start().trim_start_matches("$ ").trim_start_matches("next: ");
            let ends = [" #", " > ", " | "];
            for part in block.split(" && ").flat_map(|part| part.split("; ")) {
                let end = ends.iter().filter_map(|end| part.find(end)).min();
                lines.push((part[..end.unwrap_or(part.len())].trim().to_owned(), true));
            }
        } else {
            lines.extend(line.split('`').skip(1).step_by(2).map(|c| (c.to_owned(), false)));
        }
    }
    lines.retain(|(line, _)| line.starts_with("hostlerctl "));
    lines
}

#[test]
fn what_the_pages_say_to_type_can_be_typed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut pages = vec![root.join("README.md")];
    pages.extend(std::fs::read_dir(root.join("docs")).expect("docs").map(|e| e.expect("e").path()));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages {
        for (line, whole) in typed(&std::fs::read_to_string(&page).expect("a page")) {
            seen += 1;
            let said = match tree().try_get_matches_from(words(&line)) {
                Ok(matches) => refused(&matches),
                // What is only named in a text may leave out what belongs to it.
                Err(error)
                    if !whole
                        && matches!(
                            error.kind(),
                            ErrorKind::MissingRequiredArgument
                                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        ) =>
                {
                    None
                }
                Err(error) => Some(error.render().to_string()),
            };
            wrong.extend(said.map(|said| format!("{}: {line}: {said}", page.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 200, "{seen}");
}

/// Why an operation would not be sent.
fn refused(matches: &ArgMatches) -> Option<String> {
    let (domain, inner) = matches.subcommand()?;
    let (verb, inner) = inner.subcommand()?;
    let spec = Catalogue::embedded().get(&format!("{domain}.{verb}")).ok()?;
    Run::read(spec, inner).err().map(|problem| problem.to_string())
}
