//! Users and groups from `/etc/passwd` and `/etc/group`.
//!
//! Read anew at each question: a `useradd` in the guest takes effect at once. Files only: a static binary has
//! no name service switch.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A user a request runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
}

/// The name is not in `/etc/passwd`.
#[derive(Debug, thiserror::Error)]
#[error("invalid username: '{0}'")]
pub struct UnknownUser(pub String);

/// Finds a user by name. `root` exists even in an image without `/etc/passwd`.
pub fn find(name: &str) -> Result<User, UnknownUser> {
    find_in(&read("/etc/passwd"), &read("/etc/group"), name)
}

/// As [`find`], in files with these contents.
pub fn find_in(passwd: &str, group: &str, name: &str) -> Result<User, UnknownUser> {
    let mut user = passwd
        .lines()
        .filter_map(parse_user)
        .find(|user| user.name == name)
        .or_else(|| (name == "root").then(root))
        .ok_or_else(|| UnknownUser(name.to_owned()))?;
    user.groups.extend(groups_of(group, name).filter(|gid| *gid != user.gid));
    Ok(user)
}

fn root() -> User {
    User { name: "root".into(), uid: 0, gid: 0, groups: vec![0], home: PathBuf::from("/root") }
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
    Some(User { name: name.to_owned(), uid, gid, groups: vec![gid], home: PathBuf::from(home) })
}

/// `name:password:gid:member,member` (group(5)).
fn groups_of<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member.trim() == user).then_some(gid)
    })
}

/// Names of ids, for one listing.
#[derive(Debug)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads both files.
    pub fn load() -> Self {
        Self { users: names(&read("/etc/passwd")), groups: names(&read("/etc/group")) }
    }

    /// The user's name, or the decimal id.
    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// The group's name, or the decimal id.
    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

/// In both files the id is the third field. The first of several names wins, as in the C library.
fn names(file: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in file.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_passwd() {
        let user = parse_user("u:x:1000:1001:A, B:/home/u:/bin/sh").map(|u| (u.uid, u.gid, u.home));
        assert_eq!(user, Some((1000, 1001, PathBuf::from("/home/u"))));
        for bad in ["", "#u:x:1:1::/:", "u:x:one:1::/:", "u:x:1", "+::::::"] {
            assert_eq!(parse_user(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_of_group() {
        let file = "a:x:1:u\nb:x:2:v,u\nc:x:3:\nbroken\nd:x:4:uu";
        assert_eq!(groups_of(file, "u").collect::<Vec<_>>(), [1, 2]);
    }
}
