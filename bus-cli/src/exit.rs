//! How a command ends: the message for the user and the exit code for the script.

use bus_shm::dead_letters::{ReplayError, ReplayRefused};
use bus_shm::{
    AttachError, BusError, MailboxError, PublishError, ReceiptError, ReceiveError, RegionError, TopicError,
};
use rustix::io::Errno;
use std::fmt::Display;
use std::io;
use std::process::ExitCode;

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Anything else that went wrong.
    Error = 1,
    /// A flag, a name or a value that is not allowed.
    Usage = 2,
    /// The bus, the topic or the message is not there.
    NotFound = 3,
    /// It did not happen in time.
    TimedOut = 4,
    /// A threshold that was given has been passed.
    Threshold = 5,
    /// Not permitted, or incompatible with what exists.
    Refused = 6,
    /// A message that was waited for became a dead letter.
    DeadLettered = 7,
    /// Its time to live was over.
    Expired = 8,
    /// The group did not take it.
    NotTaken = 9,
}

/// Why a command ends before its work is done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// With a message on standard error.
    Said(Code, String),
    /// Without a word: a closed pipe, a signal, or something that has been said already.
    Quiet(u8),
}

/// What a command comes to.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(code: Code, message: impl Display) -> Self {
        Failure::Said(code, message.to_string())
    }

    /// Writing to standard output failed. A reader that has gone away is the usual end of a pipeline.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::Quiet(0);
        }
        Failure::new(Code::Error, format_args!("cannot write to standard output: {error}"))
    }

    /// A file or stream that the user named.
    pub(crate) fn input(what: impl Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            io::ErrorKind::PermissionDenied => Code::Refused,
            _ => Code::Error,
        };
        Failure::new(code, format_args!("cannot read {what}: {error}"))
    }
}

/// Says what is to be said and returns the exit code.
pub(crate) fn code_of(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Quiet(code)) => ExitCode::from(code),
        Err(Failure::Said(code, message)) => {
            crate::output::complain(&message);
            ExitCode::from(code as u8)
        }
    }
}

fn code_of_region(error: &RegionError) -> Code {
    match error {
        RegionError::Mismatch { .. } => Code::Refused,
        RegionError::System(error) if error.is(Errno::ACCESS) || error.is(Errno::PERM) => Code::Refused,
        _ => Code::Error,
    }
}

fn code_of_bus(error: &BusError) -> Code {
    match error {
        BusError::Name { .. }
        | BusError::Service { .. }
        | BusError::Status { .. }
        | BusError::SocketPath { .. } => Code::Usage,
        BusError::NotFound { .. } | BusError::Closed { .. } => Code::NotFound,
        BusError::Timeout { .. } => Code::TimedOut,
        BusError::Foreign { .. }
        | BusError::NotTmpfs { .. }
        | BusError::Refused { .. }
        | BusError::Build { .. } => Code::Refused,
        BusError::Region(error) => code_of_region(error),
        _ => Code::Error,
    }
}

fn code_of_topic(error: &TopicError) -> Code {
    match error {
        TopicError::Name { .. } | TopicError::Option { .. } => Code::Usage,
        TopicError::NotFound { .. } => Code::NotFound,
        TopicError::Differs { .. } | TopicError::TypeMismatch { .. } => Code::Refused,
        TopicError::Region(error) => code_of_region(error),
        TopicError::Bus(error) => code_of_bus(error),
        _ => Code::Error,
    }
}

fn code_of_attach(error: &AttachError) -> Code {
    match error {
        AttachError::GroupName { .. }
        | AttachError::Lane { .. }
        | AttachError::Option { .. }
        | AttachError::Stall { .. }
        | AttachError::StartFuture { .. } => Code::Usage,
        AttachError::Start { .. } | AttachError::StartTime { .. } | AttachError::StartUnknown { .. } => {
            Code::NotFound
        }
        AttachError::KeepsNewest { .. }
        | AttachError::ProducerLimit { .. }
        | AttachError::GroupLimit { .. }
        | AttachError::GroupBusy { .. }
        | AttachError::KeyedMembers { .. }
        | AttachError::NotKeyed { .. }
        | AttachError::GroupKind { .. } => Code::Refused,
        AttachError::Topic(error) => code_of_topic(error),
        _ => Code::Error,
    }
}

fn code_of_mailbox(error: &MailboxError) -> Code {
    match error {
        MailboxError::Name { .. } => Code::Usage,
        MailboxError::Owned { .. } => Code::Refused,
        MailboxError::Attach(error) => code_of_attach(error),
        _ => Code::Error,
    }
}

fn code_of_publish(error: &PublishError) -> Code {
    match error {
        PublishError::Full(_)
        | PublishError::CircuitOpen { .. }
        | PublishError::PairCut(_)
        | PublishError::Throttled { .. } => Code::TimedOut,
        PublishError::Lane { .. } => Code::Usage,
        PublishError::TooLarge { .. } | PublishError::Loop(_) => Code::Refused,
        PublishError::BusClosed { .. } => Code::NotFound,
        PublishError::Region(error) => code_of_region(error),
        _ => Code::Error,
    }
}

fn code_of_receipt(error: &ReceiptError) -> Code {
    match error {
        ReceiptError::NoGroup { .. } | ReceiptError::BusClosed { .. } => Code::NotFound,
        ReceiptError::KeepsNewest { .. } => Code::Refused,
        ReceiptError::Lane { .. } => Code::Usage,
        ReceiptError::Region(error) => code_of_region(error),
        _ => Code::Error,
    }
}

fn code_of_receive(error: &ReceiveError) -> Code {
    match error {
        ReceiveError::BusClosed { .. } => Code::NotFound,
        ReceiveError::Region(error) => code_of_region(error),
        _ => Code::Error,
    }
}

fn code_of_replay(error: &ReplayError) -> Code {
    match &*error.source {
        ReplayRefused::Type { .. } => Code::Refused,
        ReplayRefused::Attach(error) => code_of_attach(error),
        ReplayRefused::Publish(error) => code_of_publish(error),
        _ => Code::Error,
    }
}

macro_rules! failure_from {
    ($($error:ty => $code:path),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::new($code(&error), error)
            }
        }
    )*};
}

failure_from! {
    BusError => code_of_bus,
    TopicError => code_of_topic,
    AttachError => code_of_attach,
    MailboxError => code_of_mailbox,
    PublishError => code_of_publish,
    ReceiveError => code_of_receive,
    ReceiptError => code_of_receipt,
    ReplayError => code_of_replay,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::output(&gone), Failure::Quiet(0)));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Failure::output(&full), Failure::Said(Code::Error, _)));
    }

    #[test]
    fn errors_keep_their_code_through_the_layers() {
        let closed = BusError::Closed { bus: "b".into() };
        let failure = Failure::from(AttachError::from(closed));
        assert!(matches!(failure, Failure::Said(Code::NotFound, _)), "{failure:?}");
    }
}
