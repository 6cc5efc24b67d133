//! Which messages a handler is for, and how it takes them.

use super::work::{Each, InBatches, Source, Work};
use super::{Context, HandlerError};
#[cfg(feature = "signals")]
use super::{Handled, Handlers};
use crate::bus::Bus;
use crate::error::TopicError;
use crate::many::{Incoming, ManyBuilder, ManyError};
use crate::payload::Speak;
use crate::subscriber::{Batch, Start, SubscriberBuilder};
use crate::topic::TopicBuilder;
use std::sync::Arc;
use std::time::Duration;

/// Changes the options of one topic's subscriber.
type Options<T> = Arc<dyn Fn(SubscriberBuilder<T>) -> SubscriberBuilder<T> + Send + Sync>;

/// A handler that has not been started: see [`Bus::on`]. [`crate::handlers::Handlers::add`] starts it.
#[must_use = "a handler does nothing until it is added to `Handlers`"]
pub struct Registration<T> {
    bus: Bus,
    name: String,
    patterns: Vec<String>,
    /// `None`: a group without a name.
    group: Option<String>,
    is_shared: bool,
    start: Start,
    options: Vec<Options<T>>,
    /// One for each thread.
    work: Vec<Work<T>>,
}

impl<T> std::fmt::Debug for Registration<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.name)
            .field("patterns", &self.patterns)
            .field("threads", &self.work.len())
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A function for each message of the topics whose names match, one at a time: within a lane of a topic in the order of
    /// publication, but for those that are tried again. `Ok` acknowledges; an error, or a panic, has the message come again after a
    /// while and makes it a dead letter in the end; [`crate::handlers::reject`] does so at once.
    ///
    /// The group has the name of this process's service unless told otherwise. Two handlers that are to see the same topic need groups of
    /// their own: see [`Registration::group`].
    pub fn on<T, F>(&self, pattern: &str, handle: F) -> Registration<T>
    where
        T: Speak,
        F: FnMut(&mut Incoming<'_, T>, &mut Context) -> Result<(), HandlerError> + Send + 'static,
    {
        Registration::new(self, pattern, vec![Work::Each(Box::new(handle))])
    }

    /// The same in `count` threads at a time, which are members of a shared group: messages begin in order, and end as they like.
    ///
    /// Each thread has a publisher of its own for each topic that it publishes to, and a topic has places for 64 publishers unless
    /// it was made with more ([`crate::topic::TopicBuilder::producers`]).
    pub fn on_concurrently<T, F>(&self, pattern: &str, count: usize, handle: F) -> Registration<T>
    where
        T: Speak,
        F: Fn(&mut Incoming<'_, T>, &mut Context) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        let handle = Arc::new(handle);
        let one = |_| {
            let handle = handle.clone();
            let each: Each<T> = Box::new(move |message, context| handle(message, context));
            Work::Each(each)
        };
        Registration::new(self, pattern, (0..count.max(1)).map(one).collect())
    }

    /// A function for all messages that one topic has at the moment, up to `most`: for work that is done side by side. `Ok`
    /// acknowledges those that it has taken and not settled itself. After an error, or a panic, they come again at once and one by
    /// one; what is returned of a single one is what [`Bus::on`] says.
    pub fn on_batch<T, F>(&self, pattern: &str, most: usize, handle: F) -> Registration<T>
    where
        T: Speak,
        F: FnMut(&mut Batch<'_, T>, &mut Context) -> Result<(), HandlerError> + Send + 'static,
    {
        Registration::new(self, pattern, vec![Work::Batch(InBatches::new(most, Box::new(handle)))])
    }
}

impl<T: Speak> Registration<T> {
    fn new(bus: &Bus, pattern: &str, work: Vec<Work<T>>) -> Self {
        Self {
            bus: bus.clone(),
            name: pattern.to_owned(),
            patterns: vec![pattern.to_owned()],
            group: Some(bus.service().to_owned()),
            is_shared: work.len() > 1,
            start: Start::Latest,
            options: Vec::new(),
            work,
        }
    }

    /// Name of the handler, for dead letters and for what it has done. Default: the pattern.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// These patterns or names instead.
    pub fn patterns(mut self, patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.patterns = patterns.into_iter().map(|pattern| pattern.as_ref().to_owned()).collect();
        self
    }

    /// The group in each topic.
    pub fn group(mut self, name: &str) -> Self {
        self.group = Some(name.to_owned());
        self
    }

    /// A group without a name, which goes with this process. Of one thread only.
    pub fn without_group(mut self) -> Self {
        self.group = None;
        self
    }

    /// The group is shared with other processes, also where this handler has one thread.
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// Where the group begins in topics in which it is new: see [`ManyBuilder::from`].
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// See [`SubscriberBuilder::attempts`].
    pub fn attempts(self, most: u8) -> Self {
        self.each(move |one| one.attempts(most))
    }

    /// See [`SubscriberBuilder::retry_delays`].
    pub fn retry_delays(self, first: Duration, max: Duration) -> Self {
        self.each(move |one| one.retry_delays(first, max))
    }

    /// See [`SubscriberBuilder::ack_wait`].
    pub fn ack_wait(self, wait: Duration) -> Self {
        self.each(move |one| one.ack_wait(wait))
    }

    /// Changes the other options of each topic's subscriber, by its name if need be.
    pub fn each(
        mut self,
        options: impl Fn(SubscriberBuilder<T>) -> SubscriberBuilder<T> + Send + Sync + 'static,
    ) -> Self {
        self.options.push(Arc::new(options));
        self
    }

    /// Adds it to no other handlers and runs it: see [`Handlers::run`].
    ///
    /// # Errors
    /// As [`Handlers::add`] and [`Handlers::run`].
    #[cfg(feature = "signals")]
    pub fn run(self) -> Result<Handled, HandlerError>
    where
        T: Send + 'static,
    {
        let mut handlers = Handlers::new();
        // Before the first message.
        let _caught = super::signals::Caught::new(&handlers.stopper())?;
        handlers.add(self)?;
        match handlers.wait().pop() {
            Some(handled) => Ok(handled),
            None => unreachable!("it was added above"),
        }
    }

    fn builder(&self) -> ManyBuilder<T> {
        let mut builder = self.bus.subscribe_patterns(&self.patterns).from(self.start);
        if let Some(group) = &self.group {
            builder = builder.group(group);
        }
        if self.is_shared {
            builder = builder.shared();
        }
        let (name, options) = (self.name.clone(), self.options.clone());
        builder.each(move |one| options.iter().fold(one.handler(&name), |one, each| each(one)))
    }

    /// A topic that was named and was not joined, without a word, is of another type.
    fn check_type(&self, topic: &str, is_joined: bool) -> Result<(), ManyError> {
        if is_joined || !self.bus.inner().dir().topic_names().iter().any(|name| name == topic) {
            return Ok(());
        }
        match TopicBuilder::<T>::new(self.bus.inner().clone(), topic).create(false).frugal().open() {
            Err(source @ TopicError::TypeMismatch { .. }) => {
                Err(ManyError::Join { topic: topic.to_owned(), source: source.into() })
            }
            _ => Ok(()),
        }
    }

    /// A place in the group for each thread.
    ///
    /// What was named must be there, and of this type; of what a pattern has found, the rest goes on. A group that this process has
    /// already is another handler's, or a subscriber's: the two would not both see the messages.
    #[allow(clippy::type_complexity)]
    pub(super) fn join(mut self) -> Result<(String, Bus, Vec<(Source<T>, Work<T>)>), ManyError> {
        let mut parts = Vec::new();
        for work in std::mem::take(&mut self.work) {
            let mut many = self.builder().join()?;
            let is_named = |topic: &str| self.patterns.iter().any(|name| name == topic);
            if let Some(error) = many.take_report(is_named) {
                return Err(error);
            }
            for topic in &self.patterns {
                self.check_type(topic, many.topics().any(|joined| joined == topic))?;
            }
            parts.push((Source::Many(Box::new(many)), work));
        }
        Ok((self.name, self.bus, parts))
    }
}
