//! How a copy is made: of the files, which is fast, or as a dump, which goes where files do not: to another release series,
//! without mariadb-backup, without MySQL's clone plugin. Chosen with the reason said, or as an operator says.

use std::path::Path;

use pontoon_fleet::{Code, Engine, Refusal};
use pontoon_rt::files;
use serde::{Deserialize, Serialize};

use crate::clone::Joiner;
use crate::database::Database;
use crate::version::Version;

/// How a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// mariadb-backup's stream, which the agents carry.
    Stream,
    /// MySQL's CLONE: the joiner's server fetches from the source's server.
    Clone,
    /// A dump, which the agents carry and the joiner loads into a new data directory.
    Dump,
}

/// How copies are wanted (`db.copy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Of the files where that is possible, else as a dump.
    #[default]
    Auto,
    /// Of the files, or not at all.
    Physical,
    /// As a dump.
    Logical,
}

/// What a joiner says of itself. The default is that of one whose version does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Means {
    /// Why it cannot take a copy of files.
    pub no_files: Option<String>,
    /// Why it cannot load a dump.
    pub no_dump: Option<String>,
    /// An operator asked for a dump.
    pub logical: bool,
}

impl Default for Means {
    fn default() -> Means {
        Means {
            no_files: None,
            no_dump: Some("its version of Pontoon does not load dumps".to_owned()),
            logical: false,
        }
    }
}

impl Database {
    /// How this server can be given a copy.
    pub async fn means(&self) -> Means {
        let lacks = match self.helper.lacks().await {
            Ok(lacks) => lacks,
            Err(refusal) => {
                return Means {
                    no_dump: Some(refusal.to_string()),
                    ..Means::default()
                };
            }
        };
        let no_clone = match self.node.engine {
            Engine::Mysql => self.without_clone().await,
            _ => None,
        };
        Means {
            no_files: lacks.files.or(no_clone),
            no_dump: lacks.load,
            logical: self.dump_file().exists(),
        }
    }

    /// Whether MySQL's clone plugin is not there. Of a server that does not answer nobody knows: it is tried.
    async fn without_clone(&self) -> Option<String> {
        if let Some(why) = self.reseed.without_clone() {
            return Some(why);
        }
        let asked = "SELECT @@global.plugin_dir AS dir, (SELECT COUNT(*) FROM information_schema.plugins \
                     WHERE plugin_name = 'clone' AND plugin_status = 'ACTIVE') AS loaded";
        let rows = self.control.query(asked).await.ok()?;
        let row = rows.first()?;
        let file = Path::new(row.get("dir")?).join("mysql_clone.so");
        (row.number("loaded") == 0 && !file.exists()).then(|| format!("{} is not there", file.display()))
    }

    /// Keeps on the disk that the next copy is to be a dump, or takes that back.
    ///
    /// # Errors
    /// [`Code::N006`].
    pub fn ask_for_dump(&self, yes: bool) -> Result<(), Refusal> {
        let file = self.dump_file();
        match yes {
            true => files::write_atomic(&file, b"dump", 0o600)?,
            false => files::remove_optional(&file)?,
        }
        Ok(())
    }

    fn dump_file(&self) -> std::path::PathBuf {
        self.paths.state_dir.join("copy-as-dump")
    }

    /// How `joiner` gets its copy of this server, and, when that is not the usual way, why.
    ///
    /// # Errors
    /// [`Code::D002`], [`Code::D007`], [`Code::D017`]: as things are it cannot have one.
    pub(crate) async fn choose(
        &self,
        joiner: &Joiner,
        theirs: Version,
        wish: Wish,
    ) -> Result<(Method, Option<String>), Refusal> {
        let own = self.version()?;
        let source = (self.node.engine, own);
        let wish = match joiner.means.logical {
            true => Wish::Logical,
            false => wish,
        };
        let reason = match wish {
            Wish::Logical => "it was asked for".to_owned(),
            Wish::Physical | Wish::Auto => match self.files_for(joiner, theirs).await {
                Ok(method) => return Ok((method, None)),
                Err(refusal) if wish == Wish::Physical || joiner.engine != self.node.engine => {
                    return Err(refusal);
                }
                Err(refusal) => {
                    return match self.check_dump(joiner, theirs, source).await {
                        Ok(()) => Ok((Method::Dump, Some(last_words(&refusal)))),
                        Err(other) => {
                            let mut refusal =
                                refusal.because(format!("nor can it be copied as a dump: {}", other.what));
                            refusal.evidence.extend(other.evidence);
                            refusal.next.extend(other.next);
                            Err(refusal)
                        }
                    };
                }
            },
        };
        self.check_dump(joiner, theirs, source).await?;
        Ok((Method::Dump, Some(reason)))
    }

    async fn files_for(&self, joiner: &Joiner, theirs: Version) -> Result<Method, Refusal> {
        let source = (self.node.engine, self.version()?);
        theirs.check_may_follow(joiner.engine, source)?;
        let missing = |why: String| Refusal::new(Code::D007, "its files cannot be copied").because(why);
        if let Some(why) = &joiner.means.no_files {
            let refusal = missing(format!("on {}: {why}", joiner.server));
            return Err(refusal.next(format!("install it on {}", joiner.server), self.package()));
        }
        if self.node.engine == Engine::Mysql {
            self.install_clone_plugin().await?;
            return Ok(Method::Clone);
        }
        // An older helper does not know the question, and says so when the copy begins.
        if let Ok(Some(why)) = self.helper.lacks().await.map(|lacks| lacks.files) {
            return Err(missing(format!("on the primary: {why}")).next("install it there", self.package()));
        }
        Ok(Method::Stream)
    }

    async fn check_dump(
        &self,
        joiner: &Joiner,
        theirs: Version,
        source: (Engine, Version),
    ) -> Result<(), Refusal> {
        theirs.check_may_load(joiner.engine, source)?;
        if let Some(why) = &joiner.means.no_dump {
            return Err(
                Refusal::new(Code::D007, format!("{} cannot load a dump", joiner.server))
                    .because(why.clone())
                    .next(format!("install it on {}", joiner.server), self.client_package()),
            );
        }
        if let Some(why) = self.helper.lacks().await?.dump {
            return Err(Refusal::new(Code::D007, "the primary cannot be dumped")
                .because(why)
                .next("install it there", self.client_package()));
        }
        self.check_consistent().await
    }

    fn package(&self) -> &'static str {
        match self.node.engine {
            Engine::Mysql => "apt-get install mysql-server",
            _ => "apt-get install mariadb-backup",
        }
    }

    fn client_package(&self) -> &'static str {
        match self.node.engine {
            Engine::Mysql => "apt-get install mysql-client mysql-server",
            _ => "apt-get install mariadb-client mariadb-server",
        }
    }
}

/// The reason in a line: what a refusal saw rather than what it refused.
fn last_words(refusal: &Refusal) -> String {
    refusal.evidence.last().unwrap_or(&refusal.what).clone()
}
