//! Handshakes over memory, each refused for one reason. Included by [`super`] as its tests.

use std::sync::Arc;

use hostler_proto::name::HostName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{
    clock::FixedClock,
    pki::{Authority, Key},
};

const DAY: Duration = Duration::from_secs(86_400);

struct Fleet {
    clock: FixedClock,
    authority: Authority,
}

impl Fleet {
    fn new(name: &str) -> Self {
        let clock = FixedClock::at("2026-01-01T00:00:00Z".parse().expect("time"));
        let key = Key::generate().expect("key");
        let name = name.parse().expect("fleet");
        let authority = Authority::new(name, key, clock.now(), DAY * 3650).expect("authority");
        Self { clock, authority }
    }

    fn trust(&self) -> Trust {
        let fleet = self.authority.fleet().clone();
        let clock = Arc::new(self.clock.clone());
        Trust::new(fleet, [self.authority.certificate().clone()], clock).expect("trust")
    }

    fn issue(&self, principal: Principal) -> Arc<Credentials> {
        let key = Key::generate().expect("key");
        let request = key.request().expect("request");
        let (id, now) = (self.clock.id(), self.clock.now());
        let leaf = self.authority.sign(&request, principal, &[], id, now, DAY * 30).expect("leaf");
        let chain = vec![leaf, self.authority.certificate().clone()];
        Credentials::new(chain, &key.to_pem()).expect("credentials")
    }

    fn controller(&self) -> Arc<Credentials> {
        self.issue(Principal::Controller("main".parse().expect("name")))
    }

    fn agent(&self) -> Arc<Credentials> {
        self.issue(Principal::Agent("web-1".parse::<HostName>().expect("name")))
    }

    fn operator(&self) -> Arc<Credentials> {
        self.issue(Principal::Operator("alice".parse().expect("name")))
    }

    fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        self.trust().accept(protocol, &self.controller(), DAY * 7).expect("accept")
    }

    fn client(&self, protocol: Protocol, credentials: &Arc<Credentials>) -> Arc<ClientConfig> {
        self.trust().dial(protocol, credentials, Expected::Controller).expect("dial")
    }
}

/// What the server's side makes of the peer after a byte went both ways, or why it did not.
async fn handshake(
    trust: &Trust,
    protocol: Protocol,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> Result<CertificateFacts, String> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("controller").expect("name");
    let dial = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"?").await?;
        // With TLS 1.3 a client learns only here that its certificate was refused.
        stream.read_u8().await
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let (_, connection) = stream.get_ref();
        Ok::<_, std::io::Error>(trust.peer(protocol, connection.peer_certificates()))
    };
    let (dialled, accepted) = tokio::join!(dial, accept);
    match (dialled, accepted) {
        (Ok(_), Ok(peer)) => peer.map_err(|e| e.to_string()),
        (dialled, accepted) => {
            let errors = [dialled.err(), accepted.err()];
            Err(errors.into_iter().flatten().map(|e| e.to_string()).collect::<Vec<_>>().join("; "))
        }
    }
}

#[tokio::test]
async fn each_kind_of_peer_is_let_in_by_its_own_protocol_and_no_other() {
    let fleet = Fleet::new("prod");
    let peers = [(fleet.agent(), "agent"), (fleet.operator(), "operator")];
    for (protocol, wanted) in
        [(Protocol::Link, "agent"), (Protocol::Renew, "agent"), (Protocol::Grpc, "operator")]
    {
        for (credentials, role) in &peers {
            let client = fleet.client(protocol, credentials);
            let trust = fleet.trust();
            let result = handshake(&trust, protocol, fleet.server(protocol), client).await;
            match result {
                Ok(facts) => {
                    assert_eq!(*role, wanted, "{protocol}");
                    assert!(facts.identity.to_string().contains(role));
                }
                Err(error) => {
                    assert_ne!(*role, wanted, "{protocol}: {error}");
                    assert!(error.contains("may not speak"), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused_by_both_sides() {
    let (ours, theirs) = (Fleet::new("prod"), Fleet::new("prod"));
    let server = ours.server(Protocol::Link);
    // The stranger trusts our authority, so that only our side can refuse.
    let client = ours.client(Protocol::Link, &theirs.agent());
    let error = handshake(&ours.trust(), Protocol::Link, server, client).await.expect_err("CA");
    assert!(error.contains("certificate"), "{error}");
    let client = ours.client(Protocol::Link, &ours.agent());
    let server = theirs.server(Protocol::Link);
    assert!(handshake(&theirs.trust(), Protocol::Link, server, client).await.is_err());
}

#[tokio::test]
async fn a_peer_of_another_fleet_under_the_same_authority_is_refused() {
    let fleet = Fleet::new("prod");
    let clock = Arc::new(fleet.clock.clone());
    let other = "stage".parse().expect("fleet");
    let other = Trust::new(other, [fleet.authority.certificate().clone()], clock).expect("trust");
    let client = fleet.client(Protocol::Link, &fleet.agent());
    let error = handshake(&other, Protocol::Link, fleet.server(Protocol::Link), client).await;
    assert_eq!(
        error.expect_err("other fleet"),
        "the peer belongs to fleet prod, and this is stage"
    );
}

#[tokio::test]
async fn a_certificate_counts_only_between_its_beginning_and_its_end() {
    let fleet = Fleet::new("prod");
    let agent = fleet.agent();
    let attempt = async |fleet: &Fleet| {
        let server = fleet.server(Protocol::Link);
        let client = fleet.client(Protocol::Link, &agent);
        handshake(&fleet.trust(), Protocol::Link, server, client).await
    };
    attempt(&fleet).await.expect("in its life");
    fleet.clock.advance(DAY * 31);
    let error = attempt(&fleet).await.expect_err("expired");
    assert!(error.contains("xpired"), "{error}");

    let early = FixedClock::at("2025-12-01T00:00:00Z".parse().expect("time"));
    let trust = Trust { clock: Arc::new(early), ..fleet.trust() };
    let server = trust.accept(Protocol::Link, &fleet.controller(), DAY).expect("accept");
    let client = fleet.client(Protocol::Link, &fleet.agent());
    let error = handshake(&trust, Protocol::Link, server, client).await.expect_err("not yet");
    assert!(error.contains("not valid yet"), "{error}");
}

#[tokio::test]
async fn an_expired_agent_may_renew_within_the_grace_and_not_after() {
    let fleet = Fleet::new("prod");
    let agent = fleet.agent();
    for (later, accepted) in [(31, true), (5, true), (3, false)] {
        fleet.clock.advance(DAY * later);
        let server = fleet.server(Protocol::Renew);
        let client = fleet.client(Protocol::Renew, &agent);
        let result = handshake(&fleet.trust(), Protocol::Renew, server, client).await;
        assert_eq!(result.is_ok(), accepted, "{result:?}");
        let (server, client) = (fleet.server(Protocol::Link), fleet.client(Protocol::Link, &agent));
        assert!(handshake(&fleet.trust(), Protocol::Link, server, client).await.is_err());
    }
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_can_be_reached() {
    let fleet = Fleet::new("prod");
    let clock: Arc<dyn Clock> = Arc::new(fleet.clock.clone());
    let pin = Fingerprint::of(fleet.authority.certificate());
    for protocol in Protocol::ALL {
        let mut client = (*dial_pinned(pin, Arc::clone(&clock)).expect("dial")).clone();
        client.alpn_protocols = vec![protocol.alpn().to_vec()];
        let result =
            handshake(&fleet.trust(), protocol, fleet.server(protocol), Arc::new(client)).await;
        let error = result.expect_err("no identity");
        // Enrolment gets through the handshake, and then has no identity to show.
        let through = error == TlsError::NoCertificate.to_string();
        assert_eq!(through, protocol == Protocol::Enroll, "{protocol}: {error}");
    }
}

#[tokio::test]
async fn an_enrolling_host_refuses_a_controller_whose_authority_is_not_the_pinned_one() {
    let (ours, impostor) = (Fleet::new("prod"), Fleet::new("prod"));
    let pin = Fingerprint::of(ours.authority.certificate());
    let client = dial_pinned(pin, Arc::new(ours.clock.clone())).expect("dial");
    let server = impostor.server(Protocol::Enroll);
    let error = handshake(&ours.trust(), Protocol::Enroll, server, client).await;
    assert!(error.expect_err("impostor").contains("UnknownIssuer"));

    // An agent of the right fleet that poses as a controller is no better.
    let trust = ours.trust();
    let server = trust.accept(Protocol::Enroll, &ours.agent(), DAY).expect("accept");
    let client = dial_pinned(pin, Arc::new(ours.clock.clone())).expect("dial");
    assert!(handshake(&trust, Protocol::Enroll, server, client).await.is_err());
}

#[tokio::test]
async fn an_agent_refuses_another_agent_that_poses_as_its_controller() {
    let fleet = Fleet::new("prod");
    let server = fleet.trust().accept(Protocol::Link, &fleet.agent(), DAY).expect("accept");
    let client = fleet.client(Protocol::Link, &fleet.agent());
    let error = handshake(&fleet.trust(), Protocol::Link, server, client).await;
    assert!(error.expect_err("no controller").contains("NotValidForName"));
}

#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let fleet = Fleet::new("prod");
    let mut client = (*fleet.client(Protocol::Link, &fleet.agent())).clone();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let server = fleet.server(Protocol::Link);
    let result = handshake(&fleet.trust(), Protocol::Link, server, Arc::new(client)).await;
    assert!(result.expect_err("ALPN").to_lowercase().contains("applicationprotocol"));
    assert_eq!(Protocol::choose([b"http/1.1".as_slice()]), None);
}

#[tokio::test]
async fn tls_1_2_and_plaintext_are_refused() {
    let fleet = Fleet::new("prod");
    // A hello without the extension in which a client offers TLS 1.3: what comes is TLS 1.2.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 22]);
    hello.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0]);
    let length = u8::try_from(hello.len()).expect("short");
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(&record).await.expect("write");
    let refused = TlsAcceptor::from(fleet.server(Protocol::Grpc)).accept(far).await;
    let refused = refused.expect_err("TLS 1.2").to_string();
    assert!(refused.contains("SupportedVersionsExtensionRequired"), "{refused}");

    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
    let accepted = TlsAcceptor::from(fleet.server(Protocol::Grpc)).accept(far).await;
    assert!(accepted.is_err());
}

#[tokio::test]
async fn both_ends_agree_on_a_key_exchange_that_a_quantum_computer_does_not_break() {
    let fleet = Fleet::new("prod");
    let (near, far) = tokio::io::duplex(64 << 10);
    let client = TlsConnector::from(fleet.client(Protocol::Link, &fleet.agent()));
    let name = ServerName::try_from("controller").expect("name");
    let accept = TlsAcceptor::from(fleet.server(Protocol::Link)).accept(far);
    let (dialled, accepted) = tokio::join!(client.connect(name, near), accept);
    let (dialled, accepted) = (dialled.expect("dialled"), accepted.expect("accepted"));
    let groups = [
        dialled.get_ref().1.negotiated_key_exchange_group(),
        accepted.get_ref().1.negotiated_key_exchange_group(),
    ];
    for group in groups {
        assert_eq!(group.expect("a group").name(), rustls::NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_by_the_next_handshake() {
    let fleet = Fleet::new("prod");
    let agent = fleet.agent();
    fleet.clock.advance(DAY * 31);
    let key = Key::generate().expect("key");
    let request = key.request().expect("request");
    let host = Principal::Agent("web-1".parse().expect("name"));
    let (id, now) = (fleet.clock.id(), fleet.clock.now());
    let leaf = fleet.authority.sign(&request, host, &[], id, now, DAY).expect("leaf");
    agent.replace(vec![leaf], &key.to_pem()).expect("replaced");
    let (server, client) = (fleet.server(Protocol::Link), fleet.client(Protocol::Link, &agent));
    handshake(&fleet.trust(), Protocol::Link, server, client).await.expect("renewed");
    let other = Key::generate().expect("key");
    let chain = agent.current().cert.clone();
    assert!(agent.replace(chain, &other.to_pem()).is_err(), "a key that is not the certificate's");
}
