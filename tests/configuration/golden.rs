//! `config show` of a job of three files, a profile, the environment and `--set`, compared with a text in the repository.

use std::fs;

use mdt_tests::{root, run_where};

const FIXTURES: &str = "tests/fixtures/configuration";

/// Three files in three formats, and every other layer above them.
fn show() -> String {
    let files = ["job.toml", "lab.yaml", "mine.json"].map(|name| format!("--config={FIXTURES}/{name}"));
    let rest =
        ["--profile=quick", "--set=checkpoint.keep=1", "--set=comm=local", "--set=comm.rank=2", "config", "show"];
    let variables = [("MDT_OPTIMIZER__LEARNING_RATE", "3e-5"), ("MDT_COMPUTE__THREADS", "2")];
    run_where(&variables, files.iter().map(String::as_str).chain(rest)).success().stdout
}

#[test]
fn every_value_is_shown_with_its_layer_as_it_always_was() {
    let file = root().join(FIXTURES).join("show.txt");
    let shown = show();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &shown).expect("the golden file");
    }
    let golden = fs::read_to_string(&file).unwrap_or_default();
    let other = shown.lines().zip(golden.lines()).find(|(now, before)| now != before);
    assert!(
        shown == golden,
        "`config show` has changed, first from what is on the right to what is on the left: {other:#?}\n\
         where that is meant, write {FIXTURES}/show.txt anew with UPDATE_GOLDEN=1"
    );
}
