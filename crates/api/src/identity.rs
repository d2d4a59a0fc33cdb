//! What a snapshot holds, named so that it can be told again on another server.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The snapshot whose content this is: its cluster and its id there. A snapshot that an import took keeps the identity of the
/// one that was exported, so that an incremental stream finds its base on any server that holds it.
///
/// Written as 32 hexadecimal digits, a hyphen and a number: `00112233445566778899aabbccddeeff-17`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SnapshotIdentity {
    /// The cluster in which it was first taken.
    pub cluster: u128,
    /// Its id there.
    pub snapshot: u32,
}

impl fmt::Display for SnapshotIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.cluster, self.snapshot)
    }
}

impl From<SnapshotIdentity> for String {
    fn from(identity: SnapshotIdentity) -> Self {
        identity.to_string()
    }
}

impl TryFrom<String> for SnapshotIdentity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for SnapshotIdentity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').filter(|(cluster, snapshot)| {
            let number = snapshot.bytes().all(|digit| digit.is_ascii_digit());
            cluster.len() == 32 && cluster.bytes().all(|digit| digit.is_ascii_hexdigit()) && number
        });
        let parsed = parsed.and_then(|(cluster, snapshot)| {
            Some(Self { cluster: u128::from_str_radix(cluster, 16).ok()?, snapshot: snapshot.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            format!("{shown:?} is no snapshot's identity: 32 hexadecimal digits, a hyphen and a number")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_comes_back_from_its_text_and_nothing_else_is_one() {
        let identity = SnapshotIdentity { cluster: 0x1234 << 64, snapshot: 17 };
        let text = serde_json::to_string(&identity).expect("it is JSON");
        assert_eq!(text, "\"00000000000012340000000000000000-17\"");
        assert_eq!(serde_json::from_str::<SnapshotIdentity>(&text).expect("it comes back"), identity);
        let digits = "0".repeat(32);
        let wrong =
            ["", "-", "17", &digits, &format!("{digits}-"), &format!("{digits}-+1"), &format!("{digits}-4294967296")];
        for wrong in wrong {
            assert!(wrong.parse::<SnapshotIdentity>().is_err(), "{wrong}");
        }
    }
}
