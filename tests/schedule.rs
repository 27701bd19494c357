//! The learning rate in metrics.jsonl is a function of the update number alone.

use mdt_tests::Job;

const WARMUP: usize = 100;
const UPDATES: usize = 120;

/// The rates of a job with a peak of 1e-4 and a warm-up of 100 updates.
fn rates(scheduler: &str, batch_size: u32, accumulation: u32) -> Vec<f64> {
    let job = Job::new()
        .rows(0..7)
        .set("scheduler.use", scheduler)
        .set("scheduler.warmup_steps", WARMUP)
        .set("optimizer.learning_rate", 1e-4)
        .set("trainer.batch_size", batch_size)
        .set("trainer.gradient_accumulation_steps", accumulation)
        .set("trainer.max_steps", UPDATES)
        .set("checkpoint.save_steps", 0);
    job.run().success();
    job.numbers("lr")
}

fn assert_close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-12 * b, "{a} is not {b}");
}

#[test]
fn a_warm_up_of_100_has_a_hundredth_at_update_1_and_the_peak_at_update_100() {
    let rates = rates("cosine", 1, 1);
    assert_eq!(rates.len(), UPDATES);
    for (index, &rate) in rates[..WARMUP].iter().enumerate() {
        assert_close(rate, 1e-6 * (index + 1) as f64);
    }
    let falls = rates[WARMUP - 1..].windows(2).all(|pair| pair[1] < pair[0]);
    assert!(falls, "{:?}", &rates[WARMUP - 1..]);
    assert!(rates[UPDATES - 1] > 0.0);
}

#[test]
fn rates_are_the_same_under_any_accumulation_and_batch_size() {
    let alone = rates("cosine", 1, 1);
    assert_eq!(rates("cosine", 1, 3), alone);
    assert_eq!(rates("cosine", 2, 2), alone);
}

#[test]
fn a_constant_rate_stays_at_the_peak_after_its_warm_up() {
    let rates = rates("constant", 1, 1);
    assert_close(rates[0], 1e-6);
    assert_close(rates[49], 5e-5);
    assert_eq!(rates[WARMUP - 1..], [1e-4; UPDATES - WARMUP + 1]);
}

#[test]
fn a_wsd_rate_leaves_the_peak_only_for_its_decay() {
    // A tenth of 120 updates, as nothing else is said.
    let rates = rates("wsd", 1, 1);
    assert_close(rates[0], 1e-6);
    assert_eq!(rates[WARMUP - 1..UPDATES - 12], [1e-4; UPDATES - 12 - WARMUP + 1]);
    for (index, &rate) in rates[UPDATES - 12..].iter().enumerate() {
        assert_close(rate, 1e-4 * (12 - index) as f64 / 13.0);
    }
}

#[test]
fn a_linear_rate_falls_evenly_from_the_peak_and_a_polynomial_without_a_power_is_linear() {
    let rates = ["linear", "polynomial"].map(|scheduler| rates(scheduler, 1, 1));
    assert_eq!(rates[0], rates[1]);
    assert_eq!(rates[0][WARMUP - 1], 1e-4);
    for (index, &rate) in rates[0][WARMUP..].iter().enumerate() {
        assert_close(rate, 1e-4 * (UPDATES - WARMUP - index) as f64 / 21.0);
    }
}

#[test]
fn without_a_warm_up_the_first_update_has_the_peak() {
    for scheduler in ["constant", "cosine", "linear", "polynomial", "wsd"] {
        let rates = |updates: usize| {
            let job = Job::new().rows(0..2).set("scheduler.use", scheduler).set("scheduler.warmup_steps", 0);
            let job = job.set("optimizer.learning_rate", 1e-4).set("trainer.max_steps", updates);
            job.run().success();
            job.numbers("lr")
        };
        assert_eq!(rates(1), [1e-4], "{scheduler}: a job of one update");
        let rates = rates(5);
        assert!(rates[0] == 1e-4 && rates[4] > 0.0, "{scheduler}: {rates:?}");
    }
}
