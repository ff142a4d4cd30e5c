//! Names of hosts, domains and interfaces, and addresses of hosts: parsed once, so that what reaches a host is nothing else.
//!
//! None of them can begin with `-`, hold white space, a control character, a quote or a slash, or be longer than the host takes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::limits::{DOMAIN_NAME_BYTES_MAX, INTERFACE_NAME_BYTES_MAX, LABEL_SEGMENT_BYTES_MAX, NODE_NAME_BYTES_MAX};

/// A name in the domain name system, without the dot at its end. Labels of letters, digits, `-` and `_`; international names in
/// their `xn--` form. Never one that could be read as an address, such as `127.1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

/// A name a host can be given: RFC 1123, and no longer than the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(DomainName);

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// Whom a host can be asked to reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address of one host.
    Address(IpAddr),
    /// An address that means something on one link only, with the interface to that link.
    LinkLocal(Ipv6Addr, InterfaceName),
    /// A name, resolved by whoever reaches out.
    Name(DomainName),
}

/// The text was none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// Not a domain name.
    #[error(
        "{0:?} is not a domain name: labels of at most {LABEL_SEGMENT_BYTES_MAX} letters, digits, `-` and `_`, with dots between them, \
         {DOMAIN_NAME_BYTES_MAX} bytes at most, in ASCII (`xn--…`)"
    )]
    Domain(String),
    /// A name that programs would take for an address.
    #[error("{0:?} ends in a number and is not an address: programs would read it as one")]
    Numeric(String),
    /// Not a name for a host.
    #[error(
        "{0:?} is not a host's name: labels of letters, digits and `-` that neither begin nor end with `-`, \
         {NODE_NAME_BYTES_MAX} bytes at most"
    )]
    Node(String),
    /// Not an interface.
    #[error(
        "{0:?} is not an interface's name: 1 to {INTERFACE_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, the first a letter or digit"
    )]
    Interface(String),
    /// A zone where there can be none.
    #[error("{0:?}: only a link-local address (`fe80::…`) has a zone")]
    Zone(String),
    /// An address of many hosts, or of none.
    #[error("{0} is not the address of one host")]
    NotOneHost(IpAddr),
    /// Not an address.
    #[error("{0:?} is not an IP address")]
    Address(String),
}

/// Enough of a text to recognise it by.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl DomainName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            (1..=LABEL_SEGMENT_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > DOMAIN_NAME_BYTES_MAX || !name.split('.').all(is_label) {
            return Err(ParseNameError::Domain(shown(text)));
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let hexadecimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if last.bytes().all(|byte| byte.is_ascii_digit()) || last.strip_prefix("0x").or(last.strip_prefix("0X")).is_some_and(hexadecimal) {
            return Err(ParseNameError::Numeric(shown(text)));
        }
        Ok(Self(name.to_owned()))
    }
}

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for NodeName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let refused = || ParseNameError::Node(shown(text));
        let name = match text.parse::<DomainName>() {
            Err(numeric @ ParseNameError::Numeric(_)) => return Err(numeric),
            other => other.map_err(|_| refused())?,
        };
        // A host with a dot at the end of its name surprises everybody.
        if text.ends_with('.') || text.contains('_') || text.len() > NODE_NAME_BYTES_MAX {
            return Err(refused());
        }
        Ok(Self(name))
    }
}

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let sound = (1..=INTERFACE_NAME_BYTES_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if sound { Ok(Self(text.to_owned())) } else { Err(ParseNameError::Interface(shown(text))) }
    }
}

impl FromStr for Peer {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        if let Some((address, zone)) = text.split_once('%') {
            let address: Ipv6Addr = address.parse().map_err(|_| ParseNameError::Address(shown(text)))?;
            if !address.is_unicast_link_local() {
                return Err(ParseNameError::Zone(shown(text)));
            }
            return Ok(Self::LinkLocal(address, zone.parse()?));
        }
        match text.parse::<IpAddr>() {
            Ok(address) => one_host(address).map(Self::Address),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

/// The address, if it can be that of one host: neither multicast nor broadcast nor unspecified.
///
/// # Errors
/// It cannot.
pub fn one_host(address: IpAddr) -> Result<IpAddr, ParseNameError> {
    if address.is_multicast() || address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(ParseNameError::NotOneHost(address));
    }
    Ok(address)
}

/// An address of one host, without a zone.
///
/// # Errors
/// Anything else.
pub(super) fn address(text: &str) -> Result<IpAddr, ParseNameError> {
    text.parse().map_err(|_| ParseNameError::Address(shown(text))).and_then(one_host)
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LinkLocal(address, zone) => write!(f, "{address}%{zone}"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr<Err = ParseNameError> + fmt::Display>(good: &[(&str, &str)], bad: &[&str]) {
        for (text, expected) in good {
            assert_eq!(text.parse::<T>().map(|parsed| parsed.to_string()), Ok((*expected).to_owned()), "{text:?}");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn domain_names_are_told_from_everything_else() {
        let long = format!("{}.example", "a".repeat(63));
        check::<DomainName>(
            &[
                ("example.com", "example.com"),
                ("example.com.", "example.com"),
                ("xn--bcher-kva.example", "xn--bcher-kva.example"),
                ("_dmarc.Example", "_dmarc.Example"),
                ("3com.com", "3com.com"),
                (&long, &long),
            ],
            &[
                "",
                ".",
                "..",
                "a..b",
                "-a",
                "a-",
                "bücher.example",
                "a b",
                "a\n",
                "127.1",
                "2130706433",
                "0x7f.1",
                "a.0x7f",
                &"a".repeat(64),
                &"ab.".repeat(85),
            ],
        );
    }

    #[test]
    fn hosts_are_named_as_the_kernel_takes_it() {
        check::<NodeName>(
            &[("web-01", "web-01"), ("Web.Example", "Web.Example")],
            &["web_01", "web.", "42", "a.1.2.3", &"ab.".repeat(22), "(none)"],
        );
    }

    #[test]
    fn interfaces_never_look_like_options_or_paths() {
        check::<InterfaceName>(
            &[("eth0", "eth0"), ("br-1a2b", "br-1a2b"), ("eth0.100", "eth0.100"), ("0", "0")],
            &["", "-eth0", "..", ".", "../x", "eth0/x", "eth0:1", "eth 0", "sixteen-bytes-xx"],
        );
    }

    #[test]
    fn peers_are_addresses_or_names() {
        check::<Peer>(
            &[
                ("::1", "::1"),
                ("192.0.2.7", "192.0.2.7"),
                ("fe80::1%eth0", "fe80::1%eth0"),
                ("fe80::1%2", "fe80::1%2"),
                ("host.example", "host.example"),
            ],
            &[
                "-f",
                "--help",
                "; id",
                "$(id)",
                "`id`",
                "a\nb",
                "@file",
                "+short",
                "::1%eth0",
                "fe80::1%",
                "fe80::1%-f",
                "fe80::1%../x",
                "1.2.3.4%eth0",
                "224.0.0.1",
                "ff02::1",
                "0.0.0.0",
                "::",
                "255.255.255.255",
                "[::1]",
                "127.1",
                "1.2.3.4/24",
                "http://a",
                &"a".repeat(300),
            ],
        );
    }
}
