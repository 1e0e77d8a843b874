//! What a session promises, on a real server.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    turns::{AT_ONCE, turns},
    *,
};

fn server() -> String {
    std::env::var("HOSTLER_TEST_POSTGRES")
        .expect("HOSTLER_TEST_POSTGRES names no server; run: make test")
}

fn entry(url: String) -> Postgres {
    Postgres { name: "main".into(), url, password_file: None, after: Vec::new(), no_login: false }
}

#[tokio::test]
async fn a_session_says_who_it_is_waits_for_nobody_and_cannot_write() {
    let entry = entry(format!("{}/postgres", server()));
    let mut session = Session::open(&entry, "postgres.ping").await.expect("a session");
    for (setting, expected) in [
        ("search_path", ""),
        ("statement_timeout", "10s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("application_name", "hostler/postgres.ping"),
        ("default_transaction_read_only", "on"),
    ] {
        let sql = format!("SELECT current_setting('{setting}') AS value");
        let row = session.row(&sql).await.expect("a row");
        assert_eq!(text(&row, "value"), expected, "{setting}");
    }
    for sql in ["CREATE TABLE public.hostler_writes (n int)", "CREATE ROLE hostler_writes"] {
        let refused = session.rows(sql).await.expect_err("it may not write");
        assert!(
            matches!(&refused, Trouble::Refused(said) if said.contains("read-only")),
            "{sql}: {refused:?}"
        );
    }
    let rows = session.rows_with("SELECT n FROM generate_series(1, $1) n", 3).await.expect("rows");
    assert_eq!(rows.len(), 3);
    let asked = session.asked.last().expect("the statement as it was sent");
    assert_eq!(asked, "SELECT n FROM generate_series(1, 3) n");
    session.close().await;
}

#[tokio::test]
async fn a_server_is_never_asked_by_more_than_two_sessions_at_a_time() {
    // An address of its own, so that no other test of this process has turns there.
    let url = format!("{}/postgres", server()).replace("127.0.0.1", "localhost");
    let (one, other) = (entry(url.clone()), entry(url.replace("/postgres", "/template1")));
    let address = url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("a place");
    let first = Session::open(&one, "postgres.ping").await.expect("a session");
    let second = Session::open(&other, "postgres.locks").await.expect("another one");
    assert_eq!(
        turns(address).free.available_permits(),
        0,
        "for each server, and not for each database"
    );
    let mut third = Box::pin(Session::open(&one, "postgres.sizes"));
    let waiting = timeout(Duration::from_millis(100), &mut third).await;
    assert!(waiting.is_err(), "it waits for its turn");
    first.close().await;
    let third = third.await.expect("a session, when there is a turn");
    third.close().await;
    drop(second);
    assert_eq!(turns(address).free.available_permits(), AT_ONCE);
    let gone = entry("postgres://hostler@localhost:1/postgres".to_owned());
    assert!(matches!(Session::open(&gone, "postgres.ping").await, Err(Trouble::Unreachable(_))));
    assert_eq!(
        turns("localhost:1").free.available_permits(),
        AT_ONCE,
        "who was not let in has no turn"
    );
}

#[test]
fn a_server_is_where_the_library_connects_to() {
    let socket = "/run/postgresql/.s.PGSQL.5433";
    for (url, expected) in [
        ("postgres://hostler@127.0.0.1:5433/postgres?sslmode=disable", "127.0.0.1:5433"),
        ("postgres://hostler@127.0.0.1/app?port=5433", "127.0.0.1:5433"),
        ("postgres://hostler@[::1]:5433/app", "[::1]:5433"),
        ("postgres://hostler@localhost/app?host=/run/postgresql&port=5433", socket),
        ("postgres://hostler@%2Frun%2Fpostgresql:5433/app", socket),
    ] {
        let place = whereabouts(&entry(url.to_owned())).map(|place| place.to_string());
        assert_eq!(place.as_deref(), Some(expected), "{url}");
    }
    assert_eq!(whereabouts(&entry("127.0.0.1".to_owned())), None);
    let options = PgConnectOptions::new_without_pgpass().host("/run/postgresql").port(5433);
    assert_eq!(place_of(&options), Place::Socket(socket.into()));
}

#[tokio::test]
async fn a_server_is_reached_by_its_socket_as_the_stack_file_names_it() {
    let tcp = Session::open(&entry(format!("{}/postgres", server())), "postgres.ping").await;
    let mut tcp = tcp.expect("a session");
    let row = tcp.row("SELECT current_setting('unix_socket_directories') AS value").await;
    let directory = text(&row.expect("a row"), "value");
    tcp.close().await;
    let port = server().rsplit(':').next().expect("a port").to_owned();
    let url = format!("postgres://hostler@/postgres?host={directory}&port={port}");
    let session = Session::open(&entry(url), "postgres.ping").await.expect("a session");
    assert_eq!(session.place, format!("{directory}/.s.PGSQL.{port}, database postgres"));
    session.close().await;
}

#[tokio::test(start_paused = true)]
async fn everybody_who_asks_a_server_that_hangs_hears_that_it_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let _hangs = std::os::unix::net::UnixListener::bind(path.join(".s.PGSQL.5432")).expect("bound");
    let entry = entry(format!("postgres://hostler@/postgres?host={}", path.display()));
    let began = Instant::now();
    let asking = futures_util::future::join_all(
        (0..15).map(|_| async { Session::open(&entry, "postgres.ping").await }),
    );
    for said in asking.await {
        let said = said.expect_err("no session");
        assert!(matches!(said, Trouble::Hung(_)), "{said:?}");
    }
    assert!(began.elapsed() < 2 * CONNECT, "who waits does not ask again");
}

/// The trouble with somebody at a port who refuses what a session begins with.
async fn refused(code: &str, said: &str) -> Trouble {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{said}\0\0");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        assert!(stream.read(&mut [0; 1024]).await.expect("a beginning") > 0);
        let length = u32::try_from(fields.len() + 4).expect("short").to_be_bytes();
        let answer = [b"E", &length[..], fields.as_bytes()].concat();
        stream.write_all(&answer).await.expect("answered");
    });
    let url = format!("postgres://hostler@127.0.0.1:{port}/postgres?sslmode=disable");
    Session::open(&entry(url), "postgres.ping").await.expect_err("no session")
}

#[tokio::test]
async fn a_pooler_that_refuses_the_settings_of_a_session_is_told_from_one_that_has_no_server() {
    for said in [
        "unsupported startup parameter: options",
        "unsupported startup parameter in options: statement_timeout",
    ] {
        assert_eq!(refused("08P01", said).await, Trouble::Pooler(said.to_owned()));
    }
    let away = "pgbouncer cannot connect to server";
    assert_eq!(refused("08P01", away).await, Trouble::Refused(away.to_owned()));
}

#[tokio::test]
async fn a_file_of_a_url_that_cannot_be_read_is_named_and_the_server_is_not_blamed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.read_exact(&mut [0; 8]).await.expect("asks for TLS");
        stream.write_all(b"S").await.expect("agreed");
        let _ = stream.read(&mut [0; 1]).await;
    });
    let url = |port| {
        let file = "/nonexistent/ca.pem";
        format!("postgres://u@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={file}")
    };
    let said = Session::open(&entry(url(port)), "postgres.ping").await.expect_err("no session");
    assert!(
        matches!(&said, Trouble::Stack(why) if why.contains("/nonexistent/ca.pem")),
        "{said:?}"
    );
    let gone = Session::open(&entry(url(1)), "postgres.ping").await.expect_err("no session");
    assert!(matches!(gone, Trouble::Unreachable(_)), "{gone:?}");
}

#[test]
fn words_of_tls_about_a_certificate_are_no_sign_that_nobody_answers() {
    let of = |said: &str| Trouble::from(sqlx::Error::Io(std::io::Error::other(said.to_owned())));
    let untrusted = "invalid peer certificate: BadSignature";
    assert_eq!(of(untrusted), Trouble::Untrusted(untrusted.to_owned()));
    assert!(matches!(of("unexpected end of file"), Trouble::Unreachable(_)));
}
