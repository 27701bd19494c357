//! Abilities that a plugin names in `plugin!`: mistakes are errors when it is built, and its file says what it has.

use std::fs;

use mdt_tests::{assert_says, built, cargo, root};

/// What the compiler says of a plugin with these lines.
fn errors_of(plugin: &str) -> String {
    let project = tempfile::tempdir().expect("a directory");
    let api = root().join("plugin-api");
    let manifest = format!(
        "[package]\nname = \"mistaken\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense = \"MIT\"\n\
         [lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\nmdt-plugin-api = {{ path = {api:?} }}\n[workspace]\n"
    );
    let source = format!(
        "use mdt_plugin_api::prelude::*;\n\
         mdt_plugin_api::config! {{ pub struct Config {{}} }}\n\
         struct Rule;\n\
         impl Component for Rule {{\n    type Config = Config;\n    fn create(_: Config, _: &Setup) -> Result<Self> {{ Ok(Self) }}\n}}\n\
         {plugin}\n"
    );
    fs::create_dir(project.path().join("src")).expect("a directory");
    fs::write(project.path().join("Cargo.toml"), manifest).expect("a manifest");
    fs::write(project.path().join("src/lib.rs"), source).expect("a plugin");
    let target = built().parent().expect("target/PROFILE has a parent").join("examples");
    let output = cargo()
        .args(["build", "--release", "--quiet", "--target-dir"])
        .arg(target)
        .current_dir(project.path())
        .output()
        .expect("cargo starts");
    assert!(!output.status.success(), "it was built");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn an_ability_whose_trait_is_missing_or_that_does_not_exist_is_an_error_that_says_so() {
    let errors = errors_of("mdt_plugin_api::plugin! { optimizer \"rule\" => Rule: device, typed_states; }");
    assert_says(&errors, &["`Rule` is registered with the ability `device`, which is the trait `DeviceOptimizer`"]);
    assert_says(&errors, &["`Rule` is registered with the ability `typed_states`, which is the trait `TypedStates`"]);
    let errors = errors_of("mdt_plugin_api::plugin! { optimizer \"rule\" => Rule; }");
    assert_says(
        &errors,
        &["`Rule` is registered as an optimizer with the ability `slices`, which is the trait `Optimizer`"],
    );
    let errors = errors_of("mdt_plugin_api::plugin! { optimizer \"rule\" => Rule: devices; }");
    assert_says(&errors, &["no optimizer has an ability `devices`"]);
    let errors = errors_of("mdt_plugin_api::plugin! { data \"rule\" => Rule: device; }");
    assert_says(&errors, &["no data has an ability `device`"]);
}

#[test]
fn an_optimizer_that_could_not_update_is_an_error_when_it_is_built() {
    let states = "impl TypedStates for Rule {\n    fn states(&self, _: &ParameterSpec) -> Result<Vec<StateSpec>> { Ok(Vec::new()) }\n}\n";
    let errors = errors_of(&format!("{states}mdt_plugin_api::plugin! {{ optimizer \"rule\" => Rule: typed_states; }}"));
    assert_says(&errors, &["an optimizer updates: add the ability `slices`"]);
}
