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
