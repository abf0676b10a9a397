use observer_core::time::Occurred;
use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};

use super::*;
use crate::{
    config::{Config, Settings},
    sockets,
};

/// Events are told apart by a count.
fn event(at: Timestamp, connections: u64) -> Event {
    Event {
        occurred: Occurred::kernel(at),
        fact: Fact::Strangers { connections },
    }
}

async fn next(batches: &mut UnboundedReceiver<Batch>) -> Vec<u64> {
    let batch = timeout(Duration::from_secs(20), batches.recv()).await;
    let mut counts = Vec::new();
    for event in batch.unwrap().unwrap().events {
        if let Fact::Strangers { connections } = event.fact {
            counts.push(connections);
        }
    }
    counts
}

/// A dump of routes that begins before a route is added does not show it; were the core told of the dump
/// later than of the route, it would take the route for gone.
#[tokio::test]
async fn what_readers_of_routes_said_is_not_overtaken_by_what_happened_later() {
    let settings = Settings {
        netns: vec!["absent=a".parse().unwrap()],
        ..Settings::default()
    };
    let config = Config::from_settings(settings).unwrap();
    let (asker, _) = sockets::start(config.ports()).unwrap();
    let (queue, mut batches) = queue();
    let (answer, replies) = mpsc::channel(1);
    let (tell, route_news) = mpsc::channel(1);
    let (_wish, control) = mpsc::channel(1);
    let (stop, stopping) = watch::channel(false);
    let intake = Intake {
        kernel: None,
        taps: Taps::new(config.tap, &config.ports(), None).unwrap(),
        routes: Routes::new(config.followed_routes()).0,
        route_news,
        echoes: Echoes::new(config.reach_probe.probe()).unwrap(),
        alarm: Alarm::new().unwrap(),
        namespaces: Namespaces::new(&config),
        asker,
        replies,
        control,
        queue,
        health: Health::new(&[]),
    };
    let reading = tokio::spawn(intake.run(stopping));
    // Which source is read first is a matter of chance.
    for _ in 0..64 {
        let now = boottime_now();
        let (began, changed) = (now.before(HOLD * 3), now.before(HOLD * 2));
        tell.try_send(News::Events(vec![event(began, 1)])).unwrap();
        let changed = Reply::Inspected(NetnsId(1), Ok(event(changed, 2)));
        answer.try_send(changed).unwrap();
        let mut told = Vec::new();
        while told.len() < 2 {
            told.extend(next(&mut batches).await);
        }
        assert_eq!(told, [1, 2]);
    }
    stop.send(true).unwrap();
    reading.await.unwrap();
}
