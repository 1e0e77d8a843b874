//! What a session promises, on a real server.

use super::*;

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
    assert_eq!(turns(address).available_permits(), 0, "for each server, and not for each database");
    let mut third = Box::pin(Session::open(&one, "postgres.sizes"));
    let waiting = timeout(Duration::from_millis(100), &mut third).await;
    assert!(waiting.is_err(), "it waits for its turn");
    first.close().await;
    let third = third.await.expect("a session, when there is a turn");
    third.close().await;
    drop(second);
    assert_eq!(turns(address).available_permits(), AT_ONCE);
    let gone = entry("postgres://hostler@localhost:1/postgres".to_owned());
    assert!(matches!(Session::open(&gone, "postgres.ping").await, Err(Trouble::Unreachable(_))));
    assert_eq!(turns("localhost:1").available_permits(), AT_ONCE, "who was not let in has no turn");
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

#[test]
fn a_user_before_an_empty_host_is_read_as_it_is_meant() {
    for (url, user, socket, port) in [
        ("postgres://u@/db?host=/run/x", "u", Some("/run/x"), 5432),
        ("postgres://u%2B1+2@/db?host=/run/x&port=7", "u+1+2", Some("/run/x"), 7),
        ("postgres://u@/?host=/run/x", "u", Some("/run/x"), 5432),
        ("postgres://u:a%26b@?host=/run/x", "u", Some("/run/x"), 5432),
        ("postgres://u@127.0.0.1:7/db", "u", None, 7),
    ] {
        let read = options(url).expect(url);
        let at = read.get_socket().map(|path| path.display().to_string());
        assert_eq!(
            (read.get_username(), at.as_deref(), read.get_port()),
            (user, socket, port),
            "{url}"
        );
    }
    assert!(options("postgres://u@127.0.0.1:x/db").is_err());
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
