//! `--stay`: the fleet stays up for exploring.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Context as _;
use pontoon_rt::shutdown::Shutdown;
use pontoon_testkit::proc;

use super::application::PROGRAM;
use super::stage::{Stage, door};
use crate::output::Screen;
use crate::output::demo;

/// A way in for each server.
pub const GATEWAYS: usize = 2;

/// Opens the gateways, says how to get in, and waits for Ctrl-C.
pub async fn stay(
    screen: Screen,
    stage: &Stage,
    login: Option<&str>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let mut ways = Vec::new();
    for (index, server) in [&stage.a, &stage.b].into_iter().enumerate() {
        let port = stage.lab.open_gateway(index, door(server))?;
        let shell = shell(stage, server)?;
        ways.push(demo::Way {
            server: server.name().to_owned(),
            url: format!("http://127.0.0.1:{port}/"),
            shell,
        });
    }
    screen.remark(&demo::stay_text(&ways, login, screen.err));
    shutdown.requested().await;
    screen.remark("everything that was started is gone\n");
    Ok(())
}

/// Writes a program that opens a shell on `server` for somebody outside the lab, and gives its path. It finds the server
/// by the identity of its namespace, which is the same inside and outside; process ids are not.
fn shell(stage: &Stage, server: &pontoon_testkit::Server) -> anyhow::Result<String> {
    let pid = server
        .processes()
        .iter()
        .map(|process| process.pid)
        .min()
        .context("the server runs nothing")?;
    let namespace = proc::namespace(pid, "pid").context("the server's namespace")?;
    let program = stage.lab.workdir().join(format!("shell-{}", server.name()));
    let folder = PROGRAM.rsplit_once('/').map_or("", |(folder, _)| folder);
    let text = SHELL
        .replace("@NAMESPACE@", &namespace)
        .replace("@FOLDER@", folder)
        .replace("@NAME@", server.name());
    fs::write(&program, text)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program.display().to_string())
}

const SHELL: &str = r#"#!/bin/sh
# A shell, or the command given, on server @NAME@ of the demo.
for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/pid" 2>/dev/null)" = '@NAMESPACE@' ] || continue
    user=
    [ "$(readlink "$process/ns/user")" = "$(readlink /proc/self/ns/user)" ] || user='--user --preserve-credentials'
    [ $# -gt 0 ] || set -- sh
    exec nsenter --target "${process#/proc/}" $user --net --mount --pid --uts --ipc \
        env PATH="@FOLDER@:$PATH:/usr/local/sbin:/usr/sbin:/sbin" PS1='@NAME@# ' "$@"
done
echo "server @NAME@ is not up any more" >&2
exit 1
"#;
