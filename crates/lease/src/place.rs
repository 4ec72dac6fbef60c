//! Which store: from a URL, or from the configuration.

use std::time::Duration;

use pontoon_config::{Credentials, EtcdTls, Lease, LeaseStore as Wanted};
use pontoon_fleet::{Code, FleetName, Refusal};

use crate::{Cell, EtcdCell, EtcdSettings, S3Cell, S3Settings, Secret};

/// A store that servers share, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Where its keys or password are.
    pub credentials: Option<Credentials>,
}

/// What a [`Place`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An object store.
    S3 {
        /// The bucket.
        bucket: String,
        /// The object.
        key: String,
        /// The store's URL; `None` means AWS.
        endpoint: Option<String>,
    },
    /// etcd.
    Etcd {
        /// Its members.
        endpoints: Vec<String>,
        /// The key.
        key: String,
        /// For members that are reached over TLS.
        tls: EtcdTls,
    },
}

impl Place {
    /// Reads `s3://BUCKET[/KEY]` (`endpoint` says whose) or `etcd://HOST:PORT[,HOST:PORT…][/KEY]` (`etcds://`: with TLS).
    ///
    /// # Errors
    /// [`Code::C002`] for what is neither, [`Code::C007`] for a URL with a password in it, which is not repeated.
    pub fn parse(
        url: &str,
        endpoint: Option<&str>,
        credentials: Option<Credentials>,
    ) -> Result<Place, Refusal> {
        if url.contains('@') || endpoint.is_some_and(|endpoint| endpoint.contains('@')) {
            return Err(
                Refusal::new(Code::C007, "the URL of a lease store takes no user or password").next(
                    "point to a file with the keys",
                    "pontoon lease probe URL --credentials file:PATH",
                ),
            );
        }
        let bad = |why: &str| {
            Refusal::new(Code::C002, format!("{url:?} is not the URL of a lease store"))
                .because(why.to_owned())
                .because("write s3://BUCKET with --endpoint https://HOST, or etcd://HOST:PORT")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let (first, key) = rest.split_once('/').unwrap_or((rest, ""));
        let key = if key.is_empty() { "pontoon/lease" } else { key }.to_owned();
        if first.is_empty() || !rest.bytes().all(|b| b.is_ascii_graphic()) || rest.contains(['?', '#']) {
            return Err(bad("it names no place"));
        }
        let kind = match scheme {
            "s3" => {
                if let Some(endpoint) = endpoint
                    && !endpoint.starts_with("https://")
                    && !endpoint.starts_with("http://")
                {
                    return Err(bad("the endpoint is not a URL of http or https"));
                }
                Kind::S3 {
                    bucket: first.to_owned(),
                    key,
                    endpoint: endpoint.map(str::to_owned),
                }
            }
            "etcd" | "etcds" if endpoint.is_some() => return Err(bad("an endpoint is only for s3")),
            "etcd" | "etcds" => {
                let with = if scheme == "etcds" { "https" } else { "http" };
                Kind::Etcd {
                    endpoints: first.split(',').map(|host| format!("{with}://{host}")).collect(),
                    key,
                    tls: EtcdTls::default(),
                }
            }
            _ => return Err(bad("the scheme is none of s3, etcd and etcds")),
        };
        Ok(Place { kind, credentials })
    }

    /// With these files for TLS.
    ///
    /// # Errors
    /// [`Code::C002`] when some are named and the store is not etcd over TLS.
    pub fn with_files(mut self, files: EtcdTls) -> Result<Place, Refusal> {
        if files == EtcdTls::default() {
            return Ok(self);
        }
        match &mut self.kind {
            Kind::Etcd { endpoints, tls, .. } if endpoints.iter().all(|one| one.starts_with("https://")) => {
                *tls = files;
                Ok(self)
            }
            _ => Err(Refusal::new(
                Code::C002,
                "certificates are for members of etcd that are reached over TLS",
            )
            .because("write etcds://HOST:PORT")),
        }
    }

    /// The store of a configuration; `None` when it is the file of one server.
    pub fn of(lease: Option<&Lease>, fleet: &FleetName) -> Option<Place> {
        let key = format!("pontoon/{fleet}/lease");
        let (kind, credentials) = match lease?.store.clone() {
            Wanted::Single => return None,
            Wanted::S3 {
                bucket,
                endpoint,
                credentials,
            } => (
                Kind::S3 {
                    bucket,
                    key,
                    endpoint,
                },
                credentials,
            ),
            Wanted::Etcd {
                endpoints,
                credentials,
                tls,
            } => (Kind::Etcd { endpoints, key, tls }, credentials),
        };
        Some(Place { kind, credentials })
    }
}

/// The object of a store, with its secrets read; nothing is asked yet. `patience` is how long one request may take.
///
/// # Errors
/// [`Code::N006`] when the secrets cannot be read, [`Code::C002`] when they or the place make no sense.
pub fn open(place: &Place, patience: Duration) -> Result<Box<dyn Cell>, Refusal> {
    let secret = place
        .credentials
        .as_ref()
        .map(Secret::read)
        .transpose()
        .map_err(|why| {
            Refusal::new(Code::N006, "the credentials of the lease store cannot be read").because(why)
        })?;
    let wrong = |why: String| {
        Refusal::new(Code::C002, "the lease store cannot be used as it is written").because(why)
    };
    Ok(match place.kind.clone() {
        Kind::S3 {
            bucket,
            key,
            endpoint,
        } => Box::new(
            S3Cell::new(&S3Settings {
                bucket,
                key,
                endpoint,
                secret,
                patience,
            })
            .map_err(wrong)?,
        ),
        Kind::Etcd { endpoints, key, tls } => Box::new(
            EtcdCell::new(&EtcdSettings {
                endpoints,
                key,
                secret,
                tls,
                patience,
            })
            .map_err(wrong)?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_nonsense_is_refused() {
        let place = Place::parse("s3://notes/fleets/x", Some("https://s3.example.com"), None).unwrap();
        let key = "fleets/x".to_owned();
        assert_eq!(
            place.kind,
            Kind::S3 {
                bucket: "notes".into(),
                key,
                endpoint: Some("https://s3.example.com".into())
            }
        );
        let place = Place::parse("etcds://10.0.0.1:2379,10.0.0.2:2379", None, None).unwrap();
        let endpoints = vec![
            "https://10.0.0.1:2379".to_owned(),
            "https://10.0.0.2:2379".to_owned(),
        ];
        assert_eq!(
            place.kind,
            Kind::Etcd {
                endpoints,
                key: "pontoon/lease".into(),
                tls: EtcdTls::default()
            }
        );
        for (url, endpoint) in [
            ("notes", None),
            ("s3://", None),
            ("s3:///key", None),
            ("ftp://notes", None),
            ("s3://notes", Some("s3.example.com")),
            ("etcd://h:1", Some("http://x")),
            ("s3://no tes", None),
            ("s3://notes?x", None),
        ] {
            assert_eq!(
                Place::parse(url, endpoint, None).unwrap_err().code,
                Code::C002,
                "{url}"
            );
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for (url, endpoint) in [
            ("etcd://u:hunter2@h:1", None),
            ("s3://b", Some("https://u:hunter2@h")),
        ] {
            let refusal = Place::parse(url, endpoint, None).unwrap_err();
            assert_eq!(refusal.code, Code::C007);
            assert!(!format!("{refusal:?}").contains("hunter2"));
        }
    }
}
