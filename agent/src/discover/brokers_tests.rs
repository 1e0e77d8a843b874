use super::*;
use crate::discover::{Workers, connected::Connection};

const REDIS_HERE: &str = "127.0.0.1:6379";
const UNIT: &str = "redis-server.service";

fn broker(app: &str, unit: &str, server: &str, db: i64) -> Broker {
    Broker {
        app: app.to_owned(),
        name: app.split('.').next().unwrap_or_default().to_owned(),
        unit: unit.to_owned(),
        server: server.to_owned(),
        served_by: UNIT.to_owned(),
        db,
    }
}

fn shop(db: i64) -> Broker {
    broker("shop.app", "shop.service", REDIS_HERE, db)
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn connection(app: &str, unit: &str, local: &str, remote: &str) -> Connection {
    let (local, remote) = (at(local), at(remote));
    Connection { app: app.to_owned(), unit: unit.to_owned(), local, remote }
}

/// A host whose workers of the shop, which run, are connected with those addresses, from port 4000 on.
fn connected(remotes: &[&str], known: &[Broker]) -> Found {
    let mut found = Found::default();
    found.redis.insert(REDIS_HERE.to_owned(), UNIT.to_owned());
    let processes = [(7, "shop.service".to_owned())].into();
    let workers = Workers { app: "shop.app".into(), processes, ..Workers::default() };
    found.celery.insert("shop".to_owned(), workers);
    found.connections = remotes
        .iter()
        .zip(4000..)
        .map(|(remote, port)| {
            let ip = if remote.starts_with("127") { "127.0.0.1" } else { "192.0.2.7" };
            connection("shop.app", "shop.service", &format!("{ip}:{port}"), remote)
        })
        .collect();
    found.brokers = known.iter().cloned().collect();
    found
}

fn told(server: &str, subscribed: &[(&str, i64)]) -> Told {
    let subscribed = subscribed.iter().map(|(address, db)| (at(address), *db)).collect();
    Told { server: server.to_owned(), unit: UNIT.to_owned(), subscribed }
}

fn brokers(found: &Found) -> Vec<Broker> {
    found.brokers.iter().cloned().collect()
}

#[test]
fn a_client_is_subscribed_as_kombu_is_or_is_none_of_its_workers() {
    let line = |psub, address: &str| {
        format!("id=12 addr={address} laddr={REDIS_HERE} fd=13 name= db=3 sub=4 psub={psub} ssub=0")
    };
    assert_eq!(subscriber(&line(1, "127.0.0.1:4000")), Some((at("127.0.0.1:4000"), 3)));
    assert_eq!(subscriber(&line(1, "[::ffff:127.0.0.1]:4000")), Some((at("127.0.0.1:4000"), 3)));
    assert_eq!(subscriber(&line(0, "127.0.0.1:4000")), None, "it waits for results");
    assert_eq!(subscriber(&line(1, "/run/redis.sock:0")), None);
    assert_eq!(subscriber(""), None);
}

#[test]
fn the_database_at_which_a_worker_is_subscribed_is_its_broker() {
    let mut found = connected(&[REDIS_HERE, REDIS_HERE], &[]);
    found.take(&[told(REDIS_HERE, &[("127.0.0.1:4001", 3), ("127.0.0.1:9", 5)])]);
    assert_eq!(brokers(&found), [shop(3)]);
    let applications = certain(found.brokers.iter());
    assert_eq!(
        applications,
        [Application { name: "shop", server: REDIS_HERE, db: 3, units: ["shop.service"].into() }]
    );
}

#[test]
fn a_redis_that_is_a_cache_is_no_broker() {
    let mut found = connected(&[REDIS_HERE, "127.0.0.1:5672"], &[]);
    found.take(&[told(REDIS_HERE, &[])]);
    assert_eq!(brokers(&found), []);
}

#[test]
fn where_somebody_would_have_to_choose_nothing_is_certain() {
    let of = |brokers: &[Broker]| {
        certain(brokers.iter())
            .iter()
            .map(|a| (a.name.to_owned(), a.units.len()))
            .collect::<Vec<_>>()
    };
    let two_units = [shop(0), broker("shop.app", "mail.service", REDIS_HERE, 0)];
    assert_eq!(of(&two_units), [("shop".to_owned(), 2)]);
    let one = |name: &str| vec![(name.to_owned(), 1)];
    let other = |server: &str, db| broker("wiki.app", "wiki.service", server, db);
    assert_eq!(of(&[shop(0), other(REDIS_HERE, 0)]), []);
    assert_eq!(of(&[shop(0), other(REDIS_HERE, 1)]), [], "one server has one entry");
    assert_eq!(of(&[shop(0), other("127.0.0.1:6380", 0)]), [one("shop"), one("wiki")].concat());
    let staging = broker("shop.app", "staging.service", REDIS_HERE, 1);
    assert_eq!(of(&[shop(0), staging]), [], "two of one name");
    let nameless = |unit| Broker { app: String::new(), ..broker("app", unit, REDIS_HERE, 0) };
    assert_eq!(of(&[nameless("a.service")]), one("app"));
    assert_eq!(of(&[nameless("a.service"), nameless("b.service")]), []);
}

#[test]
fn what_was_certain_stays_so_while_nobody_tells_or_a_worker_is_cut_off_and_ends_when_it_moved() {
    let known = [shop(0)];
    let after = |remotes: &[&str], told: &[Told]| {
        let mut found = connected(remotes, &known);
        found.take(told);
        brokers(&found)
    };
    let nobody = || told(REDIS_HERE, &[]);
    assert_eq!(after(&[], &[]), known, "neither is up");
    assert_eq!(after(&[], &[nobody()]), known, "the worker is not");
    assert_eq!(after(&[REDIS_HERE], &[nobody()]), known, "it hangs");
    assert_eq!(after(&["127.0.0.1:5672"], &[]), known, "the server may be down");
    assert_eq!(after(&["127.0.0.1:5432", REDIS_HERE], &[nobody()]), known, "a database");
    // RabbitMQ has it now, or a Redis of another host.
    assert_eq!(after(&["127.0.0.1:5672", REDIS_HERE], &[nobody()]), []);
    assert_eq!(after(&["192.0.2.9:6379"], &[nobody()]), []);
    let moved = told(REDIS_HERE, &[("127.0.0.1:4000", 2)]);
    assert_eq!(after(&[REDIS_HERE, "127.0.0.1:5672"], &[moved]), [shop(2)]);
}

#[test]
fn an_application_that_has_another_module_now_takes_the_place_of_the_former_one_of_its_unit() {
    let former = broker("old.app", "shop.service", REDIS_HERE, 0);
    let other = broker("wiki.app", "wiki.service", "127.0.0.1:6380", 0);
    let mut found = connected(&[REDIS_HERE], &[former, other.clone()]);
    found.take(&[told(REDIS_HERE, &[("127.0.0.1:4000", 0)])]);
    assert_eq!(brokers(&found), [shop(0), other]);
}

#[test]
fn an_application_keeps_its_name_and_takes_that_of_no_other_one() {
    let named = Broker { name: "mine".to_owned(), ..shop(0) };
    let mut found = connected(&[REDIS_HERE], &[named]);
    found.take(&[told(REDIS_HERE, &[("127.0.0.1:4000", 1)])]);
    assert_eq!(brokers(&found)[0].name, "mine");
    let taken = Broker { name: "shop".to_owned(), ..broker("b", "b.service", "127.0.0.1:1", 0) };
    let mut found = connected(&[REDIS_HERE], &[taken]);
    found.take(&[told(REDIS_HERE, &[("127.0.0.1:4000", 0)])]);
    assert!(brokers(&found).iter().any(|b| b.app == "shop.app" && b.name == "shop.app"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_given_up_and_what_was_known_of_it_stays() {
    let hung = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hung.local_addr().expect("an address").to_string();
    let known = Broker { server: address.clone(), ..shop(4) };
    let mut found = connected(&[&address, "127.0.0.1:5672"], std::slice::from_ref(&known));
    found.redis.insert(address, UNIT.to_owned());
    let began = tokio::time::Instant::now();
    let found = found.asked(|_| true).await;
    assert_eq!(brokers(&found), [known]);
    assert!(began.elapsed() <= PATIENCE * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn nobody_is_asked_but_who_is_wanted_and_has_workers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("an address").to_string();
    let called = || listener.accept().is_ok();
    let found = |remotes: &[&str]| {
        let mut found = connected(remotes, &[]);
        found.redis = [(address.clone(), UNIT.to_owned())].into();
        found
    };
    let _ = found(&["127.0.0.1:5672"]).asked(|_| true).await;
    assert!(!called(), "no worker is connected with it");
    let _ = found(&[&address]).asked(|unit| unit != UNIT).await;
    assert!(!called(), "it does not start at boot");
    let asking = tokio::spawn(found(&[&address]).asked(|_| true));
    tokio::task::spawn_blocking(move || {
        listener.set_nonblocking(false).expect("set");
        listener.accept().expect("called");
    })
    .await
    .expect("ends");
    asking.await.expect("ends");
}
