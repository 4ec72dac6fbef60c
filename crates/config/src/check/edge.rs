//! `[edge]` and `[edge.tls]`.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_fleet::{CertificateFiles, Challenge, Code, EdgeAnswers, TlsVersion};

use super::Check;
use super::values::is_host_name;
use crate::model::{Acme, Edge, Tls};
use crate::raw::{self, At, Text};

const DAY: Duration = Duration::from_secs(86_400);

/// Let's Encrypt.
const DEFAULT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// What all of them take when they are handed from server to server stays small.
const MOST_NAMES: usize = 100;

const WILDCARD_HINT: &str = "an authority wants a record in the DNS for a wildcard: challenge = \"dns-01\" with [dns], or name the hosts one by one";

impl Check<'_> {
    pub(super) fn edge(&mut self, edge: Option<&raw::Edge>, fleet: &raw::Fleet) -> Option<Edge> {
        let Some(edge) = edge else {
            return Some(Edge::default());
        };
        let listen = self.visitors("edge.listen", edge.listen.as_ref(), 80);
        let tls = match &edge.tls {
            Some(tls) => Some(self.tls(tls, fleet)?),
            None => None,
        };
        let limits = self.limits(edge.limits.as_ref());
        let front = self.front(edge);
        let pages = self.pages(edge.errors.as_ref());
        let compress = self.compress(edge.compress.as_ref());
        let cache = self.kept_answers(edge.cache.as_ref());
        Some(Edge {
            listen: listen?,
            tls,
            limits: limits?,
            front: front?,
            answers: EdgeAnswers {
                pages: pages?,
                compress: compress?,
                cache: cache?,
                ..EdgeAnswers::default()
            },
        })
    }

    fn tls(&mut self, typed: &At<raw::Tls>, fleet: &raw::Fleet) -> Option<Tls> {
        let tls = typed.get();
        let listen = self.visitors("edge.tls.listen", tls.listen.as_ref(), 443);
        let certificates = self.certificates(typed);
        let acme = match &tls.acme {
            Some(acme) => Some(self.acme(acme, fleet)?),
            None => None,
        };
        let min_version = match &tls.min_version {
            None => Some(TlsVersion::default()),
            Some(text) => match text.get().as_str() {
                "1.2" => Some(TlsVersion::V1_2),
                "1.3" => Some(TlsVersion::V1_3),
                _ => {
                    self.bad("edge.tls.min_version", text, "is neither \"1.2\" nor \"1.3\"");
                    None
                }
            },
        };
        let hsts = match &tls.hsts {
            None => Some(None),
            Some(text) => self
                .duration(
                    "edge.tls.hsts",
                    Some(text),
                    DAY,
                    Duration::from_secs(1)..=3650 * DAY,
                )
                .filter(|span| {
                    let whole = span.subsec_nanos() == 0;
                    if !whole {
                        self.bad("edge.tls.hsts", text, "is finer than a second");
                    }
                    whole
                })
                .map(Some),
        };
        Some(Tls {
            listen: listen?,
            certificates: certificates?,
            acme,
            min_version: min_version?,
            redirect: tls.redirect.as_ref().is_none_or(|redirect| *redirect.get()),
            hsts: hsts?,
        })
    }

    fn certificates(&mut self, typed: &At<raw::Tls>) -> Option<Vec<CertificateFiles>> {
        let list = typed.get().certificates.as_ref();
        if list.is_none_or(|list| list.get().is_empty()) && typed.get().acme.is_none() {
            let span = list.map_or(self.first_line(typed.span()), At::span);
            let message = "`edge.tls` has no certificates: nothing could be served";
            let hint =
                "certificates = [{ certificate = \"/etc/…/fullchain.pem\", key = \"/etc/…/privkey.pem\" }]";
            self.wrong(Code::C003, message, span, hint);
            return None;
        }
        let mut found: Vec<Option<CertificateFiles>> = Vec::new();
        for typed in list.into_iter().flat_map(At::get) {
            let files = self.certificate(typed.get());
            let twice = found.iter().flatten().any(|one| {
                files
                    .as_ref()
                    .is_some_and(|files| one.certificate == files.certificate)
            });
            if twice {
                let certificate = &typed.get().certificate;
                let message = format!("the certificate {:?} stands twice", certificate.get());
                self.wrong(Code::C005, message, certificate.span(), "");
            }
            found.push(files);
        }
        found.into_iter().collect()
    }

    fn acme(&mut self, typed: &At<raw::Acme>, fleet: &raw::Fleet) -> Option<Acme> {
        let acme = typed.get();
        let challenge = self.challenge(acme.challenge.as_ref())?;
        let names = self.acme_names(typed, fleet, challenge);
        let email = match &acme.email {
            Some(email) => Some(self.email(email)?),
            None => None,
        };
        let directory = match &acme.directory {
            Some(text) => {
                let url = self.url("edge.tls.acme.directory", text)?;
                if !url.starts_with("https://") {
                    let message = "`edge.tls.acme.directory` is not reached over https";
                    self.wrong(
                        Code::C002,
                        message,
                        text.span(),
                        "what it says must be what the authority says",
                    );
                    return None;
                }
                url
            }
            None => DEFAULT_DIRECTORY.to_owned(),
        };
        let ca = match &acme.ca {
            Some(path) => Some(self.path("edge.tls.acme.ca", path)?),
            None => None,
        };
        Some(Acme {
            names: names?,
            email,
            directory,
            ca,
            challenge,
        })
    }

    fn challenge(&mut self, typed: Option<&Text>) -> Option<Challenge> {
        let Some(text) = typed else {
            return Some(Challenge::default());
        };
        let known = Challenge::ALL
            .into_iter()
            .find(|challenge| challenge.as_str() == text.get());
        if known.is_none() {
            self.bad(
                "edge.tls.acme.challenge",
                text,
                "is neither \"http-01\" nor \"dns-01\"",
            );
        }
        known
    }

    /// As typed, else the fleet's domains.
    fn acme_names(
        &mut self,
        typed: &At<raw::Acme>,
        fleet: &raw::Fleet,
        challenge: Challenge,
    ) -> Option<Vec<String>> {
        let own = typed.get().names.as_ref();
        let typed_names: Vec<&Text> = match own {
            Some(names) => names.get().iter().collect(),
            None => fleet.domains.iter().flatten().collect(),
        };
        let span = own.map_or(self.first_line(typed.span()), At::span);
        if typed_names.is_empty() {
            let message = "`edge.tls.acme` has no names: there would be nothing to order";
            self.wrong(Code::C003, message, span, "names = [\"www.example.com\"]");
            return None;
        }
        if typed_names.len() > MOST_NAMES {
            let message = format!("`edge.tls.acme` has more than {MOST_NAMES} names");
            self.wrong(Code::C006, message, span, "authorities issue only so many a week");
            return None;
        }
        let mut names: Vec<String> = Vec::new();
        for text in typed_names {
            let name = self.host("edge.tls.acme.names", text, true)?;
            let refusal = if name.starts_with("*.") && challenge == Challenge::Http01 {
                Some((
                    Code::C006,
                    format!("`edge.tls.acme`: {name:?} cannot be proved over HTTP"),
                    WILDCARD_HINT,
                ))
            } else if !name.contains('.') {
                let message =
                    format!("`edge.tls.acme`: {name:?} is not a name that visitors anywhere could use");
                Some((Code::C006, message, "such as www.example.com"))
            } else if names.contains(&name) {
                Some((Code::C005, format!("the name {name:?} stands twice"), ""))
            } else {
                None
            };
            if let Some((code, message, hint)) = refusal {
                self.wrong(code, message, text.span(), hint);
                return None;
            }
            names.push(name);
        }
        Some(names)
    }

    /// An address that can stand in a `mailto:` URL as it is.
    fn email(&mut self, text: &Text) -> Option<String> {
        let typed = text.get();
        let good = typed.split_once('@').is_some_and(|(local, domain)| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$&'*+-/=^_`{|}~".contains(&byte);
            !local.is_empty() && local.bytes().all(plain) && is_host_name(domain) && typed.len() <= 254
        });
        if good {
            return Some(typed.clone());
        }
        self.bad("edge.tls.acme.email", text, "is not an e-mail address");
        None
    }

    fn certificate(&mut self, typed: &raw::Certificate) -> Option<CertificateFiles> {
        let certificate = self.path("edge.tls.certificates.certificate", &typed.certificate);
        let key = self.path("edge.tls.certificates.key", &typed.key);
        let ocsp = match &typed.ocsp {
            Some(ocsp) => Some(self.path("edge.tls.certificates.ocsp", ocsp)?),
            None => None,
        };
        Some(CertificateFiles {
            certificate: certificate?,
            key: key?,
            ocsp,
        })
    }

    /// Where visitors are listened for; empty when it is not said.
    fn visitors(
        &mut self,
        path: &'static str,
        listen: Option<&At<Vec<Text>>>,
        port: u16,
    ) -> Option<Vec<SocketAddr>> {
        let Some(listen) = listen else {
            return Some(Vec::new());
        };
        if listen.get().is_empty() {
            let hint = format!("leave it out for port {port} of the public addresses");
            self.wrong(Code::C006, format!("`{path}` is empty"), listen.span(), &hint);
            return None;
        }
        let sockets: Vec<_> = listen.get().iter().map(|text| self.socket(path, text)).collect();
        sockets.into_iter().collect()
    }
}
