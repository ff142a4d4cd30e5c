//! Which controller commands talk to, and with which token: one decision over flags, variables, settings and contexts.
//!
//! Later layers win, as for settings: the current context, files, `--env-file`, the environment, flags. Within one layer `LONGSHORE_URL` and
//! `LONGSHORE_TOKEN_FILE` come before the settings, and those before `LONGSHORE_CONTEXT`. The invariant guarded here: a token that is kept
//! for one controller is not sent to another because somebody named that one.

use std::path::PathBuf;

use crate::contexts::{Context, Contexts};
use crate::failure::Failure;
use crate::settings::{Layer, Loaded, Origin, Secret};

/// What the command line says of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named {
    /// `--url`.
    pub(crate) url: Option<String>,
    /// `--token-file`.
    pub(crate) token_file: Option<PathBuf>,
}

/// What is in force, and where it comes from.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    /// The address, if any is known.
    pub(crate) url: Option<(String, Origin)>,
    /// The token for it.
    pub(crate) token: Option<(Secret, Origin)>,
    /// A configured token that is not sent, since it is for another controller.
    pub(crate) withheld: Option<Origin>,
}

/// The setting of the address.
pub(crate) const URL: &str = "controller.client.url";
/// The setting of the token.
pub(crate) const TOKEN: &str = "controller.client.security.bearer_token";

/// The layer, and the place within it.
type Rank = (Layer, u8);

struct Candidate<T> {
    rank: Rank,
    value: T,
    origin: Origin,
}

/// Decides.
///
/// # Errors
/// `LONGSHORE_CONTEXT` names no context, or the contexts cannot be read and nothing else names a controller.
pub(crate) fn choose(named: &Named, loaded: &Loaded, contexts: Result<Contexts, Failure>) -> Result<Target, Failure> {
    let side = &loaded.settings.controller.client;
    let settings_url = side.url.clone().and_then(|url| of_settings(loaded, URL, url));
    let urls = [
        named.url.clone().map(|value| Candidate { rank: (Layer::Flags, 3), value, origin: Origin::Flag("--url") }),
        variable(loaded, "LONGSHORE_URL"),
        settings_url,
    ];
    let configured = side.url.as_deref();
    let context = match context(loaded, contexts) {
        Ok(context) => context,
        // One that is broken or missing matters only to those who need it.
        Err(_) if loaded.variable("LONGSHORE_CONTEXT").is_none() && urls.iter().any(Option::is_some) => None,
        Err(failure) => return Err(failure),
    };
    let context_url = context.as_ref().map(|found| found.value.url.clone());
    let of_context =
        context.as_ref().map(|found| Candidate { rank: found.rank, value: found.value.url.clone(), origin: found.origin.clone() });
    let Some(url) = strongest(urls.into_iter().chain([of_context])) else {
        return Ok(Target { url: None, token: None, withheld: None });
    };

    let is_for = |other: Option<&str>| other.is_some_and(|other| other.trim_end_matches('/') == url.value.trim_end_matches('/'));
    let settings_token = side.security.bearer_token.clone().and_then(|secret| of_settings(loaded, TOKEN, secret));
    let configured_for = configured.or(context_url.as_deref());
    let withheld = settings_token.as_ref().filter(|_| !is_for(configured_for)).map(|token| token.origin.clone());
    let tokens = [
        named.token_file.clone().map(|path| Candidate {
            rank: (Layer::Flags, 3),
            value: Secret::File(path),
            origin: Origin::Flag("--token-file"),
        }),
        variable(loaded, "LONGSHORE_TOKEN_FILE").map(|found| Candidate {
            rank: found.rank,
            value: Secret::File(found.value.into()),
            origin: found.origin,
        }),
        settings_token.filter(|_| withheld.is_none()),
        context
            .filter(|_| is_for(context_url.as_deref()))
            .and_then(|found| Some(Candidate { rank: found.rank, value: Secret::File(found.value.token_file?), origin: found.origin })),
    ];
    let token = strongest(tokens).map(|token| (token.value, token.origin));
    let withheld = withheld.filter(|_| token.is_none());
    Ok(Target { url: Some((url.value, url.origin)), token, withheld })
}

fn strongest<T>(candidates: impl IntoIterator<Item = Option<Candidate<T>>>) -> Option<Candidate<T>> {
    candidates.into_iter().flatten().max_by_key(|candidate| candidate.rank)
}

fn variable(loaded: &Loaded, name: &str) -> Option<Candidate<String>> {
    let found = loaded.variable(name)?;
    Some(Candidate { rank: (found.layer, 3), value: found.value.clone(), origin: found.origin.clone() })
}

fn of_settings<T>(loaded: &Loaded, key: &str, value: T) -> Option<Candidate<T>> {
    let entry = loaded.said(key).last()?;
    Some(Candidate { rank: (entry.layer, 2), value, origin: entry.origin.clone() })
}

/// The context of `LONGSHORE_CONTEXT`, which is as strong as the place it stands in, or else the current one, which is the weakest of all.
fn context(loaded: &Loaded, contexts: Result<Contexts, Failure>) -> Result<Option<Candidate<Context>>, Failure> {
    let contexts = contexts?;
    let asked = loaded.variable("LONGSHORE_CONTEXT");
    let name = asked.map(|asked| asked.value.as_str());
    let Some(context) = contexts.get(name)? else { return Ok(None) };
    let origin = Origin::Context(name.or(contexts.current.as_deref()).unwrap_or_default().to_owned());
    let rank = asked.map_or((Layer::Files, 0), |asked| (asked.layer, 1));
    Ok(Some(Candidate { rank, value: context.clone(), origin }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::settings::Sources;

    struct Given {
        yaml: &'static str,
        env_file: &'static str,
        variables: &'static [(&'static str, &'static str)],
        named: Named,
    }

    const NOTHING: Given = Given { yaml: "", env_file: "", variables: &[], named: Named { url: None, token_file: None } };
    const CONFIGURED: &str = "controller: {client: {url: 'http://set', security: {bearer_token: {file: /set}}}}\n";
    const ONLY_TOKEN: &str = "controller: {client: {security: {bearer_token: {file: /set}}}}\n";

    fn contexts() -> Contexts {
        let context = |name: &str| Context { url: format!("http://{name}"), token_file: Some(format!("/{name}").into()) };
        let all = ["here", "there"].map(|name| (name.to_owned(), context(name)));
        Contexts { current: Some("here".to_owned()), contexts: all.into() }
    }

    fn chosen(given: Given) -> Result<Target, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let (yaml, env) = (dir.path().join("x.yaml"), dir.path().join("env"));
        std::fs::write(&yaml, given.yaml).unwrap();
        std::fs::write(&env, given.env_file).unwrap();
        let variables = given.variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sources = Sources { usual: vec![yaml], env_file: Some(env), variables, ..Sources::default() };
        choose(&given.named, &sources.load().unwrap(), Ok(contexts()))
    }

    #[track_caller]
    fn check(given: Given, url: &str, token: Option<&str>) {
        let target = chosen(given).unwrap();
        assert_eq!(target.url.map(|(url, _)| url).as_deref(), Some(url));
        assert_eq!(target.token.map(|(token, _)| token), token.map(|path| Secret::File(path.into())));
    }

    fn url(url: &str) -> Named {
        Named { url: Some(url.to_owned()), token_file: None }
    }

    #[test]
    fn stronger_layers_name_the_controller_and_bring_its_token() {
        check(NOTHING, "http://here", Some("/here"));
        check(Given { yaml: CONFIGURED, ..NOTHING }, "http://set", Some("/set"));
        check(Given { yaml: CONFIGURED, variables: &[("LONGSHORE_CONTEXT", "there")], ..NOTHING }, "http://there", Some("/there"));
        check(Given { yaml: CONFIGURED, env_file: "LONGSHORE_CONTEXT=there\n", ..NOTHING }, "http://there", Some("/there"));
        check(Given { env_file: "LONGSHORE_URL=http://e\nLONGSHORE_TOKEN_FILE=/e\n", yaml: CONFIGURED, ..NOTHING }, "http://e", Some("/e"));
        let both = Given { env_file: "LONGSHORE_URL=http://e\n", variables: &[("LONGSHORE_URL", "http://v")], ..NOTHING };
        check(both, "http://v", None);
        const SET: &[(&str, &str)] = &[("LONGSHORE_CONTEXT", "there"), ("LONGSHORE_CONTROLLER__CLIENT__URL", "http://v")];
        check(Given { variables: SET, ..NOTHING }, "http://v", None);
        check(Given { yaml: CONFIGURED, named: url("http://there"), ..NOTHING }, "http://there", None);
    }

    #[test]
    fn a_token_goes_to_the_controller_it_is_for_and_to_no_other() {
        check(Given { yaml: CONFIGURED, named: url("http://set/"), ..NOTHING }, "http://set/", Some("/set"));
        check(Given { yaml: CONFIGURED, named: url("http://evil"), ..NOTHING }, "http://evil", None);
        check(Given { yaml: CONFIGURED, variables: &[("LONGSHORE_URL", "http://evil")], ..NOTHING }, "http://evil", None);
        check(Given { yaml: ONLY_TOKEN, ..NOTHING }, "http://here", Some("/set"));
        check(Given { yaml: ONLY_TOKEN, named: url("http://here"), ..NOTHING }, "http://here", Some("/set"));
        check(Given { yaml: ONLY_TOKEN, named: url("http://evil"), ..NOTHING }, "http://evil", None);
        check(Given { named: url("http://evil"), ..NOTHING }, "http://evil", None);
        let explicit = Named { token_file: Some("/mine".into()), ..url("http://other") };
        check(Given { yaml: CONFIGURED, named: explicit, ..NOTHING }, "http://other", Some("/mine"));
        let withheld = chosen(Given { yaml: CONFIGURED, named: url("http://evil"), ..NOTHING }).unwrap().withheld;
        assert!(matches!(withheld, Some(Origin::File(_, 1))), "{withheld:?}");
    }

    #[test]
    fn a_context_that_is_asked_for_must_be_there() {
        let failure = chosen(Given { yaml: CONFIGURED, variables: &[("LONGSHORE_CONTEXT", "nope")], named: url("http://x"), ..NOTHING });
        assert_eq!(failure.unwrap_err().exit, Exit::NotFound);
    }
}
