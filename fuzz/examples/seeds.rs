//! Writes the corpora that the targets begin with: `seeds DIR` makes `DIR/TARGET/…`. Statements are those of
//! `crates/sql-class/corpus`; packets are made here, of the kinds that the servers send.

use std::fs;
use std::io;
use std::path::Path;

use pontoon_mysql_wire::{
    Capabilities, ChangeUser, Greeting, HandshakeResponse, SslRequest, StatusFlags, encode_packet,
};

const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
const END: &[u8] = b"\xfe\0\0\x02\0\0\0";
const OK: &[u8] = b"\0\x01\x07\x02\x40\0\0\0\x14\0\x12\x09last_gtid\x070-1-800";
const ERROR: &[u8] = b"\xff\x0a\x05#HY000read only";

/// Answers, each with the kind that `pontoon_fuzz::wire::answer` knows by this number.
const ANSWERS: &[(u8, &[&[u8]])] = &[
    (0, &[OK]),
    (0, &[ERROR]),
    (0, &[b"\x01", DEFINITION, b"\x011", b"\xfb", END]),
    (0, &[b"\x01", DEFINITION, END]),
    (
        0,
        &[
            b"\0\0\0\x0a\x40\0\0\x02hi\x07\x03\x05\0\x03u:9",
            b"\x02",
            DEFINITION,
            DEFINITION,
            b"\x01x",
            b"\xfe\0\0\x0a\0\0\0",
            OK,
        ],
    ),
    (0, &[b"\x01", DEFINITION, b"\x01x", ERROR]),
    (0, &[b"\xfb/tmp/x", OK]),
    (0, &[b"\xff\xff\xff\x01\x01\x02\0\0\0\x04sort", OK]),
    (
        1,
        &[
            b"\0\x07\0\0\0\x02\0\x01\0\0\0\0",
            DEFINITION,
            DEFINITION,
            DEFINITION,
        ],
    ),
    (1, &[b"\0\x07\0\0\0\0\0\0\0\0\0\0"]),
    (2, &[b"\x01", DEFINITION, b"\0\0\x01", END]),
    (2, &[b"\x01", DEFINITION, b"\xfe\0\0\x42\0\0\0"]),
    (3, &[b"\0\0\x01", b"\xfe\0\0\x82\0\0\0"]),
    (4, &[DEFINITION, DEFINITION, END]),
    (5, &[b"Uptime: 3  Threads: 1"]),
    (6, &[OK]),
    (6, &[END]),
];

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: seeds DIR"));
    };
    let dir = Path::new(&dir);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/sql-class/corpus");
    let statements = statements(&corpus)?;
    for target in ["classify", "digest", "assignments"] {
        write(&dir.join(target), &statements)?;
    }
    let (mut answers, mut streams) = (Vec::new(), Vec::new());
    for (expect, payloads) in ANSWERS {
        for client in [0x1F, 0x0F, 0x04] {
            let (mut listed, mut stream) = (vec![*expect, client, 7, 3], vec![*expect, client, 7, 3]);
            let mut sequence = 1;
            for payload in *payloads {
                listed.push(payload.len() as u8);
                listed.extend_from_slice(payload);
                sequence = encode_packet(&mut stream, sequence, payload);
            }
            answers.push(listed);
            streams.push(stream);
        }
    }
    let framed = streams.iter().map(|stream| [&[64, 5], &stream[4..]].concat());
    write(&dir.join("packets"), &framed.collect::<Vec<_>>())?;
    write(&dir.join("answer"), &answers)?;
    write(&dir.join("answer_bytes"), &streams)?;
    let greetings = [true, false].map(|mysql| greeting(mysql).to_payload());
    let refused = b"\xff\x10\x04Too many connections".to_vec();
    write(&dir.join("greeting"), &[&greetings[..], &[refused]].concat())?;
    write(
        &dir.join("handshake_response"),
        &[login().to_payload(), ssl_request()],
    )?;
    write(&dir.join("change_user"), &change_users())?;
    write(&dir.join("execute"), &commands())?;
    write(&dir.join("auth"), &auth())?;
    let text = b"set a 0 0 1\r\nx\r\nget a b\r\nmg a v q\r\nincr a 1 noreply\r\n".to_vec();
    write(&dir.join("memcache_text"), &[text])?;
    let packet = [&[9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 12], b"k"].concat();
    write(&dir.join("memcache_binary"), &[packet])?;
    let answer = b"VALUE a 0 1\r\nx\r\nEND\r\nVA 1 f0\r\nx\r\nSTAT a b\r\nEND\r\n".to_vec();
    write(&dir.join("memcache_answer"), &[answer])?;
    write(&dir.join("dns_packet"), &dns_packets())?;
    write(
        &dir.join("dns_zone"),
        &DNS_ZONES.map(|zone| zone.as_bytes().to_vec()),
    )?;
    write(&dir.join("dns_signed"), &dns_signed())?;
    let zones = SIGNED_ZONES.map(|zone| zone.as_bytes().to_vec());
    write(&dir.join("dns_signed_zone"), &zones)?;
    write(&dir.join("dns_transfer"), &dns_transfers())?;
    write(&dir.join("dns_tsig"), &dns_keyed())?;
    write(&dir.join("dns_update"), &dns_updates())?;
    write(&dir.join("http_request"), &http(REQUESTS))?;
    write(&dir.join("http_response"), &http(RESPONSES))?;
    write(&dir.join("http_body"), &http(BODIES))
}

const REQUESTS: &[&str] = &[
    "GET /a?b=c HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nCookie: a=b; pontoon_floor=1.x; c=d\r\n\r\nGET / HTTP/1.1\r\n",
    "POST http://a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE, x\r\nX: y\r\n\r\n",
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nX-Forwarded-For: 1\r\nContent_Length: 5\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\nhello",
    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "HTTP/1.0 304 x\r\nConnection: keep-alive, X\r\nX: y\r\nContent-Length: 9\r\n\r\n",
    "HTTP/1.1 204\r\nPontoon-Relay: not-sent\r\nTransfer-Encoding: chunked\r\n\r\n",
];

const BODIES: &[&str] = &[
    "5\r\nhello\r\n0\r\n\r\nGET",
    "A;x=\"y\"\r\n0123456789\r\n00\r\nX-Sum: 1\r\nY:\r\n\r\n",
    "1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n",
];

/// Each with all that the targets' first two bytes can choose.
fn http(messages: &[&str]) -> Vec<Vec<u8>> {
    let all = messages
        .iter()
        .flat_map(|message| (0..4u8).map(move |how| (how, *message)));
    all.map(|(how, message)| [&[how, 7 + how], message.as_bytes()].concat())
        .collect()
}

/// Behind the head that the target puts before them.
const DNS_ZONES: [&str; 4] = [
    "www 60 IN A 192.0.2.1\n  AAAA 2001:db8::1\n*.w MX 10 (\n m ; x\n )\nd DNAME e.\ns NS n.s\nn.s A 192.0.2.2\n",
    "$ORIGIN x\n$TTL 1h\n@ TXT \"a b\" c\\\"d \\007\nc CNAME @\nt TYPE777 \\# 2 ab cd\n$INCLUDE f g\n",
    "a CAA 0 issue \"ca\"\nb SRV 1 2 3 t\nh HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1\nn NAPTR 1 2 \"s\" \"x\" \"\" r\n",
    "s DS 1 13 2 aabb\nt TLSA 3 1 1 aabb\nf SSHFP 4 2 aabb\nk DNSKEY 256 3 13 aabb\ni HINFO a b\nr RP a b\n",
];

/// Queries for names of the target's zone, with and without EDNS, cookie and NSID.
fn dns_packets() -> Vec<Vec<u8>> {
    let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x10\0\x0a\0\x08clientid\0\x03\0\0";
    let mut all = Vec::new();
    for name in [
        "\x01a",
        "\x01b",
        "\x01c",
        "\x01x\x01d",
        "\x01f",
        "\x01x\x01g",
        "\x01x\x01h",
        "\x01i",
        "\x01x\x01j",
        "\x01y",
        "",
    ] {
        for qtype in [1, 15, 16, 255, 252] {
            let question = [
                b"\0\0\x01\0\0\x01\0\0\0\0\0",
                &[1][..],
                name.as_bytes(),
                b"\x01z\0\0",
                &[qtype, 0, 1],
                opt,
            ]
            .concat();
            all.push([&[6, 1], &question[..]].concat());
        }
    }
    all
}

/// Questions of a validator: names of the target's zone and of none.
fn dns_signed() -> Vec<Vec<u8>> {
    let names = [
        "\x01a",
        "\x01b",
        "\x01c",
        "\x01x\x01d",
        "\x01x\x01g",
        "\x01x\x01k",
        "\x01x\x01l",
        "\x01y",
        "",
    ];
    let good = names.iter().flat_map(|name| {
        let types = [1u16, 5, 6, 15, 16, 43, 46, 47, 48, 255];
        types.map(|qtype| [&[5, 1][..], &qtype.to_be_bytes(), name.as_bytes()].concat())
    });
    let raw = dns_packets().into_iter().step_by(3);
    good.chain(raw.map(|packet| [&[1, 0, 0, 0], &packet[2..]].concat()))
        .collect()
}

const SIGNED_ZONES: [&str; 3] = [
    "www 60 IN A 192.0.2.1\n*.w MX 10 m\nd DNAME e.\ns NS n.s\nn.s A 192.0.2.2\ns DS 1 13 2 aabb\n",
    "a CNAME b\nb TXT \"x\"\n*.c CNAME a\nx.y.c A 192.0.2.1\nt TYPE777 \\# 2 abcd\n",
    "A.B.\\000.\\255 SRV 1 2 3 T\nn NAPTR 1 2 \"s\" \"x\" \"\" R\n@ DNSKEY 256 3 13 aabb\n",
];

/// Versions of a zone, each asked for by who has another; and questions as they come.
fn dns_transfers() -> Vec<Vec<u8>> {
    let versions = b"\x02\x01\x0a\x05\x02\x0b\x06\x03\x01\x0a\x05\x02\x0c\x06\x00\xff\xff\x02\x01\x0a\x07\x02\x0c\x06\x01\x09\x0b\x01";
    let built = [0, 1, 2, 3, 200].map(|asked| [&[3, asked, 25, 250], &versions[..]].concat());
    let soa =
        b"\x01z\0\0\x06\0\x01\0\0\0\0\0\x1a\x01n\0\x01h\0\0\0\0\x07\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";
    let question = |rtype: u8, behind: &[u8]| {
        let head = [4 | 8, 0, 0, 0, 1, 1, 10, 5, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0];
        let counts = [u8::from(!behind.is_empty()), 0, 0];
        [&head[..], &counts, b"\x01z\0\0", &[rtype, 0, 1], behind].concat()
    };
    [&built[..], &[question(252, b""), question(251, soa)]].concat()
}

/// Messages that a holder of the key signs, and signatures that are none.
fn dns_keyed() -> Vec<Vec<u8>> {
    let question = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x01z\0\0\xfc\0\x01";
    let record = b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x1e\x0bhmac-sha256\0\0\0kI\xd2\0\x01\x2c\0\x01m\0\0\0\0\0\0";
    let mut unsigned = [&[0, 0], &question[..], record].concat();
    unsigned[2 + 11] = 1;
    let kinds = [1, 3, 5, 0xFF].map(|how| [&[how, 30], &question[..]].concat());
    [&kinds[..], &[unsigned]].concat()
}

/// Sets that are told, and answers of who was asked.
fn dns_updates() -> Vec<Vec<u8>> {
    let answer = b"\0\0\x84\0\0\x01\0\x02\0\0\0\0\x01a\x01z\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x02";
    vec![
        [&[0], &answer[..]].concat(),
        b"\x01\x03\x02\x83\x02\x7f\xff\xff\xff".to_vec(),
        [&[1], &[0xFF; 80][..]].concat(),
    ]
}

/// The statements of every `.tsv`, in their last column, each in two sessions. `⏎` and its like stay what they are:
/// bytes are bytes here.
fn statements(corpus: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for file in ["adversarial.tsv", "applications.tsv", "expanded.tsv"] {
        let text = fs::read_to_string(corpus.join(file))?;
        // Of the expanded families every eighth is enough: they differ in names only.
        let step = if file == "expanded.tsv" { 8 } else { 1 };
        let lines = text.lines().filter(|line| !line.starts_with('#')).step_by(step);
        for statement in lines.filter_map(|line| line.split('\t').nth(3)) {
            let statement = statement.replace('⏎', "\n").replace('⇥', "\t").replace('␀', "\0");
            for engine in [0, 1] {
                all.push([&[engine, 0], statement.as_bytes()].concat());
            }
        }
    }
    Ok(all)
}

fn greeting(mysql: bool) -> Greeting {
    Greeting {
        server_version: match mysql {
            true => b"9.7.4".to_vec(),
            false => b"5.5.5-10.11.19-MariaDB-0+deb12u1".to_vec(),
        },
        thread_id: 31,
        capabilities: Capabilities(if mysql { 0xDFFF_FFFF } else { 0x1D_81FF_F7FE }),
        character_set: 45,
        status: StatusFlags::AUTOCOMMIT,
        auth_data: b"abcdefghijklmnopqrst".to_vec(),
        auth_plugin: b"mysql_native_password".to_vec(),
    }
}

fn login() -> HandshakeResponse {
    HandshakeResponse {
        capabilities: Capabilities(0x81_A285),
        max_packet: 1 << 24,
        character_set: 45,
        user: b"wordpress".to_vec(),
        auth_response: vec![9; 20],
        database: Some(b"wp".to_vec()),
        auth_plugin: Some(b"mysql_native_password".to_vec()),
        attributes: vec![(b"_pid".to_vec(), b"77".to_vec())],
        zstd_level: None,
    }
}

fn ssl_request() -> Vec<u8> {
    SslRequest {
        capabilities: login().capabilities,
        max_packet: 1 << 24,
        character_set: 45,
    }
    .to_payload()
}

fn change_users() -> Vec<Vec<u8>> {
    let login = login();
    let change = ChangeUser {
        user: login.user,
        auth_response: login.auth_response,
        database: b"wp".to_vec(),
        character_set: Some(45),
        auth_plugin: login.auth_plugin,
        attributes: login.attributes,
    };
    let agreed = Capabilities::SECURE_CONNECTION | Capabilities::PLUGIN_AUTH | Capabilities::CONNECT_ATTRS;
    let full = change.to_payload(agreed).unwrap_or_default();
    vec![[&[7], &full[..]].concat(), b"\x07\x11root\0\0shop\0".to_vec()]
}

fn commands() -> Vec<Vec<u8>> {
    [
        &b"\x02\0\x17\x05\0\0\0\0\x01\0\0\0\0\x01\x03\0\xfd\0\x07\0\0\0\x02hi"[..],
        b"\x02\0\x17\x05\0\0\0\0\x01\0\0\0\x02\0\x08\0\0\0",
        b"\0\0\x17\x05\0\0\0\x01\x01\0\0\0",
        b"\0\0\x18\x01\0\0\0\x02\0abc",
        b"\0\0\x1c\x01\0\0\0\x64\0\0\0",
        b"\0\0\x1b\x01\0",
        b"\0\0\x0c\x07\0\0\0",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

fn auth() -> Vec<Vec<u8>> {
    let packets = [
        &b"\xfemysql_native_password\0abcdefghijklmnopqrst\0"[..],
        b"\x01\x04",
        b"\x02webauthn\0x",
        b"*14E65567ABDB5135D0CFD9A70B3032C179A49EE7",
        b"\xfe\x01\0\x22\0",
        OK,
        ERROR,
    ];
    packets.map(|packet| [&[3], packet].concat()).to_vec()
}

fn write(dir: &Path, seeds: &[Vec<u8>]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(dir.join(format!("seed-{number:05}")), seed)?;
    }
    Ok(())
}
