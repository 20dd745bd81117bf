use super::*;

#[test]
fn the_smallest_file_loads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yaml");
    fs::write(&path, "routes:\n  - name: hello\n    match: { path: /hello/* }\n    target: { openfunction: { function_uri: 'http://127.0.0.1:1/fn' } }\n").unwrap();
    let loaded = load(&path);
    println!("{}", loaded.report.render(Style::Plain));
    assert!(loaded.plan.is_some());
}
#[test]
fn show() {
    let Ok(path) = std::env::var("SHOW") else { return };
    let loaded = load(Path::new(&path));
    println!("{}", loaded.report.render(Style::Plain));
}
#[test]
fn timing() {
    for n in [1000, 10000] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.yaml");
        let mut t = String::from("routes:\n");
        for i in 0..n {
            t.push_str(&format!("  - name: hello-{i}\n    match: {{ path: /hello/{i}/* }}\n    target:\n      openfunction:\n        function_uri: http://127.0.0.1:1/fn\n        timeout: 3s\n        authorization: {{ service_token: \"a:b\" }}\n"));
        }
        fs::write(&path, &t).unwrap();
        let s = std::time::Instant::now();
        let (r, f) = tree::parse(&t, 0);
        println!("{} bytes parse {:?} {}", t.len(), s.elapsed(), r.is_some());
        for x in f {
            println!("{}", x.message);
        }
        let s = std::time::Instant::now();
        let sc = schema();
        println!("schema {:?}", s.elapsed());
        let s = std::time::Instant::now();
        let sc = Shape::of(&sc);
        println!("shape {:?}", s.elapsed());
        let s = std::time::Instant::now();
        let loaded = load(&path);
        println!("load {:?}", s.elapsed());
        assert!(loaded.plan.is_some());
    }
}
