//! What an upload is, by its name.

/// Bytes that nobody is to interpret.
pub const BYTES: &str = "application/octet-stream";

/// Endings of what a server may run, in whatever place of a name: Apache runs `a.php.jpg` where it is told to by `AddHandler`.
const SCRIPTS: &[&str] = &[
    "asp", "aspx", "cgi", "fcgi", "htaccess", "inc", "jsp", "phar", "php", "phps", "pht", "phtml", "pl",
    "py", "rb", "sh", "shtml",
];

/// The media type of what most uploads are; `None` for everything else.
pub fn content_type(path: &str) -> Option<&'static str> {
    let ending = path
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_ascii_lowercase())?;
    Some(match ending.as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "svg" => "image/svg+xml",
        "css" => "text/css",
        "js" => "text/javascript",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "pdf" => "application/pdf",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "zip" => "application/zip",
        _ => return None,
    })
}

/// Whether a path may be handed to anybody as it is: of a known type, without a name that begins with a point, and without one
/// that a server may run.
pub fn is_public(path: &str) -> bool {
    let is_script = |part: &str| {
        let part = part.to_ascii_lowercase();
        SCRIPTS.contains(&part.as_str())
            || part
                .strip_prefix("php")
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    content_type(path).is_some()
        && path
            .split('/')
            .all(|name| !name.starts_with('.') && !name.split('.').skip(1).any(is_script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_what_is_hidden_are_not_handed_out() {
        for path in [
            "a.jpg",
            "2026/11/A photo.JPG",
            "php/a.png",
            "a.b.c.pdf",
            "x.min.js",
        ] {
            assert!(is_public(path), "{path}");
        }
        for path in [
            "a",
            "a.php",
            "a.PHP",
            "a.php.jpg",
            "a.pHp7.png",
            "x.phtml",
            "b.phar.zip",
            "a.php/x.jpg",
            ".htaccess",
            ".git/a.txt",
            "a.html",
            "a.xml",
            "a.sql",
            "a.bak",
            "a.jpg.",
            "a.jpg.php5",
            "a.jpg~",
        ] {
            assert!(!is_public(path), "{path}");
        }
        assert_eq!(content_type("a.SVG"), Some("image/svg+xml"));
    }
}
