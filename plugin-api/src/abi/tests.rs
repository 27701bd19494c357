//! Objects that went through the boundary and back answer as they did before, and what they throw becomes an error.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use super::guard::{Guard, Guarded, Owner};
use super::object::Imported;
use super::record::{decode, decode_error, encode, encode_error};
use super::table::Table;
use super::{HOST_INTERFACES, across, comm, compute, data, model, observer, optimizer, root, tokenizer, trainer};
use crate::register::{OptimizerComponent, Registration};
use crate::{
    Datum, Error, ErrorCode, Event, Example, Granularity, HostServices, Init, Initial, Kind, LogLevel, Message,
    Metrics, Observation, Observer, Optimizer, ParameterSpec, Result, Role, Services, StateShape, StateSpec, Update,
};

#[test]
fn an_error_crosses_with_all_that_it_says() {
    let error = Error::input("bad row")
        .with("file", "a.jsonl")
        .with("line", 812)
        .caused_by("unexpected end")
        .in_component("data jsonl 1.0.0");
    assert_eq!(decode_error(&encode_error(&error)), error);
}

#[test]
fn every_error_code_keeps_its_number() {
    use ErrorCode::{Cancelled, Config, Input, NonFinite, Other, Output, Peer, Plugin};
    for code in [Config, Plugin, Input, Peer, NonFinite, Output, Cancelled, Other] {
        assert_eq!(ErrorCode::from(code as u32), code);
    }
    assert_eq!(ErrorCode::from(99), Other);
}

#[test]
fn examples_cross_unchanged() {
    let extra = serde_json::json!({ "tool_calls": [{ "id": 1 }] });
    let message = Message {
        role: "assistant".to_owned(),
        content: "ä\0b".to_owned(),
        extra: extra.as_object().cloned().unwrap_or_default(),
    };
    let example = Example::new(7)
        .with("messages", vec![Message::new("user", ""), message])
        .with("nothing", Datum::Null)
        .with("truth", true)
        .with("small", -3)
        .with("large", u64::MAX)
        .with("smallest", i64::MIN)
        .with("real", 0.1)
        .with("infinite", f64::NEG_INFINITY)
        .with("text", "ä\0b")
        .with("bytes", vec![0u8, 255])
        .with("list", vec![Datum::from(1), Datum::from("a"), Datum::List(Vec::new())])
        .with("map", vec![("b".to_owned(), Datum::from(2.0)), ("a".to_owned(), Datum::Map(Vec::new()))]);
    assert_eq!(decode::<Example>(&encode(&example).unwrap()).unwrap(), example);
    assert!(encode(&Example::new(7).with("beyond", Datum::Integer(i128::MAX))).is_err());
}

#[test]
fn a_kind_has_the_same_interfaces_in_records_and_in_tables() {
    for (kind, record, needs, interface) in [
        (Kind::Compute, crate::__interface!(compute), crate::__needs!(compute), compute::ComputeTensors::NAME),
        (Kind::Model, crate::__interface!(model), crate::__needs!(model), model::ModelForward::NAME),
        (Kind::Tokenizer, crate::__interface!(tokenizer), crate::__needs!(tokenizer), tokenizer::TokenizerText::NAME),
        (Kind::Trainer, crate::__interface!(trainer), crate::__needs!(trainer), trainer::TrainerObjective::NAME),
        (
            Kind::Optimizer,
            crate::__interface!(optimizer slices),
            crate::__needs!(optimizer),
            optimizer::OptimizerSlices::NAME,
        ),
        (Kind::Data, crate::__interface!(data), crate::__needs!(data), data::DataRows::NAME),
        (Kind::Comm, crate::__interface!(comm), crate::__needs!(comm), comm::CommBackends::NAME),
        (Kind::Observer, crate::__interface!(observer), crate::__needs!(observer), observer::ObserverEvents::NAME),
    ] {
        assert_eq!(kind.interfaces()[0], interface);
        assert_eq!(record, interface);
        assert_eq!(Kind::from_name(kind.name()), Some(kind));
        let needs: Vec<String> = serde_json::from_str(&format!("[{needs}]")).unwrap();
        assert!(needs.iter().all(|name| HOST_INTERFACES.contains(&name.as_str())), "{needs:?}");
    }
}

#[test]
fn a_record_passes_over_unknown_fields_unless_it_says_that_it_needs_them() {
    let record = |extra: serde_json::Value| {
        let mut record =
            serde_json::json!({ "name": "momentum", "shape": "Parameter", "dtype": 8, "initial": { "Value": 0.0 } });
        record.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        decode::<StateSpec>(&encode(&record).unwrap())
    };
    assert_eq!(record(serde_json::json!({})).unwrap(), StateSpec::zeros("momentum"));
    let newer = serde_json::json!({ "sharded": true });
    assert_eq!(record(newer).unwrap(), StateSpec::zeros("momentum"));
    let error = record(serde_json::json!({ "sharded": true, "needs": ["sharded"] })).unwrap_err();
    assert!(error.message().contains("StateSpec") && error.message().contains("`sharded`"), "{error}");
    assert!(record(serde_json::json!({ "needs": ["initial"] })).is_ok());
}

#[test]
fn a_record_that_is_cut_or_wrong_is_an_error() {
    let bytes = encode(&StateSpec::zeros("momentum")).unwrap();
    for end in 0..bytes.len() {
        assert!(decode::<StateSpec>(&bytes[..end]).is_err());
    }
    let deep = [[0x81u8; 100_000].as_slice(), &[0x00]].concat();
    assert!(decode::<serde_json::Value>(&deep).is_err());
    // A length of 2^62 is no reason to reserve that much.
    assert!(decode::<Vec<u64>>(&[0x9b, 0x40, 0, 0, 0, 0, 0, 0, 0]).is_err());
}

#[test]
fn an_object_gives_the_interfaces_that_it_has_and_no_other() {
    let object =
        || optimizer::export(OptimizerComponent::new(Arc::new(Momentum)), Owner::named("optimizer momentum 1.0.0"));
    assert!(Imported::<optimizer::OptimizerSlices>::of(object(), "it").is_ok());
    let error = Imported::<data::DataRows>::of(object(), "it").err().unwrap();
    assert!(error.message().contains("does not have the interface data.rows/1"), "{error}");
}

/// An observer that fails and panics where an update says so.
struct Moody;

impl Observer for Moody {
    fn observe(&mut self, observation: &Observation) -> Result<()> {
        match &observation.event {
            Event::Updated(metrics) if metrics.update == 2 => Err(Error::other("no").with("update", 2)),
            Event::Updated(metrics) if metrics.update == 3 => panic!("never"),
            Event::Unknown => Err(Error::other("an event of another version")),
            _ => Ok(()),
        }
    }
}

#[test]
fn an_observer_answers_alike_native_and_across_the_boundary() {
    let updated = |update| Event::Updated(Metrics { update, values: [("loss".to_owned(), f64::NAN)].into() });
    let told = |event| Observation { unix_time_s: 1.5, event };
    let (mut native, mut crossed) = (Moody, across::observer(Box::new(Moody)).unwrap());
    for event in [updated(1), updated(2), Event::Finished, Event::Unknown] {
        let (native, crossed) = (native.observe(&told(event.clone())), crossed.observe(&told(event)));
        let crossed = crossed.map_err(|error| {
            assert_eq!(error.component(), Some("component under test"));
            error.message().to_owned()
        });
        assert_eq!(crossed, native.map_err(|error| error.message().to_owned()));
    }
    let panic = crossed.observe(&told(updated(3))).unwrap_err();
    assert!(panic.message().contains("the plugin panicked: never"), "{panic}");
    let after = crossed.observe(&told(updated(1))).unwrap_err();
    assert!(after.is_after_a_panic(), "{after}");
}

#[test]
fn an_event_of_a_later_version_is_unknown_and_no_error() {
    let later = serde_json::json!({ "unix_time_s": 1.0, "event": { "event": "rewound", "update": 3 } });
    let read: Observation = decode(&encode(&later).unwrap()).unwrap();
    assert_eq!(read.event, Event::Unknown);
    let more = serde_json::json!({ "unix_time_s": 1.0, "event": { "event": "finished", "loss": 3 }, "rank": 1 });
    assert_eq!(decode::<Observation>(&encode(&more).unwrap()).unwrap().event, Event::Finished);
}

#[test]
fn a_panic_becomes_an_error_that_names_the_component_and_poisons_it() {
    let guard = Guard::new(Owner::named("optimizer bad 1.0.0"));
    let error = guard.call(|| -> Result<()> { panic!("no {}", "more") }).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Plugin);
    assert_eq!(error.component(), Some("optimizer bad 1.0.0"));
    assert!(error.message().contains("no more"), "{error}");
    assert!(!error.is_after_a_panic());
    let touched = Cell::new(false);
    let refused = guard.call(|| Ok(touched.replace(true))).unwrap_err();
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
                    let _ = guard.call(|| -> Result<()> { panic!("item 32") });
                }
                turn.wait();
                guard.call(|| Ok(())).unwrap_err()
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
    guard.call(|| Ok(())).unwrap();
    let error = std::thread::scope(|scope| scope.spawn(|| guard.call(|| Ok(())).unwrap_err()).join().unwrap());
    assert!(error.message().contains("thread"), "{error}");
    // A refused call has touched nothing: the component still works where it lives.
    guard.call(|| Ok(())).unwrap();
}

struct Momentum;

impl Optimizer for Momentum {
    fn states(&self) -> Vec<StateSpec> {
        let count = StateSpec::zeros("count").with_shape(StateShape::Scalar).with_initial(Initial::Value(2.5));
        vec![StateSpec::zeros("momentum"), count]
    }

    fn granularity(&self, _parameter: &ParameterSpec) -> Granularity {
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
    let behind = super::across::optimizer(OptimizerComponent::new(Arc::new(Momentum))).unwrap().slices.unwrap();
    assert_eq!(behind.states(), Momentum.states());
    let parameter = ParameterSpec::new("w", [2], Role::Other, Init::Ones);
    assert_eq!(behind.granularity(&parameter), Granularity::Tensor);
    let run = |optimizer: &dyn Optimizer| {
        let (mut parameter, mut momentum, mut count) = ([1.0, 2.0], [0.5, 0.25], [2.5]);
        let update = Update { step: 3, learning_rate: 0.1, ..Update::first("w", &[2, 1]) };
        optimizer.update(&update, &mut parameter, &[0.1, 0.2], &mut [&mut momentum, &mut count]).unwrap();
        (parameter, momentum, count)
    };
    assert_eq!(run(&*behind), run(&Momentum));
    let error = behind
        .update(&Update::first("w", &[2]), &mut [1.0, 2.0], &[0.1], &mut [&mut [0.0, 0.0], &mut [0.0]])
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
