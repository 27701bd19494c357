//! A Slurm of the test's own on this machine: tasks of `srun` train over grpc, and the job script goes on after a stop.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says, built, command, free_port, root};
use serde_json::Value;
use tempfile::TempDir;

use super::{installed, job, under, with_environment};

const TOKEN: &str = "the same secret on all ranks, 32 characters or more";

/// One node with two processors: `munged`, `slurmctld` and `slurmd`. Dropped, they end.
struct Slurm {
    directory: TempDir,
    daemons: Vec<Child>,
}

impl Slurm {
    fn start() -> Self {
        let mut slurm = Self { directory: tempfile::tempdir().expect("a directory"), daemons: Vec::new() };
        let at = |name: &str| slurm.directory.path().join(name).display().to_string();
        let key: Vec<u8> = (0..128).map(|n: u8| n.wrapping_mul(151) ^ std::process::id() as u8).collect();
        fs::write(at("munge.key"), key).expect("a key");
        let output = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap_or_else(|_| panic!("{program}"));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        output("chmod", &["600", &at("munge.key")]);
        output("mkdir", &[&at("state"), &at("spool")]);
        // Everyone may reach the socket.
        output("chmod", &["711", &slurm.directory.path().display().to_string()]);
        let (host, user) = (output("hostname", &["-s"]), output("id", &["-un"]));
        let conf = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser={user}\nSlurmdUser={user}\n\
             AuthType=auth/munge\nCredType=cred/munge\nAuthInfo=socket={socket},cred_expire=2\n\
             SlurmctldPort={}\nSlurmdPort={}\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nMpiDefault=none\nReturnToService=2\n\
             SlurmdParameters=config_overrides\nStateSaveLocation={}\nSlurmdSpoolDir={}\n\
             SlurmctldPidFile={}\nSlurmdPidFile={}\nNodeName={host} NodeAddr=127.0.0.1 CPUs=2\n\
             PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n",
            free_port(),
            free_port(),
            at("state"),
            at("spool"),
            at("slurmctld.pid"),
            at("slurmd.pid"),
            socket = at("munge.socket"),
        );
        fs::write(at("slurm.conf"), conf).expect("slurm.conf");
        let munged = [
            ("key-file", "key"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("seed-file", "seed"),
            ("log-file", "log"),
        ]
        .map(|(option, file)| format!("--{option}={}", at(&format!("munge.{file}"))));
        let daemons: [(&str, Vec<String>); 3] = [
            ("munged", [&["--foreground".to_owned()], &munged[..]].concat()),
            ("slurmctld", ["-D", "-f", &at("slurm.conf")].map(str::to_owned).to_vec()),
            ("slurmd", ["-D", "-f", &at("slurm.conf")].map(str::to_owned).to_vec()),
        ];
        let started = daemons.map(|(name, arguments)| {
            let log = || File::create(at(&format!("{name}.out"))).expect("a log");
            let mut daemon = Command::new(format!("/usr/sbin/{name}"));
            daemon.args(arguments).stdin(Stdio::null()).stdout(log()).stderr(log());
            let daemon = daemon.spawn().unwrap_or_else(|_| panic!("{name}"));
            if name == "munged" {
                wait("munged listens", || Path::new(&at("munge.socket")).exists());
            }
            daemon
        });
        slurm.daemons.extend(started);
        wait("the node is idle", || slurm.says(&["sinfo", "-h", "-o", "%T"]) == "idle");
        slurm
    }

    /// The same command, which finds this Slurm.
    fn with(&self, mut command: Command) -> Command {
        command.env("SLURM_CONF", self.directory.path().join("slurm.conf"));
        command
    }

    /// What one of its commands says.
    fn says(&self, words: &[&str]) -> String {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let output = self.with(command).output().expect("a command of Slurm");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn wait(what: &str, until: impl Fn() -> bool) {
    let begin = Instant::now();
    while !until() {
        assert!(begin.elapsed() < Duration::from_secs(40), "not so in time: {what}");
        sleep(Duration::from_millis(50));
    }
}

fn is_installed() -> bool {
    installed("munged") && installed("slurmctld") && installed("slurmd") && installed("srun")
}

fn assert_same(straight: &Job, job: &Job) {
    assert_eq!(straight.unmeasured(), job.unmeasured());
    assert!(straight.final_weights() == job.final_weights(), "the final model");
}

#[test]
fn tasks_of_slurm_train_to_the_bits_of_one_process_and_its_job_script_goes_on_after_a_stop() {
    if !is_installed() {
        return;
    }
    let slurm = Slurm::start();
    let straight = job(2);
    straight.run().success();
    let tasks = job(1);
    let mut srun = slurm.with(under(&["srun", "-n", "2"], &tasks));
    srun.env("MDT_JOB_TOKEN", TOKEN);
    let ended = Process::start(&mut srun).end().success();
    assert_says(&ended.stderr, &["started  by Slurm as rank 0 of 2 (job slurm-1.0)", "rank 1 of 2, started by Slurm"]);
    assert_same(&straight, &tasks);

    // The script makes the token. A step that is stopped has saved; the job is queued again and resumes.
    let straight = job(2).set("trainer.max_steps", 300);
    straight.run().success();
    let scripted = job(1).set("trainer.max_steps", 300).set("checkpoint.save_steps", 0);
    let mut sbatch = with_environment(Command::new("sbatch"));
    let output = scripted.directory().join("slurm.out");
    sbatch.args(["--ntasks=2", "--output"]).arg(&output).arg(root().join("configs/clusters/slurm.sh"));
    sbatch.args(scripted.arguments()).args(["--set", "comm.use=grpc"]);
    let paths = std::env::var("PATH").unwrap_or_default();
    sbatch.env("PATH", format!("{}:{paths}", built().display()));
    assert!(slurm.with(sbatch).status().expect("sbatch").success());
    wait("the job trains", || scripted.lines_so_far() >= 5);
    slurm.says(&["scancel", "--signal=TERM", "2.0"]);
    wait("the job is queued again", || slurm.says(&["squeue", "-h", "-j", "2", "-o", "%T"]) == "PENDING");
    // Slurm would let it wait for two minutes.
    slurm.says(&["scontrol", "update", "JobId=2", "StartTime=now"]);
    wait("the job is done", || scripted.output().join("final/model.safetensors").exists());
    wait("the job has ended", || slurm.says(&["squeue", "-h", "-j", "2", "-o", "%T"]).is_empty());
    let said = fs::read_to_string(&output).expect("the output of the job");
    assert_says(&said, &["job slurm-2.0)", "interrupted after update", "job slurm-2.0-1)", "resuming from"]);
    assert_same(&straight, &scripted);

    // A benchmark measures the tasks that are there.
    let mut srun = slurm.with(with_environment(Command::new("srun")));
    srun.args(["-n", "2"]).arg(command().get_program()).args([
        "bench",
        "all-reduce",
        "--bytes",
        "4096",
        "--times",
        "5",
        "--json",
    ]);
    let measured = Process::start(srun.env("MDT_JOB_TOKEN", TOKEN)).end();
    let figures: Value = serde_json::from_str(&measured.success().stdout).expect("one JSON object, of rank 0");
    assert_eq!(figures["ranks"], 2, "{figures}");
}
