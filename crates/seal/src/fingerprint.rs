//! A hash that only who has the key can make: of bodies with secrets in them, which a plain hash would let anybody guess.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;

/// HMAC-SHA-256 of `content` in lower-case hex, under a key that is made of `secret` for this purpose alone.
#[must_use]
pub fn fingerprint(secret: &[u8], content: &[u8]) -> String {
    HEXLOWER.encode(hmac::sign(&own_key(secret), content).as_ref())
}

/// Whether `tag` is the [`fingerprint`] of `content` in bytes, found out in a time that does not tell how much of it fits.
#[must_use]
pub fn is_fingerprint(secret: &[u8], content: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&own_key(secret), content, tag).is_ok()
}

fn own_key(secret: &[u8]) -> hmac::Key {
    let own = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"longshore fingerprint 1");
    hmac::Key::new(hmac::HMAC_SHA256, own.as_ref())
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
        let tag = HEXLOWER.decode(one.as_bytes()).unwrap();
        assert!(is_fingerprint(b"key", b"content", &tag));
        assert!(!is_fingerprint(b"key", b"other", &tag) && !is_fingerprint(b"key", b"content", &tag[1..]));
    }
}
