//! `mdt-host generate`: answers that repeat, and that are right once a model has learned them.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mdt_tests::{Job, Process, Run, assert_says, command, run};
use serde_json::Value;

fn generate(model: &Path, arguments: &[&str]) -> Run {
    let model = model.display().to_string();
    run(["generate", "--model", &model].into_iter().chain(arguments.iter().copied())).success()
}

/// A model that has seen four rows of the fixture many times.
fn memorised() -> Job {
    let job = Job::new()
        .rows(0..4)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.max_steps", 150)
        .set("optimizer.learning_rate", 1e-2);
    job.run().success();
    job
}

#[test]
fn a_model_that_memorised_four_rows_answers_them_exactly() {
    let job = memorised();
    let (model, rows) = (job.output().join("final"), job.directory().join("train.jsonl"));
    let rows = rows.display().to_string();

    let run = generate(&model, &["--data", &rows, "--json"]);
    let answers: Value = serde_json::from_str(&run.stdout).expect("JSON on standard output");
    assert_eq!(answers["exact_match"], 1.0, "{}", run.stdout);
    let learned = std::fs::read_to_string(&rows).expect("the rows");
    let answers = answers["rows"].as_array().expect("a list");
    assert_eq!(answers.len(), 4);
    for (answer, row) in answers.iter().zip(learned.lines()) {
        let row: Value = serde_json::from_str(row).expect("JSON");
        assert_eq!((&answer["prompt"], &answer["answer"]), (&row["prompt"], &row["completion"]));
        assert_eq!(answer["answer"], answer["expected"]);
    }

    let run = generate(&model, &["--data", &rows]);
    assert_eq!(run.stdout.lines().last(), Some("exact match: 4 of 4 (100.0 %)"));
    let row: Value = serde_json::from_str(learned.lines().next().expect("a row")).expect("JSON");
    // The model has a chat template, and its prompts were plain text.
    let prompt = row["prompt"].as_str().expect("text");
    let run = generate(&model, &["--prompt", prompt]);
    assert_eq!(run.stdout.trim_end(), row["completion"].as_str().expect("text"));
}

/// The JSON of a command.
fn read(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id")).collect()
}

/// What becomes of a prompt in training and, by itself, in generation.
struct Seen {
    /// The start-up lines of training.
    trained: String,
    /// The line of generation.
    generated: String,
    /// The tokens of the row that training saw.
    row: Vec<u64>,
    /// The tokens that the model had of the prompt alone, and of the row.
    prompts: [Vec<u64>; 2],
}

/// Trains on one row, and answers its prompt with what training left.
fn seen(row: &Value, settings: &[(&str, &str)], model: impl Fn(&Job) -> std::path::PathBuf) -> Seen {
    let job = Job::new().set("trainer.max_steps", 1).set("checkpoint.save_steps", 1);
    let data = job.file("rows.jsonl", row.to_string());
    let job = settings.iter().fold(job.set("data.train", data.display()), |job, (key, value)| job.set(key, value));
    let trained = job.run().success().stderr;
    let shown = job.run_with(&["data", "preview", "--json", "--rows", "1"]).success().stdout;
    let shown: Value = serde_json::from_str(shown.lines().next().expect("a row")).expect("JSON");
    let prompt = row["prompt"].as_str().or_else(|| row["messages"][0]["content"].as_str()).expect("a prompt");
    let (model, data) = (model(&job), data.display().to_string());
    let [alone, of_row] = [&["--prompt", prompt], &["--data", &data]]
        .map(|arguments| generate(&model, &[&["--max-tokens", "1", "--json"], &arguments[..]].concat()));
    let prompts = [&alone, &of_row].map(|run| ids(&read(run)["rows"][0]["prompt_ids"]));
    Seen { trained, generated: alone.stderr, row: ids(&shown["tokens"]), prompts }
}

fn final_model(job: &Job) -> std::path::PathBuf {
    job.output().join("final")
}

#[test]
fn generation_reads_what_training_saw_by_itself_and_says_so() {
    let prompt = serde_json::json!({"prompt": "Shout abc", "completion": "ABC"});
    let turns = serde_json::json!({"messages": [
        {"role": "user", "content": "Shout abc"}, {"role": "assistant", "content": "ABC"},
    ]});
    let (plain, rendered) = ("plain text", "rendered by the chat template");
    for (row, settings, words) in [
        (&prompt, &[][..], plain),
        (&prompt, &[("trainer.prompt_format", "plain")], plain),
        (&prompt, &[("trainer.prompt_format", "template")], rendered),
        (&turns, &[], rendered),
    ] {
        let Seen { trained, generated, row: tokens, prompts } = seen(row, settings, final_model);
        for own in &prompts {
            assert!(tokens.starts_with(own) && own.len() + 3 < tokens.len(), "{settings:?}: {own:?} of {tokens:?}");
        }
        assert_eq!(prompts[0], prompts[1], "{settings:?}");
        assert_says(&generated, &["prompts are ", words, "as in training", "training_format.json"]);
        if row.get("prompt").is_some() {
            assert_says(&trained, &["prompts  ", words, "trainer.prompt_format"]);
        }
    }
}

#[test]
fn what_was_trained_goes_with_checkpoints_adapters_exports_and_merged_models() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ greeting }}{{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}<assistant>{{ greeting }}{% endif %}";
    let row = serde_json::json!({"prompt": "Shout abc", "completion": "ABC"});
    let written = |job: &Job, command: &str, arguments: &[&str]| {
        let (from, out) = (job.output().display().to_string(), job.directory().join("out-of").join(command));
        let place = out.display().to_string();
        run([&[command, "--model", &from, "--out", &place], arguments].concat()).success();
        out
    };
    type Place<'a> = (&'a str, Option<&'a str>, &'a dyn Fn(&Job) -> std::path::PathBuf);
    let places: [Place<'_>; 5] = [
        ("checkpoint", None, &|job| job.checkpoint(1)),
        ("adapter", Some("lora"), &final_model),
        ("fused", Some("lora"), &|job| written(job, "fuse", &[])),
        ("exported", None, &|job| written(job, "export", &["--to", "transformers"])),
        ("quantised", None, &|job| written(job, "export", &["--to", "mlx", "--quantize", "4,32"])),
    ];
    let job = Job::new();
    let file = job.file("chat.jinja", template).display().to_string();
    for (kind, adapter, model) in places {
        let mut settings = vec![
            ("tokenizer.chat_template", file.as_str()),
            ("tokenizer.chat_template_kwargs", "{ greeting = \"Hello. \" }"),
            ("trainer.prompt_format", "template"),
        ];
        settings.extend(adapter.map(|adapter| ("model.adapter", adapter)));
        let Seen { generated, row: tokens, prompts, .. } = seen(&row, &settings, |job| {
            let place = model(job);
            // The file of the configuration is needed no longer.
            std::fs::write(&file, "{{ raise_exception('changed') }}").expect("written");
            place
        });
        std::fs::write(&file, template).expect("written");
        for own in &prompts {
            assert!(tokens.starts_with(own) && own.len() > 25, "{kind}: {own:?} of {tokens:?}");
        }
        assert_says(&generated, &["rendered by the chat template", "greeting", "as in training"]);
    }
}

#[test]
fn the_command_line_changes_what_was_trained_and_that_is_said() {
    let job = Job::new().set("trainer.max_steps", 1).set("trainer.train_on", "all").rows(0..8);
    job.run().success();
    let model = final_model(&job);
    let tokens = |arguments: &[&str]| {
        let run = generate(&model, &[&["--prompt", "Shout abc", "--max-tokens", "1", "--json"], arguments].concat());
        (ids(&read(&run)["rows"][0]["prompt_ids"]).len(), run.stderr)
    };
    // One token for each character, and bos; the template adds a line break.
    let (plain, said) = tokens(&[]);
    assert!(plain == 10 && said.contains("as in training"), "{plain}: {said}");
    for arguments in [["--prompt-format", "template"], ["--set", "trainer.prompt_format=template"]] {
        let (rendered, said) = tokens(&arguments);
        assert_eq!(rendered, 11, "{arguments:?}");
        assert_says(&said, &["warning: not as in training: prompts are rendered", "they were plain text"]);
    }
    let rows = job.directory().join("train.jsonl").display().to_string();
    let model = model.display().to_string();
    let evaluate = |arguments: &[&str]| {
        let run = run([&["evaluate", "--json", "--model", &model, "--data", &rows], arguments].concat()).success();
        (read(&run)["tokens"].as_u64().expect("a number"), run.stderr)
    };
    let (all, said) = evaluate(&[]);
    assert_says(&said, &["train_on = all", "as in training"]);
    let (answers, said) = evaluate(&["--set", "trainer.train_on=assistant"]);
    assert_says(&said, &["warning: not as in training", "train_on = assistant", "train_on was all"]);
    assert!(answers < all, "{answers} of {all}");

    // A conversation with a model of plain prompts.
    let run = mdt_tests::command().args(["chat", "--model", &model, "--max-tokens", "1"]).stdin(Stdio::null()).output();
    let said = Run::from(run.expect("the program starts")).success().stderr;
    assert_says(&said, &["warning: not as in training: prompts are rendered by the chat template", "plain text"]);

    let record = final_model(&job).join("training_format.json");
    std::fs::write(&record, "{").expect("written");
    let refused = mdt_tests::run(["generate", "--model", &model, "--prompt", "a"]).failure(4);
    assert_says(&refused, &["record of how the model was trained", "training_format.json", "remove the file"]);
}

#[test]
fn exact_match_is_the_part_of_the_rows_that_are_right() {
    let job = memorised();
    let text = std::fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows");
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    rows[1]["completion"] = "something else".into();
    let rows: Vec<_> = rows.iter().map(Value::to_string).collect();
    let data = job.file("other.jsonl", rows.join("\n")).display().to_string();
    let model = job.output().join("final");
    let exact_match = |arguments: &[&str]| {
        let run = generate(&model, &[&["--data", &data, "--json"], arguments].concat());
        serde_json::from_str::<Value>(&run.stdout).expect("JSON")["exact_match"].as_f64().expect("a number")
    };
    assert_eq!(exact_match(&[]), 0.75);
    assert_eq!(exact_match(&["--limit", "2"]), 0.5);
    assert_eq!(exact_match(&["--rows", "2"]), 0.5);
}

#[test]
fn answers_repeat_and_end_at_the_longest_length() {
    let model = mdt_tests::root().join("tests/fixtures/training/model");
    let answer = |count: &str| generate(&model, &["--prompt", "Shout abc", "--max-tokens", count]).stdout;
    let long = answer("20");
    assert_eq!(answer("20"), long);
    assert!(long.starts_with(answer("5").trim_end_matches('\n')), "a shorter answer is the beginning of the longer");
}

#[test]
fn rows_without_an_answer_are_not_compared() {
    let model = mdt_tests::root().join("tests/fixtures/training/model");
    let job = Job::new();
    let answered = r#"{"prompt": "a", "completion": "b"}"#;
    let asked = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let run = |arguments: &[&str]| generate(&model, &[arguments, &["--max-tokens", "2"]].concat()).stdout;
    let json =
        |arguments: &[&str]| serde_json::from_str::<Value>(&run(&[arguments, &["--json"]].concat())).expect("JSON");

    let one = json(&["--prompt", "a"]);
    assert_eq!((&one["exact_match"], &one["rows"][0]["expected"]), (&Value::Null, &Value::Null), "{one}");

    let rows = job.file("asked.jsonl", format!("{asked}\n{asked}")).display().to_string();
    assert!(run(&["--data", &rows]).ends_with("exact match: no row has an answer to compare with\n"));
    assert_eq!(json(&["--data", &rows])["exact_match"], Value::Null);

    let rows = job.file("mixed.jsonl", format!("{asked}\n{answered}\n")).display().to_string();
    let shown = run(&["--data", &rows]);
    assert!(shown.ends_with("exact match: 0 of 1 (0.0 %); 1 row has no answer to compare with\n"), "{shown}");
    let mixed = json(&["--data", &rows]);
    assert_eq!((&mixed["exact_match"], &mixed["compared"]), (&0.0.into(), &1.into()));
}

fn json(model: &Path, arguments: &[&str]) -> Value {
    let run = generate(model, &[arguments, &["--json"]].concat());
    serde_json::from_str(&run.stdout).expect("JSON on standard output")
}

/// The text of each answer.
fn texts(answers: &Value) -> Vec<&str> {
    let rows = answers["rows"].as_array().expect("a list");
    rows.iter().map(|row| row["answer"].as_str().expect("text")).collect()
}

const PROMPTS: [&str; 5] = ["Shout abc", "Shout hdaggdgf and much more of it", "a", "Shout bf", "Sh"];

#[test]
fn prompts_that_are_answered_together_have_the_answers_that_each_has_alone() {
    let model = mdt_tests::root().join("tests/fixtures/training/model");
    let sampled = ["--temperature", "1", "--top-p", "0.95", "--seed", "7"];
    let penalised =
        ["--temperature", "0.7", "--repetition-penalty", "1.2", "--repetition-context", "8", "--top-k", "9"];
    for options in [&[][..], &sampled, &penalised] {
        let options = [options, &["--max-tokens", "24"]].concat();
        let alone: Vec<String> = PROMPTS
            .iter()
            .map(|prompt| texts(&json(&model, &[&options[..], &["--prompt", prompt]].concat()))[0].to_owned())
            .collect();
        let all: Vec<&str> = PROMPTS.iter().flat_map(|prompt| ["--prompt", prompt]).collect();
        for size in ["1", "2", "5"] {
            let together = json(&model, &[&options[..], &all, &["--batch-size", size]].concat());
            assert_eq!(texts(&together), alone, "{options:?}, {size} together");
        }
    }
}

#[test]
fn a_seed_gives_its_answer_again_and_another_seed_another_one() {
    let model = mdt_tests::root().join("tests/fixtures/training/model");
    let answer = |options: &[&str]| {
        generate(&model, &[options, &["--prompt", "Shout abc", "--max-tokens", "20"]].concat()).stdout
    };
    let drawn = answer(&["--temperature", "1", "--seed", "3"]);
    assert_eq!(answer(&["--temperature", "1", "--seed", "3"]), drawn);
    assert_ne!(answer(&["--temperature", "1", "--seed", "4"]), drawn);
    let greedy = answer(&[]);
    assert_eq!(answer(&["--temperature", "2", "--top-k", "1", "--seed", "5"]), greedy);
    assert_eq!(answer(&["--temperature", "2", "--top-p", "0.000001"]), greedy);
    assert_eq!(answer(&["--temperature", "2", "--min-p", "1"]), greedy);
    assert_ne!(answer(&["--repetition-penalty", "5"]), greedy);
}

#[test]
fn an_answer_ends_before_a_stop_text_whatever_its_tokens_are() {
    let job = memorised();
    let model = job.output().join("final");
    let whole = json(&model, &["--prompt", "Shout hdaggdgf\n"]);
    assert_eq!((texts(&whole)[0], &whole["rows"][0]["ended_by"]), ("HDAGGDGF!", &"end_token".into()));
    let stopped = json(&model, &["--prompt", "Shout hdaggdgf\n", "--stop", "nowhere", "--stop", "GGDG"]);
    assert_eq!((texts(&stopped)[0], &stopped["rows"][0]["ended_by"]), ("HDA", &"stop_text".into()));
    assert_eq!(generate(&model, &["--prompt", "Shout hdaggdgf\n", "--stop", "GGDG"]).stdout, "HDA\n");
    // What might have become one is part of the answer.
    assert_eq!(generate(&model, &["--prompt", "Shout hdaggdgf\n", "--stop", "F!!"]).stdout, "HDAGGDGF!\n");
    let cut = json(&model, &["--prompt", "Shout hdaggdgf\n", "--max-tokens", "2"]);
    assert_eq!((&cut["rows"][0]["answer_tokens"], &cut["rows"][0]["ended_by"]), (&2.into(), &"max_tokens".into()));
}

#[test]
fn text_comes_while_the_answer_is_made_and_an_interruption_ends_it() {
    let model = mdt_tests::root().join("tests/fixtures/training/model").display().to_string();
    let arguments = ["generate", "--model", &model, "--prompt", "Shout abc", "--max-tokens", "1000000"];
    let mut endless = command();
    // Nobody has taught this model to end its answers.
    endless.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = endless.spawn().expect("the program starts");
    let mut first = [0; 8];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("text before the end");
    assert!(child.try_wait().expect("a child can be asked").is_none(), "the answer has ended by itself");
    let kill = std::process::Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(kill.expect("the command kill").success());
    let run = Run::from(child.wait_with_output().expect("its output"));
    assert_eq!(run.status, Some(130), "{}", run.stderr);
}

#[test]
fn an_interruption_is_noticed_while_a_long_prompt_is_read() {
    let model = mdt_tests::root().join("tests/fixtures/training/model").display().to_string();
    let job = Job::new();
    // Attention to so many tokens takes minutes.
    let row = serde_json::json!({ "text": "Shout abc ".repeat(40_000) }).to_string();
    let rows = job.file("long.jsonl", row).display().to_string();
    let mut command = command();
    command.args(["generate", "--model", &model, "--data", &rows, "--max-tokens", "1", "--force"]);
    let process = Process::start(command.env("MDT_LOG", "debug"));
    std::thread::sleep(Duration::from_secs(4));
    process.signal("INT");
    // Ends within the time that a process of these tests may take.
    let run = process.end();
    assert_eq!((run.status, run.stdout.as_str()), (Some(130), ""), "{}", run.stderr);
}

#[test]
fn options_out_of_their_range_are_refused_by_name() {
    for (option, value) in [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--min-p", "-0.1"),
        ("--repetition-penalty", "0"),
        ("--stop", ""),
        ("--batch-size", "0"),
    ] {
        let argument = format!("{option}={value}");
        let run = run(["generate", "--model", "nowhere", "--prompt", "a", &argument]);
        assert_eq!(run.status, Some(2), "{argument}: {}", run.stderr);
        assert_says(&run.stderr, &[option]);
    }
}
