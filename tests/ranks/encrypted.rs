//! Ranks with certificates of `certs new`: the same bits as without, and one clear error where they do not fit.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mdt_tests::{Job, Process, Run, assert_says, free_port, run};

use super::{job, launch, start_rank};

/// Certificates for these hosts.
fn certificates(job: &Job, directory: &str, hosts: &[&str]) -> String {
    let out = job.directory().join(directory).display().to_string();
    run([&["certs", "new", "--out", &out], hosts].concat()).success();
    out
}

fn tls(directory: &str, host: &str) -> String {
    let place = Path::new(directory).join(host);
    let file = |name: &str| place.join(name).display().to_string();
    format!("{{ ca = \"{}\", cert = \"{}\", key = \"{}\" }}", file("ca.pem"), file("host.pem"), file("host.key"))
}

fn short(micro_batches: u32) -> Job {
    job(micro_batches).set("trainer.max_steps", 5)
}

#[test]
fn ranks_with_certificates_of_certs_new_train_to_the_bits_of_one_process() {
    let (one, two) = (short(2), short(1));
    one.run().success();
    let certs = certificates(&two, "certs", &["node0,127.0.0.1"]);
    let two = two.set("comm.tls", tls(&certs, "node0"));
    Process::start(&mut launch(&two, 2)).end().success();
    assert_eq!(one.unmeasured(), two.unmeasured());
    assert!(one.final_weights() == two.final_weights(), "the final model");
}

#[test]
fn ranks_at_a_unix_socket_train_to_the_bits_of_one_process() {
    let (one, two) = (short(2), short(1));
    one.run().success();
    let directory = tempfile::tempdir().expect("a directory with a short path");
    let two = two.set("comm.address", format!("unix:{}", directory.path().join("job").display()));
    let run = Process::start(&mut launch(&two, 2)).end().success();
    assert_says(&run.stderr, &["over grpc at unix:/"]);
    assert!(one.final_weights() == two.final_weights(), "the final model");
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0, "sockets are left");
}

/// Both ranks of a job with these certificates.
fn both(tls: [&str; 2], hosts: &Job) -> [Run; 2] {
    let port = free_port();
    let ranks = [0, 1].map(|rank| {
        let job = short(1).set("comm.connect_timeout_s", 3).set("comm.tls", tls[rank as usize]);
        (start_rank(&job, rank, port), job)
    });
    let _ = hosts; // the certificates last as long
    ranks.map(|(rank, _job)| rank.end())
}

#[test]
fn certificates_that_do_not_fit_end_a_job_with_one_error_that_says_how() {
    let hosts = Job::new();
    let [right, wrong] = ["right", "wrong"].map(|name| certificates(&hosts, name, &["127.0.0.1", "node1"]));
    let good = tls(&right, "127.0.0.1");

    let [zero, one] = both([&good, &tls(&wrong, "127.0.0.1")], &hosts);
    assert_says(&one.failure(5), &["its certificate is not of the authority in comm.tls.ca", "mdt-host certs new"]);
    assert_says(&zero.failure(5), &["rank 1 has not come within 3 s"]);

    let [_, one] = both([&tls(&right, "node1"), &good], &hosts);
    assert_says(&one.failure(5), &["its certificate is not for 127.0.0.1, but for node1"]);

    let key = Path::new(&wrong).join("node1/host.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("a file of this test");
    let [zero, _] = both([&tls(&wrong, "node1"), &good], &hosts);
    assert_says(&zero.failure(2), &["comm.tls.key", "is open to other users (mode 644)", "chmod 600"]);
}

#[test]
fn an_address_of_the_network_is_refused_without_encryption() {
    let job = short(1).set("comm.address", "0.0.0.0");
    let failure = Process::start(launch(&job, 2).args(["--set", "comm.connect_timeout_s=2"])).end();
    assert_says(
        &failure.stderr,
        &["without comm.tls nothing is encrypted", "mdt-host certs new", "comm.insecure = true"],
    );
    assert_eq!(failure.status, Some(2), "{}", failure.stderr);
}

#[test]
fn each_rank_has_a_certificate_of_its_own() {
    let first = short(1);
    let certs = certificates(&first, "certs", &["127.0.0.1", "node1"]);
    let port = free_port();
    let job = first.set("comm.tls", tls(&certs, "127.0.0.1"));
    let one = short(1).set("comm.tls", tls(&certs, "node1"));
    let ranks = [start_rank(&job, 0, port), start_rank(&one, 1, port)];
    for rank in ranks {
        rank.end().success();
    }
}
