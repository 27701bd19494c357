//! Which files of a repository are needed.

/// Which files of a repository are needed.
pub enum Wanted<'a> {
    /// Those that a model is loaded from; its weights only where they are not drawn at random.
    Model {
        /// Whether weights are wanted.
        weights: bool,
    },
    /// Those whose names (paths within the repository) this accepts.
    Those(&'a dyn Fn(&str) -> bool),
}

/// Small files of a model: its configuration, its tokenizer, how it is used and who may use it.
const OF_A_MODEL: [&str; 19] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "training_format.json",
    "training_template.jinja",
    "adapter_config.json",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
];

/// The index of weights in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files of weights that are one.
const WHOLE: [&str; 3] = ["model.safetensors", "adapter_model.safetensors", "adapters.safetensors"];

impl Wanted<'_> {
    /// The wanted ones of these files, small ones first. Shards are named by their index, which is read first.
    pub(super) fn of<'f>(&self, files: &'f [String]) -> Vec<&'f str> {
        let mut wanted: Vec<&str> = files.iter().map(String::as_str).filter(|name| self.wants(name, files)).collect();
        wanted.sort_by_key(|name| (name.ends_with(".safetensors"), *name));
        wanted
    }

    fn wants(&self, name: &str, files: &[String]) -> bool {
        let has = |name: &str| files.iter().any(|file| file == name);
        match self {
            Self::Those(accepts) => accepts(name),
            Self::Model { .. } if OF_A_MODEL.contains(&name) => true,
            Self::Model { .. } if name.starts_with("additional_chat_templates/") => true,
            Self::Model { weights: false } => false,
            Self::Model { weights: true } if WHOLE.contains(&name) => true,
            Self::Model { weights: true } if has(WHOLE[0]) => false,
            Self::Model { weights: true } => name == INDEX || is_shard(name),
        }
    }
}

/// `model-00001-of-00003.safetensors`.
fn is_shard(name: &str) -> bool {
    let middle = name.strip_prefix("model-").and_then(|name| name.strip_suffix(".safetensors"));
    let numbers = middle.and_then(|middle| middle.split_once("-of-"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(number, of)| is_number(number) && is_number(of))
}
