//! What a target hears of hosts that are away, and of what is told over a link that is no more.

use super::*;
use crate::health::absence::Lost;

#[tokio::test]
async fn of_a_check_whose_host_is_away_nothing_is_told_until_it_is_back() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("hook", "webhook", &hook)]).await;
    scene.tell(vec![scene.check("disk", Status::Ok, &[])]).await;
    let mut postman = scene.postman();
    scene.tell(vec![scene.check("disk", Status::Critical, &[])]).await;
    scene.meddle("UPDATE hosts SET connection = 'down'").await;
    round(&mut postman).await;
    assert_eq!((hook.told().len(), scene.waiting().await), (0, 1));
    scene.meddle("UPDATE hosts SET connection = 'up'").await;
    scene.clock.advance(Duration::from_micros(AWAY_US.unsigned_abs()));
    round(&mut postman).await;
    assert_eq!((hook.told().len(), scene.waiting().await), (1, 0));
}

#[tokio::test]
async fn nothing_of_the_machine_before_is_told_of_one_that_was_never_linked() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("hook", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    let now = scene.clock.now().as_microsecond();
    scene.tell(vec![scene.check("disk", Status::Warning, &[])]).await;
    let (lost, reason) = (Lost::Closed, "it was closed".to_owned());
    let (host, left) = (host("web-1"), Left::No);
    let down = Change::Down { host, lost, reason, left, seen_us: now, at_us: now };
    scene.notifier.store.change_connections(&[down]).await.expect("written");
    // It is enrolled anew, and its row with it.
    scene.meddle("UPDATE hosts SET connection = 'never'").await;
    for _ in 0..9 {
        scene.clock.advance(MINUTE);
        round(&mut postman).await;
    }
    assert_eq!((hook.told(), scene.waiting().await), (vec![], 2));
    let now = scene.clock.now().as_microsecond();
    scene.notifier.store.change_connections(&[linked(now)]).await.expect("written");
    scene.clock.advance(MINUTE);
    round(&mut postman).await;
    assert_eq!((hook.told(), scene.waiting().await), (vec!["disk warning".to_owned()], 0));
}

#[tokio::test]
async fn that_an_agent_tells_nothing_is_not_told_of_one_that_was_linked_anew() {
    let hook = Hook::listen(200).await;
    let mut scene = Scene::new(&[("hook", "webhook", &hook)]).await;
    let mut postman = scene.postman();
    scene.tell(vec![scene.check("disk", Status::Ok, &[])]).await;
    let (fleet, store) = (scene.notifier.health.clone(), scene.notifier.store.clone());
    scene.clock.advance(180 * MINUTE);
    let now = scene.clock.now().as_microsecond();
    let silent = fleet.lapse(&[host("web-1")], now);
    // The store could not be used for a while: that it is linked anew was written first.
    assert_eq!(fleet.arrived(&host("web-1"), now), (Left::No, true));
    store.change_connections(&[linked(now)]).await.expect("written");
    store.record_health(&silent).await.expect("written");
    round(&mut postman).await;
    assert_eq!((hook.told(), scene.waiting().await), (vec![], 0));
    scene.clock.advance(180 * MINUTE);
    let silent = fleet.lapse(&[host("web-1")], scene.clock.now().as_microsecond());
    store.record_health(&silent).await.expect("written");
    round(&mut postman).await;
    assert_eq!(hook.told(), [" unknown"], "it tells nothing over this link either");
}

#[test]
fn a_notice_says_why_its_host_is_away_and_what_it_shares_with_others() {
    let place = || Absence::Place("site paris".into());
    let absences = HashMap::from([
        (host("a-1"), place()),
        (host("a-2"), place()),
        (host("b-1"), Absence::Via(host("gw"))),
        (host("c-1"), Absence::Stopped),
        (host("d-1"), Absence::Down),
        (host("e-1"), Absence::Missing(Some("site rome".into()))),
        (host("f-1"), Absence::Missing(None)),
    ]);
    let told = |name: &str| {
        let mut notice = NoticeRow {
            id: name.into(),
            target: "ops".into(),
            host: host(name),
            check: String::new(),
            was: Status::Ok,
            became: Status::Critical,
            flapping: false,
            at_us: 1,
            attempts: 0,
            failed_us: 0,
            summary: "it fell silent".into(),
        };
        explain(&mut notice, absences.get(&host(name)), &absences);
        (notice.became, notice.summary, reason(absences.get(&host(name))))
    };
    assert!(told("a-1").1.starts_with("2 hosts of site paris fell silent together"));
    assert_eq!(told("a-1").2, told("a-2").2);
    assert_eq!(told("b-1").2.as_deref(), Some("via gw"));
    assert_eq!((told("c-1").0, told("c-1").2), (Status::Warning, None));
    assert_eq!(told("d-1"), (Status::Critical, "it fell silent".into(), None));
    assert!(
        told("e-1").1.starts_with("1 hosts of site rome, all that there are, did not come back")
    );
    assert_eq!((told("e-1").2.as_deref(), told("f-1").2), (Some("missing site rome"), None));
}
