//! Which addresses may be fetched from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// How far fetching may reach. Each includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Addresses of the public network.
    #[default]
    Public,
    /// Those of private networks too.
    Private,
    /// This host too; for tests.
    Loopback,
}

impl Reach {
    /// Whether that address may be connected to. Link-local ones (such as those of cloud metadata), multicast and reserved ones never may.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.allows_v4(address),
            IpAddr::V6(address) => self.allows_v6(address),
        }
    }

    fn allows_v4(self, address: Ipv4Addr) -> bool {
        let [a, b, c, _] = address.octets();
        if address.is_loopback() {
            return self >= Self::Loopback;
        }
        // 100.64.0.0/10 lies behind the translators of providers.
        if address.is_private() || (a == 100 && b & 0xc0 == 64) {
            return self >= Self::Private;
        }
        let reserved = a == 0 || a >= 240 || address.is_multicast() || address.is_link_local() || address.is_documentation();
        let special = matches!((a, b, c), (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _));
        !reserved && !special
    }

    fn allows_v6(self, address: Ipv6Addr) -> bool {
        let part = address.segments();
        let embedded = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            self.allows_v4(Ipv4Addr::new(a, b, c, d))
        };
        if address.is_loopback() {
            return self >= Self::Loopback;
        }
        match part {
            // An IPv4 address in another dress: mapped, translated, 6to4.
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
            [first, ..] if first & 0xfe00 == 0xfc00 => self >= Self::Private,
            // Teredo and what else is special, documentation.
            [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
            // What else is not of the one block that is given out.
            [first, ..] => first & 0xe000 == 0x2000 && first != 0x3fff,
        }
    }
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "public and private",
            Self::Loopback => "public, private and local",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_refused_in_every_dress() {
        let public = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"];
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fc00::1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ];
        let this_host = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"];
        let never = [
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "::",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2001::1",
            "2001:db8::1",
            "::7f00:1",
            "64:ff9b:1::1",
        ];
        for (addresses, least) in [
            (&public[..], Some(Reach::Public)),
            (&private[..], Some(Reach::Private)),
            (&this_host[..], Some(Reach::Loopback)),
            (&never[..], None),
        ] {
            for address in addresses {
                for reach in [Reach::Public, Reach::Private, Reach::Loopback] {
                    let allowed = reach.allows(address.parse().unwrap());
                    assert_eq!(allowed, least.is_some_and(|least| reach >= least), "{address} {reach:?}");
                }
            }
        }
    }
}
