//! ICMP echo, as bytes. Pure.

use std::net::IpAddr;

/// Bytes of payload, as `ping` sends.
const PAYLOAD_BYTES: usize = 56;
const HEADER_BYTES: usize = 8;

/// What tells our packets from those of others: it comes back in the payload.
pub(super) type Token = [u8; 16];

/// The family of a packet, with the types of its echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn request_type(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    fn reply_type(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// An echo request. The kernel puts in its own identifier on datagram sockets, and the checksum of ICMPv6 on all.
pub(super) fn request(family: Family, sequence: u16, token: &Token) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES + PAYLOAD_BYTES];
    packet[0] = family.request_type();
    packet[4..6].copy_from_slice(&token[..2]);
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER_BYTES..HEADER_BYTES + token.len()].copy_from_slice(token);
    if family == Family::V4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The sequence number, if this is the answer to a request with this token. Raw sockets of IPv4 hand over the IP header, too.
pub(super) fn answered(family: Family, mut packet: &[u8], token: &Token) -> Option<u16> {
    // No ICMP type that matters has the high half of its first byte at 4, which is what an IPv4 header begins with.
    if family == Family::V4 && packet.first()? >> 4 == 4 {
        packet = packet.get(usize::from(packet[0] & 0xf) * 4..)?;
    }
    let header: [u8; HEADER_BYTES] = packet.get(..HEADER_BYTES)?.try_into().ok()?;
    let [kind, code, _, _, _, _, high, low] = header;
    let ours = kind == family.reply_type() && code == 0 && packet.get(HEADER_BYTES..HEADER_BYTES + token.len())? == token;
    ours.then_some(u16::from_be_bytes([high, low]))
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = *b"0123456789abcdef";

    #[test]
    fn checksums_are_those_of_the_standard() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&request(Family::V4, 7, &TOKEN)), 0, "a packet with its checksum sums up to nothing");
    }

    #[test]
    fn answers_are_told_from_everything_else() {
        for family in [Family::V4, Family::V6] {
            let mut packet = request(family, 258, &TOKEN);
            assert_eq!(answered(family, &packet, &TOKEN), None, "our own request comes back on a loopback");
            packet[0] = family.reply_type();
            assert_eq!(answered(family, &packet, &TOKEN), Some(258));
            assert_eq!(answered(family, &packet, b"somebody-else's!"), None);
            for end in 0..24 {
                assert_eq!(answered(family, &packet[..end], &TOKEN), None, "cut at {end}");
            }
        }
        let mut packet = request(Family::V4, 3, &TOKEN);
        packet[0] = 0;
        let with_header = [&[0x46; 24][..], &packet].concat();
        assert_eq!(answered(Family::V4, &with_header, &TOKEN), Some(3));
        assert_eq!(answered(Family::V4, &[0x4f; 30], &TOKEN), None);
    }
}
