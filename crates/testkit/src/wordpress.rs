//! WordPress from Debian's package, run by PHP's built-in server: an application that nobody here wrote.
//!
//! The program is the package's, read-only and unchanged. A server gets what an administrator would make: the file
//! `/etc/wordpress/config-default.php`, a `wp-content` of its own in `/var/lib/wordpress`, and one plugin that lifts the
//! limit of a comment every 15 s and address (all visitors of a lab come from one). Through its settings, as an
//! administrator would, moderation and mail are off, so that an acknowledged comment is a visible one.
//!
//! **PHP's built-in server** answers every request with `Connection: close` and takes one request at a time in each
//! worker (and one more in the parent). A killed worker is not replaced. Its answers end with the connection: one that
//! was cut in its middle by a kill looks whole to whoever passes it on, and nobody can repeat what a visitor has begun
//! to read. So PHP sends a page when it is ready (`output_buffering`, as any `php.ini` may say), not line by line.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::Value;
use tokio::time::timeout;

use crate::app::{Dice, Found, Later, TextHash, Verdict, Visit, Visited, WriteId};
use crate::database::{LabDatabase, connect_root, rows};
use crate::demo_app::{DemoApp, Uploads, wait_listening};
use crate::http::{Connection, Request, Response};
use crate::process::{Process, Spawn};
use crate::server::Server;
use crate::wait::find_program;
use crate::{LabError, Skip};

/// A WordPress site.
#[derive(Debug)]
pub struct WordPress {
    secret: String,
    workers: usize,
    login: OnceLock<Login>,
}

/// What the author's browser holds after it logged in; good on every server, since all have the same keys.
#[derive(Debug)]
struct Login {
    cookies: String,
    nonce: String,
}

impl WordPress {
    /// A site whose passwords and keys come from `seed`, with so many PHP workers on each server.
    pub fn new(seed: u64, workers: usize) -> WordPress {
        WordPress {
            secret: Dice::new(seed).text(),
            workers: workers.max(1),
            login: OnceLock::new(),
        }
    }

    /// The administrator's name.
    pub const ADMINISTRATOR: &'static str = "admin";

    /// The administrator's password.
    pub fn password(&self) -> &str {
        &self.secret
    }

    async fn prepare_on(&self, server: &Server) -> Result<(), LabError> {
        let etc = server.dir().join("etc/wordpress");
        fs::create_dir_all(&etc).map_err(LabError::io("WordPress's configuration"))?;
        let config = CONFIG
            .replace("@DB_PASSWORD@", &self.secret)
            .replace("@SECRET@", &self.secret);
        fs::write(etc.join("config-default.php"), config)
            .map_err(LabError::io("WordPress's configuration"))?;
        let plugins = server.dir().join("var-lib/wordpress/wp-content/mu-plugins");
        fs::create_dir_all(&plugins).map_err(LabError::io("WordPress's plugins"))?;
        fs::write(plugins.join("no-flood-check.php"), PLUGIN).map_err(LabError::io("WordPress's plugins"))?;
        server.sh(MOUNT_SCRIPT).await.map(drop)
    }

    async fn start_on(&self, server: &Server, listen: SocketAddr) -> Result<Process, LabError> {
        let listen_text = listen.to_string();
        let arguments = [
            "-d",
            "opcache.enable_cli=1",
            "-d",
            "sendmail_path=/bin/true",
            "-d",
            "display_errors=0",
            "-d",
            BUFFERED,
            "-d",
            "log_errors=1",
            "-d",
            "mysqli.default_socket=/run/mysqld/mysqld.sock",
            "-S",
            &listen_text,
            "-t",
            ROOT,
        ];
        let spawn = Spawn::new("php", "wordpress").args(arguments);
        let process = server
            .spawn(spawn.env("PHP_CLI_SERVER_WORKERS", self.workers.to_string()))
            .await?;
        wait_listening(server, &process, listen).await?;
        Ok(process)
    }

    async fn install_through(&self, address: SocketAddr, database: &dyn LabDatabase) -> Result<(), LabError> {
        let fields = [
            ("weblog_title", TITLE),
            ("user_name", WordPress::ADMINISTRATOR),
            ("admin_password", &self.secret),
            ("admin_password2", &self.secret),
            ("pw_weak", "1"),
            ("admin_email", "admin@example.net"),
            ("blog_public", "0"),
            ("language", ""),
        ];
        let answer = ask(address, &Request::form("/wp-admin/install.php?step=2", &fields)).await?;
        let home = ask(address, &Request::get("/")).await?;
        if answer.status != 200 || home.status != 200 || !home.text().contains(TITLE) {
            let said = format!("{}, then {} for /", answer.status, home.status);
            return Err(LabError::App(format!("WordPress did not install itself: {said}")));
        }
        let mut root = database.root().await?;
        for (name, value) in SETTINGS {
            let update = format!(
                "UPDATE wordpress.wp_options SET option_value = '{value}' WHERE option_name = '{name}'"
            );
            root.query_drop(&update)
                .await
                .map_err(LabError::database(update))?;
        }
        let login = self.log_in(address).await?;
        // Installed twice, the site keeps the first login, which is as good.
        let _ = self.login.set(login);
        Ok(())
    }

    async fn log_in(&self, address: SocketAddr) -> Result<Login, LabError> {
        let fields = [("log", WordPress::ADMINISTRATOR), ("pwd", &self.secret)];
        let answer = ask(address, &Request::form("/wp-login.php", &fields)).await?;
        let set = answer
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        let cookies: Vec<&str> = set.filter_map(|(_, value)| value.split(';').next()).collect();
        let cookies = cookies.join("; ");
        let mut request = Request::get("/wp-admin/admin-ajax.php?action=rest-nonce");
        request.headers.push(("Cookie".to_owned(), cookies.clone()));
        let answer = ask(address, &request).await?;
        let nonce = answer.text().trim().to_owned();
        if answer.status != 200 || nonce.len() < 8 || !nonce.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(LabError::App(format!(
                "WordPress does not let its author in (status {})",
                answer.status
            )));
        }
        Ok(Login { cookies, nonce })
    }

    fn write_post(&self, text: &str) -> Request {
        let fields = [("title", "A post"), ("content", text), ("status", "publish")];
        self.by_author(Request::form("/?rest_route=/wp/v2/posts", &fields))
    }

    fn by_author(&self, mut request: Request) -> Request {
        if let Some(login) = self.login.get() {
            request.headers.push(("Cookie".to_owned(), login.cookies.clone()));
            request
                .headers
                .push(("X-WP-Nonce".to_owned(), login.nonce.clone()));
        }
        request
    }

    /// The REST interface gives what any visitor may see, a hundred at a time.
    async fn read_kind(
        &self,
        address: SocketAddr,
        kind: &'static str,
        found: &mut Found,
    ) -> Result<(), LabError> {
        let mut page = 1;
        loop {
            let path = format!("/?rest_route=/wp/v2/{kind}s&per_page=100&orderby=id&order=asc&page={page}");
            let answer = ask(address, &Request::get(path)).await?;
            let wrong = || {
                LabError::App(format!(
                    "{address} answered {} when read for its {kind}s",
                    answer.status
                ))
            };
            if answer.status != 200 {
                return Err(wrong());
            }
            let items: Vec<Value> = serde_json::from_slice(&answer.body).map_err(|_| wrong())?;
            for item in &items {
                let id = item["id"].as_u64().ok_or_else(wrong)?;
                enter(
                    found,
                    kind,
                    id,
                    item["content"]["rendered"].as_str().unwrap_or_default(),
                );
            }
            let pages: u32 = answer
                .header("x-wp-totalpages")
                .and_then(|n| n.parse().ok())
                .ok_or_else(wrong)?;
            if page >= pages {
                return Ok(());
            }
            page += 1;
        }
    }

    async fn read_tables(&self, socket: &Path) -> Result<Found, LabError> {
        let mut root = connect_root(socket).await?;
        let mut found = Found::new();
        for (kind, query) in [
            (
                "comment",
                "SELECT comment_ID, comment_content FROM wordpress.wp_comments WHERE comment_approved = '1'",
            ),
            (
                "post",
                "SELECT ID, post_content FROM wordpress.wp_posts WHERE post_status = 'publish'",
            ),
        ] {
            for (id, content) in rows::<(u64, String)>(&mut root, query).await? {
                enter(&mut found, kind, id, &content);
            }
        }
        Ok(found)
    }
}

impl DemoApp for WordPress {
    fn name(&self) -> &'static str {
        "WordPress"
    }

    fn available(&self) -> Result<(), Skip> {
        let missing =
            |what: &str, package: &str| Skip(format!("{what} is not installed (Debian package {package})"));
        if find_program("php").is_none() {
            return Err(missing("`php`", "php-cli"));
        }
        if !Path::new(ROOT).join("wp-load.php").is_file() {
            return Err(missing("WordPress", "wordpress"));
        }
        let themes =
            fs::read_dir(Path::new(ROOT).join("wp-content/themes")).map_err(|_| missing("a theme", THEME))?;
        if !themes
            .flatten()
            .any(|theme| theme.path().join("style.css").is_file())
        {
            return Err(missing(
                "a theme for WordPress (its pages are empty without)",
                THEME,
            ));
        }
        let modules = std::process::Command::new("php").arg("-m").output();
        let modules = modules.map_err(|e| Skip(format!("`php -m` does not run: {e}")))?;
        if !String::from_utf8_lossy(&modules.stdout)
            .lines()
            .any(|module| module == "mysqli")
        {
            return Err(missing("PHP's module mysqli", "php-mysql"));
        }
        Ok(())
    }

    /// A visit costs about 70 ms of one core (measured: `tests/wordpress.rs` prints it); a quarter of all cores is asked for.
    fn rate(&self, cores: usize) -> f64 {
        (cores as f64 * 3.5).clamp(4.0, 20.0)
    }

    fn health_path(&self) -> &'static str {
        "/wp-includes/images/blank.gif"
    }

    fn create_database<'a>(&'a self, database: &'a dyn LabDatabase) -> Later<'a, Result<(), LabError>> {
        Box::pin(database.create_database("wordpress", "wordpress", &self.secret))
    }

    fn prepare<'a>(&'a self, server: &'a Server) -> Later<'a, Result<(), LabError>> {
        Box::pin(self.prepare_on(server))
    }

    fn start<'a>(&'a self, server: &'a Server, listen: SocketAddr) -> Later<'a, Result<Process, LabError>> {
        Box::pin(self.start_on(server, listen))
    }

    fn install<'a>(
        &'a self,
        address: SocketAddr,
        database: &'a dyn LabDatabase,
    ) -> Later<'a, Result<(), LabError>> {
        Box::pin(self.install_through(address, database))
    }

    fn uploads(&self) -> Option<Uploads> {
        Some(Uploads {
            folder: "/var/lib/wordpress/wp-content/uploads",
            url: "/wp-content/uploads/",
        })
    }

    fn upload(&self, name: &str, picture: Vec<u8>) -> Option<Request> {
        let mut request = Request::post("/?rest_route=/wp/v2/media", "image/gif", picture);
        let disposition = format!("attachment; filename=\"{name}\"");
        request
            .headers
            .push(("Content-Disposition".to_owned(), disposition));
        Some(self.by_author(request))
    }

    /// The picture, and the smaller ones that WordPress makes of it.
    fn uploaded(&self, response: &Response) -> Vec<String> {
        if response.status != 201 {
            return Vec::new();
        }
        let media: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let sizes = media["media_details"]["sizes"].as_object();
        let sizes = sizes.into_iter().flat_map(|sizes| sizes.values());
        let path = |url: &str| Some(format!("/{}", url.split_once("//")?.1.split_once('/')?.1));
        let mut paths = Vec::new();
        for file in std::iter::once(&media).chain(sizes) {
            match file["source_url"].as_str().and_then(path) {
                Some(path) if !paths.contains(&path) => paths.push(path),
                _ => {}
            }
        }
        paths
    }
}

impl Visited for WordPress {
    fn host(&self) -> String {
        HOST.to_owned()
    }

    /// Of 20 visitors 9 look at the front page, 7 at a post, 3 comment and 1 writes a post.
    fn next(&self, dice: &mut Dice, known: &[WriteId]) -> Visit {
        let post = dice.recent(known, "post").map_or(FIRST_POST, |id| id.id);
        let text = dice.text();
        match dice.below(20) {
            0..9 => Visit {
                what: "home",
                request: Request::get("/"),
                text: None,
            },
            9..16 => Visit {
                what: "article",
                request: Request::get(format!("/?p={post}")),
                text: None,
            },
            16..19 => {
                let fields = [
                    ("comment", text.as_str()),
                    ("author", "A visitor"),
                    ("email", "visitor@example.net"),
                    ("comment_post_ID", &post.to_string()),
                    ("comment_parent", "0"),
                ];
                Visit {
                    what: "comment",
                    request: Request::form("/wp-comments-post.php", &fields),
                    text: Some(text),
                }
            }
            _ => Visit {
                what: "post",
                request: self.write_post(&text),
                text: Some(text),
            },
        }
    }

    fn write(&self, dice: &mut Dice) -> Option<Visit> {
        let text = dice.text();
        Some(Visit {
            what: "post",
            request: self.write_post(&text),
            text: Some(text),
        })
    }

    fn look(&self, id: &WriteId) -> Option<Request> {
        (id.kind == "post").then(|| Request::get(format!("/?p={}", id.id)))
    }

    fn judge(&self, visit: &Visit, response: &Response) -> Verdict {
        let body = response.text();
        let wrong = |what: &str| Verdict::Bad(format!("{what} (status {})", response.status));
        match (visit.what, response.status) {
            ("comment", 302) => {
                let place = response.header("location").unwrap_or_default();
                match place.rsplit_once("#comment-").and_then(|(_, id)| id.parse().ok()) {
                    Some(_) if place.contains("unapproved=") => wrong("comment held back"),
                    Some(id) => Verdict::Written(WriteId { kind: "comment", id }),
                    None => wrong("comment without a place"),
                }
            }
            ("post", 201) => {
                match serde_json::from_slice::<Value>(&response.body).map(|post| post["id"].as_u64()) {
                    Ok(Some(id)) => Verdict::Written(WriteId { kind: "post", id }),
                    _ => wrong("post without an identity"),
                }
            }
            ("home" | "article", 200) if body.contains(TITLE) && body.contains("</html>") => Verdict::Good,
            ("home" | "article", 200) => wrong("not the whole page"),
            _ => Verdict::Bad(format!("status {}", response.status)),
        }
    }

    fn read_back(&self, address: SocketAddr) -> Later<'_, Result<Found, LabError>> {
        Box::pin(async move {
            let mut found = Found::new();
            self.read_kind(address, "comment", &mut found).await?;
            self.read_kind(address, "post", &mut found).await?;
            Ok(found)
        })
    }

    fn read_database<'a>(&'a self, socket: &'a Path) -> Later<'a, Result<Found, LabError>> {
        Box::pin(self.read_tables(socket))
    }
}

/// Enters what carries a text of ours.
fn enter(found: &mut Found, kind: &'static str, id: u64, content: &str) {
    let text = content
        .find("pontoon")
        .and_then(|at| content.get(at..at + "pontoon".len() + 32));
    if let Some(text) = text {
        found.insert(WriteId { kind, id }, TextHash::of(text));
    }
}

async fn ask(address: SocketAddr, request: &Request) -> Result<Response, LabError> {
    let failed = |why: &dyn std::fmt::Display| LabError::App(format!("{} at {address}: {why}", request.path));
    let exchange = async { Connection::open(address).await?.send(request, HOST, false).await };
    timeout(Duration::from_secs(60), exchange)
        .await
        .map_err(|e| failed(&e))?
        .map_err(|e| failed(&e))
}

const ROOT: &str = "/usr/share/wordpress";
/// More than any page has.
const BUFFERED: &str = "output_buffering=1048576";
const THEME: &str = "wordpress-theme-twentytwentythree";
const HOST: &str = "demo.example";
const TITLE: &str = "Notes from the pontoon";
/// The post that every new site has.
const FIRST_POST: u64 = 1;
const CONFIG: &str = include_str!("../../../demo/wordpress/config-default.php");
const PLUGIN: &str = include_str!("../../../demo/wordpress/no-flood-check.php");

/// What an administrator of a busy site sets on the pages "Discussion" and "Reading".
const SETTINGS: &[(&str, &str)] = &[
    ("comment_moderation", "0"),
    ("comment_previously_approved", "0"),
    ("comments_notify", "0"),
    ("moderation_notify", "0"),
    ("default_pingback_flag", "0"),
    ("page_comments", "1"),
    ("comments_per_page", "20"),
];

/// `wp-content` is the server's own, with the package's themes and languages in it, where programs (Debian's
/// configuration) and visitors (the web root) look for it.
const MOUNT_SCRIPT: &str = r#"
web=/usr/share/wordpress/wp-content own=/var/lib/wordpress/wp-content
mountpoint -q "$web" && exit 0
for folder in themes languages plugins; do
    mkdir -p "$own/$folder"
    if [ -d "$web/$folder" ]; then mount --rbind "$web/$folder" "$own/$folder"; fi
done
mkdir -p "$own/uploads"
mount --rbind "$own" "$web"
"#;
