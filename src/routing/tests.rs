use super::*;

fn matcher(text: &str) -> Matcher {
    // "[METHOD,…] [host]/path [priority]"
    let mut methods = None;
    let mut priority = 0;
    let mut place = "";
    for word in text.split(' ') {
        if word.contains('/') {
            place = word;
        } else if let Ok(number) = word.parse() {
            priority = number;
        } else {
            methods = Some(word.split(',').map(|m| m.parse().unwrap()).collect());
        }
    }
    let (hosts, path) = place.split_at(place.find('/').unwrap());
    let hosts = hosts.split(',').filter(|h| !h.is_empty()).map(|h| h.parse().unwrap()).collect();
    Matcher { hosts, path: path.parse().unwrap(), methods, priority }
}

fn table(routes: &[&'static str]) -> RouteTable<&'static str> {
    RouteTable::build(routes.iter().map(|text| (matcher(text), *text)))
}

#[track_caller]
fn check(table: &RouteTable<&'static str>, request: &str, expected: &str) {
    let (method, url) = request.split_once(' ').unwrap();
    let (host, path) = url.split_at(url.find('/').unwrap());
    let got = match table.find(host, &method.parse().unwrap(), path) {
        Outcome::Found { id, value, suffix, captures } => {
            assert_eq!(table.get(id), Some(value));
            let captures = captures.iter().map(|at| format!(" {{{}}}", &path[at.clone()]));
            let suffix = suffix.map(|suffix| format!(" + {suffix}")).unwrap_or_default();
            format!("{value}{}{suffix}", captures.collect::<String>())
        }
        Outcome::MethodNotAllowed { allow } => {
            format!("allow {}", allow.iter().map(Method::as_str).collect::<Vec<_>>().join(","))
        }
        Outcome::NotFound => "none".into(),
    };
    assert_eq!(got, expected, "{request}");
}

#[test]
fn exact_paths_go_before_prefixes_and_long_prefixes_before_short_ones() {
    let t = table(&["/*", "/hello", "/hello/*", "/hello/deep/*", "/hello/world"]);
    check(&t, "GET h/", "/* + ");
    check(&t, "GET h/other", "/* + other");
    check(&t, "GET h/hello", "/hello");
    check(&t, "GET h/hello/", "/hello/* + ");
    check(&t, "GET h/hello/world", "/hello/world");
    check(&t, "GET h/hello/world/", "/hello/* + world/");
    check(&t, "GET h/hello/deep", "/hello/* + deep");
    check(&t, "GET h/hello/deep/er", "/hello/deep/* + er");
    check(&t, "GET h/hello/a%2Fb//c", "/hello/* + a%2Fb//c");
}

#[test]
fn no_route_takes_what_none_may() {
    let t = table(&["/any", "/named GET,TRACE,POST"]);
    check(&t, "TRACE h/any", "allow DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT");
    check(&t, "PROPFIND h/any", "/any");
    check(&t, "TRACE h/named", "allow GET,POST");
    check(&t, "CONNECT h/named", "allow GET,POST");
    check(&t, "TRACE h/none", "none");
}

#[test]
fn a_prefix_does_not_match_its_own_name() {
    let t = table(&["/hello/*"]);
    check(&t, "GET h/hello", "none");
    check(&t, "GET h/hellos", "none");
    check(&t, "GET h//hello/x", "none");
}

#[test]
fn a_parameter_is_any_one_segment() {
    let t = table(&["/fn/{name}/*", "/fn/{name}", "/{a}/x/{b}"]);
    check(&t, "GET h/fn/resize", "/fn/{name} {resize}");
    check(&t, "GET h/fn/resize/", "/fn/{name}/* {resize} + ");
    check(&t, "GET h/fn/a%2Fb/c/d", "/fn/{name}/* {a%2Fb} + c/d");
    check(&t, "GET h/q/x/r", "/{a}/x/{b} {q} {r}");
    check(&t, "GET h/fn/x/r", "/{a}/x/{b} {fn} {r}");
    check(&t, "GET h/fn", "none");
    check(&t, "GET h/fn/", "none");
    check(&t, "GET h/fn//x", "none");
    check(&t, "GET h/q/x/", "none");
}

#[test]
fn a_literal_goes_before_a_parameter_and_does_not_hide_it() {
    let t = table(&["/fn/{name}/run", "/fn/admin/*", "/fn/{name}/*", "/fn/admin/{x}/y", "/{a}/admin/*"]);
    check(&t, "GET h/fn/admin/run", "/fn/{name}/run {admin}");
    check(&t, "GET h/fn/admin/other", "/fn/admin/* + other");
    check(&t, "GET h/fn/admin/z/y", "/fn/admin/{x}/y {z}");
    check(&t, "GET h/fn/admin/z/z", "/fn/admin/* + z/z");
    check(&t, "GET h/fn/other/z", "/fn/{name}/* {other} + z");
    check(&t, "GET h/gn/admin/z", "/{a}/admin/* {gn} + z");
}

#[test]
fn a_parameters_route_stands_back_when_the_method_is_not_its_own() {
    let t = table(&["GET /fn/admin", "POST /fn/{name}"]);
    check(&t, "POST h/fn/admin", "POST /fn/{name} {admin}");
    check(&t, "PUT h/fn/admin", "allow GET,POST");
}

#[test]
fn hosts_go_from_exact_to_wildcard_to_any() {
    let t = table(&["/x", "*.example.org/x", "*.b.example.org/x", "a.b.example.org/x", "only.example/y"]);
    check(&t, "GET a.b.example.org/x", "a.b.example.org/x");
    check(&t, "GET A.B.Example.ORG.:8080/x", "a.b.example.org/x");
    check(&t, "GET c.b.example.org/x", "*.b.example.org/x");
    check(&t, "GET d.c.b.example.org/x", "*.b.example.org/x");
    check(&t, "GET z.example.org/x", "*.example.org/x");
    check(&t, "GET example.org/x", "/x");
    check(&t, "GET only.example/x", "/x");
    check(&t, "GET other.example/y", "none");
}

#[test]
fn a_bare_star_is_any_host() {
    let t = table(&["*/ext/*"]);
    check(&t, "GET api.example.com/ext/openfunction", "*/ext/* + openfunction");
}

#[test]
fn addresses_are_hosts_too() {
    let t = table(&["127.0.0.1/x"]);
    check(&t, "GET 127.0.0.1:9080/x", "127.0.0.1/x");
    check(&t, "GET [::1]:9080/x", "none");
}

#[test]
fn methods_narrow_and_405_names_all_of_them() {
    let t = table(&["GET,HEAD /x", "POST /x", "/y", "DELETE /y", "PUT h/*"]);
    check(&t, "GET h/x", "GET,HEAD /x");
    check(&t, "POST h/x", "POST /x");
    check(&t, "DELETE i/x", "allow GET,HEAD,POST");
    check(&t, "DELETE h/y", "DELETE /y");
    check(&t, "GET h/y", "/y");
    check(&t, "PUT h/x", "PUT h/* + x");
    check(&t, "PATCH h/z", "allow PUT");
}

#[test]
fn priority_breaks_ties() {
    let t = table(&["/x", "/x 5", "GET /x 1"]);
    check(&t, "GET h/x", "/x 5");
}

#[track_caller]
fn ambiguous(routes: &[&str], expected: Option<(usize, usize)>) {
    let matchers: Vec<_> = routes.iter().map(|text| matcher(text)).collect();
    let found = ambiguities(&matchers.iter().collect::<Vec<_>>());
    assert_eq!(found.first().map(|a| (a.first, a.second)), expected, "{routes:?}");
}

#[test]
fn routes_that_can_never_be_told_apart_are_found() {
    ambiguous(&["/x", "/y", "/x"], Some((0, 2)));
    ambiguous(&["GET /x", "GET,POST /x"], Some((0, 1)));
    ambiguous(&["a.example,b.example/x", "b.example/x"], Some((0, 1)));
    ambiguous(&["/x", "*/x"], Some((0, 1)));
    ambiguous(&["/x", "/x 1"], None);
    ambiguous(&["GET /x", "POST /x", "/x"], None);
    ambiguous(&["/x", "/x/*"], None);
    ambiguous(&["/fn/{a}/*", "/fn/{b}/*"], Some((0, 1)));
    ambiguous(&["/fn/{a}", "/fn/a"], None);
    ambiguous(&["a.example/x", "/x"], None);
    ambiguous(&["a.example,a.example/x"], None);
}

#[test]
fn the_losers_are_told_why() {
    let t = table(&["a.example/x", "/y", "POST /x", "/x", "/*", "/{p}", "/{p}/*"]);
    let verdicts = t.explain("b.example", &Method::GET, "/x");
    assert_eq!(
        verdicts,
        [
            Standing::OtherHost,
            Standing::OtherPath,
            Standing::OtherMethod,
            Standing::Wins,
            Standing::Outranked,
            Standing::Outranked,
            Standing::BeginsBelow,
        ]
    );
}

#[test]
fn patterns_are_checked() {
    for bad in
        ["x", "/x*", "/a/*/b", "/a b", "/a?b", "/../x", "/é", "/a%2", "/a{b}", "/{}", "/{A}", "/{a}/{a}"]
    {
        assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
    }
    for bad in ["http://x", "x:80", "*x.org", "a.*.org", "", "a..b", "-x"] {
        assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
    }
    assert_eq!("*.Example.ORG".parse::<HostPattern>().unwrap(), HostPattern::Below("example.org".into()));
}
