//! Who may do what: permissions are `resource:verb`, roles are sets of them, a token carries roles and may be narrowed.

use std::collections::BTreeSet;

/// What a caller is known to be, once its token has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's subject: a name for people and the audit trail.
    pub name: String,
    permissions: Permissions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Permissions {
    All,
    Some(BTreeSet<String>),
}

/// A role the configuration does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}: `read`, `write` and `admin` exist")]
pub struct UnknownRole(pub String);

/// Everything that reads.
const READ: [&str; 4] = ["agent:read", "job:read", "network:read", "node:read"];
/// What `write` adds to `read`. Running commands is neither: that takes `admin`, or the permission by name.
const WRITE: [&str; 3] = ["job:write", "network:write", "node:write"];

impl Caller {
    /// A caller with these roles, narrowed to `only` if that is given.
    ///
    /// # Errors
    /// A role that does not exist: refused as a whole, rather than taken for less.
    pub fn new(name: impl Into<String>, roles: &[String], only: Option<&[String]>) -> Result<Self, UnknownRole> {
        let mut all = false;
        let mut granted = BTreeSet::new();
        for role in roles {
            match role.as_str() {
                "admin" => all = true,
                "write" => granted.extend(READ.iter().chain(&WRITE).map(|permission| (*permission).to_owned())),
                "read" => granted.extend(READ.iter().map(|permission| (*permission).to_owned())),
                _ => return Err(UnknownRole(role.chars().take(64).collect())),
            }
        }
        let permissions = match (all, only) {
            (true, None) => Permissions::All,
            (true, Some(only)) => Permissions::Some(only.iter().cloned().collect()),
            (false, None) => Permissions::Some(granted),
            (false, Some(only)) => Permissions::Some(only.iter().filter(|permission| granted.contains(*permission)).cloned().collect()),
        };
        Ok(Self { name: name.into(), permissions })
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
        Caller::new("test", &own(roles), only.map(own).as_deref()).unwrap()
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
        assert!(Caller::new("test", &["root".to_owned()], None).is_err());
    }
}
