//! From the store to a data directory, as the database was at a moment.
//!
//! Everything happens in `DIR.pontoon-restoring` beside the wanted directory: fetched with every digest compared,
//! unpacked and prepared by the engine's own tools, started once as a server that nobody else reaches, brought forward
//! with the archived transactions, and stopped. Only then two renames put it into place.

pub(crate) mod fetch;
mod replay;
pub(crate) mod select;
mod server;
mod tools;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pontoon_fleet::units::human_bytes;
use pontoon_fleet::{Code, Engine, Refusal, UnixMillis};
use pontoon_gtid::Position;
use pontoon_helper::{DatabaseNode, Moved, Setting, find};
use pontoon_rt::files::{self, FileError};
use serde::{Deserialize, Serialize};

use crate::archive::{self, Index};
use crate::catalog::Catalog;
use crate::manifest::Manifest;
use crate::moment::Moment;
use crate::store::Store;

pub use tools::Owner;

/// What is to be restored.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The data directory; one that is there is renamed.
    pub dir: PathBuf,
    /// The copy to begin with; `None`: the newest from before the moment.
    pub copy: Option<String>,
    /// Up to where.
    pub moment: Moment,
    /// How this machine's database is run, when it has one: says which programs to use and who owns the files.
    pub node: Option<DatabaseNode>,
    /// Who owns the files, by name; `None`: who owns the directory that is there, else who runs the database.
    pub owner: Option<String>,
    /// The server's program; `None`: the node's, else the one that is installed.
    pub program: Option<PathBuf>,
}

/// What is being done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// In the present participle.
    Begun(String),
    /// So many bytes of so many.
    Bytes(u64, u64),
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The data directory.
    pub dir: PathBuf,
    /// The copy that it began with.
    pub copy: String,
    /// How many transactions of the archive came on top.
    pub transactions: u64,
    /// When the last of them was committed.
    pub last: Option<UnixMillis>,
    /// Its GTID position.
    pub position: String,
    /// Where the directory went that was there.
    pub aside: Option<Moved>,
    /// The engine's version that it needs.
    pub engine_version: String,
    /// Settings that the server that runs in it must have as they were.
    pub settings: Vec<Setting>,
}

/// Restores.
///
/// # Errors
/// [`Code::D021`] when the store's content is damaged, [`Code::D022`] when that moment is not in it, [`Code::D023`] when
/// a server works in the directory, [`Code::D002`], [`Code::D003`], [`Code::D007`]. The directory is as it was then.
pub async fn restore(
    store: &Store,
    wanted: &Wanted,
    report: &mut (dyn FnMut(Step) + Send),
) -> Result<Restored, Refusal> {
    refuse_used(&wanted.dir)?;
    report(Step::Begun(format!("reading {}", store.place())));
    let catalog = Catalog::load(store).await?;
    let copy = choose(&catalog, wanted)?;
    let tools = tools::Tools::find(copy, wanted).await?;
    let mut here = position(copy)?;
    let chain = catalog.chain(copy, &mut here);
    refuse_unreachable(copy, &chain, &wanted.moment)?;
    check_space(&wanted.dir, copy, &chain)?;

    let place = Restoring::make(&wanted.dir, &tools)?;
    let outcome = fill(store, copy, &chain, wanted, &tools, &place, report).await;
    let (position, taken, last) = match outcome {
        Ok(filled) => filled,
        Err(refusal) => {
            place.remove();
            return Err(refusal);
        }
    };
    // Somebody may have started a server there meanwhile.
    refuse_used(&wanted.dir)?;
    let aside = place.activate(&wanted.dir)?;
    Ok(Restored {
        dir: wanted.dir.clone(),
        copy: copy.id.clone(),
        transactions: taken,
        last: last.map(|seconds| UnixMillis(u64::from(seconds) * 1000)),
        position,
        aside,
        engine_version: copy.engine_version.clone(),
        settings: copy.settings.clone(),
    })
}

async fn fill(
    store: &Store,
    copy: &Manifest,
    chain: &[&Index],
    wanted: &Wanted,
    tools: &tools::Tools,
    place: &Restoring,
    report: &mut (dyn FnMut(Step) + Send),
) -> Result<(String, u64, Option<u32>), Refusal> {
    let data = place.data();
    report(Step::Begun(format!("fetching {}", copy.id)));
    fetch::copy(store, copy, tools, &data, report).await?;
    report(Step::Begun("preparing the copy".to_owned()));
    let prepared = tools.prepare(copy, &data).await?;
    report(Step::Begun("starting a server on the copy".to_owned()));
    let server = server::Server::start(copy, tools, place.path(), &data).await?;
    let here = match prepared {
        Some(position) => position,
        None => server.executed().await?,
    };
    let here = Position::parse(archive::dialect(copy.engine), &here)
        .map_err(|error| Refusal::new(Code::D021, error.to_string()))?;
    let mut select = select::Select::new(archive::dialect(copy.engine), here, wanted.moment.clone(), chain);
    report(Step::Begun("applying the archived transactions".to_owned()));
    replay::all(store, chain, &server, place.path(), &mut select, report).await?;
    if let Moment::Through(name) = &wanted.moment
        && !select.has_found()
    {
        return Err(Refusal::new(
            Code::D022,
            format!("{name} is not in the archive after {}", copy.id),
        )
        .because(format!("the archive leads to {}", select.here()))
        .next("see what can be restored", "pontoon db backups"));
    }
    let position = select.here().to_string();
    let (taken, last) = select.taken();
    server.finish(&position).await?;
    Ok((position, taken, last))
}

fn position(copy: &Manifest) -> Result<Position, Refusal> {
    Position::parse(archive::dialect(copy.engine), &copy.position)
        .map_err(|error| Refusal::new(Code::D021, format!("{}: {error}", copy.id)))
}

/// The copy to begin with.
fn choose<'a>(catalog: &'a Catalog, wanted: &Wanted) -> Result<&'a Manifest, Refusal> {
    let none = |what: String| {
        let refusal = Refusal::new(Code::D022, what);
        let refusal = catalog.flawed.iter().fold(refusal, Refusal::because);
        refusal.next("see what can be restored", "pontoon db backups")
    };
    if let Some(id) = &wanted.copy {
        return catalog
            .copies
            .iter()
            .find(|copy| copy.id == *id)
            .ok_or_else(|| none(format!("there is no whole copy {id}")));
    }
    let newest = catalog.copies.iter().rev();
    let is_before = |copy: &&Manifest| match &wanted.moment {
        Moment::Latest => true,
        Moment::Before(at) => copy.ended.0 / 1000 < u64::from(*at),
        Moment::Through(name) => match (
            Position::parse(archive::dialect(copy.engine), name),
            position(copy),
        ) {
            (Ok(wanted), Ok(here)) => !here.reaches(&wanted),
            _ => false,
        },
    };
    newest.into_iter().find(is_before).ok_or_else(|| {
        let first = catalog.copies.first();
        none("there is no whole copy from before that moment".to_owned()).because(first.map_or_else(
            || "there is no whole copy at all".to_owned(),
            |first| format!("the first one, {}, ended at {}", first.id, first.ended.0 / 1000),
        ))
    })
}

/// Says no before hours of fetching when the archive does not lead there.
fn refuse_unreachable(copy: &Manifest, chain: &[&Index], moment: &Moment) -> Result<(), Refusal> {
    let Moment::Before(at) = moment else { return Ok(()) };
    if u64::from(*at) * 1000 <= copy.ended.0 {
        return Err(
            Refusal::new(Code::D022, format!("{} is from after that moment", copy.id))
                .because(format!("it ended at {} s", copy.ended.0 / 1000))
                .next("see from when each can be used", "pontoon db backups"),
        );
    }
    let seen = chain
        .iter()
        .map(|index| index.seen.0)
        .max()
        .unwrap_or(copy.ended.0);
    if seen / 1000 < u64::from(*at) {
        return Err(
            Refusal::new(Code::D022, "the archive does not lead to that moment")
                .because(format!(
                    "from {} on it leads to {} s since 1970, and {at} s is wanted",
                    copy.id,
                    seen / 1000
                ))
                .next("see up to when each leads", "pontoon db backups")
                .next(
                    "or take all that there is",
                    "pontoon db restore … (without --to-time)",
                ),
        );
    }
    Ok(())
}

fn refuse_used(dir: &Path) -> Result<(), Refusal> {
    let real = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    match find::server_in(&real) {
        None => Ok(()),
        Some(pid) => Err(Refusal::new(
            Code::D023,
            format!("a database server works in {}", dir.display()),
        )
        .because(format!("process {pid}"))
        .next(
            "restore into another directory",
            format!("pontoon db restore --into {}-restored", dir.display()),
        )
        .next("or stop it first", "systemctl stop mariadb")),
    }
}

fn check_space(dir: &Path, copy: &Manifest, chain: &[&Index]) -> Result<(), Refusal> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(parent)
        .map_err(|errno| Refusal::from(FileError::new(parent, "look at", errno.into())))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let largest = chain.iter().map(|index| index.bytes).max().unwrap_or(0);
    let needed = copy.bytes + copy.bytes / 5 + 2 * largest + (64 << 20);
    if free < needed {
        return Err(
            Refusal::new(Code::D010, "there is too little room for the copy").because(format!(
                "{} has {} free, and {} are needed",
                parent.display(),
                human_bytes(free),
                human_bytes(needed)
            )),
        );
    }
    Ok(())
}

/// The place beside the wanted directory.
struct Restoring {
    path: PathBuf,
}

/// That it is ours.
const MARK: &str = "made-by-pontoon";

impl Restoring {
    /// Makes it. What an earlier attempt left is removed when it has our mark, anything else is in the way.
    fn make(dir: &Path, tools: &tools::Tools) -> Result<Restoring, Refusal> {
        let mut name = dir.as_os_str().to_owned();
        name.push(".pontoon-restoring");
        let path = PathBuf::from(name);
        if std::fs::symlink_metadata(&path).is_ok() {
            let mark = std::fs::symlink_metadata(path.join(MARK));
            let me = rustix::process::geteuid().as_raw();
            let ours = mark.is_ok_and(|mark| mark.is_file() && mark.uid() == me);
            if !ours || find::server_in(&path.join("data")).is_some() {
                return Err(
                    Refusal::new(Code::D006, format!("{} is in the way", path.display()))
                        .because("another restore is under way, or it is not Pontoon's"),
                );
            }
            std::fs::remove_dir_all(&path).map_err(|error| FileError::new(&path, "remove", error))?;
        }
        files::create_dir(&path, 0o700)?;
        files::write_atomic(&path.join(MARK), b"", 0o600)?;
        let place = Restoring { path };
        files::create_dir(&place.data(), 0o700)?;
        files::create_dir(&place.path.join("tmp"), 0o700)?;
        for directory in [place.path.clone(), place.data(), place.path.join("tmp")] {
            tools.owner().give(&directory)?;
        }
        Ok(place)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "what was begun stays there");
        }
    }

    /// Two renames.
    fn activate(&self, dir: &Path) -> Result<Option<Moved>, Refusal> {
        let failed = |path: &Path, error| Refusal::from(FileError::new(path, "rename", error));
        let mut moved = None;
        if std::fs::symlink_metadata(dir).is_ok() {
            let aside = pontoon_helper::aside_of(dir);
            std::fs::rename(&aside.from, &aside.to).map_err(|error| failed(&aside.from, error))?;
            moved = Some(aside);
        }
        let data = self.data();
        std::fs::rename(&data, dir).map_err(|error| failed(&data, error))?;
        if let Some(parent) = dir.parent() {
            std::fs::File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|error| FileError::new(parent, "sync", error))?;
        }
        self.remove();
        Ok(moved)
    }
}

/// What each engine's programs are called.
pub(crate) fn word(engine: Engine, mariadb: &'static str, mysql: &'static str) -> &'static str {
    match engine {
        Engine::Mysql => mysql,
        _ => mariadb,
    }
}
