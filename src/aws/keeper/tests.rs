use std::cell::{Cell, RefCell};
use std::path::Path;

use anyhow::anyhow;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::aws::Origin;
use crate::values::Secret;

const HOUR: Duration = Duration::from_secs(3600);

fn keys(accesskey: &str, expiry: Option<SystemTime>) -> Credentials {
    aws_credential_types::Credentials::new(accesskey, "secret", None, expiry, "test").into()
}

fn in_an_hour(accesskey: &str) -> Credentials {
    keys(accesskey, Some(SystemTime::now() + HOUR))
}

fn id(credentials: Option<Arc<Credentials>>) -> Option<u64> {
    credentials.map(|credentials| credentials.digest())
}

/// A profile of its own in this file.
fn profile(file: &Path) -> Source {
    let origin = Origin::Profile { name: None, credentials_file: Some(file.to_owned()) };
    Source::Lookup(Lookup { origin, region: "eu-west-1".to_owned() })
}

fn write_profile(file: &Path) {
    std::fs::write(file, "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = secret\n")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn credentials_are_renewed_in_the_last_quarter_of_their_life() {
    let kept = Kept::unasked();
    let fetches = RefCell::new(Vec::new());
    let fetch = || {
        fetches.borrow_mut().push(Instant::now());
        async { Ok(in_an_hour("AKID")) }
    };
    let _ = timeout(HOUR * 24, kept.renew("test", fetch)).await;

    let fetches = fetches.take();
    assert!(fetches.len() > 24, "{}", fetches.len());
    for pair in fetches.windows(2) {
        let minutes = (pair[1] - pair[0]).as_secs_f64() / 60.0;
        assert!((44.9..50.1).contains(&minutes), "{minutes}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_expires_is_looked_at_every_minute() {
    let kept = Kept::unasked();
    let fetches = Cell::new(0);
    let fetch = || {
        fetches.set(fetches.get() + 1);
        let found = keys(&format!("AKID{}", fetches.get()), None);
        async { Ok(found) }
    };
    let _ = timeout(UNDATED_LIFE * 2 + SHORTEST_PAUSE, kept.renew("test", fetch)).await;

    assert_eq!(fetches.get(), 3);
    assert_eq!(id(kept.current()), Some(keys("AKID3", None).digest()));
}

#[tokio::test(start_paused = true)]
async fn what_is_valid_stays_in_use_while_renewals_fail() {
    let kept = Kept::unasked();
    let attempts = RefCell::new(Vec::new());
    let fetch = || {
        let known = id(kept.current());
        attempts.borrow_mut().push((Instant::now(), known));
        let answer = match attempts.borrow().len() {
            1 => Ok(in_an_hour("OLD")),
            2..12 => Err(anyhow!("no route to the metadata service")),
            _ => Ok(in_an_hour("NEW")),
        };
        async { answer }
    };
    let old = in_an_hour("OLD").digest();
    let _ = timeout(HOUR * 24, kept.renew("test", fetch)).await;

    let attempts = attempts.take();
    assert!(attempts[1..12].iter().all(|(_, known)| *known == Some(old)), "{attempts:?}");
    assert_ne!(attempts[12].1, Some(old));
    // Further and further apart, but never far.
    let pauses: Vec<_> = attempts[1..12].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(pauses[0] <= RETRY.first, "{pauses:?}");
    assert!(pauses[9] > RETRY.first * 4, "{pauses:?}");
    assert!(pauses.iter().all(|pause| (SHORTEST_PAUSE..=RETRY.longest).contains(pause)), "{pauses:?}");
}

#[test]
fn what_has_expired_is_forgotten_when_the_source_fails() {
    let kept = Kept::unasked();
    let fails = || kept.failed("test", 2, &anyhow!("no"));

    kept.publish("test", keys("AKID", Some(SystemTime::now() + Duration::from_millis(10_500))));
    assert!(fails() <= Duration::from_millis(10_500), "tried again only after they have expired");
    assert!(kept.found.load().is_some());

    kept.publish("test", keys("AKID", None));
    fails();
    assert!(kept.found.load().is_some());

    kept.publish("test", keys("AKID", Some(SystemTime::now() - SHORTEST_PAUSE)));
    fails();
    assert!(kept.found.load().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_offers_expired_ones_or_never_answers_has_failed() {
    let expired = keys("AKID", Some(SystemTime::now() - SHORTEST_PAUSE));
    let e = valid(async { Ok(expired) }).await.unwrap_err();
    assert!(e.to_string().contains("as expired at"), "{e:#}");

    let began = Instant::now();
    let e = valid(std::future::pending()).await.unwrap_err();
    assert!(format!("{e:#}").contains("no answer"), "{e:#}");
    assert_eq!(began.elapsed(), LONGEST_FETCH);
}

#[test]
fn renewals_come_before_expiry_and_are_spread() {
    let minutes = |count: u64| Duration::from_secs(count * 60);
    for _ in 0..1000 {
        let long = renewal(minutes(360));
        assert!((minutes(345)..=minutes(350)).contains(&long), "{long:?}");
        let short = renewal(minutes(12));
        assert!((minutes(9)..=minutes(10)).contains(&short), "{short:?}");
    }
    let distinct: std::collections::HashSet<_> = (0..100).map(|_| renewal(HOUR)).collect();
    assert!(distinct.len() > 50, "{}", distinct.len());
}

#[tokio::test]
async fn given_keys_are_there_at_once_and_have_no_task() {
    let secret = |text: &str| Secret::new(text.to_owned());
    let credentials = Credentials::new(&secret("AKID"), &secret("secret"), None);
    let keeper = Keeper::of(&Source::Keys(credentials.clone()), &Handle::current());
    assert_eq!(id(keeper.current()), Some(credentials.digest()));
    assert_eq!(keeper.ready(Duration::ZERO).await.unwrap().digest(), credentials.digest());
    assert!(keeper.task.is_none());
    let shown = format!("{keeper:?} {:?}", Source::Keys(credentials));
    assert!(!shown.contains("secret") && !shown.contains("AKID"), "{shown}");
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_answer() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    write_profile(&file);
    let keeper = Keeper::of(&profile(&file), &Handle::current());
    assert!(keeper.current().is_none());
    let credentials = keeper.ready(Duration::from_secs(10)).await.unwrap();
    assert_eq!(id(keeper.current()), Some(credentials.digest()));
}

#[tokio::test]
async fn where_nothing_is_found_nobody_waits_twice() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = Keeper::of(&profile(&directory.path().join("missing")), &Handle::current());
    let refused = keeper.ready(Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(refused, GatewayError::NoCredential);
    // The source has answered, so an hour's patience is not used.
    let refused = timeout(Duration::from_secs(10), keeper.ready(HOUR)).await.unwrap();
    assert_eq!(refused.unwrap_err(), GatewayError::NoCredential);
}

#[tokio::test(start_paused = true)]
async fn with_expired_ones_the_source_is_waited_for_as_with_none() {
    let expired = || keys("OLD", Some(SystemTime::now() - SHORTEST_PAUSE));
    let keeper = |expected| {
        let kept = Arc::new(Kept::unasked());
        kept.found.store(Some(Arc::new(expired())));
        kept.expected.send_replace(expected);
        Keeper { kept, task: None }
    };

    let renewing = keeper(true);
    assert!(renewing.current().is_none());
    let began = Instant::now();
    let refused = renewing.ready(SHORTEST_PAUSE).await.unwrap_err();
    assert_eq!((refused, began.elapsed()), (GatewayError::NoCredential, SHORTEST_PAUSE));
    let fetch = || async {
        tokio::time::sleep(SHORTEST_PAUSE).await;
        Ok(in_an_hour("NEW"))
    };
    tokio::select! {
        credentials = renewing.ready(HOUR) => {
            assert_eq!(credentials.unwrap().digest(), in_an_hour("NEW").digest());
        }
        _ = renewing.kept.renew("test", fetch) => {}
    }

    // Whom a failed source has left with them does not wait for its next attempt.
    let began = Instant::now();
    let refused = keeper(false).ready(HOUR).await.unwrap_err();
    assert_eq!((refused, began.elapsed()), (GatewayError::NoCredential, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_expected_until_the_source_fails_and_when_it_has_answered_again() {
    let kept = Kept::unasked();
    let attempts = RefCell::new(Vec::new());
    let fetch = || {
        attempts.borrow_mut().push(*kept.expected.borrow());
        let answer = match attempts.borrow().len() {
            2 | 3 => Err(anyhow!("no")),
            _ => Ok(in_an_hour("AKID")),
        };
        async { answer }
    };
    let _ = timeout(HOUR * 2, kept.renew("test", fetch)).await;

    assert_eq!(attempts.take()[..5], [true, true, false, false, true]);
    assert!(!*kept.expected.borrow(), "nobody is asked now");
}

#[tokio::test]
async fn equal_sources_share_a_keeper_until_the_last_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    write_profile(&file);
    let runtime = Handle::current();
    let first = Keeper::of(&profile(&file), &runtime);
    first.ready(Duration::from_secs(10)).await.unwrap();

    let after_a_reload = Keeper::of(&profile(&file), &runtime);
    assert!(Arc::ptr_eq(&first, &after_a_reload));
    assert!(after_a_reload.current().is_some());
    let other = Keeper::of(&profile(&directory.path().join("other")), &runtime);
    assert!(!Arc::ptr_eq(&first, &other));
    assert_ne!(profile(&file).identity(), profile(&directory.path().join("other")).identity());

    let task = first.task.clone().unwrap();
    drop(first);
    assert!(!task.is_finished());
    drop(after_a_reload);
    timeout(Duration::from_secs(10), async {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(Keeper::of(&profile(&file), &runtime).current().is_none(), "what was dropped came back");
}
