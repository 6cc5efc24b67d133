//! What the caller of a bench may choose.

use std::path::PathBuf;

use crate::cores::Pinning;
use crate::error::{BenchError, Result};
use crate::spec::{IN_PLACE_ONLY_BYTES, PAYLOAD_BYTES, Scenario, WaitMode};

/// What to measure and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the worker processes run.
    pub pin_cores: Pinning,
    /// All scenarios with all payload sizes, ways of waiting and settings, in at most three minutes.
    pub full: bool,
    /// Scenarios by name; empty for all.
    pub scenarios: Vec<String>,
    /// Payload sizes in bytes; empty for the default set.
    pub payloads: Vec<usize>,
    /// How consumers wait where the scenario does not say; `None` for spinning (and, with `full`, adaptive too).
    pub wait: Option<WaitMode>,
    /// A standard HDR log is written here.
    pub hdr: Option<PathBuf>,
    /// Time for everything, in seconds; ignored with `full`, which has its own.
    pub seconds: f64,
    /// A figure counts as missed only when it is missed by this factor; 1 for what is aimed at, 2 for what would be a collapse.
    pub slack: f64,
    /// Directory below which the private bus is created; it should be memory.
    pub directory: PathBuf,
    /// Called with the name of each scenario before it begins, never while anything is being measured.
    pub progress: Option<fn(&str)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pin_cores: Pinning::Chosen,
            full: false,
            scenarios: Vec::new(),
            payloads: Vec::new(),
            wait: None,
            hdr: None,
            seconds: 19.5,
            slack: 1.0,
            directory: PathBuf::from("/dev/shm"),
            progress: None,
        }
    }
}

impl Options {
    /// The scenarios that were chosen, in the order of the report.
    pub(crate) fn chosen(&self) -> Result<Vec<Scenario>> {
        for name in &self.scenarios {
            if Scenario::from_name(name).is_none() {
                let known: Vec<&str> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
                return Err(BenchError::UnknownScenario { name: name.clone(), known: known.join(", ") });
            }
        }
        let wanted = |scenario: &Scenario| match self.scenarios.as_slice() {
            // What single steps cost explains figures and is none itself.
            [] => self.full || *scenario != Scenario::Cost,
            names => names.iter().any(|name| name == scenario.name()),
        };
        Ok(Scenario::ALL.into_iter().filter(wanted).collect())
    }

    /// The payload sizes that were chosen, or `otherwise`.
    pub(crate) fn payloads_or(&self, otherwise: &[usize]) -> Result<Vec<usize>> {
        let offered: Vec<usize> =
            PAYLOAD_BYTES.into_iter().filter(|bytes| *bytes < IN_PLACE_ONLY_BYTES).collect();
        self.payloads_of(&offered, otherwise)
    }

    /// The same for a scenario that offers these sizes.
    pub(crate) fn payloads_of(&self, offered: &[usize], otherwise: &[usize]) -> Result<Vec<usize>> {
        if let Some(&bytes) = self.payloads.iter().find(|bytes| !offered.contains(bytes)) {
            return Err(BenchError::Payload { bytes, offered: offered.to_vec() });
        }
        let chosen = if self.payloads.is_empty() { otherwise } else { &self.payloads };
        Ok(chosen.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_sizes_are_refused_with_what_exists() {
        let options = Options { scenarios: vec!["speed".into()], ..Options::default() };
        assert!(options.chosen().unwrap_err().to_string().contains("latency, paced"));
        let options = Options { payloads: vec![100], ..Options::default() };
        assert!(options.payloads_or(&[64]).unwrap_err().to_string().contains("[64, 1024, 65536]"));
    }

    #[test]
    fn the_order_is_that_of_the_report() {
        let options = Options { scenarios: vec!["wake".into(), "latency".into()], ..Options::default() };
        assert_eq!(options.chosen().unwrap(), vec![Scenario::Latency, Scenario::Wake]);
        assert_eq!(Options::default().chosen().unwrap().len(), 9);
    }
}
