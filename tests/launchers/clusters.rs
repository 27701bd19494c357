//! The files of `configs/clusters`: each is a layer above any job, and the ranks of the manifests meet.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Process, Run, assert_says, command, free_port, root};
use yaml_rust2::{Yaml, YamlLoader};

use super::job;

/// Backends that are not built with the others.
const BUILT_APART: [&str; 2] = ["mpi", "mlx"];

fn clusters() -> PathBuf {
    root().join("configs/clusters")
}

#[test]
fn every_cluster_is_a_layer_above_a_job() {
    let mut seen = 0;
    for entry in fs::read_dir(clusters()).expect("the clusters") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let file = path.display().to_string();
        let ended: Run = job(1).run_with(&["--config", &file, "config", "check"]);
        let text = fs::read_to_string(&path).expect("a file");
        let apart = BUILT_APART.iter().find(|id| text.contains(&format!("use = \"{id}\"")));
        match apart.filter(|_| ended.status == Some(3)) {
            Some(id) => assert_says(&ended.failure(3), &[id]),
            None => assert_says(&ended.success().stdout, &["the configuration is complete"]),
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen} clusters");
}

#[test]
fn an_mpi_job_starts_a_rank_in_each_slot_of_its_workers() {
    let job = resource("mpijob.yaml", "MPIJob")["spec"].clone();
    let replicas = &job["mpiReplicaSpecs"];
    let container = |role: &str| replicas[role]["template"]["spec"]["containers"][0].clone();
    let words = |key: &str| -> Vec<String> {
        let words = container("Launcher")[key].as_vec().expect("words").clone();
        words.iter().map(|word| word.as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(words("command"), ["mpirun"]);
    let slots =
        job["slotsPerWorker"].as_i64().expect("a number") * replicas["Worker"]["replicas"].as_i64().expect("one");
    assert_eq!(words("args")[..2], ["-n".to_owned(), slots.to_string()]);
    assert_says(&words("args").join(" "), &["mdt-host --config job.toml --config mpi.toml"]);
    assert_eq!(container("Launcher")["image"], container("Worker")["image"], "one MPI in all pods");
}

/// The first resource of this kind in a manifest.
fn resource(file: &str, kind: &str) -> Yaml {
    let text = fs::read_to_string(clusters().join("kubernetes").join(file)).expect("a manifest");
    let all = YamlLoader::load_from_str(&text).expect("YAML");
    all.into_iter().find(|resource| resource["kind"].as_str() == Some(kind)).expect("the resource")
}

/// The variables of a container that have a value in the manifest.
fn variables(container: &Yaml) -> Vec<(String, String)> {
    let text = |value: &Yaml| value.as_str().map(str::to_owned);
    let variables = container["env"].as_vec().expect("variables").iter();
    assert!(variables.clone().any(|variable| variable["name"].as_str() == Some("MDT_JOB_TOKEN")));
    variables.filter_map(|variable| Some((text(&variable["name"])?, text(&variable["value"])?))).collect()
}

#[test]
fn pods_that_kubernetes_or_kubeflow_starts_meet_and_train_to_the_bits_of_one_process() {
    let alone = job(2);
    alone.run().success();
    let indexed = resource("job.yaml", "Job");
    let spec = &indexed["spec"];
    assert_eq!(spec["completions"].as_i64(), Some(2));
    let train = resource("trainjob.yaml", "TrainJob")["spec"]["trainer"].clone();
    let count = |key: &str| train[key].as_i64().expect("a number").to_string();
    let torch = resource("pytorchjob.yaml", "PyTorchJob")["spec"]["pytorchReplicaSpecs"].clone();
    let ranks =
        ["Master", "Worker"].map(|role| torch[role]["replicas"].as_i64().expect("a number")).iter().sum::<i64>();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let port = free_port().to_string();
    // What is set for each pod by the manifest and by what reads it; names of pods are this machine here.
    let pods = |rank: &str| {
        let mut job = variables(&spec["template"]["spec"]["containers"][0]);
        assert!(job.contains(&pair("MDT_COMM__ADDRESS", "mdt-0.mdt")));
        job.extend([pair("JOB_COMPLETION_INDEX", rank), pair("MDT_COMM__ADDRESS", "127.0.0.1")]);
        job.push(pair("MDT_COMM__PORT", &port));
        let mut kubeflow = variables(&train);
        kubeflow.extend([pair("PET_NODE_RANK", rank), pair("PET_NNODES", &count("numNodes"))]);
        kubeflow.extend([pair("PET_NPROC_PER_NODE", &count("numProcPerNode")), pair("JOB_COMPLETION_INDEX", rank)]);
        kubeflow.extend([pair("PET_MASTER_ADDR", "127.0.0.1"), pair("PET_MASTER_PORT", &port)]);
        let mut operator = variables(&torch["Worker"]["template"]["spec"]["containers"][0]);
        operator.extend([pair("RANK", rank), pair("WORLD_SIZE", &ranks.to_string())]);
        operator.extend([pair("MASTER_ADDR", "127.0.0.1"), pair("MASTER_PORT", &port)]);
        [("Kubernetes", job), ("Kubeflow", kubeflow), ("torchrun", operator)]
    };
    for kind in 0..3 {
        let job = job(1);
        let start = |rank: &str| {
            let (_, variables) = pods(rank)[kind].clone();
            let mut host = command();
            host.args(job.arguments()).arg("--config").arg(clusters().join("kubernetes.toml")).envs(variables);
            host.env("MDT_JOB_TOKEN", "the same secret on all ranks, 32 characters or more");
            Process::start(&mut host)
        };
        let [first, second] = ["0", "1"].map(start);
        let name = pods("0")[kind].0;
        assert_says(&first.end().success().stderr, &[&format!("started  by {name} as rank 0")]);
        assert_says(&second.end().success().stderr, &[&format!("rank 1 of 2, started by {name}")]);
        assert_eq!(alone.unmeasured(), job.unmeasured(), "{name}");
        assert!(alone.final_weights() == job.final_weights(), "{name}: the final model");
    }
}
