use hostler_core::{
    clock::{Clock, SystemClock},
    identity::Principal,
    pki::{Authority, Fingerprint, Key},
    tls::{Expected, dial_pinned},
};
use jiff::Timestamp;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Takes everybody in, lets nobody stay, and tells why somebody was refused.
#[derive(Debug, Clone)]
struct Hall(mpsc::UnboundedSender<String>);

impl Reception for Hall {
    async fn receive(
        &self,
        _: Protocol,
        _: Option<CertificateFacts>,
        mut stream: TlsStream<TcpStream>,
        _: SocketAddr,
    ) {
        let _ = stream.write_all(b"welcome").await;
        let _ = stream.shutdown().await;
    }

    fn refused(&self, why: &Refused) {
        let _ = self.0.send(why.to_string());
    }
}

/// An authority, and whom it vouches for.
struct Fleet(Authority);

impl Fleet {
    fn new(name: &str) -> Self {
        let (name, key) = (name.parse().expect("a name"), Key::generate().expect("key"));
        let (now, life) = (SystemClock.now() - DAY * 30, DAY * 60);
        Self(Authority::new(name, key, now, life).expect("authority"))
    }

    /// Credentials whose certificate counts for a day from then on.
    fn counting_from(&self, then: Timestamp, principal: Principal) -> Arc<Credentials> {
        let key = Key::generate().expect("key");
        let (request, id) = (key.request().expect("request"), SystemClock.id());
        let leaf = self.0.sign(&request, principal, &[], id, then, DAY).expect("leaf");
        let chain = vec![leaf, self.0.certificate().clone()];
        Credentials::new(chain, &key.to_pem()).expect("credentials")
    }

    fn issue(&self, principal: Principal) -> Arc<Credentials> {
        self.counting_from(SystemClock.now(), principal)
    }

    fn trust(&self) -> Trust {
        let (fleet, root) = (self.0.fleet().clone(), self.0.certificate().clone());
        Trust::new(fleet, [root], Arc::new(SystemClock)).expect("trust")
    }
}

fn agent() -> Principal {
    Principal::Agent("web-1".parse().expect("name"))
}

fn operator() -> Principal {
    Principal::Operator("alice".parse().expect("name"))
}

/// The port of a fleet's controller, and what it says of those whom it refuses.
async fn opened_for(fleet: &Fleet) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let controller = fleet.issue(Principal::Controller("main".parse().expect("name")));
    let door = Door::new(fleet.trust(), &controller, Duration::ZERO).expect("door");
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let address = listener.local_addr().expect("an address");
    let (says, said) = mpsc::unbounded_channel();
    tokio::spawn(listen(listener, door, Hall(says), CancellationToken::new()));
    (address, said)
}

/// A controller's port, and how an operator dials it.
async fn opened() -> (SocketAddr, Arc<ClientConfig>) {
    let fleet = Fleet::new("test");
    let (address, _) = opened_for(&fleet).await;
    let credentials = fleet.issue(operator());
    let dial = fleet.trust().dial(Protocol::Grpc, &credentials, Expected::Controller);
    (address, dial.expect("dial"))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("hostler").expect("a name")
}

async fn connected(address: SocketAddr, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("bound");
    socket.connect(address).await.expect("connected")
}

/// How long it takes to be let in.
async fn let_in(address: SocketAddr, operator: &Arc<ClientConfig>, from: &str) -> Duration {
    let began = Instant::now();
    let stream = connected(address, from).await;
    let tls = TlsConnector::from(Arc::clone(operator)).connect(name(), stream).await;
    let mut said = String::new();
    tls.expect("a handshake").read_to_string(&mut said).await.expect("a word");
    assert_eq!(said, "welcome");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_that_finishes_no_handshake_keeps_out_nobody_else() {
    let (address, operator) = opened().await;
    let mut stuck = Vec::new();
    for _ in 0..HANDSHAKES + 50 {
        let mut stream = connected(address, "127.0.0.1").await;
        let mut client =
            ClientConnection::new(Arc::clone(&operator), name()).expect("a connection");
        let mut greeting = Vec::new();
        client.write_tls(&mut greeting).expect("a greeting");
        stream.write_all(&greeting).await.expect("sent");
        stuck.push(stream);
    }
    assert!(let_in(address, &operator, "127.0.0.2").await < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_shown_out_and_makes_room_when_others_come() {
    let (address, operator) = opened().await;
    let mut first = connected(address, "127.0.0.1").await;
    let mut idle = Vec::new();
    for _ in 0..=crate::unproven::EACH {
        idle.push(connected(address, "127.0.0.1").await);
    }
    let began = Instant::now();
    assert!(let_in(address, &operator, "127.0.0.1").await < Duration::from_secs(2));
    let mut byte = [0];
    assert!(matches!(first.read(&mut byte).await, Ok(0) | Err(_)), "it made room");
    assert!(began.elapsed() < FIRST_BYTE, "{:?}", began.elapsed());
    let mut last = idle.pop().expect("one");
    assert!(matches!(last.read(&mut byte).await, Ok(0) | Err(_)), "its time is over");
    assert!(began.elapsed() < FIRST_BYTE * 2, "{:?}", began.elapsed());
}

/// What somebody is told who dials in like this.
async fn heard(address: SocketAddr, dial: Arc<ClientConfig>) -> std::io::Result<String> {
    let stream = connected(address, "127.0.0.1").await;
    let mut tls = TlsConnector::from(dial).connect(name(), stream).await?;
    let mut said = String::new();
    tls.read_to_string(&mut said).await?;
    Ok(said)
}

#[tokio::test]
async fn who_is_not_who_may_come_in_so_hears_nothing_and_is_refused_for_that_reason() {
    let (ours, theirs) = (Fleet::new("test"), Fleet::new("test"));
    let (address, mut refused) = opened_for(&ours).await;
    let trust = ours.trust();
    let dial = |protocol, credentials: &Arc<Credentials>| {
        trust.dial(protocol, credentials, Expected::Controller).expect("dial")
    };
    for (protocol, who) in
        [(Protocol::Link, agent()), (Protocol::Renew, agent()), (Protocol::Grpc, operator())]
    {
        let said = heard(address, dial(protocol, &ours.issue(who))).await;
        assert_eq!(said.expect("let in"), "welcome", "{protocol}");
    }
    // Without a certificate, and with a protocol that is not for that.
    let pin = Fingerprint::of(ours.0.certificate());
    let nobody = |alpn: &[u8]| {
        let mut dial = (*dial_pinned(pin, Arc::new(SystemClock)).expect("dial")).clone();
        dial.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(dial)
    };
    let stage = Fleet(
        Authority::from_parts(
            "stage".parse().expect("a name"),
            Key::from_pem(&ours.0.key_pem()).expect("key"),
            ours.0.certificate().clone(),
        )
        .expect("authority"),
    );
    let now = SystemClock.now();
    let mut cases = Vec::new();
    for (protocol, wrong, role) in [
        (Protocol::Link, operator(), "may not speak an agent's link"),
        (Protocol::Renew, operator(), "may not speak renewal"),
        (Protocol::Grpc, agent(), "may not speak gRPC"),
    ] {
        let right = if protocol == Protocol::Grpc { operator() } else { agent() };
        cases.extend([
            (protocol, dial(protocol, &ours.issue(wrong)), role),
            (protocol, nobody(protocol.alpn()), "sent no certificates"),
            (protocol, dial(protocol, &theirs.issue(right.clone())), "invalid peer certificate"),
            (
                protocol,
                dial(protocol, &ours.counting_from(now - DAY * 2, right.clone())),
                "expired",
            ),
            (
                protocol,
                dial(protocol, &ours.counting_from(now + DAY * 2, right.clone())),
                "not valid yet",
            ),
            (protocol, dial(protocol, &stage.issue(right)), "belongs to fleet stage"),
        ]);
    }
    cases.push((Protocol::Grpc, nobody(b"http/1.1"), "no protocol that is spoken here"));
    for (protocol, dial, reason) in cases {
        let said = heard(address, dial).await;
        assert!(said.as_ref().map_or(true, String::is_empty), "{protocol}, {reason}: {said:?}");
        let why = refused.recv().await.expect("a reason");
        assert!(why.contains(reason), "{protocol}, {reason}: {why}");
    }
}

#[tokio::test]
async fn tls_1_2_and_plaintext_are_refused_at_the_door() {
    let (address, mut refused) = opened_for(&Fleet::new("test")).await;
    // A greeting that offers h2, and no TLS 1.3: what comes is TLS 1.2.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 31]);
    hello.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0]);
    hello.extend([0, 16, 0, 5, 0, 3, 2, b'h', b'2']);
    let length = u8::try_from(hello.len()).expect("short");
    let mut old = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    old.extend(hello);
    for (bytes, reason) in [
        (old, "SupportedVersionsExtensionRequired"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "InvalidContentType"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "InvalidContentType"),
    ] {
        let mut stream = connected(address, "127.0.0.1").await;
        stream.write_all(&bytes).await.expect("sent");
        let why = refused.recv().await.expect("a reason");
        assert!(why.contains(reason), "{why}");
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        // At most an alert of TLS, which is a record of seven bytes.
        assert!(said.is_empty() || said.len() == 7 && said[0] == 21, "{said:?}");
    }
}
