//! Models that cannot be used: status 4, with the file and the tensor or key.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Job, arrays, assert_says, copy_files, root};
use serde_json::{Value, json};

const WEIGHT: &str = "model.layers.1.mlp.up_proj.weight";

/// A job on a copy of the fixture's model, which a test then spoils.
struct Spoiled {
    job: Job,
    model: PathBuf,
}

impl Spoiled {
    fn new() -> Self {
        Self::of("training/model")
    }

    /// A model that mlx-lm quantised.
    fn quantised() -> Self {
        Self::of("quantised/tied")
    }

    fn of(fixture: &str) -> Self {
        let job = Job::new().set("trainer.max_steps", 1);
        let model = job.directory().join("model");
        copy_files(&root().join("tests/fixtures").join(fixture), &model);
        Spoiled { job: job.set("model.path", model.display()), model }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.model.join(name), content).expect("a file of the model");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.model.join(name)).expect("a file of the model");
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.model.join(name)).expect("a file of the model");
        let mut value = serde_json::from_str(&text).expect("JSON");
        edit(&mut value);
        self.write(name, value.to_string());
    }

    /// Changes the header of the weights, and leaves the data.
    fn edit_header(&self, edit: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.model.join("model.safetensors")).expect("the weights");
        let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).expect("a small header"));
        let mut header = serde_json::from_slice(header).expect("a header of JSON");
        edit(&mut header);
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        self.write("model.safetensors", [&length, header.as_bytes(), data].concat());
    }

    /// The failure of the job, which must be one of the model and must not have written anything.
    #[track_caller]
    fn fails(&self, parts: &[&str]) {
        assert_says(&self.job.run().failure(4), parts);
        assert!(!self.job.output().exists(), "nothing is written before everything is checked");
    }
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let path = Job::new().directory().display().to_string();
    let failure = Job::new().set("model.path", &path).run().failure(4);
    assert_says(&failure, &["the model directory does not exist", &path, "config.json"]);
    assert_says(&Job::new().set("model.path", "Cargo.toml").run().failure(4), &["the model is not a directory"]);
}

#[test]
fn a_config_that_says_too_little_or_nonsense_is_named_by_its_key() {
    let spoiled = Spoiled::new();
    spoiled.write("config.json", "{\n\"model_type\": ");
    spoiled.fails(&["config.json is not valid JSON", "model/config.json", "line 2"]);
    spoiled.write("config.json", "[1]");
    spoiled.fails(&["config.json is not a JSON object"]);
    spoiled.remove("config.json");
    spoiled.fails(&["config.json cannot be read", "model/config.json"]);
    for (key, value, parts) in [
        ("hidden_size", Value::Null, &["hidden_size"][..]),
        ("hidden_size", json!(0), &["hidden_size must be a whole number, at least 1, not 0"]),
        ("num_hidden_layers", json!(-1), &["num_hidden_layers must be a whole number, at least 1, not -1"]),
        ("num_attention_heads", json!(7), &["num_key_value_heads is 2, which does not divide num_attention_heads, 7"]),
        ("rope_scaling", json!({ "rope_type": "spiral", "factor": 2.0 }), &["spiral"]),
        ("model_type", Value::Null, &["no `model_type`", "model.use"]),
    ] {
        let spoiled = Spoiled::new();
        spoiled.edit("config.json", |config| config[key] = value);
        spoiled.fails(&["config.json"]);
        spoiled.fails(parts);
    }
}

#[test]
fn a_model_type_that_no_plugin_knows_gets_the_search_trace() {
    let spoiled = Spoiled::new();
    spoiled.edit("config.json", |config| config["model_type"] = json!("mamba9"));
    let failure = spoiled.job.run().failure(3);
    assert_says(&failure, &["there is no model plugin `mamba9`", "(beside the program): has gemma", "(system)"]);
    assert_says(&failure, &["the model's config.json"]);
    assert_says(&failure, &["`llama`", "`qwen3`", "a plugin that registers `model \"mamba9\"`", "examples/gpt_neox"]);
    // Two letters from `mistral`, and another architecture.
    spoiled.edit("config.json", |config| config["model_type"] = json!("ministral"));
    let failure = spoiled.job.run().failure(3);
    assert!(!failure.contains("did you mean"), "{failure}");
}

#[test]
fn weights_that_another_method_quantised_are_refused_by_its_name() {
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
    let mxfp4 = json!({"group_size": 32, "bits": 4, "mode": "mxfp4"});
    for (quantization, named) in [(gptq, "gptq, 4 bits, group size 128"), (mxfp4, "mxfp4, 4 bits, group size 32")] {
        let spoiled = Spoiled::quantised();
        spoiled.edit("config.json", |config| config["quantization"] = quantization);
        spoiled.fails(&[named, "scales`", "model.safetensors", "mlx_lm.convert -q", "`model.quantize`"]);
    }
    // Nothing is said of it where the weights are whole.
    let spoiled = Spoiled::new();
    spoiled.edit("config.json", |config| config["quantization_config"] = json!({"quant_method": "gptq"}));
    spoiled.job.run().success();
}

#[test]
fn quantised_weights_that_do_not_fit_name_their_tensor_and_file() {
    let layer = "model.layers.1.self_attn.q_proj";
    let shaped = |part: &str, shape: [usize; 2], dtype: &str| {
        let spoiled = Spoiled::quantised();
        spoiled.edit_header(|header| {
            let tensor = &mut header[format!("{layer}.{part}")];
            (tensor["shape"], tensor["dtype"]) = (json!(shape), json!(dtype));
        });
        spoiled
    };
    for (spoiled, part, says) in [
        (shaped("weight", [32, 16], "U32"), "weight", "it would have [64, 8]"),
        (shaped("scales", [32, 4], "F32"), "scales", "it would have [64, 2]"),
        (shaped("biases", [128, 1], "F32"), "biases", "it would have [64, 2]"),
        (shaped("weight", [64, 8], "I32"), "weight", "has type I32"),
        (shaped("scales", [64, 2], "U32"), "scales", "has type U32"),
    ] {
        spoiled.fails(&[&format!("`{layer}.{part}`"), says, "model.safetensors"]);
    }
    let spoiled = Spoiled::quantised();
    spoiled.edit_header(|header| rename(header, &format!("{layer}.biases"), "elsewhere"));
    spoiled.fails(&[&format!("no tensor `{layer}.biases`"), "model.safetensors"]);
    // One layer of other bits than config.json says of it.
    let spoiled = Spoiled::quantised();
    spoiled.edit("config.json", |config| config["quantization"][layer] = json!({"group_size": 32, "bits": 6}));
    spoiled.fails(&[&format!("`{layer}.weight` has shape [64, 8]"), "6 bits, group size 32", "it would have [64, 12]"]);
}

#[test]
fn quantised_weights_are_trained_with_an_adapter_only() {
    let spoiled = Spoiled::quantised();
    spoiled.fails(&["the model is quantised (4 bits, group size 32)", "not trained", "`model.adapter", "`model.train"]);
    let job = Job::new().set("trainer.max_steps", 1).set("model.quantize", "{ bits = 4, group_size = 32 }");
    assert_says(&job.run().failure(2), &["`model.quantize`", "this job trains all", "`model.adapter"]);
    let job = Job::new().set("model.quantize", "{ bits = 7 }");
    assert_says(&job.run().failure(2), &["7 bits, group size 64", "2, 3, 4, 5, 6 or 8"]);
}

fn rename(header: &mut Value, from: &str, to: &str) {
    let header = header.as_object_mut().expect("a header");
    if let Some(tensor) = header.remove(from) {
        header.insert(to.to_owned(), tensor);
    }
}

#[test]
fn generate_refuses_weights_that_are_not_finite() {
    for (bits, place) in [(0x7fc0_0000_u32, 0), (0xff80_0000, 100)] {
        let spoiled = Spoiled::new();
        let mut weights = fs::read(spoiled.model.join("model.safetensors")).expect("the weights");
        let end = weights.len();
        weights[end - 4 * (place + 1)..end - 4 * place].copy_from_slice(&bits.to_le_bytes());
        spoiled.write("model.safetensors", weights);
        assert_says(&spoiled.job.run().failure(4), &["numbers that are not finite", "tensor `", "model.safetensors"]);
        let model = spoiled.model.display().to_string();
        let failure = mdt_tests::run(["generate", "--model", &model, "--prompt", "a"]).failure(4);
        assert_says(&failure, &["numbers that are not finite", "tensor `"]);
    }
}

#[test]
fn weights_that_are_cut_off_or_garbage_are_damaged() {
    let spoiled = Spoiled::new();
    let whole = fs::read(spoiled.model.join("model.safetensors")).expect("the weights");
    for length in [0, 5, 200, whole.len() / 2, whole.len() - 1] {
        spoiled.write("model.safetensors", &whole[..length]);
        spoiled.fails(&["a weights file is damaged", "model/model.safetensors", "get it again"]);
    }
    spoiled.write("model.safetensors", [0xff; 1000]);
    spoiled.fails(&["a weights file is damaged", "model/model.safetensors"]);
    spoiled.remove("model.safetensors");
    spoiled.fails(&["the model directory has no weights", "model.init"]);
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named() {
    let spoiled = Spoiled::new();
    spoiled.edit_header(|header| {
        let tensor = header.as_object_mut().and_then(|header| header.remove(WEIGHT)).expect("the tensor");
        header["model.layers.1.mlp.upp_proj.weight"] = tensor;
    });
    spoiled.fails(&[&format!("no tensor `{WEIGHT}`"), "model.safetensors", "`model.layers.1.mlp.upp_proj.weight`"]);

    let spoiled = Spoiled::new();
    spoiled.edit_header(|header| header[WEIGHT]["shape"] = json!([48, 96]));
    spoiled.fails(&[&format!("`{WEIGHT}` has shape [48, 96], the model needs [96, 48]"), "model.safetensors"]);
}

#[test]
fn an_output_layer_that_a_tied_config_would_drop_is_refused_unless_it_is_a_copy_of_the_embedding() {
    let with_head = |head: fn(f32) -> f32| {
        let spoiled = Spoiled::new();
        let weights = fs::read(spoiled.model.join("model.safetensors")).expect("the weights");
        let (_, embedding) = arrays(&spoiled.model.join("model.safetensors"))
            .into_iter()
            .find(|(name, _)| name == "model.embed_tokens.weight")
            .expect("the embedding");
        let head: Vec<u8> = embedding.into_iter().flat_map(|element| head(element).to_le_bytes()).collect();
        spoiled.write("model.safetensors", [weights, head].concat());
        spoiled.edit_header(|header| {
            let end = |tensor: &Value| tensor["data_offsets"][1].as_u64();
            let end = header.as_object().and_then(|tensors| tensors.values().filter_map(end).max()).expect("tensors");
            let mut head = header["model.embed_tokens.weight"].clone();
            let length = head["data_offsets"].as_array().expect("offsets");
            let length = length[1].as_u64().expect("an offset") - length[0].as_u64().expect("an offset");
            head["data_offsets"] = json!([end, end + length]);
            header["lm_head.weight"] = head;
        });
        spoiled
    };
    with_head(|element| element).job.run().success();
    with_head(|element| element / 2.0)
        .fails(&["`lm_head.weight` that is not `model.embed_tokens.weight`", "tie_word_embeddings"]);
}

#[test]
fn weights_that_are_no_real_numbers_are_refused() {
    let spoiled = Spoiled::new();
    spoiled.edit_header(|header| header[WEIGHT]["dtype"] = json!("I32"));
    spoiled.fails(&[&format!("`{WEIGHT}` has type I32"), "model.safetensors", "F32, F16 or BF16"]);

    // Elements twice as long need a tensor with room behind it: the last one of the file.
    let spoiled = Spoiled::new();
    let (mut last, mut length) = (String::new(), 0);
    spoiled.edit_header(|header| {
        let end = |tensor: &Value| tensor["data_offsets"][1].as_u64();
        let (name, tensor) =
            header.as_object_mut().and_then(|header| header.iter_mut().max_by_key(|(_, t)| end(t))).expect("tensors");
        let [from, to] = [0, 1].map(|place| tensor["data_offsets"][place].as_u64().expect("an offset"));
        (last, length) = (name.clone(), to - from);
        tensor["dtype"] = json!("I64");
        tensor["data_offsets"] = json!([from, to + length]);
    });
    let mut weights = fs::read(spoiled.model.join("model.safetensors")).expect("the weights");
    weights.resize(weights.len() + usize::try_from(length).expect("a small tensor"), 0);
    spoiled.write("model.safetensors", weights);
    spoiled.fails(&[&format!("`{last}` has type I64"), "F32, F16 or BF16"]);
}

#[test]
fn a_shard_that_is_missing_is_named() {
    let spoiled = Spoiled::new();
    fs::rename(spoiled.model.join("model.safetensors"), spoiled.model.join("model-00001-of-00002.safetensors"))
        .expect("a shard");
    let weights = json!({ "weight_map": {
        WEIGHT: "model-00001-of-00002.safetensors", "model.norm.weight": "model-00002-of-00002.safetensors",
    } });
    spoiled.write("model.safetensors.index.json", weights.to_string());
    spoiled.fails(&["a weights file that the index names is missing", "model-00002-of-00002.safetensors"]);
    spoiled.write("model.safetensors.index.json", "{\"weight_map\": 3}");
    spoiled.fails(&["the index of the weights is damaged", "model.safetensors.index.json"]);
    let outside = json!({ "weight_map": { WEIGHT: "../model-00001-of-00002.safetensors" } });
    spoiled.write("model.safetensors.index.json", outside.to_string());
    spoiled.fails(&["names a file outside the directory"]);
}

#[test]
fn a_tokenizer_that_is_missing_broken_or_too_large_is_an_error() {
    let spoiled = Spoiled::new();
    spoiled.edit("config.json", |config| config["vocab_size"] = json!(50));
    spoiled.fails(&["the tokenizer has ids up to 98, the model's vocabulary has 50", "/model"]);

    let spoiled = Spoiled::new();
    spoiled.write("tokenizer.json", "{\"version\": \"1.0\", ");
    spoiled.fails(&["the tokenizer cannot be used", "model/tokenizer.json"]);
    spoiled.remove("tokenizer.json");
    spoiled.fails(&["the model directory has no tokenizer.json", "model/tokenizer.json", "copy tokenizer.json"]);
}

#[test]
fn messages_without_a_chat_template_are_an_error_that_says_where_to_put_one() {
    let spoiled = Spoiled::new();
    spoiled.edit("tokenizer_config.json", |config| config["chat_template"] = Value::Null);
    let data = json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] });
    let data = spoiled.job.file("chat.jsonl", format!("{data}\n")).display().to_string();
    let failure = spoiled.job.run_with(&["--set", &format!("data.train={data}")]).failure(4);
    assert_says(&failure, &["chat template", "tokenizer.chat_template", &format!("{data} row 1")]);
}
