//! Wrong configurations: status 2, with the layer that is wrong and the nearest fix.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Instant;

use mdt_tests::{Job, Process, assert_says, command, run, run_where};

#[test]
fn an_unknown_key_is_an_error_in_every_layer_with_the_place_and_the_nearest_key() {
    let nearest = "did you mean `optimizer.learning_rate`?";
    let message = "unknown key `optimizer.learning_rat`";
    let job = Job::new();
    let file = job.file("more.toml", "seed = 1\n\n[optimizer]\nlearning_rat = 0.1\n").display().to_string();
    let failure = job.run_with(&["--config", &file]).failure(2);
    assert_says(&failure, &[message, &format!("{file}:4"), nearest]);
    let failure = job.run_with(&["--set", "optimizer.learning_rat=0.1"]).failure(2);
    assert_says(&failure, &[message, "--set optimizer.learning_rat", nearest]);
    let failure = run_where(&[("MDT_OPTIMIZER__LEARNING_RAT", "0.1")], job.arguments()).failure(2);
    assert_says(&failure, &[message, "environment variable MDT_OPTIMIZER__LEARNING_RAT", nearest]);

    let file = job.file("more.yaml", "optimizer:\n  beta_1: 0.9\n").display().to_string();
    let failure = job.run_with(&["--config", &file]).failure(2);
    assert_says(&failure, &["unknown key `optimizer.beta_1`", &file, "did you mean `optimizer.beta1`?"]);
    let file = job.file("profile.toml", "[profile.long.trainer]\nnum_epoch = 9\n").display().to_string();
    let failure = job.run_with(&["--config", &file, "--profile", "long"]).failure(2);
    assert_says(&failure, &["unknown key `trainer.num_epoch`", &format!("{file}:2 (profile long)"), "num_epochs"]);
    assert!(!job.output().exists(), "nothing is written before everything is checked");
}

#[test]
fn sections_top_level_keys_and_keys_in_the_wrong_section_get_a_fix_too() {
    for (set, key, help) in [
        ("optimiser.beta1=0.9", "optimiser", "did you mean `optimizer`?"),
        ("seeed=3", "seeed", "did you mean `seed`?"),
        ("checkpoint.save_step=3", "checkpoint.save_step", "did you mean `checkpoint.save_steps`?"),
        ("scheduler.warmup=3", "scheduler.warmup", "did you mean `scheduler.warmup_steps`?"),
        ("trainer.learning_rate=1", "trainer.learning_rate", "did you mean `optimizer.learning_rate`?"),
        ("data.fields.promt='q'", "data.fields.promt", "did you mean `data.fields.prompt`?"),
        ("metrics.colour=3", "metrics.colour", "the keys of `metrics` are: every"),
    ] {
        let failure = Job::new().set(set.split_once('=').expect("a key").0, "3").run().failure(2);
        assert_says(&failure, &[&format!("unknown key `{key}`"), help]);
    }
}

#[test]
fn a_wrong_value_is_named_with_what_was_expected_and_where_it_stands() {
    for (key, value, parts) in [
        ("trainer.batch_size", "many", &["the string \"many\"", "an integer from 1 to 4294967295"][..]),
        ("trainer.batch_size", "0", &["the integer 0", "an integer from 1 to 4294967295"]),
        ("trainer.batch_size", "\"8\"", &["the string \"8\"", "write it without quotes: 8"]),
        ("trainer.batch_size", "-1", &["the integer -1"]),
        ("trainer.batch_size", "1.5", &["the number 1.5"]),
        ("trainer.batch_size", "99999999999", &["an integer from 1 to 4294967295"]),
        ("optimizer.learning_rate", "-1", &["a number of at least 0.0"]),
        ("optimizer.learning_rate", "fast", &["the string \"fast\"", "a number of at least 0.0"]),
        ("optimizer.beta1", "[0.9]", &["a list", "a number"]),
        ("scheduler.min_ratio", "2", &["a number from 0.0 to 1.0"]),
        ("data.shuffle", "\"yes\"", &["true or false"]),
        ("data.format", "mesages", &["one of \"auto\", \"messages\"", "did you mean \"messages\"?"]),
        ("compute.device", "tpu", &["one of \"auto\", \"cpu\", \"gpu\""]),
        ("model.init", "rondom", &["did you mean \"random\"?"]),
        ("output_dir", "3", &["a string that is not empty", "write it in quotes: '\"3\"'"]),
        ("output_dir", "", &["a string that is not empty"]),
        ("optimizer", "3", &["the integer 3", "a table or a string"]),
        ("comm.rank", "1", &["`comm.rank` is 1, where `comm.world_size` is 1"]),
    ] {
        let failure = Job::new().set(key, value).run().failure(2);
        assert_says(&failure, &[&format!("`{key}` is"), &format!("--set {key}")]);
        assert_says(&failure, parts);
    }
    let failure = run_where(&[("MDT_TRAINER__BATCH_SIZE", "0")], Job::new().arguments()).failure(2);
    assert_says(&failure, &["`trainer.batch_size` is the integer 0", "environment variable MDT_TRAINER__BATCH_SIZE"]);
    let job = Job::new();
    let file = job.file("more.toml", "\n\ntrainer = { batch_size = 0 }\n").display().to_string();
    let failure = job.run_with(&["--config", &file]).failure(2);
    assert_says(&failure, &["`trainer.batch_size` is the integer 0", &format!("{file}:3")]);
}

#[test]
fn a_number_that_no_setting_can_be_is_refused_without_bad_advice() {
    for value in ["nan", "inf", "-inf", "99999999999999999999"] {
        let failure = Job::new().set("optimizer.learning_rate", value).run().failure(2);
        assert_says(&failure, &["`optimizer.learning_rate` is out of range", "a number of at least 0.0"]);
        assert!(!failure.contains("quotes") && !failure.contains("string"), "{failure}");
    }
}

#[test]
fn a_number_beyond_64_bits_is_said_to_be_out_of_range() {
    for (key, value) in [
        ("seed", "18446744073709551616"),
        ("seed", "-9223372036854775809"),
        ("optimizer.learning_rate", "1e400"),
        ("optimizer.learning_rate", "-1e400"),
    ] {
        let message = format!("`{key}` is out of range: {value} is beyond 64 bits");
        for run in [
            Job::new().set(key, value).run(),
            run_where(&[(&format!("MDT_{}", key.to_uppercase().replace('.', "__")), value)], Job::new().arguments()),
        ] {
            let failure = run.failure(2);
            assert_says(&failure, &[&message]);
            assert!(!failure.contains("string"), "{failure}");
        }
    }
    let limits = "where an integer from 0 to 18446744073709551615 is expected";
    assert_says(&Job::new().set("seed", "1.8446744073709552e19").run().failure(2), &["`seed` is the number", limits]);
    let job = Job::new();
    for (name, text) in [("a.json", "{\"seed\": 18446744073709551616}"), ("a.yaml", "seed: 18446744073709551616")] {
        let file = job.file(name, text).display().to_string();
        assert_says(&job.run_with(&["--config", &file]).failure(2), &["`seed` is the number", limits]);
    }
    job.run_with(&["--set", "trainer.max_steps=1", "--set", "seed=18446744073709551615"]).success();
}

#[test]
fn a_variable_with_thousands_of_parts_is_one_short_error_at_once() {
    let begin = Instant::now();
    for variable in [format!("MDT_A{}", "__A".repeat(30_000)), format!("MDT_TRAINER{}", "__A".repeat(30_000))] {
        let failure = run_where(&[(&variable, "1")], Job::new().arguments()).failure(2);
        assert_says(&failure, &["environment variable MDT_", "more than 64 parts"]);
        assert!(failure.len() < 500, "{} bytes", failure.len());
    }
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

#[test]
fn what_only_a_component_can_judge_is_named_by_its_key() {
    for (key, value, parts) in [
        ("optimizer.beta1", "7", &["beta1 must be at least 0 and less than 1", "optimizer adamw"][..]),
        ("tokenizer.template_date", "yesterday", &["tokenizer.template_date", "YYYY-MM-DD"]),
        ("tokenizer.chat_template", "missing.jinja", &["tokenizer.chat_template", "missing.jinja"]),
        ("comm.world_size", "2", &["`comm.world_size` is 2", "`local` connects 1 at most"]),
        ("compute.dtype", "float16", &["`compute.dtype` may not be \"float16\"", "compute.dtype=bfloat16"]),
        ("compute.matmul", "float16", &["`compute.matmul` may not be \"float16\""]),
    ] {
        assert_says(&Job::new().set(key, value).run().failure(2), parts);
    }
}

#[test]
fn the_keys_of_the_tokenizer_are_shown_to_those_who_look_for_them_at_the_trainer() {
    for key in ["chat_template", "chat_template_kwargs", "template_date"] {
        let failure = Job::new().set(&format!("trainer.{key}"), "a").run().failure(2);
        assert_says(&failure, &[&format!("unknown key `trainer.{key}`"), &format!("set `tokenizer.{key}`")]);
    }
}

#[test]
fn a_set_that_is_no_key_and_value_says_how_to_write_it() {
    for text in ["seed", "=3", "a..b=3", "a b=3", ""] {
        let failure = Job::new().argument("--set").argument(text).run().failure(2);
        assert_says(&failure, &["is not of the form key=value", "--set optimizer.learning_rate=2e-5"]);
    }
    assert_says(&Job::new().argument("--set").run().failure(2), &["--set <KEY=VALUE>"]);
}

#[test]
fn an_unknown_scheduler_is_answered_with_the_known_ones() {
    let failure = Job::new().set("scheduler", "step").run().failure(2);
    assert_says(&failure, &["there is no scheduler `step`", "--set scheduler", "`constant`, `cosine`, `linear`"]);
}

#[test]
fn a_file_that_cannot_be_a_configuration_is_named() {
    let job = Job::new();
    for (name, text, parts) in [
        ("a.toml", "seed = 1\nseed = \n", &["not valid TOML", "a.toml:2"][..]),
        ("b.yaml", "seed: [1\n", &["not valid YAML", "b.yaml:"]),
        ("c.json", "{\"seed\": 1,}\n", &["not valid JSON", "c.json:1"]),
        ("d.ini", "seed=1\n", &["d.ini", "configuration files end in .toml, .yaml, .yml or .json"]),
        ("c.json", "{\"seed\": 1,\n \"seed\": 2}\n", &["not valid JSON", "\"seed\" is there twice", "c.json:2"]),
        (
            "c.json",
            "{\"optimizer\": {\"eps\": 1,\n\"eps\": 1}}",
            &["not valid JSON", "\"eps\" is there twice", "c.json:2"],
        ),
        ("b.yaml", "seed: 1\nseed: 2\n", &["not valid YAML", "`seed` is there twice", "b.yaml:2"]),
        ("a.toml", "seed = 1\nseed = 2\n", &["not valid TOML", "duplicate key", "a.toml:2"]),
        ("e.toml", "optimizer.learning_rate = nan\n", &["e.toml", "not a finite number"]),
    ] {
        let file = job.file(name, text).display().to_string();
        assert_says(&run(["config", "check", "--config", &file]).failure(2), parts);
    }
    let missing = job.directory().join("missing.toml").display().to_string();
    assert_says(&run(["--config", &missing]).failure(2), &["cannot read the configuration file", &missing]);
    let file = job.file("f.toml", "[profile.short]\nseed = 2\n").display().to_string();
    let failure = run(["--config", &file, "--profile", "shrot"]).failure(2);
    assert_says(&failure, &["no configuration file has a profile `shrot`", "did you mean `--profile short`?"]);
}

#[test]
fn a_configuration_file_as_a_bare_argument_is_answered_with_what_to_type() {
    for before in [&[][..], &["run"], &["config", "check"], &["launch", "-n", "2"], &["doctor"]] {
        for file in ["job.toml", "configs/job.yaml"] {
            let failure = run(before.iter().copied().chain([file])).failure(2);
            assert_says(&failure, &[&format!("`{file}` is a file"), &format!("`mdt-host --config {file}`")]);
        }
    }
    assert_says(&run(["trian"]).failure(2), &["unrecognized subcommand 'trian'"]);
}

#[test]
fn another_word_is_not_taken_for_a_misspelling() {
    let failure = Job::new().set("trainer.neftune_noise_alpha", "5").run().failure(2);
    assert_says(&failure, &["unknown key `trainer.neftune_noise_alpha`", "the keys of `trainer`"]);
    assert!(!failure.contains("did you mean"), "{failure}");
}

#[test]
fn what_is_no_regular_file_or_asks_for_too_much_is_one_error_at_once() {
    let job = Job::new();
    let path = |name: &str| job.directory().join(name);
    let made = Command::new("mkfifo").arg(path("pipe.toml")).status().expect("the command mkfifo");
    assert!(made.success());
    let _socket = UnixListener::bind(path("socket.yaml")).expect("a socket");
    symlink("/dev/zero", path("device.json")).expect("a link");
    std::fs::create_dir(path("directory.toml")).expect("a directory");
    job.file("long.toml", "#".repeat((1 << 20) + 1));
    job.file("deep.yaml", "[".repeat(100_000));
    job.file("deeper.yaml", "- ".repeat(100_000));
    job.file("deep.json", "[".repeat(100_000));
    job.file("deep.toml", "a.".repeat(100_000) + "b = 1");
    let laughs: String = (1..60).map(|n| format!("a{n}: &a{n} [*a{m}, *a{m}]\n", m = n - 1)).collect();
    job.file("laughs.yaml", format!("a0: &a0 x\n{laughs}"));
    for (name, part) in [
        ("pipe.toml", "it is not a regular file"),
        ("socket.yaml", "it is not a regular file"),
        ("device.json", "it is not a regular file"),
        ("directory.toml", "it is not a regular file"),
        ("long.toml", "it is longer than 1048576 bytes"),
        ("deep.yaml", "not valid YAML"),
        ("deeper.yaml", "nested more than"),
        ("deep.json", "not valid JSON"),
        ("deep.toml", "not valid TOML"),
        ("laughs.yaml", "more than 100000 values"),
    ] {
        let (file, begin) = (path(name).display().to_string(), Instant::now());
        let failure = Process::start(command().args(["config", "check", "--config", &file])).end().failure(2);
        assert_says(&failure, &[name, part]);
        assert!(begin.elapsed().as_secs() < 10, "{name}");
    }
}

#[test]
fn a_job_without_a_model_or_data_is_an_error_that_names_the_key() {
    assert_says(&run(["run"]).failure(2), &["`model.path` is not set", "--set model.path=DIR"]);
    let failure = run(["run", "--set", "model=tests/fixtures/training/model"]).failure(2);
    assert_says(&failure, &["`data.train` is not set"]);
}
