//! A generic gRPC client asks a running job how it is doing.

use std::time::{Duration, Instant};

use mdt_tests::free_port;
use prost_reflect::{DynamicMessage, Value};

use super::grpc_client::Client;
use super::{TOKEN, job, start_rank};

fn field(message: &DynamicMessage, name: &str) -> Value {
    message.get_field_by_name(name).unwrap_or_else(|| panic!("no field {name}")).into_owned()
}

#[test]
fn a_client_with_the_token_sees_the_ranks_their_devices_and_how_far_training_has_come() {
    let (port, status_port) = (free_port(), free_port());
    let job = job(1).set("trainer.max_steps", 2000).set("checkpoint.save_steps", 0);
    let job = job.set("comm.status_port", status_port).set("observers", r#"["job_status"]"#);
    let mut ranks = [0, 1].map(|rank| start_rank(&job, rank, port));
    ranks[0].wait_until(|| job.lines_so_far() >= 5);
    let begin = Instant::now();
    let (status, training) = loop {
        let client = Client::connect(status_port, Some(TOKEN));
        assert!(client.services().expect("reflection").contains(&"mdt.job.v1.JobStatus".to_owned()));
        let status = client.call("mdt.job.v1.JobStatus", "GetStatus").expect("the status");
        // An observer hears of an update a little later.
        let training = field(&status, "training").as_message().expect("the observer is told").clone();
        if training.has_field_by_name("loss") {
            break (status, training);
        }
        assert!(begin.elapsed() < Duration::from_secs(30));
    };
    assert_eq!(field(&status, "state"), Value::EnumNumber(2), "RUNNING");
    assert!(field(&status, "collectives").as_u64().is_some_and(|count| count > 5));
    assert_eq!(field(&training, "updates"), Value::U64(2000));
    assert!(field(&training, "update").as_u64().is_some_and(|update| update > 0));
    assert!(field(&training, "loss").as_f64().is_some_and(|loss| loss > 0.0));
    let ranks_seen = field(&status, "ranks");
    let ranks_seen = ranks_seen.as_list().expect("a list");
    assert_eq!(ranks_seen.len(), 2);
    for rank in ranks_seen {
        let device = field(rank.as_message().expect("a rank"), "device").as_message().expect("a device").clone();
        assert_eq!(field(&device, "threads"), Value::U32(1));
        assert!(field(&device, "library").as_str().is_some_and(|library| library.starts_with("MLX ")));
    }
    let refused = Client::connect(status_port, Some("another token of more than 32 characters"));
    assert_eq!(refused.services().expect_err("no token").code(), tonic::Code::Unauthenticated);
    ranks.iter().for_each(|rank| rank.signal("INT"));
    for rank in ranks {
        assert_eq!(rank.end().status, Some(130));
    }
}
