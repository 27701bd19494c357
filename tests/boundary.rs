//! Plugins that were built with another version of the boundary, in real runs of today's host: the versions are today's with
//! deliberate edits, in every kind.

use mdt_tests::boundary::{Edit, Version, assert_same, job_with, transcript};
use mdt_tests::{Job, assert_says, built, library};

/// A kind with the file of its tables and the type that is exported.
const KINDS: [(&str, &str, &str); 8] = [
    ("compute", "compute", "Rc<dyn Compute>: ComputeTensors"),
    ("model", "model", "ModelComponent: ModelForward"),
    ("tokenizer", "tokenizer", "Arc<dyn Tokenizer>: TokenizerText"),
    ("trainer", "trainer", "TrainerComponent:\n        TrainerObjective"),
    ("optimizer", "optimizer", "OptimizerComponent:\n        OptimizerSlices if slices"),
    ("data", "data", "Source: DataRows"),
    ("comm", "comm", "OwnedBackend: CommBackends"),
    ("observer", "observer", "Watching: ObserverEvents"),
];

fn edit(file: &str, from: &str, to: &str) -> Edit {
    (file.to_owned(), from.to_owned(), to.to_owned())
}

/// The text with more behind it.
fn more(file: &str, text: &str, added: &str) -> Edit {
    edit(file, text, &format!("{text}{added}"))
}

const VERSION: &str = "plugin-api/src/abi/version.rs";
const COMPONENT: &str = "plugin-api/src/component.rs";
const REGISTER: &str = "plugin-api/src/register.rs";
const PLUGIN: &str = "tests/plugins/every_kind/src/lib.rs";

/// What a later version may have: in every kind an interface; a field of every record; an operation; a kind.
fn growth() -> Vec<Edit> {
    let mut edits = vec![
        edit("Cargo.toml", "version = \"0.1.0\"", "version = \"0.9.3\""),
        more(
            "plugin-api/src/op/table.rs",
            "        dropout;\n",
            "    /// Later.\n    LATER = 9_998, \"later\", primitive, 1..=1, 0b1, Any, NONE, same;\n",
        ),
        // Interfaces, in the records of a file and in tables.
        edit(
            VERSION,
            "$crate::__interface!(optimizer $ability),)* \"\\\"\")",
            "$crate::__interface!(optimizer $ability),)* \"\\\",\\\"optimizer.later/1\\\"\")",
        ),
        edit(
            VERSION,
            "$crate::__interface!($kind $ability),)* \"\\\"\")",
            "$crate::__interface!($kind $ability),)* \"\\\",\\\"\", stringify!($kind), \".later/1\\\"\")",
        ),
        // Fields of records, but for those that are enumerations or have names of their user's.
        edit(
            "plugin-api/src/abi/record.rs",
            "    let mut bytes = Vec::new();\n",
            "    fn grow(value: &mut ciborium::Value) {\n        match value {\n            \
             ciborium::Value::Map(fields) => fields.push((\"later\".into(), vec![ciborium::Value::Null].into())),\n            \
             ciborium::Value::Array(items) => items.iter_mut().for_each(grow),\n            _ => {}\n        }\n    }\n    \
             let mut bytes = Vec::new();\n    \
             let mut later = ciborium::Value::serialized(value).map_err(|error| Error::plugin(error.to_string()))?;\n    \
             if ![\"Value\", \"Granularity\", \"Length\", \"Datum>\"].iter().any(|end| std::any::type_name::<T>().ends_with(end)) {\n        \
             grow(&mut later);\n    }\n    let value = &later;\n",
        ),
        // A kind, whose components are used as observers are.
        more(COMPONENT, "    /// What is told of a run.\n    Observer,\n", "    /// Later.\n    Later,\n"),
        edit(COMPONENT, "[Self; 8]", "[Self; 9]"),
        more(COMPONENT, "        Self::Observer,\n", "        Self::Later,\n"),
        more(COMPONENT, "            Self::Observer => \"observer\",\n", "            Self::Later => \"later\",\n"),
        more(
            COMPONENT,
            "            Self::Observer => &[crate::__interface!(observer)],\n",
            "            Self::Later => &[\"later.does/1\"],\n",
        ),
        more(
            REGISTER,
            "    Observer(Make<Box<dyn Observer>>),\n",
            "    /// Later.\n    Later(Make<Box<dyn Observer>>),\n",
        ),
        more(
            REGISTER,
            "            Self::Observer(_) => Kind::Observer,\n",
            "            Self::Later(_) => Kind::Later,\n",
        ),
        edit(
            REGISTER,
            "    (observer $type:ty:) => {\n",
            "    (later $type:ty:) => {\n        $crate::register::Create::Later(|config, setup| {\n            \
             Ok(::std::boxed::Box::new($crate::register::create::<$type>(config, setup)?))\n        })\n    };\n    \
             (observer $type:ty:) => {\n",
        ),
        edit(
            VERSION,
            "    (observer) => {\n",
            "    (later) => {\n        \"later.does/1\"\n    };\n    (observer) => {\n",
        ),
        more(
            "plugin-api/src/abi/component.rs",
            "            Create::Observer(create) => observer::export(create(config, setup)?, owner),\n",
            "            Create::Later(create) => observer::export(create(config, setup)?, owner),\n",
        ),
        more(
            PLUGIN,
            "    observer \"every_kind\" => observer::Listener;\n",
            "    later \"every_kind\" => observer::Listener;\n",
        ),
    ];
    for (kind, file, exported) in KINDS {
        let file = format!("plugin-api/src/abi/{file}.rs");
        let exporter = exported.split(':').next().expect("a type");
        edits.push(edit(
            &file,
            "\nexports! {",
            &format!(
                "\ninterfaces! {{\n    /// Later.\n    \"{kind}.later/1\" LaterTable LaterFunctions {{\n        /// Later.\n        \
                 fn later(number: u64);\n    }}\n}}\n\
                 impl LaterFunctions for {exporter} {{\n    fn later(&self, _: u64) -> Result<()> {{\n        Ok(())\n    }}\n}}\n\
                 \nexports! {{"
            ),
        ));
        edits.push(edit(&file, exported, &exported.replacen(':', ": LaterTable,", 1)));
    }
    edits
}

/// A job in which the component of this kind is the one of the version.
fn only(kind: &str, version: &Version) -> Job {
    let job = Job::new().argument("--plugin-dir").argument(version.plugins().display().to_string());
    match kind {
        "observer" => job.set("observers", "[\"every_kind\"]"),
        kind => job.set(&format!("{kind}.use"), "every_kind"),
    }
}

// One test: the builds take turns, and use each other's dependencies.
#[test]
fn a_plugin_of_another_boundary_works_or_is_refused_by_name_in_every_kind() {
    let later = Version::edited("later", &growth(), &["--workspace"]);
    let job = later.job();
    job.run().success();
    let today = job_with(built());
    today.run().success();
    assert_eq!(job.numbers("loss"), today.numbers("loss"));
    assert!(job.final_weights() == today.final_weights(), "the models differ");
    let (program, plugin) = (built().join("every-kind"), library("mdt_test_every_kind"));
    assert_same(&transcript(&program, None), &transcript(&program, Some(&later.every_kind())));
    assert_same(&transcript(&later.program(), None), &transcript(&later.program(), Some(&plugin)));
    assert_says(&job.run_with(&["plugin", "inspect", "adamw"]).success().stdout, &["optimizer.later/1"]);
    let inspected = job.run_with(&["plugin", "inspect", "every_kind"]).success().stdout;
    for (kind, ..) in KINDS {
        assert_says(&inspected, &[&format!("{kind}.later/1")]);
    }

    // What a component needs and this host does not have is named, before code of the plugin runs.
    let needs = edit(VERSION, "r#\"\"host.services/1\"", "r#\"\"host.services/1\",\"host.later/1\"");
    let needs = Version::edited("needs_more", &[needs], &["--package", "mdt-test-every-kind"]);
    for (kind, ..) in KINDS {
        let failure = only(kind, &needs).run().failure(3);
        let refused = format!("this host cannot use the {kind} `every_kind`");
        assert_says(&failure, &[&refused, "it needs host.later/1, which this host does not have"]);
    }

    // A function of each kind's table has another name, one argument is at another place.
    let changes = [
        ("compute", "memory_in_use", "memory_used"),
        ("model", "describe() -> ModelSpec", "described() -> ModelSpec"),
        ("model", "fn describe(&self) -> Result<ModelSpec>", "fn described(&self) -> Result<ModelSpec>"),
        ("model", "functions.describe()", "functions.described()"),
        ("tokenizer", "decode_tokens", "read_tokens"),
        ("trainer", "collate_items", "make_batch"),
        (
            "optimizer",
            "        planned_steps: u64,\n        learning_rate: f64,\n",
            "        learning_rate: f64,\n        planned_steps: u64,\n",
        ),
        ("data", "next_rows", "more_rows"),
        ("comm", "fn connect(", "fn open_with("),
        ("comm", "self.connect(", "self.open_with("),
        ("observer", "observe_event", "tell_event"),
    ];
    let changes = changes.map(|(file, from, to)| edit(&format!("plugin-api/src/abi/{file}.rs"), from, to));
    // A trainer is refused by the tokenizer's table before its own, so that this one is by itself.
    let (tokenizer, others): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|(file, ..)| file.ends_with("tokenizer.rs"));
    let every_kind = &["--package", "mdt-test-every-kind"];
    let changed_tokenizer = Version::edited("changed_tokenizer", &tokenizer, every_kind);
    let changed = Version::edited("changed_tables", &others, every_kind);
    for (kind, interface, version) in [
        ("compute", "compute.tensors/1", &changed),
        ("model", "model.forward/1", &changed),
        ("tokenizer", "tokenizer.text/1", &changed_tokenizer),
        ("trainer", "trainer.objective/1", &changed),
        ("optimizer", "optimizer.slices/1", &changed),
        ("data", "data.rows/1", &changed),
        ("comm", "comm.backend/1", &changed),
        ("observer", "observer.events/1", &changed),
    ] {
        let failure = only(kind, version).run().failure(3);
        assert_says(&failure, &[&format!("its interface {interface} is not the one of this name here")]);
    }
}
