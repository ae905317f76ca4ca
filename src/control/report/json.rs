//! Events as JSON lines for programs. `docs/json-events.md` describes them.

use std::{
    io::{self, Write},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::follow::Reporter;
use crate::control::event::RunEvent;

/// Version of the lines. Members may be added within a version; a member that goes or changes its meaning raises it.
pub const JSON_SCHEMA: u32 = 1;

/// Writes one object a line, flushed, so that a reader sees each event when it happens.
pub(super) struct JsonReporter {
    out: Box<dyn Write + Send>,
    failed: Option<io::Error>,
}

impl JsonReporter {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, failed: None }
    }

    fn write(&mut self, event: &RunEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(&line(event, unix_millis())?)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

impl Reporter for JsonReporter {
    fn event(&mut self, event: &RunEvent, _: Instant) {
        if self.failed.is_none() {
            self.failed = self.write(event).err();
        }
    }

    fn tick(&mut self, _: Instant) {}

    fn finish(&mut self) -> io::Result<()> {
        self.failed.take().map_or_else(|| self.out.flush(), Err)
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The object for one event: `schema`, `time`, then the event's own members.
fn line(event: &RunEvent, time: u64) -> io::Result<Value> {
    let mut line = Map::new();
    line.insert("schema".into(), JSON_SCHEMA.into());
    line.insert("time".into(), time.into());
    if let Value::Object(members) = serde_json::to_value(event)? {
        line.extend(members);
    }
    if let Some(outcome) = line.get_mut("outcome") {
        tag(outcome, "is");
    }
    let changes = line.get_mut("diff").and_then(|diff| diff.get_mut("changes")).and_then(Value::as_array_mut);
    let details = changes.into_iter().flatten().filter_map(|change| change.get_mut("details")?.as_array_mut());
    details.flatten().for_each(|detail| tag(detail, "kind"));
    Ok(Value::Object(line))
}

/// `"x"` and `{"x": {..}}` become `{"<name>": "x", ..}`: the wire's form of an enum is awkward to query.
fn tag(value: &mut Value, name: &str) {
    let members = match value.take() {
        Value::String(variant) => Map::from_iter([(name.to_owned(), Value::String(variant))]),
        Value::Object(object) => {
            let mut members = Map::new();
            for (variant, inner) in object {
                members.insert(name.to_owned(), Value::String(variant));
                if let Value::Object(inner) = inner {
                    members.extend(inner);
                }
            }
            members
        }
        other => {
            *value = other;
            return;
        }
    };
    *value = Value::Object(members);
}
