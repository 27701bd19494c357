//! Where the job token comes from, and which tokens and files are refused.

use mdt_grpc::Config;
use mdt_plugin_api::prelude::*;

use crate::setup::{TOKEN, backend, done, job, run_with, token_file};

/// The error of a rank with this token file.
fn refusal(token_file: String) -> Error {
    let config = Config { token_file: Some(token_file), ..Config::default() };
    let error = backend(config).unwrap().open(&job(2)).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config, "{error}");
    assert!(!format!("{error} {error:?}").contains(&TOKEN[..8]), "the token is shown");
    error
}

fn help(error: &Error) -> &str {
    error.context().iter().find(|(key, _)| key == "help").map_or("", |(_, help)| help)
}

#[test]
fn a_token_file_that_others_can_read_is_refused_with_what_to_do() {
    for mode in [0o640, 0o604, 0o620] {
        let path = token_file(&format!("mode-{mode:o}"), TOKEN, mode);
        let error = refusal(path.clone());
        assert_eq!(error.message(), format!("comm.token_file: {path} is open to other users (mode {mode:o})"));
        assert_eq!(help(&error), format!("run `chmod 600 {path}`"));
    }
}

#[test]
fn a_token_that_is_too_short_to_be_secret_is_refused_without_being_shown() {
    let error = refusal(token_file("short", &TOKEN[..31], 0o600));
    assert_eq!(error.message(), "the job token in comm.token_file has fewer than 32 characters");
    assert!(help(&error).contains("openssl rand -hex 32"));
}

#[test]
fn a_token_file_that_is_missing_or_no_file_is_refused() {
    assert!(refusal("no/such/file".to_owned()).message().contains("no/such/file cannot be read"));
    assert!(refusal(env!("CARGO_TARGET_TMPDIR").to_owned()).message().contains("is not a regular file"));
    assert!(refusal("/dev/null".to_owned()).message().contains("is not a regular file"));
}

#[test]
fn space_around_a_token_does_not_matter() {
    let config = Config { token_file: Some(token_file("spaced", &format!(" {TOKEN}\n"), 0o400)), ..Config::default() };
    assert_eq!(run_with(&job(2), config, |communicator| done(communicator.barrier())).len(), 2);
}

#[test]
fn one_rank_alone_needs_no_token() {
    assert_eq!(run_with(&job(1), Config::default(), |communicator| done(communicator.barrier())).len(), 1);
}
