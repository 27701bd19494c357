//! Connections with TLS: who is let in, what each side says of a certificate that does not fit, and what can be heard.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;

use mdt_grpc::{Config, TlsFiles};
use mdt_plugin_api::prelude::*;

use crate::authority::Authority;
use crate::relay::Relay;
use crate::setup::{Host, backend, backend_of, blame, config, done, job, port, run, run_with, token_file, with};

/// The address at which ranks meet here.
const HERE: &str = "127.0.0.1";

fn with_tls(tls: TlsFiles) -> Config {
    Config { tls: Some(tls), connect_timeout_s: 10.0, ..config() }
}

/// The error of a rank that does not get as far as a connection.
fn refusal(tls: TlsFiles) -> String {
    let error = backend(with_tls(tls)).unwrap().open(&Bootstrap { rank: 1, ..job(2) }).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Config, "{error}");
    error.message().to_owned()
}

/// What a rank 1 with another configuration is told, and what rank 0 says of it; then the right rank 1 comes, and both
/// pass a barrier.
fn turned_away(first: TlsFiles, other: Config, right: TlsFiles) -> (String, Vec<String>) {
    let (job, host) = (job(2), Arc::<Host>::default());
    let told = thread::scope(|scope| {
        let (own, kept, first) = (job.clone(), Arc::clone(&host), with_tls(first));
        let first = scope.spawn(move || done(backend_of(kept, first).unwrap().open(&own).unwrap().barrier()));
        let one = Bootstrap { rank: 1, ..job.clone() };
        let error = backend(other).unwrap().open(&one).err().unwrap();
        assert!(done(backend(with_tls(right)).unwrap().open(&one).unwrap().barrier()).is_empty());
        assert!(first.join().unwrap().is_empty());
        error.message().to_owned()
    });
    let warnings = host.warnings.lock().unwrap().clone();
    (told, warnings)
}

#[test]
fn encrypted_ranks_have_the_bits_of_others() {
    let tls = Authority::new("bits").host("all", &[HERE]);
    let values: Vec<f32> = (0..100_000).map(|i| (i as f32).sin()).collect();
    let reduce = |communicator: mdt_plugin_api::register::Connected| {
        let mine: Vec<f32> = values.iter().map(|value| value * (communicator.rank() + 1) as f32).collect();
        let sum = done(communicator.all_reduce(vec![mine.into()], ReduceOp::Sum));
        let all = done(communicator.all_gather(vec![communicator.rank() as u64; 3].into()));
        (sum, all)
    };
    assert_eq!(run_with(&job(3), with_tls(tls), reduce), run(&job(3), reduce));
}

#[test]
fn ranks_are_verified_by_the_names_by_which_they_are_called() {
    let authority = Authority::new("names");
    let configs = [
        with_tls(authority.host("zero", &["localhost"])),
        Config { advertise: Some("localhost".into()), ..with_tls(authority.host("one", &["localhost"])) },
        with_tls(authority.host("two", &["nobody-calls-the-last-rank"])),
    ];
    let job = with(&job(3), "address", "localhost");
    thread::scope(|scope| {
        for (rank, config) in (0..).zip(configs) {
            let bootstrap = Bootstrap { rank, ..job.clone() };
            scope.spawn(move || done(backend(config).unwrap().open(&bootstrap).unwrap().barrier()));
        }
    });
}

#[test]
fn a_certificate_that_no_rank_could_accept_is_refused_before_any_connection() {
    let (authority, other) = (Authority::new("own"), Authority::new("own-other"));
    let good = authority.host("good", &[HERE]);
    let (cert, key, ca) = (good.cert.clone(), good.key.clone(), good.ca.clone());
    let stranger = other.host("stranger", &[HERE]);

    let expired = refusal(authority.host_valid("expired", &[HERE], [-3, -2]));
    assert!(expired.contains("has expired: it was valid until 20"), "{expired}");
    let early = refusal(authority.host_valid("early", &[HERE], [2, 3]));
    assert!(early.contains("is not valid yet: it will be from 20"), "{early}");
    let said = refusal(TlsFiles { ca: stranger.ca.clone(), ..good.clone() });
    assert_eq!(said, format!("comm.tls.cert: the certificate in {cert} is not of the authority in {}", stranger.ca));
    let said = refusal(TlsFiles { key: stranger.key.clone(), ..good.clone() });
    assert_eq!(said, format!("comm.tls.key: the key in {} is not that of the certificate in {cert}", stranger.key));
    let said = refusal(TlsFiles { cert: String::new(), ..good.clone() });
    assert_eq!(said, "`comm.tls` needs `ca`, `cert` and `key`, and `comm.tls.cert` is missing");
    let said = refusal(TlsFiles { ca: key.clone(), ..good.clone() });
    assert_eq!(said, format!("comm.tls.ca: {key} has no certificate in the PEM format"));
    let said = refusal(TlsFiles { key: ca.clone(), ..good.clone() });
    assert_eq!(said, format!("comm.tls.key: {ca} has no private key in the PEM format"));
    let said = refusal(TlsFiles { cert: "no/such/file".into(), ..good.clone() });
    assert_eq!(said, "comm.tls.cert: no/such/file cannot be read");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    assert_eq!(refusal(good), format!("comm.tls.key: {key} is open to other users (mode 640)"));
}

#[test]
fn a_rank_of_another_authority_is_turned_away_alone_and_both_sides_say_why() {
    let (authority, other) = (Authority::new("ca"), Authority::new("ca-other"));
    let host = |name: &str| authority.host(name, &[HERE]);
    let (told, warnings) = turned_away(host("a"), with_tls(other.host("b", &[HERE])), host("c"));
    assert!(told.ends_with("its certificate is not of the authority in comm.tls.ca"), "{told}");
    // The dialler has ended it and said why.
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("another authority"), "{warnings:?}");

    // Its own certificate is another authority's, and it trusts this one too.
    let (both, good) = (other.host("d", &[HERE]), host("e"));
    fs::write(&both.ca, [fs::read(&both.ca).unwrap(), fs::read(&good.ca).unwrap()].concat()).unwrap();
    let (told, warnings) = turned_away(host("f"), with_tls(both), host("g"));
    assert!(told.ends_with("it refuses the certificate of this rank: another authority"), "{told}");
    assert!(warnings[0].contains("its certificate is not of the authority in comm.tls.ca"), "{warnings:?}");
}

#[test]
fn a_host_whose_certificate_is_for_others_is_refused_with_both_names() {
    let authority = Authority::new("elsewhere");
    let job = job(2);
    thread::scope(|scope| {
        let zero = with_tls(authority.host("zero", &["node0", "10.0.0.5"]));
        let (own, zero) = (job.clone(), Config { connect_timeout_s: 2.0, ..zero });
        let first = scope.spawn(move || backend(zero).unwrap().open(&own).err().unwrap());
        let one = with_tls(authority.host("one", &[HERE]));
        let error = backend(one).unwrap().open(&Bootstrap { rank: 1, ..job.clone() }).err().unwrap();
        let expected = format!(
            "rank 1 has no encrypted connection with rank 0 at {HERE}:{}: its certificate is not for {HERE}, but for node0, \
             10.0.0.5",
            port(&job)
        );
        assert_eq!(blame(&error), (expected, Some(0)));
        assert_eq!(first.join().unwrap().message(), "rank 1 has not come within 2 s");
    });
}

#[test]
fn a_rank_without_tls_is_told_that_the_others_have_it() {
    let host = |name: &str| Authority::new("one-side").host(name, &[HERE]);
    let first = host("a");
    let right = first.clone();
    let (told, _) = turned_away(first, config(), right);
    assert!(told.ends_with("speaks TLS, and rank 1 has no comm.tls"), "{told}");
}

#[test]
fn ranks_with_tls_are_told_that_rank_0_has_none() {
    let tls = Authority::new("other-side").host("a", &[HERE]);
    let (job, host) = (job(2), Arc::<Host>::default());
    thread::scope(|scope| {
        let (own, kept) = (job.clone(), Arc::clone(&host));
        let limits = Config { connect_timeout_s: 1.5, ..config() };
        let first = scope.spawn(move || backend_of(kept, limits).unwrap().open(&own).err().unwrap());
        let limits = Config { connect_timeout_s: 1.0, ..with_tls(tls) };
        let error = backend(limits).unwrap().open(&Bootstrap { rank: 1, ..job.clone() }).err().unwrap();
        assert!(error.message().ends_with("all ranks need comm.tls"), "{error}");
        first.join().unwrap();
    });
    let warnings = host.warnings.lock().unwrap();
    assert!(warnings[0].ends_with("it speaks TLS, and rank 0 has no comm.tls"), "{warnings:?}");
}

#[test]
fn a_certificate_without_the_token_opens_nothing() {
    let authority = Authority::new("no-token");
    let host = |name: &str| authority.host(name, &[HERE]);
    let other = Config { token_file: Some(token_file("tls-other", &"f".repeat(64), 0o600)), ..with_tls(host("b")) };
    let (told, warnings) = turned_away(host("a"), other, host("c"));
    assert!(told.ends_with("do not have the same job token"), "{told}");
    assert!(warnings[0].contains("does not have this job's token"), "{warnings:?}");
}

#[test]
fn nothing_of_the_job_is_readable_on_the_wire() {
    let tls = Authority::new("wire").host("all", &[HERE]);
    let job = Bootstrap { identity: r#"{"model.path":"/secret/model"}"#.into(), ..job(2) };
    let relay = Relay::start(port(&job), |_| false);
    let one = Bootstrap { rank: 1, ..with(&job, "port", relay.port) };
    let pattern = vec![1.234_567_f32; 50_000];
    thread::scope(|scope| {
        for bootstrap in [job, one] {
            let (config, pattern) = (with_tls(tls.clone()), pattern.clone());
            scope.spawn(move || {
                let communicator = backend(config).unwrap().open(&bootstrap).unwrap();
                done(communicator.all_reduce(vec![pattern.into()], ReduceOp::Max))
            });
        }
    });
    let gradients = [1.234_567_f32.to_le_bytes(); 4].concat();
    for index in 0..relay.connections() {
        for side in relay.recording(index) {
            for secret in [b"/secret/model".as_slice(), b"mdtrank", b"PRI * HTTP/2", &gradients] {
                assert!(!side.windows(secret.len()).any(|bytes| bytes == secret));
            }
        }
    }
}
