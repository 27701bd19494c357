//! The variables by which users tell programs of the hub where it is, who they are and where files are kept.

use std::path::PathBuf;
use std::time::Duration;

/// What the environment says, with the defaults of `huggingface_hub`.
#[derive(Clone)]
pub struct Environment {
    /// `HF_ENDPOINT`: where the hub is.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or what `hf auth login` wrote.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing is asked of the hub.
    pub offline: bool,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: how long nothing may come before another attempt is made.
    pub patience: Duration,
    /// The first pause before another attempt; each is twice as long as the one before.
    pub pause: Duration,
}

impl Environment {
    /// Of this process.
    pub fn of_this_process() -> Self {
        Self::of(&|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    /// Of these variables.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str| variable(name).map(|path| expand(&path, variable));
        let user = || variable("XDG_CACHE_HOME").map_or_else(|| expand("~/.cache", variable), PathBuf::from);
        let home = path("HF_HOME").unwrap_or_else(|| user().join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let is_set = |name: &str| {
            variable(name)
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str()))
        };
        let written = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            std::fs::read_to_string(file).ok().filter(|_| !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
        };
        let token = variable("HF_TOKEN").or_else(written).map(|token| token.trim().to_owned());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let seconds =
            |name: &str, default| variable(name).and_then(|value| value.trim().parse().ok()).unwrap_or(default);
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: token.filter(|token| !token.is_empty()),
            offline: is_set("HF_HUB_OFFLINE"),
            patience: Duration::from_secs(seconds("HF_HUB_DOWNLOAD_TIMEOUT", 10).max(1)),
            pause: Duration::from_secs(1),
        }
    }
}

/// A path that may begin with the home directory.
fn expand(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (path.strip_prefix("~/"), variable("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}
