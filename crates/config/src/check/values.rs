//! Single values: units, addresses, names, paths. Each says what is wrong with it at its own place.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use pontoon_fleet::{Code, units};

use super::Check;
use crate::model::Credentials;
use crate::raw::{At, Secret, Text};
use crate::shape::inline_secret;

impl Check<'_> {
    /// Reads `text` with its type's own parser.
    pub(super) fn read<T: FromStr>(&mut self, path: &str, text: &Text) -> Option<T>
    where
        T::Err: Display,
    {
        text.get()
            .parse()
            .map_err(|error| self.bad(path, text, &format!("{error}")))
            .ok()
    }

    /// A duration in whole milliseconds within `allowed`.
    pub(super) fn duration(
        &mut self,
        path: &str,
        text: Option<&Text>,
        default: Duration,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(text) = text else { return Some(default) };
        let span = match units::parse_duration(text.get()) {
            Ok(span) => span,
            Err(error) => return self.none(path, text, &error),
        };
        if span.subsec_nanos() % 1_000_000 != 0 {
            return self.none(path, text, "is finer than a millisecond");
        }
        if !allowed.contains(&span) {
            let (low, high) = (
                units::format_duration(*allowed.start()),
                units::format_duration(*allowed.end()),
            );
            return self.none(path, text, &format!("must be between {low} and {high}"));
        }
        Some(span)
    }

    /// A share above zero, in thousandths of a percent.
    pub(super) fn share(&mut self, path: &str, text: Option<&Text>, default: u32) -> Option<u32> {
        let Some(text) = text else { return Some(default) };
        units::parse_share(text.get())
            .map_err(|error| self.bad(path, text, &error))
            .ok()
    }

    /// A size of at least `least` bytes.
    pub(super) fn bytes(&mut self, path: &str, text: &Text, least: u64) -> Option<u64> {
        match units::parse_bytes(text.get()) {
            Ok(bytes) if bytes >= least => Some(bytes),
            Ok(_) => self.none(
                path,
                text,
                &format!("must be at least {}", units::format_bytes(least)),
            ),
            Err(error) => self.none(path, text, &error),
        }
    }

    /// A whole number within `allowed`.
    pub(super) fn number<T>(
        &mut self,
        path: &str,
        number: Option<&At<i64>>,
        default: T,
        allowed: RangeInclusive<i64>,
    ) -> Option<T>
    where
        T: TryFrom<i64>,
    {
        let Some(number) = number else {
            return Some(default);
        };
        match T::try_from(*number.get()) {
            Ok(value) if allowed.contains(number.get()) => Some(value),
            _ => {
                let message = format!(
                    "`{path}` is {number}, and must be {} to {}",
                    allowed.start(),
                    allowed.end()
                );
                self.wrong(Code::C002, message, number.span(), "");
                None
            }
        }
    }

    /// An IP address that a server can have.
    pub(super) fn address(&mut self, path: &str, text: &Text) -> Option<IpAddr> {
        let Ok(address) = text.get().parse::<IpAddr>() else {
            let hint = if text.get().parse::<SocketAddr>().is_ok() {
                "no port belongs here"
            } else {
                "such as 10.0.0.1 or 2001:db8::1"
            };
            self.wrong(
                Code::C002,
                format!("`{path}`: {:?} is not an IP address", text.get()),
                text.span(),
                hint,
            );
            return None;
        };
        if address.is_unspecified() || address.is_multicast() {
            return self.none(path, text, "is not the address of one server");
        }
        Some(address)
    }

    /// An address with a port other than 0.
    pub(super) fn socket(&mut self, path: &str, text: &Text) -> Option<SocketAddr> {
        match text.get().parse::<SocketAddr>() {
            Ok(socket) if socket.port() == 0 => self.none(path, text, "port 0 is none"),
            Ok(socket) => Some(socket),
            Err(_) => {
                let message = format!("`{path}`: {:?} is not ADDRESS:PORT", text.get());
                self.wrong(
                    Code::C002,
                    message,
                    text.span(),
                    "such as 127.0.0.1:8080 or [::1]:8080",
                );
                None
            }
        }
    }

    /// `HOST:PORT`, where the host may be a name.
    pub(super) fn host_port(&mut self, path: &str, text: &Text) -> Option<String> {
        let typed = text.get();
        if typed.parse::<SocketAddr>().is_ok_and(|socket| socket.port() != 0) {
            return Some(typed.clone());
        }
        let good = typed.rsplit_once(':').is_some_and(|(host, port)| {
            is_host_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if good {
            Some(typed.clone())
        } else {
            self.none(path, text, "is not HOST:PORT")
        }
    }

    /// A host name; `wildcard` allows `*.` before it.
    pub(super) fn host(&mut self, path: &str, text: &Text, wildcard: bool) -> Option<String> {
        let typed = text.get();
        let name = if wildcard {
            typed.strip_prefix("*.").unwrap_or(typed)
        } else {
            typed
        };
        if is_host_name(name) {
            return Some(typed.clone());
        }
        let hint = if !typed.is_ascii() {
            "write it in its xn-- form (RFC 5890)"
        } else if typed.contains("://") || typed.contains('/') {
            "only the name, without http:// and path"
        } else {
            "such as notes.example.com, in lower case"
        };
        self.wrong(
            Code::C002,
            format!("`{path}`: {typed:?} is not a host name"),
            text.span(),
            hint,
        );
        None
    }

    /// An absolute path without `..`.
    pub(super) fn path(&mut self, path: &str, text: &Text) -> Option<PathBuf> {
        let typed = text.get();
        let strange =
            typed.contains('\0') || typed.contains('\n') || typed.split('/').any(|part| part == "..");
        if !typed.starts_with('/') || strange || typed.len() > 4095 {
            return self.none(path, text, "is not an absolute path without \"..\"");
        }
        Some(PathBuf::from(typed))
    }

    /// The path part of a URL.
    pub(super) fn url_path(&mut self, path: &str, text: &Text) -> Option<String> {
        let typed = text.get();
        // RFC 9112 section 3.2.1: what stands in a request line has no blanks and no control characters.
        if !typed.starts_with('/') || !typed.bytes().all(|b| b.is_ascii_graphic()) || typed.contains('#') {
            return self.none(path, text, "is not a path: it begins with / and has no blanks");
        }
        Some(typed.clone())
    }

    /// An `http` or `https` URL without user and password.
    pub(super) fn url(&mut self, path: &str, text: &Text) -> Option<String> {
        let typed = text.get();
        let Some(rest) = typed
            .strip_prefix("https://")
            .or_else(|| typed.strip_prefix("http://"))
        else {
            self.wrong(
                Code::C002,
                format!("`{path}` is not a URL"),
                text.span(),
                "it begins with https://",
            );
            return None;
        };
        let (host, tail) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            let message = format!("`{path}` would put a secret into the configuration");
            self.wrong(
                Code::C007,
                message,
                text.span(),
                "leave out USER:PASSWORD@ and point to it with `credentials`",
            );
            return None;
        }
        let bare = host.parse::<IpAddr>().is_ok() || host.parse::<SocketAddr>().is_ok();
        let name = host
            .rsplit_once(':')
            .filter(|(_, port)| port.parse::<u16>().is_ok())
            .map_or(host, |(name, _)| name);
        if !(bare || is_host_name(name))
            || tail.contains(['?', '#'])
            || !tail.bytes().all(|b| b.is_ascii_graphic())
        {
            return self.none(path, text, "is not a URL of a host, and perhaps a path");
        }
        Some(typed.clone())
    }

    /// A bucket's name (the rules that all S3 stores share).
    pub(super) fn bucket(&mut self, path: &str, text: &Text) -> Option<String> {
        let typed = text.get();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if !(3..=63).contains(&typed.len()) || !typed.bytes().all(plain) || typed.contains("..") {
            return self.none(
                path,
                text,
                "is not a bucket's name: 3 to 63 of a-z, 0-9, '-' and '.'",
            );
        }
        Some(typed.clone())
    }

    /// Where a secret is.
    pub(super) fn credentials(&mut self, path: &str, secret: &At<Secret>) -> Option<Credentials> {
        let Secret {
            credential,
            file,
            env,
        } = secret.get();
        match (credential, file, env) {
            (Some(name), None, None) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                if name.get().is_empty() || name.get().len() > 255 || !name.get().chars().all(plain) {
                    self.errors
                        .push(inline_secret(&format!("{path}.credential"), name.span()));
                    return None;
                }
                Some(Credentials::Systemd(name.get().clone()))
            }
            (None, Some(file), None) => self.secret_file(path, file),
            (None, None, Some(name)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.get().is_empty() || name.get().len() > 255 || !name.get().chars().all(plain) {
                    self.errors
                        .push(inline_secret(&format!("{path}.env"), name.span()));
                    return None;
                }
                Some(Credentials::Env(name.get().clone()))
            }
            _ => {
                let message = format!("`{path}` must say one of `credential`, `file` and `env`");
                self.wrong(Code::C006, message, secret.span(), "where is the secret?");
                None
            }
        }
    }

    /// What is no path may be the secret itself: it is not repeated.
    fn secret_file(&mut self, path: &str, file: &Text) -> Option<Credentials> {
        if !file.get().starts_with('/') {
            self.errors
                .push(inline_secret(&format!("{path}.file"), file.span()));
            return None;
        }
        self.path(&format!("{path}.file"), file).map(Credentials::File)
    }

    pub(super) fn bad(&mut self, path: &str, text: &Text, why: &str) {
        let typed = format!("{:?}", text.get());
        let message = if why.starts_with(&typed) {
            format!("`{path}`: {why}")
        } else if why.starts_with('"') || why.starts_with('\'') || why.starts_with("a name") {
            format!("`{path}` cannot be {typed}: {why}")
        } else {
            format!("`{path}`: {typed} {why}")
        };
        self.wrong(Code::C002, message, text.span(), "");
    }

    pub(super) fn none<T>(&mut self, path: &str, text: &Text, why: &str) -> Option<T> {
        self.bad(path, text, why);
        None
    }
}

/// RFC 1123 section 2.1, lower case only, so that it can be compared as it stands.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (1..=253).contains(&name.len()) && name.split('.').all(label)
}
