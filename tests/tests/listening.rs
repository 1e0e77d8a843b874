//! An agent that listens, for controllers that dial in and for nobody else.

use std::{fs, sync::Arc};

use hostler_core::{
    clock::SystemClock,
    dial::dial,
    tls::{Credentials, Expected, Protocol, Trust},
};
use hostler_tests::{
    fleet::{Fleet, Place},
    process::eventually,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An address of this test's own.
fn place() -> String {
    let pid = std::process::id();
    format!("127.8.{}.{}:7444", pid / 250 % 250, pid % 250 + 1)
}

#[test]
fn a_listening_agent_is_dialled_by_its_controller_alone_and_again_when_it_is_back() {
    let at = place();
    let dialled = format!("[dial]\n\"db-1\" = \"{at}\"");
    let mut fleet = Fleet::new(Place::Loopback, &dialled);
    fleet.join("db-1", &["role=db"], &format!("dial = false\nlisten = \"{at}\""));
    fleet.ctl(&["host", "facts", "--on", "db-1"]).exits(0);

    fleet.take_agent("db-1").stop();
    fleet.wait_for("db-1", "stopped");
    fleet.start_agent("db-1");
    fleet.wait_for("db-1", "up");
    assert!(
        fleet.host("db-1")["address"].as_str().is_some_and(|a| a == at),
        "{}",
        fleet.host("db-1")
    );
}

#[test]
fn a_controller_does_not_link_an_agent_that_answers_at_the_address_of_another() {
    let at = place();
    let mut fleet = Fleet::new(Place::Loopback, &format!("[dial]\n\"db-1\" = \"{at}\""));
    let listening = format!("dial = false\nlisten = \"{at}\"");
    fleet.configure("web-1", &listening);
    fleet.enroll("web-1", &fleet.token(&["--host", "web-1"])).expect("enrolled");
    fleet.start_agent("web-1");
    let refused = || fleet.controller().log().contains("an agent cannot be dialled");
    eventually("the controller refuses", refused);
    assert_ne!(fleet.host("web-1")["connection"], "up");
}

fn read(fleet: &Fleet, file: &str) -> toml::Table {
    let text = fs::read_to_string(fleet.path(file)).expect(file);
    text.parse().expect("TOML")
}

fn text(table: &toml::Table, key: &str) -> String {
    table[key].as_str().expect("a text").to_owned()
}

fn der(base64: &str) -> CertificateDer<'static> {
    data_encoding::BASE64.decode(base64.as_bytes()).expect("base64").into()
}

/// Who has which certificate: the controller, an operator, an agent that is enrolled.
fn members(fleet: &Fleet, agent: &str) -> [Arc<Credentials>; 3] {
    let made = |chain, key: String| Credentials::new(chain, &key).expect("credentials");
    let controller = read(fleet, "controller/fleet.toml");
    let operator = read(fleet, "admin.toml");
    let agent = read(fleet, &format!("state-{agent}/identity.toml"));
    let chain = text(&operator, "chain_pem");
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let own = agent["chain"].as_array().expect("a chain")[0].as_str().expect("a text");
    [
        made(vec![der(&text(&controller, "certificate"))], text(&controller, "key")),
        made(chain.expect("certificates"), text(&operator, "key_pem")),
        made(vec![der(own)], text(&agent, "key")),
    ]
}

#[tokio::test]
async fn a_listening_agent_says_nothing_to_operators_and_other_agents() {
    let at = place();
    let mut fleet = Fleet::new(Place::Loopback, "");
    fleet.join("web-1", &[], "");
    fleet.join("db-1", &[], &format!("listen = \"{at}\""));
    let authority = der(&text(&read(&fleet, "controller/fleet.toml"), "authority"));
    let name = "test".parse().expect("a name");
    let trust = Trust::new(name, [authority], Arc::new(SystemClock)).expect("trust");
    let agent = Expected::Exactly("spiffe://test/agent/db-1".parse().expect("an identity"));
    let [controller, operator, other] = members(&fleet, "web-1");
    for (who, credentials, welcome) in
        [("controller", controller, true), ("operator", operator, false), ("agent", other, false)]
    {
        let config = trust.dial(Protocol::Grpc, &credentials, agent.clone()).expect("dial");
        let mut stream = dial(&at, config).await.expect("it listens");
        // HTTP/2 begins with the settings of the server, whoever speaks first.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        let mut said = [0; 9];
        let heard = stream.read_exact(&mut said).await;
        assert_eq!(heard.is_ok(), welcome, "{who}: {heard:?}, {said:?}");
    }
    for who in ["operator/admin", "agent/web-1"] {
        let refused = format!("spiffe://test/{who} may not speak gRPC");
        eventually("the refusal is told", || fleet.agent("db-1").log().contains(&refused));
    }
}
