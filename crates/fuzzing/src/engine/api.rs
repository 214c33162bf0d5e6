//! Requests and replies on the manager's socket: a parsed one says what the text says, and survives a round trip.

use bygone_api::{Call, Reply, Request, call};
use serde_json::Value;

use crate::formats::json::{comes_back, is_exact};

/// See the module's comment. Input: a line.
pub fn api(bytes: &[u8]) {
    let value = serde_json::from_slice::<Value>(bytes).ok();
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let said = value.as_ref().unwrap();
        let again = serde_json::to_value(&request).unwrap();
        // A request is an object with its name, or something like a list.
        if let Some(name) = said.get("request") {
            assert_eq!(name, &again["request"]);
        }
        for (key, value) in again.as_object().unwrap() {
            let left_out = value.is_null() || *value == Value::Bool(false) || key == "config";
            if said.is_object() && !left_out {
                assert!(says_at_least(said.get(key).unwrap(), value), "{key}: {value} of {said}");
            }
        }
        comes_back(&request);
        assert!(said.get("request").is_none_or(|name| name == request.name()));
    }
    if value.as_ref().is_some_and(is_exact) {
        if let Ok(reply) = serde_json::from_slice::<Reply<Value, Value>>(bytes) {
            comes_back(&reply);
        }
        reply::<call::Status>(bytes);
        reply::<call::TargetList>(bytes);
        reply::<call::TargetRemove>(bytes);
        reply::<call::Run>(bytes);
        reply::<call::Export>(bytes);
        reply::<call::Timeline>(bytes);
        reply::<call::BranchList>(bytes);
        reply::<call::Restore>(bytes);
        reply::<call::Verify>(bytes);
        reply::<call::Compact>(bytes);
    }
}

/// A line as the client of a call reads it.
fn reply<C: Call>(bytes: &[u8])
where
    C::Item: PartialEq,
    C::Answer: PartialEq,
{
    if let Ok(reply) = serde_json::from_slice::<Reply<C::Item, C::Answer>>(bytes) {
        comes_back(&reply);
    }
}

/// Whether everything in `less` is in `more`, or is a default that may be left out.
fn says_at_least(more: &Value, less: &Value) -> bool {
    match (more, less) {
        (Value::Object(more), Value::Object(less)) => less.iter().all(|(key, less)| {
            more.get(key).map_or_else(|| less.is_null(), |more| says_at_least(more, less))
        }),
        (Value::Array(more), Value::Array(less)) => {
            more.len() == less.len() && more.iter().zip(less).all(|(more, less)| says_at_least(more, less))
        }
        // serde also accepts a list for a structure.
        (Value::Array(_), Value::Object(_)) => true,
        _ => more == less,
    }
}
