//! Which application the demo shows, and whether everything that it needs is here.

use std::path::Path;
use std::sync::Arc;

use pontoon_fleet::Refusal;
use pontoon_testkit::{DemoApp, Notes, WordPress, find_program};

use super::impossible;
use crate::args::DemoAppName;

/// The application and why it is that one.
#[derive(Clone)]
pub struct Choice {
    /// The application.
    pub app: Arc<dyn DemoApp>,
    /// How to log in as its administrator, if it has one.
    pub login: Option<String>,
    /// What should be said about the choice, if anything.
    pub remark: Option<String>,
}

/// The application asked for, or WordPress where it can be had and the small one elsewhere.
///
/// # Errors
/// What is missing, all of it, and the command that installs it.
pub fn choose(asked: Option<DemoAppName>, seed: u64) -> Result<Choice, Refusal> {
    let missing: Vec<&(&str, &str)> = PROGRAMS
        .iter()
        .filter(|(name, _)| find_program(name).is_none())
        .collect();
    if !missing.is_empty() {
        let mut refusal = impossible("programs that the demo needs are not here");
        let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        packages.sort_unstable();
        packages.dedup();
        for (program, package) in missing {
            refusal = refusal.because(format!("`{program}` is not installed (Debian package {package})"));
        }
        let install = format!(
            "sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
        return Err(refusal
            .next("from a checkout, with everything", "script/demo")
            .next("or only these", install));
    }
    let wordpress = WordPress::new(seed, WORKERS);
    match (asked, wordpress.available()) {
        (Some(DemoAppName::Notes), _) => Ok(notes(seed, None)),
        (_, Ok(())) => Ok(Choice {
            login: Some(format!("{} / {}", WordPress::ADMINISTRATOR, wordpress.password())),
            app: Arc::new(wordpress),
            remark: None,
        }),
        (None, Err(missing)) => {
            let remark = format!(
                "{}: the demo shows its own small application instead. With WordPress: {WORDPRESS_PACKAGES}",
                missing.0
            );
            Ok(notes(seed, Some(remark)))
        }
        (Some(DemoAppName::Wordpress), Err(missing)) => Err(impossible("WordPress cannot be shown here")
            .because(missing.0)
            .next("from a checkout, with everything", "script/demo")
            .next("or only this", WORDPRESS_PACKAGES)
            .next("without PHP", "pontoon demo --app notes")),
    }
}

fn notes(seed: u64, remark: Option<String>) -> Choice {
    let app = Arc::new(Notes::new(
        seed,
        Path::new(PROGRAM).to_owned(),
        vec!["demo-app".to_owned()],
    ));
    Choice {
        app,
        login: None,
        remark,
    }
}

/// PHP's processes on each server: when one server carries all visitors for a while, and the machine is busy besides,
/// those who wait for the database must not keep the others from being served.
const WORKERS: usize = 8;

/// Where every server of the lab sees this program: nobody can replace it there while the demo runs.
pub const PROGRAM: &str = "/run/lab/pontoon";

/// What the lab, the database and its copy are made with.
const PROGRAMS: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("mariadbd", "mariadb-server-core"),
    ("mariadb-install-db", "mariadb-server-core"),
    ("mariadb-backup", "mariadb-backup"),
    ("mbstream", "mariadb-backup"),
];

/// Debian's wordpress wants «httpd»: mini-httpd is the one whose package starts nothing (`script/lib.sh`).
const WORDPRESS_PACKAGES: &str = "sudo apt-get install --no-install-recommends wordpress \
    wordpress-theme-twentytwentythree php php-cli php-cgi php-mysql php-gd mini-httpd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_application_is_always_to_be_had() {
        // Without MariaDB there is no demo at all, and the refusal says what to install.
        match choose(Some(DemoAppName::Notes), 1) {
            Ok(choice) => assert_eq!((choice.app.name(), choice.remark), ("Notes", None)),
            Err(refusal) => assert!(
                refusal
                    .next
                    .iter()
                    .any(|step| step.command.contains("apt-get install"))
            ),
        }
    }
}
