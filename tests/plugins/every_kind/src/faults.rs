//! Where a component fails.

use mdt_plugin_api::prelude::*;

mdt_plugin_api::config! {
    /// Keys of all components here.
    pub struct Faults {
        /// The method that panics.
        panics_in: Option<String> = None,
        /// The method that gives an error, where it can.
        fails_in: Option<String> = None,
    }
}

impl Faults {
    /// What a method begins with.
    pub fn at(&self, method: &str) -> Result<()> {
        self.panic_at(method);
        if self.fails_in.as_deref() == Some(method) {
            let error = Error::input(format!("{method} fails")).with("method", method).caused_by("a reason");
            return Err(error.help("mend it"));
        }
        Ok(())
    }

    /// What a method begins with that gives no errors.
    pub fn panic_at(&self, method: &str) {
        assert!(self.panics_in.as_deref() != Some(method), "{method} panics");
    }
}
