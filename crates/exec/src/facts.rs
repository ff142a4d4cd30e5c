//! What a host is, from small files of the kernel and the system. Nothing here waits for a network, a disk or another program.
//!
//! The invariant guarded here: a host cannot make an agent's record of it large, whatever it is set up to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use longshore_model::limits::{FACT_ADDRESSES_MAX, FACT_BYTES_MAX, FACT_INTERFACES_MAX};
use longshore_model::wire::facts::{CpuFacts, Facts, InterfaceFact, InterfaceFacts, MemoryFacts, OsFacts};

use crate::machine::Machine;

/// Programs that install packages, by what they are called; the first that is there.
const PACKAGE_MANAGERS: [(&str, &str); 6] = [
    ("/usr/bin/apt-get", "apt"),
    ("/usr/bin/dnf", "dnf"),
    ("/usr/bin/yum", "yum"),
    ("/usr/bin/zypper", "zypper"),
    ("/usr/bin/pacman", "pacman"),
    ("/sbin/apk", "apk"),
];
/// What is there where a service manager runs.
const SERVICE_MANAGERS: [(&str, &str); 3] = [("/run/systemd/system", "systemd"), ("/run/openrc", "openrc"), ("/run/runit", "runit")];
/// What the firmware of virtual machines says, and what they are called.
const FIRMWARE: [(&str, &str); 8] = [
    ("VMware", "vmware"),
    ("VirtualBox", "virtualbox"),
    ("KVM", "kvm"),
    ("QEMU", "qemu"),
    ("Xen", "xen"),
    ("Virtual Machine", "hyperv"),
    ("Google Compute Engine", "google"),
    ("Amazon EC2", "amazon"),
];

impl Machine {
    /// What the host is: everything but the agent's own part. `hostname` is the name that the agent goes by. Blocks for some milliseconds.
    #[must_use]
    pub fn facts(&self, hostname: &str) -> Facts {
        let interfaces = self.interface_facts();
        let primary = self.primary_interface(&interfaces);
        let release = self.os_release();
        let said = |key: &str| release.get(key).map(String::as_str).and_then(sound);
        Facts {
            arch: sound(std::env::consts::ARCH),
            cpu: CpuFacts { count: self.cpus() },
            fqdn: self.fqdn(hostname),
            hostname: sound(hostname).unwrap_or_default(),
            interface: InterfaceFacts {
                address: primary.as_ref().and_then(|name| interfaces.get(name)).and_then(|interface| interface.address.clone()),
                primary,
            },
            interfaces,
            kernel: self.line("/proc/sys/kernel/osrelease"),
            memory: MemoryFacts { total_bytes: self.memory().map(|(total, _)| total) },
            os: OsFacts { name: said("PRETTY_NAME").or_else(|| said("NAME")), distribution: said("ID"), version: said("VERSION_ID") },
            package_manager: self.first_there(&PACKAGE_MANAGERS),
            service_manager: self.first_there(&SERVICE_MANAGERS),
            timezone: self.timezone(),
            virtualization: self.virtualization(),
            ..Facts::default()
        }
    }

    /// Bytes of memory there are, and of those that could be had now.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let text = self.text("/proc/meminfo")?;
        let bytes = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key))?.trim_start_matches(':');
            value.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some((bytes("MemTotal")?, bytes("MemAvailable").or_else(|| bytes("MemFree"))?))
    }

    /// Processors of the whole host: what its load is shared by.
    pub(crate) fn cpus(&self) -> Option<u32> {
        let text = self.text("/proc/stat")?;
        let is_one = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        u32::try_from(text.lines().filter(is_one).count()).ok().filter(|count| *count > 0)
    }

    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.read_text(path).ok().flatten()
    }

    fn line(&self, path: &str) -> Option<String> {
        self.text(path).and_then(|text| sound(text.lines().next().unwrap_or_default()))
    }

    fn is_there(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    fn first_there(&self, rows: &[(&str, &str)]) -> Option<String> {
        rows.iter().find(|(path, _)| self.is_there(path)).map(|(_, name)| (*name).to_owned())
    }

    fn os_release(&self) -> BTreeMap<String, String> {
        let text = self.text("/etc/os-release").or_else(|| self.text("/usr/lib/os-release")).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
        };
        text.lines().filter_map(pair).collect()
    }

    /// The full name: the host's own if it has dots, or what its table of hosts calls it.
    fn fqdn(&self, hostname: &str) -> Option<String> {
        if hostname.contains('.') {
            return sound(hostname);
        }
        let beginning = format!("{hostname}.");
        let hosts = self.text("/etc/hosts")?;
        let names = hosts.lines().map(|line| line.split('#').next().unwrap_or_default()).flat_map(|line| line.split_whitespace().skip(1));
        names.filter(|name| !hostname.is_empty() && name.starts_with(&beginning)).find_map(sound)
    }

    fn timezone(&self) -> Option<String> {
        let named = self.real_path("/etc/localtime").ok();
        let of_link = named.as_deref().and_then(|path| path.split_once("/zoneinfo/")).and_then(|(_, name)| sound(name));
        of_link.or_else(|| self.line("/etc/timezone"))
    }

    fn virtualization(&self) -> Option<String> {
        if let Some(container) = self.line("/run/systemd/container") {
            return Some(container);
        }
        for (path, name) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")] {
            if self.is_there(path) {
                return Some(name.to_owned());
            }
        }
        let firmware = ["/sys/class/dmi/id/product_name", "/sys/class/dmi/id/sys_vendor"].map(|path| self.line(path).unwrap_or_default());
        if let Some((_, name)) = FIRMWARE.iter().find(|(said, _)| firmware.iter().any(|line| line.contains(said))) {
            return Some((*name).to_owned());
        }
        let processors = self.text("/proc/cpuinfo")?;
        let is_virtual =
            processors.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor"));
        Some(if is_virtual { "vm" } else { "none" }.to_owned())
    }

    fn interface_facts(&self) -> BTreeMap<String, InterfaceFact> {
        let mut addresses = self.addresses();
        let fact = |name: String| {
            let mut all = addresses.remove(&name).unwrap_or_default();
            all.sort_by_key(|address| (address.is_ipv6(), *address));
            all.dedup();
            all.truncate(FACT_ADDRESSES_MAX);
            let addresses: Vec<String> = all.iter().map(ToString::to_string).collect();
            let mac =
                self.line(&format!("/sys/class/net/{name}/address")).filter(|mac| mac.bytes().any(|byte| !matches!(byte, b'0' | b':')));
            (name, InterfaceFact { address: addresses.first().cloned(), addresses, mac })
        };
        self.interfaces().into_iter().take(FACT_INTERFACES_MAX).map(fact).collect()
    }

    /// The interface of the default route with the lowest metric, IPv4 before IPv6; without one, the first that has an address beyond
    /// this host.
    fn primary_interface(&self, interfaces: &BTreeMap<String, InterfaceFact>) -> Option<String> {
        let routes = self.text("/proc/net/route").unwrap_or_default();
        let by_ipv4 = routes.lines().skip(1).filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let is_default = columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000");
            is_default.then(|| (columns.get(6).and_then(|metric| metric.parse::<u32>().ok()).unwrap_or(u32::MAX), columns[0].to_owned()))
        });
        let routes = self.text("/proc/net/ipv6_route").unwrap_or_default();
        let by_ipv6 = routes.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let is_default = columns.first().is_some_and(|to| to.bytes().all(|byte| byte == b'0')) && columns.get(1) == Some(&"00");
            let name = columns.get(9).filter(|name| is_default && **name != "lo")?;
            Some((u32::from_str_radix(columns.get(5)?, 16).unwrap_or(u32::MAX), (*name).to_owned()))
        });
        let lowest = |routes: &mut dyn Iterator<Item = (u32, String)>| {
            routes.filter(|(_, name)| interfaces.contains_key(name)).min().map(|(_, name)| name)
        };
        let has_address = |(name, fact): &(&String, &InterfaceFact)| name.as_str() != "lo" && fact.address.is_some();
        lowest(&mut by_ipv4.into_iter())
            .or_else(|| lowest(&mut by_ipv6.into_iter()))
            .or_else(|| interfaces.iter().find(has_address).map(|(name, _)| name.clone()))
    }

    /// Addresses by interface.
    fn addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        if !self.is_ours() {
            // The kernel tells IPv4 addresses with their interfaces by calls only.
            for line in self.text("/proc/net/if_inet6").unwrap_or_default().lines() {
                let columns: Vec<&str> = line.split_whitespace().collect();
                if let (Some(hex), Some(name)) = (columns.first(), columns.get(5))
                    && let Ok(bits) = u128::from_str_radix(hex, 16)
                {
                    all.entry((*name).to_owned()).or_default().push(IpAddr::from(bits.to_be_bytes()));
                }
            }
            return all;
        }
        let Ok(networks) = sysinfo::Networks::new_with_refreshed_list() else { return all };
        for (name, data) in &networks {
            all.insert(name.to_string_lossy().into_owned(), data.ip_networks().iter().map(|network| network.addr).collect());
        }
        all
    }
}

/// Text that may be a fact: not empty, not long, and without control characters.
fn sound(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= FACT_BYTES_MAX && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let machine = Machine { root: dir.path().into(), path: None };
        (dir, machine)
    }

    #[test]
    fn a_host_is_told_from_its_files() {
        let (dir, machine) = machine(&[
            ("/etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nVERSION_ID=\"13\"\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 web-01.example web-01 # us\n"),
            ("/proc/meminfo", "MemTotal:       1024 kB\nMemFree: 1 kB\nMemAvailable:    256 kB\n"),
            ("/proc/stat", "cpu  1 2\ncpu0 1\ncpu1 1\nintr 5\n"),
            ("/proc/sys/kernel/osrelease", "6.12.0\n"),
            ("/proc/cpuinfo", "flags : fpu hypervisor\n"),
            ("/sys/class/net/eth1/address", "02:00:5e:00:53:07\n"),
            ("/sys/class/net/lo/address", "00:00:00:00:00:00\n"),
            ("/sys/class/net/eth0/address", "02:00:5e:00:53:08\n"),
            ("/proc/net/if_inet6", "20010db8000000000000000000000007 02 40 00 80 eth1\n00000000000000000000000000000001 01 80 10 80 lo\n"),
            (
                "/proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t010000C0\t3\t0\t0\t200\t00000000\neth1\t00000000\t010000C0\t3\t0\t0\t100\t00000000\neth0\t0000000A\t0\t1\t0\t0\t0\t000000FF\n",
            ),
            ("/usr/bin/apt-get", ""),
            ("/run/systemd/system/x", ""),
        ]);
        std::os::unix::fs::symlink("/usr/share/zoneinfo/Europe/Berlin", dir.path().join("etc/localtime")).unwrap();
        let facts = machine.facts("web-01");
        assert_eq!((facts.hostname.as_str(), facts.fqdn.as_deref()), ("web-01", Some("web-01.example")));
        assert_eq!((facts.os.distribution.as_deref(), facts.os.version.as_deref()), (Some("debian"), Some("13")));
        assert_eq!((facts.cpu.count, facts.memory.total_bytes), (Some(2), Some(1024 * 1024)));
        assert_eq!((facts.interface.primary.as_deref(), facts.interface.address.as_deref()), (Some("eth1"), Some("2001:db8::7")));
        assert_eq!(facts.interfaces["eth1"].mac.as_deref(), Some("02:00:5e:00:53:07"));
        assert_eq!((facts.interfaces["lo"].mac.as_deref(), facts.interfaces.len()), (None, 3));
        assert_eq!((facts.package_manager.as_deref(), facts.service_manager.as_deref()), (Some("apt"), Some("systemd")));
        assert_eq!((facts.timezone.as_deref(), facts.virtualization.as_deref()), (Some("Europe/Berlin"), Some("vm")));
        assert_eq!((facts.kernel.as_deref(), facts.arch.is_some()), (Some("6.12.0"), true));
    }

    #[test]
    fn a_host_that_tells_nothing_has_few_facts_and_one_that_tells_too_much_has_no_more() {
        let (_dir, bare) = machine(&[]);
        let facts = bare.facts("web-01");
        assert_eq!((facts.hostname.as_str(), facts.memory.total_bytes, facts.interface.primary), ("web-01", None, None));
        let long = format!("ID={}\nNAME=\"a\u{1b}[2Jb\"\n", "x".repeat(FACT_BYTES_MAX + 1));
        let many: Vec<(String, &str)> = (0..200).map(|n| (format!("/sys/class/net/e{n}/address"), "")).collect();
        let mut files: Vec<(&str, &str)> = many.iter().map(|(path, content)| (path.as_str(), *content)).collect();
        files.push(("/etc/os-release", &long));
        let (_dir, hostile) = machine(&files);
        let facts = hostile.facts("web-01");
        assert_eq!((facts.os.distribution, facts.os.name, facts.interfaces.len()), (None, None, FACT_INTERFACES_MAX));
    }

    #[test]
    fn this_host_has_facts() {
        let facts = Machine::default().facts("here");
        assert!(facts.kernel.is_some() && facts.memory.total_bytes.is_some() && facts.cpu.count.is_some());
        let loopback = &facts.interfaces["lo"];
        assert!(loopback.addresses.iter().any(|address| address.starts_with("127.") || address == "::1"), "{loopback:?}");
    }
}
