//! What can be set, by a flag or by an environment variable.

use bus_shm::Bus;
use std::thread::JoinHandle;
use std::time::Duration;

const USAGE: &str = "\
options, the same for all five agents:
  --bus NAME     the bus they meet on; or SHMBUS_BUS (default: pipeline)
  --requests N   how many requests; or PIPELINE_REQUESTS (default: 10000)
  --work-us U    simulated work of reasoner and actor in microseconds; or PIPELINE_WORK_US (default: 1000)
  --window W     requests under way at a time; or PIPELINE_WINDOW (default: 64)
  --json         report as JSON
  --until-eof    take the bus down when standard input ends: for agents that a parent process starts";

/// Most messages that an agent takes in hand at a time. Few enough that even with all of them in hand a topic of default
/// size has room for more.
const BATCH_MAX: usize = 256;

/// Settings of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Name of the bus.
    pub(crate) bus: String,
    /// Number of requests.
    pub(crate) requests: u64,
    /// Simulated work of those who work.
    pub(crate) work: Duration,
    /// Requests under way at a time.
    pub(crate) window: u64,
    /// Report as JSON.
    pub(crate) json: bool,
    /// End, and the bus with it, when standard input ends.
    pub(crate) until_eof: bool,
}

impl Options {
    /// Takes them from flags, and what is not given from the environment.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            bus: std::env::var("SHMBUS_BUS").unwrap_or_else(|_| "pipeline".into()),
            requests: from_environment("PIPELINE_REQUESTS", 10_000)?,
            work: Duration::from_micros(from_environment("PIPELINE_WORK_US", 1_000)?),
            window: from_environment("PIPELINE_WINDOW", 64)?,
            json: false,
            until_eof: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--bus" => options.bus = value()?,
                "--requests" => options.requests = number(&flag, &value()?)?,
                "--work-us" => options.work = Duration::from_micros(number(&flag, &value()?)?),
                "--window" => options.window = number(&flag, &value()?)?,
                "--json" => options.json = true,
                "--until-eof" => options.until_eof = true,
                other => return Err(format!("{other:?} is not an option\n{USAGE}")),
            }
        }
        if options.window == 0 {
            return Err("--window 0 would let no request go".into());
        }
        Ok(options)
    }

    /// Most messages that an agent takes in hand at a time.
    pub(crate) fn batch(&self) -> usize {
        usize::try_from(self.window).map_or(BATCH_MAX, |window| window.min(BATCH_MAX))
    }
}

fn from_environment(variable: &str, default: u64) -> Result<u64, String> {
    std::env::var(variable).map_or(Ok(default), |text| number(variable, &text))
}

fn number(what: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{what}: {text:?} is not a number\n{USAGE}"))
}

/// Watches standard input in a thread. The parent holds its other end, so it ends when the parent does, however that
/// comes about; with the bus gone every agent ends too.
pub(crate) fn take_bus_down_at_eof(options: &Options) -> JoinHandle<()> {
    let bus = options.bus.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        if let Ok(bus) = Bus::builder(&bus).service("cleanup").create(false).open() {
            let _ = bus.down(true);
        }
    })
}
