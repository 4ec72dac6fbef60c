//! Of backups, and of copies of the database that follow in their own way.

use super::*;

#[test]
fn backups_that_cannot_be_are_named() {
    let with = |lines: &str| format!("{ONE}\n[db.backup]\n{lines}\n");
    let good = Config::parse(&with("bucket = \"copies\"")).unwrap();
    let backup = good.db.unwrap().backup.unwrap();
    assert_eq!(
        (
            backup.every.as_secs(),
            backup.keep.as_secs(),
            backup.archive_every.as_secs()
        ),
        (86_400, 14 * 86_400, 5)
    );
    for (lines, path) in [
        ("", "bucket"),
        ("bucket = \"co pies\"", "db.backup.bucket"),
        ("bucket = \"copies\"\nprefix = \"../x\"", "db.backup.prefix"),
        ("bucket = \"copies\"\nprefix = \"x/\"", "db.backup.prefix"),
        ("bucket = \"copies\"\nevery = \"1s\"", "db.backup.every"),
        ("bucket = \"copies\"\nkeep = \"0s\"", "db.backup.keep"),
        (
            "bucket = \"copies\"\narchive_every = \"1ms\"",
            "db.backup.archive_every",
        ),
        ("bucket = \"copies\"\nrate = \"1KiB\"", "db.backup.rate"),
        (
            "bucket = \"copies\"\nendpoint = \"copies.example.com\"",
            "db.backup.endpoint",
        ),
    ] {
        let found = errors(&with(lines));
        assert!(found[0].message.contains(path), "{lines}: {found:?}");
    }
}

#[test]
fn a_source_is_another_copy_and_nobody_is_at_the_end_of_his_own() {
    let fleet = |lines: [&str; 3]| {
        let servers: String = (1..)
            .zip(lines)
            .map(|(number, line)| {
                format!("[[server]]\nname = \"s{number}\"\nprivate = \"10.0.0.{number}\"\n{line}\n")
            })
            .collect();
        format!(
            "version = 1\n[fleet]\nname = \"notes\"\n{servers}[db]\nengine = \"mariadb\"\nlisten = [\"127.0.0.1:3306\"]\n"
        )
    };
    let lease = "[lease]\nstore = \"s3\"\nbucket = \"xyz\"\n";
    let second = "source = \"s2\"";
    let good = fleet(["", "", second]) + lease;
    let parsed = Config::parse(&good).unwrap();
    assert_eq!(parsed.servers[2].source, Some("s2".parse().unwrap()));
    assert_eq!(Config::parse(&parsed.to_toml()).unwrap(), parsed);
    // Who leaves is nobody's source any more.
    let left = edit::remove_server(&good, &"s2".parse().unwrap()).unwrap();
    assert_eq!(Config::parse(&left).unwrap().servers[1].source, None);
    assert!(Config::parse(&(fleet(["", "source = \"s1\"", second]) + lease)).is_ok());
    for (lines, rest, word) in [
        (["", second, ""], lease, "its own source"),
        (["", "", "source = \"x\""], lease, "no such server"),
        (["", "", "source = \"S 2\""], lease, "source"),
        (
            ["", "roles = [\"app\"]", second],
            lease,
            "which is without the role \"db\"",
        ),
        (
            ["", "", "roles = [\"app\"]\nsource = \"s2\""],
            lease,
            "a source without the role",
        ),
        (
            ["", "source = \"s3\"", second],
            lease,
            "follows itself in the end",
        ),
        (
            ["source = \"s3\"", "source = \"s1\"", second],
            lease,
            "follows itself in the end",
        ),
        (["", "delay = \"1h\"", second], lease, "is delayed"),
        (["", "", second], "", "on a single server"),
    ] {
        let errors = Config::parse(&(fleet(lines) + rest)).unwrap_err();
        let said = errors.iter().any(|error| error.message.contains(word));
        assert!(said, "{word}: {errors:?}");
    }
}

/// A delayed copy counts for nothing.
#[test]
fn a_delayed_copy_is_one_beside_others() {
    let fleet = |servers: &str, rest: &str| {
        format!(
            "version = 1\n[fleet]\nname = \"notes\"\n{servers}[db]\nengine = \"mariadb\"\nlisten = [\"127.0.0.1:3306\"]\n{rest}"
        )
    };
    let server = |number: u8, line: &str| {
        format!("[[server]]\nname = \"s{number}\"\nprivate = \"10.0.0.{number}\"\n{line}\n")
    };
    let delay = "delay = \"1h\"";
    let lease = "[lease]\nstore = \"s3\"\nbucket = \"xyz\"\n";
    let two = server(1, "") + &server(2, delay);
    let parsed = Config::parse(&fleet(&two, "")).unwrap();
    assert_eq!(
        parsed.servers[1].delay,
        Some(std::time::Duration::from_secs(3600))
    );
    let three = two.clone() + &server(3, "");
    assert!(Config::parse(&fleet(&three, lease)).is_ok());
    for (text, word) in [
        (fleet(&two, lease), "nobody could take over"),
        (fleet(&server(1, delay), ""), "every copy"),
        (
            fleet(&(server(1, "") + &server(2, "delay = \"500ms\"")), ""),
            "between 1s and 30d",
        ),
        (
            fleet(&(server(1, "") + &server(2, "delay = \"1500ms\"")), ""),
            "whole seconds",
        ),
        (
            fleet(&(server(1, "") + &server(2, "delay = \"soon\"")), ""),
            "delay",
        ),
        (
            fleet(
                &(server(1, "") + &server(2, "roles = [\"app\"]\ndelay = \"1h\"")),
                "",
            ),
            "without the role",
        ),
    ] {
        let errors = Config::parse(&text).unwrap_err();
        assert!(
            errors.iter().any(|error| error.message.contains(word)),
            "{word}: {errors:?}"
        );
    }
}
