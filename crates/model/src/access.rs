//! Who may do what: permissions are `resource:verb`, roles are sets of them, a token carries roles and may be narrowed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{AgentId, Label, Target};

/// What a caller is known to be, once its token has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's subject: a name for people and the audit trail.
    pub name: String,
    permissions: Permissions,
    /// Who may be told to do something, if not everybody.
    targets: Option<Vec<Target>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Permissions {
    All,
    Some(BTreeSet<String>),
}

/// A role the configuration does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}: `read`, `write`, `admin` and those of `controller.api.security.roles` exist")]
pub struct UnknownRole(pub String);

/// A configured role has the name of one that every controller has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the role {0:?} is every controller's own and cannot be configured")]
pub struct TakenRole(pub String);

/// Everything that reads.
const READ: [&str; 4] = ["agent:read", "job:read", "network:read", "node:read"];
/// What `write` adds to `read`. Running commands is neither: that takes `admin`, or the permission by name.
const WRITE: [&str; 3] = ["job:write", "network:write", "node:write"];

/// The roles there are: `read`, `write`, `admin`, and those of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roles(BTreeMap<String, BTreeSet<String>>);

/// Roles that every controller has, and that the configuration cannot change.
const OWN: [&str; 3] = ["read", "write", "admin"];

impl Roles {
    /// Those of every controller, and these.
    ///
    /// # Errors
    /// The first name that is taken.
    pub fn with(configured: BTreeMap<String, BTreeSet<String>>) -> Result<Self, TakenRole> {
        match configured.keys().find(|name| OWN.contains(&name.as_str())) {
            Some(taken) => Err(TakenRole(taken.clone())),
            None => Ok(Self(configured)),
        }
    }

    /// Everything that `roles` grant together.
    fn granted(&self, roles: &[String]) -> Result<Permissions, UnknownRole> {
        let mut all = false;
        let mut granted = BTreeSet::new();
        for role in roles {
            match (role.as_str(), self.0.get(role)) {
                ("admin", _) => all = true,
                ("write", _) => granted.extend(READ.iter().chain(&WRITE).map(|permission| (*permission).to_owned())),
                ("read", _) => granted.extend(READ.iter().map(|permission| (*permission).to_owned())),
                (_, Some(permissions)) => granted.extend(permissions.iter().cloned()),
                (_, None) => return Err(UnknownRole(role.chars().take(64).collect())),
            }
        }
        Ok(if all { Permissions::All } else { Permissions::Some(granted) })
    }
}

impl Caller {
    /// A caller with these roles, narrowed to the permissions `only` and to `targets` where those are given.
    ///
    /// # Errors
    /// A role that does not exist: refused as a whole, rather than taken for less.
    pub fn new(
        name: impl Into<String>,
        known: &Roles,
        roles: &[String],
        only: Option<&[String]>,
        targets: Option<Vec<Target>>,
    ) -> Result<Self, UnknownRole> {
        let permissions = match (known.granted(roles)?, only) {
            (granted, None) => granted,
            (Permissions::All, Some(only)) => Permissions::Some(only.iter().cloned().collect()),
            (Permissions::Some(granted), Some(only)) => {
                Permissions::Some(only.iter().filter(|permission| granted.contains(*permission)).cloned().collect())
            }
        };
        Ok(Self { name: name.into(), permissions, targets })
    }

    /// Whether the caller may have something done by this agent.
    #[must_use]
    pub fn reaches(&self, agent: AgentId, hostname: &str, labels: &[Label]) -> bool {
        let is_it = |target: &Target| match target {
            Target::All => true,
            Target::Host(name) => name.as_str().eq_ignore_ascii_case(hostname) || name.as_str() == agent.to_string(),
            Target::Group(group) => labels.iter().any(|label| group.covers(label)),
            Target::Any | Target::AnyOf(_) => false,
        };
        self.targets.as_ref().is_none_or(|targets| targets.iter().any(is_it))
    }

    /// The groups that somebody whom the caller lets in may belong to; `None` for all of them.
    #[must_use]
    pub fn groups(&self) -> Option<Vec<Label>> {
        let targets = self.targets.as_ref().filter(|targets| !targets.contains(&Target::All))?;
        let group = |target: &Target| match target {
            Target::Group(group) | Target::AnyOf(group) => Some(group.clone()),
            Target::All | Target::Any | Target::Host(_) => None,
        };
        Some(targets.iter().filter_map(group).collect())
    }

    /// Whether the caller may have something done by whichever agent is free; with `group`, by one of that.
    #[must_use]
    pub fn reaches_any(&self, group: Option<&Label>) -> bool {
        let is_it = |target: &Target| match (target, group) {
            (Target::All | Target::Any, _) => true,
            (Target::Group(allowed) | Target::AnyOf(allowed), Some(group)) => allowed.covers(group),
            (Target::Group(_) | Target::AnyOf(_), None) | (Target::Host(_), _) => false,
        };
        self.targets.as_ref().is_none_or(|targets| targets.iter().any(is_it))
    }

    /// Whether the caller may.
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        match &self.permissions {
            Permissions::All => true,
            Permissions::Some(granted) => granted.contains(permission),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn caller(roles: &[&str], only: Option<&[&str]>) -> Caller {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Caller::new("test", &Roles::default(), &own(roles), only.map(own).as_deref(), None).unwrap()
    }

    #[test]
    fn roles_grant_what_they_say_and_claims_only_narrow() {
        type Row = (&'static [&'static str], Option<&'static [&'static str]>, &'static str, bool);
        let rows: &[Row] = &[
            (&["read"], None, "job:read", true),
            (&["read"], None, "job:write", false),
            (&["write"], None, "job:write", true),
            (&["read"], None, "node:read", true),
            (&["read"], None, "network:read", true),
            (&["read"], None, "node:write", false),
            (&["read"], None, "network:write", false),
            (&["write"], None, "node:write", true),
            (&["write"], None, "network:write", true),
            (&["write"], None, "network:read", true),
            (&["write"], None, "command:execute", false),
            (&["admin"], None, "command:execute", true),
            (&["admin"], Some(&["job:read"]), "job:read", true),
            (&["admin"], Some(&["job:read"]), "job:write", false),
            (&["read"], Some(&["command:execute"]), "command:execute", false),
            (&[], None, "job:read", false),
        ];
        for (roles, only, permission, expected) in rows {
            assert_eq!(caller(roles, *only).may(permission), *expected, "{roles:?} {only:?} {permission}");
        }
        assert!(Caller::new("test", &Roles::default(), &["root".to_owned()], None, None).is_err());
    }

    #[test]
    fn configured_roles_grant_what_they_list_and_take_nobodys_name() {
        let ops = |name: &str| Roles::with([(name.to_owned(), ["node:read".to_owned()].into())].into());
        let roles = ops("ops").unwrap();
        let caller = Caller::new("test", &roles, &["ops".to_owned()], None, None).unwrap();
        assert!(caller.may("node:read") && !caller.may("job:read"));
        assert_eq!(ops("admin"), Err(TakenRole("admin".to_owned())));
    }

    #[test]
    fn a_caller_with_targets_reaches_those_and_nobody_else() {
        let web: Vec<Label> = vec!["group:web.dev".parse().unwrap()];
        let agent = AgentId::from_bits(1);
        // The targets of a token; whether it reaches the agent, whichever agent, one of group:web, one of group:web.dev.
        let rows: &[(&[&str], [bool; 4])] = &[
            (&["_all"], [true, true, true, true]),
            (&["_any"], [false, true, true, true]),
            (&["Web-01"], [true, false, false, false]),
            (&["group:web"], [true, false, true, true]),
            (&["group:web.dev"], [true, false, false, true]),
            (&["_any@group:web"], [false, false, true, true]),
            (&["group:db", "db-01"], [false, false, false, false]),
            (&[], [false, false, false, false]),
        ];
        for (targets, expected) in rows {
            let targets = targets.iter().map(|target| target.parse().unwrap()).collect();
            let caller = Caller::new("test", &Roles::default(), &["admin".to_owned()], None, Some(targets)).unwrap();
            let group = |text: &str| Some(text.parse::<Label>().unwrap());
            let found = [
                caller.reaches(agent, "web-01", &web),
                caller.reaches_any(None),
                caller.reaches_any(group("group:web").as_ref()),
                caller.reaches_any(group("group:web.dev").as_ref()),
            ];
            assert_eq!(found, *expected, "{caller:?}");
        }
    }
}
