//! Training ends where the held-out loss no longer falls: at the same update in every run, stopped in between or not.

use std::fs;

use mdt_tests::{Job, Process, assert_says, command, tree};

use super::{best, checkpoints, held_out_losses, overfitting};

/// The update at which a run with these held-out losses stops: the definition, apart from the program's own.
fn expected_stop(losses: &[(u64, f64)], patience: usize, min_delta: f64) -> Option<u64> {
    let mut reference = f64::INFINITY;
    let mut waited = 0;
    for &(update, loss) in losses {
        if loss < reference - min_delta {
            (reference, waited) = (loss, 0);
        } else {
            waited += 1;
        }
        if waited == patience {
            return Some(update);
        }
    }
    None
}

fn patient(patience: usize) -> Job {
    overfitting().set("trainer.early_stopping_patience", patience)
}

#[test]
fn it_stops_after_that_many_evaluations_without_an_improvement() {
    let all = overfitting();
    all.run().success();
    let losses = held_out_losses(&all);
    assert_eq!(losses.len(), 10);
    for (patience, min_delta) in [(1, 0.0), (3, 0.0), (2, 0.5), (2, 1e9)] {
        let stop = expected_stop(&losses, patience, min_delta).expect("losses that rise in time");
        assert!(stop < 20, "an early stop at {stop}");
        let job = patient(patience).set("trainer.early_stopping_min_delta", min_delta);
        let run = job.run().success();
        assert_eq!(held_out_losses(&job).last().expect("an evaluation").0, stop, "{patience} and {min_delta}");
        assert_eq!(job.updates().len() as u64, stop);
        let (update, loss) = best(&held_out_losses(&job));
        let said = format!("stopping early after update {stop}: the held-out loss has not improved in {patience} eval");
        assert_says(&run.stderr, &[&said, &format!("the lowest was {loss:.4} after update {update}")]);
        let line = job.metrics().pop().expect("a line");
        assert_eq!((line["step"].as_u64(), line["best_step"].as_u64()), (Some(stop), Some(update)));
        assert_eq!(line["evaluations_without_improvement"].as_u64(), Some(patience as u64));
        assert_eq!(checkpoints(&job), [stop]);
        assert!(job.output().join("final/model.safetensors").exists());
    }
    // As if it had been asked for so many updates; the schedule is constant.
    let stop = expected_stop(&losses, 3, 0.0).expect("a stop");
    let (early, planned) = (patient(3), overfitting().set("trainer.max_steps", stop));
    [&early, &planned].iter().for_each(|job| drop(job.run().success()));
    assert!(early.final_weights() == planned.final_weights());
}

#[test]
fn a_run_of_a_job_that_has_stopped_finds_it_finished_and_changes_nothing() {
    let job = patient(2);
    job.run().success();
    let before = tree(&job.output());
    let run = job.run().success();
    assert_says(&run.stderr, &["stopped early after update", "has not improved in 2 evaluations"]);
    assert!(tree(&job.output()) == before);
}

#[test]
fn more_patience_goes_on_as_if_it_had_been_there_from_the_start() {
    let (impatient, straight) = (patient(1), patient(4));
    impatient.run().success();
    straight.run().success();
    assert!(impatient.updates().len() < straight.updates().len());
    impatient.run_with(&["--set", "trainer.early_stopping_patience=4"]).success();
    assert_eq!(held_out_losses(&impatient), held_out_losses(&straight));
    assert!(impatient.final_weights() == straight.final_weights());
}

#[test]
fn a_job_stopped_in_between_comes_to_the_same_end_at_the_same_update() {
    let saved = |job: Job| job.set("checkpoint.save_steps", 1).set("checkpoint.keep", 0);
    let straight = saved(patient(3));
    straight.run().success();
    let stop = straight.updates().len() as u64;
    let stopped = saved(patient(3));
    stopped.run().success();
    // Before the best evaluation, between two that count, and one update before the end.
    let (lowest, _) = best(&held_out_losses(&straight));
    for update in [lowest - 1, lowest + 3, stop - 1] {
        (update + 1..=stop).for_each(|later| fs::remove_dir_all(stopped.checkpoint(later)).expect("a checkpoint"));
        fs::remove_dir_all(stopped.output().join("final")).expect("the model");
        let run = stopped.run().success();
        assert_says(&run.stderr, &[&format!("resuming from {}", stopped.checkpoint(update).display())]);
        assert_eq!(stopped.unmeasured(), straight.unmeasured());
        assert!(stopped.final_weights() == straight.final_weights());
    }
}

#[test]
fn two_ranks_stop_together_with_the_bits_of_one_process() {
    let job = |micro_batches: u32| {
        let job = patient(2).set("trainer.gradient_accumulation_steps", micro_batches).set("checkpoint.export", "best");
        job.set("compute.threads", 1)
    };
    let (one, two) = (job(2), job(1));
    one.run().success();
    let mut launch = command();
    launch.args(["launch", "-n", "2"]).args(two.arguments()).args(["--set", "comm.use=grpc"]);
    let run = Process::start(&mut launch).end().success();
    assert_eq!(one.unmeasured(), two.unmeasured());
    assert!(one.final_weights() == two.final_weights(), "{}", run.stderr);
    assert!((one.updates().len() as u64) < 20 && checkpoints(&one) == checkpoints(&two));
}
