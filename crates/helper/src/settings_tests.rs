use super::*;
use crate::testing::process_node;

fn settings() -> DatabaseSettings {
    DatabaseSettings {
        server_id: 7,
        socket_name: "server.sock".to_owned(),
        options: vec![Setting::new("port", 3307), Setting::new("read_only", 1)],
        tls: false,
        admin_password: "abcdefghijklmnop1234".to_owned(),
    }
}

#[test]
fn options_of_the_original_command_line_do_not_contradict_ours() {
    let dir = tempfile::tempdir().unwrap();
    let argv = [
        "--defaults-file=/etc/mysql/my.cnf",
        "--defaults-group-suffix=-x",
        "--user=mysql",
        "--port",
        "3306",
        "-S/x",
        "--loose-bind-address=0.0.0.0",
        "--skip-log-bin",
        "--skip-networking",
        "--innodb-buffer-pool-size=1G",
        "-P",
        "3306",
        "--socket=/x",
        "--skip-name-resolve",
        "--sync-binlog=0",
        "--character-set-server",
        "latin1",
    ];
    let node = process_node(dir.path(), &argv);
    let Run::Process { argv, .. } = &node.run else {
        unreachable!()
    };
    assert_eq!(
        &process_arguments(&node, argv),
        argv,
        "without settings the user's own line, untouched"
    );
    std::fs::create_dir_all(&node.files).unwrap();
    std::fs::write(node.settings_file(), render(&node, &settings())).unwrap();
    assert_eq!(
        process_arguments(&node, argv),
        [
            format!("--defaults-file={}", node.settings_file().display()).as_str(),
            "--defaults-group-suffix=-x",
            "--user=mysql",
            "--innodb-buffer-pool-size=1G",
            "--skip-name-resolve",
        ]
    );
}

#[test]
fn the_rendered_file_reads_the_users_own_first_and_moves_clients_to_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let node = process_node(dir.path(), &["--defaults-file=/some/my.cnf"]);
    let text = render(&node, &settings());
    let position = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("{needle} in {text}"));
    assert!(position("!include /some/my.cnf") < position("[mysqld]"));
    assert!(position("[mysqld]") < position("port=3307"));
    assert!(position("port=3307") < position("[client]"));
    assert!(text.ends_with(&format!("socket={}\n", dir.path().join("server.sock").display())));
    assert!(!render(&process_node(dir.path(), &["--no-defaults"]), &settings()).contains("!include"));
}

#[test]
fn settings_that_reach_too_far_are_refused() {
    check(&settings()).unwrap();
    let with = |name: &str, value: &str| {
        let mut settings = settings();
        settings.options.push(Setting::new(name, value));
        check(&settings).unwrap_err()
    };
    for (name, value) in [
        ("plugin_load_add", "evil.so"),
        ("init_file", "/tmp/x"),
        ("port", "1\n[mysqld]\nplugin_load=x"),
        ("port", "1 # comment"),
        ("log_bin", "/etc/x"),
        ("sql_mode", "'x'"),
    ] {
        assert_eq!(with(name, value).code, Code::N003, "{name}");
    }
    for socket in ["", "../x", "a/b", ".hidden", "a b"] {
        assert!(
            check(&DatabaseSettings {
                socket_name: socket.to_owned(),
                ..settings()
            })
            .is_err(),
            "{socket}"
        );
    }
    for password in ["short", "abcdefghijklmnop'; DROP", ""] {
        assert!(
            check(&DatabaseSettings {
                admin_password: password.to_owned(),
                ..settings()
            })
            .is_err()
        );
    }
    assert!(
        !format!("{:?}", settings()).contains("abcdefgh"),
        "the password is not printed"
    );
}

#[test]
fn removed_settings_are_renamed_and_twice_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let node = process_node(dir.path(), &[]);
    std::fs::create_dir_all(&node.files).unwrap();
    std::fs::write(node.settings_file(), "x").unwrap();
    let moved = remove(&node).unwrap().unwrap();
    assert_eq!(std::fs::read(&moved.to).unwrap(), b"x");
    assert!(!moved.to.to_string_lossy().ends_with(".cnf"));
    assert_eq!(remove(&node).unwrap(), None);
}

#[test]
fn a_certificate_that_is_a_link_is_not_copied_to_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    paths.create_dirs().unwrap();
    let identity = paths.identity_dir();
    std::fs::create_dir_all(&identity).unwrap();
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::write(identity.join(name), name).unwrap();
    }
    let node = process_node(dir.path(), &[]);
    refresh_tls(&paths, &node).unwrap();
    let secret = dir.path().join("shadow");
    std::fs::write(&secret, "root's").unwrap();
    std::fs::remove_file(identity.join("key.pem")).unwrap();
    std::os::unix::fs::symlink(&secret, identity.join("key.pem")).unwrap();
    assert_eq!(refresh_tls(&paths, &node).unwrap_err().code, Code::N006);
    assert_eq!(
        std::fs::read_to_string(TlsFiles::of(&node).key).unwrap(),
        "key.pem"
    );
}
