//! Files from strangers: whatever a model's directory or a data file is, the program ends soon, with one clear error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdt_tests::{Job, assert_says, copy_files, root};
use serde_json::{Value, json};

/// A job on a copy of the fixture's model.
fn job() -> (Job, PathBuf) {
    let job = Job::new().set("trainer.max_steps", 1);
    let model = job.directory().join("model");
    copy_files(&root().join("tests/fixtures/training/model"), &model);
    (job.set("model.path", model.display()), model)
}

fn edit(file: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(file).expect("a file of the model")).expect("JSON");
    edit(&mut value);
    fs::write(file, value.to_string()).expect("a file of the model");
}

/// The failure of a job that must end soon: the deadline of a background process holds for it.
#[track_caller]
fn ends_with(job: &Job, status: i32, parts: &[&str]) {
    assert_says(&job.start().end().failure(status), parts);
    assert!(!job.output().join("final").exists());
}

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().expect("the command mkfifo").success());
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_in_place_of_files_are_refused_at_once() {
    use std::os::unix::fs::symlink;
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    {
        let (job, model) = job();
        pipe(&model.join(name));
        ends_with(&job, 4, &[name, "not a regular file"]);
        fs::remove_file(model.join(name)).expect("the pipe");
        symlink("/dev/zero", model.join(name)).expect("a link");
        ends_with(&job, 4, &[name, "not a regular file"]);
    }
    let (job, model) = job();
    pipe(&model.join("template"));
    let job = job.set("tokenizer.chat_template", model.join("template").display());
    ends_with(&job, 2, &["tokenizer.chat_template", "not a regular file"]);

    let (job, model) = self::job();
    for source in [model.join("rows"), "/dev/zero".into()] {
        if !source.exists() {
            pipe(&source);
        }
        ends_with(&Job::set(self::job().0, "data.train", source.display()), 4, &["not a regular file"]);
    }
    drop(job);
}

#[test]
fn sizes_that_no_model_has_are_named_by_their_key() {
    for (key, value) in [
        ("vocab_size", 1_u64 << 40),
        ("hidden_size", 1 << 40),
        ("intermediate_size", 1 << 62),
        ("num_hidden_layers", 1_000_000_000),
        ("num_attention_heads", 1 << 40),
        ("num_key_value_heads", 1 << 40),
        ("head_dim", 1 << 40),
        ("head_dim", 1 << 30),
    ] {
        for init in ["pretrained", "random"] {
            let (job, model) = job();
            edit(&model.join("config.json"), |config| config[key] = json!(value));
            ends_with(&job.set("model.init", init), 4, &["config.json", key, &value.to_string()]);
        }
    }
}

#[test]
fn a_random_model_that_does_not_fit_into_memory_is_refused_before_it_is_made() {
    let (job, model) = job();
    edit(&model.join("config.json"), |config| {
        config["intermediate_size"] = json!(1 << 30);
        config["num_hidden_layers"] = json!(1000);
    });
    ends_with(&job.set("model.init", "random"), 4, &["GiB", "config.json"]);
}

#[cfg(unix)]
#[test]
fn links_that_lead_out_of_the_model_are_refused_before_training() {
    use std::os::unix::fs::symlink;
    for name in ["vocab.txt", "additional_chat_templates"] {
        let (job, model) = job();
        fs::create_dir(job.directory().join("private")).expect("a directory");
        job.file("private/default.jinja", "secret");
        let target = if name == "vocab.txt" { "private/default.jinja" } else { "private" };
        symlink(job.directory().join(target), model.join(name)).expect("a link");
        ends_with(&job, 4, &[name, "leads out of its directory", target]);
    }
}

/// A template that doubles two values, which are equal and not the same, as often as `n`, and then uses them.
fn doubled(value: &str, how: &str, n: usize, then: &str) -> String {
    format!(
        "{{% macro f(s, t, n) %}}{{% if n %}}{{{{ f({how}, {}, n - 1) }}}}{{% else %}}{then}{{% endif %}}{{% endmacro %}}\
         {{{{ f({value}, {value}, {n}) }}}}",
        how.replace('s', "t")
    )
}

#[test]
fn chat_templates_that_would_run_or_grow_without_end_are_refused() {
    let list = |then| doubled("[1]", "s + s", 34, then);
    let nested = |then| doubled("[1]", "[s, s]", 40, then);
    let text = |then| doubled("'x'", "s ~ s", 25, &format!("{{% for i in range(99999) %}}{then}{{% endfor %}}"));
    let templates = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{{ 'x' | indent(10000000000) }}".to_owned(),
        "{{ '{:>10000000000}'.format('x') }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}"
            .to_owned(),
        doubled("[1]", "s + s", 60, "{{ s | length }}"),
        doubled("1", "namespace(a=s, b=s)", 60, "{{ s | string | length }}"),
        doubled("'x'", "s.replace('x', 'xx')", 60, "{{ s }}"),
        doubled("'x'", "s * 2", 60, "{{ s }}"),
        doubled("[1]", "s | chain(s)", 60, "{{ s | last }}"),
        list("{{ s | last }}"),
        list("{{ s[-1] }}"),
        list("{{ 2 in s }}"),
        list("{{ s == t }}"),
        list("{{ s | sort }}"),
        list("{{ s | unique }}"),
        list("{{ s | list }}"),
        list("{{ s | pprint }}"),
        list("{{ s | tojson }}"),
        list("{{ s | sum }}"),
        list("{{ {s: 1}[t] }}"),
        list("{{ s ~ '' }}"),
        list("{% for a, b in [s] %}{% endfor %}"),
        nested("{{ s == t }}"),
        nested("{{ s in [t] }}"),
        nested("{{ [s, t] | sort }}"),
        nested("{{ s | pprint }}"),
        text("{{ s == t }}"),
        text("{{ s[-1] }}"),
        text("{{ s.split('x') | length }}"),
    ];
    let row = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let rows = format!("{row}\n").repeat(200);
    // Most of them need the time that one rendering may take, so all run at once.
    std::thread::scope(|scope| {
        for template in &templates {
            let rows = &rows;
            scope.spawn(move || {
                let (job, _) = job();
                let file = job.file("template.jinja", template).display().to_string();
                let data = job.file("rows.jsonl", rows);
                let job = job.set("data.train", data.display()).argument("--set");
                let job = job.argument(format!("tokenizer.chat_template={file}"));
                eprintln!("{template}");
                ends_with(&job, 4, &["the chat template cannot render", &file]);
            });
        }
    });
}

#[test]
fn a_tokenizer_whose_pattern_backtracks_without_end_is_named() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let replace = |pattern: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": "b"});
    std::thread::scope(|scope| {
        for (part, pattern, length) in [
            ("pre_tokenizer", split("(a+)+$"), 60),
            // Quadratic: no single attempt takes long, but there is one at each character.
            ("pre_tokenizer", split("a*x(?!y)"), 400_000),
            ("normalizer", replace("a*x(?!y)"), 400_000),
        ] {
            scope.spawn(move || {
                let (job, model) = job();
                edit(&model.join("tokenizer.json"), |tokenizer| tokenizer[part] = pattern);
                let row = json!({"prompt": "a".repeat(length), "completion": "xy"});
                let data = job.file("rows.jsonl", row.to_string());
                ends_with(&job.set("data.train", data.display()), 4, &["tokenizer.json", "backtracks", "row 1"]);
            });
        }
    });
}
