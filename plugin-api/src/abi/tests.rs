//! Objects that went through the boundary and back answer as they did before, and what they throw becomes an error.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use super::data::RawExample;
use super::guard::{Guard, Guarded, Owner};
use super::types::{RawError, plain};
use super::{optimizer, root};
use crate::register::Registration;
use crate::{
    Content, Error, ErrorCode, Example, Granularity, HostServices, Kind, LogLevel, Message, Optimizer, Result,
    Services, StateShape, StateSpec, Update,
};

#[test]
fn an_error_crosses_with_all_that_it_says() {
    let error = Error::input("bad row")
        .with("file", "a.jsonl")
        .with("line", 812)
        .caused_by("unexpected end")
        .in_component("data jsonl 1.0.0");
    assert_eq!(Error::from(RawError::from(error.clone())), error);
}

#[test]
fn every_error_code_keeps_its_number() {
    use ErrorCode::{Cancelled, Config, Input, NonFinite, Other, Output, Peer, Plugin};
    for code in [Config, Plugin, Input, Peer, NonFinite, Output, Cancelled, Other] {
        assert_eq!(ErrorCode::from_number(code as u32), code);
    }
    assert_eq!(ErrorCode::from_number(99), Other);
}

#[test]
fn examples_cross_unchanged() {
    let extra = serde_json::json!({ "tool_calls": [{ "id": 1 }] });
    let message = Message {
        role: "assistant".to_owned(),
        content: "ä\0b".to_owned(),
        extra: extra.as_object().cloned().unwrap_or_default(),
    };
    for content in [
        Content::Messages(vec![Message::default(), message]),
        Content::PromptCompletion { prompt: "p".to_owned(), completion: String::new() },
        Content::Text("t".to_owned()),
    ] {
        let example = Example { row: 7, content };
        assert_eq!(RawExample::from(example.clone()).plain().unwrap(), example);
    }
}

#[test]
fn a_kind_is_the_same_in_records_and_in_the_trait() {
    for (kind, version) in [
        (Kind::Compute, crate::__kind_version!(compute)),
        (Kind::Model, crate::__kind_version!(model)),
        (Kind::Trainer, crate::__kind_version!(trainer)),
        (Kind::Optimizer, crate::__kind_version!(optimizer)),
        (Kind::Data, crate::__kind_version!(data)),
        (Kind::Comm, crate::__kind_version!(comm)),
    ] {
        assert_eq!(kind.version(), version);
        assert_eq!(Kind::from_name(kind.name()), Some(kind));
        assert_eq!(Kind::from_number(kind as u32), Some(kind));
    }
}

#[test]
fn a_panic_becomes_an_error_that_names_the_component_and_poisons_it() {
    let guard = Guard::new(Owner::named("optimizer bad 1.0.0"));
    let error = plain(guard.call(|| -> Result<()> { panic!("no {}", "more") })).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Plugin);
    assert_eq!(error.component(), Some("optimizer bad 1.0.0"));
    assert!(error.message().contains("no more"), "{error}");
    assert!(!error.is_after_a_panic());
    let touched = Cell::new(false);
    let refused = plain(guard.call(|| Ok(touched.replace(true)))).unwrap_err();
    assert!(refused.message().contains("no more") && refused.is_after_a_panic() && !touched.get(), "{refused:?}");
}

#[test]
fn every_thread_learns_of_the_panic_that_happened() {
    let guard = Guard::new(Owner::named("trainer bad 1.0.0"));
    let turn = std::sync::Barrier::new(4);
    let errors = std::thread::scope(|scope| {
        let call = |number: usize| {
            let (guard, turn) = (&guard, &turn);
            scope.spawn(move || {
                if number == 3 {
                    let _ = plain(guard.call(|| -> Result<()> { panic!("item 32") }));
                }
                turn.wait();
                plain(guard.call(|| Ok(()))).unwrap_err()
            })
        };
        [0, 1, 2, 3].map(call).map(|thread| thread.join().unwrap())
    });
    for error in errors {
        assert!(error.message().contains("item 32") && error.is_after_a_panic(), "{error:?}");
        assert_eq!(error.component(), Some("trainer bad 1.0.0"));
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("no {}", "farewell");
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl HostServices for Log {
    fn log(&self, level: LogLevel, message: &str) {
        self.0.lock().unwrap().push(format!("{level:?} {message}"));
    }

    fn metric(&self, _name: &str, _value: f64) {}

    fn put(&self, _key: &str, _value: &[u8]) -> Result<()> {
        Ok(())
    }

    fn get(&self, _key: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_panic_in_drop_is_logged_with_the_component() {
    let log = Arc::new(Log::default());
    let owner = Owner::new("optimizer bad 1.0.0".to_owned(), &Services::new(log.clone()));
    drop(Guarded::new(PanicsWhenDropped, owner));
    let lines = log.0.lock().unwrap();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("Warn optimizer bad 1.0.0: ") && line.contains("no farewell"), "{line}");
}

#[test]
fn a_component_of_one_thread_refuses_all_others() {
    let guard = Guard::for_this_thread(Owner::named("compute mlx 1.0.0"));
    plain(guard.call(|| Ok(()))).unwrap();
    let error = std::thread::scope(|scope| scope.spawn(|| plain(guard.call(|| Ok(()))).unwrap_err()).join().unwrap());
    assert!(error.message().contains("thread"), "{error}");
    // A refused call has touched nothing: the component still works where it lives.
    plain(guard.call(|| Ok(()))).unwrap();
}

struct Momentum;

impl Optimizer for Momentum {
    fn states(&self) -> Vec<StateSpec> {
        let scalar = StateSpec { name: "count".to_owned(), shape: StateShape::Scalar, initial: 2.5 };
        vec![StateSpec::zeros("momentum"), scalar]
    }

    fn granularity(&self) -> Granularity {
        Granularity::Tensor
    }

    fn update(
        &self,
        update: &Update<'_>,
        parameter: &mut [f32],
        gradient: &[f32],
        states: &mut [&mut [f32]],
    ) -> Result<()> {
        let [momentum, count] = crate::expect_states(states)?;
        count[0] += update.step as f32;
        for ((p, g), m) in parameter.iter_mut().zip(gradient).zip(momentum.iter_mut()) {
            *m += g;
            *p -= (update.learning_rate * f64::from(*m)) as f32 + update.shape.len() as f32;
        }
        Ok(())
    }
}

#[test]
fn an_optimizer_answers_the_same_before_and_behind_the_boundary() {
    let behind = optimizer::import(optimizer::export(Box::new(Momentum), Owner::named("optimizer momentum 1.0.0")));
    assert_eq!(behind.states(), Momentum.states());
    assert_eq!(behind.granularity(), Momentum.granularity());
    let run = |optimizer: &dyn Optimizer| {
        let (mut parameter, mut momentum, mut count) = ([1.0, 2.0], [0.5, 0.25], [2.5]);
        let update = Update { name: "w", shape: &[2, 1], step: 3, learning_rate: 0.1, weight_decay: 0.0 };
        optimizer.update(&update, &mut parameter, &[0.1, 0.2], &mut [&mut momentum, &mut count]).unwrap();
        (parameter, momentum, count)
    };
    assert_eq!(run(&*behind), run(&Momentum));
    let error = behind
        .update(
            &Update { name: "w", shape: &[2], step: 1, learning_rate: 0.1, weight_decay: 0.0 },
            &mut [1.0, 2.0],
            &[0.1],
            &mut [&mut [0.0, 0.0], &mut [0.0]],
        )
        .unwrap_err();
    assert!(error.message().contains("2 elements here and its gradient 1"), "{error}");
}

#[test]
fn an_entry_gives_the_registered_components() {
    let entry = Box::leak(Box::new(root::entry::<()>()));
    // SAFETY: the entry was just made and is never freed.
    let components = unsafe { root::load(std::ptr::from_ref(entry).cast()) }.unwrap();
    assert_eq!(components.len(), Registration::all().len());
}
