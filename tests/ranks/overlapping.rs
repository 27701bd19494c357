//! Gradients that go to other ranks while others are computed, in buckets of any size, in float32 and in bfloat16.

use mdt_tests::{Job, Process};

use super::equality::{arrays, assert_same_course};
use super::{job, launch, lines_of, run, wide};

fn wide_job(micro_batches: u32) -> Job {
    // Two buckets of a megabyte and more.
    wide(job(micro_batches), 3000).set("trainer.max_steps", 4)
}

#[test]
fn overlap_buckets_and_sharding_change_no_bit() {
    let one = wide_job(2);
    one.run().success();
    let variants =
        [("true", 1, false), ("true", 1, true), ("false", 1, false), ("false", 100, true), ("true", 100, false)];
    for (overlap, bucket_mb, sharded) in variants {
        let job = wide_job(1).set("comm.overlap", overlap).set("comm.bucket_mb", bucket_mb);
        let two = job.set("comm.shard_optimizer", sharded);
        run(&two, 2).success();
        assert_same_course(&one, &two);
        let what = format!("overlap {overlap}, buckets of {bucket_mb} MB, sharded {sharded}");
        assert!(arrays(&one, 4) == arrays(&two, 4), "{what}");
    }
}

#[test]
fn a_last_micro_batch_with_earlier_ones_is_added_to_them_in_the_same_order() {
    let (one, two) = (wide_job(8), wide_job(4).set("comm.bucket_mb", 1));
    let [one, two] = [one, two].map(|job| job.set("trainer.batch_size", 1));
    one.run().success();
    run(&two, 2).success();
    assert_same_course(&one, &two);
    assert!(arrays(&one, 4) == arrays(&two, 4));
}

/// The bytes of gradients that a rank gave to others in each update.
fn reduced_bytes(job: &Job) -> Vec<u64> {
    let run = Process::start(launch(job, 2).env("MDT_LOG", "debug")).end().success();
    let lines = lines_of(&run, 0).into_iter().filter(|line| line.contains("bytes of gradients"));
    lines.filter_map(|line| line.split_once(": ")?.1.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn gradients_in_bfloat16_are_half_as_many_bytes_the_same_on_all_ranks_and_close_to_float32() {
    let of = |dtype: &str, sharded: bool| {
        let job = job(1).set("trainer.max_steps", 10).set("comm.gradient_dtype", dtype);
        job.set("comm.shard_optimizer", sharded)
    };
    let (whole, half) = (of("float32", false), of("bfloat16", false));
    let (whole_bytes, half_bytes) = (reduced_bytes(&whole), reduced_bytes(&half));
    assert_eq!(whole_bytes.len(), 10);
    assert!(whole_bytes.iter().zip(&half_bytes).all(|(whole, half)| whole / 2 == *half));
    // Ranks compare their weights at each save, so the run has ended well only if they are the same.
    assert!(half.final_weights() != whole.final_weights());
    for (a, b) in whole.numbers("loss").iter().zip(half.numbers("loss")) {
        assert!((a - b).abs() < 1e-2 * a.abs(), "{a} {b}");
    }
    let (again, sharded) = (of("bfloat16", false), of("bfloat16", true));
    for job in [&again, &sharded] {
        run(job, 2).success();
        assert_same_course(&half, job);
        assert!(arrays(&half, 10) == arrays(job, 10), "the same in every run, sharded or not");
    }
    let third = of("bfloat16", false).set("comm.bucket_mb", 1).set("comm.overlap", false);
    run(&third, 2).success();
    assert!(half.final_weights() == third.final_weights());
}
