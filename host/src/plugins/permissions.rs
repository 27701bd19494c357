//! Who could replace a plugin: only the user and root may own or write to it, its directory and the directories above.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::exit::{Failure, Status};

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Refuses a file that somebody else could replace. The path is absolute and has no links.
pub(super) fn refuse_replaceable(file: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe().and_then(fs::canonicalize).unwrap_or_default();
    for place in file.ancestors() {
        let above = place != file && Some(place) != file.parent();
        // Who can change a directory above the program can replace the program.
        if above && program.starts_with(place) {
            break;
        }
        let refused = |why: String| Failure::new(Status::Plugin, why).at(file.display());
        let metadata =
            fs::metadata(place).map_err(|error| refused("a plugin cannot be read".to_owned()).because(error))?;
        if let Some((who, repair)) = others(&metadata, above) {
            let what = if place == file { "a plugin" } else { "the directory of a plugin" };
            let mut failure = refused(format!("{who} can change {what}")).help(format!("{repair} {}", place.display()));
            if place != file {
                failure = failure.at(place.display());
            }
            return Err(failure.because(format!("owner {}, mode {:o}", metadata.uid(), metadata.mode() & 0o7777)));
        }
    }
    Ok(())
}

/// Who beside the user and root can change a file or directory, and the command that prevents it.
fn others(metadata: &Metadata, above: bool) -> Option<(String, &'static str)> {
    let (user, mode) = (rustix::process::geteuid().as_raw(), metadata.mode());
    if ![0, user].contains(&metadata.uid()) {
        return Some((format!("user {}", metadata.uid()), "chown root"));
    }
    // In a sticky directory users cannot rename or remove the entries of others.
    if above && mode & STICKY != 0 {
        return None;
    }
    if mode & OTHERS_WRITE != 0 {
        return Some(("every user of this machine".to_owned(), "chmod o-w"));
    }
    let group = mode & GROUP_WRITES != 0 && !is_group_of_one(metadata.gid(), user);
    group.then(|| (format!("group {}", metadata.gid()), "chmod g-w"))
}

/// Whether a group is the one that many systems make for each user: of the user's name, with no other member. Such
/// systems let the group write to every new file. (Root's group often has members that are not listed in it.)
fn is_group_of_one(group: u32, user: u32) -> bool {
    let [users, groups] = ["/etc/passwd", "/etc/group"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let primary_group_of = |fields: &[String]| fields.get(3).is_some_and(|number| *number == group.to_string());
    let members: Vec<_> = users.lines().map(fields).filter(|fields| primary_group_of(fields)).collect();
    let [member] = &members[..] else { return false };
    user != 0
        && member[2] == user.to_string()
        && groups.lines().map(fields).any(|entry| {
            entry.len() > 3
                && entry[0] == member[0]
                && entry[2] == group.to_string()
                && (entry[3].is_empty() || entry[3] == member[0])
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    #[test]
    fn a_plugin_that_others_can_change_is_refused_wherever_they_could() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().canonicalize().unwrap().join("above/plugins");
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("libx.so");
        fs::write(&file, "").unwrap();
        let above = directory.parent().unwrap().to_owned();
        let change = |place: &PathBuf, mode| fs::set_permissions(place, Permissions::from_mode(mode)).unwrap();
        [&file, &directory, &above].into_iter().for_each(|place| change(place, 0o755));
        refuse_replaceable(&file).unwrap();
        // Nobody but root can make files of others, or groups with members.
        let root = rustix::process::geteuid().is_root();
        for place in [&file, &directory, &above] {
            for (mode, who) in [(0o757, "every user of this machine can change"), (0o775, "group 0 can change")] {
                if mode == 0o757 || root {
                    change(place, mode);
                    let failure = refuse_replaceable(&file).unwrap_err().to_string();
                    assert!(failure.contains(who) && failure.contains(&place.display().to_string()), "{failure}");
                }
            }
            change(place, 0o755);
            if root {
                std::os::unix::fs::chown(place, Some(12345), None).unwrap();
                let failure = refuse_replaceable(&file).unwrap_err().to_string();
                assert!(failure.contains("user 12345 can change"), "{failure}");
                std::os::unix::fs::chown(place, Some(0), None).unwrap();
            }
        }
        change(&above, 0o1777);
        refuse_replaceable(&file).unwrap();
        change(&directory, 0o1777);
        assert!(refuse_replaceable(&file).is_err(), "others can put libraries beside it");
    }
}
