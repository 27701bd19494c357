//! MLX's ring between processes: the test program starts itself once for each rank.

use std::env;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mdt_mlx::{Config, DeviceChoice, Distributed, DistributedConfig, Mlx};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::register::{Backend, Connected, Connects};

/// Says which rank a process is, of how many, at which first port, and what it does.
const ROLE: &str = "MDT_RING_TEST_ROLE";

/// The ranks of one job, as processes. They are killed at the end of the test.
struct Ranks(Vec<Child>);

impl Ranks {
    fn start(count: usize, role: &str) -> Self {
        let port = free_ports(count);
        let rank = |rank| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "a_rank_in_a_process_of_its_own", "--ignored", "--nocapture"])
                .env(ROLE, format!("{rank} {count} {port} {role}"))
                // As another test of this process may have set it.
                .env_remove("MLX_HOSTFILE")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        Self((0..count).map(rank).collect())
    }

    /// What each has printed when all have ended; none may fail.
    fn end(mut self) -> Vec<String> {
        let ended: Vec<_> = self.0.drain(..).map(|child| child.wait_with_output().unwrap()).collect();
        let text = |output: &std::process::Output| {
            let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{said}\n{errors}");
            said.into_owned()
        };
        ended.iter().map(text).collect()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first of so many ports one after the other that nobody listens on now.
fn free_ports(count: usize) -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let free = |offset| TcpListener::bind(("127.0.0.1", first.saturating_add(offset as u16))).is_ok();
        if (0..count).all(free) {
            return first;
        }
    }
}

fn backend(config: DistributedConfig) -> Box<dyn Connects> {
    let abilities = |ranks: std::sync::Arc<mdt_plugin_api::engine::EngineThread>| Connected {
        reduce_scatter: Some(ranks.clone()),
        ..Connected::new(ranks)
    };
    let backend = Distributed::create(config, &Setup::default()).unwrap();
    across::comm(Box::new(Backend(backend, abilities))).unwrap()
}

#[test]
fn collectives_of_two_and_three_ranks_are_what_the_plugin_api_says() {
    for count in [2, 3] {
        for role in ["conforms", "conforms-exactly"] {
            Ranks::start(count, role).end();
        }
    }
}

#[test]
fn tensors_are_computed_while_ranks_exchange_gradients() {
    Ranks::start(2, "computes").end();
}

#[test]
fn ranks_that_call_different_collectives_are_all_told_what_each_called() {
    for said in Ranks::start(2, "differs").end() {
        assert!(said.contains("rank 0 called barrier, rank 1 called all_reduce(sum) of float32 × 8"), "{said}");
    }
}

#[test]
fn a_killed_rank_is_an_error_of_the_other_in_its_next_collective() {
    let mut ranks = Ranks::start(2, "reduces");
    std::thread::sleep(Duration::from_secs(2));
    let mut victim = ranks.0.remove(1);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let killed = Instant::now();
    let said = ranks.end().remove(0);
    assert!(said.contains("rank 1 was lost") && said.contains("connection to a peer was lost"), "{said}");
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
}

#[test]
fn a_rank_whose_neighbours_do_not_come_gives_up_and_says_so() {
    let config = DistributedConfig { connect_timeout_s: 0.2, ..DistributedConfig::default() };
    let values = [("address", "127.0.0.1".to_owned()), ("port", free_ports(2).to_string())];
    let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let error = backend(config).open(&Bootstrap { world_size: 2, values, ..Bootstrap::default() }).err().unwrap();
    assert_eq!(error.message(), "rank 0 has not met the other ranks over mlx within 0.2 s");
    assert_eq!(error.code(), ErrorCode::Peer);
}

#[test]
fn a_rank_alone_gets_back_what_it_gave() {
    let backend = backend(DistributedConfig::default());
    let ranks = backend.open(&Bootstrap { world_size: 1, ..Bootstrap::default() }).unwrap();
    mdt_conformance::assert_collectives(&ranks, &backend.capabilities().unwrap());
}

#[test]
fn an_engine_that_this_mlx_does_not_have_is_refused_with_the_one_that_it_has() {
    let config = DistributedConfig { backend: mdt_mlx::EngineChoice::Nccl, ..DistributedConfig::default() };
    let error = backend(config).open(&Bootstrap { world_size: 2, ..Bootstrap::default() }).err().unwrap();
    assert_eq!(error.message(), "comm.backend is \"nccl\", which this build of MLX does not have");
}

#[test]
#[ignore = "what other tests start"]
fn a_rank_in_a_process_of_its_own() {
    let Ok(role) = env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    let number = |place: usize| words[place].parse().unwrap();
    let values = [("address", "127.0.0.1"), ("port", words[2])];
    let values = values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let bootstrap = Bootstrap { rank: number(0), world_size: number(1), values, ..Bootstrap::default() };
    let config = DistributedConfig { exact: words[3] == "conforms-exactly", ..DistributedConfig::default() };
    let backend = backend(config);
    let ranks = backend.open(&bootstrap).unwrap();
    let floats = |length| vec![Buffer::from(vec![1f32; length])];
    match words[3] {
        "computes" => compute(&ranks),
        "differs" => {
            let other = if ranks.rank() == 0 { ranks.barrier() } else { ranks.all_reduce(floats(8), ReduceOp::Sum) };
            println!("{}", other.unwrap().wait(Duration::from_secs(60)).unwrap_err().message());
        }
        "reduces" => loop {
            let work = ranks.all_reduce(floats(1 << 20), ReduceOp::Sum);
            if let Err(error) = work.and_then(|mut work| work.wait(Duration::from_secs(60))) {
                break println!("{error:?}");
            }
        },
        _ => mdt_conformance::assert_collectives(&ranks, &backend.capabilities().unwrap()),
    }
}

/// Products of matrices on this thread, while collectives are under way on MLX's other one.
fn compute(ranks: &Connected) {
    let config = Config { device: DeviceChoice::Cpu, threads: 1, shared_memory: true };
    let device: Rc<dyn Compute> = Rc::new(Mlx::create(config, &Setup::default()).unwrap());
    let device = across::compute(&device).unwrap();
    let ones = HostArray::new(&[256, 256], &vec![1f32; 256 * 256]).unwrap();
    for round in 0..20 {
        let mut work = ranks.all_reduce(vec![vec![round as f32; 300_001].into()], ReduceOp::Sum).unwrap();
        let matrix = Tensor::from_host(&device, &ones).unwrap();
        let product = matrix.matmul(&matrix).unwrap();
        let mut elements = vec![0f32; 256 * 256];
        product.host_view().unwrap().copy_to(&mut elements).unwrap();
        assert!(elements.iter().all(|&element| element == 256.0));
        let Outcome::Done(sums) = work.wait(Duration::from_secs(60)).unwrap() else { panic!("it takes too long") };
        let expected = (round * ranks.world_size()) as f32;
        assert!(sums[0].as_slice::<f32>().unwrap().iter().all(|&sum| sum == expected));
    }
}
