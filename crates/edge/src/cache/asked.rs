//! What a request means to the cache.

use pontoon_fleet::CacheRules;

use super::directives::Directives;
use crate::http1::body::Length;
use crate::http1::head::{Fields, Known};
use crate::http1::request::Request;

/// A request that may be answered with what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What its answer is kept as.
    pub key: Key,
    /// What it says itself.
    pub wishes: Directives,
    /// It may be answered with 304.
    pub is_conditional: bool,
}

/// Scheme, host and target. What a proxy said of the host is part of it, too: applications write links with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub Box<[u8]>);

impl Key {
    /// Of `request`, whose head is `head`.
    pub fn of(request: &Request, head: &[u8]) -> Key {
        let host = head.get(request.host.clone()).unwrap_or_default();
        let told = crate::stay::field(head, "x-forwarded-host").unwrap_or_default();
        let scheme: &[u8] = if request.secure { b"https" } else { b"http" };
        let (host, told) = (host.to_ascii_lowercase(), told.to_ascii_lowercase());
        let target = head.get(request.target.clone()).unwrap_or_default();
        // None of them has a NUL in it.
        Key([scheme, &host, &told, target].join(&0).into())
    }

    /// The hosts, and the target.
    pub fn parts(&self) -> ([&str; 2], &str) {
        let mut parts = self.0.split(|byte| *byte == 0).skip(1);
        let mut next = || std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        ([next(), next()], next())
    }
}

/// Whether the answer to `request`, whose head is `head`, may be one that is kept, or may be kept.
///
/// # Errors
/// Why the cache has nothing to do with it.
pub fn asked(rules: &CacheRules, request: &Request, head: &[u8]) -> Result<Asked, &'static str> {
    let method = head.get(..request.method_length).unwrap_or_default();
    let target = head.get(request.target.clone()).unwrap_or_default();
    if !matches!(method, b"GET" | b"HEAD") {
        return Err("its method");
    }
    // A GET with a body that the application looks at would be a page of the sender's making.
    if request.length != Length::None || request.upgrade || request.expects_continue {
        return Err("it has a body, or asks for another protocol");
    }
    // It must see what was written just now.
    if request.floor.is_some() {
        return Err("its cookie says that it wrote something lately");
    }
    if !is_kept_path(rules, target) {
        return Err("its path (edge.cache.paths)");
    }
    let mut wishes = Directives::default();
    let (mut pragma, mut is_conditional) = (false, false);
    let (_, fields) = Fields::parse(head).map_err(|_| "its head")?;
    for (known, name, value) in fields.iter() {
        if known == Known::Cookie && has_cookie(rules, value) {
            return Err("a cookie (edge.cache.bypass_cookies)");
        }
        let name = name.to_ascii_lowercase();
        if is_personal_or_unkeyed(&name) {
            return Err("a field for which answers are not kept, such as Authorization or Range");
        }
        match name.as_slice() {
            b"cache-control" => wishes.read(value),
            b"if-none-match" | b"if-modified-since" => is_conditional = true,
            b"pragma" => pragma |= value.eq_ignore_ascii_case(b"no-cache"),
            _ => {}
        }
    }
    if wishes.no_store {
        return Err("it says no-store");
    }
    wishes.no_cache |= pragma && !wishes.said;
    Ok(Asked {
        key: Key::of(request, head),
        wishes,
        is_conditional,
    })
}

/// Where two programs may see two paths in one target, the rules on paths mean nothing.
fn is_kept_path(rules: &CacheRules, target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let path = path.to_ascii_lowercase();
    let odd: [&[u8]; 6] = [b"..", b"%2e", b"%2f", b"%5c", b"\\", b"//"];
    let is_odd = odd
        .iter()
        .any(|odd| path.windows(odd.len()).any(|part| part == *odd));
    !is_odd
        && rules
            .paths
            .iter()
            .any(|begin| target.starts_with(begin.as_bytes()))
}

fn has_cookie(rules: &CacheRules, value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .any(|crumb| {
            rules
                .bypass_cookies
                .iter()
                .any(|begin| crumb.starts_with(begin.as_bytes()))
        })
}

/// Fields that make an answer one for this request alone, and fields that some application or framework believes although
/// caches do not key by them: whose answer is made with one of them is not shown to who comes without.
fn is_personal_or_unkeyed(name: &[u8]) -> bool {
    const WHOLE: [&[u8]; 11] = [
        b"authorization",
        b"proxy-authorization",
        b"range",
        b"if-range",
        b"if-match",
        b"if-unmodified-since",
        b"forwarded",
        b"front-end-https",
        b"x-host",
        b"x-scheme",
        b"x-proxyuser-ip",
    ];
    const BEGINNINGS: [&[u8]; 7] = [
        b"x-http-method",
        b"x-method",
        b"x-original-",
        b"x-rewrite-",
        b"x-url",
        b"x-http-host",
        b"x-http-dest",
    ];
    // Written by the edge itself, and part of the key where they say more than the truth about the visitor.
    const OURS: [&[u8]; 3] = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"];
    WHOLE.contains(&name)
        || BEGINNINGS.iter().any(|begin| name.starts_with(begin))
        || (name.starts_with(b"x-forwarded") && !OURS.contains(&name))
}
