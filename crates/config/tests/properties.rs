//! Whatever is typed: no panic, an error has a place, and what is printed is read back as the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a panic is the report

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pontoon_config::edit::{ServerEntry, add_server, remove_server};
use pontoon_config::{
    Acme, AddressMethod, Addresses, AfterWrite, App, Assets, Backup, Cache, Capacity, ClientCertificate,
    Config, CopyMethod, Credentials, Db, Dns, DnsHook, DnsTransfer, DnsUpdate, Dnssec, Durability, Edge,
    EtcdTls, Failover, Fleet, Hosted, Lease, LeaseStore, Overrides, Places, Reads, Server, Tls, WhenAlone,
    not_yet, render_all,
};
use pontoon_fleet::{
    AppProtocol, BalanceRule, CacheRules, CertificateFiles, ClientLimits, Compress, Dispatch, EdgeAnswers,
    EdgeFront, EdgeLimits, Engine, HashKey, HealthCheck, ListenAddress, OutlierRules, PathRule, Prefer,
    ProxyProtocol, QueueRules, RetryPolicy, Role, TlsVersion,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{RngSeed, TestRunner};

const SAMPLES: [&str; 3] = [
    include_str!("../examples/fleet-1.toml"),
    include_str!("../examples/fleet-2.toml"),
    include_str!("../examples/fleet-6.toml"),
];

/// Parses; when there are errors, each must have a place within the text and be drawable. Says whether there were.
fn is_refused_well(text: &str) -> bool {
    match Config::parse(text) {
        Ok(config) => {
            not_yet(&config);
            false
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                let span = error.span.clone().expect("a place");
                assert!(
                    span.start <= span.end && span.end <= text.len(),
                    "{span:?} of {}",
                    text.len()
                );
                assert!(!error.message.is_empty());
            }
            assert!(render_all(&errors, text, "fleet.toml").lines().count() >= 4);
            true
        }
    }
}

/// One careless or hostile change to a text.
#[derive(Clone, Debug)]
enum Change {
    Delete(usize, usize),
    Insert(usize, String),
    Swap(usize, usize),
    Value(usize, String),
    Key(usize, String),
}

fn changes() -> impl Strategy<Value = Change> {
    let pieces = select(vec![
        "=",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "\n",
        "#",
        ",",
        ".",
        "[[server]]",
        "\"\"\"",
        "\\u0000",
        "\u{0}",
        "é",
        "日本",
        "\u{202e}",
        "\t",
        "1e999",
        "-1",
        "nan",
        "1979-05-27",
        "true",
        "version = 1\n",
        "x = 1\n",
        "[db]\n",
        "\r\n",
    ]);
    let values = select(vec![
        "\"\"",
        "0",
        "-1",
        "99999999999999999999999",
        "\"10\"",
        "\"-5s\"",
        "\"1e9s\"",
        "[]",
        "{}",
        "[[]]",
        "true",
        "\"0.0.0.0:0\"",
        "\"::1\"",
        "\"[::]:80\"",
        "\"/\"",
        "\"../x\"",
        "nan",
        "1979-05-27T07:32:00Z",
        "\"é\"",
        "{ a = 1 }",
        "\"999999999999999d\"",
        "\"101%\"",
        "[\"a\", 1]",
        "0xffff_ffff_ffff_ffff_f",
        "\"hunter2\"",
    ]);
    let keys = select(vec![
        "x", "port", "listn", "\"\"", "a.b.c", "password", "server", "'q'", "version", "max_lagg",
    ]);
    let at = 0usize..4_000;
    prop_oneof![
        (at.clone(), 1usize..40).prop_map(|(at, len)| Change::Delete(at, len)),
        (at.clone(), pieces).prop_map(|(at, piece)| Change::Insert(at, piece.to_owned())),
        (at.clone(), any::<char>()).prop_map(|(at, c)| Change::Insert(at, c.to_string())),
        (at.clone(), at.clone()).prop_map(|(one, other)| Change::Swap(one, other)),
        (at.clone(), values).prop_map(|(at, value)| Change::Value(at, value.to_owned())),
        (at, keys).prop_map(|(at, key)| Change::Key(at, key.to_owned())),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let floor = |at: usize| {
        let mut at = at % (text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let lines = || text.lines().map(str::to_owned).collect::<Vec<_>>();
    match change {
        Change::Delete(at, len) => {
            let start = floor(*at);
            let end = floor((start + len).min(text.len())).max(start);
            format!("{}{}", &text[..start], &text[end..])
        }
        Change::Insert(at, piece) => {
            let at = floor(*at);
            format!("{}{piece}{}", &text[..at], &text[at..])
        }
        Change::Swap(one, other) => {
            let mut lines = lines();
            let count = lines.len().max(1);
            if !lines.is_empty() {
                lines.swap(one % count, other % count);
            }
            lines.join("\n")
        }
        Change::Value(at, value) | Change::Key(at, value) => {
            let mut lines = lines();
            let settings: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ")).collect();
            if let Some(line) = settings.get(at % settings.len().max(1)) {
                let (key, old) = lines[*line]
                    .split_once(" = ")
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .unwrap();
                let is_value = matches!(change, Change::Value(..));
                lines[*line] = if is_value {
                    format!("{key} = {value}")
                } else {
                    format!("{value} = {old}")
                };
            }
            lines.join("\n")
        }
    }
}

fn mutated() -> impl Strategy<Value = String> {
    (select(SAMPLES.to_vec()), prop::collection::vec(changes(), 1..6)).prop_map(|(text, changes)| {
        changes
            .iter()
            .fold(text.to_owned(), |text, change| apply(&text, change))
    })
}

/// An acceptance line of the project: generated malformed configurations, each refused with a place.
#[test]
fn a_thousand_malformed_configurations_each_give_a_place() {
    let config = ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(3_000)
    };
    let malformed = std::cell::RefCell::new(BTreeSet::new());
    TestRunner::new(config)
        .run(&mutated(), |text| {
            if is_refused_well(&text) {
                malformed.borrow_mut().insert(text);
            }
            Ok(())
        })
        .unwrap();
    let count = malformed.borrow().len();
    println!("{count} different malformed configurations");
    assert!(
        count >= 1_000,
        "only {count} of the generated configurations were malformed"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        is_refused_well(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_of_toml_s_own_characters_panics(text in "[a-z0-9=\\[\\]{}\"'.,# \n\\\\_-]{0,200}") {
        is_refused_well(&text);
    }

    #[test]
    fn no_override_panics(flag in "[a-z.]{0,20}(=.{0,20})?", name in "[A-Z_]{0,20}", value in ".{0,20}") {
        let name = format!("PONTOON_SET_{name}");
        let Ok(overrides) = Overrides::new([&flag], [(&name, &value)]) else { return Ok(()) };
        if let Err(errors) = Config::parse_with(SAMPLES[1], &overrides) {
            for error in &errors {
                let len = error.origin.as_ref().map_or(SAMPLES[1].len(), |origin| origin.text.len());
                let span = error.span.clone().expect("a place");
                prop_assert!(span.start <= span.end && span.end <= len);
            }
            render_all(&errors, SAMPLES[1], "f");
        }
    }

    #[test]
    fn no_edit_panics_and_what_it_gives_can_be_read(text in mutated(), octet in 1u8..250) {
        let entry = ServerEntry {
            name: "new".parse().unwrap(),
            private: IpAddr::from([10, 9, 9, octet]),
            public: Vec::new(),
            roles: None,
            zone: None,
        };
        if let Ok(after) = add_server(&text, &entry) {
            prop_assert!(Config::parse(&after).unwrap().server(&entry.name).is_some());
            let back = remove_server(&after, &entry.name).unwrap();
            prop_assert_eq!(Config::parse(&back).unwrap(), Config::parse(&text).unwrap());
        }
    }

    #[test]
    fn what_is_printed_is_read_back_as_the_same(config in configs()) {
        let text = config.to_toml();
        let again = Config::parse(&text).unwrap_or_else(|errors| panic!("{}", render_all(&errors, &text, "printed")));
        prop_assert_eq!(&again, &config);
        prop_assert_eq!(again.to_toml(), text);
    }
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let roles = subsequence(Role::ALL.to_vec(), 1..=5);
    let one = (
        roles,
        prop::option::of("[a-z][a-zA-Z0-9_.-]{0,20}"),
        any::<bool>(),
        0usize..3,
        any::<bool>(),
    );
    prop::collection::vec(one, 1..6).prop_map(|list| {
        let mut servers = Vec::new();
        for (index, (roles, zone, standby, public, v6)) in list.into_iter().enumerate() {
            let mut roles: BTreeSet<Role> = roles.into_iter().collect();
            if index == 0 {
                roles = Role::ALL.into();
            }
            let low = index as u8 + 1;
            let private = match v6 {
                true => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low.into())),
                false => IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)),
            };
            servers.push(Server {
                name: format!("s{index}").parse().unwrap(),
                private,
                public: (0..public)
                    .map(|n| IpAddr::from([203, 0, 113, low * 10 + n as u8]))
                    .collect(),
                standby: standby && index > 0 && roles.contains(&Role::Edge),
                weight: 1 + u32::from(low) % 3,
                dns_weight: u32::from(low) % 11,
                delay: None,
                source: None,
                roles,
                zone,
            });
        }
        servers
    })
}

fn limits() -> impl Strategy<Value = EdgeLimits> {
    let client = (
        prop::option::of(1u32..=1_000_000),
        prop::option::of(1u32..=1_000_000),
        (1u32..=1_000_000, 8u8..=32, 16u8..=128),
        subsequence(vec!["198.51.100.0/24", "2001:db8::/32", "203.0.113.9/32"], 0..=3),
    )
        .prop_map(
            |(requests, rate, (burst, prefix_v4, prefix_v6), exempt)| ClientLimits {
                requests,
                rate,
                burst: rate.map_or(0, |_| burst),
                prefix_v4,
                prefix_v6,
                exempt: exempt.into_iter().map(|text| text.parse().unwrap()).collect(),
            },
        );
    let spans = prop::collection::vec(prop::option::of(millis(1_000..=3_600_000)), 4);
    (
        prop::option::of((1024u32..=8192, 8193u32..=48 * 1024)),
        prop::option::of(8u32..=128),
        prop::option::of(1u64..=1 << 40),
        prop::option::of(0u64..=1 << 20),
        spans,
        client,
    )
        .prop_map(|(sizes, fields, body, body_rate, spans, client)| EdgeLimits {
            request_line: sizes.map(|(line, _)| line),
            head: sizes.map(|(_, head)| head),
            fields,
            body,
            head_timeout: spans[0],
            body_timeout: spans[1],
            body_rate,
            idle_timeout: spans[2],
            write_timeout: spans[3],
            client,
        })
}

fn apps() -> impl Strategy<Value = App> {
    let upstream = select(vec!["127.0.0.1:8080", "0.0.0.0:8081", "[::1]:9000"]);
    let health = (
        prop::option::of("/[a-z?=&\"\\\\]{0,12}"),
        prop::option::of(100u16..600),
        millis(10..=3_600_000),
        millis(10..=60_000),
        1u32..=100,
        1u32..=100,
    );
    let methods = subsequence(vec!["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"], 0..=6);
    (
        upstream,
        health,
        methods,
        0u32..=10,
        0u32..=100_000,
        millis(0..=3_600_000),
    )
        .prop_map(
            |(upstream, (path, expect, interval, timeout, fall, rise), methods, max, budget, drain)| App {
                upstream: upstream.parse().unwrap(),
                protocol: if max % 2 == 0 {
                    AppProtocol::Http1
                } else {
                    AppProtocol::H2c
                },
                balance: BalanceRule::ALL[max as usize % 4],
                health: HealthCheck {
                    expect: expect.filter(|_| path.is_some()),
                    path,
                    interval,
                    timeout,
                    fall,
                    rise,
                },
                retries: RetryPolicy {
                    methods: methods.into_iter().map(str::to_owned).collect(),
                    max,
                    budget,
                },
                drain,
                dispatch: dispatch(max, budget, drain, upstream.len()),
            },
        )
}

/// Made from what was drawn for the rest.
fn dispatch(max: u32, share: u32, span: Duration, odd: usize) -> Dispatch {
    let hashes = BalanceRule::ALL[max as usize % 4] == BalanceRule::Hash;
    let keys = ["address", "target", "field:X-User", "cookie:s"];
    let longer = span.max(Duration::from_secs(1));
    let rule = |path: &str, answer_timeout, body| PathRule {
        path: path.to_owned(),
        answer_timeout,
        body,
    };
    Dispatch {
        key: match hashes {
            true => keys[share as usize % 4].parse().unwrap(),
            false => HashKey::Address,
        },
        // With HTTP/2 one connection carries many visitors.
        proxy_protocol: max.is_multiple_of(2).then_some(match share.is_multiple_of(2) {
            true => ProxyProtocol::V1,
            false => ProxyProtocol::V2,
        }),
        sticky: share.is_multiple_of(3).then(|| "where-to".to_owned()),
        slow_start: span,
        prefer: match hashes {
            true => Prefer::Any,
            false => Prefer::ALL[share as usize % 3],
        },
        panic: share,
        outliers: share.is_multiple_of(2).then_some(OutlierRules {
            failures: max + 1,
            eject: longer,
            max_eject: longer * 2,
            max_share: share,
        }),
        max_in_flight: odd.is_multiple_of(2).then_some(share + 1),
        queue: match odd.is_multiple_of(2) {
            true => QueueRules {
                size: max,
                wait: longer,
            },
            false => QueueRules::default(),
        },
        answer_timeout: max.is_multiple_of(2).then_some(longer),
        routes: vec![
            rule("/a/", Some(longer), None),
            rule("/b?c=d", None, Some(1 << max)),
        ],
    }
}

fn dbs() -> impl Strategy<Value = Db> {
    let reads = (
        any::<bool>(),
        millis(250..=3_600_000),
        select(vec![AfterWrite::FleetWide, AfterWrite::Session]),
    )
        .prop_map(|(split, max_lag, after_write)| Reads {
            split,
            max_lag,
            after_write,
        });
    let choices = (
        prop::option::of(select(vec![Failover::Manual, Failover::Off])),
        prop::option::of(select(vec![Durability::OneCopy, Durability::TwoCopies])),
        prop::option::of(select(vec![WhenAlone::Continue, WhenAlone::Stop])),
        prop::option::of(reads),
    );
    let listen = subsequence(vec!["127.0.0.1:3306", "[::1]:3306", "/run/a b/\"m\\.sock"], 1..=3);
    let socket = prop::option::of("/run/[a-z \"\\\\]{1,20}");
    let engine = select(vec![Engine::Mariadb, Engine::Mysql, Engine::External]);
    (
        engine,
        any::<bool>(),
        listen,
        (3310u16..4000, prop::option::of(4001u16..5000)),
        socket,
        choices,
        (millis(0..=3_600_000), prop::option::of(backups())),
    )
        .prop_map(
            |(
                engine,
                proxy,
                listen,
                (server_port, health_port),
                socket,
                (failover, durability, when_alone, reads),
                (hold_writes, backup),
            )| {
                let external = engine == Engine::External;
                let proxy = proxy || external;
                let listen: Vec<ListenAddress> = listen
                    .into_iter()
                    .filter(|_| proxy)
                    .map(|text| text.parse().unwrap())
                    .collect();
                // With a Unix socket in `listen` the default is never "stays where it is".
                let has_unix = listen
                    .iter()
                    .any(|listen| matches!(listen, ListenAddress::Unix(_)));
                let server_socket = socket
                    .or(has_unix.then(|| "/run/x".to_owned()))
                    .map(PathBuf::from);
                let address = external.then(|| "db.example.com:3306".to_owned());
                Db {
                    engine,
                    address,
                    proxy,
                    listen,
                    server_port,
                    server_socket,
                    health_port,
                    failover,
                    durability,
                    acks: 1,
                    max_lag: Duration::from_secs(2),
                    auto_reclone: None,
                    copy: when_alone.map(|when_alone| match when_alone {
                        WhenAlone::Continue => CopyMethod::Physical,
                        WhenAlone::Stop => CopyMethod::Logical,
                    }),
                    when_alone,
                    reads: reads.map(|reads| Reads {
                        split: reads.split && proxy,
                        ..reads
                    }),
                    hold_writes,
                    backup: backup.filter(|_| !external),
                }
            },
        )
}

fn backups() -> impl Strategy<Value = Backup> {
    let endpoint = prop::option::of(Just("https://s3.example.com".to_owned()));
    (
        "[a-z0-9-]{3,20}",
        prop::option::of("[a-zA-Z0-9_-]{1,9}(/[a-zA-Z0-9_-]{1,9})?"),
        endpoint,
        secrets(),
        (
            millis(60_000..=86_400_000),
            millis(3_600_000..=86_400_000),
            millis(1_000..=60_000),
        ),
        prop::option::of(65_536u64..1 << 40),
    )
        .prop_map(
            |(bucket, prefix, endpoint, credentials, (every, keep, archive_every), rate)| Backup {
                bucket,
                prefix,
                endpoint,
                credentials,
                every,
                keep,
                archive_every,
                rate,
            },
        )
}

fn secrets() -> impl Strategy<Value = Option<Credentials>> {
    prop::option::of(prop_oneof![
        "[a-zA-Z0-9._-]{1,20}".prop_map(Credentials::Systemd),
        "/[a-z \"\\\\é]{0,20}".prop_map(|path| Credentials::File(path.into())),
        "[A-Z_]{1,20}".prop_map(Credentials::Env),
    ])
}

fn leases() -> impl Strategy<Value = Lease> {
    let endpoint = prop::option::of(select(vec![
        "https://s3.example.com",
        "http://[::1]:9000",
        "http://10.0.0.1:9000/x",
    ]))
    .prop_map(|endpoint| endpoint.map(str::to_owned));
    let plain = vec!["10.0.0.1:2379", "etcd.example.com:2379", "http://10.0.0.2:2379"];
    let safe = vec!["https://10.0.0.1:2379", "https://etcd.example.com:2379"];
    let file = || "/[a-zé\" ]{1,9}".prop_map(std::path::PathBuf::from);
    let client = (file(), file()).prop_map(|(certificate, key)| ClientCertificate { certificate, key });
    let tls =
        (prop::option::of(file()), prop::option::of(client)).prop_map(|(ca, client)| EtcdTls { ca, client });
    let members = prop_oneof![
        (subsequence(plain, 1..=3), Just(EtcdTls::default())),
        (subsequence(safe, 1..=2), tls),
    ];
    let store = prop_oneof![
        Just(LeaseStore::Single),
        ("[a-z0-9-]{3,20}", endpoint, secrets()).prop_map(|(bucket, endpoint, credentials)| LeaseStore::S3 {
            bucket,
            endpoint,
            credentials
        }),
        (members, secrets()).prop_map(|((endpoints, tls), credentials)| LeaseStore::Etcd {
            endpoints: endpoints.into_iter().map(str::to_owned).collect(),
            credentials,
            tls
        }),
    ];
    (store, millis(6_000..=3_600_000)).prop_map(|(store, ttl)| Lease { store, ttl })
}

fn tls() -> impl Strategy<Value = Tls> {
    let file = "/[a-zé\" ]{1,9}";
    let rest = (file, prop::option::of(file)).prop_map(|(key, ocsp)| (key.into(), ocsp.map(Into::into)));
    let certificates = prop::collection::btree_map(file, rest, 1..3);
    let acme = (1usize..4, any::<bool>(), prop::option::of(file)).prop_map(|(names, told, ca)| Acme {
        names: (0..names).map(|n| format!("n{n}.example.com")).collect(),
        email: told.then(|| "a.b+c@example.com".to_owned()),
        directory: "https://ca.example:14000/dir".to_owned(),
        ca: ca.map(Into::into),
        challenge: pontoon_fleet::Challenge::Http01,
    });
    (
        prop::option::of(acme),
        certificates,
        any::<bool>(),
        any::<bool>(),
        prop::option::of(1u64..=9_999),
    )
        .prop_map(|(acme, certificates, old, redirect, hsts)| Tls {
            acme,
            listen: Vec::new(),
            certificates: certificates
                .into_iter()
                .map(|(certificate, (key, ocsp))| CertificateFiles {
                    certificate: certificate.into(),
                    key,
                    ocsp,
                })
                .collect(),
            min_version: if old { TlsVersion::V1_2 } else { TlsVersion::V1_3 },
            redirect,
            hsts: hsts.map(Duration::from_secs),
        })
}

fn configs() -> impl Strategy<Value = Config> {
    let fleet = ("[a-z]([a-z0-9-]{0,20}[a-z0-9])?", 0usize..3, 7000u16..8000);
    let socket = prop::option::of("/[a-z]{1,9}/[a-z]{1,9}");
    let once = prop::option::of("[!-~]{1,9}");
    let cache = (1u64 << 20..1 << 50, 1u32..=16, 0usize..3, socket, once).prop_map(
        |(memory_bytes, copies, rule, socket, once)| Cache {
            listen: SocketAddr::from(([127, 0, 0, 1], 11211)),
            socket: socket.map(Into::into),
            memory_bytes,
            placement: pontoon_fleet::CachePlacement::ALL[rule],
            labels: std::collections::BTreeMap::new(),
            fill_once: once.into_iter().collect(),
            copies,
        },
    );
    let private = prop::collection::vec("[a-z]{1,9}/", 0..3);
    let assets = (
        "/[a-zé\" ]{0,20}",
        "/([a-z]{1,9}/)?",
        (any::<bool>(), private),
        "[a-z0-9.]{3,3}",
        secrets(),
    )
        .prop_map(|(local, url, (serve, private), bucket, credentials)| Assets {
            local: local.into(),
            serve,
            private: private.into_iter().map(|below| url.clone() + &below).collect(),
            url,
            bucket: bucket.replace("..", "aa"),
            endpoint: None,
            credentials,
        });
    let ip = prop_oneof![
        Just(AddressMethod::Arp),
        Just(AddressMethod::None),
        "/[a-z]{1,9}".prop_map(|path| AddressMethod::Exec(path.into())),
        Just(AddressMethod::HetznerCloud),
        Just(AddressMethod::HetznerRobot),
        Just(AddressMethod::DigitalOcean),
        Just(AddressMethod::Ovh),
    ];
    let dns = (1u64..=604_800).prop_map(|s| Dns {
        zone: "notes.example.com".to_owned(),
        file: (s % 2 == 0).then(|| "/etc/zone".into()),
        names: vec!["notes.example.com".to_owned(), "*.a.notes.example.com".to_owned()],
        ttl: Duration::from_secs(s),
        listen: match s % 3 {
            0 => vec!["198.51.100.9:53".parse().unwrap()],
            _ => Vec::new(),
        },
        dnssec: (s % 5 == 1).then(|| Dnssec {
            lifetime: Duration::from_secs(604_800 + s),
        }),
        transfer: (s % 5 == 0).then(|| DnsTransfer {
            key_file: "/etc/keys".into(),
            to: vec!["192.0.2.7:53".parse().unwrap()],
            from: vec!["2001:db8::7".parse().unwrap()],
        }),
        update: (s % 7 == 0).then(|| DnsUpdate {
            server: "192.0.2.7:53".parse().unwrap(),
            key_file: "/etc/keys".into(),
        }),
        hook: (s % 7 == 1).then(|| DnsHook {
            exec: "/etc/hook".into(),
            timeout: Duration::from_secs(1 + s % 600),
        }),
    });
    let capacity = (millis(1..=3_600_000), 0u32..=100_000, 0u32..=100_000)
        .prop_map(|(p99, errors, warn_at)| Capacity { p99, errors, warn_at });
    let later = (
        prop::option::of(leases()),
        prop::option::of(cache),
        prop::option::of(assets),
        prop::option::of(ip),
        prop::option::of(dns),
        prop::option::of(capacity),
    );
    let listen = subsequence(vec!["0.0.0.0:80", "[2001:db8::9]:81", "198.51.100.7:80"], 0..=1);
    (
        fleet,
        servers(),
        (listen, prop::option::of(tls()), limits()),
        prop::option::of(apps()),
        prop::option::of(dbs()),
        later,
    )
        .prop_map(
            |(
                (name, domains, port),
                servers,
                (listen, tls, limits),
                app,
                db,
                (lease, cache, assets, ip, dns, capacity),
            )| {
                let ip = ip.map(|method| {
                    addresses(
                        method,
                        &servers,
                        lease.as_ref(),
                        capacity.is_some(),
                        dns.is_some(),
                    )
                });
                Config {
                    fleet: Fleet {
                        name: name.parse().unwrap(),
                        domains: (0..domains).map(|n| format!("n{n}.example.com")).collect(),
                        port,
                    },
                    servers,
                    edge: Edge {
                        listen: listen.into_iter().map(|text| text.parse().unwrap()).collect(),
                        front: EdgeFront {
                            trusted: limits.client.exempt.clone(),
                            proxy_protocol: !limits.client.exempt.is_empty() && tls.is_some(),
                            request_id: app.is_some(),
                            traceparent: db.is_some(),
                            server_timing: tls.is_some(),
                        },
                        answers: EdgeAnswers {
                            pages: match &app {
                                Some(_) => ["503", "4xx", "maintenance"]
                                    .map(|page| (page.to_owned(), format!("/pages/\"{page}\".html").into()))
                                    .into(),
                                None => Default::default(),
                            },
                            compress: tls.is_some().then(|| Compress {
                                min_bytes: u64::from(port),
                                ..Compress::default()
                            }),
                            cache: app.is_some().then(|| CacheRules {
                                memory: 1024 * 1024 + u64::from(port),
                                stale_if_error: Duration::from_secs(u64::from(port)),
                                ..CacheRules::default()
                            }),
                            ..EdgeAnswers::default()
                        },
                        tls,
                        limits,
                    },
                    app,
                    db,
                    lease,
                    cache,
                    assets,
                    ip,
                    dns,
                    capacity,
                    places: Places::default(),
                }
            },
        )
}

/// `[ip]` with that method, or with none where it would contradict the rest.
fn addresses(
    method: AddressMethod,
    servers: &[Server],
    lease: Option<&Lease>,
    more: bool,
    gateway: bool,
) -> Addresses {
    let arp = method == AddressMethod::Arp;
    let alone = lease.is_none_or(|lease| lease.store == LeaseStore::Single) && servers.len() > 1;
    let provider = !arp && method != AddressMethod::None;
    let method = if provider && alone {
        AddressMethod::None
    } else {
        method
    };
    let provider = provider && !alone;
    let numbered = |(at, server): (usize, &Server)| {
        let target = match method {
            AddressMethod::HetznerRobot => format!("198.51.100.{at}"),
            AddressMethod::Ovh => format!("ns{at}.ip-198-51-100.eu"),
            _ => (4_700 + at).to_string(),
        };
        (server.name.clone(), target)
    };
    let hosted = provider.then(|| Hosted {
        timeout: Duration::from_secs(if more { 90 } else { 180 }),
        credentials: (!matches!(method, AddressMethod::Exec(_)))
            .then(|| Credentials::Env("PROVIDER".to_owned())),
        endpoint: (more && !matches!(method, AddressMethod::Exec(_)))
            .then(|| "https://api.example.com".to_owned()),
        targets: servers.iter().enumerate().map(numbered).collect(),
    });
    Addresses {
        fast: arp && more,
        home_after: Duration::from_secs(if arp || provider && more { 90 } else { 60 }),
        gateway: (arp && gateway).then(|| [198, 51, 100, 1].into()),
        interface: arp.then(|| "eth0".to_owned()),
        hosted,
        method,
    }
}
