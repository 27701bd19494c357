//! The error of an operation, before the operation's name is added.

use std::fmt;

use mlx_rs::error::Exception;

/// A failure of one operation; [`crate::ops::apply`] adds the operation's name and its inputs' shapes.
#[derive(Debug)]
pub struct Fault(String);

impl Fault {
    /// A failure that the plugin itself found.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Self {
        Self(without_source_location(exception.what()).to_owned())
    }
}

impl From<mdt_plugin_api::Error> for Fault {
    fn from(error: mdt_plugin_api::Error) -> Self {
        Self(error.message().to_owned())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// MLX's C interface appends ` at <file>:<line>` of its own source, which tells a user nothing.
fn without_source_location(what: &str) -> &str {
    let Some((message, location)) = what.rsplit_once(" at ") else { return what };
    match location.rsplit_once(':') {
        Some((file, line)) if file.contains(".cpp") && line.bytes().all(|byte| byte.is_ascii_digit()) => {
            message.trim_end().trim_end_matches('.')
        }
        _ => what,
    }
}

#[cfg(test)]
mod tests {
    use super::without_source_location;

    #[test]
    fn messages_lose_the_place_in_mlx_and_nothing_else() {
        assert_eq!(without_source_location("[add] Shapes differ. at /x/mlx-c/mlx/c/ops.cpp:20"), "[add] Shapes differ");
        assert_eq!(without_source_location("index 4 is at odds with 3"), "index 4 is at odds with 3");
    }
}
