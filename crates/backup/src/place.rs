//! Which bucket: from the configuration, or from a command line on a machine that has none.

use pontoon_config::{Config, Credentials, LeaseStore};
use pontoon_fleet::{Code, Refusal};

/// Where copies are, without the secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// What the names of the objects begin with, without a `/` at its end.
    pub prefix: String,
    /// The store's URL; `None` means AWS.
    pub endpoint: Option<String>,
    /// Where the keys are; `None` means the environment or the machine's own role.
    pub credentials: Option<Credentials>,
}

impl Place {
    /// That of `[db.backup]`; what it leaves out is the lease store's when that is an object store too.
    pub fn of(config: &Config) -> Option<Place> {
        let backup = config.db.as_ref()?.backup.as_ref()?;
        let (lease_endpoint, lease_credentials) = match config.lease_store() {
            LeaseStore::S3 {
                endpoint,
                credentials,
                ..
            } => (endpoint, credentials),
            _ => (None, None),
        };
        Some(Place {
            bucket: backup.bucket.clone(),
            prefix: backup
                .prefix
                .clone()
                .unwrap_or_else(|| config.fleet.name.to_string()),
            endpoint: backup.endpoint.clone().or(lease_endpoint),
            credentials: backup.credentials.clone().or(lease_credentials),
        })
    }

    /// Reads `s3://BUCKET/PREFIX`.
    ///
    /// # Errors
    /// [`Code::C002`] for anything else, [`Code::C007`] for a URL with a password in it, which is not repeated.
    pub fn parse(
        url: &str,
        endpoint: Option<&str>,
        credentials: Option<Credentials>,
    ) -> Result<Place, Refusal> {
        if url.contains('@') || endpoint.is_some_and(|endpoint| endpoint.contains('@')) {
            return Err(
                Refusal::new(Code::C007, "the URL of an object store takes no user or password").next(
                    "point to a file with the keys",
                    "pontoon db backups --from s3://BUCKET/PREFIX --credentials file:PATH",
                ),
            );
        }
        let bad = |why: &str| {
            Refusal::new(Code::C002, format!("{url:?} does not say where copies are"))
                .because(why.to_owned())
                .because("write s3://BUCKET/PREFIX, with --endpoint https://HOST when it is not AWS")
        };
        let rest = url
            .strip_prefix("s3://")
            .ok_or_else(|| bad("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() || prefix.is_empty() {
            return Err(bad(
                "it needs a bucket and a prefix; the prefix is the fleet's name unless `db.backup.prefix` says otherwise",
            ));
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['?', '#']) {
            return Err(bad("it has characters that no bucket has"));
        }
        if let Some(endpoint) = endpoint
            && !endpoint.starts_with("https://")
            && !endpoint.starts_with("http://")
        {
            return Err(bad("the endpoint is not a URL of http or https"));
        }
        Ok(Place {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            credentials,
        })
    }
}
