//! Environment variables, read as what launchers write into them.

use std::collections::BTreeMap;

use super::Told;
use crate::exit::Failure;

/// The environment of this process, without variables that are not text.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// A value that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// The same with its name.
    pub(super) fn told(&self, name: &str) -> Option<Told<String>> {
        self.text(name).map(|text| Told::new(text.to_owned(), name))
    }

    /// A number from 0.
    ///
    /// # Errors
    /// It is none, or is too large for what it is.
    pub(super) fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<Told<T>>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse().ok().and_then(|number: u64| T::try_from(number).ok()) {
            Some(number) => Ok(Some(Told::new(number, name))),
            None => Err(wrong(name, &format!("is {text:?}, where a number is expected"))),
        }
    }

    /// A number that must be there because `because` is.
    pub(super) fn needed<T: TryFrom<u64>>(&self, name: &str, because: &str) -> Result<Told<T>, Failure> {
        self.number(name)?.ok_or_else(|| {
            Failure::configuration(format!("the variable {because} is set, and {name} is not"))
                .because("a launcher sets both")
                .help(super::OVERRIDE)
        })
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// A variable that is not what its launcher writes.
pub(super) fn wrong(name: &str, what: &str) -> Failure {
    Failure::configuration(format!("the variable {name} {what}")).help(super::OVERRIDE)
}
