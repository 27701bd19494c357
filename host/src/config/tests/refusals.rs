//! What is refused, in the words that the user reads.

use super::*;
use std::collections::BTreeMap;

#[test]
fn an_unknown_key_is_refused_in_every_source_with_the_nearest_one() {
    let expected = "unknown key `optimizer.lerning_rate`";
    for configuration in [
        Configuration::with("[optimizer]\n\nlerning_rate = 1.0\n"),
        Configuration::new().file("a.yaml", "optimizer:\n  lerning_rate: 1.0\n"),
        Configuration::new().file("a.json", "{ \"optimizer\": { \"lerning_rate\": 1.0 } }"),
        Configuration::with("[profile.p.optimizer]\nlerning_rate = 1.0\n").profile("p"),
        Configuration::new().variable("MDT_OPTIMIZER__LERNING_RATE", "1.0"),
        Configuration::new().set("optimizer.lerning_rate=1.0"),
    ] {
        let failure = configuration.failure();
        assert_eq!((failure.status(), failure.message()), (Status::Configuration, expected));
        assert_eq!(failure.help_text(), Some("did you mean `optimizer.learning_rate`?"));
    }
    let message = Configuration::with("[optimizer]\n\nlerning_rate = 1.0\n").message();
    assert!(message.contains("at: job.toml:3\n"), "{message}");
}

#[test]
fn the_help_for_an_unknown_key_leads_to_the_right_one() {
    let helps = BTreeMap::from([
        ("sede = 1", "did you mean `seed`?"),
        ("trainer.learning_rate = 1.0", "did you mean `optimizer.learning_rate`?"),
        ("checkpoint.save_step = 1", "did you mean `checkpoint.save_steps`?"),
        ("trainer.gradient_checkpointing = true", "set `trainer.checkpoint_activations` to \"all\" or \"none\""),
        ("comm = { use = 'grpc', tls = { crt = 'a' } }", "did you mean `comm.tls.cert`?"),
        ("model.adapter = { rnk = 8 }", "did you mean `model.adapter.rank`?"),
        ("model.hub = 8", "the keys of `model` are: use, path, name, revision, init, quantize, freeze, train, adapter"),
        (
            "scheduler = { use = 'constant', gamma = 1 }",
            "the keys of `scheduler` with `use = \"constant\"` are: use, warmup_steps",
        ),
    ]);
    for (toml, help) in helps {
        assert_eq!(Configuration::with(toml).failure().help_text(), Some(help), "{toml}");
    }
}

#[test]
fn a_wrong_value_says_what_was_found_and_what_was_expected() {
    let cases = [
        (
            "trainer.batch_size = 0",
            "`trainer.batch_size` is the integer 0, where an integer from 1 to 4294967295 is expected",
        ),
        (
            "trainer.batch_size = '8'",
            "`trainer.batch_size` is the string \"8\", where an integer from 1 to 4294967295 is expected",
        ),
        (
            "trainer.batch_size = 1.5",
            "`trainer.batch_size` is the number 1.5, where an integer from 1 to 4294967295 is expected",
        ),
        ("trainer.join_turns = 'yes'", "`trainer.join_turns` is the string \"yes\", where true or false is expected"),
        ("optimizer.beta1 = 1.5", "`optimizer.beta1` is the number 1.5, where a number from 0 to 1 is expected"),
        (
            "compute.dtype = 'float23'",
            "`compute.dtype` is the string \"float23\", where one of \"float32\", \"bfloat16\", \"float16\" is expected",
        ),
        ("output_dir = 3", "`output_dir` is the integer 3, where a string that is not empty is expected"),
        ("seed = -1", "`seed` is the integer -1, where an integer from 0 to 18446744073709551615 is expected"),
        ("comm.port = 70000", "`comm.port` is the integer 70000, where an integer from 1 to 65535 is expected"),
        (
            "optimizer.no_decay = 'bias'",
            "`optimizer.no_decay` is the string \"bias\", where a list, each element a string is expected",
        ),
        (
            "data.train = ['a', 3]",
            "`data.train.1` is the integer 3, where a string that is not empty or a table is expected",
        ),
        ("data.fields = { prompt = 3 }", "`data.fields.prompt` is the integer 3, where a string is expected"),
        ("optimizer = 3", "`optimizer` is the integer 3, where a table or a string is expected"),
        ("checkpoint = 'auto'", "`checkpoint` is the string \"auto\", where a table is expected"),
        ("optimizer = 'needy'", "`optimizer.rank` is not set, and has no default: an integer is expected"),
        ("comm = { rank = 2, world_size = 2 }", "`comm.rank` is 2, where `comm.world_size` is 2"),
    ];
    for (toml, message) in cases {
        let failure = Configuration::with(toml).failure();
        assert_eq!((failure.status(), failure.message()), (Status::Configuration, message), "{toml}");
    }
}

#[test]
fn a_wrong_value_is_traced_to_its_layer_and_fixed_in_the_help() {
    assert_eq!(
        Configuration::with("[compute]\ndtype = 'float23'\n").message(),
        "error: `compute.dtype` is the string \"float23\", where one of \"float32\", \"bfloat16\", \"float16\" is expected\n  \
         at: job.toml:2\n  help: did you mean \"float32\"?"
    );
    assert!(Configuration::new().set("output_dir=3").message().ends_with("help: write it in quotes: '\"3\"'"));
    assert!(Configuration::with("seed = '3'").message().ends_with("help: write it without quotes: 3"));
    assert!(Configuration::new().variable("MDT_SEED", "x").message().contains("at: environment variable MDT_SEED"));
}

#[test]
fn a_file_that_cannot_be_read_says_which_and_where() {
    let cases = [
        ("a.toml", "seed = 1\noops\n", "a.toml:2"),
        ("a.toml", "seed = 1\nseed = 2\n", "a.toml:2"),
        ("a.json", "{\n \"seed\": 1,\n}", "a.json:3"),
        ("a.yaml", "seed: 1\nseed: 2\n", "a.yaml"),
        ("a.yaml", "seed: [1\n", "a.yaml:2"),
        ("a.yaml", "- 1\n", "a.yaml"),
        ("a.toml", "optimizer.learning_rate = nan\n", "a.toml"),
        ("a.toml", "profile = 3\n", "a.toml"),
    ];
    for (name, text, place) in cases {
        let configuration = Configuration::new().file(name, text);
        let message = configuration.message();
        assert_eq!(configuration.failure().status(), Status::Configuration);
        assert!(message.contains(&format!("at: {place}")), "{message}");
    }
    let mut configuration = Configuration::new();
    configuration.sources.files.push("absent.toml".into());
    assert!(
        configuration.message().starts_with("error: cannot read the configuration file `absent.toml`\n  because: ")
    );
    assert!(Configuration::new().file("a.ini", "").message().contains(".toml, .yaml, .yml or .json"));
}

#[test]
fn a_profile_that_no_file_has_is_refused_with_the_nearest() {
    let configuration = Configuration::with("[profile.small]\nseed = 1\n").profile("smal");
    assert_eq!(configuration.failure().help_text(), Some("did you mean `--profile small`?"));
    assert!(Configuration::with("").profile("x").failure().help_text().is_some());
}

#[test]
fn what_the_host_can_refuse_alone_is_refused_before_plugins_are_looked_for() {
    let configuration = Configuration::with("sede = 1\noptimizer = 'missing'\n");
    assert_eq!(configuration.failure().status(), Status::Configuration);
    let configuration = Configuration::with("optimizer = 'missing'\ntrainer.batch_size = 0\n");
    assert_eq!(configuration.failure().status(), Status::Configuration);
    let configuration = Configuration::with("\noptimizer = 'missing'\n");
    assert_eq!(configuration.failure().status(), Status::Plugin);
    assert!(configuration.message().ends_with("at: job.toml:2"), "{}", configuration.message());
}
