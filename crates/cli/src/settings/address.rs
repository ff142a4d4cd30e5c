//! Addresses of brokers. Credentials may stand in them, but are taken out before anything is shown or connected.

use longshore_store::jetstream::Auth;

/// Takes `user:password@` or `token@` out of a list of addresses.
pub(crate) fn without_credentials(urls: &str) -> (String, Option<Auth>) {
    let mut found = None;
    let bare = urls.split(',').map(str::trim).map(|url| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let Some((credentials, host)) = rest.rsplit_once('@') else { return format!("{scheme}://{rest}") };
        found.get_or_insert_with(|| match credentials.split_once(':') {
            Some((user, password)) => Auth::UserPassword { user: user.to_owned(), password: password.to_owned() },
            None => Auth::Token(credentials.to_owned()),
        });
        format!("{scheme}://{host}")
    });
    let bare = bare.collect::<Vec<_>>().join(",");
    (bare, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_may_stand_in_the_address_but_do_not_stay_there() {
        for (url, bare, auth) in [
            ("nats://a:1,nats://b:2", "nats://a:1,nats://b:2", "none"),
            ("nats://t0ken@a:1", "nats://a:1", "token(***)"),
            ("nats://u:p@a:1, nats://u:p@b:2", "nats://a:1,nats://b:2", "user_password(***)"),
            ("a:1", "nats://a:1", "none"),
        ] {
            let (got, found) = without_credentials(url);
            assert_eq!((got.as_str(), format!("{:?}", found.unwrap_or_default()).as_str()), (bare, auth), "{url}");
        }
    }
}
