//! A hash that only who has the key can make: of bodies with secrets in them, which a plain hash would let anybody guess.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;

/// HMAC-SHA-256 of `content` in lower-case hex, under a key that is made of `secret` for this purpose alone.
#[must_use]
pub fn fingerprint(secret: &[u8], content: &[u8]) -> String {
    let own = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"longshore fingerprint 1");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()), content);
    HEXLOWER.encode(tag.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_depend_on_key_and_content() {
        let one = fingerprint(b"key", b"content");
        assert!(longshore_model::operation::is_sha256(&one));
        assert_eq!(one, fingerprint(b"key", b"content"));
        assert_ne!(one, fingerprint(b"other", b"content"));
        assert_ne!(one, fingerprint(b"key", b"other"));
    }
}
