//! Of `[edge]` and of how `[app]` gets its requests.

use super::*;

#[test]
fn pages_that_cannot_be() {
    for (line, code, place) in [
        ("404x = \"/a.html\"", Code::C002, "\"/a.html\""),
        ("399 = \"/a.html\"", Code::C002, "\"/a.html\""),
        ("+503 = \"/a.html\"", Code::C001, "+"),
        ("\"0503\" = \"/a.html\"", Code::C002, "\"/a.html\""),
        ("3xx = \"/a.html\"", Code::C002, "\"/a.html\""),
        ("503 = \"a.html\"", Code::C002, "\"a.html\""),
        ("503 = \"/../a.html\"", Code::C002, "\"/../a.html\""),
        ("503 = \"/etc/shadow\"", Code::C006, "\"/etc/shadow\""),
        ("503 = \"/a.php\"", Code::C006, "\"/a.php\""),
    ] {
        let pages = format!("[edge.errors]\n{line}\n\n[app]");
        if code == Code::C001 {
            assert_eq!(errors(&ONE.replacen("[app]", &pages, 1))[0].code, code);
            continue;
        }
        one(ONE, "[app]", &pages, code, place);
    }
}

#[test]
fn compression_that_cannot_be() {
    for (line, code, place) in [
        ("codings = [\"deflate\"]", Code::C002, "\"deflate\""),
        ("codings = [\"br\", \"GZIP\"]", Code::C002, "\"GZIP\""),
        ("codings = []", Code::C006, "[]"),
        ("types = []", Code::C006, "[]"),
        ("types = [\"*/*\"]", Code::C002, "\"*/*\""),
        ("types = [\"html\"]", Code::C002, "\"html\""),
        (
            "types = [\"text/html; charset=utf-8\"]",
            Code::C002,
            "\"text/html; charset=utf-8\"",
        ),
        ("min = \"-1B\"", Code::C002, "\"-1B\""),
        ("level = 9", Code::C004, "level"),
    ] {
        let compress = format!("[edge.compress]\n{line}\n\n[app]");
        one(ONE, "[app]", &compress, code, place);
    }
    let twice = "[edge.compress]\ncodings = [\"br\", \"br\"]\n\n[app]";
    assert_eq!(errors(&ONE.replacen("[app]", twice, 1))[0].code, Code::C005);
}

#[test]
fn keeping_that_cannot_be() {
    for (line, code, place) in [
        ("memory = \"1KiB\"", Code::C002, "\"1KiB\""),
        ("largest = \"0B\"", Code::C002, "\"0B\""),
        ("paths = [\"news\"]", Code::C002, "\"news\""),
        ("longest = \"2d\"", Code::C002, "\"2d\""),
        ("unsaid = \"2d\"", Code::C002, "\"2d\""),
        ("stale_if_error = \"2d\"", Code::C002, "\"2d\""),
        ("stale_while_revalidate = \"-1s\"", Code::C002, "\"-1s\""),
        ("bypass_cookies = [\"a b\"]", Code::C002, "\"a b\""),
        ("stale = true", Code::C004, "stale"),
    ] {
        let cache = format!("[edge.cache]\n{line}\n\n[app]");
        one(ONE, "[app]", &cache, code, place);
    }
}

#[test]
fn limits_that_cannot_be() {
    for (line, code, place) in [
        ("head = \"1KiB\"", Code::C002, "\"1KiB\""),
        ("head = \"1MiB\"", Code::C002, "\"1MiB\""),
        ("head = \"8KiB\"", Code::C006, "\"8KiB\""),
        ("request_line = \"32KiB\"", Code::C006, "\"32KiB\""),
        ("fields = 129", Code::C002, "129"),
        ("body = \"0B\"", Code::C002, "\"0B\""),
        ("body = 5", Code::C002, "5"),
        ("body_rate = \"fast\"", Code::C002, "\"fast\""),
        ("head_timeout = \"1ms\"", Code::C002, "\"1ms\""),
        ("client = { rate = 0 }", Code::C002, "0"),
        ("client = { requests = -1 }", Code::C002, "-1"),
        ("client = { burst = 5 }", Code::C006, "5"),
        ("client = { prefix_v4 = 33 }", Code::C002, "33"),
        (
            "client = { exempt = [\"10.0.0.1/8\"] }",
            Code::C002,
            "\"10.0.0.1/8\"",
        ),
        ("clients = { rate = 5 }", Code::C004, "clients"),
    ] {
        let limits = format!("[edge.limits]\n{line}\n\n[app]");
        one(ONE, "[app]", &limits, code, place);
    }
}

#[test]
fn proxies_that_cannot_be() {
    for (line, code, place) in [
        ("proxy_protocol = true", Code::C006, "true"),
        ("trusted_proxies = [\"10.0.0.1/8\"]", Code::C002, "\"10.0.0.1/8\""),
        ("request_ids = true", Code::C004, "request_ids"),
    ] {
        let edge = format!("[edge]\n{line}\n\n[app]");
        one(ONE, "[app]", &edge, code, place);
    }
}

#[test]
fn dispatching_that_cannot_be() {
    for (line, code, place) in [
        ("balance = \"fastest\"", Code::C002, "\"fastest\""),
        ("hash_key = \"target\"", Code::C006, "\"target\""),
        (
            "balance = \"hash\"\nhash_key = \"cookie:\"",
            Code::C002,
            "\"cookie:\"",
        ),
        ("proxy_protocol = \"v3\"", Code::C002, "\"v3\""),
        (
            "protocol = \"h2c\"\nproxy_protocol = \"v2\"",
            Code::C006,
            "\"v2\"",
        ),
        ("sticky_cookie = \"a b\"", Code::C002, "\"a b\""),
        ("sticky_cookie = \"\"", Code::C002, "\"\""),
        ("slow_start = 30", Code::C002, "30"),
        ("panic = \"101%\"", Code::C002, "\"101%\""),
        ("outliers = { failures = 0 }", Code::C002, "0"),
        (
            "outliers = { eject = \"10m\", max_eject = \"5m\" }",
            Code::C002,
            "\"5m\"",
        ),
        ("outliers = { eject = \"10m\" }", Code::C002, "\"10m\""),
        ("max_in_flight = 0", Code::C002, "0"),
        ("prefer = \"near\"", Code::C002, "\"near\""),
        ("balance = \"hash\"\nprefer = \"local\"", Code::C006, "\"local\""),
        ("queue = { size = 5 }", Code::C006, "5"),
        (
            "max_in_flight = 9\nqueue = { wait = \"0s\" }",
            Code::C002,
            "\"0s\"",
        ),
        ("answer_timeout = \"0s\"", Code::C002, "\"0s\""),
        (
            "routes = [{ path = \"export\", body = \"1GiB\" }]",
            Code::C002,
            "\"export\"",
        ),
        (
            "routes = [{ path = \"/export\" }]",
            Code::C006,
            "{ path = \"/export\" }",
        ),
        (
            "routes = [{ path = \"/x\", body = \"1GiB\" }, { path = \"/x\", body = \"2GiB\" }, { path = \"/y\", body = \"2GiB\" }]",
            Code::C005,
            "\"/x\"",
        ),
    ] {
        let app = format!("[app]\n{line}\n");
        one(ONE, "[app]\n", &app, code, place);
    }
    let weight = "name = \"a\"\nweight = 0\n";
    one(TWO, "name = \"a\"\n", weight, Code::C002, "0");
    let weight = "name = \"a\"\ndns_weight = 11\n";
    one(TWO, "name = \"a\"\n", weight, Code::C002, "11");
}
