//! What a server's packet filter loses: a network that loses some packets, a middlebox that forgot a connection.

use crate::{LabError, Server, Skip, find_program};

/// Packets that are lost, silently.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Those that come in, or those that go out.
    pub incoming: bool,
    /// Which of them, in the words of nft(8), such as `tcp dport 3306`.
    pub matching: String,
    /// How many in a hundred, by chance.
    pub percent: u8,
}

impl Lost {
    /// All that go out and match.
    pub fn sent(matching: impl Into<String>) -> Lost {
        Lost {
            incoming: false,
            matching: matching.into(),
            percent: 100,
        }
    }

    /// All that come in and match.
    pub fn received(matching: impl Into<String>) -> Lost {
        Lost {
            incoming: true,
            ..Lost::sent(matching)
        }
    }

    /// So many in a hundred of them.
    #[must_use]
    pub fn some(self, percent: u8) -> Lost {
        Lost { percent, ..self }
    }

    fn rule(&self) -> String {
        let chain = if self.incoming { "in" } else { "out" };
        let chance = match self.percent {
            100.. => String::new(),
            percent => format!("numgen random mod 100 < {percent} "),
        };
        format!("add rule inet lab {chain} {} {chance}drop\n", self.matching)
    }
}

/// Whether there is a packet filter.
///
/// # Errors
/// [`Skip`] when `nft` is not installed.
pub fn available() -> Result<(), Skip> {
    match find_program("nft") {
        Some(_) => Ok(()),
        None => Err(Skip("`nft` is not installed (nftables)".to_owned())),
    }
}

impl Server {
    /// Loses these packets, and no others, until it is told otherwise or loses its power.
    ///
    /// # Errors
    /// A [`Skip`] without a packet filter; when the server is off, or the kernel refuses.
    pub async fn lose(&self, packets: &[Lost]) -> Result<(), LabError> {
        available()?;
        let rules: String = packets.iter().map(Lost::rule).collect();
        let script = format!(
            "nft -f - <<'END'\nadd table inet lab\ndelete table inet lab\nadd table inet lab\n\
             add chain inet lab in {{ type filter hook input priority 0; }}\n\
             add chain inet lab out {{ type filter hook output priority 0; }}\n{rules}END\n"
        );
        self.sh(&script).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_which_and_how_many() {
        let rule = Lost::received("udp dport 7400").some(20).rule();
        assert_eq!(
            rule,
            "add rule inet lab in udp dport 7400 numgen random mod 100 < 20 drop\n"
        );
        let rule = Lost::sent("tcp dport 3307").rule();
        assert_eq!(rule, "add rule inet lab out tcp dport 3307 drop\n");
    }
}
