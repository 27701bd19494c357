//! What this workspace depends on: licences, sources, crates that must be there once, advisories that are accepted.
//!
//! `cargo deny` checks the same, but is 167 further crates to build on a fresh machine. Its list of advisories is on
//! GitHub, which not every machine that runs the checks can reach: `cargo audit` finds a new advisory where it is there.

use std::collections::BTreeSet;

use crate::{Result, command, workspace};

/// Licences that a dependency may have; with a choice, one of them is enough.
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MPL-2.0", // generational-arena, unchanged
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "CDLA-Permissive-2.0", // webpki-roots: the list of authorities that Mozilla trusts
    "bzip2-1.0.6",         // libbz2-rs-sys: as permissive as BSD
];

/// Crates of which two versions would not work together: their types meet, or they hold state of the process.
const ONCE: [&str; 9] =
    ["abi_stable", "inventory", "mdt-plugin-api", "mlx-rs", "mlx-sys", "prost", "serde", "tokio", "tonic"];

/// An advisory that is known and accepted.
struct Accepted {
    package: &'static str,
    advisory: &'static str,
    reason: &'static str,
    replacement: &'static str,
}

const ACCEPTED: [Accepted; 2] = [
    Accepted {
        package: "generational-arena",
        advisory: "RUSTSEC-2024-0014, unmaintained",
        reason: "abi_stable 0.11.3 compares layouts with it when a plugin is loaded; it reads no input of others",
        replacement: "a boundary of plain C tables would need no abi_stable",
    },
    Accepted {
        package: "paste",
        advisory: "RUSTSEC-2024-0436, unmaintained",
        reason: "a macro that abi_stable, mlx-rs and tokenizers use while they are compiled; no code of it runs",
        replacement: "pastey, once all three have changed to it",
    },
];

/// A package of the dependency tree: `serde v1.0.229`, perhaps with a place, and its licence.
struct Package {
    name: String,
    described: String,
    licence: String,
}

/// Checks the dependencies of all members on this platform: those of others would have to be downloaded first.
pub fn check() -> Result<()> {
    let packages = packages("normal,build,dev")?;
    let mut wrong = Vec::new();
    for Package { name, described, licence } in &packages {
        if !is_allowed(licence) {
            wrong.push(format!(
                "{described} has the licence {licence:?}, which xtask/src/dependencies.rs does not allow"
            ));
        }
        let place = described.split_once('(').map_or("", |(_, place)| place);
        if place.contains("://") {
            wrong.push(format!("{described} is not from the public registry of crates"));
        }
        let twins = packages.iter().filter(|other| other.name == *name).count();
        if twins > 1 && ONCE.contains(&name.as_str()) {
            wrong.push(format!("{described} is one of {twins} versions of a crate that must be there once"));
        }
    }
    for Accepted { package, advisory, reason, replacement } in &ACCEPTED {
        match packages.iter().any(|found| found.name == *package) {
            true => println!("accepted: {package}, {advisory}: {reason}; instead: {replacement}"),
            false => wrong.push(format!("{package} is gone: remove its entry from xtask/src/dependencies.rs")),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// The crates that are linked into the program and the plugins on this machine, a line for each with its licence.
pub fn linked_crates() -> Result<String> {
    let packages = packages("normal")?;
    Ok(packages.iter().map(|package| format!("{}: {}\n", package.described, package.licence)).collect())
}

fn packages(edges: &str) -> Result<Vec<Package>> {
    let mut cargo = workspace::cargo();
    cargo.args(["tree", "--locked", "--workspace", "--prefix=none", "--format={p}|{l}", "--edges", edges]);
    let tree = command::output(&mut cargo)?;
    // A package that was shown before ends with a mark.
    let lines: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let package = |line: &str| {
        let (described, licence) = line.split_once('|')?;
        let described = described.replace(" (proc-macro)", "");
        let name = described.split(' ').next()?.to_owned();
        // A member is described with its folder, which is of no use elsewhere.
        let described = described.replace(&format!(" ({}", workspace::root().display()), " (in this workspace");
        Some(Package { name, described, licence: licence.to_owned() })
    };
    Ok(lines.into_iter().filter_map(package).collect())
}

/// Whether an SPDX expression (or the older form with slashes) allows what is allowed here.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ").replace(['(', ')'], "");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_licence_of_a_choice_is_enough_and_all_of_a_combination_are_needed() {
        for allowed in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "AGPL-3.0 OR SSPL-1.0"] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }
}
