//! Records cross unchanged, objects give the interfaces that they have, and a panic becomes an error.

use std::cell::Cell;

use super::guard::{Guard, Owner};
use super::object::Imported;
use super::record::{decode, decode_error, encode, encode_error};
use super::table::Table;
use super::{HOST_INTERFACES, comm, compute, data, model, observer, optimizer, root, tokenizer, trainer};
use crate::register::Registration;
use crate::{
    DataSource, Datum, Error, ErrorCode, Event, Example, Kind, Length, Message, Observation, Result, StateSpec,
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

struct Empty;

impl DataSource for Empty {
    fn length(&mut self) -> Result<Length> {
        Ok(Length::Rows(0))
    }

    fn next(&mut self) -> Result<Option<Example>> {
        Ok(None)
    }

    fn state(&self) -> Result<String> {
        Ok(String::new())
    }

    fn restore(&mut self, _state: &str) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_object_gives_the_interfaces_that_it_has_and_no_other() {
    let object = || data::export(Box::new(Empty), Owner::named("data empty 1.0.0"));
    assert!(Imported::<data::DataRows>::of(object(), "it").is_ok());
    let error = Imported::<optimizer::OptimizerSlices>::of(object(), "it").err().unwrap();
    assert!(error.message().contains("does not have the interface optimizer.slices/1"), "{error}");
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

#[test]
fn a_component_of_one_thread_refuses_all_others() {
    let guard = Guard::for_this_thread(Owner::named("compute mlx 1.0.0"));
    guard.call(|| Ok(())).unwrap();
    let error = std::thread::scope(|scope| scope.spawn(|| guard.call(|| Ok(())).unwrap_err()).join().unwrap());
    assert!(error.message().contains("thread"), "{error}");
    // A refused call has touched nothing: the component still works where it lives.
    guard.call(|| Ok(())).unwrap();
}

#[test]
fn an_entry_gives_the_registered_components() {
    let entry = Box::leak(Box::new(root::entry::<()>()));
    // SAFETY: the entry was just made and is never freed.
    let components = unsafe { root::load(std::ptr::from_ref(entry).cast()) }.unwrap();
    assert_eq!(components.len(), Registration::all().len());
}
