//! The talk with an authority.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use instant_acme::{
    AuthorizationHandle, AuthorizationStatus, ChallengeHandle, ChallengeStatus, ChallengeType, Identifier,
    Key, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use pontoon_fleet::{Challenge, UnixMillis};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::book::{Account, Begun};
use crate::key::{self, Secret};
use wire::Wire;

mod wire;

/// How long an authority may take to look at a challenge, and then to issue.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two questions whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Which authority, as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The URL of its directory.
    pub directory: String,
    /// Whom it writes to.
    pub email: Option<String>,
    /// The authorities that its server is trusted by, PEM; `None` for those of the machine.
    pub ca: Option<PathBuf>,
    /// How names are proved to it.
    pub challenge: Challenge,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What to make of it.
    pub kind: FailureKind,
    /// In the authority's words, where it has said something.
    pub what: String,
    /// How long the authority asks us to wait.
    pub retry_after: Option<Duration>,
}

/// What to make of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// There was no answer, or none that means something: it may work next time.
    Unreachable,
    /// The proof is not where the authority looks, so it was not asked to.
    Unproved,
    /// The authority said no: somebody has to mend something.
    Refused,
    /// It was asked too often.
    Limited,
}

impl Failure {
    fn new(kind: FailureKind, what: impl Into<String>) -> Failure {
        Failure {
            kind,
            what: what.into(),
            retry_after: None,
        }
    }
}

/// An authority where the fleet has an account.
pub struct Authority {
    account: instant_acme::Account,
    place: Place,
    /// What its last answer asked us to wait.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

/// A certificate that was issued just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obtained {
    /// PEM, the certificate first.
    pub chain: String,
    /// Its key.
    pub key: Secret,
    /// The authority's name in it.
    pub issuer: String,
    /// Since when it is good.
    pub not_before: UnixMillis,
    /// Until when.
    pub not_after: UnixMillis,
}

impl Authority {
    /// Reads the directory, and makes an account for the key if there is none. That agrees to the authority's terms, as
    /// the operator did who named it.
    ///
    /// # Errors
    /// When it cannot be reached, is none, or does not want us.
    pub async fn open(place: &Place, account: &Account) -> Result<Authority, Failure> {
        let here = |what: &str| Failure::new(FailureKind::Unreachable, what);
        let der = account.key.as_ref().and_then(Secret::der);
        let der = der.ok_or_else(|| here("the account's key is not on this server yet"))?;
        let retry_after = Arc::default();
        let wire = Wire::new(place.ca.as_deref(), Arc::clone(&retry_after))
            .map_err(|why| Failure::new(FailureKind::Refused, why))?;
        let failed = |error| failure(&error, place, &retry_after);
        let pkcs8 = PrivatePkcs8KeyDer::from(der);
        let key = Key::from_pkcs8_der(pkcs8.clone_key()).map_err(failed)?;
        let builder = instant_acme::Account::builder_with_http(Box::new(wire));
        let (opened, _) = builder
            .create_from_key((key, PrivateKeyDer::Pkcs8(pkcs8)), place.directory.clone())
            .await
            .map_err(failed)?;
        if opened.key_thumbprint() != account.thumbprint {
            return Err(here(
                "the account's key and its thumbprint do not belong together",
            ));
        }
        if let Some(email) = &place.email {
            let contact = format!("mailto:{email}");
            opened.update_contacts(&[&contact]).await.map_err(|error| {
                let inner = failure(&error, place, &retry_after);
                Failure {
                    what: format!("it does not take the address {email}: {}", inner.what),
                    ..inner
                }
            })?;
        }
        Ok(Authority {
            account: opened,
            place: place.clone(),
            retry_after,
        })
    }

    /// Orders a certificate for `name`.
    ///
    /// # Errors
    /// When the authority does not take the order.
    pub async fn begin(&self, name: &str) -> Result<Begun, Failure> {
        let names = [Identifier::Dns(name.to_owned())];
        let order = self
            .account
            .new_order(&NewOrder::new(&names))
            .await
            .map_err(|error| self.failure(&error))?;
        let key = key::certificate_key()
            .map_err(|refusal| Failure::new(FailureKind::Unreachable, refusal.to_string()))?;
        Ok(Begun {
            directory: self.place.directory.clone(),
            order: order.url().to_owned(),
            key,
        })
    }

    /// Whether an order that was begun, perhaps by another server, can still become a certificate.
    pub async fn goes_on(&self, begun: &Begun) -> bool {
        if begun.directory != self.place.directory {
            return false;
        }
        match self.account.order(begun.order.clone()).await {
            Ok(mut order) => order.state().status != OrderStatus::Invalid,
            // Not known is not gone: what then fails is ended as any order.
            Err(instant_acme::Error::Api(_)) => false,
            Err(_) => true,
        }
    }

    /// The text that the name's TXT record must have before [`Authority::finish`], when one is needed: see
    /// [`pontoon_fleet::Proofs`]. The same again for the same order.
    ///
    /// # Errors
    /// As [`Authority::finish`].
    pub async fn proof(&self, name: &str, begun: &Begun) -> Result<Option<String>, Failure> {
        if self.place.challenge != Challenge::Dns01 {
            return Ok(None);
        }
        let mut order = self.known(begun).await?;
        let mut authorizations = order.authorizations();
        // One for the one name of the order.
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failure(&error))?;
            if authorization.status == AuthorizationStatus::Pending {
                let challenge = self.challenge(name, &mut authorization)?;
                return Ok(Some(challenge.key_authorization().dns_value()));
            }
        }
        Ok(None)
    }

    /// Proves that the name is ours, with the answers that every edge or name server gives, and fetches the certificate.
    ///
    /// # Errors
    /// What the authority has against it, or [`FailureKind::Unreachable`] when it says nothing for a while: then the order
    /// may still be gone on with.
    pub async fn finish(&self, name: &str, begun: &Begun) -> Result<Obtained, Failure> {
        let mut order = self.known(begun).await?;
        self.prove(name, &mut order).await?;
        let unusable = |why: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Unreachable, format!("the key is spoilt: {why}"))
        };
        let der = begun.key.der().ok_or_else(|| unusable(&"not base64"))?;
        if order.state().status == OrderStatus::Ready {
            let pair = KeyPair::try_from(der.as_slice()).map_err(|error| unusable(&error))?;
            let mut params =
                CertificateParams::new(vec![name.to_owned()]).map_err(|error| unusable(&error))?;
            params.distinguished_name = DistinguishedName::new();
            let request = params
                .serialize_request(&pair)
                .map_err(|error| unusable(&error))?;
            let taken = order.finalize_csr(request.der()).await;
            taken.map_err(|error| self.failure(&error))?;
        }
        let policy = RetryPolicy::new()
            .initial_delay(LOOK_AGAIN)
            .backoff(1.2)
            .timeout(PATIENCE);
        let chain = order
            .poll_certificate(&policy)
            .await
            .map_err(|error| self.failure(&error))?;
        read(name, chain, &begun.key, &der).map_err(|why| {
            Failure::new(
                FailureKind::Refused,
                format!("what it issued cannot be served: {why}"),
            )
        })
    }

    async fn known(&self, begun: &Begun) -> Result<Order, Failure> {
        let order = self.account.order(begun.order.clone()).await;
        order.map_err(|error| self.failure(&error))
    }

    /// Has the authority look at the challenge, unless it has.
    async fn prove(&self, name: &str, order: &mut Order) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut asked = false;
        loop {
            match order.state().status {
                OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => return Ok(()),
                OrderStatus::Invalid => return Err(self.why_invalid(order).await),
                OrderStatus::Pending => {}
            }
            if !asked {
                self.answer_challenges(name, order).await?;
                asked = true;
            }
            if tokio::time::Instant::now() >= deadline {
                let what = format!("the authority did not look at {name} within {PATIENCE:?}");
                return Err(Failure::new(FailureKind::Unreachable, what));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            order.refresh().await.map_err(|error| self.failure(&error))?;
        }
    }

    async fn answer_challenges(&self, name: &str, order: &mut Order) -> Result<(), Failure> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failure(&error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let mut challenge = self.challenge(name, &mut authorization)?;
            // One that it looks at already is not to be said again.
            if challenge.status == ChallengeStatus::Pending {
                challenge
                    .set_ready()
                    .await
                    .map_err(|error| self.failure(&error))?;
            }
        }
        Ok(())
    }

    fn challenge<'a>(
        &self,
        name: &str,
        authorization: &'a mut AuthorizationHandle<'a>,
    ) -> Result<ChallengeHandle<'a>, Failure> {
        let (wanted, how) = match self.place.challenge {
            Challenge::Http01 => (ChallengeType::Http01, "over HTTP (http-01)"),
            Challenge::Dns01 => (ChallengeType::Dns01, "in the DNS (dns-01)"),
        };
        let none = || {
            let what = format!("the authority takes no proof {how} for {name}");
            Failure::new(FailureKind::Refused, what)
        };
        authorization.challenge(wanted).ok_or_else(none)
    }

    /// An order says that it is invalid; its challenge says why.
    async fn why_invalid(&self, order: &mut Order) -> Failure {
        let own = order.state().error.clone();
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else {
                continue;
            };
            let error = state
                .challenges
                .iter()
                .find_map(|challenge| challenge.error.clone());
            if let Some(problem) = error {
                return self.failure(&instant_acme::Error::Api(problem));
            }
        }
        match own {
            Some(problem) => self.failure(&instant_acme::Error::Api(problem)),
            None => Failure::new(
                FailureKind::Refused,
                "the authority says that the order is invalid",
            ),
        }
    }

    fn failure(&self, error: &instant_acme::Error) -> Failure {
        failure(error, &self.place, &self.retry_after)
    }
}

fn failure(error: &instant_acme::Error, place: &Place, retry_after: &Mutex<Option<Duration>>) -> Failure {
    use instant_acme::Error as E;
    let (kind, what) = match error {
        E::Api(problem) => {
            let kind = match problem.r#type.as_deref().and_then(|text| text.rsplit(':').next()) {
                Some("rateLimited") => FailureKind::Limited,
                Some("serverInternal") => FailureKind::Unreachable,
                _ => FailureKind::Refused,
            };
            (kind, words(problem))
        }
        E::Json(_) => (
            FailureKind::Refused,
            format!("{} is not the directory of an ACME authority", place.directory),
        ),
        error => (FailureKind::Unreachable, error.to_string()),
    };
    let retry_after = *retry_after.lock().unwrap_or_else(PoisonError::into_inner);
    Failure {
        kind,
        what,
        retry_after: retry_after.filter(|_| kind != FailureKind::Refused),
    }
}

/// The authority's words, and its name for what is wrong.
fn words(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_default();
    for sub in &problem.subproblems {
        text = format!("{text}; {}", sub.detail.as_deref().unwrap_or_default());
    }
    if let Some(name) = problem.r#type.as_deref().and_then(|text| text.rsplit(':').next()) {
        text = format!("{text} ({name})");
    }
    let text = text.trim_start_matches([' ', ';']);
    // It comes from outside, and is kept and shown.
    text.chars().filter(|char| !char.is_control()).take(600).collect()
}

/// Looks at what was issued as a client would.
fn read(name: &str, chain: String, key: &Secret, der: &[u8]) -> Result<Obtained, String> {
    let leaf =
        CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| format!("not PEM: {error}"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).map_err(|error| error.to_string())?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let has = names.is_some_and(|names| {
        names.value.general_names.iter().any(|found| {
            matches!(found, x509_parser::extensions::GeneralName::DNSName(text) if text.eq_ignore_ascii_case(name))
        })
    });
    if !has {
        return Err(format!("it is not for {name}"));
    }
    let pair = KeyPair::try_from(der).map_err(|error| error.to_string())?;
    if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
        return Err("it is for another key".to_owned());
    }
    let issuer = parsed.issuer();
    let who = issuer.iter_common_name().chain(issuer.iter_organization()).next();
    let who = who.and_then(|part| part.as_str().ok()).unwrap_or("unnamed");
    let moment = |time: x509_parser::time::ASN1Time| {
        UnixMillis(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
    };
    Ok(Obtained {
        not_before: moment(parsed.validity().not_before),
        not_after: moment(parsed.validity().not_after),
        issuer: who.to_owned(),
        key: key.clone(),
        chain,
    })
}

/// What `Retry-After` says (RFC 9110 section 10.2.3), from now on.
fn patience(text: &str) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .ok(),
    }
}
