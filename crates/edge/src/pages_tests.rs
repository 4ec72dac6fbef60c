use std::time::Duration;

use super::*;

fn pages(files: &[(&str, &str, &str)]) -> Pages {
    let page = |name: &str, text: &str| Page::of(Path::new(name), text.as_bytes().to_vec()).unwrap();
    let all = files
        .iter()
        .map(|(used_for, name, text)| ((*used_for).to_owned(), page(name, text)));
    Pages {
        by_use: all.collect(),
    }
}

fn text(pages: &Pages, own: &Own<'_>) -> String {
    let mut out = Vec::new();
    pages.write(&mut out, own);
    String::from_utf8(out).unwrap()
}

fn with(status: u16) -> Own<'static> {
    Own {
        status,
        detail: "why",
        ..Own::default()
    }
}

#[test]
fn a_status_has_its_own_page_or_that_of_its_class_or_none() {
    let pages = pages(&[("5xx", "5.html", "class"), ("503", "503.txt", "own")]);
    let own = text(&pages, &with(503));
    assert!(own.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && own.ends_with("\r\n\r\nown"));
    assert!(
        own.contains("Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n"),
        "{own}"
    );
    let class = text(&pages, &with(502));
    assert!(
        class.contains("Content-Type: text/html") && class.ends_with("\r\n\r\nclass"),
        "{class}"
    );
    assert!(text(&pages, &with(404)).ends_with("404 Error: why\n"), "plain");
    let mut refused = Vec::new();
    pages.refuse(&mut refused, Reject::TraceRefused, false);
    assert!(String::from_utf8(refused).unwrap().contains("\r\nAllow: GET, "));
}

#[test]
fn head_gets_the_length_and_no_body() {
    let pages = pages(&[("503", "503.html", "<p>{{status}}</p>")]);
    let own = Own {
        head_only: true,
        keep_alive: true,
        ..with(503)
    };
    let head = text(&pages, &own);
    assert!(
        head.contains("Content-Length: 10\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(!head.contains("Connection: close"));
}

#[test]
fn placeholders_hold_nothing_that_means_something_in_a_page() {
    let pages = pages(&[(
        "400",
        "e.html",
        "{{status}} {{reason}}: {{request_id}}|{{request_id}} {{other}}{{",
    )]);
    let own = Own {
        request_id: b"a-1<script>\r\n\xff",
        ..with(400)
    };
    assert!(text(&pages, &own).ends_with("\r\n\r\n400 Bad Request: a-1script|a-1script {{other}}{{"));
}

#[test]
fn maintenance_says_when_to_come_back() {
    let pages = pages(&[
        ("5xx", "5.html", "error"),
        (MAINTENANCE_PAGE, "m.html", "working"),
    ]);
    let say = |pages: &Pages, until: Option<u64>| {
        let maintenance = Maintenance {
            until: until.map(UnixMillis),
            except: Vec::new(),
        };
        let mut out = Vec::new();
        pages.maintain(&mut out, &maintenance, UnixMillis(10_000), &Own::default());
        String::from_utf8(out).unwrap()
    };
    let told = say(&pages, Some(11_500));
    assert!(
        told.starts_with("HTTP/1.1 503 ") && told.contains("Retry-After: 2\r\n") && told.ends_with("working")
    );
    assert!(told.contains("Cache-Control: no-store\r\n"));
    assert!(say(&pages, None).contains("Retry-After: 60\r\n"));
    assert!(say(&pages, Some(0)).contains("Retry-After: 1\r\n"));
    assert!(say(&Pages::default(), None).ends_with("503 Service Unavailable: the site is being worked on\n"));
}

#[test]
fn a_file_that_cannot_be_shown_is_named_and_the_one_before_is_shown_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("503.html");
    let (publish, shown) = watch::channel(Arc::default());
    let mut files = PageFiles::new(publish);
    let wanted = BTreeMap::from([("503".to_owned(), file.clone())]);
    let now = |files: &mut PageFiles| {
        files.refresh(&wanted);
        (text(&shown.borrow(), &with(503)), files.refused().join(", "))
    };
    let (plain, why) = now(&mut files);
    assert!(
        plain.ends_with(": why\n") && why.contains("503.html: No such file"),
        "{why}"
    );
    std::fs::write(&file, "one").unwrap();
    assert_eq!(
        (now(&mut files).0.ends_with("one"), files.refused().len()),
        (true, 0)
    );
    // Files of the same length within one tick of the clock are told apart by nothing: these differ.
    for (bad, reason) in [
        (Vec::new(), "it is empty"),
        (vec![b'a'; 256 * 1024 + 1], "it has more than 256 KiB"),
        (b"\xff\xfe\x00\x01".to_vec(), "it is not UTF-8"),
    ] {
        std::fs::write(&file, bad).unwrap();
        let (still, why) = now(&mut files);
        assert!(still.ends_with("one") && why.ends_with(reason), "{why}");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(now(&mut files).1.ends_with("it is not a file"));
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, "another").unwrap();
    assert!(now(&mut files).0.ends_with("another"));
    // No longer wanted.
    files.refresh(&BTreeMap::new());
    assert!(text(&shown.borrow(), &with(503)).ends_with(": why\n") && files.refused().is_empty());
}

#[test]
fn a_page_that_never_ends_holds_nobody_up() {
    let begun = std::time::Instant::now();
    assert_eq!(read(Path::new("/dev/zero")), Err("it is not a file".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(60));
}
