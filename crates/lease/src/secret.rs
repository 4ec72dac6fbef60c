//! Keys and passwords: read from where the configuration points, kept in memory only, never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use pontoon_config::Credentials;
use pontoon_rt::files;
use zeroize::Zeroizing;

/// Larger than any set of keys.
const MAX_BYTES: u64 = 64 << 10;

/// Named secrets, wiped when dropped. `Debug` shows their names only.
#[derive(Clone)]
pub struct Secret {
    values: BTreeMap<String, Zeroizing<String>>,
}

impl Secret {
    /// Reads what `from` points at: lines `NAME = VALUE`, as in the files of AWS's tools and in environment files. A
    /// prefix `aws_`, quotes, comments and headings do not matter.
    ///
    /// # Errors
    /// Where it was looked for and what was wrong; never a part of it.
    pub fn read(from: &Credentials) -> Result<Secret, String> {
        let text = match from {
            Credentials::Systemd(name) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| format!("the credential {name} is given by systemd (LoadCredential=) only: CREDENTIALS_DIRECTORY is not set"))?;
                read_file(&PathBuf::from(folder).join(name))?
            }
            Credentials::File(path) => read_file(path)?,
            Credentials::Env(name) => {
                Zeroizing::new(std::env::var(name).map_err(|_| format!("the environment has no {name}"))?)
            }
        };
        Secret::parse(&text)
    }

    /// See [`Secret::read`].
    ///
    /// # Errors
    /// The number of the line that cannot be read.
    pub fn parse(text: &str) -> Result<Secret, String> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if line.is_empty() || line.starts_with(['#', ';', '[']) {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                return Err(format!(
                    "line {} of the credentials is not NAME = VALUE",
                    number + 1
                ));
            };
            let name = name.trim().to_ascii_lowercase();
            let name = name.strip_prefix("aws_").unwrap_or(&name).to_owned();
            let value = value.trim();
            let bare = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'))
                .unwrap_or(value);
            values.insert(name, Zeroizing::new(bare.to_owned()));
        }
        Ok(Secret { values })
    }

    /// The value of that name, if there is one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.as_str())
    }

    /// The value of that name.
    ///
    /// # Errors
    /// That it is not there.
    pub fn need(&self, name: &str) -> Result<&str, String> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| format!("the credentials have no line {name} = …"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = files::read_limited(path, MAX_BYTES)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{} is not there", path.display()))?;
    String::from_utf8(bytes)
        .map(Zeroizing::new)
        .map_err(|_| format!("{} is not text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_read_and_nothing_is_shown() {
        let aws = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key=se/cr=et\n";
        let env = "# keys\nexport AWS_ACCESS_KEY_ID=\"AKIA1\"\nAWS_SECRET_ACCESS_KEY=se/cr=et\n";
        for text in [aws, env] {
            let secret = Secret::parse(text).unwrap();
            assert_eq!(secret.need("access_key_id"), Ok("AKIA1"));
            assert_eq!(secret.need("secret_access_key"), Ok("se/cr=et"));
            let shown = format!("{secret:?}");
            assert!(!shown.contains("AKIA1") && !shown.contains("cr="), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_repeating_it() {
        let error = Secret::parse("password = x\nhunter2\n").unwrap_err();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        let error = Secret::parse("").unwrap().need("user").unwrap_err();
        assert!(error.contains("user"), "{error}");
        for from in [
            Credentials::File("/no/such/file".into()),
            Credentials::Env("PONTOON_NO_SUCH".into()),
            Credentials::Systemd("none".into()),
        ] {
            assert!(Secret::read(&from).is_err(), "{from:?}");
        }
    }
}
