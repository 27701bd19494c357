//! Moves the options that every subcommand has to the front of the command line.
//!
//! clap takes a global option before and after a subcommand, but if it is in both places, clap keeps only the later
//! ones: `--set a=1 config show --set b=2` would silently lose `a=1`.

use std::ffi::OsString;

const OPTIONS: [&str; 4] = ["--config", "--profile", "--set", "--plugin-dir"];

/// The same command line with these options in front, in their order. Arguments after `--` stay where they are.
pub(super) fn gather(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter().peekable();
    let mut gathered: Vec<OsString> = arguments.next().into_iter().collect();
    let mut rest = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            rest.push(argument);
            rest.extend(arguments);
            break;
        }
        if OPTIONS.iter().any(|option| text.strip_prefix(option).is_some_and(|value| value.starts_with('='))) {
            gathered.push(argument);
        } else if OPTIONS.contains(&&*text)
            // An option without a value stays in its place: clap reports the error there.
            && let Some(value) = arguments.next_if(|value| !value.to_string_lossy().starts_with('-'))
        {
            gathered.extend([argument, value]);
        } else {
            rest.push(argument);
        }
    }
    gathered.extend(rest);
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(line: &str) -> String {
        let line = gather(line.split(' ').map(OsString::from));
        line.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_before_and_after_a_subcommand_keep_their_order() {
        assert_eq!(
            gathered("mdt-host --set a=1 config show --json --set=b=2 --config f.toml"),
            "mdt-host --set a=1 --set=b=2 --config f.toml config show --json"
        );
    }

    #[test]
    fn other_arguments_stay_in_their_places() {
        for line in [
            "mdt-host config show --set",
            "mdt-host config --set --json",
            "mdt-host a -- --set b",
            "mdt-host --settle a",
        ] {
            assert_eq!(gathered(line), line);
        }
    }
}
