//! A host of its own on a network of its own: a namespace whose cable goes to a switch that can forget it.
//!
//! ```text
//!   here (broker, controller):  hub 10.77.0.1 ═ switch ═ port ─── cable ─── nic 10.77.0.2  :there (agents)
//! ```
//! The cut moves the port to a switch that is turned off. Both ends keep their addresses and their open connections, and what they send is
//! gone without an answer: a partition, not a reset. All of it is made in this program's own network namespace, and goes with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use longshore_testkit::{Process, eventually};
use tokio::net::TcpStream;

use super::{must_be_alone, tool};
use crate::keeper::Powers;

const SOON: Duration = Duration::from_secs(10);
/// Nobody listens there: who can be reached refuses at once.
const CLOSED_PORT: u16 = 9;
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// The other host. Its namespace ends with the last process in it.
pub(crate) struct Network {
    /// Keeps the namespace while nobody else is in it.
    holder: Process,
}

impl Network {
    /// The address of this side, as the other one sees it.
    pub(crate) const HUB: &str = "10.77.0.1";
    const THERE: &str = "10.77.0.2";

    /// Builds switch, cable and namespace, and shows that there is a way.
    ///
    /// # Errors
    /// This user may not, or a tool is missing.
    pub(crate) async fn make(powers: Powers) -> anyhow::Result<Self> {
        must_be_alone(powers)?;
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let network = Self { holder: Process::spawn(command) };
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        eventually("a namespace", SOON, async || std::fs::read_link(network.namespace()).is_ok_and(|theirs| theirs != ours).then_some(()))
            .await;
        // With an address of its own, which does not change with its ports, and without a delay in which a port only learns.
        tool(&["ip", "link", "add", "hub", "address", "02:00:00:00:00:01", "type", "bridge", "forward_delay", "0"])?;
        // A port that were on no switch at all would still hand what arrives to this host.
        tool(&["ip", "link", "add", "off", "type", "bridge"])?;
        tool(&["ip", "address", "add", &format!("{}/24", Self::HUB), "dev", "hub"])?;
        tool(&["ip", "link", "set", "hub", "up"])?;
        tool(&["ip", "link", "add", "port", "type", "veth", "peer", "name", "nic", "netns", &network.holder.pid().to_string()])?;
        tool(&["ip", "link", "set", "port", "up"])?;
        network.there(&["ip", "link", "set", "lo", "up"])?;
        network.there(&["ip", "address", "add", &format!("{}/24", Self::THERE), "dev", "nic"])?;
        network.there(&["ip", "link", "set", "nic", "up"])?;
        network.heal()?;
        eventually("a way there", SOON, async || Self::is_whole().await.then_some(())).await;
        Ok(network)
    }

    /// Where the namespace is.
    pub(crate) fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.pid()))
    }

    /// The same command in that namespace.
    pub(crate) fn inside(namespace: &Path, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={}", namespace.display())).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Moves the port to the switch that is off.
    ///
    /// # Errors
    /// It had no effect.
    pub(crate) async fn cut(&self) -> anyhow::Result<()> {
        tool(&["ip", "link", "set", "port", "master", "off"])?;
        ensure!(!Self::is_whole().await, "the other side was still reached");
        Ok(())
    }

    /// Moves it back.
    ///
    /// # Errors
    /// The tool failed.
    pub(crate) fn heal(&self) -> anyhow::Result<()> {
        tool(&["ip", "link", "set", "port", "master", "hub"])
    }

    async fn is_whole() -> bool {
        let asked = tokio::time::timeout(REFUSED_WITHIN, TcpStream::connect((Self::THERE, CLOSED_PORT))).await;
        asked.is_ok_and(|asked| asked.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
    }

    fn there(&self, words: &[&str]) -> anyhow::Result<()> {
        let namespace = format!("--net={}", self.namespace().display());
        tool(&[&["nsenter", &namespace], words].concat())
    }
}
