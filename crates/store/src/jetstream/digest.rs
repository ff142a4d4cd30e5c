//! What a definition is known by from its acceptance to its start: a digest of its bytes, stored beside them and copied with them by the
//! broker. What is read or offered is what was accepted, byte for byte, or it is not taken.
//!
//! It finds what was damaged on its way or on a disk, and what was changed by hand. Against who may write to the broker signatures help:
//! whoever changes a record can change its digest. Records of before this header do not say.

use async_nats::{HeaderMap, HeaderName};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

const SHA256: HeaderName = HeaderName::from_static("Longshore-SHA256");

/// Adds the digest of what is stored.
pub(super) fn seal(headers: &mut HeaderMap, value: &[u8]) {
    headers.insert(SHA256, digest(value));
}

/// The headers of what is stored with nothing but its digest.
pub(super) fn sealed(value: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    seal(&mut headers, value);
    headers
}

/// `false` if this is not what was stored.
pub(super) fn is_whole(headers: &HeaderMap, value: &[u8]) -> bool {
    headers.get(SHA256).is_none_or(|said| said.as_str() == digest(value))
}

fn digest(value: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(value))
}
