//! The variables of each launcher are a layer of the configuration, below all that the user writes.

use mdt_tests::{assert_says, command, run_where};
use serde_json::{Value, json};

const SLURM: &[(&str, &str)] = &[
    ("SLURM_PROCID", "1"),
    ("SLURM_NTASKS", "4"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_JOB_ID", "81"),
    ("SLURM_NNODES", "2"),
    ("SLURM_NODELIST", "gpu[07-08]"),
    ("SLURM_TASKS_PER_NODE", "2(x2)"),
    ("SLURM_CPUS_PER_TASK", "3"),
];

/// What `config show` says with these variables and arguments.
fn shown(variables: &[(&str, &str)], arguments: &[&str]) -> Value {
    let run = run_where(variables, [arguments, &["config", "show", "--json"]].concat()).success();
    serde_json::from_str::<Value>(&run.stdout).expect("JSON")["values"].take()
}

/// Checks a value and the layer that it came from.
#[track_caller]
fn assert_key(shown: &Value, key: &str, value: impl Into<Value>, from: &str) {
    assert_eq!(shown[key], json!({ "value": value.into(), "from": from }), "{key}");
}

#[test]
fn mlx_launch() {
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, r#"[["10.0.0.1:32323"], ["10.0.0.2:32324"], ["10.0.0.3:32325"]]"#).expect("a file");
    let hosts = hosts.display().to_string();
    let shown = shown(&[("MLX_RANK", "2"), ("MLX_HOSTFILE", &hosts)], &[]);
    assert_key(&shown, "comm.use", "grpc", "mlx.launch (MLX_HOSTFILE)");
    assert_key(&shown, "comm.rank", 2, "mlx.launch (MLX_RANK)");
    assert_key(&shown, "comm.world_size", 3, "mlx.launch (MLX_HOSTFILE)");
    assert_key(&shown, "comm.address", "10.0.0.1", "mlx.launch (MLX_HOSTFILE)");
    assert_key(&shown, "comm.port", 32323, "mlx.launch (MLX_HOSTFILE)");
    let nccl = [("MLX_RANK", "0"), ("MLX_WORLD_SIZE", "2"), ("NCCL_HOST_IP", "10.0.0.9"), ("NCCL_PORT", "12345")];
    assert_key(&self::shown(&nccl, &[]), "comm.address", "10.0.0.9", "mlx.launch (NCCL_HOST_IP)");
}

#[test]
fn torchrun() {
    let variables =
        [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];
    let shown = shown(&variables, &[]);
    assert_key(&shown, "comm.use", "grpc", "torchrun (WORLD_SIZE)");
    assert_key(&shown, "comm.rank", 3, "torchrun (RANK)");
    assert_key(&shown, "comm.world_size", 4, "torchrun (WORLD_SIZE)");
    assert_key(&shown, "comm.address", "node1", "torchrun (MASTER_ADDR)");
    assert_key(&shown, "comm.port", 29500, "torchrun (MASTER_PORT)");
}

#[test]
fn kubeflow() {
    let variables = [
        ("PET_NODE_RANK", "1"),
        ("PET_NNODES", "2"),
        ("PET_NPROC_PER_NODE", "1"),
        ("PET_MASTER_ADDR", "tune-node-0-0.tune"),
        ("PET_MASTER_PORT", "29400"),
        ("JOB_COMPLETION_INDEX", "1"),
    ];
    let shown = shown(&variables, &[]);
    assert_key(&shown, "comm.rank", 1, "Kubeflow (PET_NODE_RANK)");
    assert_key(&shown, "comm.world_size", 2, "Kubeflow (PET_NNODES)");
    assert_key(&shown, "comm.address", "tune-node-0-0.tune", "Kubeflow (PET_MASTER_ADDR)");
    assert_key(&shown, "comm.port", 29400, "Kubeflow (PET_MASTER_PORT)");
}

#[test]
fn open_mpi_pmix_and_pmi() {
    let ompi = [
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ("PMIX_NAMESPACE", "1592590337"),
        ("PMIX_RANK", "1"),
    ];
    let values = shown(&ompi, &[]);
    assert_key(&values, "comm.rank", 1, "Open MPI (OMPI_COMM_WORLD_RANK)");
    assert_key(&values, "comm.world_size", 2, "Open MPI (OMPI_COMM_WORLD_SIZE)");
    assert_key(&values, "comm.address", "127.0.0.1", "Open MPI (OMPI_COMM_WORLD_LOCAL_SIZE)");
    assert_eq!(values["comm.port"]["from"], "Open MPI (PMIX_NAMESPACE)");
    let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MASTER_ADDR", "node1")];
    let values = shown(&pmi, &[]);
    assert_key(&values, "comm.rank", 0, "PMI (PMI_RANK)");
    assert_key(&values, "comm.address", "node1", "PMI (MASTER_ADDR)");
    let pmix = [SLURM, &[("PMIX_RANK", "1")]].concat();
    let values = shown(&pmix, &[]);
    assert_key(&values, "comm.rank", 1, "PMIx (PMIX_RANK)");
    assert_key(&values, "comm.address", "gpu07", "PMIx (SLURM_NODELIST)");
}

#[test]
fn slurm() {
    let values = shown(SLURM, &[]);
    assert_key(&values, "comm.rank", 1, "Slurm (SLURM_PROCID)");
    assert_key(&values, "comm.world_size", 4, "Slurm (SLURM_NTASKS)");
    assert_key(&values, "comm.address", "gpu07", "Slurm (SLURM_NODELIST)");
    assert_key(&values, "compute.threads", 3, "Slurm (SLURM_CPUS_PER_TASK)");
    let port = values["comm.port"]["value"].as_u64().expect("a port");
    assert!((50051..58051).contains(&port), "{port}");
    assert_eq!(values["comm.port"]["from"], "Slurm (SLURM_JOB_ID)");
    let shell: Vec<_> = SLURM.iter().copied().filter(|(name, _)| *name != "SLURM_PROCID").collect();
    assert_key(&shown(&shell, &[]), "comm.world_size", 1, "default");
}

#[test]
fn indexed_jobs_of_kubernetes() {
    let index = [("JOB_COMPLETION_INDEX", "1")];
    let set = ["--set", "comm.world_size=2", "--set", "comm.address=tune-0.tune"];
    let values = shown(&index, &set);
    assert_key(&values, "comm.use", "grpc", "Kubernetes (JOB_COMPLETION_INDEX)");
    assert_key(&values, "comm.rank", 1, "Kubernetes (JOB_COMPLETION_INDEX)");
    let alone = run_where(&index, ["config", "show"]).failure(2);
    assert_says(&alone, &["rank 1", "how many ranks", "JOB_COMPLETION_INDEX", "MDT_COMM__WORLD_SIZE"]);
    // Each pod may also train by itself.
    assert_key(&shown(&index, &["--set", "comm.world_size=1"]), "comm.rank", 0, "default");
}

#[test]
fn what_the_user_writes_comes_before_what_a_launcher_says() {
    let set = ["--set", "comm.address=10.9.9.9", "--set", "comm.port=5", "--set", "comm.use=local"];
    let values = shown(SLURM, &set);
    assert_key(&values, "comm.address", "10.9.9.9", "--set comm.address");
    assert_key(&values, "comm.port", 5, "--set comm.port");
    assert_key(&values, "comm.use", "local", "--set comm.use");
    assert_key(&values, "comm.rank", 1, "Slurm (SLURM_PROCID)");
    // With a rank of the user's own nothing of the launcher is used, and nothing of it can be wrong.
    let by_hand = ["--set", "comm.rank=0", "--set", "comm.world_size=2"];
    for variables in [SLURM, &[("RANK", "0")]] {
        let values = shown(variables, &by_hand);
        assert_key(&values, "comm.rank", 0, "--set comm.rank");
        assert_key(&values, "comm.address", "127.0.0.1", "default");
    }
    let other = run_where(SLURM, ["config", "show", "--set", "comm.world_size=2"]).failure(2);
    assert_says(
        &other,
        &["`comm.world_size` is 2", "Slurm has started 4 ranks", "--set comm.world_size", "SLURM_NTASKS"],
    );
}

#[test]
fn half_of_an_environment_is_an_error_of_ranks_alone() {
    let half = [("RANK", "0")];
    assert_says(&run_where(&half, ["config", "show"]).failure(2), &["RANK is set", "WORLD_SIZE is not", "comm.rank"]);
    run_where(&half, ["plugin", "list"]).success();
    let launched = run_where(&half, ["launch", "-n", "2"]).failure(2);
    assert_says(&launched, &["there is no model to train"]);
}

#[test]
fn doctor_says_which_rank_a_launcher_has_made_of_the_process() {
    let doctor = |variables: &[(&str, &str)]| {
        let output = command().args(["doctor", "--json"]).envs(variables.iter().copied()).output();
        let output = output.expect("the program starts");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "launchers");
        checks.expect("the check")["findings"][2].clone()
    };
    let rank = doctor(SLURM);
    assert_says(rank["message"].as_str().expect("text"), &["started by Slurm as rank 1 of 4 (job slurm-81.0)"]);
    assert_eq!((&rank["facts"]["rank"], &rank["facts"]["world_size"]), (&json!(1), &json!(4)));
    let batch = doctor(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4"), ("SLURM_JOB_ID", "81")]);
    assert_says(batch["message"].as_str().expect("text"), &["none of them", "srun"]);
    assert_eq!(doctor(&[("RANK", "0")])["status"], "failed");
}

#[test]
fn ranks_that_a_launcher_spreads_over_machines_need_to_know_where_rank_0_is() {
    let job = super::job(1);
    let mut host = command();
    host.args(job.arguments()).args(["--set", "comm.use=grpc"]);
    host.envs([("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]);
    let refused = mdt_tests::Run::from(host.output().expect("the program starts")).failure(2);
    assert_says(&refused, &["Open MPI does not tell its ranks where rank 0 runs", "comm.address", "MASTER_ADDR"]);
}

#[test]
fn a_rank_without_a_token_is_told_how_its_launcher_hands_one_over() {
    let variables = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_STEP_ID", "0"), ("SLURM_NNODES", "1")];
    let job = super::job(1);
    let mut host = command();
    host.args(job.arguments()).args(["--set", "comm.use=grpc"]).envs(variables);
    let refused = mdt_tests::Run::from(host.output().expect("the program starts")).failure(2);
    assert_says(&refused, &["need a job token", "Slurm makes no job token", "MDT_JOB_TOKEN", "before `srun`"]);
}
