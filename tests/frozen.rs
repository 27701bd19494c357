//! Frozen versions of the boundary: their plugins in today's host, today's plugins under their loaders, and their tables in
//! today's crate. `cargo xtask freeze` makes one.

use mdt_plugin_api::abi::c_header;
use mdt_tests::boundary::{Version, assert_same, job_with, transcript, transcript_without};
use mdt_tests::{Job, assert_says, built, library};

/// The tables of a C header: for each name its fingerprint.
fn tables(header: &str) -> Vec<(&str, &str)> {
    let mut definitions = header.lines().filter_map(|line| line.strip_prefix("#define Mdt"));
    let mut tables = Vec::new();
    while let Some(name) = definitions.find(|line| line.contains("_name ")) {
        let fingerprint = definitions.next().expect("a fingerprint follows each name");
        tables.push((name.split('"').nth(1).expect("a name"), fingerprint.split(' ').nth(1).expect("a number")));
    }
    tables
}

/// The components of every kind that a program of the version exercises; their transcript is the same in all ways. The version
/// does not have the `later` interfaces.
fn components_answer_alike(version: &Version, later: &[&str]) {
    let today = library("mdt_test_every_kind");
    let (program, plugin) = (built().join("every-kind"), version.every_kind());
    assert_same(&transcript(&version.program(), None), &transcript(&version.program(), Some(&today)));
    assert_same(&transcript_without(later, &program, None), &transcript_without(later, &program, Some(&plugin)));
}

fn trains_alike(frozen: &Job, today: &Job) {
    frozen.run().success();
    assert_eq!(frozen.numbers("loss"), today.numbers("loss"));
    assert!(frozen.final_weights() == today.final_weights(), "the models differ");
}

// One test: versions are built in turns, and use each other's dependencies.
#[test]
fn plugins_of_frozen_versions_work_in_this_host_and_plugins_of_today_under_their_loaders() {
    let today = job_with(built());
    today.run().success();
    let header = c_header();
    let now = tables(&header);
    for (name, version) in Version::frozen() {
        let frozen = version.read("plugin-api/include/mdt_plugin.h");
        let frozen = tables(&frozen);
        assert!(frozen.len() > 20);
        let later: Vec<&str> =
            now.iter().map(|(name, _)| *name).filter(|name| !frozen.iter().any(|(old, _)| old == name)).collect();
        for table in frozen {
            assert!(now.contains(&table), "version {name} has {table:?}, and today's boundary has it no more: {now:?}");
        }
        components_answer_alike(&version, &later);
        let job = version.job();
        let inspected = job.run_with(&["plugin", "inspect", "adamw"]).success().stdout;
        assert_says(&inspected, &[&version.plugins().display().to_string()]);
        trains_alike(&job, &today);
    }
}
