//! `cargo xtask bench`: this project beside its peers, in turns, with the scripts of `tests/peers`. What each one printed is also a file
//! in `outputs/bench/`, below what machine it ran on.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use crate::{Result, dist, setup, workspace};

const PROGRAM: &str = "dist/bin/mdt-host";
const OUTPUT: &str = "outputs/bench";
const STEP: &str = "dist/bin/mdt-host --config tests/peers/job.toml bench train --json";

/// A comparison: its name, and the script with its arguments.
const COMPARISONS: [(&str, &[&str]); 10] = [
    ("train-5m-f32", &["peers.py", "--ours", STEP, "--shape", "5m", "--mlx-rounds", "0", "--rounds", "5"]),
    ("train-26m-f32", &["peers.py", "--ours", STEP, "--shape", "26m", "--mlx-rounds", "0", "--rounds", "5"]),
    ("train-100m-f32", &["peers.py", "--ours", STEP, "--shape", "100m", "--mlx-rounds", "0", "--rounds", "5"]),
    ("train-5m-bf16", &["peers.py", "--ours", STEP, "--shape", "5m", "--dtype", "bfloat16", "--rounds", "5"]),
    ("train-26m-bf16", &["peers.py", "--ours", STEP, "--shape", "26m", "--dtype", "bfloat16", "--rounds", "5"]),
    ("train-100m-bf16", &["peers.py", "--ours", STEP, "--shape", "100m", "--dtype", "bfloat16", "--rounds", "5"]),
    ("generate", &["generation.py", "--ours", PROGRAM]),
    ("data", &["data.py", "--ours", PROGRAM]),
    ("all-reduce", &["collectives.py", "--ours", "dist/bin/mdt-host --set comm.shared_memory=off", "--ours", PROGRAM]),
    ("memory", &["memory.py", "--program", PROGRAM]),
];

/// Runs the comparisons of these names, or all of them. Python is that of `PYTHON`, or `python3`: it needs the packages of the peers.
pub fn run(names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| COMPARISONS.iter().all(|(known, _)| known != name)) {
        let known: Vec<_> = COMPARISONS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no comparison `{unknown}`; there are {}", known.join(", ")).into());
    }
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_peers = Command::new(&python).args(["-c", "import torch, transformers"]).stderr(Stdio::null()).status();
    if !has_peers.is_ok_and(|status| status.success()) {
        return Err(format!(
            "{python} has no torch and transformers, which this is compared with\n  python3 -m venv peers && peers/bin/pip \
             install torch transformers trl datasets\n  PYTHON=peers/bin/python cargo xtask bench"
        )
        .into());
    }
    setup::run()?;
    dist::run()?;
    fs::create_dir_all(workspace::root().join(OUTPUT))?;
    for (name, arguments) in COMPARISONS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name))
    {
        compare(&python, name, arguments)?;
    }
    Ok(())
}

fn compare(python: &str, name: &str, arguments: &[&str]) -> Result<()> {
    let root = workspace::root();
    let path = format!("{OUTPUT}/{name}.txt");
    println!("\n== {name}");
    let mut file = File::create(root.join(&path))?;
    writeln!(file, "{}\n", machine())?;
    let mut command = Command::new(python);
    command.current_dir(root).arg(format!("tests/peers/{}", arguments[0])).args(&arguments[1..]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line?;
        println!("{line}");
        writeln!(file, "{line}")?;
    }
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("{status} from tests/peers/{}: see {path}", arguments.join(" ")).into()),
    }
}

/// The processor and the instruction sets that products depend on.
fn machine() -> String {
    let of_cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let entry = |key: &str| of_cpu.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(": "));
    let name = entry("model name").map_or(env::consts::ARCH, |(_, name)| name);
    let flags: Vec<&str> = entry("flags").map_or_else(Vec::new, |(_, flags)| flags.split(' ').collect());
    let sets = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"].into_iter().filter(|set| flags.contains(set));
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{name}, {threads} threads, {}", sets.collect::<Vec<_>>().join(" "))
}
