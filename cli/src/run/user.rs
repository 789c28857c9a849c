//! The user of the command: names to ids, and the variables that depend on the user.

use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};
use vmon::child::Command;

use crate::Failure;
use crate::args::ValueError;

/// The value of `--user`: a user, and the group if it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserArg {
    user: String,
    group: Option<String>,
}

impl FromStr for UserArg {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        match user.is_empty() || group.is_some_and(str::is_empty) {
            true => Err(ValueError::User),
            false => Ok(Self { user: user.to_owned(), group: group.map(str::to_owned) }),
        }
    }
}

/// Gives the command the ids of `--user` and `--group-add`, and the variables of the user.
pub fn apply(
    user: Option<&UserArg>,
    added: &[String],
    command: Command,
) -> Result<Command, Failure> {
    let added = added.iter().map(|group| gid(group)).collect::<Result<Vec<Gid>, _>>()?;
    let raw = |mut groups: Vec<Gid>| {
        groups.extend(&added);
        groups.sort_unstable_by_key(|group| group.as_raw());
        groups.dedup();
        groups.into_iter().map(Gid::as_raw).collect::<Vec<u32>>()
    };
    let Some(UserArg { user, group }) = user else {
        return Ok(match added.is_empty() {
            true => command,
            false => command.groups(raw(own_groups()?)),
        });
    };
    let (uid, entry) = look_up(user)?;
    let (gid, groups) = match (group, &entry) {
        (Some(group), _) => (gid(group)?, Vec::new()),
        (None, Some(entry)) => (entry.gid, groups_of(entry)?),
        (None, None) => return Err(Failure::NoGroupOfUser(user.clone())),
    };
    let command = command.uid(uid.as_raw()).gid(gid.as_raw()).groups(raw(groups));
    Ok(variables(entry.as_ref(), command))
}

/// Sets the variables of the user that a recorded command runs as.
pub fn apply_variables(command: Command) -> Result<Command, Failure> {
    let Some(uid) = command.get_uid() else { return Ok(command) };
    let entry = User::from_uid(Uid::from_raw(uid)).map_err(|errno| unknown(&uid, errno))?;
    Ok(variables(entry.as_ref(), command))
}

/// The variables that systemd's `User=` sets. A user without an entry in passwd has the root directory
/// as its home, as in containers.
fn variables(user: Option<&User>, command: Command) -> Command {
    match user {
        Some(User { name, dir, shell, .. }) => {
            command.env("HOME", dir).env("USER", name).env("LOGNAME", name).env("SHELL", shell)
        }
        None => {
            command.env("HOME", "/").env_remove("USER").env_remove("LOGNAME").env_remove("SHELL")
        }
    }
}

/// A name, or else a number, as chown(1) reads it.
fn look_up(user: &str) -> Result<(Uid, Option<User>), Failure> {
    let failed = |errno| unknown(&user, errno);
    if let Some(entry) = User::from_name(user).map_err(failed)? {
        return Ok((entry.uid, Some(entry)));
    }
    let uid = user.parse().map(Uid::from_raw).map_err(|_| Failure::NoUser(user.to_owned()))?;
    Ok((uid, User::from_uid(uid).map_err(failed)?))
}

fn gid(group: &str) -> Result<Gid, Failure> {
    match Group::from_name(group).map_err(|errno| unknown(&group, errno))? {
        Some(entry) => Ok(entry.gid),
        None => group.parse().map(Gid::from_raw).map_err(|_| Failure::NoGroup(group.to_owned())),
    }
}

fn unknown(what: &impl ToString, errno: Errno) -> Failure {
    Failure::LookUp { what: what.to_string(), reason: errno.desc() }
}

/// The group and the supplementary groups of a user.
#[cfg(not(target_vendor = "apple"))]
fn groups_of(user: &User) -> Result<Vec<Gid>, Failure> {
    let failed = |errno| unknown(&user.name, errno);
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| failed(Errno::EINVAL))?;
    nix::unistd::getgrouplist(&name, user.gid).map_err(failed)
}

/// The supplementary groups of this process.
#[cfg(not(target_vendor = "apple"))]
fn own_groups() -> Result<Vec<Gid>, Failure> {
    nix::unistd::getgroups().map_err(|errno| unknown(&"the groups of vmon", errno))
}

/// The group of a user. The others are known to opendirectoryd(8) only.
#[cfg(target_vendor = "apple")]
fn groups_of(user: &User) -> Result<Vec<Gid>, Failure> {
    Ok(vec![user.gid])
}

/// The group of this process, as above.
#[cfg(target_vendor = "apple")]
fn own_groups() -> Result<Vec<Gid>, Failure> {
    Ok(vec![nix::unistd::getegid()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_have_a_group_and_neither_is_empty() {
        let parsed = |user: &str, group: Option<&str>| {
            Ok(UserArg { user: user.to_owned(), group: group.map(str::to_owned) })
        };
        assert_eq!("web".parse(), parsed("web", None));
        assert_eq!("1000:kvm".parse(), parsed("1000", Some("kvm")));
        for text in ["", ":", "web:", ":kvm"] {
            assert_eq!(text.parse::<UserArg>(), Err(ValueError::User), "{text:?}");
        }
    }

    #[test]
    fn a_number_without_an_entry_needs_a_group_and_has_the_root_directory() {
        let of = |text: &str| {
            let user: UserArg = text.parse().unwrap();
            apply(Some(&user), &[], Command::new("x"))
        };
        let command = of("4000000:4000001").unwrap();
        assert_eq!(command.get_uid(), Some(4_000_000));
        let expected = [("HOME", Some("/")), ("USER", None), ("LOGNAME", None), ("SHELL", None)];
        let found: Vec<_> = command
            .get_envs()
            .iter()
            .map(|(key, value)| {
                (key.to_str().unwrap(), value.as_ref().map(|it| it.to_str().unwrap()))
            })
            .collect();
        assert_eq!(found, expected);
        assert!(matches!(of("4000000"), Err(Failure::NoGroupOfUser(user)) if user == "4000000"));
        assert!(matches!(of("no such user"), Err(Failure::NoUser(_))));
        assert!(matches!(of("0:no such group"), Err(Failure::NoGroup(_))));
    }
}
