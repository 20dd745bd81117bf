use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn a_file_written_in_place() {
    let place = Place::new();
    place.write("a.yaml", "1");
    let mut watch = place.watch(&["a.yaml"]);

    place.write("a.yaml", "2");

    noticed(&mut watch).await;
}

#[tokio::test]
async fn a_file_renamed_over() {
    let place = Place::new();
    place.write("a.yaml", "1");
    let mut watch = place.watch(&["a.yaml"]);

    // The second time the file is another one than that which was there when the watch began.
    for round in ["2", "3"] {
        place.write("draft", round);
        fs::rename(place.path("draft"), place.path("a.yaml")).unwrap();
        noticed(&mut watch).await;
    }
}

#[tokio::test]
async fn a_config_map_whose_link_is_swapped() {
    let place = Place::new();
    place.write("..1/a.yaml", "1");
    symlink("..1", place.path("..data")).unwrap();
    symlink("..data/a.yaml", place.path("a.yaml")).unwrap();
    let mut watch = place.watch(&["a.yaml"]);

    for (old, new) in [("..1", "..2"), ("..2", "..3")] {
        place.write(&format!("{new}/a.yaml"), new);
        symlink(new, place.path("..data_tmp")).unwrap();
        fs::rename(place.path("..data_tmp"), place.path("..data")).unwrap();
        noticed(&mut watch).await;
        fs::remove_dir_all(place.path(old)).unwrap();
        watch.follow(&[place.path("a.yaml")]);
        settled(&mut watch).await;
    }
}

#[tokio::test]
async fn a_link_on_the_way_that_is_swapped() {
    let place = Place::new();
    place.write("v1/conf/a.yaml", "1");
    place.write("v2/conf/a.yaml", "2");
    symlink("v1", place.path("current")).unwrap();
    let mut watch = place.watch(&["current/conf/a.yaml"]);

    symlink("v2", place.path("next")).unwrap();
    fs::rename(place.path("next"), place.path("current")).unwrap();

    noticed(&mut watch).await;
}

#[tokio::test]
async fn a_file_that_appears_in_a_directory_of_a_pattern() {
    let place = Place::new();
    place.write("conf.d/a.yaml", "1");
    let mut watch = place.watch(&["conf.d", "conf.d/a.yaml"]);

    place.write("conf.d/b.yaml", "1");

    noticed(&mut watch).await;
}

#[tokio::test]
async fn a_directory_that_disappears_and_comes_back() {
    let place = Place::new();
    place.write("conf.d/a.yaml", "1");
    let mut watch = place.watch(&["conf.d", "conf.d/a.yaml"]);

    fs::remove_dir_all(place.path("conf.d")).unwrap();
    noticed(&mut watch).await;
    watch.follow(&[place.path("conf.d")]);
    settled(&mut watch).await;

    fs::create_dir(place.path("conf.d")).unwrap();
    noticed(&mut watch).await;
    watch.follow(&[place.path("conf.d")]);
    settled(&mut watch).await;

    place.write("conf.d/a.yaml", "2");
    noticed(&mut watch).await;
}

#[tokio::test]
async fn a_directory_that_another_one_takes_the_place_of() {
    let place = Place::new();
    place.write("conf.d/a.yaml", "1");
    place.write("next/a.yaml", "2");
    let mut watch = place.watch(&["conf.d/a.yaml"]);

    fs::rename(place.path("conf.d"), place.path("former")).unwrap();
    fs::rename(place.path("next"), place.path("conf.d")).unwrap();
    noticed(&mut watch).await;
    watch.follow(&[place.path("conf.d/a.yaml")]);
    settled(&mut watch).await;

    place.write("conf.d/a.yaml", "3");
    noticed(&mut watch).await;
}

#[tokio::test]
async fn a_file_that_is_missing_and_its_directories_too() {
    let place = Place::new();
    let mut watch = place.watch(&["x/y/a.yaml"]);
    for step in ["x", "x/y"] {
        fs::create_dir(place.path(step)).unwrap();
        noticed(&mut watch).await;
        watch.follow(&[place.path("x/y/a.yaml")]);
        settled(&mut watch).await;
    }

    place.write("x/y/a.yaml", "1");

    noticed(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_change() {
    let mut watch = Watch::new();
    let change = watch.changed.clone();
    let burst = async {
        for _ in 0..5 {
            let _ = change.try_send(());
            tokio::time::sleep(QUIET / 2).await;
        }
    };

    tokio::join!(burst, noticed(&mut watch));

    silent(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn changes_without_an_end_are_told_nevertheless() {
    let mut watch = Watch::new();
    let change = watch.changed.clone();
    let changing = async {
        loop {
            let _ = change.try_send(());
            tokio::time::sleep(QUIET / 10).await;
        }
    };

    let begun = Instant::now();
    tokio::select! {
        never = changing => never,
        () = watch.changed() => {}
    }

    let took = begun.elapsed();
    assert!((LONGEST_BURST..LONGEST_BURST + QUIET).contains(&took), "{took:?}");
}

#[tokio::test]
async fn what_is_no_change_of_ours() {
    let place = Place::new();
    place.write("a.yaml", "1");
    place.write("access.log", "");
    place.write("conf.d/b.yaml", "1");
    let mut watch = place.watch(&["a.yaml", "conf.d", "conf.d/b.yaml"]);

    fs::read(place.path("a.yaml")).unwrap();
    fs::read_dir(place.path("conf.d")).unwrap().for_each(drop);
    place.write("access.log", "a line");
    place.write("neighbour", "");
    fs::remove_file(place.path("neighbour")).unwrap();
    watch.follow(&["a.yaml", "conf.d", "conf.d/b.yaml"].map(|name| place.path(name)));

    silent(&mut watch).await;
}

#[tokio::test]
async fn without_a_watcher_there_is_silence() {
    let mut watch = Watch { watcher: None, ..Watch::new() };
    watch.follow(&["/etc/hosts".into()]);
    silent(&mut watch).await;
}

#[test]
fn links_in_a_circle_have_an_end() {
    let place = Place::new();
    symlink("b", place.path("a")).unwrap();
    symlink("a", place.path("b")).unwrap();
    let wanted = Wanted::of(&[place.path("a")]);
    assert_eq!(wanted.names, BTreeSet::from([place.path("a"), place.path("b")]));
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn watch(&self, names: &[&str]) -> Watch {
        let mut watch = Watch::new();
        watch.follow(&names.iter().map(|name| self.path(name)).collect::<Vec<_>>());
        watch
    }
}

async fn noticed(watch: &mut Watch) {
    tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("a change is noticed");
}

/// Takes what earlier steps of the test left behind.
async fn settled(watch: &mut Watch) {
    while tokio::time::timeout(LONGEST_BURST, watch.changed()).await.is_ok() {}
}

/// That nothing is told for as long as a change would take.
async fn silent(watch: &mut Watch) {
    assert!(tokio::time::timeout(LONGEST_BURST * 2, watch.changed()).await.is_err());
}
