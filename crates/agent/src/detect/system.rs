//! Which system this is: name and version, cores, memory, host name.

use std::path::Path;

use pontoon_fleet::ServerName;

/// The machine in a line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct System {
    /// `Debian 12`; `Linux` when it does not say.
    pub name: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory in bytes; 0 when unknown.
    pub memory_bytes: u64,
    /// As the machine calls itself; empty when unknown.
    pub host_name: String,
}

impl System {
    /// Looks; `root` is `/` but in tests.
    pub fn look(root: &Path) -> System {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        System {
            name: os_name(&read("etc/os-release")),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: total_memory(&read("proc/meminfo")),
            host_name: read("proc/sys/kernel/hostname").trim().to_owned(),
        }
    }

    /// Nothing could be seen.
    pub fn unknown() -> System {
        System {
            name: "Linux".to_owned(),
            cores: 1,
            memory_bytes: 0,
            host_name: String::new(),
        }
    }

    /// The host name as a server's name: its first label, with what a name may not have left out; `a` when
    /// nothing is left.
    pub fn server_name(&self) -> Option<ServerName> {
        let label = self
            .host_name
            .split('.')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let kept: String = label
            .chars()
            .map(|c| if c == '_' { '-' } else { c })
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        let kept: String = kept.trim_matches('-').chars().take(63).collect();
        let name = kept.trim_end_matches('-');
        if name.is_empty() || name == "localhost" {
            "a".parse().ok()
        } else {
            name.parse().ok()
        }
    }
}

/// `NAME` and `VERSION_ID` of os-release(5), `Debian GNU/Linux` said short.
fn os_name(text: &str) -> String {
    let field = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
            .filter(|value| !value.is_empty())
    };
    let name = field("NAME")
        .unwrap_or_else(|| "Linux".to_owned())
        .replace(" GNU/Linux", "");
    // Debian's testing and unstable have no VERSION_ID.
    match field("VERSION_ID").or_else(|| field("VERSION_CODENAME")) {
        Some(version) => format!("{name} {version}"),
        None => name,
    }
}

fn total_memory(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_say_their_names() {
        assert_eq!(
            os_name("PRETTY_NAME=\"x\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n"),
            "Debian 12"
        );
        assert_eq!(
            os_name("NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=sid\n"),
            "Debian sid"
        );
        assert_eq!(os_name("nonsense"), "Linux");
        assert_eq!(
            total_memory("MemFree: 3 kB\nMemTotal:        8000000 kB\n"),
            8_192_000_000
        );
        assert_eq!(total_memory("MemTotal: much"), 0);
    }

    #[test]
    fn any_host_name_gives_a_server_name() {
        let named = |host: &str| {
            let system = System {
                name: String::new(),
                cores: 1,
                memory_bytes: 0,
                host_name: host.to_owned(),
            };
            system.server_name().unwrap().to_string()
        };
        for (host, name) in [
            ("web1.example.com", "web1"),
            ("Web_1", "web-1"),
            ("", "a"),
            ("localhost", "a"),
            ("--", "a"),
            ("größe", "gre"),
            (&"x".repeat(80), &"x".repeat(63)),
        ] {
            assert_eq!(named(host), name, "{host}");
        }
    }
}
