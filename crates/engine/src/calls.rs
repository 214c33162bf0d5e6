//! Dispatches requests to their handlers, and converts between typed and JSON answers.
//!
//! Handlers and clients see only the types of their [`Call`]. In between, items and answers are JSON, even if client
//! and manager are one process: so a command behaves the same with a running manager and without one.

use bygone_store::env::Clock;
use jiff::{
    Timestamp, Zoned,
    fmt::temporal::{DateTimeParser, DateTimePrinter},
    tz::TimeZone,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::{Answers, Call, Caller, Items, Progress, Request},
    error::{Error, Result, Usage},
    manager::Manager,
};

/// Handles a call. The handlers are in `manager/`, by subject.
pub(crate) trait Handle<C: Call> {
    /// # Errors
    /// When the request fails.
    fn handle(&self, call: &C, answers: &mut dyn Items<C::Item>) -> Result<C::Answer>;
}

impl Manager {
    /// Passes a request to its handler.
    ///
    /// # Errors
    /// When the request fails.
    pub(crate) fn do_now(&self, request: &Request, answers: &mut dyn Items<Value>) -> Result<Value> {
        match request {
            Request::Status(call) => through(self, call, answers),
            Request::TargetAdd(call) => through(self, call, answers),
            Request::TargetList(call) => through(self, call, answers),
            Request::TargetShow(call) => through(self, call, answers),
            Request::TargetSet(call) => through(self, call, answers),
            Request::TargetRemove(call) => through(self, call, answers),
            Request::TargetRemoved(call) => through(self, call, answers),
            Request::TargetRestore(call) => through(self, call, answers),
            Request::TargetRepair(call) => through(self, call, answers),
            Request::Run(call) => through(self, call, answers),
            Request::Wait(call) => through(self, call, answers),
            Request::Stop(call) => through(self, call, answers),
            Request::Export(call) => through(self, call, answers),
            Request::Timeline(call) => through(self, call, answers),
            Request::When(call) => through(self, call, answers),
            Request::Point(call) => through(self, call, answers),
            Request::Points(call) => through(self, call, answers),
            Request::BranchList(call) => through(self, call, answers),
            Request::BranchPromote(call) => through(self, call, answers),
            Request::BranchDrop(call) => through(self, call, answers),
            Request::Undo(call) => through(self, call, answers),
            Request::Restore(call) => through(self, call, answers),
            Request::Plan(call) => through(self, call, answers),
            Request::Jobs(call) => through(self, call, answers),
            Request::Job(call) => through(self, call, answers),
            Request::JobCancel(call) => through(self, call, answers),
            Request::Verify(call) => through(self, call, answers),
            Request::Compact(call) => through(self, call, answers),
            Request::Shutdown(call) => through(self, call, answers),
        }
    }
}

/// The current time, in the time zone of this process.
pub(crate) fn now(clock: &dyn Clock) -> Zoned {
    let now = Timestamp::from_microsecond(clock.wall().0).unwrap_or(Timestamp::MAX);
    now.to_zoned(TimeZone::system())
}

/// The current time, in the client's time zone; in this process's, if the client's is unknown here.
pub(crate) fn asked_at<A: Answers + ?Sized>(clock: &dyn Clock, answers: &A) -> Zoned {
    let zone = answers.caller().zone.as_deref();
    let zone = zone.and_then(|zone| DateTimeParser::new().parse_time_zone(zone).ok());
    let now = now(clock);
    zone.map_or_else(|| now.clone(), |zone| now.with_time_zone(zone))
}

/// The time zone of this process, in a form that another process can parse.
pub(crate) fn own_zone() -> Option<String> {
    let now = Zoned::now();
    // A zone without a name (from a file) is sent as its offset, which is better than the manager's zone.
    let named = DateTimePrinter::new().time_zone_to_string(now.time_zone());
    named.or_else(|_| DateTimePrinter::new().time_zone_to_string(&now.offset().to_time_zone())).ok()
}

fn through<C: Call>(manager: &Manager, call: &C, answers: &mut dyn Items<Value>) -> Result<Value>
where
    Manager: Handle<C>,
{
    let mut out = Out { answers, unsaid: None };
    let answer = manager.handle(call, &mut out)?;
    match out.unsaid {
        Some(error) => Err(error),
        None => value(&answer),
    }
}

fn value<T: Serialize>(said: &T) -> Result<Value> {
    // Fails for a path that is not UTF-8.
    serde_json::to_value(said).map_err(|e| Usage::BadRequest(e.to_string()).into())
}

/// Serializes the items and passes them on.
struct Out<'a> {
    answers: &'a mut dyn Items<Value>,
    /// Why an item could not be serialized.
    unsaid: Option<Error>,
}

impl Answers for Out<'_> {
    fn caller(&self) -> &Caller {
        self.answers.caller()
    }

    fn progress(&mut self, progress: Progress) -> bool {
        self.answers.progress(progress)
    }

    fn note(&mut self, text: String) {
        self.answers.note(text);
    }

    fn wanted(&mut self) -> bool {
        self.unsaid.is_none() && self.answers.wanted()
    }
}

impl<I: Serialize> Items<I> for Out<'_> {
    fn item(&mut self, item: I) -> bool {
        match value(&item) {
            Ok(item) => self.answers.item(item),
            Err(error) => {
                self.unsaid = Some(error);
                false
            }
        }
    }
}

/// Deserializes the items for the client that made the call `C`.
pub(crate) struct In<'a, C: Call> {
    answers: &'a mut dyn Items<C::Item>,
    /// Why an item could not be deserialized.
    misread: Option<Error>,
}

impl<'a, C: Call> In<'a, C> {
    pub(crate) fn new(answers: &'a mut dyn Items<C::Item>) -> In<'a, C> {
        In { answers, misread: None }
    }

    /// Deserializes the answer.
    ///
    /// # Errors
    /// The failure of the call, or why an item or the answer could not be deserialized.
    pub(crate) fn end(self, answer: Result<Value>) -> Result<C::Answer> {
        match self.misread {
            Some(error) => Err(error),
            None => serde_json::from_value(answer?).map_err(|e| misread(&e)),
        }
    }
}

fn misread(e: &serde_json::Error) -> Error {
    Usage::BadRequest(e.to_string()).into()
}

impl<C: Call> Answers for In<'_, C> {
    fn caller(&self) -> &Caller {
        self.answers.caller()
    }

    fn progress(&mut self, progress: Progress) -> bool {
        self.answers.progress(progress)
    }

    fn note(&mut self, text: String) {
        self.answers.note(text);
    }

    fn wanted(&mut self) -> bool {
        self.misread.is_none() && self.answers.wanted()
    }
}

impl<C: Call> Items<Value> for In<'_, C> {
    fn item(&mut self, item: Value) -> bool {
        match serde_json::from_value(item) {
            Ok(item) => self.answers.item(item),
            Err(e) => {
                self.misread = Some(misread(&e));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

    use super::*;
    use crate::{
        api::{Exported, call},
        serve::Nobody,
    };

    #[test]
    fn a_path_that_is_no_text_is_refused_and_not_said_wrong() {
        let mut nobody = Nobody;
        let mut out = Out { answers: &mut nobody, unsaid: None };
        let odd: &Path = OsStr::from_bytes(b"/srv/\xff.img").as_ref();
        assert!(!out.item(odd));
        assert!(!Answers::wanted(&mut out));
        assert!(matches!(out.unsaid, Some(Error::Usage(Usage::BadRequest(_)))));
    }

    #[test]
    fn an_item_of_another_shape_is_a_failure_whatever_the_answer_is() {
        let mut nobody = Nobody;
        let mut answers = In::<call::Export>::new(&mut nobody);
        assert!(!answers.item(Value::from("served")));
        assert!(!answers.wanted());
        let exported = Exported {
            what: "web".to_owned(),
            at: "/x".to_owned(),
            size_bytes: 512,
            read_only: true,
            seq: None,
            moment: None,
            lost: Vec::new(),
        };
        let answer = value(&exported);
        assert!(answers.end(answer).is_err());
    }
}
