//! Files that name the hosts of a job: Open MPI's form, a line `user@host slots=2` for each, and the JSON of `mlx.launch`.

use std::path::Path;

use serde::Deserialize;

use crate::exit::Failure;
use crate::text_file;

/// A machine of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As `ssh` takes it: `node1`, `user@node1`.
    pub name: String,
    /// The number of ranks that run on it.
    pub slots: u32,
    /// Where the other hosts reach it, if the file says so.
    pub address: Option<String>,
    /// Variables for its ranks, as `NAME=VALUE`.
    pub environment: Vec<String>,
}

/// The hosts of a file in their order; ranks are counted in it, slot by slot.
///
/// # Errors
/// The file cannot be read, or names no host, or has what it should not have.
pub fn read(path: &Path) -> Result<Vec<Host>, Failure> {
    let unreadable = |error| Failure::configuration("the hostfile cannot be read").at(path.display()).because(error);
    let text = text_file::read(path, LARGEST).map_err(unreadable)?;
    let hosts = match text.trim_start().starts_with(['[', '{']) {
        true => of_json(&text),
        false => of_lines(&text),
    };
    let hosts = hosts.map_err(|failure| failure.at(path.display()))?;
    match hosts.iter().map(|host| u64::from(host.slots)).sum() {
        0 => Err(Failure::configuration("the hostfile has no hosts").at(path.display()).help(FORMS)),
        1..=MOST => Ok(hosts),
        slots => Err(Failure::configuration(format!("the hostfile has {slots} slots")).at(path.display())),
    }
}

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// More ranks than any backend connects.
const MOST: u64 = 65536;

const FORMS: &str = "write a line such as `node1 slots=2` for each host, or the JSON of mlx.launch: \
                     [{\"ssh\": \"node1\", \"ips\": [\"10.0.0.1\"]}]";

fn of_lines(text: &str) -> Result<Vec<Host>, Failure> {
    let mut hosts: Vec<Host> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().replace('=', " = ");
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let wrong = |what: String| Failure::configuration(what).at(format!("line {}", number + 1)).help(FORMS);
        let (name, after) = match name.rsplit_once(':') {
            // MPICH's form, and not an IPv6 address.
            Some((host, slots)) if !host.contains(':') => (host, Some(slots)),
            _ => (name, None),
        };
        let count = |text: &str| {
            let count = text.parse::<u32>().ok();
            count.ok_or_else(|| wrong(format!("{text:?} is no number of slots")))
        };
        let mut slots = after.map(count).transpose()?.unwrap_or(1);
        let mut host = name.to_owned();
        while let Some(key) = words.next() {
            let value = words.next().filter(|equals| *equals == "=").and_then(|_| words.next());
            let value = value.ok_or_else(|| wrong(format!("`{key}` has no value")))?;
            match key {
                "slots" => slots = count(value)?,
                // A limit of what users may ask for beyond `slots`, which is what this program takes.
                "max_slots" | "max-slots" => drop(count(value)?),
                "user" | "username" => host = format!("{value}@{name}"),
                _ => return Err(wrong(format!("`{key}` is unknown here"))),
            }
        }
        if host.starts_with('-') {
            return Err(wrong(format!("{host:?} is no host")));
        }
        match hosts.iter_mut().find(|known| known.name == host) {
            Some(known) => known.slots = known.slots.saturating_add(slots),
            None => hosts.push(Host { name: host, slots, address: None, environment: Vec::new() }),
        }
    }
    Ok(hosts)
}

/// The file of `mlx.launch`: one rank for each entry.
fn of_json(text: &str) -> Result<Vec<Host>, Failure> {
    #[derive(Deserialize)]
    struct Entry {
        ssh: String,
        #[serde(default)]
        ips: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Full {
        hosts: Vec<Entry>,
        #[serde(default)]
        envs: Vec<String>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum File {
        Hosts(Vec<Entry>),
        Full(Full),
    }
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::configuration("the hostfile is not as mlx.launch has it").because(what).help(FORMS)
    };
    let file: File = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    let Full { hosts, envs } = match file {
        File::Hosts(hosts) => Full { hosts, envs: Vec::new() },
        File::Full(full) => full,
    };
    let host = |entry: Entry| match entry.ssh.starts_with('-') || entry.ssh.trim().is_empty() {
        true => Err(wrong(&format!("{:?} is no host", entry.ssh))),
        false => {
            Ok(Host { name: entry.ssh, slots: 1, address: entry.ips.into_iter().next(), environment: envs.clone() })
        }
    };
    hosts.into_iter().map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(hosts: Result<Vec<Host>, Failure>) -> Vec<(String, u32)> {
        hosts.expect("hosts").into_iter().map(|host| (host.name, host.slots)).collect()
    }

    #[test]
    fn lines_of_open_mpi_and_mpich() {
        let text =
            "# all\nnode1 slots=2 max_slots=4\n\nme@node2   # one\nnode3 slots = 3\nnode2 user=you\nnode1\nnode4:2\n";
        let expected = [("node1", 3), ("me@node2", 1), ("node3", 3), ("you@node2", 1), ("node4", 2)];
        assert_eq!(slots(of_lines(text)), expected.map(|(name, slots)| (name.to_owned(), slots)));
        assert_eq!(slots(of_lines("fd00::1 slots=2")), [("fd00::1".to_owned(), 2)]);
        for wrong in ["node1 slots", "node1 slots=x", "node1 slot=2", "-oProxyCommand=x"] {
            let failure = of_lines(wrong).expect_err(wrong);
            assert!(failure.to_string().contains("line 1"), "{failure}");
        }
    }

    #[test]
    fn json_of_mlx_launch() {
        let hosts = of_json(r#"[{"ssh": "a", "ips": ["10.0.0.1", "10.1.0.1"]}, {"ssh": "b"}]"#).expect("hosts");
        assert_eq!((hosts[0].address.as_deref(), hosts[1].address.as_deref()), (Some("10.0.0.1"), None));
        let full = of_json(r#"{"backend": "ring", "envs": ["A=1"], "hosts": [{"ssh": "a", "rdma": [null]}]}"#);
        assert_eq!(full.expect("hosts")[0].environment, ["A=1"]);
        for wrong in ["[1]", "{\"hosts\": 1}", "[{\"ips\": []}]", "[{\"ssh\": \"-oX\"}]"] {
            of_json(wrong).expect_err(wrong);
        }
    }
}
