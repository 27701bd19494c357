//! The boundary's tests under AddressSanitizer: a use after free, a read out of bounds or a leak fails them. They are its
//! unit tests, and the plugin of every kind, which is built with the sanitizer too, in the program that exercises it.
//!
//! Miri would see more, but needs a nightly compiler. The sanitizer's runtime comes with the stable one for Linux, and
//! only its flag is not stable yet, which is what `RUSTC_BOOTSTRAP` is for.

use std::fs;

use crate::{
    Result, command,
    workspace::{cargo, root},
};

/// What is given up on purpose: panic payloads, since one may panic when dropped and nothing would catch that; the names of
/// loaded components, which live as long as their library; what tests forget, to show that it breaks nothing; a test's entry,
/// which must live for ever.
const GIVEN_UP: &str = "leak:PanicPayload>::take_box\nleak:abi::root::load\nleak:forgotten\n\
                        leak:an_entry_gives_the_registered_components\n";

/// Runs them, on Linux.
pub fn run() -> Result<()> {
    if cfg!(not(target_os = "linux")) {
        return Ok(());
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = root().join("target/sanitizer");
    fs::create_dir_all(&directory)?;
    let suppressions = directory.join("given_up.txt");
    fs::write(&suppressions, GIVEN_UP)?;
    command::run(
        cargo()
            .env("RUSTC_BOOTSTRAP", "1")
            // A plugin uses the sanitizer of the program that loads it.
            .env("RUSTFLAGS", "-Zsanitizer=address -Clink-arg=-rdynamic")
            .env("LSAN_OPTIONS", format!("suppressions={}:print_suppressions=0", suppressions.display()))
            // The dependencies, too, are built in seconds rather than to be fast.
            .args(["test", "--quiet", "--config", "profile.dev.package.\"*\".opt-level=0"])
            .args(["--package", "mdt-plugin-api", "--package", "mdt-test-every-kind", "--lib", "--test", "twins"])
            .args(["--target", &target, "--target-dir"])
            .arg(directory),
    )
}
