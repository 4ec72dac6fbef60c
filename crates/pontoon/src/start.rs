//! Makes sure that helper and agent run: through systemd where its units are installed, otherwise as processes of
//! their own that outlive this command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_fleet::{Code, Refusal};
use pontoon_rt::files;
use pontoon_rt::paths::Paths;
use pontoon_rt::process::{self, Running, Spec};
use tokio::net::UnixStream;
use tokio::process::Command;

/// Starts what does not run yet and waits until it answers; says what was started.
pub async fn ensure_running(paths: &Paths) -> Result<Vec<&'static str>, Refusal> {
    let mut started = Vec::new();
    for (name, socket) in [("helper", paths.helper_socket()), ("agent", paths.admin_socket())] {
        if answers(&socket).await {
            continue;
        }
        let running = if by_systemd(paths) {
            systemctl("start", name).await?;
            None
        } else {
            start_detached(paths, name)?
        };
        wait_for(paths, name, &socket, running).await?;
        started.push(name);
    }
    Ok(started)
}

/// The command that starts the agent here.
pub fn start_command(paths: &Paths) -> String {
    if by_systemd(paths) {
        "systemctl start pontoon-agent".to_owned()
    } else {
        "pontoon apply".to_owned()
    }
}

/// The command that starts the agent anew; the data path is not touched by it (P5). `hung`: it runs and does not answer.
pub fn restart_command(paths: &Paths, hung: bool) -> String {
    if by_systemd(paths) {
        let kill = if hung {
            "systemctl kill -s KILL pontoon-agent; "
        } else {
            ""
        };
        return format!("{kill}systemctl restart pontoon-agent");
    }
    let signal = if hung { "-KILL" } else { "-TERM" };
    match process::adopt(&paths.pid_file("agent")) {
        Ok(Some(agent)) => format!("kill {signal} {}; sleep 1; pontoon apply", agent.pid),
        _ => "pontoon apply".to_owned(),
    }
}

/// The command that shows what the agent said last.
pub fn log_command(paths: &Paths) -> String {
    if by_systemd(paths) {
        "journalctl -u pontoon-agent -n 50".to_owned()
    } else {
        format!("tail -n 50 {}", paths.log_file("agent").display())
    }
}

/// Whether systemd runs this machine and Pontoon's units are installed. With paths other than the usual ones the
/// units would look elsewhere.
pub fn by_systemd(paths: &Paths) -> bool {
    let usual = Paths::default();
    paths.state_dir == usual.state_dir
        && paths.run_dir == usual.run_dir
        && paths.config == usual.config
        && Path::new("/run/systemd/system").is_dir()
        && UNIT_DIRS
            .iter()
            .any(|dir| Path::new(dir).join("pontoon-agent.service").is_file())
}

/// Starts or stops one of our units, and waits until that is done.
pub async fn systemctl(verb: &str, name: &str) -> Result<(), Refusal> {
    let unit = format!("pontoon-{name}.service");
    let output = tokio::time::timeout(PATIENCE, Command::new("systemctl").args([verb, &unit]).output()).await;
    let why = match output {
        Ok(Ok(output)) if output.status.success() => return Ok(()),
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!(
            "systemctl {verb} {unit} did not return within {} s",
            PATIENCE.as_secs()
        ),
    };
    Err(Refusal::new(Code::N001, format!("cannot {verb} the {name}"))
        .because(why)
        .next("see its state", format!("systemctl status {unit}"))
        .next("see what it said", format!("journalctl -u {unit} -n 50")))
}

/// `None` when one is already there that has not opened its socket yet.
fn start_detached(paths: &Paths, name: &str) -> Result<Option<Running>, Refusal> {
    let pid_file = paths.pid_file(name);
    if let Some(running) = process::adopt(&pid_file)? {
        return Ok(Some(running));
    }
    paths.create_dirs().map_err(Refusal::from)?;
    let spec = Spec {
        program: own_program()?,
        args: arguments(paths, name),
        env: Vec::new(),
    };
    Ok(Some(process::spawn_detached(
        &spec,
        &pid_file,
        &paths.log_file(name),
    )?))
}

fn arguments(paths: &Paths, name: &str) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![name.into()];
    for (flag, path) in [
        ("--config", &paths.config),
        ("--state-dir", &paths.state_dir),
        ("--run-dir", &paths.run_dir),
    ] {
        args.push(flag.into());
        args.push(std::path::absolute(path).unwrap_or_else(|_| path.clone()).into());
    }
    args
}

/// The file of this very program.
pub fn own_program() -> Result<PathBuf, Refusal> {
    std::env::current_exe().map_err(|error| {
        Refusal::new(Code::N006, "cannot tell where this program is").because(error.to_string())
    })
}

async fn wait_for(paths: &Paths, name: &str, socket: &Path, running: Option<Running>) -> Result<(), Refusal> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if answers(socket).await {
            return Ok(());
        }
        if running.as_ref().is_some_and(|running| !running.alive()) {
            return Err(not_started(paths, name, "it ended at once"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(not_started(
        paths,
        name,
        &format!("no answer within {} s", PATIENCE.as_secs()),
    ))
}

fn not_started(paths: &Paths, name: &str, why: &str) -> Refusal {
    let log = paths.log_file(name);
    let mut refusal = Refusal::new(Code::N001, format!("the {name} could not be started")).because(why);
    if !by_systemd(paths)
        && let Ok(Some(bytes)) = files::read_optional(&log)
    {
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            refusal = refusal.because(*line);
        }
    }
    if !rustix::process::geteuid().is_root() {
        refusal = refusal
            .because("this is not root")
            .next("as root", "sudo pontoon …");
    }
    refusal.next("see what it says", format!("pontoon {name}")).next(
        "and what it said",
        if by_systemd(paths) {
            format!("journalctl -u pontoon-{name} -n 50")
        } else {
            format!("tail -n 50 {}", log.display())
        },
    )
}

async fn answers(socket: &Path) -> bool {
    matches!(
        tokio::time::timeout(Duration::from_secs(2), UnixStream::connect(socket)).await,
        Ok(Ok(_))
    )
}

const UNIT_DIRS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const PATIENCE: Duration = Duration::from_secs(30);
const LAST_LINES: usize = 8;
