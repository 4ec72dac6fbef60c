//! Uploads of two servers and a bucket: written on one, read on the other, whatever dies in between. What is on the disks and in
//! the bucket is compared byte for byte by this test itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pontoon_e2e::fleet::{Fleet, attempt, end_program, expect, logs, run, tell, wait_until_healthy};
use pontoon_testkit::{LabError, Server, Skip, Spawn, in_lab, wait_until};
use serde_json::Value;

const KEYS: &str = "/etc/pontoon/s3";
const FOLDER: &str = "/var/lib/uploads";
/// The owner of the application's folder: what comes from elsewhere must be that one's too.
const OWNER: u32 = 33;
const LONG: Duration = Duration::from_secs(90);

/// Enough for the object store of these tests.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";

/// Says what differs between the bucket and a folder, by the MD5 that the store made of each object.
const COMPARE: &str = r#"
import hashlib, os, sys, urllib.parse, urllib.request, xml.etree.ElementTree as E
url, folder = sys.argv[1:]
sign = 'AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x'
there, last = {}, ''
while True:
    ask = url + '/uploads?list-type=2&start-after=' + urllib.parse.quote(last)
    answer = urllib.request.urlopen(urllib.request.Request(ask, headers={'Authorization': sign}), timeout=50).read()
    page = [(c.findtext('{*}Key'), c.findtext('{*}ETag').strip('"')) for c in E.fromstring(answer).iter() if c.tag.endswith('Contents')]
    if not page: break
    last = page[-1][0]
    there.update((k, e) for k, e in page if not k.startswith('.pontoon/'))
here = {}
for top, folders, files in os.walk(folder):
    if '.pontoon' in folders: folders.remove('.pontoon')
    for name in files:
        path = os.path.join(top, name)
        if os.path.isfile(path) and not os.path.islink(path) and '\n' not in name:
            here[os.path.relpath(path, folder)] = hashlib.md5(open(path, 'rb').read()).hexdigest()
for path in sorted(set(here) | set(there)):
    if here.get(path) != there.get(path): print(path, here.get(path), there.get(path))
"#;

type Files = BTreeMap<String, Vec<u8>>;

struct Uploads {
    fleet: Fleet,
    store: Server,
    url: String,
}

#[test]
fn uploads_are_on_every_server_and_in_the_bucket() -> Result<(), LabError> {
    let name = "uploads_are_on_every_server_and_in_the_bucket";
    in_lab(name, Duration::from_secs(280), |lab| async move {
        let mut uploads = Uploads::new(Fleet::new(lab).await?).await?;
        let played = uploads.play().await;
        if played.is_err() {
            for server in [&uploads.fleet.a, &uploads.fleet.b] {
                let said = attempt(server, &["assets", "status"]).await;
                tell(&format!("{said:?}\n{}", logs(server, 30)));
            }
        }
        played
    })
}

impl Uploads {
    async fn new(mut fleet: Fleet) -> Result<Uploads, LabError> {
        let program = pontoon_testkit::find_program("moto_server")
            .or_else(|| {
                let unpacked = pontoon_e2e::repository().join(".cache/stores/moto/bin/moto_server");
                unpacked.is_file().then_some(unpacked)
            })
            .ok_or_else(|| Skip("moto_server is not here: script/get-stores".to_owned()))?;
        let store = fleet.lab.add_server("s3", Vec::new()).await?;
        let mut spawn =
            Spawn::new(program.display().to_string(), "moto").args(["-H", "0.0.0.0", "-p", "5000"]);
        for name in ["PATH", "HOME"] {
            spawn = spawn.env(name, std::env::var(name).unwrap_or_default());
        }
        store.spawn(spawn).await?;
        let url = format!("http://{}:5000", store.private());
        let bucket = format!("{url}/uploads");
        wait_until("the object store", Duration::from_secs(60), async || {
            fleet.a.exec("curl", &["-sf", "-X", "PUT", &bucket]).await.ok()
        })
        .await?;
        Ok(Uploads { fleet, store, url })
    }

    async fn play(&mut self) -> Result<(), LabError> {
        self.fleet.found().await?;
        self.refuses_without().await?;
        self.fleet.join().await?;
        let begun = Instant::now();
        let passed = |what: &str| tell(&format!("{what}: {:?} after the join", begun.elapsed()));
        self.configure().await?;
        passed("configured");
        self.arrive().await?;
        passed("arrived");
        self.move_a_folder().await?;
        passed("moved");
        self.killed_at_any_moment().await?;
        passed("killed");
        self.bucket_away().await?;
        passed("bucket away");
        self.conflict().await?;
        passed("conflict");
        self.many_deletions().await?;
        passed("deletions");
        self.joins_anew().await?;
        passed("joined anew");
        self.damaged().await
    }

    fn servers(&self) -> [&Server; 2] {
        [&self.fleet.a, &self.fleet.b]
    }

    fn path(&self, server: &Server, path: &str) -> Result<PathBuf, LabError> {
        server.path(format!("{FOLDER}/{path}"))
    }

    /// As an application writes: the file is open while it is written.
    fn write(&self, server: &Server, path: &str, bytes: &[u8]) -> Result<(), LabError> {
        let file = self.path(server, path)?;
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).map_err(LabError::io("make a folder"))?;
        }
        std::fs::write(file, bytes).map_err(LabError::io("write an upload"))
    }

    async fn refuses_without(&self) -> Result<(), LabError> {
        let (code, _, said) = attempt(&self.fleet.a, &["assets", "status"]).await?;
        expect(code == 2 && said.contains("U001"), || said)
    }

    async fn configure(&self) -> Result<(), LabError> {
        for server in self.servers() {
            let keys = "access_key_id = x\nsecret_access_key = y\nregion = us-east-1\n";
            std::fs::write(server.path(KEYS)?, keys).map_err(LabError::io("write the keys"))?;
            server
                .sh(&format!("mkdir -p {FOLDER} && chown {OWNER}:{OWNER} {FOLDER}"))
                .await?;
        }
        let a = &self.fleet.a;
        // Both have the same old file, and one that the other lacks.
        self.write(a, "old/same.txt", b"same")?;
        self.write(&self.fleet.b, "old/same.txt", b"same")?;
        self.write(&self.fleet.b, "old/b-only.txt", b"of b")?;
        // It writes down what the join has changed.
        run(a, &["plan"]).await?;
        let path = a.path("/etc/pontoon/fleet.toml")?;
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read the configuration"))?;
        let table = format!(
            "\n[assets]\nlocal = \"{FOLDER}\"\nurl = \"/uploads/\"\nserve = true\nbucket = \"uploads\"\nendpoint = \"{}\"\ncredentials = {{ file = \"{KEYS}\" }}\n",
            self.url
        );
        std::fs::write(&path, text + &table).map_err(LabError::io("write the configuration"))?;
        run(a, &["apply", "--yes"]).await?;
        self.same_everywhere(2).await?;
        wait_until_healthy(a, 2).await
    }

    /// Waits until both folders and the bucket hold the same, and gives it.
    async fn same_everywhere(&self, files: usize) -> Result<Files, LabError> {
        self.quiet().await?;
        let same = wait_until("the same everywhere", LONG, async || {
            let a = read_folder(&self.path(&self.fleet.a, "").ok()?)?;
            let b = read_folder(&self.path(&self.fleet.b, "").ok()?)?;
            (a == b && a.len() == files).then_some(a)
        })
        .await;
        if same.is_err() {
            for server in self.servers() {
                let found = read_folder(&self.path(server, "")?).unwrap_or_default();
                tell(&format!(
                    "{} has {}: {:?}",
                    server.name(),
                    found.len(),
                    found.keys()
                ));
            }
        }
        let same = same?;
        self.quiet().await?;
        let differs = self
            .fleet
            .a
            .exec("python3", &["-c", COMPARE, &self.url, FOLDER])
            .await?;
        expect(differs.trim().is_empty(), || {
            format!("bucket and folder: {differs}")
        })?;
        Ok(same)
    }

    /// Waits until nothing is on its way, by what the processes say.
    async fn quiet(&self) -> Result<(), LabError> {
        wait_until("nothing on its way", LONG, async || {
            for server in self.servers() {
                let status = status(server).await?;
                let report = &status["report"];
                let busy = ["unsettled", "wanted", "owed_to_bucket"];
                let quiet = busy.iter().all(|key| report[key] == 0) && report["looked_around"] == true;
                let heard = report["unread"].as_object()?.values().all(|unread| *unread == 0);
                let vanished = status["vanished"].as_array()?.is_empty();
                (quiet && heard && vanished).then_some(())?;
            }
            Some(())
        })
        .await
    }

    /// A few hundred, into fresh folders; how long each takes is told, and not judged.
    async fn arrive(&self) -> Result<(), LabError> {
        let (a, b) = (&self.fleet.a, &self.fleet.b);
        let (mut spans, mut fresh) = (Vec::new(), Vec::new());
        // Meanwhile one upload comes slowly, with pauses, into a folder made for it.
        let mut slow = Slow::begin(self.path(a, "slow")?, self.path(b, "slow")?)?;
        for number in 0..120u32 {
            slow.go_on()?;
            let path = format!("2026/{:02}/é {number}.txt", number % 12);
            let bytes = format!("upload {number}\n")
                .repeat(1 + number as usize * 8)
                .into_bytes();
            let there = self.path(b, &path)?;
            self.write(a, &path, &bytes)?;
            let written = Instant::now();
            // Looked at more often than `wait_until` does: it is measured.
            while std::fs::read(&there).ok().as_ref() != Some(&bytes) {
                // Never a part of it.
                let part = std::fs::read(&there).ok().filter(|found| *found != bytes);
                expect(part.is_none(), || format!("a part of {path}"))?;
                expect(written.elapsed() < LONG, || format!("{path} is not on b"))?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let into = if number < 12 { &mut fresh } else { &mut spans };
            into.push(written.elapsed());
            slow.is_not_there()?;
        }
        spans.sort();
        fresh.sort();
        tell(&format!(
            "written on a, read on b, of 108: p50 {:?}, p99 {:?}; into folders made at that moment, of 12: {:?} at most",
            spans[spans.len() / 2],
            spans[spans.len() * 99 / 100],
            fresh.last()
        ));
        let meta = std::fs::metadata(self.path(b, "2026/00/é 0.txt")?).map_err(LabError::io("look"))?;
        expect(meta.uid() == OWNER && meta.gid() == OWNER, || {
            format!("owner {}", meta.uid())
        })?;
        // Many at once.
        for number in 0..100 {
            self.write(
                b,
                &format!("many/{}/{number}", number % 7),
                number.to_string().as_bytes(),
            )?;
        }
        slow.end()?;
        self.same_everywhere(223).await.map(drop)
    }

    /// A folder is moved, and what cannot be mirrored stays where it is. What became of it is seen after the kills.
    async fn move_a_folder(&self) -> Result<(), LabError> {
        let a = &self.fleet.a;
        a.sh(&format!(
            "cd {FOLDER}; mkfifo fifo; ln -s /etc/passwd link; ln -s /etc links; printf x >\"$(printf 'new\\nline')\"; mv many moved"
        ))
        .await
        .map(drop)
    }

    async fn killed_at_any_moment(&self) -> Result<(), LabError> {
        for round in 0..6u64 {
            let (writes, dies) = match round % 2 {
                0 => (&self.fleet.a, &self.fleet.b),
                _ => (&self.fleet.b, &self.fleet.a),
            };
            for number in 0..20 {
                let text = format!("{round} {number}");
                self.write(writes, &format!("kill/{round}/{number}"), text.as_bytes())?;
                self.write(writes, "kill/again", text.as_bytes())?;
                if number == 3 * round {
                    end_program(dies, "assets").await?;
                }
                if number == 4 * round {
                    end_program(writes, "assets").await?;
                }
            }
        }
        let same = self.same_everywhere(223 + 121).await?;
        // Whoever died while the folder was moved.
        let is_moved = same.contains_key("moved/0/0") && !same.contains_key("many/0/0");
        expect(is_moved, || "not moved".to_owned())?;
        let a = &self.fleet.a;
        wait_until("what cannot be mirrored is counted", LONG, async || {
            let status = status(a).await?;
            (status["report"]["skipped"].as_u64()? == 4).then_some(())
        })
        .await?;
        a.sh(&format!("cd {FOLDER}; rm fifo link links new*")).await?;
        expect(
            same.get("kill/again").is_some_and(|bytes| bytes == b"5 19"),
            || format!("{:?}", same.get("kill/again")),
        )
    }

    async fn bucket_away(&self) -> Result<(), LabError> {
        self.store.link_down().await?;
        let there = self.path(&self.fleet.b, "away/1.txt")?;
        for number in 0..10 {
            self.write(&self.fleet.a, &format!("away/{number}.txt"), b"while it is away")?;
        }
        wait_until("the other server has it all the same", LONG, async || {
            (std::fs::read(&there).ok()? == b"while it is away").then_some(())
        })
        .await?;
        let owed = status(&self.fleet.a)
            .await
            .ok_or_else(|| LabError::App("no status".to_owned()))?;
        expect(owed["report"]["owed_to_bucket"].as_u64() > Some(0), || {
            owed.to_string()
        })?;
        self.store.link_up().await?;
        self.same_everywhere(354).await.map(drop)
    }

    async fn conflict(&self) -> Result<(), LabError> {
        let (a, b) = (&self.fleet.a, &self.fleet.b);
        self.fleet.lab.isolate(a, b).await?;
        self.write(a, "old/same.txt", b"from a")?;
        wait_until("a has read it", LONG, async || {
            (status(a).await?["report"]["unsettled"] == 0).then_some(())
        })
        .await?;
        self.write(b, "old/same.txt", b"from b")?;
        self.fleet.lab.rejoin(a, b).await?;
        let same = self.same_everywhere(354).await?;
        expect(same["old/same.txt"] == b"from b", || {
            "the later one did not win".to_owned()
        })?;
        let kept = read_folder(&self.path(a, ".pontoon/conflicts")?).unwrap_or_default();
        expect(kept.values().any(|bytes| bytes == b"from a"), || {
            format!("{kept:?}")
        })?;
        // An old one is restored, with its old time on it: it is the newest.
        let restore = "printf restored >/var/lib/t; touch -d @1000000000 /var/lib/t; mv /var/lib/t";
        a.sh(&format!("{restore} {FOLDER}/old/same.txt")).await?;
        let there = self.path(b, "old/same.txt")?;
        wait_until("the restored one is on b", LONG, async || {
            (std::fs::read(&there).ok()? == b"restored").then_some(())
        })
        .await?;
        let meta = std::fs::metadata(&there).map_err(LabError::io("look"))?;
        expect(meta.mtime() == 1_000_000_000, || format!("{meta:?}"))
    }

    async fn many_deletions(&self) -> Result<(), LabError> {
        let (a, b) = (&self.fleet.a, &self.fleet.b);
        let before = self.same_everywhere(354).await?;
        std::fs::remove_dir_all(self.path(a, "kill")?).map_err(LabError::io("remove"))?;
        held(a, 121).await?;
        let there = read_folder(&self.path(b, "")?).unwrap_or_default();
        expect(there == before, || "b deleted something".to_owned())?;
        run(a, &["assets", "deletions", "--restore"]).await?;
        let again = self.same_everywhere(354).await?;
        expect(again == before, || "not everything is back".to_owned())?;
        std::fs::remove_dir_all(self.path(b, "kill")?).map_err(LabError::io("remove"))?;
        held(b, 121).await?;
        run(b, &["assets", "deletions", "--confirm"]).await?;
        self.same_everywhere(233).await?;
        // One of them back, from whoever keeps it.
        let (code, _, said) = attempt(b, &["assets", "undelete", "../etc/passwd"]).await?;
        expect(code == 2 && said.contains("U003"), || said)?;
        run(b, &["assets", "undelete", "kill/again"]).await?;
        let (code, _, said) = attempt(b, &["assets", "undelete", "kill/again"]).await?;
        expect(code == 3 && said.contains("U004"), || said)?;
        let same = self.same_everywhere(234).await?;
        expect(same["kill/again"] == b"5 19", || {
            "another one came back".to_owned()
        })
    }

    /// A server that has lost everything deletes nothing, and gets everything.
    async fn joins_anew(&self) -> Result<(), LabError> {
        let (a, b) = (&self.fleet.a, &self.fleet.b);
        let before = self.same_everywhere(234).await?;
        b.sh(&format!("rm -rf {FOLDER}/.pontoon {FOLDER}/*")).await?;
        // Without its mark it is not the folder that is known: nothing is deleted, and nothing is written.
        wait_until("the lost mark is noticed", LONG, async || {
            let text = status(b).await?["report"]["trouble"].to_string();
            text.contains("mark").then_some(())
        })
        .await?;
        expect(read_folder(&self.path(a, "")?) == Some(before.clone()), || {
            "a deleted something".to_owned()
        })?;
        b.sh("rm -rf /var/lib/pontoon/assets").await?;
        end_program(b, "assets").await?;
        let after = self.same_everywhere(234).await?;
        expect(after == before, || "not the same as before".to_owned())
    }

    /// By the edge of a server that did not take the upload.
    async fn handed_out(&self, server: &Server) -> Result<(), LabError> {
        let url = format!("http://{}/uploads/kill/again", server.public());
        let ask = ["-si", "-H", "Host: notes.example.com", &url];
        let of_no_type = server.exec("curl", &ask).await?;
        expect(!of_no_type.contains("nosniff"), || of_no_type.clone())?;
        let url = format!("http://{}/uploads/away/1.txt", server.public());
        let ask = ["-si", "-H", "Host: notes.example.com", &url];
        // Not before it has been still for a while.
        wait_until("the edge hands an upload out", LONG, async || {
            let answer = server.exec("curl", &ask).await.ok()?;
            (answer.contains("nosniff") && answer.ends_with("while it is away")).then_some(())
        })
        .await
    }

    async fn damaged(&self) -> Result<(), LabError> {
        let (a, b) = (&self.fleet.a, &self.fleet.b);
        self.handed_out(b).await?;
        let said = run(a, &["assets", "verify"]).await?;
        expect(
            said.contains("234 files") && said.contains("the same in b"),
            || said,
        )?;
        // Somebody else writes into the bucket.
        let there = format!("{}/uploads/old/b-only.txt", self.url);
        let put = ["-sf", "-X", "PUT", "-H", SIGNED, "--data", "damaged", &there];
        b.exec("curl", &put).await?;
        let (code, _, said) = attempt(b, &["assets", "verify"]).await?;
        expect(
            code == 1 && said.contains("old/b-only.txt") && said.contains("U005"),
            || said,
        )
    }
}

/// An upload that takes its time: a piece, then a pause longer than anybody should wait.
struct Slow {
    file: File,
    there: PathBuf,
    written: Instant,
    pieces: u64,
}

impl Slow {
    fn begin(here: PathBuf, there: PathBuf) -> Result<Slow, LabError> {
        std::fs::create_dir_all(&here).map_err(LabError::io("make a folder"))?;
        let file = File::create(here.join("video.bin")).map_err(LabError::io("begin an upload"))?;
        Ok(Slow {
            file,
            there: there.join("video.bin"),
            written: Instant::now(),
            pieces: 0,
        })
    }

    fn go_on(&mut self) -> Result<(), LabError> {
        if self.written.elapsed() > Duration::from_millis(700) || self.pieces == 0 {
            self.file
                .write_all(&[b'v'; 10_000])
                .map_err(LabError::io("go on with an upload"))?;
            (self.written, self.pieces) = (Instant::now(), self.pieces + 1);
        }
        Ok(())
    }

    fn is_not_there(&self) -> Result<(), LabError> {
        expect(!self.there.exists(), || {
            format!("{} of an upload that goes on is there", self.there.display())
        })
    }

    /// The last piece; what is on the other server is compared with the rest.
    fn end(mut self) -> Result<(), LabError> {
        self.is_not_there()?;
        tell(&format!("the slow upload came in {} pieces", self.pieces + 1));
        self.file
            .write_all(b"the end")
            .map_err(LabError::io("end an upload"))
    }
}

async fn held(server: &Server, count: u64) -> Result<(), LabError> {
    wait_until("the deletions are held", LONG, async || {
        let status = status(server).await?;
        (status["report"]["held_deletions"].as_u64()? == count).then_some(())
    })
    .await
}

async fn status(server: &Server) -> Option<Value> {
    let (code, out, _) = attempt(server, &["assets", "status", "--json"]).await.ok()?;
    serde_json::from_str(out.lines().last().filter(|_| code == 0)?).ok()
}

/// Every file below `root` but Pontoon's own; `None` when it changes meanwhile.
fn read_folder(root: &Path) -> Option<Files> {
    let (mut files, mut folders) = (Files::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).ok()? {
            let entry = entry.ok()?;
            let path = entry.path();
            let kind = entry.file_type().ok()?;
            if kind.is_dir() && entry.file_name() != ".pontoon" {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(root).ok()?.to_str()?.to_owned();
                if !name.contains('\n') {
                    files.insert(name, std::fs::read(&path).ok()?);
                }
            }
        }
    }
    Some(files)
}
