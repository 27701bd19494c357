//! Ranks that `mpirun` starts: the test program has it start itself.

use std::env;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mdt_mpi::{Config, Mpi};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::engine::EngineThread;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::{Backend, Connected, Connects};

/// Says what the ranks do.
const ROLE: &str = "MDT_MPI_TEST_ROLE";

/// Starts so many ranks with this role.
fn start(ranks: usize, role: &str) -> Child {
    Command::new("mpirun")
        .args(["-n", &ranks.to_string(), "--oversubscribe", "--allow-run-as-root"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "a_rank_that_mpirun_starts", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun")
}

fn run(ranks: usize, role: &str) -> Output {
    start(ranks, role).wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn backend(config: Config) -> Box<dyn Connects> {
    let abilities =
        |ranks: Arc<EngineThread>| Connected { reduce_scatter: Some(ranks.clone()), ..Connected::new(ranks) };
    let backend = Mpi::create(config, &Setup::default()).unwrap();
    across::comm(Box::new(Backend(backend, abilities))).unwrap()
}

#[test]
fn collectives_of_one_to_four_ranks_are_what_the_plugin_api_says_to_the_bit() {
    for ranks in 1..=4 {
        let ended = run(ranks, "conforms");
        assert!(ended.status.success(), "{ranks} ranks: {}", text(&ended));
    }
}

#[test]
fn ranks_that_call_different_collectives_are_all_told_what_each_called() {
    let said = text(&run(3, "differs"));
    let expected = "collective number 1 differs between ranks: rank 0 called all_reduce(sum) of float32 × 8, rank 1 called barrier";
    assert_eq!(said.matches(expected).count(), 3, "{said}");
}

#[test]
fn the_reason_of_a_rank_that_aborts_reaches_the_others() {
    let said = text(&run(3, "aborts"));
    for rank in [0, 2] {
        assert!(said.contains(&format!("rank {rank} is told: rank 1 aborted: no more rows")), "{said}");
    }
}

#[test]
fn a_rank_that_does_not_join_a_collective_is_named() {
    let said = text(&run(3, "lags"));
    for rank in [0, 1] {
        assert!(said.contains(&format!("rank {rank} is told: rank 2 made no progress for 0.5 s")), "{said}");
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    let begin = Instant::now();
    let ended = run(2, "dies");
    assert!(!ended.status.success());
    assert!(text(&ended).contains("signal 9"), "{}", text(&ended));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn another_rank_or_world_size_than_that_of_mpi_is_refused() {
    let said = text(&run(2, "misconfigured"));
    assert!(said.contains("MPI has started rank 0 of 2, and the configuration has rank 0 of 3"), "{said}");
}

#[test]
#[ignore = "what other tests have mpirun start"]
fn a_rank_that_mpirun_starts() {
    let Ok(role) = env::var(ROLE) else { return };
    let number = |name| env::var(name).expect("a variable of mpirun").parse().expect("a number");
    let (rank, world_size) = (number("OMPI_COMM_WORLD_RANK"), number("OMPI_COMM_WORLD_SIZE"));
    let backend = backend(Config { timeout_s: if role == "lags" { 0.5 } else { 30.0 }, ..Config::default() });
    let world_size = world_size + u32::from(role == "misconfigured");
    let ranks = match backend.open(&Bootstrap { rank, world_size, ..Bootstrap::default() }) {
        Ok(ranks) => ranks,
        Err(error) => {
            println!("{error}");
            std::process::exit(2);
        }
    };
    let floats = |length| vec![Buffer::from(vec![1f32; length])];
    let finish =
        |work: mdt_plugin_api::Result<Box<dyn Work>>| work.and_then(|mut work| work.wait(Duration::from_secs(60)));
    let told = |error: Error| println!("rank {rank} is told: {}", error.message());
    match role.as_str() {
        "differs" => {
            let other = if rank == 1 { ranks.barrier() } else { ranks.all_reduce(floats(8), ReduceOp::Sum) };
            told(finish(other).unwrap_err());
            std::thread::sleep(Duration::from_secs(1));
            std::process::exit(5);
        }
        "aborts" if rank == 1 => {
            finish(ranks.barrier()).unwrap();
            ranks.abort("no more rows");
            std::thread::sleep(Duration::from_secs(2));
            std::process::exit(5);
        }
        "aborts" => {
            finish(ranks.barrier()).unwrap();
            told(finish(ranks.all_reduce(floats(100_000), ReduceOp::Sum)).unwrap_err());
            std::thread::sleep(Duration::from_secs(2));
            std::process::exit(5);
        }
        "lags" if rank == 2 => std::thread::sleep(Duration::from_secs(3)),
        "lags" => {
            told(finish(ranks.barrier()).unwrap_err());
            std::thread::sleep(Duration::from_secs(1));
            std::process::exit(5);
        }
        "dies" if rank == 1 => {
            finish(ranks.barrier()).unwrap();
            // SAFETY: a signal to this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        "dies" => {
            finish(ranks.barrier()).unwrap();
            let _ = finish(ranks.barrier());
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => mdt_conformance::assert_collectives(&ranks, &backend.capabilities().unwrap()),
    }
}
