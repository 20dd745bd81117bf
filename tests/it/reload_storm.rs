//! Many reloads: none is lost, none stands in another one's way, and nothing is left behind.

use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;

use crate::harness::*;
use crate::reload::{serves, to};

#[tokio::test]
async fn two_hundred_reloads_leave_nothing_behind() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&round(&origin, 0)).await;
    // What is made once and kept is there after some rounds.
    for number in 1..=50 {
        assert!(gateway.reload(&round(&origin, number)).await);
        gateway.get("/fn").await;
    }
    let before = Footprint::of(&gateway);

    for number in 51..=250 {
        assert!(gateway.reload(&round(&origin, number)).await);
        gateway.get("/fn").await;
    }

    eventually("the footprint of before", PATIENCE, async || {
        let now = Footprint::of(&gateway);
        // Some threads and descriptors come and go by themselves; one for each reload would be many more.
        let is_small = now.descriptors <= before.descriptors + 10
            && now.threads <= before.threads + 5
            && now.kibibytes <= before.kibibytes + 8 * 1024;
        is_small.then_some(()).or_else(|| {
            eprintln!("{before:?} became {now:?}");
            None
        })
    })
    .await;
    let routes = gateway.metrics().await;
    assert!(
        !routes.has("fngate_http_requests_total", &[("route", "round-100")]),
        "a former route is still exported"
    );
}

#[tokio::test]
async fn signals_in_a_storm_end_with_the_last_configuration() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "r0")).await;

    for number in 1..=40 {
        gateway.write_config(&to(&origin, &format!("r{number}")));
        for _ in 0..5 {
            gateway.signal(Signal::SIGHUP);
        }
    }

    serves(&gateway, "/r40").await;
    let reloads = gateway.metrics().await;
    assert!(reloads.counter("fngate_config_reloads_total", &[]) <= 200.0);
    assert_eq!(reloads.counter("fngate_config_reloads_total", &[("result", "failure")]), 0.0);
}

#[tokio::test]
async fn a_fault_that_is_taken_back_is_forgotten_without_a_signal() {
    let origin = Origin::echo().await;
    let good = to(&origin, "one");
    let gateway = Gateway::start(&good).await;
    let successful = "fngate_config_last_reload_successful";

    gateway.write_config("routes: [");
    gateway.counts(successful, &[], 0.0).await;
    gateway.write_config(&good);
    gateway.counts(successful, &[], 1.0).await;

    assert_eq!(gateway.get("/one").await.status(), 200);
}

#[tokio::test]
async fn the_same_fault_is_told_once_unless_somebody_asks() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let failures: (_, &[_]) = ("fngate_config_reloads_total", &[("result", "failure")]);

    gateway.write_config("routes: [");
    gateway.counts(failures.0, failures.1, 1.0).await;
    gateway.write_config("routes: [");
    gateway.write_config("routes: 5");
    gateway.counts(failures.0, failures.1, 2.0).await;
    gateway.signal(Signal::SIGHUP);
    gateway.counts(failures.0, failures.1, 3.0).await;
}

#[tokio::test]
async fn an_access_log_that_cannot_be_opened_refuses_everything() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;

    let elsewhere = format!("access_log: {{ path: $DIR/none/access.log }}\n{}", to(&origin, "two"));
    assert!(!gateway.reload(&elsewhere).await);

    assert_eq!((gateway.get("/one").await.status(), gateway.get("/two").await.status()), (200, 404));
    gateway.says("none/access.log` cannot be opened: No such file or directory").await;
}

#[tokio::test]
async fn routes_beyond_the_room_for_connections_are_a_warning() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&to(&origin, "one")).await;
    let many: Vec<_> = (0..20).map(|number| (format!("r{number}"), format!("/r{number}"))).collect();
    let target = format!("http: {{ url: '{}/', keepalive_pool: 1000 }}", origin.url());
    let many: Vec<_> =
        many.iter().map(|(name, path)| (name.as_str(), path.as_str(), target.as_str())).collect();

    assert!(gateway.reload(&routes(&many)).await);

    gateway.says("20000 connections kept").await;
    assert_eq!(gateway.get("/r19").await.status(), 200);
}

#[tokio::test]
async fn a_directory_of_routes_may_disappear_and_come_back() {
    let origin = Origin::echo().await;
    let gateway = Gateway::builder()
        .file("conf.d/a.yaml", &to(&origin, "one"))
        .start("include: [ 'conf.d/*.yaml' ]\nroutes: []\n")
        .await;
    assert_eq!(gateway.get("/one").await.status(), 200);

    std::fs::remove_dir_all(gateway.dir().join("conf.d")).unwrap();
    eventually("the route to be gone", PATIENCE, async || {
        (gateway.get("/one").await.status() == 404).then_some(())
    })
    .await;
    // Twice, because the second time nothing of the first watch is left.
    for name in ["two", "three"] {
        gateway.write_file("conf.d/a.yaml", &to(&origin, name));
        serves(&gateway, &format!("/{name}")).await;
    }
}

#[tokio::test]
async fn a_secret_that_is_swapped_as_kubernetes_does_is_noticed() {
    let origin = Origin::echo().await;
    let secrets = tempfile::tempdir().unwrap();
    let put = |version: &str, token: &str| {
        let dir = secrets.path();
        std::fs::create_dir(dir.join(version)).unwrap();
        std::fs::write(dir.join(version).join("token"), token).unwrap();
        symlink(version, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    put("..1", "old:old");
    symlink("..data/token", secrets.path().join("token")).unwrap();
    let token = format!("service_token: {{ file: '{}' }}", secrets.path().join("token").display());
    let target =
        format!("openfunction: {{ function_uri: '{}/', authorization: {{ {token} }} }}", origin.url());
    let gateway = Gateway::start(&route("/fn", &target)).await;

    for (version, token, credential) in
        [("..2", "new:new", "Basic bmV3Om5ldw=="), ("..3", "old:old", "Basic b2xkOm9sZA==")]
    {
        put(version, token);
        eventually("the other credential", PATIENCE, async || {
            let echo = gateway.get("/fn").await.json::<Echo>();
            (echo.header("authorization") == Some(credential)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_service_manager_hears_of_each_reload_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let origin = Origin::echo().await;
    let gateway =
        Gateway::builder().env("NOTIFY_SOCKET", path.to_str().unwrap()).start(&to(&origin, "one")).await;
    let ready = told(&manager).await;
    let status = format!("READY=1\nSTATUS=serving 1 route on {}, admin on 127.0.0.1:", gateway.addr());
    assert!(ready.contains(&status), "{ready}");

    gateway.signal(Signal::SIGHUP);
    let reloading = told(&manager).await;
    let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        reloading.contains("RELOADING=1") && since.is_some_and(|since| since.parse::<u64>().is_ok()),
        "{reloading}"
    );
    let ready = told(&manager).await;
    assert!(ready.contains("READY=1\nSTATUS=serving 1 route, reloaded"), "{ready}");

    assert!(!gateway.reload("routes: 5\n").await);
    // The file was noticed by itself, or by the signal, or both.
    let refused = loop {
        let text = told(&manager).await;
        if !text.contains("RELOADING=1") {
            break text;
        }
    };
    assert!(refused.contains("READY=1\nSTATUS=reload refused: "), "{refused}");
    assert_eq!(refused.trim_end().lines().count(), 2, "{refused}");
}

async fn told(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let size = within("the service manager to be told", manager.recv(&mut buffer)).await.unwrap();
    String::from_utf8_lossy(&buffer[..size]).into_owned()
}

/// One route that stays, one that only this round has, and a name that only ten rounds ask for: where nobody answers, each name costs a
/// reload half a second.
fn round(origin: &Origin, number: u32) -> String {
    let ten = number / 10;
    let routes = routes(&[
        ("stays", "/fn", &format!("http: {{ url: '{}/' }}", origin.url())),
        (&format!("round-{number}"), "/round", &format!("http: {{ url: '{}/' }}", origin.url())),
        (&format!("name-{ten}"), "/name", &format!("http: {{ url: 'http://round-{ten}.invalid/' }}")),
    ]);
    format!("threads: 2\n{routes}")
}
