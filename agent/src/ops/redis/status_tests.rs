use super::{
    super::{info::Info, seen::cluster_fails},
    *,
};
use crate::operation::completed;

const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:60\r\n# Memory\r\n\
    used_memory:950\r\nused_memory_rss:2000\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\n\
    mem_fragmentation_ratio:2.1\r\n# Clients\r\nconnected_clients:3\r\nmaxclients:10000\r\n\
    # Persistence\r\nrdb_last_bgsave_status:ok\r\naof_enabled:0\r\n# Stats\r\nkeyspace_hits:3\r\n\
    keyspace_misses:1\r\nrole:master\r\n# Keyspace\r\ndb0:keys=4,expires=0,avg_ttl=0\r\ndb3:keys=2,expires=1\r\n";

fn request() -> RedisStatusRequest {
    completed::<RedisStatus>(&RedisStatusRequest::default()).expect("defaults")
}

#[test]
fn fragmentation_and_what_persists_are_told_and_every_bound_can_be_moved() {
    let info = "redis_version:7.0.15\r\nused_memory:400000000\r\nused_memory_rss:800000000\r\n\
        mem_fragmentation_ratio:2.0\r\nconnected_clients:93\r\nmaxclients:100\r\n\
        rdb_last_bgsave_status:ok\r\nrdb_changes_since_last_save:7\r\naof_enabled:0\r\n\
        aof_last_write_status:ok\r\nrole:master\r\nconnected_slaves:1\r\n\
        slave0:ip=10.0.0.2,port=6380,state=online,offset=480,lag=40\r\n";
    let seen = || {
        let mut seen = Info::read(info).seen();
        seen.report.snapshot_age_s = Some(50 * 3600);
        seen
    };
    let found = |request: &RedisStatusRequest| {
        let answer = judge("main", "journal read", seen(), request);
        // That it has no maxmemory is no trouble.
        let bad = answer.findings.into_iter().filter(|f| f.status() != Status::Ok);
        bad.map(|f| (f.subject.clone(), f)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let report = judge("main", "", seen(), &request()).data;
    assert_eq!(report.fragmentation_percent, Some(200.0));
    assert_eq!((report.snapshot_status.as_str(), report.append_status.as_str()), ("ok", ""));
    let told = found(&request());
    let of = |subject: &str| {
        let f = &told[subject];
        (f.value, f.warning.or(f.critical), f.unit.as_str(), f.source.as_str())
    };
    let alerts = "awesome-prometheus-alerts";
    assert_eq!(of("clients"), (Some(93.0), Some(90.0), "percent", alerts));
    assert_eq!(of("10.0.0.2:6380"), (Some(40.0), Some(30.0), "s", "default"));
    let age = (Some(180_000.0), Some(172_800.0), "s", "awesome-prometheus-alerts (48 h)");
    assert_eq!(of("snapshot"), age);
    assert_eq!(of("fragmentation"), (Some(200.0), Some(150.0), "percent", "default"));
    assert!(told.values().all(|f| !f.why.is_empty() && !f.next.is_empty()), "{told:?}");
    let moved = RedisStatusRequest {
        clients_critical_percent: Some(92),
        lag_warning_s: 60,
        snapshot_s: 60 * 3600,
        fragmentation_percent: 250,
        ..request()
    };
    let told = found(&moved);
    assert_eq!(told.keys().collect::<Vec<_>>(), ["clients"]);
    assert_eq!(told["clients"].status(), Status::Critical);
    let large = RedisStatusRequest { wasted_bytes: 1 << 30, ..request() };
    assert!(!found(&large).contains_key("fragmentation"));
}

#[test]
fn what_info_says_is_read_and_memory_is_measured_against_its_bound() {
    let answer = judge("main", "", Info::read(INFO).seen(), &request());
    assert_eq!((answer.status, answer.findings.len()), (Status::Warning, 1));
    assert_eq!(answer.summary, "95 % of the memory of redis \"main\" are used");
    assert_eq!((answer.data.keys, answer.data.hit_percent), (Some(6), Some(75.0)));
}

#[test]
fn a_cache_that_evicts_is_full_by_design_and_one_that_cannot_is_not() {
    let of = |policy: &str, expires: u64| {
        let text = INFO.replace("noeviction", policy).replace("used_memory:950", "used_memory:999");
        let text = text.replace("expires=1", &format!("expires={expires}"));
        judge("main", "", Info::read(&text).seen(), &request())
    };
    for (policy, expires, status) in [
        ("noeviction", 1, Status::Critical),
        ("allkeys-lru", 0, Status::Ok),
        ("allkeys-lfu", 1, Status::Ok),
        ("volatile-lru", 1, Status::Ok),
        ("volatile-ttl", 0, Status::Critical),
    ] {
        let answer = of(policy, expires);
        assert_eq!(answer.status, status, "{policy}, {expires}: {answer:?}");
        let memory = answer.figures.iter().find(|f| f.name == "memory").expect("a figure");
        assert_eq!(memory.limit.is_some(), status == Status::Critical, "{policy}");
    }
    assert!(of("volatile-ttl", 0).findings[0].why.contains("no key has an expiry"));
}

#[test]
fn without_a_limit_of_its_own_memory_ends_where_that_of_the_host_does() {
    let text = INFO.replace("maxmemory:1000", "maxmemory:0").replace("noeviction", "allkeys-lru");
    let of = |room| judge("main", "", Seen { room, ..Info::read(&text).seen() }, &request());
    let limit = |answer: &Answer<Report>| answer.figures[0].limit;
    let wide = of(Some(99_050));
    assert_eq!((wide.status, limit(&wide)), (Status::Ok, Some(100_000.0)));
    assert!(wide.findings[0].why.contains("96 KiB now"), "{:?}", wide.findings);
    let full = of(Some(50));
    assert_eq!((full.status, limit(&full)), (Status::Warning, Some(1000.0)));
    assert!(full.findings[0].why.contains("the kernel ends it"), "{:?}", full.findings);
    assert_eq!(of(Some(1)).status, Status::Critical);
    let remote = of(None);
    assert_eq!((remote.status, limit(&remote)), (Status::Ok, None));
    assert!(remote.findings[0].why.contains("cannot be told"), "{:?}", remote.findings);
}

#[test]
fn a_server_that_refuses_keys_or_writes_for_others_sake_is_critical() {
    assert_eq!(cluster_fails("cluster_state:ok\r\ncluster_slots_ok:16384\r\n"), None);
    let fails = cluster_fails("cluster_state:fail\r\ncluster_slots_ok:0\r\n");
    let why = "cluster_state is fail, 0 of 16384 slots are served";
    assert_eq!(fails.as_deref(), Some(why));
    let well = || Info::read(INFO).seen();
    let down = judge("main", "", Seen { cluster_down: fails, ..well() }, &request());
    assert_eq!(down.status, Status::Critical);
    let short = Seen { replicas_short: Some((0, Some(1))), ..well() };
    let short = judge("main", "", short, &request());
    assert_eq!(short.status, Status::Critical);
    assert!(short.summary.contains("0 good replicas, and 1 are needed"), "{}", short.summary);
}

#[test]
fn a_server_that_answers_pings_and_refuses_writes_is_critical() {
    let text = INFO.replace("bgsave_status:ok", "bgsave_status:err");
    let seen = Seen { stops_writes: true, ..Info::read(&text).seen() };
    let answer = judge("main", "", seen, &request());
    assert_eq!(answer.status, Status::Critical);
    assert!(answer.findings.iter().any(|f| f.why.contains("every write is refused")));
}

#[test]
fn a_broker_that_may_evict_is_told_of() {
    let text =
        INFO.replace("noeviction", "allkeys-lru").replace("used_memory:950", "used_memory:1");
    let mut seen = Info::read(&text).seen();
    seen.report.celery_broker = Some(true);
    let answer = judge("main", "", seen, &request());
    assert!(answer.summary.contains("may evict them"), "{}", answer.summary);
}

#[test]
fn what_the_user_may_not_see_is_unknown_and_hides_nothing_worse() {
    let hidden =
        vec![Hidden { command: "CONFIG GET", what: "whether it writes snapshots", said: None }];
    let seen = Seen { hidden: hidden.clone(), ..Info::read("").seen() };
    let answer = judge("main", "", seen, &request());
    assert_eq!((answer.status, answer.figures.len()), (Status::Unknown, 0));
    assert_eq!(answer.data, Report::default(), "no zero stands for what was not measured");
    let text = INFO.replace("bgsave_status:ok", "bgsave_status:err");
    let answer = judge("main", "", Seen { hidden, ..Info::read(&text).seen() }, &request());
    // It tells no rate of operations.
    assert_eq!((answer.status, answer.figures.len()), (Status::Critical, 2));
}

#[test]
fn a_server_that_serves_and_answers_a_question_with_an_error_is_unknown_and_quoted() {
    let said = "ERR unknown command 'INFO', with args beginning with: 'everything'";
    let hidden = Hidden { command: "INFO", what: "how memory is", said: Some(said.into()) };
    let seen = Seen { hidden: vec![hidden], ..Info::read("").seen() };
    let answer = judge("main", "", seen, &request());
    assert_eq!(answer.status, Status::Unknown);
    assert_eq!(answer.summary, format!("redis \"main\" answers INFO with an error: {said}"));
    assert_eq!(answer.findings[0].why, "how memory is is not known without it");
}

#[test]
fn what_is_wrong_leads_to_the_log_of_the_servers_own_unit() {
    let text = INFO.replace("bgsave_status:ok", "bgsave_status:err");
    let log = "journal read --unit redis@6380 --lines 50";
    let answer = judge("main", log, Info::read(&text).seen(), &request());
    let failed = answer.findings.iter().find(|f| f.subject == "snapshot").expect("a finding");
    assert_eq!(failed.next, log);
}
