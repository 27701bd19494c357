//! What each launcher sets, as it was printed by the real one where it could be run, and environments that are half set.

use super::*;

fn variables(text: &str) -> Variables {
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.split_whitespace().filter_map(pair).collect()
}

fn detected(text: &str) -> Started {
    detect(&variables(text)).expect("a whole environment").expect("a launcher")
}

/// Launcher, rank, number of ranks, address and port.
fn told(started: &Started) -> (&str, u32, Option<u32>, Option<&str>, Option<u16>) {
    let size = started.world_size.as_ref().map(|size| size.value);
    let address = started.address.as_ref().map(|address| &*address.value);
    (started.launcher, started.rank.value, size, address, started.port.as_ref().map(|port| port.value))
}

#[test]
fn the_first_launcher_of_the_list_is_taken_and_a_later_one_completes_it() {
    let slurm = "SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_STEP_ID=0 SLURM_JOB_ID=77 SLURM_NNODES=2 SLURM_NODELIST=n[5-6]";
    let alone = detected(slurm);
    let port = alone.port.as_ref().map(|port| port.value);
    assert_eq!(told(&alone), ("Slurm", 3, Some(4), Some("n5"), port));
    assert!(port >= Some(FIRST_PORT));
    let pmi = detected(&format!("{slurm} PMI_RANK=3 PMI_SIZE=4"));
    assert_eq!(told(&pmi), ("PMI", 3, Some(4), Some("n5"), port));
    assert_eq!(pmi.job.as_deref(), Some("slurm-77.0"));
    let pmix = detected(&format!("{slurm} PMIX_RANK=3"));
    assert_eq!(told(&pmix), ("PMIx", 3, Some(4), Some("n5"), port));
    let other = detected(&format!("{slurm} RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=9"));
    assert_eq!(told(&other), ("torchrun", 0, Some(2), Some("a"), Some(9)));
}

#[test]
fn a_batch_script_a_login_shell_and_an_interactive_step_are_no_ranks() {
    let allocation = "SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_NODELIST=n1";
    for more in ["", "SLURM_PROCID=0", "SLURM_PROCID=0 SLURM_STEP_ID=4294967290"] {
        let shell = variables(&format!("{allocation} {more}"));
        assert_eq!(detect(&shell), Ok(None), "{more}");
        assert!(no_rank(&shell).is_some_and(|why| why.contains("4 tasks") && why.contains("srun")), "{more}");
    }
    assert_eq!(no_rank(&variables("SLURM_JOB_ID=7 SLURM_NTASKS=1")), None);
}

#[test]
fn starts_of_a_job_have_names_and_ports_of_their_own() {
    let start = |more: &str| detected(&format!("SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_ID=1 SLURM_JOB_ID=7 {more}"));
    let [first, again] = ["", "SLURM_RESTART_COUNT=1"].map(start);
    assert_eq!(first.job.as_deref(), Some("slurm-7.1"));
    assert_eq!(again.job.as_deref(), Some("slurm-7.1-1"));
    assert_ne!(first.port, again.port);
}

#[test]
fn torchruns_own_port_is_left_to_it() {
    let run = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=29500 TORCHELASTIC_RUN_ID=none";
    assert_eq!(detected(run).port.map(|port| port.value), Some(29500));
    let agent = detected(&format!("{run} TORCHELASTIC_USE_AGENT_STORE=True"));
    assert_eq!(agent.port.map(|port| port.value), Some(29501));
}

#[test]
fn half_of_an_environment_is_an_error_that_names_the_other_half() {
    for (set, missing) in [
        ("RANK=0", "WORLD_SIZE"),
        ("WORLD_SIZE=2", "RANK"),
        ("PET_NODE_RANK=0", "PET_NNODES"),
        ("PET_NNODES=2", "PET_NODE_RANK"),
        ("OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_SIZE=2", "PMI_RANK"),
        ("PMIX_RANK=0", "how many ranks"),
        ("MLX_RANK=0", "MLX_HOSTFILE"),
        ("MLX_RANK=0 MLX_HOSTFILE=/no/such/file", "/no/such/file"),
        ("SLURM_PROCID=0 SLURM_STEP_ID=0", "SLURM_NTASKS"),
        ("RANK=2 WORLD_SIZE=2", "RANK is 2 where WORLD_SIZE is 2"),
        ("RANK=x WORLD_SIZE=2", "\"x\""),
        ("PET_NODE_RANK=0 PET_NNODES=1:4", "PET_NNODES"),
        ("PET_NODE_RANK=0 PET_NNODES=2 PET_NPROC_PER_NODE=4", "PET_NPROC_PER_NODE"),
    ] {
        let failure = detect(&variables(set)).expect_err(set);
        assert!(failure.to_string().contains(missing) && failure.help_text().is_some(), "{set}: {failure}");
    }
    for set in ["", "LOCAL_RANK=0", "MASTER_ADDR=a MASTER_PORT=1", "RANK= WORLD_SIZE=", "MLX_HOSTFILE=/no/such/file"] {
        assert_eq!(detect(&variables(set)), Ok(None), "{set}");
    }
}

#[test]
fn a_secret_of_the_launcher_is_not_printed_and_not_used_as_it_is() {
    let secret = "e4355abfc5d5c35d-6af1ece5c05b9371";
    let ompi = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_NAMESPACE=9";
    let started = detected(&format!("{ompi} OMPI_MCA_orte_precondition_transports={secret}"));
    assert!(started.token().is_some_and(|token| token.len() == 64 && !token.contains("e4355abf")));
    assert!(!format!("{started:?}").contains(started.token().expect("a token")));
    assert_eq!(told(&started).3, Some("127.0.0.1"));
    assert_eq!(detected(ompi).token(), None);
}
