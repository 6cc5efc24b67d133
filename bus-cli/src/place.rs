//! Which bus a command works on, and how it gets there.

use crate::exit::Failure;
use crate::output;
use bus_shm::directory::BusDir;
use bus_shm::inspect::BusView;
use bus_shm::{Bus, BusBuilder, mailbox};
use std::fmt::Display;
use std::path::PathBuf;

/// Flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// Name of the bus
    #[arg(short, long, global = true, env = "SHMBUS_BUS", default_value = "default", value_name = "NAME")]
    pub(crate) bus: String,
    /// Directory below which buses live; it must be shared memory [default: /dev/shm]
    #[arg(long, global = true, env = "SHMBUS_DIR", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Say nothing on standard error but errors and losses
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl Place {
    /// The bus for looking at it. Never creates or hosts anything.
    pub(crate) fn view(&self) -> Result<BusView, Failure> {
        Ok(BusView::open(&self.bus, self.dir.as_deref())?)
    }

    /// Refuses a topic's name before anything is created for it.
    pub(crate) fn check_topic(name: &str) -> Result<(), Failure> {
        bus_core::name::check_topic(name)
            .map_err(|why| bus_shm::TopicError::Name { name: name.to_owned(), why }.into())
    }

    /// The topic that a name means: `@name` is a mailbox. Others are taken as they are.
    pub(crate) fn resolve(name: &str) -> Result<String, Failure> {
        match name.strip_prefix('@') {
            Some(mailbox) => Ok(mailbox::topic_of(mailbox)?),
            None => Ok(name.to_owned()),
        }
    }

    /// The same of a topic that is created if need be, or must not be one of the bus's own.
    pub(crate) fn resolve_checked(name: &str) -> Result<String, Failure> {
        if !name.starts_with('@') {
            Self::check_topic(name)?;
        }
        Self::resolve(name)
    }

    /// Takes part in the bus under a service name, creating it if it is missing and `create`.
    pub(crate) fn join(&self, service: &str, create: bool) -> Result<Bus, Failure> {
        let existed = self.directory()?.path().join("bus").exists();
        let bus = self.builder(service, create).open()?;
        if !existed {
            self.note(format_args!("created bus {:?}", self.bus));
        }
        if bus.is_host() {
            self.note(format_args!(
                "bus {:?} has no supervisor; this process stands in while it runs. `shmbus up` starts one",
                self.bus
            ));
        }
        Ok(bus)
    }

    /// How to take part under a service name.
    pub(crate) fn builder(&self, service: &str, create: bool) -> BusBuilder {
        let builder = Bus::builder(&self.bus).service(service).create(create);
        match &self.dir {
            Some(dir) => builder.dir(dir),
            None => builder,
        }
    }

    /// Where the bus lies.
    pub(crate) fn directory(&self) -> Result<BusDir, Failure> {
        Ok(BusDir::new(&self.bus, self.dir.as_deref())?)
    }

    /// A remark for people, on standard error.
    pub(crate) fn note(&self, message: impl Display) {
        if !self.quiet {
            output::remark(format_args!("note: {message}"));
        }
    }
}
