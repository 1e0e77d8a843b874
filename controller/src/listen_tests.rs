use hostler_core::{
    clock::{Clock, SystemClock},
    identity::Principal,
    pki::{Authority, Key},
    tls::Expected,
};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Takes everybody in, and lets nobody stay.
#[derive(Debug, Clone)]
struct Hall;

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
}

/// A controller's port, and how an operator dials it.
async fn opened() -> (SocketAddr, Arc<ClientConfig>) {
    let fleet: hostler_core::identity::FleetName = "test".parse().expect("a name");
    let now = SystemClock.now();
    let key = Key::generate().expect("key");
    let authority = Authority::new(fleet.clone(), key, now, DAY).expect("authority");
    let issue = |principal| {
        let key = Key::generate().expect("key");
        let request = key.request().expect("request");
        let id = SystemClock.id();
        let leaf = authority.sign(&request, principal, &[], id, now, DAY).expect("leaf");
        Credentials::new(vec![leaf], &key.to_pem()).expect("credentials")
    };
    let controller = issue(Principal::Controller("main".parse().expect("name")));
    let operator = issue(Principal::Operator("alice".parse().expect("name")));
    let root = authority.certificate().clone();
    let trust = Trust::new(fleet, [root], Arc::new(SystemClock)).expect("trust");
    let door = Door::new(trust.clone(), &controller, Duration::ZERO).expect("door");
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(listen(listener, door, Hall, CancellationToken::new()));
    (address, trust.dial(Protocol::Grpc, &operator, Expected::Controller).expect("dial"))
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
