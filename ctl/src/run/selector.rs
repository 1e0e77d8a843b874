//! The selector of `--on`. The controller reads it; only lists that stand in a file or come in by
//! standard input are put together here.

use std::{
    fs,
    io::{self, Read},
};

use hostler_proto::name::HostName;

use crate::exit::Problem;

/// No list is longer; what is, is something else.
const MAX_BYTES: u64 = 4 << 20;

/// The selector for the controller: `@FILE` and `-` become the names that are listed there.
///
/// # Errors
/// When the list cannot be read, or is empty.
pub fn read(given: &str) -> Result<String, Problem> {
    let unreadable = |what: &str, e: &dyn std::fmt::Display| {
        Problem::usage(format!("the list of hosts {what} cannot be read: {e}"))
    };
    if given == "-" {
        return list("on standard input", io::stdin().lock(), unreadable);
    }
    match given.strip_prefix('@') {
        Some(path) => {
            let what = format!("in {path}");
            let file = fs::File::open(path).map_err(|e| unreadable(&what, &e))?;
            list(&what, file, unreadable)
        }
        None if given.trim().is_empty() => {
            Err(Problem::usage("--on is empty").hint("name hosts, or say --on all"))
        }
        None => Ok(given.to_owned()),
    }
}

/// The name of one host, where a selector could mean several.
///
/// # Errors
/// When it is none.
pub fn one_host(name: &str) -> Result<String, Problem> {
    let host: HostName = name.parse().map_err(|_| {
        Problem::usage(format!("\"{name}\" is no name of one host"))
            .hint("hosts that a selector matches are listed by `hostlerctl hosts --on … -o wide`")
    })?;
    Ok(host.to_string())
}

fn list(
    what: &str,
    source: impl Read,
    unreadable: impl Fn(&str, &dyn std::fmt::Display) -> Problem,
) -> Result<String, Problem> {
    let mut text = String::new();
    let length = source.take(MAX_BYTES + 1).read_to_string(&mut text);
    match length.map_err(|e| unreadable(what, &e))? as u64 {
        0..=MAX_BYTES => {}
        _ => return Err(unreadable(what, &"it is longer than 4 MiB")),
    }
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
    let names: Vec<_> =
        lines.flat_map(|l| l.split(',')).map(str::trim).filter(|n| !n.is_empty()).collect();
    if names.is_empty() {
        return Err(Problem::usage(format!("the list of hosts {what} is empty")));
    }
    // A list says which hosts, one by one: no line of it may come to mean the whole fleet.
    match names.iter().find(|name| name.parse::<HostName>().is_err()) {
        Some(other) => Err(Problem::usage(format!(
            "the list of hosts {what} holds \"{other}\", no host's name"
        ))
        .hint("patterns, labels and all are for --on itself")),
        None => Ok(names.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_a_file_may_have_lines_commas_and_remarks() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("hosts");
        fs::write(&path, "# the web tier\nweb-1, web-2\n\ndb-1  # primary\n").expect("write");
        let on = format!("@{}", path.display());
        assert_eq!(read(&on).expect("list"), "web-1,web-2,db-1");
        fs::write(&path, "# nobody\n").expect("write");
        assert!(read(&on).expect_err("empty").message.ends_with("is empty"));
    }

    #[test]
    fn a_list_holds_names_alone_and_never_the_whole_fleet() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("hosts");
        for line in ["all", "web-*", "role=db", "web-1 or db-1"] {
            fs::write(&path, format!("web-1\n{line}\n")).expect("write");
            let refused = read(&format!("@{}", path.display())).expect_err(line).to_string();
            assert!(refused.contains(&format!("holds \"{line}\"")), "{refused}");
        }
    }

    #[test]
    fn every_other_selector_is_left_to_the_controller() {
        assert_eq!(read("role=web and not web-3").expect("same"), "role=web and not web-3");
        assert!(read(" ").is_err());
    }
}
