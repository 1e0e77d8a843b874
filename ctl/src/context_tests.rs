//! What is kept on disk, and who can read it.

use hostler_core::{
    clock::{Clock, FixedClock},
    identity::Principal,
    pki::{Authority, Key},
};

use super::*;

/// A context with a real certificate, of an authority that nobody else knows.
fn context() -> Context {
    let clock = FixedClock::at("2026-03-29T00:00:00Z".parse().expect("time"));
    let day = std::time::Duration::from_secs(86_400);
    let fleet: FleetName = "prod".parse().expect("fleet");
    let ca_key = Key::generate().expect("key");
    let authority = Authority::new(fleet, ca_key, clock.now(), day).expect("authority");
    let key = Key::generate().expect("key");
    let request = key.request().expect("request");
    let alice = Principal::Operator("alice".parse().expect("name"));
    let leaf =
        authority.sign(&request, alice, &[], clock.id(), clock.now(), day).expect("certificate");
    Context {
        fleet: "prod".into(),
        addresses: vec!["controller.example.org:7443".into()],
        authority_pem: pem(authority.certificate()),
        chain_pem: pem(&leaf),
        key_pem: key.to_pem(),
    }
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[test]
fn a_context_is_read_back_as_it_was_written_and_only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("alice.toml");
    let context = context();
    context.write(&path).expect("write");
    assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    assert_eq!(Context::read(&path).expect("read"), context);
    assert_eq!(context.identity().expect("identity").to_string(), "spiffe://prod/operator/alice");
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing is left beside it");
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("alice.toml");
    context().write(&path).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    let error = Context::read(&path).expect_err("exposed");
    assert!(matches!(error, ContextError::Exposed(_)));
    assert_eq!(error.advice(), format!("chmod 600 {}", path.display()));
}

#[test]
fn nothing_of_a_key_is_ever_shown() {
    let context = context();
    assert!(!format!("{context:?}").contains("PRIVATE"));
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("broken.toml");
    let text = toml::to_string(&context).expect("toml").replace("fleet =", "flet =");
    replace(&path, text.as_bytes()).expect("write");
    let error = Context::read(&path).expect_err("no fleet").to_string();
    assert!(error.contains("missing field `fleet`") && !error.contains("PRIVATE"), "{error}");
}

#[test]
fn a_context_whose_key_is_not_that_of_its_certificate_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("mixed.toml");
    let other = Key::generate().expect("key").to_pem();
    Context { key_pem: other, ..context() }.write(&path).expect("write");
    assert!(matches!(Context::read(&path), Err(ContextError::Malformed { .. })));
}

#[test]
fn the_first_context_becomes_the_current_one_and_a_removed_one_is_forgotten() {
    let dir = tempfile::tempdir().expect("dir");
    let contexts = Contexts::at(dir.path().join("hostler"));
    assert!(matches!(contexts.current(), Err(ContextError::None)));
    let context = context();
    contexts.add("prod", &context).expect("first");
    contexts.add("lab", &context).expect("second");
    assert_eq!(contexts.names().expect("names"), ["lab", "prod"]);
    assert_eq!(contexts.current().expect("current"), "prod");
    assert!(matches!(contexts.add("lab", &context), Err(ContextError::Exists(_))));
    contexts.choose("lab").expect("choose");
    assert_eq!(contexts.current().expect("current"), "lab");
    assert_eq!(contexts.get("lab").expect("get"), context);
    contexts.remove("lab").expect("remove");
    assert_eq!(contexts.current().expect("the only one"), "prod");
    assert!(matches!(contexts.get("lab"), Err(ContextError::Unknown(_))));
}

#[test]
fn a_name_cannot_lead_out_of_the_directory() {
    let contexts = Contexts::at("/nonexistent");
    for name in ["../x", "a/b", "", ".hidden", "a b"] {
        assert!(matches!(contexts.get(name), Err(ContextError::Name(_))), "{name}");
    }
}
