//! `[edge]` and `[edge.tls]`.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_fleet::{CertificateFiles, Code, TlsVersion};

use super::Check;
use crate::model::{Edge, Tls};
use crate::raw::{self, At, Text};

const DAY: Duration = Duration::from_secs(86_400);

impl Check<'_> {
    pub(super) fn edge(&mut self, edge: Option<&raw::Edge>) -> Option<Edge> {
        let Some(edge) = edge else {
            return Some(Edge::default());
        };
        let listen = self.visitors("edge.listen", edge.listen.as_ref(), 80);
        let tls = match &edge.tls {
            Some(tls) => Some(self.tls(tls)?),
            None => None,
        };
        let limits = self.limits(edge.limits.as_ref());
        Some(Edge {
            listen: listen?,
            tls,
            limits: limits?,
        })
    }

    fn tls(&mut self, typed: &At<raw::Tls>) -> Option<Tls> {
        let tls = typed.get();
        let listen = self.visitors("edge.tls.listen", tls.listen.as_ref(), 443);
        let certificates = self.certificates(typed);
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
            min_version: min_version?,
            redirect: tls.redirect.as_ref().is_none_or(|redirect| *redirect.get()),
            hsts: hsts?,
        })
    }

    fn certificates(&mut self, typed: &At<raw::Tls>) -> Option<Vec<CertificateFiles>> {
        let list = typed.get().certificates.as_ref();
        if list.is_none_or(|list| list.get().is_empty()) {
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
