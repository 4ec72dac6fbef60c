//! `[ip]` where somebody's API moves the addresses.

use pontoon_config::Config;
use pontoon_fleet::Code;

use super::{TWO, one};

/// `[ip]` where a provider moves the addresses.
#[test]
fn what_a_provider_needs_and_does_not() {
    let arp = "method = \"arp\"";
    let targets = |a: &str, b: &str| {
        format!(
            "method = \"hetzner-cloud\"\ncredentials = {{ file = \"/k\" }}\ntargets = {{ a = \"{a}\", b = \"{b}\" }}"
        )
    };
    let good = targets("4711", "4712");
    Config::parse(&TWO.replacen(arp, &good, 1)).unwrap();
    for (method, a, b) in [
        ("digitalocean", "4711", "4712"),
        ("hetzner-robot", "198.51.100.1", "198.51.100.2"),
        ("ovh", "ns1.ip-198-51-100.eu", "ns2.ip-198-51-100.eu"),
    ] {
        Config::parse(&TWO.replacen(arp, &targets(a, b).replace("hetzner-cloud", method), 1)).unwrap();
    }
    for (a, b, place) in [
        ("4711", "4711", "\"4711\""),
        ("4711", "x", "\"x\""),
        ("4711", "", "\"\""),
        ("4711", "../../etc", "\"../../etc\""),
    ] {
        one(TWO, arp, &targets(a, b), Code::C002, place);
    }
    one(
        TWO,
        arp,
        &targets("4711", "x").replace("hetzner-cloud", "hetzner-robot"),
        Code::C002,
        "\"4711\"",
    );
    one(
        TWO,
        arp,
        &good.replace("/k", "hunter2"),
        Code::C007,
        "\"hunter2\"",
    );
    one(
        TWO,
        arp,
        &good.replace("credentials = { file = \"/k\" }\n", ""),
        Code::C003,
        "\"hetzner-cloud\"",
    );
    one(
        TWO,
        arp,
        &good.replace(", b = \"4712\"", ""),
        Code::C003,
        "{ a = \"4711\" }",
    );
    let more = "{ a = \"4711\", b = \"4712\", c = \"4713\" }";
    one(
        TWO,
        arp,
        &good.replace("{ a = \"4711\", b = \"4712\" }", more),
        Code::C006,
        more,
    );
    one(TWO, arp, &format!("{good}\nfast = true"), Code::C006, "true");
    one(
        TWO,
        arp,
        &format!("{good}\ntimeout = \"2h\""),
        Code::C002,
        "\"2h\"",
    );
    one(
        TWO,
        arp,
        &format!("{good}\nendpoint = \"nowhere\""),
        Code::C002,
        "\"nowhere\"",
    );
    one(
        TWO,
        arp,
        "method = \"exec\"\nexec = \"move\"",
        Code::C002,
        "\"move\"",
    );
    let alone = TWO.replacen("\"auto\"", "\"off\"", 1).replacen(
        "durability = \"two-copies\"",
        "durability = \"one-copy\"",
        1,
    );
    let (before, rest) = alone.split_once("[lease]").unwrap();
    let alone = format!(
        "{before}{}",
        rest.split_once("[assets]")
            .map(|(_, rest)| format!("[ip]{}", rest.split_once("[ip]").unwrap().1))
            .unwrap()
    );
    one(&alone, arp, &good, Code::C006, "\"hetzner-cloud\"");
}
